//! Router advertisements: VRFs and VLANs on the host, and containers with an ipvlan, vlan or dummy.

use serde_json::json;

use crate::advertisements::{Way, is_left_to_the_kernel, is_limited_by_ipam, is_limited_unheard};
use crate::forwarding::{accept_ra, advertise, defaults, host, set_accept_ra};
use crate::lab::{Lab, bridge_config, router};

fn ways() -> [Way; 2] {
    let vlan = "ip -n router link add link r0 name r0.5 type vlan id 5; ip -n router link set r0.5 up";
    [
        Way::new("ipvlan", json!({"master": "up0", "mode": "l2"}), "", "r0"),
        Way::new("vlan", json!({"master": "up0", "vlanId": 5}), vlan, "r0.5"),
    ]
}

#[test]
fn better_an_ipvlan_vlan_or_dummy_takes_nothing_beside_what_ipam_gives() {
    is_limited_by_ipam(&ways());
    let lab = Lab::new();
    lab.netns("ns1");
    lab.sh("ip link add up0 type veth peer name r0; ip link set up0 up; ip link set r0 up").success();
    is_limited_unheard(&lab, "ipvlan", &json!({"master": "up0", "mode": "l3"}));
    is_limited_unheard(&lab, "dummy", &json!({}));
}

#[test]
fn an_ipvlan_or_vlan_without_ipv6_addresses_of_ipam_takes_advertisements() {
    is_left_to_the_kernel(&ways());
}

#[test]
fn better_addresses_of_the_plugin_in_front_of_an_ipvlan_count() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.sh("ip link add up0 type veth peer name r0; ip link set up0 up; ip link set r0 up").success();
    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "up0"}],
        "ips": [{"address": "fd00:71::5/64", "interface": 0}], "routes": [{"dst": "::/0", "gw": "fd00:71::1"}]});
    let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "ipvlan", "prevResult": previous});
    lab.plugin("ipvlan").config(&config).run().result();
    for setting in ["autoconf", "accept_ra"] {
        assert_eq!(crate::bridge::sysctl(&lab, "ns1", &format!("net/ipv6/conf/eth0/{setting}")), "0", "{setting}");
    }
}

#[test]
fn better_a_link_in_a_vrf_keeps_its_default_route_beside_a_gateway_in_a_vlan() {
    let lab = host();
    lab.sh("ip link add blue type vrf table 100; ip link set blue up; ip link set up0 master blue").success();
    advertise(&lab, "up0");
    let routes = || lab.ok("ip -6 route show table 100 default").matches(" dev up0 ").count();
    assert_eq!(routes(), 1);
    let ranges = json!([[{"subnet": "fd00:71::/64"}]]);
    let config = json!({"isGateway": true, "vlan": 100, "ipam": {"subnet": null, "ranges": ranges}});
    lab.plugin("bridge").config(&bridge_config(&config)).run().result();
    assert_eq!((routes(), accept_ra(&lab, "up0")), (1, "2".to_string()));
    // A container in the VLAN is no router of the host's (CVE-2020-10749).
    router::advertise(&lab, ("ns1", "eth0"), ("", "cni0.100"));
    assert_eq!((accept_ra(&lab, "cni0.100"), defaults(&lab, "cni0.100")), ("0".to_string(), 0));
    set_accept_ra(&lab, "cni0.100", 2);
    router::advertise(&lab, ("ns1", "eth0"), ("", "cni0.100"));
    assert_eq!(defaults(&lab, "cni0.100"), 1, "the attack itself");
}
