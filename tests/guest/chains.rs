//! Whole chains with VRFs, through cnitool with our plugins only.

use serde_json::{Value, json};

use crate::chains::{Network, State};
use crate::lab::Lab;

/// A host with `ns1`, and a neighbour behind the master.
fn host() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.netns("beyond");
    lab.sh("ip link add up0 type veth peer name eth0 netns beyond; ip link set up0 up; ip -n beyond link set eth0 up
        ip -n beyond addr add 10.1.2.1/24 dev eth0; ip -n beyond addr add fd00:1:2::1/64 dev eth0 nodad")
        .success();
    lab
}

fn list(ipam: &Value) -> Value {
    let routes = json!([{"dst": "10.50.0.0/16", "gw": "10.1.2.1"}, {"dst": "fd00:50::/48", "gw": "fd00:1:2::1"}]);
    let mut ipam = ipam.clone();
    ipam["routes"] = routes;
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "macvlan", "master": "up0", "ipam": ipam}, {"type": "vrf", "vrfname": "blue", "table": 1000}]})
}

/// Routes of the container, of both families, in a table.
fn routes(lab: &Lab, table: &str) -> String {
    lab.ok(&format!("ip -n ns1 route show table {table}")) + &lab.ok(&format!("ip -n ns1 -6 route show table {table}"))
}

/// What CHECK says about what.
const DAMAGES: [(&str, &str); 3] = [
    ("ip -n ns1 link set eth0 nomaster", "Expected Route 10.50.0.0/16 via 10.1.2.1 not found"),
    ("ip -n ns1 route del 10.50.0.0/16 table 1000", "Expected Route 10.50.0.0/16 via 10.1.2.1 not found"),
    ("ip -n ns1 -6 addr flush dev eth0 scope global", "Failed to match addr fd00:1:2::"),
];

/// The reference's macvlan misses the routes that are in the VRF's table, so a CHECK of this chain always fails there.
#[test]
fn better_macvlan_in_a_vrf_is_checked_and_leaves_nothing() {
    let fixed = json!({"type": "static", "addresses": [
        {"address": "10.1.2.9/24", "gateway": "10.1.2.1"}, {"address": "fd00:1:2::9/64", "gateway": "fd00:1:2::1"}]});
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    let local = json!({"type": "host-local", "ranges": ranges});
    for (ipam, damages) in [(fixed, &DAMAGES[..]), (local, &DAMAGES[..1])] {
        let network = Network::new(host(), &list(&ipam), &json!({})).settled();
        let lab = &network.lab;
        let before = State::of(lab);
        for (damage, words) in damages {
            let result = network.call("add").run().result();
            let addresses = lab.addresses("ns1", "eth0");
            let told = result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap().to_string());
            assert_eq!(addresses, told.collect::<Vec<_>>());
            assert_eq!(lab.link_in("ns1", "eth0")["master"], "blue");
            for dst in ["10.1.2.0/24", "10.50.0.0/16 via 10.1.2.1", "fd00:1:2::/64", "fd00:50::/48 via fd00:1:2::1"] {
                assert!(routes(lab, "1000").contains(dst) && !routes(lab, "main").contains(dst), "{dst}");
            }
            lab.ok("ip netns exec ns1 ping -n -c 1 -W 5 -I blue 10.1.2.1");
            network.call("check").run().silent();
            lab.ok(damage);
            network.call("check").run().dies_with(&[words]);
            for _ in 0..2 {
                network.call("del").run().silent();
                before.assert_same(&State::of(lab));
            }
        }
        network.call("add").run().result();
        lab.ok("ip netns del ns1");
        network.call("del").run().silent();
        before.assert_host(&State::of(lab));
    }
}
