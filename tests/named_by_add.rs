//! What only ADD knows: addresses and ranges that the runtime names, the range of a set that a
//! container gets, and whether there is a link at all. STATUS and `cnitool validate` leave it open.

use serde_json::json;

use crate::impossible::{lab, network, ranged, validate_refuses};
use crate::lab::merged;

/// Routes and addresses that ADD takes from the runtime, or that no link gets.
#[test]
fn newer_validate_passes_what_only_add_knows() {
    let lab = lab();
    let lost = json!([{"dst": "0.0.0.0/0", "gw": "10.200.0.1"}]);
    let fixed = json!({"type": "static", "addresses": [{"address": "10.70.0.9/24"}], "routes": lost});
    let ranges = merged(ranged(json!({"subnet": "10.70.0.0/24"})), &json!({"routes": lost}));
    let no_ranges = json!({"type": "host-local", "ranges": []});
    let ips = json!({"master": "m0", "capabilities": {"ips": true}});
    let ip_ranges = json!({"master": "m0", "capabilities": {"ipRanges": true}});
    for (config, passes) in [
        (network("macvlan", fixed.clone(), &ips), true),
        (network("macvlan", fixed.clone(), &ip_ranges), false),
        (network("macvlan", ranges.clone(), &ip_ranges), true),
        (network("macvlan", no_ranges.clone(), &ip_ranges), true),
        (network("macvlan", no_ranges, &ips), false),
        (network("host-device", fixed.clone(), &json!({"device": "m1"})), false),
        (network("host-device", fixed.clone(), &json!({"device": "m1", "dpdkMode": true})), true),
        (network("host-device", fixed, &json!({"pciBusID": "0000:00:00.0"})), true),
    ] {
        lab.write("/run/lab/n.conf", config.to_string());
        let outcome = lab.cnitool(&["validate", "/run/lab/n.conf"]).run();
        assert_eq!(outcome.code, Some(i32::from(!passes)), "{config}: {outcome:#?}");
    }
    // These are wrong with any address.
    for routes in [json!([{"dst": "10.9.1.1/16"}]), json!([{"dst": "10.9.0.0/16", "gw": "fd00::1"}])] {
        let ipam = json!({"type": "static", "routes": routes});
        validate_refuses(&lab, &network("macvlan", ipam, &ips), &["invalid argument", "routes: "]);
    }
}

/// Only addresses are asked for.
#[test]
fn newer_a_device_without_a_link_gets_no_routes() {
    let lab = lab();
    let ipam = json!({
        "type": "static",
        "addresses": [{"address": "10.70.0.9/32", "gateway": "10.70.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    let config = network("host-device", ipam, &json!({"device": "m1", "dpdkMode": true}));
    lab.plugin("host-device").verb("STATUS").config(&config).run().silent();
    let added = lab.plugin("host-device").config(&config).run().result();
    assert_eq!(added["ips"][0]["address"], "10.70.0.9/32");
    let moved = merged(config, &json!({"dpdkMode": false}));
    let moved = lab.plugin("host-device").config(&moved).run().error();
    assert!(moved.2.contains("10.70.0.1 is in no subnet"), "{moved:?}");
}

/// A container has an address of one range of a set. What works with one range works for its
/// containers, and `validate` tells of the other.
#[test]
fn better_each_range_of_a_set_is_validated() {
    let lab = lab();
    let first = json!({"subnet": "10.70.0.0/24", "rangeStart": "10.70.0.2", "rangeEnd": "10.70.0.2"});
    let second = json!({"subnet": "10.71.0.0/24", "gateway": "10.70.0.1"});
    let ipam = json!({"type": "host-local", "ranges": [[first, second]], "routes": [{"dst": "0.0.0.0/0"}]});
    for (plugin, changes, words) in [
        ("bridge", json!({"isGateway": true}), "invalid gateway 10.70.0.1: the container cannot reach it from 10.71"),
        ("macvlan", json!({"master": "m0"}), "gateway 10.70.0.1 is in no subnet"),
    ] {
        let config = network(plugin, ipam.clone(), &changes);
        validate_refuses(&lab, &config, &[words]);
        lab.plugin(plugin).verb("STATUS").config(&config).run().silent();
        let added = lab.plugin(plugin).config(&config).run().result();
        lab.netns("ns2");
        let other = lab.plugin(plugin).container("c2").netns("/var/run/netns/ns2").config(&config);
        other.run().error();
        lab.plugin(plugin).verb("DEL").config(&merged(config, &json!({"prevResult": added}))).run().silent();
        lab.sh("ip netns del ns2; rm -rf /var/lib/cni/networks");
    }
    // Without the route all containers have the gateway, and none needs it.
    let config = network("bridge", merged(ipam, &json!({"routes": []})), &json!({"isGateway": true}));
    lab.write("/run/lab/n.conf", config.to_string());
    lab.cnitool(&["validate", "/run/lab/n.conf"]).run().success();
}
