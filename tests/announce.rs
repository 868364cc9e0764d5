//! An address that another container had a moment ago is reached at once, by those too who still remember that one.

use serde_json::{Value, json};

use crate::bridge::{reaches, sysctl};
use crate::devices::{Device, host};
use crate::lab::{Call, Lab, merged};
use crate::ptp;

/// One address in each family that is given to one container after the other.
pub const REUSED: [&str; 2] = ["10.1.2.5", "fd00:1:2::5"];

/// The address management of a container with addresses that end in `last`.
fn fixed(last: u8) -> Value {
    let address = |subnet: &str, length: u8| json!({"address": format!("{subnet}{last}/{length}"), "gateway": format!("{subnet}1")});
    json!({"type": "static", "addresses": [address("10.1.2.", 24), address("fd00:1:2::", 64)]})
}

/// Pings once, from a namespace (empty: the host).
fn pings(lab: &Lab, netns: &str, address: &str) -> bool {
    let enter: Vec<_> = ["ip", "netns", "exec", netns].into_iter().filter(|_| !netns.is_empty()).collect();
    lab.run(&[enter, vec!["ping", "-n", "-c", "1", "-W", "1", address]].concat()).code == Some(0)
}

/// `first` is attached, reached from all `places` and removed; `second` then has its addresses and is reached by the first
/// packet. Some place at least must have remembered the wrong hardware address in between, if there is one.
fn is_reached_at_once(lab: &Lab, first: &Call<'_>, second: &Call<'_>, places: &[&str], remembers: bool) {
    first.run().result();
    let pairs: Vec<_> = places.iter().flat_map(|place| REUSED.map(|address| (*place, address))).collect();
    pairs.iter().for_each(|(place, address)| reaches(lab, place, address));
    first.clone().verb("DEL").run().silent();
    let known = |place: &str| {
        let enter = if place.is_empty() { String::new() } else { format!("-n {place} ") };
        let lines = lab.ok(&format!("ip {enter}neigh show"));
        lines.lines().any(|line| line.contains("REACHABLE") && REUSED.iter().any(|address| line.starts_with(address)))
    };
    assert_eq!(places.iter().any(|place| known(place)), remembers, "the test's own condition");
    second.run().result();
    let missed: Vec<_> = pairs.iter().filter(|(place, address)| !pings(lab, place, address)).collect();
    assert_eq!(missed, [&("", ""); 0], "not reached from there by the first packet");
}

fn bridge<'a>(lab: &'a Lab, netns: &str, last: u8, changes: &Value) -> Call<'a> {
    let base = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "isGateway": true, "ipam": fixed(last)});
    let call = lab.plugin("bridge").config(&merged(base, changes)).container(netns);
    call.netns(&format!("/var/run/netns/{netns}"))
}

/// The kernel's own announcement (`arp_notify`) comes when the container's end goes up, and the port is not forwarding yet.
#[test]
fn better_a_reused_address_on_a_bridge_is_reached_at_once() {
    for changes in [json!({}), json!({"macspoofchk": true}), json!({"hairpinMode": true, "mtu": 1400})] {
        let lab = Lab::new();
        ["ns1", "ns2", "ns3"].iter().for_each(|name| drop(lab.netns(name)));
        bridge(&lab, "ns3", 9, &changes).run().result();
        let calls = ["ns1", "ns2"].map(|netns| bridge(&lab, netns, 5, &changes));
        is_reached_at_once(&lab, &calls[0], &calls[1], &["", "ns3"], true);
        for (family, setting) in [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")] {
            assert_eq!(sysctl(&lab, "ns2", &format!("net/{family}/conf/eth0/{setting}")), "1");
        }
    }
}

/// The same without a gateway: nobody waits until the IPv6 address can be used.
#[test]
fn better_a_reused_address_without_a_gateway_is_reached_at_once() {
    let lab = Lab::new();
    ["ns1", "ns2", "ns3"].iter().for_each(|name| drop(lab.netns(name)));
    let plain = |last: u8| {
        let addresses = json!([{"address": format!("10.1.2.{last}/24")}, {"address": format!("fd00:1:2::{last}/64")}]);
        json!({"isGateway": false, "ipam": {"addresses": addresses}})
    };
    bridge(&lab, "ns3", 9, &plain(9)).run().result();
    let calls = ["ns1", "ns2"].map(|netns| bridge(&lab, netns, 5, &plain(5)));
    is_reached_at_once(&lab, &calls[0], &calls[1], &["ns3"], true);
}

/// The pair is new, so nobody can remember the old one's hardware address. But the host's end has to be usable: the
/// reference leaves the kernel looking whether somebody else has the gateway's IPv6 address, a second or two.
#[test]
fn better_a_reused_address_behind_ptp_is_reached_at_once() {
    let lab = ptp::lab("nft");
    ["ns2", "ns3"].iter().for_each(|name| drop(lab.netns(name)));
    let call = |netns: &str, last: u8| {
        let ipam = merged(fixed(last), &json!({"subnet": null, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}));
        let config = ptp::config(&json!({"ipam": ipam}));
        lab.plugin("ptp").config(&config).container(netns).netns(&format!("/var/run/netns/{netns}"))
    };
    call("ns3", 9).run().result();
    is_reached_at_once(&lab, &call("ns1", 5), &call("ns2", 5), &["", "ns3"], false);
}

/// Two devices on two masters that are on one network, so that their hardware addresses differ; `link` is what a machine
/// of that network has its address on.
pub fn on_another_master(device: &Device, link: &str) {
    let lab = host();
    let links = "link add n0 mtu 1450 type veth peer name n1 netns outside\nlink set n0 up\nnetns add ns3\n";
    let outside = format!(
        "link add sw0 up type bridge\nlink set n1 up\nlink set m1 master sw0\nlink set n1 master sw0\n{link}\n\
         addr add 10.1.2.1/24 dev peer\naddr add fd00:1:2::1/64 dev peer nodad\nlink set peer up\n"
    );
    Call::new(&lab, "ip").args_list(&["-batch", "-"]).stdin(links).run().success();
    Call::new(&lab, "ip").args_list(&["-n", "outside", "-batch", "-"]).stdin(outside).run().success();
    let call = |netns: &str, master: &str, last: u8| {
        let ipam = merged(fixed(last), &json!({"ranges": null, "routes": null}));
        let device = device.with(&json!({"master": master, "ipam": ipam}));
        device.call(&lab).container(netns).netns(&format!("/var/run/netns/{netns}"))
    };
    let mut places = vec!["outside"];
    if device.plugin != "vlan" {
        // Of one VLAN there is one device on a master.
        call("ns3", "m0", 9).run().result();
        places.push("ns3");
    }
    is_reached_at_once(&lab, &call("ns1", "m0", 5), &call("ns2", "n0", 5), &places, true);
}

#[test]
fn a_reused_address_of_a_macvlan_is_reached_at_once() {
    on_another_master(&Device::new("macvlan", &json!({})), "link set sw0 down\nlink set sw0 name peer");
}
