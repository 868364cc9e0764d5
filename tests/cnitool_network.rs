//! cnitool: what concerns networks as a whole: gc, status, list (`cnitool.md` 7).

use serde_json::{Value, json};

use crate::cnitool::{NETNS, network, recorded, recorders};
use crate::gc_command::{all_in_sight, container};
use crate::lab::{Call, Lab, bridge_config, wait_for};

const RESULTS: &str = "/var/lib/cni/results";

/// A recorder that fails with a CNI error on one verb.
fn failing(lab: &Lab, name: &str, verb: &str) {
    lab.executable(
        &format!("/opt/cni/bin/{name}"),
        &format!(
            "#!/bin/sh\ncat >/dev/null\necho \"$CNI_COMMAND $(basename $0)\" >> /run/lab/order\n\
             [ $CNI_COMMAND = {verb} ] && {{ echo '{{\"code\": 50, \"msg\": \"no\", \"details\": \"{name}\"}}'; exit 1; }}\n\
             [ $CNI_COMMAND != ADD ] || echo '{{}}'\n"
        ),
    );
}

fn two(lab: &Lab, changes: &Value) {
    let list = json!({"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "one"}, {"type": "two"}]});
    network(lab, "n.conflist", &crate::lab::merged(list, changes));
}

fn order(lab: &Lab) -> Vec<String> {
    let calls = if lab.exists("/run/lab/order") { lab.read("/run/lab/order") } else { String::new() };
    lab.sh("rm -f /run/lab/order").success();
    calls.lines().map(str::to_string).collect()
}

/// Adds interfaces and forgets the calls; gives the container's id.
fn added(lab: &Lab, network: &str, ifnames: &[&str]) -> String {
    for ifname in ifnames {
        lab.cnitool(&["add", network, NETNS, "-i", ifname]).args("K=V").run().success();
    }
    order(lab);
    recorded(lab, "ADD.one").0.split('|').next().unwrap().to_string()
}

#[test]
fn gc_deletes_every_cached_attachment_and_then_asks_the_plugins() {
    let lab = recorders();
    two(&lab, &json!({}));
    network(&lab, "m.conf", &json!({"cniVersion": "1.1.0", "name": "m", "type": "one"}));
    added(&lab, "m", &["eth0"]);
    let id = added(&lab, "n", &["eth0", "eth1"]);
    lab.cnitool(&["gc", "n", "/run/netns/whatever"]).run().success();
    let calls = ["DEL two", "DEL one", "DEL two", "DEL one", "GC one", "GC two"];
    assert_eq!(order(&lab), calls);
    assert_eq!(lab.list(RESULTS), [format!("m-{id}-eth0")]);
    let (environment, stdin) = recorded(&lab, "DEL.one");
    assert_eq!(environment, format!("{id}|{NETNS}|eth1|K=V|/opt/cni/bin"), "what was cached, not what is given now");
    assert!(stdin.contains("prevResult"), "{stdin}");
    let gc = recorded(&lab, "GC.one");
    assert_eq!(gc, ("||||/opt/cni/bin".to_string(), r#"{"cniVersion":"1.1.0","name":"n","type":"one"}"#.to_string()));
}

#[test]
fn gc_of_older_networks_only_deletes_and_a_disabled_one_does_nothing() {
    let lab = recorders();
    two(&lab, &json!({"disableGC": true}));
    added(&lab, "n", &["eth0"]);
    lab.cnitool(&["gc", "n", NETNS]).run().silent();
    assert_eq!((order(&lab).len(), lab.list(RESULTS).len()), (0, 1));
    two(&lab, &json!({"cniVersion": "1.0.0"}));
    lab.cnitool(&["gc", "n", NETNS]).run().success();
    assert_eq!(order(&lab), ["DEL two", "DEL one"]);
    assert_eq!(lab.list(RESULTS), [""; 0]);
}

#[test]
fn gc_goes_on_past_failures_and_reports_them_all() {
    let lab = recorders();
    two(&lab, &json!({}));
    let id = added(&lab, "n", &["eth0", "eth1"]);
    failing(&lab, "two", "DEL");
    lab.sh("mv /opt/cni/bin/one /opt/cni/bin/gone").success();
    let outcome = lab.cnitool(&["gc", "n", NETNS]).run();
    let missing = "failed to find plugin \"one\" in path [/opt/cni/bin]";
    let stale = |ifname| {
        format!(
            "failed to delete stale attachment {id} {ifname}: plugin type=\"two\" failed (delete): no; two; \
             plugin type=\"one\" failed (delete): {missing}\n"
        )
    };
    let text = format!("{}{}failed to GC plugin one: {missing}\n", stale("eth0"), stale("eth1"));
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (Some(1), "", text.as_str()));
    assert_eq!(order(&lab), ["DEL two", "DEL two", "GC two"]);
    assert_eq!(lab.list(RESULTS).len(), 2);
}

#[test]
fn better_gc_keeps_the_attachments_that_are_valid() {
    let lab = recorders();
    two(&lab, &json!({}));
    let id = added(&lab, "n", &["eth0", "eth1", "eth2"]);
    let valid = [format!("--valid={id}/eth2"), format!("{id}/eth0")];
    lab.cnitool(&["gc", "n", &valid[0], "--valid", &valid[1]]).run().success();
    assert_eq!(order(&lab), ["DEL two", "DEL one", "GC one", "GC two"]);
    assert_eq!(lab.list(RESULTS), [format!("n-{id}-eth0"), format!("n-{id}-eth2")]);
    let list = json!([{"containerID": id, "ifname": "eth2"}, {"containerID": id, "ifname": "eth0"}]);
    let told: Value = serde_json::from_str(&recorded(&lab, "GC.two").1).unwrap();
    assert_eq!((&told["cni.dev/valid-attachments"], &told["cni.dev/attachments"]), (&list, &list));
    lab.cnitool(&["gc", "n", "--valid", "nonsense"]).run().dies_with(&["invalid --valid \"nonsense\""]);
}

#[test]
fn better_gc_ends_what_the_plugins_themselves_remember() {
    let lab = Lab::new();
    lab.netns("ns1");
    let plugins = [bridge_config(&json!({"cniVersion": "1.1.0", "isGateway": true, "ipMasq": true}))];
    network(&lab, "n.conflist", &json!({"cniVersion": "1.1.0", "name": "n", "plugins": plugins}));
    lab.cnitool(&["add", "n", NETNS]).run().success();
    lab.cnitool(&["gc", "n"]).run().silent();
    assert_eq!((lab.reserved("n").len(), lab.veths().len(), lab.rules().len()), (0, 0, 0));
    for ifname in ["eth0", "eth1"] {
        lab.cnitool(&["add", "n", NETNS, "-i", ifname]).run().success();
    }
    let id = container(&lab, NETNS);
    lab.sh(&format!("rm {RESULTS}/*eth0")).success();
    let before = lab.reserved("n").len();
    lab.cnitool(&["gc", "n", "--valid", &format!("{id}/eth1")]).run().silent();
    assert_eq!((before, lab.reserved("n").len()), (2, 1), "only the plugins knew of the attachment");
}

#[test]
fn better_gc_says_that_the_cache_cannot_be_read_and_still_asks_the_plugins() {
    let lab = recorders();
    two(&lab, &json!({}));
    lab.write(RESULTS, "a file");
    let outcome = lab.cnitool(&["gc", "n", NETNS]).run();
    assert_eq!(outcome.stderr.lines().last(), Some("failed to read /var/lib/cni/results: not a directory"));
    assert_eq!((outcome.code, order(&lab)), (Some(1), vec!["GC one".to_string(), "GC two".to_string()]));
}

#[test]
fn better_del_and_gc_use_the_cached_configuration_when_a_bad_file_is_in_the_way() {
    let lab = recorders();
    two(&lab, &json!({}));
    for verb in ["del", "gc"] {
        added(&lab, "n", &["eth0"]);
        lab.write("/etc/cni/net.d/n/bad.conf", "{");
        lab.cnitool(&["check", "n", NETNS]).run().dies_with(&["/etc/cni/net.d/n/bad.conf: error parsing"]);
        let outcome = lab.cnitool(&[verb, "n", NETNS]).run().success();
        let warning = "warning: using the configuration remembered since add: /etc/cni/net.d/n/bad.conf: error parsing";
        assert!(outcome.stderr.contains(warning), "{outcome:#?}");
        assert_eq!((order(&lab)[0].as_str(), lab.list(RESULTS).len()), ("DEL two", 0));
        lab.sh("rm /etc/cni/net.d/n/bad.conf").success();
    }
}

#[test]
fn status_asks_in_order_up_to_the_first_that_could_not_serve() {
    let lab = recorders();
    two(&lab, &json!({}));
    lab.cnitool(&["status", "n", NETNS]).run().success();
    assert_eq!(order(&lab), ["STATUS one", "STATUS two"]);
    let asked = recorded(&lab, "STATUS.two");
    assert_eq!(
        asked,
        ("||||/opt/cni/bin".to_string(), r#"{"cniVersion":"1.1.0","name":"n","type":"two"}"#.to_string())
    );
    failing(&lab, "one", "STATUS");
    let outcome = lab.cnitool(&["status", "n"]).run().dies("no; one");
    assert_eq!(outcome.stderr, "plugin type=\"one\" failed (status), code 50:\nno; one\n");
    assert_eq!(order(&lab), ["STATUS one"]);
    lab.sh("rm /opt/cni/bin/one").success();
    lab.cnitool(&["status", "n"]).run().dies("failed to find plugin \"one\" in path [/opt/cni/bin]");
}

#[test]
fn status_of_a_network_older_than_1_1_0_runs_nothing() {
    let lab = recorders();
    for version in ["1.0.0", "0.4.0", "nonsense"] {
        two(&lab, &json!({"cniVersion": version}));
        failing(&lab, "one", "STATUS");
        lab.cnitool(&["status", "n", NETNS]).run().silent();
        assert_eq!(order(&lab), [""; 0]);
    }
}

#[test]
fn better_list_shows_the_cached_attachments() {
    let lab = recorders();
    all_in_sight(&lab);
    lab.netns("ns1");
    network(&lab, "bri.conf", &bridge_config(&json!({"name": "bri"})));
    network(&lab, "n.conf", &json!({"cniVersion": "1.0.0", "name": "n", "type": "one"}));
    lab.cnitool(&["add", "bri", NETNS]).run().success();
    // No other test has a namespace of this name: those of all processes of the machine are looked at.
    let none = format!("/run/netns/none-of-{}", lab.pid());
    lab.cnitool(&["add", "n", &none, "-i", "net1"]).run().success();
    lab.cnitool(&["add", "n", "/run/\u{1b}[2J", "-i", "a"]).run().success();
    lab.write("/var/lib/cni/results/broken", "{");
    let words = |arguments: &[&str]| {
        let table = lab.cnitool(arguments).run().success().stdout;
        table.lines().map(|line| line.split_whitespace().map(str::to_string).collect()).collect::<Vec<Vec<String>>>()
    };
    let rows = words(&["list"]);
    assert_eq!(rows[0], ["NETWORK", "CONTAINER", "ID", "IFNAME", "NETNS", "ADDRESSES"]);
    assert_eq!((rows[1][0].as_str(), &rows[1][2..]), ("bri", &["eth0", NETNS, "10.1.2.2/24"].map(String::from)[..]));
    assert!(rows[1][1].starts_with("cnitool-"), "{rows:?}");
    let gone = ["net1", &none, "(gone)", "-"].map(String::from);
    assert!(rows.iter().any(|row| row[2..] == gone), "{rows:?}");
    assert!(rows.iter().any(|row| row.contains(&"/run/\\u{1b}[2J".to_string())), "{rows:?}");
    assert_eq!(rows.len(), 4);
    let ours = rows.iter().filter(|row| row[0] == "n" || row[0] == "NETWORK").cloned().collect::<Vec<_>>();
    assert_eq!(words(&["list", "n"]), ours);
}

/// apptainer keeps the namespaces of its containers where only their own processes see them.
#[test]
fn better_list_does_not_call_a_living_attachment_gone() {
    let lab = recorders();
    all_in_sight(&lab);
    network(&lab, "bri.conf", &bridge_config(&json!({"name": "bri"})));
    let (hidden, netns) = (format!("hidden-{}", lab.pid()), |name: &str| format!("/run/netns/{name}"));
    lab.netns(&hidden);
    lab.cnitool(&["add", "bri", &netns(&hidden)]).run().success();
    let column = |path: &str| {
        let table = lab.cnitool(&["list"]).run().success().stdout;
        table
            .lines()
            .find_map(|line| line.split_once(path)?.1.split_once("10.1.2.2/24"))
            .map(|(what, _)| what.trim().to_string())
    };
    assert_eq!(column(&netns(&hidden)).as_deref(), Some(""));
    // A mount namespace of its own has it at the same path, on a file that others do not see.
    let script = format!(
        "touch /run/lab/x; mount --bind {0} /run/lab/x; mount -t tmpfs none /run/netns
         touch {0}; mount --move /run/lab/x {0}; exec sleep 1000",
        netns(&hidden)
    );
    let keeper =
        Call::new(&lab, "unshare").args_list(&["-m", "--propagation", "private", "sh", "-ec", &script]).spawn();
    wait_for("the container runs", || lab.read(&format!("/proc/{}/comm", keeper.pid())) == "sleep\n");
    lab.ok(&format!("ip netns del {hidden}"));
    assert_eq!(column(&netns(&hidden)).as_deref(), Some("(not at its path)"));
    keeper.kill();
    wait_for("it is gone", || column(&netns(&hidden)).as_deref() == Some("(gone)"));
}
