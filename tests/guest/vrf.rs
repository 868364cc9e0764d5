//! `vrf`, with VRFs.

use serde_json::{Value, json};

use crate::cross::Side::{Ours, Theirs};
use crate::kills::{Accident, Trial, of_the_kernel};
use crate::lab::{Call, Lab, merged, wait_for};
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

/// Lines of what `ip` says of the container, in one call: programs start slowly here.
fn told(lab: &Lab, words: &str) -> Vec<String> {
    let call = Call::new(lab, "ip").args_list(&["-n", "ns1", "-o", "-d", "-batch", "-"]).stdin(words);
    let text = call.run().success().stdout;
    let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_string()).collect();
    lines.sort();
    lines
}

/// What a killed ADD took from an interface that is about to go anyway nobody can give back; a refused one takes nothing.
fn accidents(accident: Accident) {
    let (lab, config) = attached(&json!({}));
    settle(&lab);
    let (add, delete) = (call(&lab, Ours, "ADD", &config), call(&lab, Ours, "DEL", &config));
    let state = || match accident {
        Accident::Killed => {
            vec![lab.link_in("ns1", "blue").to_string(), lab.link_in("ns1", "eth0")["master"].to_string()]
        }
        Accident::Refused => {
            let mut addresses = lab.addresses("ns1", "eth0");
            addresses.sort();
            [routes(&lab, "main"), addresses, told(&lab, "link show type vrf\n")].concat()
        }
    };
    let before = state();
    let untouched = || assert_eq!(state(), before);
    Trial { lab: &lab, add, delete, ioctls: 0, which: of_the_kernel, untouched: &untouched }.suffers(accident);
}

#[test]
fn better_an_add_that_is_refused_any_of_its_changes_leaves_everything_as_it_was() {
    accidents(Accident::Refused);
}

#[test]
fn better_del_cleans_up_after_an_add_killed_before_any_of_its_changes() {
    accidents(Accident::Killed);
}

/// Interfaces of one container, each added twice at the same time, half of them to `blue` and half to `red`.
#[test]
fn better_many_interfaces_enter_and_leave_two_vrfs_at_once() {
    const COUNT: usize = 10;
    for is_locked in [true, false] {
        let lab = Lab::new();
        lab.netns("ns1");
        if !is_locked {
            lab.sh("mkdir /run/cni-box-vrf.lock").success();
        }
        let links: String = (0..COUNT).map(|one| format!("link add d{one} up type dummy\n")).collect();
        told(&lab, &links);
        let result = json!({"cniVersion": "1.0.0", "interfaces": [], "ips": []});
        let name = |one: usize| if one.is_multiple_of(2) || !is_locked { "blue" } else { "red" };
        let run = |one: usize, verb: &str| {
            let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "vrf", "vrfname": name(one), "prevResult": result});
            call(&lab, Ours, verb, &config).ifname(&format!("d{one}")).run().success();
        };
        let all = |verb: &'static str| {
            let run = &run;
            std::thread::scope(|scope| {
                (0..2 * COUNT).for_each(|call| drop(scope.spawn(move || run(call % COUNT, verb))))
            });
        };
        all("ADD");
        for one in 0..COUNT {
            assert_eq!(lab.link_in("ns1", &format!("d{one}"))["master"], name(one), "{is_locked}");
        }
        assert!(table(&lab, "blue").is_u64());
        assert_ne!(table(&lab, "blue"), table(&lab, "red"));
        if is_locked {
            all("DEL");
            assert_eq!(told(&lab, "link show type vrf\n"), [""; 0]);
        }
    }
}

#[test]
fn better_what_an_earlier_add_has_lost_is_told() {
    let (lab, config) = attached(&json!({}));
    settle(&lab);
    call(&lab, Ours, "ADD", &config).run().result();
    lab.ok("ip -n ns1 link set blue down");
    call(&lab, Ours, "CHECK", &config).run().fails(999, "VRF blue is down");
    lab.ok("ip -n ns1 link set blue up");
    lab.ok("ip -n ns1 route del 10.50.0.0/16 vrf blue");
    call(&lab, Ours, "ADD", &config).run().fails_with(999, &["cmdAdd failed: ", "10.50.0.0/16"]);
    let broken = merged(config, &json!({"table": "x"}));
    call(&lab, Ours, "DEL", &broken).run().silent();
    assert_eq!(lab.link_in("ns1", "blue"), Value::Null, "the name is enough");
}
