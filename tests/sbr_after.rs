//! sbr afterwards: a second ADD, what fails, CHECK, DEL, GC, STATUS.

use serde_json::{Value, json};

use crate::kills::{Accident, Trial, every};
use crate::lab::{Lab, Outcome, merged};
use crate::sbr::{DUAL, V4, addresses, config, lab, ours, routes, rules, state, way};

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

/// Neither the interface nor the result says which addresses they were: nobody has them any more.
#[test]
fn better_del_finds_rules_that_nobody_needs() {
    for (table, others) in [(Value::Null, "100"), (json!(200), "200")] {
        let lab = lab();
        let config = config(DUAL, &json!({"table": table}));
        lab.ok("ip -n ns1 rule add from 172.16.0.2 lookup 300");
        lab.ok("ip -n ns1 rule add from 172.16.0.9 lookup 50");
        lab.ok("ip -n ns1 rule add from 172.20.0.0/16 lookup 300");
        lab.ok("ip -n ns1 rule add from 172.16.0.9 fwmark 1 lookup 300");
        lab.ok("ip -n ns1 route add 203.0.113.0/24 dev eth0 table 400");
        lab.ok("ip -n ns1 rule add from 172.16.0.9 lookup 400");
        let before = rules(&lab);
        ours(&lab, "ADD", &config).run().result();
        assert!(rules(&lab).iter().any(|line| line.ends_with(&format!("from 10.0.0.2 lookup {others}"))));
        lab.ok("ip -n ns1 link del net1");
        let nothing = merged(config, &json!({"prevResult": null}));
        for _ in 0..2 {
            ours(&lab, "DEL", &nothing).run().silent();
            assert_eq!(rules(&lab), before);
        }
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
    check().fails(999, "Expected default route via 2001:db8::1 in routing table 101 not found");
    lab.ok("ip -n ns1 -6 route add default via 2001:db8::1 dev net1 table 101");
    lab.ok("ip -n ns1 route replace default via 172.16.0.1 dev eth0 table 100");
    check().fails(999, "Expected default route via 10.0.0.1 in routing table 100 not found");
    lab.ok("ip -n ns1 route replace default via 10.0.0.1 dev net1 table 100 onlink");
    lab.ok("ip -n ns1 route del 10.0.0.0/24 table 100");
    check().fails(999, "Expected route to 10.0.0.0/24 in routing table 100 not found");
    lab.ok("ip -n ns1 route add 10.0.0.0/24 dev net1 table 100");
    lab.ok("ip -n ns1 -6 rule del from 2001:db8::2");
    check().fails(999, "Expected rule from 2001:db8::2 not found");
    let hints = crate::sbr::config(DUAL, &json!({"addSourceHints": true}));
    ours(&lab, "ADD", &hints).run().result();
    ours(&lab, "CHECK", &hints).run().silent();
    lab.ok("ip -n ns1 route del 10.0.0.0/24 dev net1");
    ours(&lab, "CHECK", &hints).run().fails(999, "Expected route to 10.0.0.0/24 in the main routing table not found");
    lab.ok("ip -n ns1 link del net1");
    check().fails(999, "Cannot find network interface net1: Link not found");
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
