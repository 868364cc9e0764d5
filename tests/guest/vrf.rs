//! `vrf`, with VRFs.

use serde_json::{Value, json};

use crate::cross::Side::{Ours, Theirs};
use crate::lab::{Lab, merged, wait_for};
use crate::vrf::{attached, call, member};

/// Routes of a table in the container, without what comes with addresses and what is no configuration.
fn routes(lab: &Lab, table: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let text = lab.run(&["ip", "-n", "ns1", family, "route", "show", "table", table]).stdout;
        let text = text.replace("\n\t", " ").replace(" linkdown", "").replace(" pref medium", "");
        let own = text.lines().filter(|line| {
            !["proto kernel", "local", "multicast", "broadcast", "anycast"].iter().any(|no| line.contains(no))
        });
        lines.extend(own.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    lines.sort();
    lines
}

/// The table of a VRF of the container.
fn table(lab: &Lab, name: &str) -> Value {
    lab.link_in("ns1", name)["linkinfo"]["info_data"]["table"].clone()
}

fn settle(lab: &Lab) {
    wait_for("addresses", || lab.ok("ip -n ns1 -o addr show tentative").is_empty());
}

/// Routes with all that people give them.
const ROUTES: [&str; 7] = [
    "-4 route add 10.60.0.0/16 via 10.1.2.1 metric 7 mtu 1300 src 10.1.2.2",
    "-4 route append 10.60.0.0/16 via 10.1.2.9 metric 8",
    "-4 route add 10.61.0.0/16 nexthop via 10.1.2.1 weight 3 nexthop via 10.1.2.9 weight 1",
    "-4 route add 10.62.0.0/16 dev eth0 scope link",
    "-6 route add fd00:60::/48 via fd00:1:2::1 metric 7 mtu 1300 src fd00:1:2::2",
    "-6 route add fd00:61::/48 nexthop via fd00:1:2::1 nexthop via fd00:1:2::9",
    "-6 route add default via fd00:1:2::1",
];

#[test]
fn better_addresses_and_routes_move_with_all_they_have_and_come_back_if_add_fails() {
    let (lab, config) = attached(&json!({"table": 1000}));
    settle(&lab);
    ROUTES.iter().for_each(|words| drop(lab.ok(&format!("ip -n ns1 {words}"))));
    lab.ok("ip -n ns1 addr add fd00:1:2::77/64 dev eth0 nodad preferred_lft 0");
    // This one loses its addresses; by default ours sets it so that the kernel keeps them.
    lab.ok("ip netns exec ns1 sysctl -qw net.ipv6.conf.eth0.keep_addr_on_down=0");
    let (before, addresses) = (routes(&lab, "main"), lab.addresses("ns1", "eth0"));
    assert_eq!(before.len(), 9, "{before:#?}");
    let full = call(&lab, Ours, "ADD", &config).under(&["sh", "-c", "exec \"$0\" \"$@\" >/dev/full"]);
    assert_eq!(full.run().code, Some(1));
    assert_eq!(routes(&lab, "main"), before);
    assert_eq!(lab.link_in("ns1", "blue"), Value::Null);
    let result = call(&lab, Ours, "ADD", &config).run().result();
    assert_eq!(result["interfaces"], config["prevResult"]["interfaces"]);
    assert_eq!((routes(&lab, "1000"), routes(&lab, "main")), (before.clone(), Vec::new()));
    let mut now = lab.addresses("ns1", "eth0");
    now.sort();
    let mut wanted = addresses;
    wanted.sort();
    assert_eq!(now, wanted);
    for address in ["10.1.2.1", "fd00:1:2::1"] {
        lab.ok(&format!("ip netns exec ns1 ping -n -c 1 -W 5 -I blue {address}"));
    }
    call(&lab, Ours, "CHECK", &config).run().silent();
    call(&lab, Ours, "DEL", &config).run().silent();
    assert_eq!(routes(&lab, "main"), before);
    call(&lab, Ours, "ADD", &config).run().result();
    lab.ok("ip -n ns1 route del 10.50.0.0/16 table 1000");
    call(&lab, Ours, "CHECK", &config).run().fails_with(999, &["10.50.0.0/16", "not found in routing table 1000"]);
    lab.ok("ip -n ns1 addr del 10.1.2.2/24 dev eth0");
    call(&lab, Ours, "CHECK", &config).run().fails_with(999, &["Failed to match addr 10.1.2.2/24"]);
}

#[test]
fn what_one_adds_the_other_checks_and_deletes_and_both_make_the_same() {
    let mut made = Vec::new();
    for (adds, removes) in [(Ours, Theirs), (Theirs, Ours)] {
        let (lab, config) = attached(&json!({}));
        settle(&lab);
        let result = call(&lab, adds, "ADD", &config).run().result();
        assert_eq!(result["interfaces"], config["prevResult"]["interfaces"]);
        made.push((table(&lab, "blue"), lab.addresses("ns1", "eth0")));
        // Debian's 1.1.1 loses the routes.
        let config = merged(config, &json!({"prevResult": {"routes": null}}));
        call(&lab, removes, "CHECK", &config).run().silent();
        call(&lab, removes, "DEL", &config).run().silent();
        assert_eq!(lab.link_in("ns1", "blue"), Value::Null);
        assert_eq!(lab.link_in("ns1", "eth0")["master"], Value::Null);
        call(&lab, removes, "DEL", &config).run().silent();
    }
    assert_eq!(made[0], made[1]);
}

#[test]
fn better_the_vrf_lives_from_its_first_to_its_last_member() {
    let (lab, first) = attached(&json!({}));
    let second = member(&lab, "net1", &json!({}));
    lab.ok("ip -n ns1 route add 192.0.2.0/24 via 10.1.2.1 table 1");
    lab.ok("ip -n ns1 rule add from 192.0.2.7 lookup 2");
    lab.ok("ip -n ns1 link add red type vrf table 3");
    call(&lab, Ours, "ADD", &first).run().result();
    assert_eq!(table(&lab, "blue"), 4, "1 has a route, 2 a rule, 3 a VRF");
    call(&lab, Ours, "ADD", &first).run().result();
    call(&lab, Ours, "ADD", &second).ifname("net1").run().result();
    let other = merged(first.clone(), &json!({"table": 5}));
    let text = "VRF blue already exist with different routing table 4";
    call(&lab, Ours, "ADD", &other).run().fails(999, &format!("cmdAdd failed: {text}"));
    call(&lab, Theirs, "ADD", &other).run().fails(999, &format!("cmdAdd failed: {text}"));
    call(&lab, Ours, "CHECK", &other).run().fails(999, text);
    let elsewhere = merged(first.clone(), &json!({"vrfname": "red"}));
    let text = "cmdAdd failed: interface eth0 has already a master set: blue";
    call(&lab, Ours, "ADD", &elsewhere).run().fails(999, text);
    call(&lab, Ours, "CHECK", &elsewhere).run().fails(999, "failed to find eth0 associated to vrf red");
    call(&lab, Ours, "DEL", &merged(second.clone(), &json!({"vrfname": "red"}))).ifname("net1").run().silent();
    assert_eq!(lab.link_in("ns1", "red"), Value::Null, "it was empty");
    assert_eq!(lab.link_in("ns1", "net1")["master"], "blue");
    call(&lab, Ours, "DEL", &first).run().silent();
    assert_eq!(lab.link_in("ns1", "net1")["master"], "blue");
    lab.ok("ip -n ns1 link del net1");
    call(&lab, Ours, "DEL", &second).ifname("net1").run().silent();
    assert_eq!(lab.link_in("ns1", "blue"), Value::Null);
    call(&lab, Ours, "ADD", &first).run().result();
    call(&lab, Ours, "CHECK", &first).run().silent();
}

#[test]
fn newer_status_tries_to_make_a_vrf() {
    let (lab, config) = attached(&json!({"cniVersion": "1.1.0"}));
    call(&lab, Ours, "STATUS", &config).run().silent();
    let long = merged(config, &json!({"vrfname": "a-name-that-is-too-long"}));
    call(&lab, Ours, "STATUS", &long).run().fails_with(50, &["could not add VRF a-name-that-is-too-long"]);
}
