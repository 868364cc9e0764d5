//! cnitool: finding and reading network configurations (`cnitool.md` 3 and 4).

use serde_json::{Value, json};

use crate::cnitool::{NETNS, network, recorded, recorders};
use crate::lab::Lab;

#[test]
fn folder_plugins_come_after_the_inlined_ones() {
    let lab = recorders();
    network(
        &lab,
        "n.conflist",
        &json!({"cniVersion": "1.1.0", "name": "n", "plugins": [{"type": "one", "inlined": true}]}),
    );
    lab.write("/etc/cni/net.d/n/20-b.conf", r#"{"type": "one", "b": 1}"#);
    lab.write("/etc/cni/net.d/n/10-a.conf", r#"{"type": "two", "a": 1}"#);
    lab.write("/etc/cni/net.d/n/30-c.json", r#"{"type": "nonsense"}"#);
    lab.cnitool(&["add", "n", NETNS]).run().success();
    assert_eq!(lab.read("/run/lab/order"), "ADD one\nADD two\nADD one\n");
    lab.sh("rm /run/lab/order").success();
    network(
        &lab,
        "n.conflist",
        &json!({"cniVersion": "1.1.0", "name": "n", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "one"}]}),
    );
    lab.cnitool(&["add", "n", NETNS]).run().success();
    assert_eq!(lab.read("/run/lab/order"), "ADD one\n");
    network(&lab, "n.conflist", &json!({"cniVersion": "1.1.0", "name": "n"}));
    lab.cnitool(&["add", "n", NETNS]).run().success();
    assert_eq!(lab.read("/run/lab/order"), "ADD one\nADD two\nADD one\n");
}

#[test]
fn lists_come_before_single_files_and_files_in_the_order_of_their_names() {
    let lab = recorders();
    let plugin = |which: &str, name: &str| json!({"cniVersion": "1.0.0", "name": name, "type": "one", "which": which});
    network(&lab, "10-n.conf", &plugin("conf", "n"));
    network(&lab, "20-n.json", &plugin("json", "n"));
    let which = |lab: &Lab| {
        lab.cnitool(&["add", "n", NETNS]).run().success();
        let stdin: Value = serde_json::from_str(&recorded(lab, "ADD.one").1).unwrap();
        stdin["which"].as_str().unwrap().to_string()
    };
    assert_eq!(which(&lab), "conf");
    network(
        &lab,
        "99-n.conflist",
        &json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "one", "which": "list"}]}),
    );
    assert_eq!(which(&lab), "list");
    lab.sh("cd /etc/cni/net.d; rm 99-n.conflist 10-n.conf").success();
    assert_eq!(which(&lab), "json");
    network(&lab, "99-other.conflist", &json!({"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "one"}]}));
    assert_eq!(which(&lab), "json");
}

#[test]
fn the_highest_of_the_listed_versions_is_taken() {
    let lab = recorders();
    network(
        &lab,
        "n.conflist",
        &json!({"cniVersion": "0.4.0", "cniVersions": ["0.3.1", "1.0.0", "9.0.0"], "name": "n", "plugins": [{"type": "one"}]}),
    );
    lab.cnitool(&["add", "n", NETNS]).run().success();
    assert!(recorded(&lab, "ADD.one").1.contains(r#""cniVersion":"1.0.0""#));
}

#[test]
fn network_configurations_that_are_not_there_are_named() {
    let lab = recorders();
    lab.cnitool(&["add", "n", NETNS]).run().dies_with(&["no net configurations found in /etc/cni/net.d"]);
    lab.cnitool(&["add", "n", NETNS])
        .env("NETCONFPATH", "/nowhere")
        .run()
        .dies_with(&["no net configurations found in /nowhere"]);
    network(&lab, "x.conf", &json!({"cniVersion": "1.0.0", "name": "x", "type": "one"}));
    let text = "no net configuration with name \"n\" in /etc/cni/net.d";
    for verb in ["add", "check", "del"] {
        lab.cnitool(&[verb, "n", NETNS]).run().dies_with(&[text]);
    }
}

#[test]
fn lists_that_make_no_sense_are_refused_with_the_references_words() {
    let lab = recorders();
    let list = |changes: &Value| {
        crate::lab::merged(json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "one"}]}), changes)
    };
    let prefix = "error parsing configuration list: ";
    for (changes, text) in [
        (json!({"name": 5}), "invalid name type float64"),
        (json!({"cniVersion": 1}), "invalid cniVersion type float64"),
        (json!({"disableCheck": "maybe"}), "invalid value \"maybe\" for disableCheck"),
        (json!({"disableCheck": 1}), "invalid type float64 for disableCheck"),
        (json!({"plugins": []}), "no plugins in list"),
        (json!({"plugins": {}}), "invalid 'plugins' type map[string]interface {}"),
        (json!({"plugins": [{}]}), "failed to parse plugin config 0: error parsing configuration: missing 'type'"),
    ] {
        network(&lab, "n.conflist", &list(&changes));
        let part = if text.starts_with("failed") { text.to_string() } else { format!("{prefix}{text}") };
        lab.cnitool(&["add", "n", NETNS]).run().dies_with(&[&part]);
    }
}

#[test]
fn better_a_neighbours_broken_file_is_skipped_with_a_warning() {
    let lab = recorders();
    lab.write("/etc/cni/net.d/00-broken.conflist", "{");
    lab.write("/etc/cni/net.d/01-broken.conf", "{\"name\": \"broken\"}");
    network(&lab, "10-n.conf", &json!({"cniVersion": "1.0.0", "name": "n", "type": "one"}));
    let outcome = lab.cnitool(&["add", "n", NETNS]).run().success();
    assert!(outcome.stderr.contains("00-broken.conflist"), "{outcome:#?}");
    let missing = lab.cnitool(&["add", "m", NETNS]).run().dies_with(&["00-broken.conflist", "01-broken.conf"]);
    assert!(missing.stderr.contains("no net configuration with name \"m\""), "{missing:#?}");
}
