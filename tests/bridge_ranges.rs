//! bridge: a network with several ranges has a gateway for each, and all of them stay on the bridge.

use serde_json::{Value, json};

use crate::bridge::reaches;
use crate::lab::{Lab, bridge_config};

fn lab() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.netns("ns2");
    lab
}

/// ADD of a container, named after its namespace, to a network with these range sets.
fn add(lab: &Lab, netns: &str, sets: &Value, changes: &Value) -> Value {
    let config = bridge_config(&json!({"isDefaultGateway": true, "ipam": {"subnet": null, "ranges": sets}}));
    let config = crate::lab::merged(config, changes);
    let call = lab.plugin("bridge").container(netns).netns(&format!("/var/run/netns/{netns}"));
    call.config(&config).run().result()
}

fn two_sets() -> Value {
    json!([[{"subnet": "10.71.0.0/24"}], [{"subnet": "10.72.0.0/24"}]])
}

#[test]
fn better_two_ipv4_ranges_have_both_their_gateways() {
    for force in [false, true] {
        let lab = lab();
        for netns in ["ns1", "ns2"] {
            let added = add(&lab, netns, &two_sets(), &json!({"forceAddress": force}));
            assert_eq!(added["ips"].as_array().unwrap().len(), 2);
            assert_eq!(lab.addresses("", "cni0"), ["10.71.0.1/24", "10.72.0.1/24"], "{netns}, forced: {force}");
        }
        assert_eq!(lab.routes("ns2", "-4")[0], "default via 10.71.0.1 dev eth0");
        for gateway in ["10.71.0.1", "10.72.0.1"] {
            reaches(&lab, "ns1", gateway);
            reaches(&lab, "ns2", gateway);
        }
        for address in ["10.71.0.2", "10.72.0.3"] {
            reaches(&lab, "", address);
        }
    }
}

/// A container of one range does not take away the gateway of those that have their address from another.
#[test]
fn better_ranges_of_one_set_and_of_ipv6_keep_each_others_gateways() {
    let one_set = json!([[{"subnet": "10.71.0.0/30"}, {"subnet": "10.72.0.0/30"}]]);
    let one_subnet = json!([
        [{"subnet": "fd00:71::/64", "rangeEnd": "fd00:71::f"}],
        [{"subnet": "fd00:71::/64", "rangeStart": "fd00:71::10", "gateway": "fd00:71::10"}],
    ]);
    for force in [false, true] {
        let forced = json!({"forceAddress": force});
        let lab = lab();
        add(&lab, "ns1", &one_set, &forced);
        assert_eq!(lab.addresses("", "cni0"), ["10.71.0.1/30"]);
        let second = add(&lab, "ns2", &one_set, &forced);
        assert_eq!(second["ips"][0]["address"], "10.72.0.2/30");
        assert_eq!(lab.addresses("", "cni0"), ["10.71.0.1/30", "10.72.0.1/30"], "forced: {force}");
        reaches(&lab, "ns1", "10.71.0.1");
        let lab = self::lab();
        for netns in ["ns1", "ns2"] {
            add(&lab, netns, &one_subnet, &forced);
            let mut addresses = lab.addresses("", "cni0");
            addresses.sort();
            assert_eq!(addresses, ["fd00:71::1/64", "fd00:71::10/64"], "{netns}, forced: {force}");
        }
    }
}

/// What the network does not have any more goes, if forced; else it is a conflict as ever.
#[test]
fn better_a_changed_gateway_replaces_the_old_one_alone() {
    let lab = lab();
    let forced = json!({"forceAddress": true});
    add(&lab, "ns1", &two_sets(), &forced);
    let changed = json!([[{"subnet": "10.71.0.0/24", "gateway": "10.71.0.254"}], [{"subnet": "10.72.0.0/24"}]]);
    let config = bridge_config(&json!({"isGateway": true, "ipam": {"subnet": null, "ranges": changed}}));
    let refused = lab.plugin("bridge").container("ns2").netns("/var/run/netns/ns2").config(&config).run();
    refused.fails_with(999, &["\"cni0\" already has an IP address different from 10.71.0.254/24"]);
    assert_eq!(lab.addresses("", "cni0"), ["10.71.0.1/24", "10.72.0.1/24"]);
    add(&lab, "ns2", &changed, &forced);
    assert_eq!(lab.addresses("", "cni0"), ["10.72.0.1/24", "10.71.0.254/24"]);
}
