//! tuning afterwards: a second ADD, what fails, CHECK, DEL, GC, STATUS.

use serde_json::{Value, json};

use crate::kills::{Accident, Trial, every};
use crate::lab::{Call, Lab, Outcome, merged};
use crate::tuning::{ALLOWLIST, FILE, SAVED, config, full, interface, lab, ours, state};

#[test]
fn better_a_second_add_keeps_the_originals() {
    let lab = lab();
    let before = state(&lab);
    ours(&lab, "ADD", &json!({"mtu": 1400})).result();
    ours(&lab, "ADD", &json!({"mtu": 1300, "mac": "02:00:00:00:00:44", "promisc": true})).result();
    let golden = "{\n \"mac\": \"02:00:00:00:00:02\",\n \"promisc\": false,\n \"mtu\": 1500\n}";
    assert_eq!(lab.read(FILE), golden);
    ours(&lab, "DEL", &json!({})).silent();
    assert_eq!(state(&lab), before);
    ours(&lab, "ADD", &json!({"mtu": 1350})).result();
    ours(&lab, "DEL", &json!({})).silent();
    ours(&lab, "DEL", &json!({})).silent();
    assert_eq!(state(&lab), before);
}

/// cnitool makes the container id of the namespace's path.
#[test]
fn better_the_originals_of_an_earlier_namespace_do_not_count() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"mtu": 1400, "promisc": true})).result();
    for made_anew in [false, true] {
        lab.ok("ip link del vh");
        lab.ok("ip netns del ns1");
        lab.netns("ns1");
        interface(&lab);
        lab.ok("ip -n ns1 link set eth0 mtu 1450");
        if made_anew {
            ours(&lab, "ADD", &json!({"mtu": 1400})).result();
            assert_eq!(lab.read(FILE), "{\n \"mtu\": 1450\n}");
        }
        ours(&lab, "DEL", &json!({})).silent();
        assert_eq!(lab.link_in("ns1", "eth0")["mtu"], 1450);
        assert_eq!(lab.list(SAVED), [".cni-box"]);
    }
}

#[test]
fn better_del_forgets_what_cannot_be_put_back() {
    type End = fn(&Lab, Call<'_>) -> Outcome;
    let endings: [(&str, End); 4] = [
        ("no namespace", |lab, call| {
            lab.ok("ip netns del ns1");
            call.run()
        }),
        ("no name of it", |_, call| call.netns("").run()),
        ("a file instead", |lab, call| {
            lab.ok("ip netns del ns1");
            lab.write("/run/netns/ns1", "");
            call.run()
        }),
        ("no link", |lab, call| {
            lab.ok("ip -n ns1 link del eth0");
            call.run()
        }),
    ];
    for (name, end) in endings {
        let lab = lab();
        ours(&lab, "ADD", &full()).result();
        eprintln!("{name}");
        end(&lab, lab.plugin("tuning").verb("DEL").config(&config(&full()))).silent();
        assert_eq!((lab.list(SAVED), lab.list(&format!("{SAVED}/.cni-box")).len()), (vec![".cni-box".to_string()], 0));
    }
}

#[test]
fn better_del_does_not_mind_nonsense() {
    let lab = lab();
    let before = state(&lab);
    ours(&lab, "ADD", &json!({"mtu": 1300})).result();
    let nonsense = json!({"mtu": "x", "mac": 1, "sysctl": ["y"], "prevResult": null, "args": {"cni": 1}});
    lab.plugin("tuning").verb("DEL").args("A;B").config(&config(&nonsense)).run().silent();
    assert_eq!(state(&lab), before);
}

#[test]
fn what_is_no_backup_is_forgotten_and_changes_nothing() {
    for text in ["", "{", "[]", "{\"mac\": 1}", "{\"mac\": \"x\", \"mtu\": 1400}", "{\"mtu\": -1}"] {
        let lab = lab();
        let before = state(&lab);
        lab.write(FILE, text);
        ours(&lab, "DEL", &json!({})).silent();
        assert_eq!(state(&lab), before, "{text}");
    }
}

/// What the kernel refuses to put back is kept.
#[test]
fn del_succeeds_and_keeps_what_the_kernel_refuses() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"mtu": 1300})).result();
    lab.write(FILE, "{\"mtu\": 10, \"promisc\": true}");
    ours(&lab, "DEL", &json!({})).silent();
    assert_eq!(lab.list(SAVED), [".cni-box", "c1_eth0.json"]);
    assert_eq!(lab.link_in("ns1", "eth0")["promiscuity"], 1, "all else is put back");
}

#[test]
fn better_a_failed_add_leaves_everything_as_it_was() {
    let bad = [
        json!({"mtu": 70000}),
        json!({"sysctl": {"net.ipv4.ip_default_ttl": "900"}}),
        json!({"mac": "01:00:00:00:00:01"}),
    ];
    for changes in bad {
        for is_second in [false, true] {
            let lab = lab();
            if is_second {
                ours(&lab, "ADD", &json!({"mtu": 1350})).result();
            }
            let file = || lab.exists(FILE).then(|| lab.read(FILE));
            let before = (state(&lab), file());
            ours(&lab, "ADD", &merged(full(), &changes)).fails_with(999, &["failed to set"]);
            assert_eq!((state(&lab), file()), before, "{changes} {is_second}");
        }
    }
}

#[test]
fn better_an_add_that_is_killed_or_refused_any_of_its_changes_is_undone() {
    for accident in [Accident::Killed, Accident::Refused] {
        let lab = lab();
        let changes = match accident {
            // DEL leaves sysctls alone, as the reference does.
            Accident::Killed => merged(full(), &json!({"sysctl": null})),
            Accident::Refused => merged(full(), &json!({"sysctl": {"net.ipv4.ip_default_ttl": "33"}})),
        };
        let add = lab.plugin("tuning").config(&config(&changes));
        let delete = add.clone().verb("DEL").config(&config(&json!({"prevResult": null})));
        add.run().result();
        delete.run().silent();
        let restore = || {
            lab.ok("ip netns exec ns1 sysctl -q net.ipv4.ip_default_ttl=64 net.ipv4.conf.eth0.arp_filter=0 net.ipv4.conf.eth0.log_martians=0")
        };
        restore();
        let before = state(&lab);
        let untouched = || {
            let after = state(&lab);
            // DEL, which comes when the ADD was not hit, leaves sysctls.
            let is_added = after.iter().any(|fact| fact == "ipv4/ip_default_ttl 33");
            assert!(!is_added);
            let link = |facts: &[String]| {
                facts.iter().filter(|fact| !fact.contains("/") && !fact.starts_with("ip_")).cloned().collect::<Vec<_>>()
            };
            assert_eq!(link(&after), link(&before));
            restore();
        };
        Trial { lab: &lab, add, delete, ioctls: 0, which: every, untouched: &untouched }.suffers(accident);
    }
}

#[test]
fn check_names_what_is_wrong() {
    let lab = lab();
    let changes = merged(full(), &json!({"mac": "0a:00:00:00:00:33"}));
    ours(&lab, "ADD", &changes).result();
    let said = "Error: Tuning configured ";
    for (change, text) in [
        (
            "ip -n ns1 link set eth0 address 02:00:00:00:00:09",
            format!("{said}Ethernet of eth0 is 0a:00:00:00:00:33, current value is 02:00:00:00:00:09"),
        ),
        (
            "ip -n ns1 link set eth0 promisc off",
            "Error: Tuning link eth0 configured promisc is true, current value is 0".to_string(),
        ),
        ("ip -n ns1 link set eth0 mtu 1401", format!("{said}MTU of eth0 is 1400, current value is 1401")),
        (
            "ip netns exec ns1 sysctl -q net.ipv4.conf.eth0.arp_filter=0",
            format!("{said}value of /proc/sys/net/ipv4/conf/eth0/arp_filter is 1, current value is 0"),
        ),
    ] {
        for call in [lab.plugin("tuning"), lab.reference("tuning")] {
            call.verb("CHECK").config(&config(&changes)).run().silent();
        }
        lab.ok(change);
        for call in [lab.plugin("tuning"), lab.reference("tuning")] {
            call.verb("CHECK").config(&config(&changes)).run().fails(999, &text);
        }
        ours(&lab, "ADD", &changes).result();
    }
    lab.ok("ip -n ns1 link set eth0 allmulticast off");
    let text = format!("{said}all-multicast mode of eth0 is true, current value is false");
    ours(&lab, "CHECK", &changes).fails(999, &text);
    ours(&lab, "CHECK", &json!({"prevResult": null})).fails(999, "Required prevResult missing");
}

#[test]
fn better_check_raises_no_false_alarm() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"mac": "0A-00-00-00-00-33", "sysctl": {"net.ipv4.ip_local_port_range": "2000 3000"}}))
        .result();
    lab.ok("ip -n ns1 link set eth0 promisc on");
    let changes = json!({"mac": "0A-00-00-00-00-33", "sysctl": {"net.ipv4.ip_local_port_range": "2000 3000"}});
    ours(&lab, "CHECK", &changes).silent();
}

#[test]
fn newer_gc_ends_what_is_not_valid_any_more() {
    let lab = lab();
    lab.netns("ns2");
    lab.ok("ip link add vh2 type veth peer name eth0 netns ns2");
    let call = |container: &str, netns: &str, network: &str, verb: &str, changes: &Value| {
        let config = config(&merged(json!({"cniVersion": "1.1.0", "name": network, "mtu": 1300}), changes));
        lab.plugin("tuning").verb(verb).container(container).netns(netns).config(&config).run()
    };
    let (ns1, ns2) = ("/var/run/netns/ns1", "/var/run/netns/ns2");
    call("c1", ns1, "net", "ADD", &json!({})).result();
    call("c2", ns2, "net", "ADD", &json!({})).result();
    lab.write(&format!("{SAVED}/c9_eth0.json"), "{}");
    let gc = |valid: &Value| call("", "", "net", "GC", &json!({"cni.dev/valid-attachments": valid})).silent();
    call("", "", "net", "GC", &json!({})).silent();
    call("", "", "other", "GC", &json!({"cni.dev/valid-attachments": []})).silent();
    assert_eq!(lab.list(SAVED), [".cni-box", "c1_eth0.json", "c2_eth0.json", "c9_eth0.json"]);
    gc(&json!([{"containerID": "c1", "ifname": "eth0"}]));
    assert_eq!(lab.list(SAVED), [".cni-box", "c1_eth0.json", "c9_eth0.json"]);
    assert_eq!(
        (lab.link_in("ns1", "eth0")["mtu"].clone(), lab.link_in("ns2", "eth0")["mtu"].clone()),
        (1300.into(), 1500.into())
    );
    lab.ok("ip netns del ns1");
    gc(&json!([]));
    assert_eq!(lab.list(SAVED), [".cni-box", "c9_eth0.json"]);
    assert_eq!(lab.list(&format!("{SAVED}/.cni-box")), [""; 0]);
}

#[test]
fn newer_status_says_whether_add_would_work() {
    let lab = lab();
    let status = |changes: &Value| {
        let config = config(&merged(json!({"cniVersion": "1.1.0", "prevResult": null}), changes));
        lab.plugin("tuning").verb("STATUS").config(&config).run()
    };
    status(&merged(full(), &json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}))).silent();
    assert!(!lab.exists(SAVED));
    status(&json!({"mac": "x"})).fails(50, "invalid args x for MAC addr: address x: invalid MAC address");
    lab.ok("mkdir /run/ro");
    lab.ok("mount -t tmpfs -o ro tmpfs /run/ro");
    status(&json!({"mtu": 1300, "dataDir": "/run/ro/x"})).fails_with(50, &["failed to create backup directory"]);
    status(&json!({"sysctl": {"kernel.x": "1"}})).fails_with(50, &["invalid net sysctl key"]);
    lab.write(ALLOWLIST, "x");
    status(&json!({"sysctl": {"net.ipv4.ip_default_ttl": "1"}})).fails_with(50, &["is not allowed"]);
}

#[test]
fn better_the_folder_is_for_root_only() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"mtu": 1300, "dataDir": "/run/deep/data"})).result();
    let modes = lab.ok("stat -c %a /run/deep /run/deep/data /run/deep/data/c1_eth0.json /run/deep/data/.cni-box");
    assert_eq!(modes.split_whitespace().collect::<Vec<_>>(), ["755", "700", "600", "700"]);
    let text = ours(&lab, "ADD", &json!({"mtu": 1200, "dataDir": "/proc/x"}));
    text.fails_with(999, &["failed to create backup directory"]);
    assert_eq!(lab.link_in("ns1", "eth0")["mtu"], 1300);
}
