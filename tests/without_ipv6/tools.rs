//! `cnitool` and `cni-box gc`.

use serde_json::{Value, json};

use super::State;
use crate::chains::Network;
use crate::gc_command;
use crate::masquerade::lab;

/// All that a pod may have.
fn list() -> Value {
    let routes = json!([{"dst": "0.0.0.0/0"}]);
    json!({"cniVersion": "1.1.0", "name": "net", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "ipam": {"type": "host-local", "subnet": "10.1.2.0/24", "routes": routes}},
        {"type": "tuning", "mtu": 1400, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall"},
        {"type": "sbr"}]})
}

#[test]
fn cnitool_has_every_verb() {
    let lab = lab("legacy");
    let network = Network::new(lab, &list(), &serde_json::from_str(gc_command::PORTS).unwrap()).settled();
    let lab = &network.lab;
    let before = State::of(lab);
    let quiet = |words: &[&str]| drop(lab.cnitool(words).run().success());
    quiet(&["validate", "/etc/cni/net.d/10-net.conflist"]);
    network.call("status").run().silent();
    network.call("add").run().result();
    network.call("check").run().silent();
    let listed = lab.cnitool(&["list"]).run().success().stdout;
    assert!(listed.contains("net") && listed.contains("eth0"), "{listed}");
    network.call("del").run().silent();
    network.call("del").run().silent();
    before.assert_same(&State::of(lab));
    // Without a list of valid attachments none is valid.
    network.call("add").run().result();
    network.call("gc").run().silent();
    before.assert_same(&State::of(lab));
}

#[test]
fn gc_command_removes_what_namespaces_have_left() {
    gc_command::what_a_namespace_has_left_is_told_and_removed_and_others_live_on();
}
