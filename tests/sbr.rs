//! sbr: rules, tables and the main table, beside the reference; DEL whatever became of the interface.

use serde_json::{Value, json};

use crate::kills::{Accident, Trial, every};
use crate::lab::{Call, Configurations, Lab, Outcome, merged, reference_is_newer};

const V4: &[&str] = &["10.0.0.2/24"];
const DUAL: &[&str] = &["10.0.0.2/24", "2001:db8::2/64"];

/// A host with `ns1`: `eth0` with the pod's default route, and `net1` that sbr is about.
fn lab() -> Lab {
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
fn addresses(lab: &Lab) {
    lab.ok("ip -n ns1 addr replace 10.0.0.2/24 dev net1");
    lab.ok("ip -n ns1 addr replace 2001:db8::2/64 dev net1 nodad");
    lab.ok("ip -n ns1 route replace 192.0.2.0/24 via 10.0.0.1");
    lab.ok("ip -n ns1 -6 route replace 2001:db8:9::/48 via 2001:db8::1");
}

fn config(ips: &[&str], changes: &Value) -> Value {
    let gateway = |ip: &str| if ip.contains(':') { "2001:db8::1" } else { "10.0.0.1" };
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"address": ip, "gateway": gateway(ip), "interface": 1})).collect();
    let base = json!({"cniVersion": "1.0.0", "name": "net", "type": "sbr",
        "prevResult": {"cniVersion": "1.0.0", "ips": ips, "dns": {"nameservers": ["10.0.0.1"]}, "interfaces": [
            {"name": "v1", "mac": "02:00:00:00:00:01"},
            {"name": "net1", "mac": "02:00:00:00:00:03", "sandbox": "/var/run/netns/ns1"}]}});
    merged(base, changes)
}

fn ours<'a>(lab: &'a Lab, verb: &str, config: &Value) -> Call<'a> {
    lab.plugin("sbr").verb(verb).ifname("net1").config(config)
}

fn theirs<'a>(lab: &'a Lab, verb: &str, config: &Value) -> Call<'a> {
    lab.reference("sbr").verb(verb).ifname("net1").config(config)
}

fn trimmed(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines: Vec<String> = text.lines().map(words).collect();
    lines.sort();
    lines
}

/// Rules of both families.
fn rules(lab: &Lab) -> Vec<String> {
    [trimmed(&lab.ok("ip -n ns1 rule")), trimmed(&lab.ok("ip -n ns1 -6 rule"))].concat()
}

/// Routes of a family that are not the kernel's own.
fn routes(lab: &Lab, family: &str) -> Vec<String> {
    let text = lab.ok(&format!("ip -n ns1 {family} route show table all"));
    let mut lines = trimmed(&text.replace(" linkdown", "").replace(" pref medium", ""));
    lines.retain(|line| !line.contains("table local") && !line.starts_with("multicast"));
    lines
}

fn state(lab: &Lab) -> [Vec<String>; 3] {
    [rules(lab), routes(lab, "-4"), routes(lab, "-6")]
}

/// How the kernel would send a packet from one address to another.
fn way(lab: &Lab, to: &str, from: &str) -> String {
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
fn better_a_second_add_and_one_after_del_change_nothing() {
    let lab = lab();
    let config = config(DUAL, &json!({}));
    ours(&lab, "ADD", &config).run().result();
    let once = state(&lab);
    ours(&lab, "ADD", &config).run().result();
    assert_eq!(state(&lab), once);
    for _ in 0..2 {
        ours(&lab, "DEL", &config).run().silent();
    }
    let gone = state(&lab);
    assert!(!gone.iter().flatten().any(|line| line.contains(" 100") || line.contains("101")), "{gone:?}");
    ours(&lab, "ADD", &config).run().result();
    assert!(way(&lab, "198.51.100.1", "10.0.0.2").contains("via 10.0.0.1 dev net1 table 100"));
    assert!(way(&lab, "2001:db8:77::1", "2001:db8::2").contains("via 2001:db8::1 dev net1 table 101"));
    ours(&lab, "CHECK", &config).run().silent();
    ours(&lab, "DEL", &config).run().silent();
    lab.ok("ip -n ns1 addr flush dev net1 scope global");
    addresses(&lab);
    ours(&lab, "ADD", &config).run().result();
    assert_eq!(state(&lab), once);
}

#[test]
fn better_tables_with_routes_but_no_rule_are_in_use() {
    let lab = lab();
    lab.ok("ip -n ns1 route add 203.0.113.0/24 dev eth0 table 100");
    lab.ok("ip -n ns1 -6 route add 2001:db8:5::/64 dev eth0 table 101");
    lab.ok("ip -n ns1 rule add fwmark 7 lookup 102");
    ours(&lab, "ADD", &config(DUAL, &json!({}))).run().result();
    let rules = rules(&lab);
    assert!(rules.contains(&"32764: from 10.0.0.2 lookup 103".to_string()), "{rules:?}");
    assert!(rules.contains(&"32765: from 2001:db8::2 lookup 104".to_string()), "{rules:?}");
}

#[test]
fn several_interfaces_have_their_own_tables() {
    let lab = lab();
    let first = config(V4, &json!({}));
    let second = config(
        &[],
        &json!({"prevResult": {"interfaces": [{"name": "eth0", "sandbox": "/var/run/netns/ns1"}],
        "ips": [{"address": "172.16.0.2/24", "gateway": "172.16.0.1", "interface": 0}]}}),
    );
    ours(&lab, "ADD", &first).run().result();
    ours(&lab, "ADD", &second).ifname("eth0").run().result();
    assert!(way(&lab, "198.51.100.1", "10.0.0.2").contains("dev net1 table 100"));
    assert!(way(&lab, "198.51.100.1", "172.16.0.2").contains("dev eth0 table 101"));
    ours(&lab, "DEL", &first).run().silent();
    assert!(way(&lab, "198.51.100.1", "172.16.0.2").contains("dev eth0 table 101"));
}

#[test]
fn many_at_once_take_different_tables() {
    let lab = lab();
    for number in 1..=8 {
        lab.ok(&format!("ip -n ns1 link add m{number} type veth peer name n{number}"));
        lab.ok(&format!("ip -n ns1 link set m{number} up"));
        lab.ok(&format!("ip -n ns1 addr add 10.{number}.0.2/24 dev m{number}"));
    }
    std::thread::scope(|scope| {
        for number in 1..=8 {
            let lab = &lab;
            scope.spawn(move || {
                let result = json!({"interfaces": [{"name": format!("m{number}"), "sandbox": "/var/run/netns/ns1"}],
                    "ips": [{"address": format!("10.{number}.0.2/24"), "gateway": format!("10.{number}.0.1"), "interface": 0}]});
                let config = config(&[], &json!({"prevResult": result}));
                ours(lab, "ADD", &config).ifname(&format!("m{number}")).run().result();
            });
        }
    });
    let mut tables: Vec<String> = rules(&lab)
        .into_iter()
        .filter(|line| line.contains("from 10."))
        .map(|line| line.split(' ').next_back().unwrap().to_string())
        .collect();
    tables.sort();
    assert_eq!(tables, ["100", "101", "102", "103", "104", "105", "106", "107"]);
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
    ours(&lab, "ADD", &config(DUAL, &json!({})))
        .netns("/run/netns/none")
        .run()
        .fails_with(999, &["no such file or directory"]);
    assert!(!lab.exists("/run/netns/none"));
}

#[test]
fn better_a_failed_add_leaves_everything_as_it_was() {
    for hints in [false, true] {
        for gateway in ["10.9.9.9", "2001:db8:ffff::1"] {
            let lab = lab();
            let before = state(&lab);
            let changes = json!({"addSourceHints": hints, "gateways": [gateway]});
            let text = format!("Failed to add default route to {gateway}: ");
            ours(&lab, "ADD", &config(DUAL, &changes)).run().fails_with(999, &[&text]);
            assert_eq!(state(&lab), before);
            ours(&lab, "ADD", &config(DUAL, &json!({}))).run().result();
            let with_one = state(&lab);
            ours(&lab, "ADD", &config(DUAL, &changes)).run().fails_with(999, &[&text]);
            assert_eq!(state(&lab), with_one);
        }
    }
}

#[test]
fn better_a_source_hint_that_is_refused_fails_the_add() {
    let lab = lab();
    let before = state(&lab);
    let config = config(&["10.0.0.7/24"], &json!({"addSourceHints": true}));
    ours(&lab, "ADD", &config).run().fails_with(999, &["Failed to add route to 10.0.0.0/24: invalid argument"]);
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

/// A plugin behind sbr fails, in a chain whose other plugins are other programs.
#[test]
fn better_what_a_later_plugin_fails_is_undone() {
    for hints in [false, true] {
        let lab = lab();
        let result = config(DUAL, &json!({}))["prevResult"].to_string();
        lab.executable(
            "/opt/cni/bin/first",
            &format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho '{result}'\n"),
        );
        let fails = "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho '{\"code\":99,\"msg\":\"no\"}'\nexit 1\n";
        lab.executable("/opt/cni/bin/fails", fails);
        let plugins = json!([{"type": "first"}, {"type": "sbr", "addSourceHints": hints}, {"type": "fails"}]);
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins});
        lab.write("/etc/cni/net.d/10-net.conflist", list.to_string());
        let before = state(&lab);
        lab.cnitool(&["add", "net", "/var/run/netns/ns1"]).env("CNI_IFNAME", "net1").run().dies_with(&["no"]);
        assert_eq!(state(&lab), before, "{hints}");
    }
}

#[test]
fn better_an_add_that_is_killed_or_refused_any_of_its_changes_is_undone() {
    for accident in [Accident::Killed, Accident::Refused] {
        let lab = lab();
        let config = config(DUAL, &json!({"addSourceHints": true}));
        let refresh = || {
            lab.ok("ip -n ns1 addr flush dev net1 scope global");
            addresses(&lab);
        };
        let before = state(&lab);
        let is_killed = matches!(accident, Accident::Killed);
        let untouched = || {
            // DEL does not bring back what the main table has lost; whoever made the interface removes it.
            let has_moved = routes(&lab, "-4").iter().all(|line| !line.contains("10.0.0.0/24 dev net1 proto kernel"));
            if is_killed || has_moved {
                assert_eq!(rules(&lab), before[0]);
                assert!(!state(&lab).iter().flatten().any(|line| line.contains("table")));
                refresh();
            }
            assert_eq!(state(&lab), before);
        };
        let (add, delete) = (ours(&lab, "ADD", &config), ours(&lab, "DEL", &config));
        add.run().result();
        delete.run().silent();
        refresh();
        Trial { lab: &lab, add, delete, ioctls: 0, which: every, untouched: &untouched }.suffers(accident);
    }
}

#[test]
fn better_del_cleans_up_whatever_became_of_the_interface() {
    type End = fn(&Lab) -> Outcome;
    let ends: [(&str, End); 4] = [
        ("no result", |lab| ours(lab, "DEL", &config(DUAL, &json!({"prevResult": null}))).run()),
        ("no link", |lab| {
            lab.ok("ip -n ns1 link del net1");
            ours(lab, "DEL", &config(DUAL, &json!({}))).run()
        }),
        ("no addresses", |lab| {
            lab.ok("ip -n ns1 addr flush dev net1");
            ours(lab, "DEL", &config(DUAL, &json!({}))).run()
        }),
        ("nonsense", |lab| {
            let nonsense = json!({"table": "x", "gateways": 7, "prevResult": {"cniVersion": "9"}});
            ours(lab, "DEL", &config(DUAL, &nonsense)).run()
        }),
    ];
    for (name, end) in ends {
        eprintln!("{name}");
        let lab = lab();
        let before = rules(&lab);
        ours(&lab, "ADD", &config(DUAL, &json!({}))).run().result();
        end(&lab).silent();
        assert_eq!(rules(&lab), before);
    }
}

#[test]
fn better_del_succeeds_without_a_namespace_and_makes_no_file() {
    let lab = lab();
    let config = config(DUAL, &json!({}));
    ours(&lab, "ADD", &config).run().result();
    lab.ok("ip netns del ns1");
    let del = ours(&lab, "DEL", &config);
    for call in [del.clone(), del.clone().netns(""), del.clone().netns("/nowhere/at/all")] {
        call.run().silent();
    }
    assert!(!lab.exists("/run/netns/ns1"));
    lab.write("/run/netns/ns1", "");
    del.run().silent();
}

#[test]
fn better_del_leaves_rules_that_are_not_sbrs() {
    let lab = lab();
    lab.ok("ip -n ns1 rule add from 10.0.0.2 lookup main pref 50");
    lab.ok("ip -n ns1 rule add from 10.0.0.9 lookup 100 pref 60");
    let before = rules(&lab);
    ours(&lab, "ADD", &config(V4, &json!({}))).run().result();
    assert!(rules(&lab).iter().any(|line| line.ends_with("from 10.0.0.2 lookup 101")));
    ours(&lab, "DEL", &config(V4, &json!({}))).run().silent();
    assert_eq!(rules(&lab), before);
}

#[test]
fn better_check_names_what_is_missing() {
    let lab = lab();
    let config = config(DUAL, &json!({}));
    let check = || ours(&lab, "CHECK", &config).run();
    check().fails(999, "Expected rule from 10.0.0.2 not found");
    ours(&lab, "ADD", &config).run().result();
    check().silent();
    lab.ok("ip -n ns1 -6 route del default table 101");
    check().fails(999, "Expected default route via 2001:db8::1 not found in routing table 101");
    lab.ok("ip -n ns1 -6 route add default via 2001:db8::1 dev net1 table 101");
    lab.ok("ip -n ns1 -6 rule del from 2001:db8::2");
    check().fails(999, "Expected rule from 2001:db8::2 not found");
}

#[test]
fn newer_gc_and_status() {
    let lab = lab();
    for (verb, changes) in [("GC", json!({"cni.dev/valid-attachments": []})), ("STATUS", json!({}))] {
        let config = merged(config(V4, &changes), &json!({"cniVersion": "1.1.0", "prevResult": null}));
        ours(&lab, verb, &config).run().silent();
    }
    let bad = merged(config(V4, &json!({"gateways": ["x"]})), &json!({"cniVersion": "1.1.0", "prevResult": null}));
    ours(&lab, "STATUS", &bad).run().fails(50, "invalid static gateway IP address: x");
}

/// The lock is the reference's: a file lock on the namespace itself.
#[test]
fn the_namespaces_lock_is_waited_for() {
    let lab = lab();
    let holder = Call::new(&lab, "flock").args_list(&["/var/run/netns/ns1", "sleep", "100"]).spawn();
    crate::lab::wait_for("the lock", || lab.run(&["flock", "-n", "/var/run/netns/ns1", "true"]).code != Some(0));
    let before = state(&lab);
    let waiting = ours(&lab, "ADD", &config(V4, &json!({}))).spawn();
    crate::lab::wait_for("the plugin to wait", || {
        let text = std::fs::read_to_string(format!("/proc/{}/syscall", waiting.pid())).unwrap_or_default();
        text.starts_with(&format!("{} ", libc::SYS_flock))
    });
    assert_eq!(state(&lab), before);
    holder.kill();
    // The program that flock runs has the lock too.
    drop(waiting);
}

#[test]
fn a_chain_of_bridge_tuning_and_sbr() {
    let lab = Lab::new();
    lab.netns("ns1");
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipam": ipam});
    let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [bridge, {"type": "tuning", "mtu": 1400}, {"type": "sbr"}]});
    lab.write("/etc/cni/net.d/10-net.conflist", list.to_string());
    let call = |verb: &str| lab.cnitool(&[verb, "net", "/var/run/netns/ns1"]).run();
    let before = state(&lab);
    for _ in 0..2 {
        let result = call("add").result();
        assert_eq!(result["ips"].as_array().unwrap().len(), 2);
        let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
        lab.ok(&format!("ip netns exec ns1 ping -c 1 -W 5 -I {address} 10.1.2.1"));
        let lines = state(&lab);
        assert!(lines[1].contains(&"default via 10.1.2.1 dev eth0 table 100".to_string()), "{lines:?}");
        assert!(lines[2].contains(&"default via fd00:1:2::1 dev eth0 table 101 metric 1024".to_string()), "{lines:?}");
        assert_eq!(lab.link_in("ns1", "eth0")["mtu"], 1400);
        call("del").silent();
        call("del").silent();
        assert_eq!(state(&lab), before);
    }
}
