//! What cnitool says of mistakes in words and variables: what is wrong, and with what.

use serde_json::json;

use crate::cnitool::{NETNS, network, recorders};
use crate::lab::Lab;

/// Two networks of one plugin that records its calls.
fn two() -> Lab {
    let lab = recorders();
    for name in ["beta", "alpha"] {
        network(&lab, &format!("{name}.conf"), &json!({"cniVersion": "1.1.0", "name": name, "type": "one"}));
    }
    lab
}

#[test]
fn better_a_network_that_is_not_there_is_answered_with_those_that_are() {
    let lab = two();
    let text = "no net configuration with name \"alph\" in /etc/cni/net.d; there are: alpha, beta";
    for verb in ["add", "check", "del"] {
        lab.cnitool(&[verb, "alph", NETNS]).run().dies(text);
        let swapped = format!(
            "no net configuration with name \"{NETNS}\" in /etc/cni/net.d; the network's name comes first, then the namespace"
        );
        lab.cnitool(&[verb, NETNS, "alpha"]).run().dies(&swapped);
    }
    for verb in ["gc", "status"] {
        lab.cnitool(&[verb, "alph"]).run().dies(text);
    }
    let missing =
        "no net configurations found in /nowhere; there is no such directory; NETCONFPATH names the directory";
    for verb in ["add", "check", "del", "gc", "status"] {
        lab.cnitool(&[verb, "alpha", NETNS]).env("NETCONFPATH", "/nowhere").run().dies_with(&[missing]);
    }
    assert!(!lab.exists("/run/lab/order"), "no plugin runs");
}

#[test]
fn better_a_mistake_in_cap_args_names_the_variable() {
    let lab = two();
    for (text, error) in
        [("{\"portMappings\":", "unexpected end of JSON input"), ("[]", "json: cannot unmarshal array")]
    {
        for words in
            [&["add", "alpha", NETNS][..], &["check", "alpha", NETNS], &["del", "alpha", NETNS], &["gc", "alpha"]]
        {
            let part = format!("invalid CAP_ARGS: {error}");
            lab.cnitool(words).env("CAP_ARGS", text).run().dies_with(&[&part]);
        }
    }
    let mappings = r#"{"portMappings": [{"hostPort": 80, "containerPort": 80}], "mac": "02:00:00:00:00:01"}"#;
    let capable = json!({"mac": true});
    network(&lab, "c.conf", &json!({"cniVersion": "1.1.0", "name": "c", "type": "one", "capabilities": capable}));
    let added = lab.cnitool(&["add", "c", NETNS]).env("CAP_ARGS", mappings).run().success();
    let warning = "one says ADD\nwarning: CAP_ARGS: no plugin of the network has the capability \"portMappings\"\n";
    assert_eq!(added.stderr, warning);
    assert_eq!(lab.cnitool(&["add", "c", NETNS]).run().success().stderr, "one says ADD\n");
}

#[test]
fn better_a_namespace_that_is_meant_by_its_name_is_pointed_at() {
    let lab = two();
    network(&lab, "lo.conf", &json!({"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}));
    lab.netns("ns1");
    let warning = "warning: there is no \"ns1\" in the working directory; did you mean /run/netns/ns1?\n";
    let failed =
        lab.cnitool(&["add", "lo", "ns1"]).run().dies_with(&["failed to Statfs \"/ns1\": no such file or dir"]);
    assert!(failed.stderr.starts_with(warning), "{failed:#?}");
    assert_eq!(lab.cnitool(&["del", "lo", "ns1"]).run().success().stderr, warning);
    assert_eq!(lab.cnitool(&["del", "lo", "ns2"]).run().success().stderr, "", "there is none of this name");
    assert_eq!(lab.cnitool(&["gc", "lo", "ns1"]).run().success().stderr, "", "it is of no use there");
    let below = lab.cnitool(&["add", "lo", "ns1"]).folder("/run/netns").run().success();
    assert_eq!(below.stderr, "");
    for verb in ["add", "check", "del"] {
        lab.cnitool(&[verb, "lo", ""]).run().dies("the path of the namespace is empty");
    }
    lab.cnitool(&["status", "lo", ""]).run().silent();
}

#[test]
fn better_a_plugin_that_is_not_found_has_a_cause() {
    let lab = two();
    lab.sh("mkdir -p /opt/folder/one /opt/link /opt/bare; ln -s /nowhere/one /opt/link/one").success();
    for (path, cause) in [
        ("/opt/nowhere", "; no such directory"),
        ("/opt/folder", "; /opt/folder/one is no regular file"),
        ("/opt/link", "; /opt/link/one is a link that leads nowhere"),
        ("/opt/bare", ""),
        ("/opt/nowhere:/opt/bare", ""),
    ] {
        let path_in_words = path.replace(':', " ");
        let text = format!(
            "plugin type=\"one\" name=\"alpha\" failed (add): failed to find plugin \"one\" in path [{path_in_words}]{cause}"
        );
        lab.cnitool(&["add", "alpha", NETNS]).env("CNI_PATH", path).run().dies(&text);
    }
}

#[test]
fn better_a_check_of_what_was_never_added_says_so() {
    let lab = two();
    network(&lab, "lo.conf", &json!({"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}));
    lab.netns("ns1");
    let warned = |ifname: &str| lab.cnitool(&["check", "lo", NETNS, "-i", ifname]).run().stderr;
    let cause = "warning: no result of an add of lo cnitool-";
    assert!(warned("eth0").starts_with(cause), "{}", warned("eth0"));
    lab.cnitool(&["add", "lo", NETNS]).run().success();
    assert_eq!(warned("eth0"), "");
    lab.sh("ip -n ns1 link set lo down").success();
    assert!(!warned("eth0").contains("warning"), "{}", warned("eth0"));
    assert!(warned("eth1").starts_with(cause), "{}", warned("eth1"));
}

#[test]
fn better_help_about_an_unknown_word_is_an_error() {
    let lab = two();
    let refused = lab.cnitool(&["help", "nonsense"]).run();
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:#?}");
    assert!(refused.stderr.ends_with("\nunknown command \"nonsense\" for \"cnitool\"\n"), "{refused:#?}");
    for words in [&["help"][..], &["help", "help"], &["help", "gc"]] {
        assert!(lab.cnitool(words).run().success().stdout.contains("Flags:\n"), "{words:?}");
    }
}

#[test]
fn better_dry_run_takes_a_value() {
    let lab = two();
    lab.netns("ns1");
    lab.cnitool(&["add", "alpha", NETNS]).run().success();
    for option in ["--dry-run", "--dry-run=true", "--dry-run=1"] {
        let told = lab.cnitool(&["gc", option, "alpha"]).run().success().stdout;
        assert!(told.ends_with("\n1 attachment would be ended\n"), "{option}: {told}");
    }
    let text = "invalid argument \"maybe\" for \"--dry-run\" flag: it is neither true nor false";
    lab.cnitool(&["gc", "alpha", "--dry-run=maybe"]).run().dies_with(&[text]);
    lab.cnitool(&["del", "alpha", NETNS, "--dry-run=false"]).run().dies_with(&["unknown flag: --dry-run"]);
    let ended = lab.cnitool(&["gc", "alpha", "--dry-run=false"]).run().success().stderr;
    assert!(ended.contains("ended alpha "), "{ended}");
}
