//! Traffic of vlan and ipvlan in every mode and both families: between containers, with the outside, and with the host.

use serde_json::json;

use crate::bridge::reaches;
use crate::devices::{Device, host, second};
use crate::lab::{Call, Lab};

/// Runs lines of `ip -batch`; `netns` empty is the host.
fn ip(lab: &Lab, netns: &str, lines: &str) {
    let place: &[&str] = if netns.is_empty() { &[] } else { &["-n", netns] };
    Call::new(lab, "ip").args_list(&[place, &["-batch", "-"]].concat()).stdin(lines).run().success();
}

fn all_reach(lab: &Lab, pairs: &[(&str, &str)]) {
    pairs.iter().for_each(|(netns, address)| reaches(lab, netns, address));
}

/// Two containers, a device of the host's own on the master, and a router's way from outside.
fn ipvlan(mode: &str) -> Lab {
    let lab = host();
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    let device = Device::new("ipvlan", &json!({"mode": mode, "ipam": {"routes": routes}})).dual();
    device.add(&lab).result();
    second(device.call(&lab)).run().result();
    let own = format!("link add link m0 name h0 type ipvlan mode {mode}\naddr add 10.1.2.254/24 dev h0\n");
    ip(&lab, "", &format!("{own}addr add fd00:1:2::fe/64 dev h0 nodad\nlink set h0 up\n"));
    lab
}

const BETWEEN_THEM_AND_WITH_THE_HOST: [(&str, &str); 6] = [
    ("ns1", "10.1.2.3"),
    ("ns1", "fd00:1:2::3"),
    ("ns1", "10.1.2.254"),
    ("ns1", "fd00:1:2::fe"),
    ("", "10.1.2.2"),
    ("", "fd00:1:2::2"),
];

#[test]
fn ipvlan_l2() {
    let lab = ipvlan("l2");
    all_reach(&lab, &BETWEEN_THEM_AND_WITH_THE_HOST);
    ip(&lab, "outside", "addr add 10.1.2.1/24 dev m1\naddr add fd00:1:2::1/64 dev m1 nodad\n");
    all_reach(
        &lab,
        &[("ns1", "10.1.2.1"), ("ns1", "fd00:1:2::1"), ("outside", "10.1.2.2"), ("outside", "fd00:1:2::2")],
    );
}

/// The host's routes say where packets go, and whoever is outside sends them to the host.
fn routed(mode: &str) {
    let lab = ipvlan(mode);
    all_reach(&lab, &BETWEEN_THEM_AND_WITH_THE_HOST);
    ip(&lab, "", "addr add 192.0.2.1/24 dev m0\naddr add fd00:2::1/64 dev m0 nodad\n");
    let addresses = "addr add 192.0.2.2/24 dev m1\naddr add fd00:2::2/64 dev m1 nodad\n";
    let routes = "route add 10.1.2.0/24 via 192.0.2.1\nroute add fd00:1:2::/64 via fd00:2::1\n";
    ip(&lab, "outside", &format!("{addresses}{routes}"));
    all_reach(&lab, &[("ns1", "192.0.2.2"), ("ns1", "fd00:2::2"), ("outside", "10.1.2.2"), ("outside", "fd00:1:2::2")]);
}

#[test]
fn ipvlan_l3() {
    routed("l3");
}

#[test]
fn ipvlan_l3s() {
    routed("l3s");
}

/// One container on the host's end of a cable, one on the other end of it.
#[test]
fn vlan_between_containers() {
    let lab = host();
    let device = Device::new("vlan", &json!({"vlanId": 5})).dual();
    device.add(&lab).result();
    let other = device.with(&json!({"master": "m1", "linkInContainer": true}));
    other.call(&lab).container("c2").netns("/var/run/netns/outside").run().result();
    all_reach(&lab, &[("ns1", "10.1.2.3"), ("ns1", "fd00:1:2::3")]);
    // Another id is another network.
    ip(
        &lab,
        "outside",
        "link set eth0 down\nlink add link m1 name x type vlan id 6\naddr add 10.1.2.3/24 dev x\nlink set x up\n",
    );
    let ping = ["ip", "netns", "exec", "ns1", "ping", "-n", "-c", "1", "-W", "1", "10.1.2.3"];
    assert_ne!(lab.run(&ping).code, Some(0));
}

#[test]
fn vlan_with_the_host() {
    let lab = host();
    ip(&lab, "", "link add h0 type veth peer name h1\nlink set h0 up\nlink set h1 up\n");
    Device::new("vlan", &json!({"vlanId": 5, "master": "h0"})).dual().add(&lab).result();
    let addresses = "addr add 10.1.2.1/24 dev h1.5\naddr add fd00:1:2::1/64 dev h1.5 nodad\n";
    ip(&lab, "", &format!("link add link h1 name h1.5 type vlan id 5\n{addresses}link set h1.5 up\n"));
    all_reach(&lab, &[("ns1", "10.1.2.1"), ("ns1", "fd00:1:2::1"), ("", "10.1.2.2"), ("", "fd00:1:2::2")]);
}
