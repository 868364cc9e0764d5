//! sbr: rules, tables and the main table, beside the reference; DEL whatever became of the interface.

use serde_json::{Value, json};

use crate::lab::{Call, Configurations, Lab, merged, reference_is_newer};

pub const V4: &[&str] = &["10.0.0.2/24"];
pub const DUAL: &[&str] = &["10.0.0.2/24", "2001:db8::2/64"];

/// A host with `ns1`: `eth0` with the pod's default route, and `net1` that sbr is about.
pub fn lab() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    for (host, name, mac) in [("v0", "eth0", "02"), ("v1", "net1", "03")] {
        lab.ok(&format!("ip link add {host} type veth peer name {name} address 02:00:00:00:00:{mac} netns ns1"));
        lab.ok(&format!("ip link set {host} up"));
        lab.ok(&format!("ip -n ns1 link set {name} up"));
    }
    lab.ok("ip -n ns1 addr add 172.16.0.2/24 dev eth0");
    lab.ok("ip -n ns1 route add default via 172.16.0.1");
    addresses(&lab);
    lab
}

/// What the plugin before sbr has done.
pub fn addresses(lab: &Lab) {
    lab.ok("ip -n ns1 addr replace 10.0.0.2/24 dev net1");
    lab.ok("ip -n ns1 addr replace 2001:db8::2/64 dev net1 nodad");
    lab.ok("ip -n ns1 route replace 192.0.2.0/24 via 10.0.0.1");
    lab.ok("ip -n ns1 -6 route replace 2001:db8:9::/48 via 2001:db8::1");
}

pub fn config(ips: &[&str], changes: &Value) -> Value {
    let gateway = |ip: &str| if ip.contains(':') { "2001:db8::1" } else { "10.0.0.1" };
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"address": ip, "gateway": gateway(ip), "interface": 1})).collect();
    let base = json!({"cniVersion": "1.0.0", "name": "net", "type": "sbr",
        "prevResult": {"cniVersion": "1.0.0", "ips": ips, "dns": {"nameservers": ["10.0.0.1"]}, "interfaces": [
            {"name": "v1", "mac": "02:00:00:00:00:01"},
            {"name": "net1", "mac": "02:00:00:00:00:03", "sandbox": "/var/run/netns/ns1"}]}});
    merged(base, changes)
}

pub fn ours<'a>(lab: &'a Lab, verb: &str, config: &Value) -> Call<'a> {
    lab.plugin("sbr").verb(verb).ifname("net1").config(config)
}

pub fn theirs<'a>(lab: &'a Lab, verb: &str, config: &Value) -> Call<'a> {
    lab.reference("sbr").verb(verb).ifname("net1").config(config)
}

fn trimmed(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines: Vec<String> = text.lines().map(words).collect();
    lines.sort();
    lines
}

/// Rules of both families.
pub fn rules(lab: &Lab) -> Vec<String> {
    [trimmed(&lab.ok("ip -n ns1 rule")), trimmed(&lab.ok("ip -n ns1 -6 rule"))].concat()
}

/// Routes of a family that are not the kernel's own.
pub fn routes(lab: &Lab, family: &str) -> Vec<String> {
    let text = lab.ok(&format!("ip -n ns1 {family} route show table all"));
    let mut lines = trimmed(&text.replace(" linkdown", "").replace(" pref medium", ""));
    lines.retain(|line| !line.contains("table local") && !line.starts_with("multicast"));
    lines
}

pub fn state(lab: &Lab) -> [Vec<String>; 3] {
    [rules(lab), routes(lab, "-4"), routes(lab, "-6")]
}

/// How the kernel would send a packet from one address to another.
pub fn way(lab: &Lab, to: &str, from: &str) -> String {
    lab.ok(&format!("ip -n ns1 route get {to} from {from}")).lines().next().unwrap().trim().to_string()
}

/// What both do in the same way, as far as the family of the address goes.
fn configurations() -> Configurations {
    vec![
        ("v4", config(V4, &json!({}))),
        (
            "v4 without gateway",
            config(&[], &json!({"prevResult": {"ips": [{"address": "10.0.0.2/24", "interface": 1}]}})),
        ),
        ("no index", config(&[], &json!({"prevResult": {"ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}]}}))),
        (
            "another interface too",
            config(
                &[],
                &json!({"prevResult": {"ips": [{"address": "172.16.0.2/24", "interface": 0},
                    {"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1}]}}),
            ),
        ),
        (
            "old version",
            config(
                &[],
                &json!({"cniVersion": "0.3.1", "prevResult": {"cniVersion": "0.3.1",
                "ips": [{"version": "4", "address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1}]}}),
            ),
        ),
    ]
}

#[test]
fn both_make_the_same_rules_and_routes() {
    for (name, config) in configurations() {
        eprintln!("{name}");
        let (lab, other) = (lab(), lab());
        assert_eq!(ours(&lab, "ADD", &config).run().result(), theirs(&other, "ADD", &config).run().result());
        assert_eq!((rules(&lab), routes(&lab, "-4")), (rules(&other), routes(&other, "-4")));
        assert_eq!(
            way(&lab, "198.51.100.1", "172.16.0.2"),
            "198.51.100.1 from 172.16.0.2 via 172.16.0.1 dev eth0 uid 0"
        );
        if name != "old version" {
            ours(&lab, "CHECK", &config).run().silent();
        }
        ours(&lab, "DEL", &config).run().silent();
        theirs(&other, "DEL", &config).run().silent();
        assert_eq!(rules(&lab), rules(&other));
    }
}

#[test]
fn each_ends_what_the_other_began() {
    for theirs_first in [false, true] {
        let lab = lab();
        let before = rules(&lab);
        let config = config(DUAL, &json!({}));
        let calls = [ours, theirs];
        calls[usize::from(theirs_first)](&lab, "ADD", &config).run().result();
        assert_eq!(rules(&lab).len(), before.len() + 2);
        calls[usize::from(!theirs_first)](&lab, "DEL", &config).run().silent();
        assert_eq!(rules(&lab), before);
    }
}

#[test]
fn better_each_family_has_its_table_and_link_local_routes_stay() {
    let lab = lab();
    ours(&lab, "ADD", &config(DUAL, &json!({}))).run().result();
    assert_eq!(
        rules(&lab),
        [
            "0: from all lookup local",
            "32765: from 10.0.0.2 lookup 100",
            "32766: from all lookup main",
            "32767: from all lookup default",
            "0: from all lookup local",
            "32765: from 2001:db8::2 lookup 101",
            "32766: from all lookup main"
        ]
    );
    assert_eq!(
        routes(&lab, "-4"),
        [
            "10.0.0.0/24 dev net1 table 100 proto kernel scope link src 10.0.0.2",
            "172.16.0.0/24 dev eth0 proto kernel scope link src 172.16.0.2",
            "192.0.2.0/24 via 10.0.0.1 dev net1 table 100",
            "default via 10.0.0.1 dev net1 table 100",
            "default via 172.16.0.1 dev eth0"
        ]
    );
    assert_eq!(
        routes(&lab, "-6"),
        [
            "2001:db8:9::/48 via 2001:db8::1 dev net1 table 101 metric 1024",
            "2001:db8::/64 dev net1 table 101 proto kernel metric 256",
            "default via 2001:db8::1 dev net1 table 101 metric 1024",
            "fe80::/64 dev eth0 proto kernel metric 256",
            "fe80::/64 dev net1 proto kernel metric 256",
            "fe80::/64 dev net1 table 101 proto kernel metric 256"
        ]
    );
    assert_eq!(
        way(&lab, "198.51.100.1", "10.0.0.2"),
        "198.51.100.1 from 10.0.0.2 via 10.0.0.1 dev net1 table 100 uid 0"
    );
    assert!(way(&lab, "2001:db8:77::1", "2001:db8::2").contains("via 2001:db8::1 dev net1 table 101"));
}

#[test]
fn packets_reach_the_host_and_come_back() {
    let lab = lab();
    lab.ok("ip addr add 10.0.0.1/24 dev v1");
    lab.ok("ip -6 addr add 2001:db8::1/64 dev v1 nodad");
    lab.ok("ip addr add 198.51.100.1/32 dev lo");
    lab.ok("ip -6 addr add 2001:db8:77::1/128 dev lo nodad");
    ours(&lab, "ADD", &config(DUAL, &json!({}))).run().result();
    for (from, to) in [("10.0.0.2", "198.51.100.1"), ("2001:db8::2", "2001:db8:77::1"), ("10.0.0.2", "10.0.0.1")] {
        lab.ok(&format!("ip netns exec ns1 ping -c 1 -W 5 -I {from} {to}"));
    }
}

#[test]
fn newer_a_table_of_ones_own_gets_only_rules() {
    for table in [200, 4000] {
        let lab = lab();
        let before = state(&lab);
        let config = config(DUAL, &json!({"table": table, "gateways": ["nonsense"]}));
        for _ in 0..2 {
            ours(&lab, "ADD", &config).run().result();
        }
        let after = state(&lab);
        assert_eq!(after[0].len(), before[0].len() + 2, "better: only once");
        assert!(after[0].contains(&format!("32765: from 10.0.0.2 lookup {table}")));
        assert_eq!(after[1..], before[1..]);
        ours(&lab, "CHECK", &config).run().silent();
        lab.ok("ip -n ns1 route add 203.0.113.0/24 dev net1 table 4000");
        // Another's rule about the same address.
        lab.ok("ip -n ns1 rule add from 10.0.0.2 lookup 300");
        ours(&lab, "DEL", &config).run().silent();
        lab.ok("ip -n ns1 rule del from 10.0.0.2 lookup 300");
        lab.ok("ip -n ns1 route del 203.0.113.0/24 dev net1 table 4000");
        assert_eq!(state(&lab), before);
        if reference_is_newer() {
            let other = crate::sbr::lab();
            theirs(&other, "ADD", &config).run().result();
            assert_eq!(state(&other), after);
        }
    }
}

#[test]
fn better_a_static_gateway_counts_also_where_there_is_a_default_route() {
    let lab = lab();
    lab.ok("ip -n ns1 route del default");
    lab.ok("ip -n ns1 route add default via 10.0.0.1");
    lab.ok("ip -n ns1 -6 route add default via 2001:db8::1");
    let config = config(DUAL, &json!({"gateways": ["10.0.0.254", "2001:db8::fe"]}));
    ours(&lab, "ADD", &config).run().result();
    let defaults =
        |family: &str| routes(&lab, family).into_iter().filter(|line| line.starts_with("default")).collect::<Vec<_>>();
    assert_eq!(defaults("-4"), ["default via 10.0.0.254 dev net1 table 100"]);
    assert_eq!(defaults("-6"), ["default via 2001:db8::fe dev net1 table 101 metric 1024"]);
    ours(&lab, "CHECK", &config).run().silent();
}

#[test]
fn better_the_gateway_may_be_that_of_the_results_default_route() {
    let lab = lab();
    let ips = json!([{"address": "10.0.0.2/24", "interface": 1}, {"address": "2001:db8::2/64", "interface": 1}]);
    let defaults = json!([{"dst": "0.0.0.0/0", "gw": "172.16.0.1"}, {"dst": "0.0.0.0/0", "gw": "10.0.0.1"},
        {"dst": "::/0", "gw": "2001:db8::1"}]);
    ours(&lab, "ADD", &config(&[], &json!({"prevResult": {"ips": ips, "routes": defaults}}))).run().result();
    assert!(routes(&lab, "-4").contains(&"default via 10.0.0.1 dev net1 table 100".to_string()));
    assert!(routes(&lab, "-6").contains(&"default via 2001:db8::1 dev net1 table 101 metric 1024".to_string()));
}

#[test]
fn better_source_hints_stay_in_the_main_table() {
    let lab = lab();
    let config = config(DUAL, &json!({"addSourceHints": true}));
    for _ in 0..2 {
        ours(&lab, "ADD", &config).run().result();
        let main = |family: &str| {
            let all = routes(&lab, family).into_iter();
            all.filter(|line| line.contains("net1") && !line.contains("table")).collect::<Vec<_>>()
        };
        assert_eq!(main("-4"), ["10.0.0.0/24 dev net1 scope link src 10.0.0.2"]);
        assert_eq!(
            main("-6"),
            ["2001:db8::/64 dev net1 src 2001:db8::2 metric 1024", "fe80::/64 dev net1 proto kernel metric 256"]
        );
    }
}

#[test]
fn bad_input_is_refused_in_the_references_words_and_changes_nothing() {
    let cases = [
        (json!({"prevResult": null}), "This plugin must be called as chained plugin"),
        (json!({"prevResult": {"ips": []}}), "No IP addresses supplied on interface: net1"),
        (
            json!({"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "x"}]}}),
            "could not parse prevResult: invalid CIDR address: x",
        ),
    ];
    let newer = [
        (json!({"table": "x"}), "failed to parse network configuration: json: cannot unmarshal string"),
        (
            json!({"gateways": ["10.0.0.1", "2001:db8::1", "10.0.0.3"]}),
            "gateways list cannot contain more than 2 entries (one IPv4, one IPv6)",
        ),
        (json!({"gateways": ["x"]}), "invalid static gateway IP address: x"),
        (
            json!({"gateways": ["10.0.0.1", "10.0.0.3"]}),
            "gateways list contains multiple IPv4 addresses: 10.0.0.1 and 10.0.0.3",
        ),
        (
            json!({"gateways": ["fe80::1", "fe80::2"]}),
            "gateways list contains multiple IPv6 addresses: fe80::1 and fe80::2",
        ),
        (json!({"table": -1}), "invalid table -1"),
        (json!({"table": 0}), "invalid table 0"),
    ];
    let lab = lab();
    let before = state(&lab);
    for (changes, text) in &cases {
        theirs(&lab, "ADD", &config(DUAL, changes)).run().fails_with(999, &[text]);
    }
    assert_eq!(state(&lab), before);
    for (changes, text) in cases.iter().chain(&newer) {
        ours(&lab, "ADD", &config(DUAL, changes)).run().fails_with(999, &[text]);
        assert_eq!(state(&lab), before);
    }
    for call in [ours, theirs] {
        let text = "Cannot find network interface net7: Link not found";
        let prev = json!({"prevResult": {"interfaces": []}});
        call(&lab, "ADD", &config(DUAL, &prev)).ifname("net7").run().fails(999, text);
    }
    assert_eq!(state(&lab), before);
    lab.write("/run/netns/file", "");
    let add = ours(&lab, "ADD", &config(DUAL, &json!({})));
    add.clone().netns("/run/netns/none").run().fails_with(999, &["no such file or directory"]);
    add.netns("/run/netns/file").run().fails_with(999, &["unknown FS magic on \"/run/netns/file\""]);
    assert!(!lab.exists("/run/netns/none"));
    assert_eq!(state(&lab), before);
}

#[test]
fn better_a_result_without_an_address_of_the_interface_changes_nothing() {
    let lab = lab();
    let before = state(&lab);
    let ips = json!([{"address": "172.16.0.2/24", "interface": 0}]);
    ours(&lab, "ADD", &config(&[], &json!({"prevResult": {"ips": ips}}))).run().result();
    assert_eq!(state(&lab), before);
}

#[test]
fn better_routes_keep_what_they_have() {
    let lab = lab();
    lab.ok("ip -n ns1 route add 198.18.0.0/15 via 10.0.0.77 dev net1 onlink metric 7 mtu 1300 proto static");
    lab.ok("ip -n ns1 -6 route add 2001:db8:8::/48 via 2001:db8::77 dev net1 metric 7 mtu 1300 proto static");
    ours(&lab, "ADD", &config(DUAL, &json!({}))).run().result();
    let v4 = "198.18.0.0/15 via 10.0.0.77 dev net1 table 100 proto static metric 7 onlink mtu 1300";
    assert!(routes(&lab, "-4").contains(&v4.to_string()), "{:?}", routes(&lab, "-4"));
    let v6 = "2001:db8:8::/48 via 2001:db8::77 dev net1 table 101 proto static metric 7 mtu 1300";
    assert!(routes(&lab, "-6").contains(&v6.to_string()), "{:?}", routes(&lab, "-6"));
}
