//! The firewall plugin afterwards: DEL and GC in every circumstance, ADDs that fail, many calls at once.

use serde_json::{Value, json};

use crate::firewall::Side::{Ours, Theirs};
use crate::firewall::{DUAL, FLAVOURS, V4, config, lab, rules, run, tables};
use crate::lab::merged;

/// The second round: a record of ours whose attachment the reference has ended says nothing.
#[test]
fn back_and_forth_between_the_plugins_leaves_nothing() {
    let lab = lab("nft");
    let config = config(V4, &json!({}));
    run(&lab, Ours, "ADD", &config).result();
    run(&lab, Theirs, "DEL", &config).silent();
    lab.ok("ip netns del ns1");
    let second = lab.netns("ns2");
    lab.reference("firewall").container("c2").netns(&second).config(&config).run().result();
    assert!(rules(&lab, "nft").iter().any(|line| line.contains("10.0.0.2")));
    lab.plugin("firewall").verb("DEL").container("c2").netns(&second).config(&config).run().silent();
    assert!(!rules(&lab, "nft").iter().any(|line| line.contains("10.0.0.2")));
}

#[test]
fn better_del_works_without_the_namespace_and_without_a_result() {
    for flavour in FLAVOURS {
        for changes in [json!({}), json!({"prevResult": null})] {
            let lab = lab(flavour);
            run(&lab, Ours, "ADD", &config(DUAL, &json!({}))).result();
            lab.ok("ip netns del ns1");
            let call = lab.plugin("firewall").verb("DEL").config(&config(DUAL, &changes)).netns("");
            for _ in 0..2 {
                call.run().silent();
                assert!(!tables(&lab).iter().any(|line| line.contains("ACCEPT") && line.contains("-A")), "{changes}");
            }
            assert_eq!(lab.list("/run/cni-box/firewall"), [""; 0]);
        }
    }
}

#[test]
fn better_del_finds_the_rules_in_either_flavour_whatever_is_configured() {
    for (made, installed) in [("nft", "legacy"), ("legacy", "nft")] {
        for changes in [
            json!({}),
            json!({"backend": "nftables"}),
            json!({"backend": "firewalld"}),
            json!({"backend": null, "ingressPolicy": "magic", "iptablesAdminChainName": "with space"}),
        ] {
            let lab = lab(made);
            run(&lab, Ours, "ADD", &config(DUAL, &json!({}))).result();
            lab.install_iptables(installed);
            run(&lab, Ours, "DEL", &config(DUAL, &changes)).silent();
            assert!(!tables(&lab).iter().any(|line| line.contains("-j ACCEPT")), "made by {made}, {changes}");
        }
    }
}

#[test]
fn better_del_takes_all_copies_in_either_spelling() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let config = config(V4, &json!({}));
        run(&lab, Ours, "ADD", &config).result();
        for rule in [
            "-s 10.0.0.2 -j ACCEPT",
            "-s 10.0.0.2/255.255.255.255 -j ACCEPT",
            "-m conntrack --ctstate ESTABLISHED,RELATED -d 10.0.0.2 -j ACCEPT",
        ] {
            lab.ok(&format!("iptables-{flavour} -A CNI-FORWARD {rule}"));
        }
        lab.ok(&format!("iptables-{flavour} -A CNI-FORWARD -s 10.0.0.2 -p tcp -j ACCEPT"));
        run(&lab, Ours, "DEL", &config).silent();
        let left: Vec<_> = rules(&lab, flavour).into_iter().filter(|line| line.contains("10.0.0.2")).collect();
        assert_eq!(left, ["-A CNI-FORWARD -s 10.0.0.2/32 -p tcp -j ACCEPT"]);
    }
}

#[test]
fn better_a_late_del_leaves_the_rules_of_the_addresss_next_owner() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let config = config(DUAL, &json!({}));
        run(&lab, Ours, "ADD", &config).result();
        let second = lab.netns("ns2");
        let call = lab.plugin("firewall").container("c2").netns(&second).config(&config);
        call.run().result();
        let before = tables(&lab);
        for late in [config.clone(), merged(config.clone(), &json!({"prevResult": null}))] {
            run(&lab, Ours, "DEL", &late).silent();
            assert_eq!(tables(&lab), before, "{flavour}");
        }
        call.verb("DEL").run().silent();
        assert!(!tables(&lab).iter().any(|line| line.contains("-j ACCEPT")));
    }
}

#[test]
fn a_run_that_cannot_be_written_does_not_matter() {
    let lab = lab("nft");
    lab.ok("mkdir /run/cni-box");
    lab.ok("mount -t tmpfs -o ro tmpfs /run/cni-box");
    let config = config(V4, &json!({}));
    run(&lab, Ours, "ADD", &config).result();
    run(&lab, Ours, "CHECK", &config).silent();
    run(&lab, Ours, "DEL", &config).silent();
    assert!(!tables(&lab).iter().any(|line| line.contains("-j ACCEPT")));
}

#[test]
fn better_gc_ends_what_is_not_valid_any_more() {
    for backend in ["iptables", "nftables"] {
        let lab = lab("nft");
        for (container, network, address) in
            [("c1", "net", "10.0.0.2/24"), ("c2", "net", "10.0.0.3/24"), ("c3", "other", "10.0.0.4/24")]
        {
            let config = config(&[address], &json!({"name": network, "backend": backend}));
            lab.plugin("firewall").container(container).config(&config).run().result();
        }
        let base = json!({"cniVersion": "1.1.0", "name": "net", "type": "firewall", "backend": backend});
        let gc = |changes: Value| {
            let config = merged(base.clone(), &changes);
            let call = lab.plugin("firewall").verb("GC").config(&config);
            call.without("CNI_CONTAINERID").without("CNI_NETNS").without("CNI_IFNAME").run().silent();
            let rules = lab.ok("nft list ruleset");
            let known = |address: &&str| rules.contains(&format!("saddr {address} "));
            ["10.0.0.2", "10.0.0.3", "10.0.0.4"].into_iter().filter(known).collect::<Vec<_>>()
        };
        assert_eq!(gc(json!({})), ["10.0.0.2", "10.0.0.3", "10.0.0.4"], "nothing is said about what is valid");
        let one = json!([{"containerID": "c2", "ifname": "eth0"}]);
        assert_eq!(gc(json!({"cni.dev/valid-attachments": one})), ["10.0.0.3", "10.0.0.4"]);
        assert_eq!(gc(json!({"cni.dev/valid-attachments": []})), ["10.0.0.4"]);
        assert_eq!(lab.list("/run/cni-box/firewall"), ["10.0.0.4"]);
    }
}

#[test]
fn better_a_failed_add_leaves_everything_as_it_was() {
    for (flavour, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")] {
        let lab = lab(flavour);
        lab.executable(
            "/opt/cni/bin/fails",
            "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho '{\"code\":99,\"msg\":\"no\"}'\nexit 1\n",
        );
        let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
        let list = |name: &str, last: &str| {
            let bridge = json!({"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local", "ranges": ranges}});
            let firewall = json!({"type": "firewall", "backend": backend, "ingressPolicy": "isolated"});
            json!({"cniVersion": "1.0.0", "name": name, "plugins": [bridge, firewall, {"type": last}]}).to_string()
        };
        lab.write("/etc/cni/net.d/10-bad.conflist", list("bad", "fails"));
        lab.write("/etc/cni/net.d/20-good.conflist", list("good", "loopback"));
        let before = lab.snapshot();
        let add = |name: &str| lab.cnitool(&["add", name, "/var/run/netns/ns1"]).run();
        add("bad").dies_with(&["no"]);
        before.assert_same(&lab.snapshot());
        for records in ["firewall", "isolated-ports"] {
            assert_eq!(lab.list(&format!("/run/cni-box/{records}")), [""; 0]);
        }
        lab.netns("ns2");
        lab.cnitool(&["add", "good", "/var/run/netns/ns2"]).run().success();
        let with_one = lab.snapshot();
        add("bad").dies_with(&["no"]);
        with_one.assert_same(&lab.snapshot());
    }
}

#[test]
fn better_the_policy_of_a_bridge_ends_with_the_bridge() {
    for (flavour, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")] {
        for verb in ["DEL", "GC"] {
            let lab = lab(flavour);
            for (container, bridge, address) in [("c1", "br0", "10.0.0.2/24"), ("c2", "br1", "10.7.0.2/24")] {
                let changes = json!({"backend": backend, "ingressPolicy": "isolated", "prevResult": {"interfaces": [{"name": bridge}]}});
                lab.plugin("firewall").container(container).config(&config(&[address], &changes)).run().result();
            }
            let named = |bridge: &str| {
                let text = lab.ok("nft list ruleset") + &lab.ok("iptables-legacy-save");
                text.lines().filter(|line| line.contains(bridge)).count()
            };
            let last = config(
                &[],
                &json!({"cniVersion": "1.1.0", "backend": backend, "prevResult": null, "cni.dev/valid-attachments": []}),
            );
            let call = lab.plugin("firewall").verb(verb).container("c9").config(&last);
            call.run().silent();
            assert_eq!((named("br0"), named("br1")), (3, 3), "both bridges exist");
            lab.ok("ip link del br0");
            call.run().silent();
            assert_eq!((named("br0"), named("br1")), (0, 3), "{flavour} {backend} {verb}");
        }
    }
}

#[test]
fn better_many_at_once_each_get_their_rules() {
    for (flavour, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")] {
        let lab = lab(flavour);
        let call = |index: usize, verb: &str| {
            let address = format!("10.0.0.{}/24", index + 1);
            let config = config(&[&address], &json!({"backend": backend, "ingressPolicy": "isolated"}));
            lab.plugin("firewall").verb(verb).container(&format!("c{index}")).config(&config).run()
        };
        let all = |verb: &'static str| {
            std::thread::scope(|scope| {
                for index in 1..=100 {
                    let call = &call;
                    scope.spawn(move || drop(call(index, verb).success()));
                }
                let tool = format!("iptables-{flavour} -w");
                let script = format!(
                    "for i in $(seq 50); do {tool} -A FORWARD -s 172.16.0.$i -j DROP -m comment --comment {verb}; done"
                );
                lab.sh(&script).success();
            });
            let others = lab
                .ok(&format!("iptables-{flavour}-save"))
                .lines()
                .filter(|line| line.contains("172.16.0.") && line.contains(verb))
                .count();
            assert_eq!(others, 50, "{flavour} {backend}: rules of others are lost");
        };
        all("ADD");
        for index in 1..=100 {
            call(index, "CHECK").silent();
        }
        all("DEL");
        let left = lab.ok("nft list ruleset") + &lab.ok("iptables-legacy-save");
        assert!(!left.contains("10.0.0."), "{left}");
        assert_eq!(lab.list("/run/cni-box/firewall"), [""; 0]);
    }
}
