//! sbr and routes of every kind: several next hops, gateways outside the subnet, next-hop objects, subnets that several
//! interfaces share.

use serde_json::json;

use crate::lab::Lab;
use crate::sbr::{DUAL, V4, config, lab, ours, routes, rules, state, way};

fn has(lab: &Lab, family: &str, route: &str) {
    let routes = routes(lab, family);
    assert!(routes.iter().any(|line| line == route), "no {route} in {routes:#?}");
}

/// A second interface in the same subnets as net1, whose routes come first.
fn neighbour(lab: &Lab) {
    lab.ok("ip -n ns1 addr flush dev net1 scope global");
    lab.ok("ip -n ns1 addr add 10.0.0.3/24 dev eth0");
    lab.ok("ip -n ns1 addr add 2001:db8::3/64 dev eth0 nodad");
    crate::sbr::addresses(lab);
}

/// Of two interfaces with a default route each, which in IPv6 the kernel makes one of.
#[test]
fn better_one_of_several_next_hops_is_moved() {
    for hints in [false, true] {
        let lab = lab();
        lab.ok("ip -n ns1 -6 addr add 2001:db8:1::2/64 dev eth0 nodad");
        lab.ok("ip -n ns1 -6 route append default via 2001:db8:1::1 dev eth0");
        lab.ok("ip -n ns1 -6 route append default via 2001:db8::1 dev net1");
        lab.ok("ip -n ns1 -6 route append default via 2001:db8::7 dev net1");
        let before = state(&lab);
        assert!(before[2].iter().any(|line| line.starts_with("nexthop via 2001:db8::7")));
        let bad = config(DUAL, &json!({"addSourceHints": hints, "gateways": ["10.9.9.9"]}));
        ours(&lab, "ADD", &bad).run().fails_with(999, &["Failed to add default route"]);
        assert_eq!(state(&lab), before);
        let config = config(DUAL, &json!({"addSourceHints": hints}));
        ours(&lab, "ADD", &config).run().result();
        has(&lab, "-6", "default via 2001:db8:1::1 dev eth0 metric 1024");
        let hops: Vec<_> = routes(&lab, "-6").into_iter().filter(|line| line.starts_with("nexthop")).collect();
        assert_eq!(hops, ["nexthop via 2001:db8::1 dev net1 weight 1", "nexthop via 2001:db8::7 dev net1 weight 1"]);
        ours(&lab, "CHECK", &config).run().silent();
        ours(&lab, "DEL", &config).run().silent();
        assert!(!routes(&lab, "-6").iter().any(|line| line.contains("table") || line.starts_with("nexthop")));
    }
}

#[test]
fn better_routes_by_a_next_hop_object_keep_it() {
    let lab = lab();
    lab.ok("ip -n ns1 nexthop add id 7 via 10.0.0.77 dev net1");
    lab.ok("ip -n ns1 route add 198.18.0.0/15 nhid 7");
    lab.ok("ip -n ns1 nexthop add id 8 via 2001:db8::77 dev net1");
    lab.ok("ip -n ns1 -6 route add 2001:db8:8::/48 nhid 8");
    ours(&lab, "ADD", &config(DUAL, &json!({}))).run().result();
    has(&lab, "-4", "198.18.0.0/15 nhid 7 via 10.0.0.77 dev net1 table 100");
    has(&lab, "-6", "2001:db8:8::/48 nhid 8 via 2001:db8::77 dev net1 table 101 metric 1024");
    assert_eq!(routes(&lab, "-4").iter().filter(|line| line.contains("nhid")).count(), 1);
}

/// A router that names itself by its link-local address, and a next hop that is no neighbour by its address.
#[test]
fn better_gateways_outside_the_subnet_are_not_lost() {
    let lab = lab();
    lab.ok("ip -n ns1 -6 route add default via fe80::1 dev net1");
    lab.ok("ip -n ns1 route add 198.18.0.0/15 via 169.254.1.1 dev net1 onlink");
    let ips = json!([{"address": "10.0.0.2/24", "interface": 1}, {"address": "2001:db8::2/64", "interface": 1}]);
    let config = config(&[], &json!({"prevResult": {"ips": ips}}));
    ours(&lab, "ADD", &config).run().result();
    has(&lab, "-6", "default via fe80::1 dev net1 table 101 metric 1024");
    has(&lab, "-4", "198.18.0.0/15 via 169.254.1.1 dev net1 table 100 onlink");
    assert!(way(&lab, "2001:db8:77::1", "2001:db8::2").contains("via fe80::1 dev net1 table 101"));
}

#[test]
fn better_the_results_default_route_may_lead_to_a_link_local_gateway() {
    let lab = lab();
    let ips = json!([{"address": "2001:db8::2/64", "interface": 1}]);
    let defaults = json!([{"dst": "::/0", "gw": "fe80::1"}]);
    ours(&lab, "ADD", &config(&[], &json!({"prevResult": {"ips": ips, "routes": defaults}}))).run().result();
    has(&lab, "-6", "default via fe80::1 dev net1 table 100 metric 1024");
}

#[test]
fn an_ipv6_only_interface_keeps_its_ipv4_routes() {
    let lab = lab();
    let before = state(&lab);
    let config = config(&["2001:db8::2/64"], &json!({}));
    ours(&lab, "ADD", &config).run().result();
    assert_eq!(state(&lab)[1], before[1]);
    has(&lab, "-6", "default via 2001:db8::1 dev net1 table 100 metric 1024");
    ours(&lab, "CHECK", &config).run().silent();
    ours(&lab, "DEL", &config).run().silent();
    assert_eq!(rules(&lab), before[0]);
}

#[test]
fn better_an_interface_in_the_same_subnets_keeps_its_routes() {
    for hints in [false, true] {
        let lab = lab();
        neighbour(&lab);
        let before = state(&lab);
        let of_eth0 = |lines: [Vec<String>; 3]| {
            lines.map(|lines| lines.into_iter().filter(|line| line.contains("eth0")).collect::<Vec<_>>())
        };
        let bad = config(DUAL, &json!({"addSourceHints": hints, "gateways": ["10.9.9.9"]}));
        ours(&lab, "ADD", &bad).run().fails_with(999, &["Failed to add default route"]);
        assert_eq!(state(&lab), before);
        let bad =
            config(&["2001:db8::2/64", "10.0.0.2/24"], &json!({"addSourceHints": hints, "gateways": ["10.9.9.9"]}));
        ours(&lab, "ADD", &bad).run().fails_with(999, &["Failed to add default route"]);
        assert_eq!(state(&lab), before);
        ours(&lab, "ADD", &config(DUAL, &json!({"addSourceHints": hints}))).run().result();
        assert_eq!(of_eth0(state(&lab)), of_eth0(before));
        if hints {
            has(&lab, "-4", "10.0.0.0/24 dev net1 scope link src 10.0.0.2");
            has(&lab, "-6", "2001:db8::/64 dev net1 src 2001:db8::2 metric 1024");
        }
    }
}

#[test]
fn better_two_routes_to_one_destination_both_move() {
    let lab = lab();
    lab.ok("ip -n ns1 route append 192.0.2.0/24 via 10.0.0.9");
    ours(&lab, "ADD", &config(V4, &json!({}))).run().result();
    has(&lab, "-4", "192.0.2.0/24 via 10.0.0.1 dev net1 table 100");
    has(&lab, "-4", "192.0.2.0/24 via 10.0.0.9 dev net1 table 100");
}

/// A rule that asks for more than the source is somebody else's.
#[test]
fn better_rules_with_further_conditions_are_not_sbrs() {
    let lab = lab();
    for more in ["to 198.18.0.0/15", "fwmark 7", "iif eth0", "ipproto tcp dport 80", "tos 0x10"] {
        lab.ok(&format!("ip -n ns1 rule add from 10.0.0.2 {more} lookup 300"));
    }
    lab.ok("ip -n ns1 rule add not from 10.0.0.2 lookup 300");
    let before = rules(&lab);
    let config = config(V4, &json!({}));
    ours(&lab, "CHECK", &config).run().fails(999, "Expected rule from 10.0.0.2 not found");
    ours(&lab, "ADD", &config).run().result();
    assert!(rules(&lab).iter().any(|line| line.ends_with("from 10.0.0.2 lookup 100")), "{:?}", rules(&lab));
    ours(&lab, "DEL", &config).run().silent();
    assert_eq!(rules(&lab), before);
}
