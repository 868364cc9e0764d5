//! What `ip -d -j` reads of an attachment, for every plugin with one interface: routes with all that a route can have, the
//! queue, and for dummy and tap, which Debian's reference lacks, everything beside a run of the reference 1.9.1.

use serde_json::{Map, Value, json};

use crate::devices::{Device, host};
use crate::lab::{Lab, merged};

fn plugin(name: &'static str, changes: &Value) -> Device {
    Device::new(name, &json!({"master": null})).with(changes)
}

/// Addresses from static, with these routes. Without gateways the end of duplicate address detection is nothing to wait for.
fn with_routes(gateways: bool, routes: &Value) -> Value {
    let mut addresses = json!([{"address": "10.1.2.2/24"}, {"address": "fd00:1:2::2/64"}]);
    if gateways {
        addresses[0]["gateway"] = json!("10.1.2.1");
        addresses[1]["gateway"] = json!("fd00:1:2::1");
    }
    json!({"ipam": {"type": "static", "ranges": null, "addresses": addresses, "routes": routes}})
}

/// The routes of `eth0` that are not the kernel's own, with what tells them apart.
fn routes(lab: &Lab) -> Vec<Value> {
    let read = |family: &str| lab.ip(&format!("-n ns1 {family} route show table all dev eth0 proto boot"));
    let all = ["-4", "-6"].map(read);
    let fact = |route: &Value| {
        let keys = ["dst", "gateway", "table", "scope", "metric", "metrics", "prefsrc"];
        let known = keys.iter().filter_map(|key| Some((key.to_string(), route.get(*key)?.clone())));
        known.collect::<Map<_, _>>().into()
    };
    all.iter().flat_map(|routes| routes.as_array().unwrap().iter().map(fact)).collect()
}

/// Table, metric, scope, mtu and advmss of a route reach the kernel. In all but the last two it is what 1.9.1 leaves.
pub fn better_routes_have_all_that_they_were_given(device: &Device, needs_gateways: bool) {
    let all = json!([
        {"dst": "10.9.0.0/16", "gw": "10.1.2.1", "mtu": 1300, "advmss": 1200, "priority": 7},
        {"dst": "10.8.0.0/16", "gw": "10.1.2.1", "table": 300, "scope": 0},
        {"dst": "10.7.0.0/16", "gw": "10.1.2.1", "table": 77},
        {"dst": "fd00:9::/64", "gw": "fd00:1:2::1", "mtu": 1300, "advmss": 1200, "priority": 9},
        {"dst": "fd00:8::/64", "gw": "fd00:1:2::1", "table": 300},
    ]);
    let metrics = json!([{"mtu": 1300, "advmss": 1200}]);
    let expected = json!([
        {"dst": "10.8.0.0/16", "gateway": "10.1.2.1", "table": "300", "scope": "global"},
        {"dst": "10.7.0.0/16", "gateway": "10.1.2.1", "table": "77", "scope": "global"},
        {"dst": "10.9.0.0/16", "gateway": "10.1.2.1", "table": "main", "scope": "global", "metric": 7, "metrics": metrics},
        {"dst": "fd00:8::/64", "gateway": "fd00:1:2::1", "table": "300", "scope": "global", "metric": 1024},
        {"dst": "fd00:9::/64", "gateway": "fd00:1:2::1", "table": "main", "scope": "global", "metric": 9,
            "metrics": metrics},
    ]);
    let lab = host();
    let attached = device.with(&with_routes(needs_gateways, &all)).attached(&lab);
    let found = routes(&lab);
    for route in expected.as_array().unwrap() {
        assert!(found.contains(route), "{route} is not among {found:#?}");
    }
    let own = found.iter().filter(|route| !expected.as_array().unwrap().contains(route));
    // ptp has two more for each address: see ptp::all_ways_lead_through_the_gateway.
    assert_eq!(own.count(), if needs_gateways { 4 } else { 0 }, "{found:#?}");
    attached.call(&lab).verb("CHECK").run().silent();
}

/// A scope of its own is for what is on the link.
pub fn newer_a_route_has_the_scope_it_was_given(device: &Device) {
    let lab = host();
    let given = json!([{"dst": "10.9.0.0/16", "scope": 253}, {"dst": "10.8.0.0/16"}]);
    device.with(&with_routes(false, &given)).add(&lab).result();
    let scopes: Vec<_> = routes(&lab).iter().map(|route| (route["dst"].clone(), route["scope"].clone())).collect();
    let expected = [("10.8.0.0/16", "global"), ("10.9.0.0/16", "link")].map(|(dst, scope)| (json!(dst), json!(scope)));
    assert_eq!(scopes, expected);
}

/// Versions of the reference before 1.4 make a queue of no length.
pub fn newer_the_queue_has_the_kernels_length(device: &Device) {
    let lab = host();
    device.add(&lab).result();
    assert_eq!(lab.link_in("ns1", "eth0")["txqlen"], 1000);
}

#[test]
fn better_macvlan_routes() {
    let device = plugin("macvlan", &json!({"master": "m0"}));
    better_routes_have_all_that_they_were_given(&device, false);
    newer_a_route_has_the_scope_it_was_given(&device);
    newer_the_queue_has_the_kernels_length(&device);
}

#[test]
fn better_tap_routes() {
    better_routes_have_all_that_they_were_given(&plugin("tap", &json!({})), false);
    newer_a_route_has_the_scope_it_was_given(&plugin("tap", &json!({})));
}

#[test]
fn better_ptp_routes() {
    better_routes_have_all_that_they_were_given(&plugin("ptp", &json!({})), true);
    newer_the_queue_has_the_kernels_length(&plugin("ptp", &json!({})));
}

/// Everything there is to see, without what is random, and arp_notify, which ours sets for all and 1.9.1 does not for dummy.
fn everything(device: &Device) -> Value {
    let lab = host();
    let mut result = device.add(&lab).result();
    let link = lab.link_in("ns1", "eth0");
    assert_eq!(link["address"], result["interfaces"][0]["mac"]);
    let keys = ["flags", "mtu", "txqlen", "link_type", "group", "promiscuity", "linkinfo", "master"];
    let link: Map<_, _> = keys.iter().filter_map(|key| Some((key.to_string(), link.get(*key)?.clone()))).collect();
    let kept = crate::bridge::sysctl(&lab, "ns1", "net/ipv6/conf/eth0/keep_addr_on_down");
    result["interfaces"][0]["mac"] = json!("MAC");
    json!({"result": result, "link": link, "addresses": lab.addresses("ns1", "eth0"), "routes": routes(&lab),
        "keep_addr_on_down": kept})
}

/// `golden/NAME-1.9.1.json` is what the reference 1.9.1 left, printed by this very test in its place
/// (`CNI_TEST_PLUGINS=reference` with `CNI_REFERENCE_DIR` its folder), for configurations that it can do.
pub fn is_what_1_9_1_makes(golden: &str, configurations: &[(&str, Device)]) {
    let found: Map<_, _> = configurations.iter().map(|(what, device)| (what.to_string(), everything(device))).collect();
    let lines: Vec<_> = found.iter().map(|(what, fact)| format!("{}: {fact}", json!(what))).collect();
    let expected: Value = serde_json::from_str(golden).unwrap();
    assert!(Value::from(found) == expected, "found:\n{{\n{}\n}}", lines.join(",\n"));
}

/// Both families from static, with a route in a table of its own.
pub fn dual() -> Value {
    let given = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.8.0.0/16", "gw": "10.1.2.1", "table": 300}, {"dst": "::/0"}]);
    with_routes(true, &given)
}

#[test]
fn newer_tap_is_what_the_reference_1_9_1_makes() {
    let tap = |changes: &Value| plugin("tap", changes);
    let configurations = [
        ("no addresses", tap(&json!({"ipam": null}))),
        ("both families", tap(&merged(dual(), &json!({"dns": {"domain": "x"}})))),
        ("mtu, several queues", tap(&json!({"mtu": 1400, "multiQueue": true, "ipam": null}))),
        ("old version", tap(&json!({"cniVersion": "0.4.0", "ipam": {"routes": null}}))),
        ("owner and group", tap(&json!({"owner": 0, "group": 0, "ipam": null}))),
    ];
    is_what_1_9_1_makes(include_str!("golden/tap-1.9.1.json"), &configurations);
}
