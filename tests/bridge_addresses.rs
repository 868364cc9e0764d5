//! bridge: gateways, routes, IPv6 and its duplicate address detection.

use serde_json::{Value, json};

use crate::bridge::{add, lab, reaches, sysctl};
use crate::lab::{Lab, bridge_config, wait_for};

#[test]
fn a_gateway_is_an_address_of_the_bridge_and_the_host_forwards() {
    let lab = lab();
    let result = add(&lab, &json!({"isGateway": true})).result();
    assert_eq!(lab.addresses("", "cni0"), ["10.1.2.1/24"]);
    assert_eq!(sysctl(&lab, "", "net/ipv4/ip_forward"), "1");
    assert_eq!(sysctl(&lab, "", "net/ipv6/conf/all/forwarding"), "0");
    assert_eq!(result.get("routes"), None);
    reaches(&lab, "", "10.1.2.2");
    reaches(&lab, "ns1", "10.1.2.1");
}

#[test]
fn a_gateway_is_computed_when_ipam_names_none() {
    let lab = lab();
    let ipam = json!({"type": "static", "subnet": null, "addresses": [{"address": "10.7.3.9/16"}]});
    let result = add(&lab, &json!({"isGateway": true, "ipam": ipam})).result();
    assert_eq!(result["ips"], json!([{"address": "10.7.3.9/16", "gateway": "10.7.0.1", "interface": 2}]));
    assert_eq!(lab.addresses("", "cni0"), ["10.7.0.1/16"]);
}

#[test]
fn a_default_gateway_adds_the_default_route() {
    let lab = lab();
    let result = add(&lab, &json!({"isDefaultGateway": true})).result();
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}]));
    assert_eq!(lab.addresses("", "cni0"), ["10.1.2.1/24"]);
    let routes = ["default via 10.1.2.1 dev eth0", "10.1.2.0/24 dev eth0 proto kernel scope link src 10.1.2.2"];
    assert_eq!(lab.routes("ns1", "-4"), routes);
}

#[test]
fn a_default_route_of_ipam_with_a_gateway_is_kept() {
    let lab = lab();
    let ipam = json!({"routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.254"}]});
    let result = add(&lab, &json!({"isDefaultGateway": true, "ipam": ipam})).result();
    assert_eq!(result["routes"], ipam["routes"]);
    assert_eq!(lab.routes("ns1", "-4")[0], "default via 10.1.2.254 dev eth0");
}

#[test]
fn better_a_default_route_of_ipam_without_a_gateway_gets_the_bridges() {
    let lab = lab();
    let ipam = json!({"routes": [{"dst": "0.0.0.0/0"}]});
    add(&lab, &json!({"isDefaultGateway": true, "ipam": ipam})).result();
    let routes = lab.routes("ns1", "-4");
    assert_eq!(routes.iter().filter(|route| route.starts_with("default")).count(), 1, "{routes:?}");
    assert_eq!(routes[0], "default via 10.1.2.1 dev eth0");
}

#[test]
fn another_address_on_the_bridge_is_an_error_unless_forced() {
    let lab = lab();
    lab.ok("ip link add cni0 address 02:00:00:00:00:01 type bridge");
    lab.ok("ip addr add 10.99.0.1/24 dev cni0");
    let text = "failed to set bridge addr: \"cni0\" already has an IP address different from 10.1.2.1/24";
    add(&lab, &json!({"isGateway": true})).fails(999, text);
    assert_eq!(lab.addresses("", "cni0"), ["10.99.0.1/24"]);
    lab.run(&["ip", "-n", "ns1", "link", "del", "eth0"]);
    add(&lab, &json!({"isGateway": true, "forceAddress": true})).result();
    assert_eq!(lab.addresses("", "cni0"), ["10.1.2.1/24"]);
}

#[test]
fn better_a_bridge_without_ports_and_without_a_pinned_mac_becomes_a_gateway() {
    let lab = lab();
    lab.plugin("bridge").config(&bridge_config(&json!({}))).run().result();
    lab.plugin("bridge").verb("DEL").config(&bridge_config(&json!({}))).run().silent();
    let result = add(&lab, &json!({"isGateway": true})).result();
    let mac = lab.link("cni0")["address"].clone();
    assert_ne!(mac, "00:00:00:00:00:00");
    assert_eq!(result["interfaces"][0]["mac"], mac);
    lab.plugin("bridge").verb("DEL").config(&bridge_config(&json!({"isGateway": true}))).run().silent();
    assert_eq!(lab.link("cni0")["address"], mac, "it is pinned now");
}

#[test]
fn newer_duplicate_address_detection_is_off_unless_enabled() {
    let lab = lab();
    for (enabled, value) in [(json!(null), "0"), (json!(true), "1")] {
        let config = bridge_config(&json!({"enabledad": enabled}));
        lab.plugin("bridge").config(&config).run().result();
        assert_eq!(sysctl(&lab, "ns1", "net/ipv6/conf/eth0/accept_dad"), value);
        lab.plugin("bridge").verb("DEL").config(&config).run().silent();
    }
}

#[test]
fn ipv6_alone() {
    let lab = lab();
    let ipam = json!({"subnet": "fd00:1:2::/64"});
    let result = add(&lab, &json!({"isDefaultGateway": true, "ipam": ipam})).result();
    assert_eq!(result["ips"], json!([{"address": "fd00:1:2::2/64", "gateway": "fd00:1:2::1", "interface": 2}]));
    assert_eq!(result["routes"], json!([{"dst": "::/0", "gw": "fd00:1:2::1"}]));
    assert_eq!(lab.addresses("ns1", "eth0"), ["fd00:1:2::2/64"]);
    assert_eq!(lab.addresses("", "cni0"), ["fd00:1:2::1/64"]);
    assert_eq!(sysctl(&lab, "", "net/ipv6/conf/all/forwarding"), "1");
    reaches(&lab, "ns1", "fd00:1:2::1");
    reaches(&lab, "", "fd00:1:2::2");
}

#[test]
fn newer_ipv6_addresses_survive_the_link_going_down() {
    let lab = lab();
    add(&lab, &json!({"ipam": {"subnet": "fd00:1:2::/64"}})).result();
    assert_eq!(sysctl(&lab, "ns1", "net/ipv6/conf/eth0/keep_addr_on_down"), "1");
    lab.ok("ip -n ns1 link set eth0 down");
    assert_eq!(lab.addresses("ns1", "eth0"), ["fd00:1:2::2/64"]);
}

#[test]
fn ipv6_is_switched_on_where_it_was_off() {
    let lab = lab();
    lab.sh("ip netns exec ns1 sh -c 'echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
        echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6'")
        .success();
    add(&lab, &json!({"ipam": {"subnet": "fd00:1:2::/64"}})).result();
    assert_eq!(sysctl(&lab, "ns1", "net/ipv6/conf/eth0/disable_ipv6"), "0");
    assert_eq!(lab.addresses("ns1", "eth0"), ["fd00:1:2::2/64"]);
}

#[test]
fn dual_stack() {
    let lab = lab();
    let ipam = json!({"subnet": null, "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]});
    let changes = json!({"isDefaultGateway": true, "ipam": ipam});
    let result = add(&lab, &changes).result();
    assert_eq!(lab.addresses("ns1", "eth0"), ["10.1.2.2/24", "fd00:1:2::2/64"]);
    assert_eq!(lab.addresses("", "cni0"), ["10.1.2.1/24", "fd00:1:2::1/64"]);
    let routes = json!([{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}, {"dst": "::/0", "gw": "fd00:1:2::1"}]);
    assert_eq!(result["routes"], routes);
    reaches(&lab, "ns1", "10.1.2.1");
    reaches(&lab, "ns1", "fd00:1:2::1");
    let mut config = bridge_config(&changes);
    config["prevResult"] = result;
    lab.plugin("bridge").verb("CHECK").config(&config).run().silent();
}

#[test]
fn newer_routes_carry_priority_table_and_scope() {
    let lab = lab();
    let routes = json!([{"dst": "10.50.0.0/16", "priority": 5}, {"dst": "10.51.0.0/16", "gw": "10.1.2.9", "table": 77},
        {"dst": "10.52.0.0/16", "scope": 0}, {"dst": "fd00:9::/48", "gw": "fd00:1:2::9"}]);
    let ipam = json!({"subnet": null, "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]],
        "routes": routes});
    let result = add(&lab, &json!({"ipam": ipam})).result();
    assert_eq!(result["routes"], routes);
    let found = lab.routes("ns1", "-4");
    assert!(found.contains(&"10.50.0.0/16 via 10.1.2.1 dev eth0 metric 5".to_string()), "{found:?}");
    assert!(found.contains(&"10.52.0.0/16 via 10.1.2.1 dev eth0".to_string()), "{found:?}");
    assert_eq!(lab.ok("ip -n ns1 route show table 77").trim(), "10.51.0.0/16 via 10.1.2.9 dev eth0");
    let found = lab.ok("ip -n ns1 -6 route show fd00:9::/48");
    assert!(found.contains("via fd00:1:2::9 dev eth0"), "{found}");
}

#[test]
fn better_routes_carry_mtu_and_advmss() {
    let lab = lab();
    let ipam = json!({"routes": [{"dst": "10.50.0.0/16", "mtu": 1300, "advmss": 1200}]});
    add(&lab, &json!({"ipam": ipam})).result();
    let found = lab.ok("ip -n ns1 route show 10.50.0.0/16");
    assert!(found.contains("mtu 1300") && found.contains("advmss 1200"), "{found}");
}

/// IPv6 with duplicate address detection; the address is fixed, so that two containers can have the same.
fn detecting() -> Value {
    let addresses = json!([{"address": "fd00:1:2::9/64", "gateway": "fd00:1:2::1"}]);
    json!({"enabledad": true, "ipam": {"type": "static", "subnet": null, "addresses": addresses}})
}

#[test]
fn better_the_end_of_duplicate_address_detection_is_an_event_of_the_containers_namespace() {
    let lab = lab();
    let start = std::time::Instant::now();
    add(&lab, &detecting()).result();
    let taken = start.elapsed();
    let addresses = lab.ok("ip -n ns1 -6 addr show dev eth0");
    assert!(!addresses.contains("tentative"), "{addresses}");
    // Detection takes the kernel one to two seconds; five is the limit after which nobody waits any more.
    assert!(taken < std::time::Duration::from_millis(4500), "it slept to the end of the limit: {taken:?}");
}

#[test]
fn newer_an_ipv6_address_that_another_container_has_is_an_error_that_names_it() {
    let lab = lab();
    add(&lab, &detecting()).result();
    let ns2 = lab.netns("ns2");
    let second = lab.plugin("bridge").container("c2").netns(&ns2).config(&bridge_config(&detecting()));
    second.run().fails_with(999, &["fd00:1:2::9", "DADFAILED"]);
    second.verb("DEL").run().silent();
    assert_eq!(lab.veths().len(), 1);
}

/// What `ip` says of the gateway's IPv6 address.
fn gateway_address(lab: &Lab) -> String {
    lab.ok("ip -6 -o addr show dev cni0 to fd00:1:2::1")
}

fn reaches_at_once(lab: &Lab, enter: &str, address: &str) {
    lab.ok(&format!("{enter} ping -n -c 1 -W 1 {address}"));
}

#[test]
fn better_an_ipv6_gateway_can_be_used_at_once() {
    let lab = lab();
    let ipam = json!({"subnet": null, "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]});
    let changes = json!({"isDefaultGateway": true, "ipam": ipam});
    let mut config = bridge_config(&changes);
    config["prevResult"] = add(&lab, &changes).result();
    reaches_at_once(&lab, "", "fd00:1:2::2");
    reaches_at_once(&lab, "ip netns exec ns1", "fd00:1:2::1");
    let address = gateway_address(&lab);
    assert!(address.contains("nodad") && !address.contains("tentative"), "{address}");
    lab.plugin("bridge").verb("CHECK").config(&config).run().silent();
    let second = lab.plugin("bridge").container("c2").netns(&lab.netns("ns2")).config(&bridge_config(&changes));
    second.run().result();
    reaches_at_once(&lab, "ip netns exec ns2", "fd00:1:2::2");
    assert_eq!(gateway_address(&lab), address);
    second.verb("DEL").run().silent();
    lab.plugin("bridge").verb("DEL").config(&config).run().silent();
    assert_eq!(lab.veths(), Vec::<String>::new());
}

#[test]
fn an_ipv6_gateway_is_looked_for_where_the_bridge_leads_outside() {
    let lab = lab();
    lab.sh(
        "ip link add cni0 type bridge; ip link set cni0 up; ip link add out0 type ifb; ip link set out0 master cni0 up",
    )
    .success();
    add(&lab, &json!({"isGateway": true, "ipam": {"subnet": "fd00:1:2::/64"}})).result();
    let address = gateway_address(&lab);
    assert!(address.contains("fd00:1:2::1/64") && !address.contains("nodad"), "{address}");
    wait_for("the address", || !gateway_address(&lab).contains("tentative"));
}

#[test]
fn the_references_ipv6_gateway_is_left_as_it_is() {
    let lab = lab();
    let changes = json!({"isGateway": true, "ipam": {"subnet": "fd00:1:2::/64"}});
    lab.reference("bridge").config(&bridge_config(&changes)).run().result();
    wait_for("the address", || !gateway_address(&lab).contains("tentative"));
    let address = gateway_address(&lab);
    let second = lab.plugin("bridge").container("c2").netns(&lab.netns("ns2")).config(&bridge_config(&changes));
    second.run().result();
    assert_eq!(gateway_address(&lab), address);
    assert!(!address.contains("nodad"), "{address}");
}
