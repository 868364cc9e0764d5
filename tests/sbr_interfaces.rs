//! sbr with several interfaces in one namespace: their tables, many calls at once, chains.

use serde_json::json;

use crate::lab::{Call, Lab};
use crate::sbr::{DUAL, V4, config, lab, ours, rules, state, way};

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
