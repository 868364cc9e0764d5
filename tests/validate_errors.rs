//! `cnitool validate`: mistakes between keys and between plugins, told as ADD would tell them.

use serde_json::json;

use crate::lab::Lab;
use crate::validate::{findings, judged, list, put, with};

#[test]
fn keys_without_effect_are_told() {
    let lab = Lab::new();
    let beside = json!({"rangeStart": "10.1.2.50", "Gateway": "10.1.2.254", "subnet": null, "ranges": [[{"subnet": "10.1.2.0/24"}]]});
    let found = findings(&lab, "n.conflist", &list(json!([with(json!({"ipam": beside}))])));
    let no_effect = |key: &str| {
        format!(
            "plugins[0].ipam.{key}: warning: has no effect without \"subnet\"; it belongs at plugins[0].ipam.ranges[0][0].{key}"
        )
    };
    let note = "plugins[0].ipam.Gateway: note: this key is usually written \"gateway\"";
    assert_eq!(found, [note.to_string(), no_effect("rangeStart"), no_effect("gateway")]);
    let used = json!({"rangeStart": "10.1.2.50", "ranges": [[{"subnet": "10.1.3.0/24"}]]});
    assert_eq!(findings(&lab, "n.conflist", &list(json!([with(json!({"ipam": used}))]))), ["ok"]);
}

#[test]
fn a_list_without_plugins_is_an_error() {
    let lab = Lab::new();
    let single = crate::lab::merged(with(json!({})), &json!({"cniVersion": "1.0.0", "name": "net"}));
    let expected =
        "error: no plugin configs found; a single plugin's configuration belongs in a file whose name ends in .conf";
    let found = findings(&lab, "n.conflist", &single);
    assert!(found.contains(&expected.to_string()), "{found:?}");
    let empty = json!({"cniVersion": "1.0.0", "name": "net"});
    assert_eq!(findings(&lab, "n.conflist", &empty), ["error: no plugin configs found"]);
    put(&lab, "net/1.conf", json!({"type": "loopback"}));
    assert_eq!(findings(&lab, "n.conflist", &empty), ["ok"]);
}

#[test]
fn a_plugin_that_is_a_path_and_a_delegate_that_is_refused_are_errors() {
    judged(&[
        (json!([{"type": "../bridge"}]), "plugins[0].type: error: invalid plugin name: ../bridge"),
        (json!([with(json!({"ipam": {"type": "a/b"}}))]), "plugins[0].ipam.type: error: invalid plugin name: a/b"),
        (
            json!([{"type": "flannel", "delegate": {"hairpinMode": true, "promiscMode": true}}]),
            "plugins[0]: error: cannot set hairpin mode and promiscuous mode at the same time",
        ),
        (
            json!([{"type": "flannel", "delegate": {"type": "vlan"}}]),
            "plugins[0]: error: \"master\" field is required. It specifies the host interface name to create the VLAN for",
        ),
        (
            json!([{"type": "flannel", "delegate": {"type": "flannel"}}]),
            "plugins[0]: error: flannel cannot be its own delegate",
        ),
        (json!([{"type": "ipvlan", "master": "eth0"}]), "plugins[0]: error: no plugin name provided"),
        (
            json!([with(json!({})), {"type": "vrf", "vrfname": "a-name-of-16-byt"}]),
            "plugins[1]: error: could not add VRF a-name-of-16-byt: interface name is too long; interface name should be less than 16 characters",
        ),
        (
            json!([with(json!({})), {"type": "tuning", "mac": "01:00:5e:00:00:01"}]),
            "plugins[1]: error: failed to set MAC address to 01:00:5e:00:00:01: cannot assign requested address; mac 01:00:5e:00:00:01 is a multicast address",
        ),
    ]);
    // A result may come from the plugin in front, and addresses from the runtime.
    let lab = Lab::new();
    let ipvlan = json!([{"type": "loopback"}, {"type": "ipvlan", "master": "eth0"}]);
    assert_eq!(findings(&lab, "n.conflist", &list(ipvlan)), ["ok"]);
    let runtime = json!([{"type": "macvlan", "capabilities": {"ips": true}, "ipam": {"type": "static"}}]);
    assert_eq!(findings(&lab, "n.conflist", &list(runtime)), ["ok"]);
}
