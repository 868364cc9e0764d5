//! cnitool: its command line, what it hands to plugins, what it keeps, how it fails (`cnitool.md`).

use serde_json::{Value, json};

use crate::lab::{Call, Lab, bridge_config};

pub const NETNS: &str = "/var/run/netns/ns1";

/// A plugin of the user's: keeps what it was given in `/run/lab/VERB.TYPE`, notes the order, answers with its name.
const RECORDER: &str = r#"#!/bin/sh
me=$(basename $0)
echo "$CNI_COMMAND $me" >> /run/lab/order
{ echo "$CNI_CONTAINERID|$CNI_NETNS|$CNI_IFNAME|$CNI_ARGS|$CNI_PATH"; cat; } > /run/lab/$CNI_COMMAND.$me
echo "$me says $CNI_COMMAND" >&2
[ $CNI_COMMAND != ADD ] || echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "'$me'"}], "unknown": 1}'
"#;

/// A host with the recorders `one` and `two` among the plugins.
pub fn recorders() -> Lab {
    let lab = Lab::new();
    for name in ["one", "two"] {
        lab.executable(&format!("/opt/cni/bin/{name}"), RECORDER);
    }
    lab
}

pub fn network(lab: &Lab, file: &str, config: &Value) {
    lab.write(&format!("/etc/cni/net.d/{file}"), config.to_string());
}

/// Environment and standard input of a recorded call.
pub fn recorded(lab: &Lab, call: &str) -> (String, String) {
    let text = lab.read(&format!("/run/lab/{call}"));
    let (environment, stdin) = text.split_once('\n').unwrap();
    (environment.to_string(), stdin.to_string())
}

#[test]
fn plugins_get_sorted_compact_json_with_name_version_and_the_previous_result() {
    let lab = recorders();
    let plugins = json!([{"type": "one", "zeta": "<&>", "alpha": {"b": 1, "a": 1.0}}, {"type": "two", "name": "own"}]);
    network(&lab, "n.conflist", &json!({"cniVersion": "1.0.0", "name": "n", "plugins": plugins}));
    let outcome = lab.cnitool(&["add", "n", NETNS]).run().success();
    let text = "{\n    \"cniVersion\": \"1.0.0\",\n    \"interfaces\": [\n        {\n            \"name\": \"two\"\n        }\n    ]\n}";
    assert_eq!(outcome.stdout, text);
    assert_eq!(outcome.stderr, "one says ADD\ntwo says ADD\n");
    let (environment, stdin) = recorded(&lab, "ADD.one");
    let container = container_id(&lab, NETNS);
    assert_eq!(environment, format!("{container}|{NETNS}|eth0||/opt/cni/bin"));
    let expected =
        r#"{"alpha":{"a":1.0,"b":1},"cniVersion":"1.0.0","name":"n","type":"one","zeta":"\u003c\u0026\u003e"}"#;
    // Go writes 1.0 as 1; keeping numbers as they are written is the better thing.
    assert!(stdin == expected || stdin == expected.replace("1.0,", "1,"), "{stdin}");
    let previous = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"one"}]}"#;
    let expected = format!(r#"{{"cniVersion":"1.0.0","name":"n","prevResult":{previous},"type":"two"}}"#);
    assert_eq!(recorded(&lab, "ADD.two").1, expected);
}

/// The container id that cnitool derives, computed by coreutils.
fn container_id(lab: &Lab, netns: &str) -> String {
    let sum = lab.sh(&format!("printf %s {netns} | sha512sum")).success().stdout;
    format!("cnitool-{}", &sum[..20])
}

#[test]
fn the_container_id_is_the_hash_of_the_absolute_path() {
    let lab = recorders();
    network(&lab, "n.conf", &json!({"cniVersion": "1.0.0", "name": "n", "type": "one"}));
    assert_eq!(container_id(&lab, "/var/run/netns/testing"), "cnitool-77383ca0a0715733ca6f");
    for path in ["/var/run/netns/ns1", "/var//run/./netns/x/../ns1", "netns/ns1"] {
        let call = lab.cnitool(&["add", "n", path]).folder("/run");
        call.run().success();
        let absolute = if path.starts_with('/') { NETNS } else { "/run/netns/ns1" };
        let expected = format!("{}|{absolute}|eth0||/opt/cni/bin", container_id(&lab, absolute));
        assert_eq!(recorded(&lab, "ADD.one").0, expected, "{path}");
    }
}

#[test]
fn the_interface_name_comes_from_the_option_then_the_environment_then_is_eth0() {
    let lab = recorders();
    network(&lab, "n.conf", &json!({"cniVersion": "1.0.0", "name": "n", "type": "one"}));
    let table: [(&[&str], Option<&str>, &str); 8] = [
        (&["add", "n", NETNS], None, "eth0"),
        (&["add", "n", NETNS], Some("env0"), "env0"),
        (&["add", "n", NETNS], Some(""), "eth0"),
        (&["add", "n", NETNS, "-i", "opt0"], Some("env0"), "opt0"),
        (&["add", "-i", "opt0", "n", NETNS], None, "opt0"),
        (&["-i", "opt0", "add", "n", NETNS], None, "opt0"),
        (&["add", "n", NETNS, "--ifname", "opt0"], None, "opt0"),
        (&["add", "n", "--ifname=opt0", NETNS], None, "opt0"),
    ];
    for (words, variable, expected) in table {
        let call = lab.cnitool(words);
        let call = if let Some(value) = variable { call.env("CNI_IFNAME", value) } else { call };
        call.run().success();
        assert_eq!(recorded(&lab, "ADD.one").0.split('|').nth(2), Some(expected), "{words:?} {variable:?}");
    }
}

#[test]
fn cni_args_are_parsed_strictly_and_handed_on_in_order() {
    let lab = recorders();
    network(&lab, "n.conf", &json!({"cniVersion": "1.0.0", "name": "n", "type": "one"}));
    lab.cnitool(&["add", "n", NETNS]).args("B=2;A=1").run().success();
    assert_eq!(recorded(&lab, "ADD.one").0.split('|').nth(3), Some("B=2;A=1"));
    for (args, pair) in [("A", "A"), ("A=1;", ""), ("A=", "A="), ("=1", "=1"), ("A=1=2", "A=1=2")] {
        let text = format!("invalid CNI_ARGS pair \"{pair}\"");
        lab.cnitool(&["add", "n", NETNS]).args(args).run().dies_with(&[&text]);
    }
}

#[test]
fn capability_arguments_reach_the_plugins_that_declare_them() {
    let lab = recorders();
    let plugins =
        json!([{"type": "one", "capabilities": {"mac": true, "ips": false, "bandwidth": true}}, {"type": "two"}]);
    network(&lab, "n.conflist", &json!({"cniVersion": "1.0.0", "name": "n", "plugins": plugins}));
    let args = r#"{"mac": "02:00:00:00:00:01", "ips": ["10.1.2.3/24"], "other": 1}"#;
    for verb in ["add", "check", "del"] {
        lab.cnitool(&[verb, "n", NETNS]).env("CAP_ARGS", args).run().success();
        let stdin: Value = serde_json::from_str(&recorded(&lab, &format!("{}.one", verb.to_uppercase())).1).unwrap();
        assert_eq!(stdin["runtimeConfig"], json!({"mac": "02:00:00:00:00:01"}), "{verb}");
        assert!(!recorded(&lab, &format!("{}.two", verb.to_uppercase())).1.contains("runtimeConfig"));
    }
    let outcome = lab.cnitool(&["add", "n", NETNS]).env("CAP_ARGS", "[1]").run();
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:#?}");
}

#[test]
fn the_cache_file_has_the_references_bytes() {
    let lab = recorders();
    let text = "{ \"cniVersion\": \"1.0.0\", \"name\": \"n\",\n  \"plugins\": [ {\"type\": \"one\", \"capabilities\": {\"mac\": true}} ] }\n";
    lab.write("/etc/cni/net.d/n.conflist", text);
    let call = lab.cnitool(&["add", "n", NETNS]).args("B=2;A=1").env("CAP_ARGS", r#"{"z": 1, "mac": "x"}"#);
    call.run().success();
    let id = container_id(&lab, NETNS);
    assert_eq!(lab.list("/var/lib/cni/results"), [format!("n-{id}-eth0")]);
    let config = lab.sh("base64 -w0 /etc/cni/net.d/n.conflist").success().stdout;
    let expected = format!(
        "{{\"kind\":\"cniCacheV1\",\"containerId\":\"{id}\",\"config\":\"{config}\",\"ifName\":\"eth0\",\"networkName\":\"n\",\
         \"netns\":\"{NETNS}\",\"cniArgs\":[[\"B\",\"2\"],[\"A\",\"1\"]],\"capabilityArgs\":{{\"mac\":\"x\",\"z\":1}},\
         \"result\":{{\"cniVersion\":\"1.0.0\",\"interfaces\":[{{\"name\":\"one\"}}]}}}}"
    );
    assert_eq!(lab.read(&format!("/var/lib/cni/results/n-{id}-eth0")), expected);
    let modes = lab.ok(&format!("stat -c %a /var/lib/cni/results /var/lib/cni/results/n-{id}-eth0"));
    assert_eq!(modes, "700\n600\n");
    lab.cnitool(&["del", "n", NETNS]).run().silent();
    assert_eq!(lab.list("/var/lib/cni/results"), [""; 0]);
}

#[test]
fn a_single_configuration_is_cached_as_the_list_it_stands_for() {
    let lab = recorders();
    network(&lab, "n.conf", &json!({"type": "one", "name": "n", "cniVersion": "1.0.0", "a": 1}));
    lab.cnitool(&["add", "n", NETNS]).run().success();
    let file = format!("/var/lib/cni/results/n-{}-eth0", container_id(&lab, NETNS));
    let cached: Value = serde_json::from_str(&lab.read(&file)).unwrap();
    lab.write("/run/lab/encoded", cached["config"].as_str().unwrap());
    let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"a":1,"cniVersion":"1.0.0","name":"n","type":"one"}]}"#;
    assert_eq!(lab.ok("base64 -d /run/lab/encoded"), list);
    assert!(cached.get("cniArgs").is_none() && cached.get("capabilityArgs").is_none(), "{cached}");
}

#[test]
fn del_goes_backwards_and_check_and_del_get_the_cached_result() {
    let lab = recorders();
    let plugins = json!([{"type": "one"}, {"type": "two"}]);
    network(&lab, "n.conflist", &json!({"cniVersion": "1.0.0", "name": "n", "plugins": plugins}));
    for verb in ["add", "check", "del", "del"] {
        lab.cnitool(&[verb, "n", NETNS]).run().success();
    }
    let order = "ADD one\nADD two\nCHECK one\nCHECK two\nDEL two\nDEL one\nDEL two\nDEL one\n";
    assert_eq!(lab.read("/run/lab/order"), order);
    let previous = r#""prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"two"}]}"#;
    assert!(recorded(&lab, "CHECK.one").1.contains(previous));
    assert!(!recorded(&lab, "DEL.one").1.contains("prevResult"), "the second DEL has no cache");
}

#[test]
fn del_below_0_4_0_gets_no_previous_result_and_check_is_refused() {
    let lab = recorders();
    network(
        &lab,
        "n.conflist",
        &json!({"cniVersion": "0.3.1", "name": "n", "plugins": [{"type": "one"}], "disableCheck": true}),
    );
    lab.executable("/opt/cni/bin/one", &RECORDER.replace("1.0.0", "0.3.1"));
    lab.cnitool(&["add", "n", NETNS]).run().success();
    let text = "configuration version \"0.3.1\" does not support the CHECK command";
    lab.cnitool(&["check", "n", NETNS]).run().dies_with(&[text]);
    lab.cnitool(&["del", "n", NETNS]).run().silent();
    assert!(!recorded(&lab, "DEL.one").1.contains("prevResult"));
}

#[test]
fn a_disabled_check_runs_nothing() {
    let lab = recorders();
    for value in [json!(true), json!("TRUE")] {
        network(
            &lab,
            "n.conflist",
            &json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "one"}], "disableCheck": value}),
        );
        lab.cnitool(&["check", "n", NETNS]).run().silent();
        assert!(!lab.exists("/run/lab/order"));
    }
}

#[test]
fn a_corrupted_cache_fails_check_and_not_del() {
    let lab = recorders();
    network(&lab, "n.conflist", &json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "one"}]}));
    lab.cnitool(&["add", "n", NETNS]).run().success();
    let file = format!("/var/lib/cni/results/n-{}-eth0", container_id(&lab, NETNS));
    for content in ["", "{", "garbage"] {
        lab.write(&file, content);
        lab.cnitool(&["check", "n", NETNS]).run().dies_with(&["failed to get network \"n\" cached result: "]);
        lab.cnitool(&["del", "n", NETNS]).run().silent();
        assert!(!lab.exists(&file));
    }
    lab.write(&file, r#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.1.2.3/24"}]}"#);
    lab.cnitool(&["check", "n", NETNS]).run().silent();
    let previous = r#""prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}"#;
    assert!(recorded(&lab, "CHECK.one").1.contains(previous), "the legacy format is read and converted");
}

#[test]
fn failures_of_plugins_name_the_plugin_and_keep_its_words() {
    let lab = Lab::new();
    network(&lab, "n.conf", &bridge_config(&json!({"name": "n"})));
    let text = "plugin type=\"bridge\" name=\"n\" failed (add): failed to open netns \"/var/run/netns/ns1\": \
                failed to Statfs \"/var/run/netns/ns1\": no such file or directory";
    let outcome = lab.cnitool(&["add", "n", NETNS]).run().dies(text);
    assert_eq!(outcome.stdout, "");
    assert_eq!(lab.list("/var/lib/cni/results"), [""; 0]);
}

#[test]
fn plugins_that_cannot_be_found_are_named_with_the_path() {
    let lab = Lab::new();
    network(&lab, "n.conflist", &json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "nope"}]}));
    let text = "plugin type=\"nope\" failed (add): failed to find plugin \"nope\" in path [/opt/cni/bin]";
    lab.cnitool(&["add", "n", NETNS]).run().dies(text);
    network(&lab, "n.conflist", &json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "../bin/static"}]}));
    lab.cnitool(&["add", "n", NETNS]).run().dies_with(&["invalid plugin name: ../bin/static"]);
}

#[test]
fn names_are_checked_before_a_plugin_runs() {
    let lab = recorders();
    network(&lab, "n.conf", &json!({"cniVersion": "1.0.0", "name": "n", "type": "one"}));
    let outcome = lab.cnitool(&["add", "n", NETNS, "-i", "0123456789abcdef"]).run();
    outcome.dies_with(&["plugin type=\"one\" name=\"n\" failed (add): interface name is too long"]);
    network(&lab, "b.conf", &json!({"cniVersion": "1.0.0", "name": "a b", "type": "one"}));
    lab.cnitool(&["add", "a b", NETNS]).run().dies_with(&["invalid characters found in network name"]);
    assert!(!lab.exists("/run/lab/order"));
}

#[test]
fn wrong_command_lines_are_errors_with_usage() {
    let lab = recorders();
    for words in [vec!["add"], vec!["add", "n"], vec!["foo", "n", NETNS], vec!["add", "n", NETNS, "--nonsense"]] {
        let outcome = lab.cnitool(&words).run();
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{words:?}: {outcome:#?}");
        assert!(outcome.stderr.contains("cnitool"), "{outcome:#?}");
    }
    let help = lab.cnitool(&["--help"]).run().success();
    for word in ["add", "check", "del", "gc", "status", "list", "--ifname", "CNI_IFNAME"] {
        assert!(help.stdout.contains(word), "{word} is not in {help:#?}");
    }
    for verb in ["add", "check", "del", "gc", "status", "list"] {
        let text = lab.cnitool(&[verb, "-h"]).run().success().stdout;
        assert!(text.contains(&format!("Usage:\n  cnitool {verb} ")), "{text}");
        assert_eq!(text, lab.cnitool(&["help", verb]).run().success().stdout);
        assert_eq!(text.contains("--valid"), verb == "gc");
    }
}

#[test]
fn better_without_cni_path_the_built_in_plugins_are_used() {
    let lab = Lab::new();
    lab.netns("ns1");
    network(&lab, "n.conf", &bridge_config(&json!({"name": "n", "isGateway": true})));
    for verb in ["add", "check", "del"] {
        Call::new(&lab, "/opt/cni/bin/cnitool").args_list(&[verb, "n", NETNS]).run().success();
    }
    assert_eq!((lab.reserved("n").len(), lab.veths().len()), (0, 0));
}

#[test]
fn better_results_are_converted_to_the_lists_version() {
    let lab = recorders();
    lab.executable("/opt/cni/bin/one", &RECORDER.replace("1.0.0", "0.4.0"));
    network(
        &lab,
        "n.conflist",
        &json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "one"}, {"type": "two"}]}),
    );
    lab.cnitool(&["add", "n", NETNS]).run().success();
    assert!(
        recorded(&lab, "ADD.two").1.contains(r#""prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"one"}]}"#)
    );
}

#[test]
fn a_list_without_a_version_says_so_and_takes_what_the_plugins_answer() {
    let lab = recorders();
    network(&lab, "n.conflist", &json!({"name": "n", "plugins": [{"type": "one"}, {"type": "two"}]}));
    let result = lab.cnitool(&["add", "n", NETNS]).run().result();
    assert_eq!(result, json!({"cniVersion": "1.0.0", "interfaces": [{"name": "two"}]}));
    let stdin: Value = serde_json::from_str(&recorded(&lab, "ADD.two").1).unwrap();
    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "one"}]});
    assert_eq!((&stdin["cniVersion"], &stdin["prevResult"]), (&json!(""), &previous));
    lab.cnitool(&["del", "n", NETNS]).run().silent();
}

#[test]
fn better_del_carries_on_past_a_failed_plugin_and_keeps_the_cache() {
    let lab = recorders();
    network(
        &lab,
        "n.conflist",
        &json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "one"}, {"type": "two"}]}),
    );
    lab.cnitool(&["add", "n", NETNS]).run().success();
    lab.executable("/opt/cni/bin/two", "#!/bin/sh\ncat >/dev/null\necho '{\"code\":11,\"msg\":\"not now\"}'; exit 1\n");
    lab.cnitool(&["del", "n", NETNS]).run().dies_with(&["plugin type=\"two\" failed (delete): not now"]);
    assert!(lab.read("/run/lab/order").ends_with("DEL one\n"));
    assert_eq!(lab.list("/var/lib/cni/results").len(), 1);
}

#[test]
fn a_chain_of_a_bridge_and_the_users_own_plugin() {
    let lab = recorders();
    lab.netns("ns1");
    let pass = "#!/bin/sh\n[ $CNI_COMMAND = ADD ] && sed 's/.*\"prevResult\":\\(.*\\),\"type\":\"pass\".*/\\1/' || cat >/dev/null\n";
    lab.executable("/opt/cni/bin/pass", pass);
    let plugins = json!([bridge_config(&json!({"isGateway": true, "ipMasq": true})), {"type": "pass"}]);
    network(&lab, "n.conflist", &json!({"cniVersion": "1.0.0", "name": "n", "plugins": plugins}));
    let result = lab.cnitool(&["add", "n", NETNS]).run().result();
    assert_eq!(result["ips"][0]["address"], "10.1.2.2/24");
    lab.cnitool(&["check", "n", NETNS]).run().silent();
    lab.cnitool(&["del", "n", NETNS]).run().silent();
    lab.cnitool(&["del", "n", NETNS]).run().silent();
    assert_eq!((lab.reserved("n").len(), lab.veths().len(), lab.rules().len()), (0, 0, 0));
}
