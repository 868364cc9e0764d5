//! ptp: what it makes, seen in the kernel and by traffic, beside what the reference makes.

use serde_json::{Value, json};

use crate::bridge::reaches;
use crate::lab::{Call, Configurations, Lab, Snapshot, merged, wait_for, without_random_names};

/// ptp + host-local: `net`, 10.7.2.0/24, version 1.0.0.
pub fn config(changes: &Value) -> Value {
    let base = json!({"cniVersion": "1.0.0", "name": "net", "type": "ptp",
        "ipam": {"type": "host-local", "subnet": "10.7.2.0/24", "routes": [{"dst": "0.0.0.0/0"}]}});
    merged(base, changes)
}

/// Both families, masqueraded.
pub fn dual() -> Value {
    let ranges = json!([[{"subnet": "10.7.2.0/24"}], [{"subnet": "fd00:7:2::/64"}]]);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    json!({"ipMasq": true, "ipam": {"subnet": null, "ranges": ranges, "routes": routes}})
}

/// Addresses with gateways from static; `ips` are pairs.
fn fixed(ips: &[(&str, &str)]) -> Value {
    let addresses: Vec<Value> = ips
        .iter()
        .map(|(address, gateway)| match *gateway {
            "" => json!({"address": address}),
            gateway => json!({"address": address, "gateway": gateway}),
        })
        .collect();
    json!({"ipam": {"type": "static", "subnet": null, "routes": null, "addresses": addresses}})
}

/// A host with `ns1`, whose `iptables` is of this flavour.
pub fn lab(flavour: &str) -> Lab {
    let lab = Lab::new();
    lab.install_iptables(flavour);
    lab.netns("ns1");
    lab
}

fn ours<'a>(lab: &'a Lab, changes: &Value) -> Call<'a> {
    lab.plugin("ptp").config(&config(changes))
}

/// The configurations that people have, and that both can do.
pub fn configurations() -> Configurations {
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.50.0.0/16", "gw": "10.7.2.1"}, {"dst": "10.51.0.0/16", "gw": "10.7.2.9"}]);
    vec![
        ("plain", json!({})),
        ("masqueraded, old version", json!({"ipMasq": true, "cniVersion": "0.4.0", "mtu": 1400})),
        ("dual stack", dual()),
        ("routes through others", json!({"ipam": {"routes": routes}})),
        ("no routes", json!({"ipam": {"routes": null}})),
        ("static", fixed(&[("10.7.2.7/24", "10.7.2.1")])),
        ("two subnets", fixed(&[("10.7.2.7/24", "10.7.2.1"), ("10.8.2.7/16", "10.8.0.1")])),
        ("point to point prefix", fixed(&[("10.7.2.7/31", "10.7.2.6")])),
        ("dns", json!({"dns": {"nameservers": ["192.0.2.1"]}})),
    ]
}

/// What is in the container: links, addresses and routes as `ip` prints them, names and addresses of links replaced.
fn container(lab: &Lab) -> Vec<String> {
    let mut lines = Vec::new();
    wait_for("eth0 up", || lab.link_in("ns1", "eth0")["operstate"] == "UP");
    for words in ["addr show dev eth0 scope global", "-4 route show table all", "-6 route show table main"] {
        let text = lab.ok(&format!("ip -d -n ns1 {words}"));
        let own = text.lines().map(str::trim).filter(|line| !line.contains("fe80::") && !line.contains("valid_lft"));
        // Ours has addresses without a subnet route instead of deleting it; 1.1.1 leaves no queue length.
        let own = own.map(|line| line.split(" qlen").next().unwrap().replace(" noprefixroute", ""));
        let plain = own.map(|line| without_indexes(&without_random_names(&line)));
        lines.extend(plain);
    }
    lines
}

fn without_indexes(line: &str) -> String {
    let at = line.find("@if");
    let cut = at.map_or(line.to_string(), |at| {
        let rest = line[at + 3..].trim_start_matches(|letter: char| letter.is_ascii_digit());
        format!("{}@if{rest}", &line[..at])
    });
    let colon = cut.find(": ").filter(|at| cut[..*at].bytes().all(|byte| byte.is_ascii_digit()));
    colon.map_or(cut.clone(), |at| cut[at..].to_string())
}

fn made_by(call: &dyn Fn(&Lab) -> Value, flavour: &str) -> (Value, Snapshot, Vec<String>) {
    let lab = lab(flavour);
    let mut result = call(&lab);
    result = serde_json::from_str(&without_random_names(&result.to_string())).unwrap();
    // Debian's 1.1.1 prints an empty dns in every version, HEAD only below 1.0.0.
    result.as_object_mut().unwrap().retain(|key, value| key != "dns" || *value != json!({}));
    (result, lab.snapshot().map(without_random_names), container(&lab))
}

#[test]
fn both_make_the_same_result_host_and_container() {
    both_make_the_same(configurations());
}

pub fn both_make_the_same(configurations: Configurations) {
    for (name, changes) in configurations {
        let flavour = if name == "dual stack" { "legacy" } else { "nft" };
        let config = config(&changes);
        let ours = made_by(&|lab| lab.plugin("ptp").config(&config).run().result(), flavour);
        let theirs = made_by(&|lab| lab.reference("ptp").config(&config).run().result(), flavour);
        assert_eq!(ours.0, theirs.0, "{name}");
        assert_eq!(ours.2, theirs.2, "{name}");
        eprintln!("{name}; gone = only the reference, new = only ours");
        theirs.1.assert_same(&ours.1);
    }
}

/// ADD by one side, CHECK and DEL by the other; the host must be as before.
fn round_trip(adds: &dyn Fn(&Lab) -> String, removes: &dyn Fn(&Lab) -> String) {
    for flavour in ["nft", "legacy"] {
        for (name, changes) in configurations() {
            let lab = lab(flavour);
            lab.reference("ptp");
            let run = |folder: &str, verb: &str, config: &Value| {
                Call::plugin(&lab, folder, "ptp").verb(verb).config(config).run()
            };
            let mut config = config(&changes);
            run(&adds(&lab), "ADD", &config).result();
            run(&adds(&lab), "DEL", &config).success();
            let before = lab.snapshot();
            config["prevResult"] = run(&adds(&lab), "ADD", &config).result();
            run(&removes(&lab), "CHECK", &config).silent();
            run(&removes(&lab), "DEL", &config).silent();
            eprintln!("{name}, iptables-{flavour}");
            before.assert_same(&lab.snapshot());
            assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
            run(&adds(&lab), "DEL", &config).silent();
        }
    }
}

#[test]
fn the_reference_adds_and_we_check_and_delete() {
    round_trip(&|_| crate::lab::REFERENCE.to_string(), &|_| crate::lab::PLUGINS.to_string());
}

#[test]
fn we_add_and_the_reference_checks_and_deletes() {
    round_trip(&|_| crate::lab::PLUGINS.to_string(), &|_| crate::lab::REFERENCE.to_string());
}

#[test]
fn all_ways_lead_through_the_gateway() {
    let lab = lab("nft");
    ours(&lab, &dual()).run().result();
    let default = "default via 10.7.2.1 dev eth0";
    let subnet = "10.7.2.0/24 via 10.7.2.1 dev eth0 src 10.7.2.2";
    assert_eq!(lab.routes("ns1", "-4"), [default, subnet, "10.7.2.1 dev eth0 scope link src 10.7.2.2"]);
    let six = lab.routes("ns1", "-6");
    assert!(six.iter().any(|line| line.starts_with("fd00:7:2::1 dev eth0 src fd00:7:2::2 ")), "{six:?}");
    assert!(six.iter().any(|line| line.starts_with("fd00:7:2::/64 via fd00:7:2::1 dev eth0 src ")), "{six:?}");
}

/// An outside host, 192.0.2.9 and fd00:9::9, behind the host's interface `up0`, without a way back to containers.
pub fn outside(lab: &Lab) {
    lab.netns("out");
    lab.ok("ip link add up0 type veth peer name eth0 netns out");
    for (place, addresses) in [("", "192.0.2.1/24 fd00:9::1/64"), ("-n out", "192.0.2.9/24 fd00:9::9/64")] {
        let link = if place.is_empty() { "up0" } else { "eth0" };
        for address in addresses.split(' ') {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            lab.ok(&format!("ip {place} addr add {address} dev {link} {nodad}"));
        }
        lab.ok(&format!("ip {place} link set {link} up"));
    }
}

#[test]
fn traffic_with_the_host_between_containers_and_masqueraded_to_the_outside() {
    for backend in ["iptables", "nftables"] {
        for flavour in ["nft", "legacy"] {
            traffic(backend, flavour);
        }
    }
}

/// With the host, between containers, and masqueraded to the outside, in both families.
pub fn traffic(backend: &str, flavour: &str) {
    let lab = lab(flavour);
    outside(&lab);
    let changes = merged(dual(), &json!({"ipMasqBackend": backend}));
    ours(&lab, &changes).run().result();
    let ns2 = lab.netns("ns2");
    ours(&lab, &changes).container("c2").netns(&ns2).run().result();
    for address in ["10.7.2.1", "10.7.2.3", "192.0.2.9", "fd00:7:2::1", "fd00:7:2::3", "fd00:9::9"] {
        reaches(&lab, "ns1", address);
    }
    reaches(&lab, "", "10.7.2.2");
    reaches(&lab, "", "fd00:7:2::2");
}

#[test]
fn better_addresses_of_full_length_work() {
    let lab = lab("nft");
    let changes = merged(
        fixed(&[("10.7.2.7/32", "169.254.1.1"), ("fd00::7/128", "fd00:1::1")]),
        &json!({"ipMasq": true,
        "ipam": {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}),
    );
    outside(&lab);
    let mut config = config(&changes);
    config["prevResult"] = lab.plugin("ptp").config(&config).run().result();
    for address in ["169.254.1.1", "192.0.2.9", "fd00:9::9"] {
        reaches(&lab, "ns1", address);
    }
    lab.plugin("ptp").verb("CHECK").config(&config).run().silent();
    lab.plugin("ptp").verb("DEL").config(&config).run().silent();
    assert_eq!((lab.veths().len(), lab.rules().len()), (0, 0));
}

#[test]
fn better_two_addresses_may_share_a_gateway() {
    let lab = lab("nft");
    let mut config = config(&fixed(&[("10.7.2.7/24", "10.7.2.1"), ("10.7.2.8/24", "10.7.2.1")]));
    config["prevResult"] = lab.plugin("ptp").config(&config).run().result();
    reaches(&lab, "", "10.7.2.7");
    reaches(&lab, "", "10.7.2.8");
    lab.plugin("ptp").verb("CHECK").config(&config).run().silent();
}

/// The reference takes any route to the container's address for its own. (Of two to an IPv6 address the older one counts.)
#[test]
fn better_a_stale_route_of_the_host_does_not_take_the_containers_packets() {
    let lab = lab("nft");
    outside(&lab);
    lab.ok("ip route add 10.7.2.2/32 dev up0");
    let before = lab.snapshot();
    let mut config = config(&json!({}));
    config["prevResult"] = lab.plugin("ptp").config(&config).run().result();
    reaches(&lab, "", "10.7.2.2");
    lab.plugin("ptp").verb("CHECK").config(&config).run().silent();
    lab.plugin("ptp").verb("DEL").config(&config).run().silent();
    before.assert_same(&lab.snapshot());
}

#[test]
fn better_a_missing_gateway_is_refused_before_anything_is_made() {
    let lab = lab("nft");
    let before = lab.snapshot();
    let forwarding = || crate::bridge::sysctl(&lab, "", "net/ipv4/ip_forward");
    let forwards = forwarding();
    let outcome = ours(&lab, &fixed(&[("10.7.2.7/24", "10.7.2.1"), ("fd00::7/64", "")])).run();
    outcome.fails(999, "failed to add IP addr to veth: the IPAM plugin gave fd00::7/64 no IPv6 gateway");
    before.assert_same(&lab.snapshot());
    assert_eq!(forwarding(), forwards);
}

#[test]
fn forwarding_is_switched_on_for_the_families_that_there_are() {
    let lab = lab("nft");
    let six = || crate::bridge::sysctl(&lab, "", "net/ipv6/conf/all/forwarding");
    let before = six();
    ours(&lab, &json!({})).run().result();
    assert_eq!(crate::bridge::sysctl(&lab, "", "net/ipv4/ip_forward"), "1");
    assert_eq!(six(), before);
    let ns2 = lab.netns("ns2");
    ours(&lab, &dual()).container("c2").netns(&ns2).run().result();
    assert_eq!(six(), "1");
}

#[test]
fn mtu_reaches_both_ends_and_the_hosts_end_is_deaf_to_routers() {
    let lab = lab("nft");
    let result = ours(&lab, &json!({"mtu": 1400})).run().result();
    let name = result["interfaces"][0]["name"].as_str().unwrap();
    assert_eq!((&lab.link(name)["mtu"], &lab.link_in("ns1", "eth0")["mtu"]), (&json!(1400), &json!(1400)));
    assert_eq!(crate::bridge::sysctl(&lab, "", &format!("net/ipv6/conf/{name}/accept_ra")), "0");
    assert_eq!(result["interfaces"][0]["mac"], lab.link(name)["address"]);
    assert_eq!(result["interfaces"][1]["mac"], lab.link_in("ns1", "eth0")["address"]);
}

#[test]
fn newer_dns_comes_from_the_configuration_if_it_says_anything_and_else_from_ipam() {
    let lab = lab("nft");
    let theirs = json!({"nameservers": ["192.0.2.53"]});
    let own = json!({"nameservers": ["192.0.2.1"]});
    let ipam = merged(fixed(&[("10.7.2.7/24", "10.7.2.1")]), &json!({"ipam": {"dns": theirs}}));
    for (dns, expected) in [(json!(null), theirs.clone()), (own.clone(), own), (json!({"search": []}), json!(null))] {
        let changes = merged(ipam.clone(), &json!({"dns": dns}));
        let result = ours(&lab, &changes).run().result();
        let found = result.get("dns").filter(|dns| **dns != json!({})).cloned().unwrap_or_default();
        assert_eq!(found, expected, "{dns}");
        ours(&lab, &changes).verb("DEL").run().silent();
    }
}
