//! `route_localnet` of the links that mappings lead over, and the rules that keep foreign packets
//! from 127.0.0.0/8 meanwhile.

use serde_json::{Value, json};

use crate::kills::{Accident, Trial, every};
use crate::lab::{Call, Lab, merged};
use crate::masquerade::lab;
use crate::portmap::{call, config, mappings, previous};
use crate::portmap_life::bridge;
use crate::portmap_traffic::BACKENDS;

/// Where what is known of links is kept.
const RECORDS: &str = "/run/cni-box/portmap";
pub const COMMENT: &str = "CNI portmap: 127.0.0.0/8 is local";

/// Every line of a guard, in any table.
pub fn guard(lab: &Lab) -> Vec<String> {
    let is_guard =
        |line: &String| line.contains("127.0.0.0/8") || line.contains("LOCALNET") || line.contains("localnet");
    let mut lines: Vec<String> = lab.rules().into_iter().filter(is_guard).collect();
    let native = lab.run(&["nft", "list", "table", "ip", "cni_hostport"]).stdout;
    lines.extend(native.lines().map(str::to_string).filter(is_guard));
    lines
}

/// The links whose packets to 127.0.0.0/8 are dropped, sorted.
pub fn guarded(lab: &Lab) -> Vec<String> {
    let native = lab.run(&["nft", "list", "table", "ip", "cni_hostport"]).stdout;
    let native = native.lines().filter(|line| line.contains(" drop "));
    let native: Vec<String> = native.filter_map(|line| line.split('"').nth(1).map(str::to_string)).collect();
    let iptables =
        lab.rules().into_iter().filter(|line| line.contains("-A CNI-HOSTPORT-LOCALNET ") && line.ends_with("-j DROP"));
    let name = |line: String| line.split(" -i ").nth(1).unwrap().split(' ').next().unwrap().to_string();
    let mut links: Vec<String> = iptables.map(name).chain(native).collect();
    links.sort();
    links
}

pub fn setting(lab: &Lab, link: &str) -> String {
    lab.run(&["cat", &path(link)]).success().stdout.trim().to_string()
}

pub fn set(lab: &Lab, link: &str, value: &str) {
    lab.run(&["sh", "-ec", "echo $1 > \"$0\"", &path(link), value]).success();
}

fn path(link: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{link}/route_localnet")
}

/// A mapping to 10.0.0.NUMBER, which `br0` leads to.
pub fn portmap<'a>(lab: &'a Lab, backend: &str, number: u8, changes: &Value) -> Call<'a> {
    let address = json!({"prevResult": previous(&format!("10.0.0.{number}/24"), "2001:db8::2/64"), "backend": backend});
    call(lab, &config(&merged(address, changes))).container(&format!("c{number}"))
}

/// Nothing is left of a guard, and nothing is known of any link or interface.
pub fn assert_nothing_left(lab: &Lab, what: &str) {
    assert_eq!(guard(lab), [""; 0], "{what}");
    assert_eq!(lab.list(RECORDS), [""; 0], "{what}");
}

#[test]
pub fn better_a_link_is_guarded_from_the_first_mapping_to_the_last() {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        bridge(&lab);
        lab.ok("ip link add br9 up type bridge");
        let state = |lab: &Lab| (guarded(lab).join(" "), setting(lab, "br0"));
        let call = |number, verb| portmap(&lab, backend, number, &json!({})).verb(verb).run().success();
        call(2, "DEL");
        assert_nothing_left(&lab, "DEL without ADD");
        for (number, verb, links, value) in [
            (2, "ADD", "br0", "1"),
            (3, "ADD", "br0", "1"),
            (2, "ADD", "br0", "1"),
            (2, "CHECK", "br0", "1"),
            (3, "DEL", "br0", "1"),
            (3, "DEL", "br0", "1"),
            (2, "CHECK", "br0", "1"),
            (2, "DEL", "", "0"),
            (2, "DEL", "", "0"),
            (3, "ADD", "br0", "1"),
            (3, "DEL", "", "0"),
        ] {
            call(number, verb);
            assert_eq!(state(&lab), (links.to_string(), value.to_string()), "{flavour} {backend} {number} {verb}");
        }
        assert_nothing_left(&lab, backend);
        assert_eq!(setting(&lab, "br9"), "0");
    }
}

#[test]
fn better_gc_and_a_failed_add_lower_the_guard_too() {
    let full = ["sh", "-c", "exec \"$@\" > /dev/full", "sh"];
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        bridge(&lab);
        let fail = || portmap(&lab, backend, 2, &json!({})).env("PATH", "/usr/bin:/usr/sbin").under(&full).run();
        let gc = |valid: &Value| {
            let base = json!({"cniVersion": "1.1.0", "runtimeConfig": null, "prevResult": null});
            let config = merged(base, &json!({"cni.dev/valid-attachments": valid}));
            portmap(&lab, backend, 9, &config).verb("GC").run().silent();
        };
        assert_eq!(fail().code, Some(1));
        assert_eq!(setting(&lab, "br0"), "0");
        assert_nothing_left(&lab, "failed ADD");
        portmap(&lab, backend, 3, &json!({})).run().result();
        assert_eq!(fail().code, Some(1));
        gc(&json!([{"containerID": "c3", "ifname": "eth0"}]));
        assert_eq!(
            (guarded(&lab), setting(&lab, "br0").as_str()),
            (vec!["br0".to_string()], "1"),
            "{flavour} {backend}"
        );
        gc(&json!([]));
        assert_eq!(setting(&lab, "br0"), "0");
        assert_nothing_left(&lab, "GC");
    }
}

#[test]
fn better_route_localnet_that_was_set_before_stays_set() {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        bridge(&lab);
        set(&lab, "br0", "1");
        for number in [2, 3] {
            portmap(&lab, backend, number, &json!({})).run().result();
        }
        assert_eq!(guarded(&lab), ["br0"], "{flavour} {backend}");
        for number in [2, 3, 3] {
            portmap(&lab, backend, number, &json!({})).verb("DEL").run().silent();
        }
        assert_eq!(setting(&lab, "br0"), "1");
        assert_nothing_left(&lab, backend);
        // As kube-proxy sets it: of all links, whatever each of them says.
        set(&lab, "br0", "0");
        set(&lab, "all", "1");
        portmap(&lab, backend, 2, &json!({})).run().result();
        portmap(&lab, backend, 2, &json!({})).verb("CHECK").run().silent();
        assert_eq!(guarded(&lab), ["br0"], "{flavour} {backend}");
        portmap(&lab, backend, 2, &json!({})).verb("DEL").run().silent();
        assert_eq!((setting(&lab, "br0"), setting(&lab, "all")), ("0".to_string(), "1".to_string()));
        assert_nothing_left(&lab, backend);
    }
}

#[test]
fn better_mappings_that_127_0_0_1_has_no_use_for_guard_nothing() {
    let v6 = json!([{"hostPort": 1, "containerPort": 1, "protocol": "tcp", "hostIP": "2001:db8:a::1"}]);
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        bridge(&lab);
        for changes in [json!({"snat": false}), mappings(&v6)] {
            portmap(&lab, backend, 2, &changes).run().result();
            portmap(&lab, backend, 2, &changes).verb("CHECK").run().silent();
            assert_eq!(
                (guard(&lab), setting(&lab, "br0").as_str()),
                (Vec::new(), "0"),
                "{flavour} {backend} {changes}"
            );
            // They are no reason to keep others' link open.
            portmap(&lab, backend, 3, &json!({})).run().result();
            portmap(&lab, backend, 3, &json!({})).verb("DEL").run().silent();
            assert_eq!(
                (guard(&lab), setting(&lab, "br0").as_str()),
                (Vec::new(), "0"),
                "{flavour} {backend} {changes}"
            );
            // Nor to shut what an administrator has opened.
            set(&lab, "br0", "1");
            portmap(&lab, backend, 2, &changes).verb("DEL").run().silent();
            assert_eq!(setting(&lab, "br0"), "1");
            set(&lab, "br0", "0");
        }
        for changes in [
            json!({"masqAll": true}),
            mappings(&json!([{"hostPort": 1, "containerPort": 1, "protocol": "udp", "hostIP": "127.0.0.1"}])),
            mappings(&json!([{"hostPort": 1, "containerPort": 1, "protocol": "sctp", "hostIP": "0.0.0.0"}])),
        ] {
            portmap(&lab, backend, 2, &changes).run().result();
            assert_eq!(guarded(&lab), ["br0"], "{flavour} {backend} {changes}");
            portmap(&lab, backend, 2, &changes).verb("DEL").run().silent();
            assert_eq!(setting(&lab, "br0"), "0", "{flavour} {backend} {changes}");
        }
        assert_nothing_left(&lab, backend);
    }
}

/// Whatever the kernel takes as a name of a link: words of iptables, wildcards and escapes, dots,
/// all of its length.
const NAMES: [&str; 9] = ["br+", "br*", "-i", "a.b.c", "..x", "q\"'\\", "#!${x}", "ünï", "fifteen-letters"];

#[test]
fn better_links_of_any_name_are_guarded() {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        // An own address for each, and a neighbour whose name begins alike.
        lab.run(&["ip", "link", "add", "name", "br+1", "up", "type", "bridge"]).success();
        for (number, name) in NAMES.into_iter().enumerate() {
            lab.run(&["ip", "link", "add", "name", name, "up", "type", "bridge"]).success();
            lab.run(&["ip", "addr", "add", &format!("10.0.{number}.1/24"), "dev", name]).success();
            let address = json!({"prevResult": previous(&format!("10.0.{number}.2/24"), "2001:db8::2/64")});
            let call = |verb| portmap(&lab, backend, 2, &address).verb(verb).run().success();
            call("ADD");
            call("ADD");
            call("CHECK");
            let drops = guard(&lab).into_iter().filter(|line| line.contains("drop") || line.contains("DROP")).count();
            assert_eq!((drops, setting(&lab, name).as_str()), (1, "1"), "{flavour} {backend} {name}");
            call("DEL");
            assert_eq!(setting(&lab, name), "0", "{flavour} {backend} {name}");
            assert_nothing_left(&lab, name);
        }
        assert_eq!(setting(&lab, "br+1"), "0");
    }
}

#[test]
fn better_every_link_has_a_guard_of_its_own_that_goes_with_it() {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        bridge(&lab);
        // Two ends of point-to-point containers beside a bridge.
        for number in [1, 2] {
            lab.sh(&format!(
                "ip netns add p{number}; ip link add ptp{number} up type veth peer name eth0 netns p{number}
                 ip addr add 10.7.0.1/32 dev ptp{number}; ip route add 10.7.0.{number}0/32 dev ptp{number}"
            ))
            .success();
        }
        let ptp = |number: u8| {
            let address = previous(&format!("10.7.0.{number}0/32"), "2001:db8::2/64");
            portmap(&lab, backend, 100 + number, &json!({"prevResult": address}))
        };
        portmap(&lab, backend, 2, &json!({})).run().result();
        (1..=2).for_each(|number| drop(ptp(number).run().result()));
        assert_eq!(guarded(&lab), ["br0", "ptp1", "ptp2"], "{flavour} {backend}");
        (1..=2).for_each(|number| drop(ptp(number).verb("CHECK").run().silent()));
        // The container's end takes the host's with it, and DEL comes afterwards.
        lab.ok("ip link del ptp1");
        ptp(1).verb("DEL").run().silent();
        assert_eq!(guarded(&lab), ["br0", "ptp2"], "{flavour} {backend}");
        ptp(2).verb("DEL").run().silent();
        assert_eq!((guarded(&lab), setting(&lab, "ptp2")), (vec!["br0".to_string()], "0".to_string()));
        // A new link of the same name is another one.
        lab.ok("ip link del br0");
        bridge(&lab);
        portmap(&lab, backend, 3, &json!({})).run().result();
        assert_eq!((guarded(&lab), setting(&lab, "br0")), (vec!["br0".to_string()], "1".to_string()));
        portmap(&lab, backend, 3, &json!({})).verb("DEL").run().silent();
        portmap(&lab, backend, 2, &json!({})).verb("DEL").run().silent();
        assert_eq!(setting(&lab, "br0"), "0");
        assert_nothing_left(&lab, backend);
    }
}

/// Other mappings over a link that is down for a moment count.
#[test]
fn better_a_link_that_is_down_is_not_let_go_while_there_are_mappings() {
    let lab = lab("nft");
    bridge(&lab);
    for number in [2, 3] {
        portmap(&lab, "iptables", number, &json!({})).run().result();
    }
    lab.ok("ip link set br0 down");
    portmap(&lab, "iptables", 3, &json!({})).verb("DEL").run().silent();
    assert_eq!((guarded(&lab), setting(&lab, "br0")), (vec!["br0".to_string()], "1".to_string()));
    portmap(&lab, "iptables", 2, &json!({})).verb("DEL").run().silent();
    assert_eq!(setting(&lab, "br0"), "0");
    assert_nothing_left(&lab, "down");
}

#[test]
fn better_rules_that_were_flushed_leave_no_link_open() {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        bridge(&lab);
        let call = |verb| portmap(&lab, backend, 2, &json!({})).verb(verb).run();
        let flush = || match flavour {
            "legacy" => {
                lab.sh("for t in raw nat; do iptables-legacy -t $t -F; iptables-legacy -t $t -X; done").success()
            }
            _ => lab.sh("nft flush ruleset").success(),
        };
        call("ADD").result();
        flush();
        call("DEL").silent();
        assert_eq!(setting(&lab, "br0"), "0", "{flavour} {backend}");
        // The next ADD makes the rules again, and knows still that an earlier ADD has set it.
        call("ADD").result();
        flush();
        call("ADD").result();
        assert_eq!(guarded(&lab), ["br0"]);
        call("DEL").silent();
        assert_eq!(setting(&lab, "br0"), "0", "{flavour} {backend}");
        assert_nothing_left(&lab, backend);
    }
}

#[test]
fn better_check_finds_a_missing_guard() {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        bridge(&lab);
        let text = "no rule drops packets to 127.0.0.0/8 that come in by \"br0\"";
        let damages = match backend {
            "nftables" => {
                ["nft flush chain ip cni_hostport localnet", "nft flush chain ip cni_hostport localnet_links"]
            }
            _ => ["iptables -t raw -F PREROUTING", "iptables -t raw -F CNI-HOSTPORT-LOCALNET"],
        };
        for damage in damages {
            portmap(&lab, backend, 2, &json!({})).run().result();
            portmap(&lab, backend, 2, &json!({})).verb("CHECK").run().silent();
            lab.ok(damage);
            let before = lab.snapshot();
            portmap(&lab, backend, 2, &json!({})).verb("CHECK").run().fails_with(999, &[text]);
            before.assert_same(&lab.snapshot());
            portmap(&lab, backend, 2, &json!({})).run().result();
            portmap(&lab, backend, 2, &json!({})).verb("CHECK").run().silent();
            lab.ok(damage);
            portmap(&lab, backend, 2, &json!({})).verb("DEL").run().silent();
            assert_nothing_left(&lab, damage);
        }
    }
}

/// The rule of version 0.1.0, which is for all links and stays.
fn guard_of_0_1_0(lab: &Lab, flavour: &str, backend: &str) {
    match backend {
        "nftables" => lab.sh(&format!(
            "nft add chain ip cni_hostport localnet '{{ type filter hook prerouting priority -300; }}'
             nft 'add rule ip cni_hostport localnet iifname != lo ip daddr 127.0.0.0/8 drop comment \"{COMMENT}\"'"
        )),
        _ => lab.sh(&format!(
            "iptables-{flavour} -t raw -I PREROUTING ! -i lo -d 127.0.0.0/8 -m comment --comment '{COMMENT}' -j DROP"
        )),
    }
    .success();
}

#[test]
fn better_the_guard_of_all_links_that_version_0_1_0_made_is_replaced() {
    let nft = |backend: &str| if backend == "nftables" { "nft add table ip cni_hostport" } else { "true" };
    for (flavour, backend) in BACKENDS {
        for ours_adds in [true, false] {
            let lab = lab(flavour);
            bridge(&lab);
            // An administrator has opened br9, or 0.1.0 has, for mappings that ended before.
            lab.ok("ip link add br9 up type bridge");
            set(&lab, "br9", "1");
            // What 0.1.0 left: the rules as they are today, another guard, and no records.
            portmap(&lab, backend, 2, &json!({})).run().result();
            let lower = match backend {
                "nftables" => {
                    "nft delete chain ip cni_hostport localnet; nft delete chain ip cni_hostport localnet_links"
                }
                _ => "iptables -t raw -F; iptables -t raw -X",
            };
            lab.sh(&format!("{lower}; {}; rm -r {RECORDS}", nft(backend))).success();
            guard_of_0_1_0(&lab, flavour, backend);
            portmap(&lab, backend, 2, &json!({})).verb("CHECK").run().silent();
            if ours_adds {
                portmap(&lab, backend, 3, &json!({})).run().result();
                assert_eq!(guarded(&lab), ["br0", "br9"], "{flavour} {backend}");
                portmap(&lab, backend, 3, &json!({})).verb("DEL").run().silent();
            }
            portmap(&lab, backend, 2, &json!({})).verb("DEL").run().silent();
            assert_eq!(setting(&lab, "br0"), "0", "{flavour} {backend} {ours_adds}");
            // Nothing tells who opened br9: the link stays open, and guarded.
            assert_eq!((guarded(&lab), setting(&lab, "br9").as_str()), (vec!["br9".to_string()], "1"));
            set(&lab, "br9", "0");
            portmap(&lab, backend, 2, &json!({})).verb("DEL").run().silent();
            assert_nothing_left(&lab, backend);
        }
    }
}

#[test]
fn better_links_that_the_reference_opened_are_guarded_and_let_go() {
    for flavour in crate::masquerade::FLAVOURS {
        let lab = lab(flavour);
        bridge(&lab);
        let reference = |number, verb| {
            let address = json!({"prevResult": previous(&format!("10.0.0.{number}/24"), "2001:db8::2/64")});
            let call = lab.reference("portmap").container(&format!("c{number}")).config(&config(&address));
            call.verb(verb).env("PATH", "/usr/sbin").run().success();
        };
        // Without an ADD of ours, the reference's mappings work as before.
        reference(2, "ADD");
        portmap(&lab, "iptables", 2, &json!({})).verb("CHECK").run().silent();
        portmap(&lab, "iptables", 9, &json!({})).verb("DEL").run().silent();
        assert_eq!((guard(&lab), setting(&lab, "br0").as_str()), (Vec::new(), "1"), "{flavour}");
        portmap(&lab, "iptables", 2, &json!({})).verb("DEL").run().silent();
        assert_eq!(setting(&lab, "br0"), "0", "{flavour}");
        // Ours guards the link that is open for the reference's mapping, and keeps it for that.
        reference(2, "ADD");
        portmap(&lab, "iptables", 3, &json!({})).run().result();
        assert_eq!(guarded(&lab), ["br0"]);
        portmap(&lab, "iptables", 3, &json!({})).verb("DEL").run().silent();
        assert_eq!((guarded(&lab), setting(&lab, "br0").as_str()), (vec!["br0".to_string()], "1"), "{flavour}");
        portmap(&lab, "iptables", 2, &json!({})).verb("DEL").run().silent();
        assert_eq!(setting(&lab, "br0"), "0", "{flavour}");
        // What the reference's DEL leaves goes with our next.
        portmap(&lab, "iptables", 3, &json!({})).run().result();
        reference(3, "DEL");
        portmap(&lab, "iptables", 9, &json!({})).verb("DEL").run().silent();
        assert_eq!((guard(&lab), setting(&lab, "br0").as_str()), (Vec::new(), "0"), "{flavour}");
        // All links have it from the beginning: then it is not the reference's.
        set(&lab, "default", "1");
        set(&lab, "br0", "1");
        reference(2, "ADD");
        portmap(&lab, "iptables", 2, &json!({})).verb("DEL").run().silent();
        assert_eq!(setting(&lab, "br0"), "1", "{flavour}");
    }
}

#[test]
fn better_where_sysctls_cannot_be_written_the_link_stays_guarded() {
    let lab = lab("nft");
    bridge(&lab);
    portmap(&lab, "iptables", 2, &json!({})).run().result();
    let script = ["unshare", "-m", "sh", "-ec", "mount -o bind,ro /proc/sys /proc/sys && exec \"$@\"", "sh"];
    let del = portmap(&lab, "iptables", 2, &json!({})).verb("DEL");
    del.clone().env("PATH", "/usr/bin:/bin").under(&script).run().silent();
    assert_eq!((guarded(&lab), setting(&lab, "br0")), (vec!["br0".to_string()], "1".to_string()));
    del.run().silent();
    assert_eq!(setting(&lab, "br0"), "0");
    assert_nothing_left(&lab, "writable again");
}

#[test]
fn better_parallel_adds_and_dels_on_one_bridge_keep_the_link_as_long_as_it_is_needed() {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        bridge(&lab);
        let all = |work: &(dyn Fn(u8) + Sync)| {
            std::thread::scope(|scope| (2..10).for_each(|number| drop(scope.spawn(move || work(number)))));
        };
        let call = |number, verb| portmap(&lab, backend, number, &json!({})).verb(verb).run().success();
        all(&|number| drop(call(number, "ADD")));
        // One half goes while the other comes again.
        all(&|number| drop(call(number, if number % 2 == 0 { "DEL" } else { "ADD" })));
        assert_eq!((guarded(&lab), setting(&lab, "br0").as_str()), (vec!["br0".to_string()], "1"));
        (3..10).step_by(2).for_each(|number| drop(call(number, "CHECK")));
        all(&|number| drop(call(number, "DEL")));
        assert_eq!(setting(&lab, "br0"), "0", "{flavour} {backend}");
        assert_nothing_left(&lab, backend);
        // Each is the first and the last, by turns.
        all(&|number| ["ADD", "CHECK", "DEL"].into_iter().for_each(|verb| drop(call(number, verb))));
        assert_eq!(setting(&lab, "br0"), "0", "{flavour} {backend}");
        assert_nothing_left(&lab, backend);
    }
}

fn accidents(accident: Accident) {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        bridge(&lab);
        let one = mappings(&json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]));
        let add = portmap(&lab, backend, 2, &one);
        // A runtime whose ADD was killed has no result to hand out.
        let delete = portmap(&lab, backend, 2, &merged(one, &json!({"prevResult": null}))).verb("DEL");
        add.run().result();
        delete.run().silent();
        let before = lab.snapshot();
        let untouched = || {
            before.assert_same(&lab.snapshot());
            assert_eq!(setting(&lab, "br0"), "0", "{flavour} {backend}");
            assert_nothing_left(&lab, backend);
        };
        Trial { lab: &lab, add, delete, ioctls: 0, which: every, untouched: &untouched }.suffers(accident);
    }
}

#[test]
fn better_del_leaves_no_link_open_after_an_add_killed_before_any_of_its_changes() {
    accidents(Accident::Killed);
}

#[test]
fn better_an_add_that_is_refused_any_of_its_changes_leaves_no_link_open() {
    accidents(Accident::Refused);
}

#[test]
fn better_a_killed_del_is_finished_by_the_next_and_the_link_is_never_open() {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        bridge(&lab);
        let add = portmap(&lab, backend, 2, &json!({}));
        let delete = add.clone().verb("DEL");
        add.run().result();
        let points = crate::kills::changing_calls(&lab, &delete);
        for point in &points {
            add.run().result();
            crate::kills::kill_at(&delete, point);
            assert!(setting(&lab, "br0") == "0" || guarded(&lab) == ["br0"], "{flavour} {backend} {point:?}");
            delete.run().silent();
            assert_eq!(setting(&lab, "br0"), "0", "{flavour} {backend} {point:?}");
            assert_nothing_left(&lab, backend);
        }
    }
}
