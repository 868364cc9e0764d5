//! The firewall plugin with rules of its own: what the tables hold, compared with what the reference leaves.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, Outcome, merged};

pub const FLAVOURS: [&str; 2] = ["nft", "legacy"];

/// A host with `ns1` on which `iptables` is of this flavour.
pub fn lab(flavour: &str) -> Lab {
    let lab = Lab::new();
    lab.install_iptables(flavour);
    lab.netns("ns1");
    for bridge in ["br0", "br1"] {
        lab.ok(&format!("ip link add {bridge} type bridge"));
    }
    lab
}

/// firewall behind a bridge `br0` that gave these addresses to `eth0`.
pub fn config(addresses: &[&str], changes: &Value) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|address| json!({"address": address, "interface": 1})).collect();
    let base = json!({"cniVersion": "1.0.0", "name": "net", "type": "firewall", "backend": "iptables",
        "prevResult": {"cniVersion": "1.0.0", "ips": ips, "interfaces": [
            {"name": "br0", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/var/run/netns/ns1"}]}});
    merged(base, changes)
}

pub const V4: &[&str] = &["10.0.0.2/24"];
pub const DUAL: &[&str] = &["10.0.0.2/24", "2001:db8::2/64"];

/// Whose plugin.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Ours,
    Theirs,
}

use Side::{Ours, Theirs};

fn run(lab: &Lab, side: Side, verb: &str, config: &Value) -> Outcome {
    let call = if side == Ours { lab.plugin("firewall") } else { lab.reference("firewall") };
    call.verb(verb).config(config).run()
}

/// The filter tables of both families and flavours, as iptables' own tools save them.
pub fn tables(lab: &Lab) -> Vec<String> {
    let mut lines = Vec::new();
    for tool in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
        let text = lab.ok(&format!("{tool}-save -t filter"));
        let own = text.lines().filter(|line| !line.starts_with('#'));
        lines.extend(own.map(|line| format!("{tool} {}", line.split(" [").next().unwrap())));
    }
    lines
}

/// Configurations that Debian's reference knows.
fn configurations() -> Vec<(&'static str, Value)> {
    let policy = json!({"ingressPolicy": "same-bridge"});
    let interfaces = json!([{"name": "br1"}]);
    vec![
        ("v4", config(V4, &json!({}))),
        (
            "old version",
            config(V4, &json!({"cniVersion": "0.4.0", "prevResult": {"ips": [{"address": "10.0.0.2/24"}]}})),
        ),
        ("v6", config(&["2001:db8::2/64"], &json!({"ingressPolicy": "open"}))),
        ("dual", config(DUAL, &json!({}))),
        ("two of one family", config(&["10.0.0.2/24", "10.7.0.2/16"], &policy)),
        ("same-bridge", config(V4, &policy)),
        ("same-bridge dual", config(DUAL, &policy)),
        ("admin chain", config(DUAL, &json!({"iptablesAdminChainName": "DOCKER-USER"}))),
        ("no mention of a backend", config(V4, &json!({"backend": null}))),
        ("unknown backend", config(V4, &json!({"backend": "magic"}))),
        ("no addresses", config(&[], &json!({}))),
        ("another bridge", config(V4, &merged(policy, &json!({"prevResult": {"interfaces": interfaces}})))),
    ]
}

/// The reference names no bridge in 0.4.0's result unless it is told the version of each address.
fn versioned(mut config: Value) -> Value {
    if config["cniVersion"] == "0.4.0" {
        config["prevResult"]["cniVersion"] = "0.4.0".into();
        for ip in config["prevResult"]["ips"].as_array_mut().unwrap() {
            ip["version"] = "4".into();
        }
    }
    config
}

#[test]
fn both_leave_the_same_tables_and_print_the_same_result() {
    for flavour in FLAVOURS {
        for (name, config) in configurations() {
            let config = versioned(config);
            let made = [Ours, Theirs].map(|side| {
                let lab = lab(flavour);
                let result = run(&lab, side, "ADD", &config).result();
                let once = tables(&lab);
                run(&lab, side, "ADD", &config).result();
                assert_eq!(once, tables(&lab), "{name}: a second ADD of {side:?} changes something");
                run(&lab, side, "CHECK", &config).silent();
                let after_add = tables(&lab);
                run(&lab, side, "DEL", &config).silent();
                (result, after_add, tables(&lab))
            });
            let [mut ours, mut theirs] = made;
            // Debian's 1.1.1 prints an empty dns in every version, HEAD only below 1.0.0.
            for result in [&mut ours.0, &mut theirs.0] {
                result.as_object_mut().unwrap().retain(|key, value| key != "dns" || *value != json!({}));
            }
            assert_eq!(ours.0, theirs.0, "{flavour} {name}");
            assert_eq!(old(&ours.1), old(&theirs.1), "{flavour} {name} after ADD");
            assert_eq!(old(&ours.2), old(&theirs.2), "{flavour} {name} after DEL");
        }
    }
}

/// The comments that Debian's 1.1.1 gives to what both policies share; [`ISOLATED`] has today's.
fn old(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| line.replace("same-bridge|isolated", "same-bridge")).collect()
}

/// What 1.9.1 leaves; Debian's 1.1.1 does not know `isolated`.
const ISOLATED: &str = r#":CNI-ADMIN -
:CNI-FORWARD -
:CNI-ISOLATION-STAGE-1 -
:CNI-ISOLATION-STAGE-2 -
-A FORWARD -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j CNI-ISOLATION-STAGE-1
-A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
-A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
-A CNI-FORWARD -d 10.0.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A CNI-FORWARD -s 10.0.0.2/32 -j ACCEPT
-A CNI-ISOLATION-STAGE-1 -i br0 -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: isolated)" -j DROP
-A CNI-ISOLATION-STAGE-1 -i br0 ! -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: isolated)" -j CNI-ISOLATION-STAGE-2
-A CNI-ISOLATION-STAGE-1 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j RETURN
-A CNI-ISOLATION-STAGE-2 -o br0 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j DROP
-A CNI-ISOLATION-STAGE-2 -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)" -j RETURN"#;

/// Rules and user chains of a flavour's IPv4.
fn rules(lab: &Lab, flavour: &str) -> Vec<String> {
    let prefix = format!("iptables-{flavour} ");
    let lines = tables(lab).into_iter().filter_map(|line| line.strip_prefix(&prefix).map(str::to_string));
    lines.filter(|line| line.starts_with("-A") || line.ends_with(" -")).collect()
}

#[test]
fn newer_isolated_is_that_of_the_reference() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let config = config(V4, &json!({"ingressPolicy": "isolated"}));
        run(&lab, Ours, "ADD", &config).result();
        assert_eq!(rules(&lab, flavour), ISOLATED.lines().collect::<Vec<_>>());
        run(&lab, Ours, "CHECK", &config).silent();
    }
}

#[test]
fn what_one_adds_the_other_checks_and_deletes() {
    for flavour in FLAVOURS {
        for (name, config) in configurations() {
            let config = versioned(config);
            for (adds, removes) in [(Ours, Theirs), (Theirs, Ours)] {
                let lab = lab(flavour);
                run(&lab, adds, "ADD", &config).result();
                run(&lab, adds, "DEL", &config).silent();
                let empty = tables(&lab);
                run(&lab, adds, "ADD", &config).result();
                run(&lab, removes, "CHECK", &config).silent();
                for _ in 0..2 {
                    run(&lab, removes, "DEL", &config).silent();
                    assert_eq!(tables(&lab), empty, "{name}, iptables-{flavour}, {adds:?} added, {removes:?} removed");
                }
            }
        }
    }
}

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

/// Chains as docker, kube-proxy and an administrator make them.
const FOREIGN: &str = r#"*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [22:2200]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:KUBE-FORWARD - [0:0]
[3:300] -A FORWARD -j DOCKER-USER
[5:500] -A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
[6:600] -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[7:700] -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
[8:800] -A DOCKER-USER -j RETURN
[9:900] -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
[1:100] -A KUBE-FORWARD -s 10.0.0.2/32 -m comment --comment "not ours" -j ACCEPT
COMMIT
"#;

fn foreign(lab: &Lab, flavour: &str) -> Vec<String> {
    let text = lab.ok(&format!("iptables-{flavour}-save -t filter -c"));
    text.lines().filter(|line| !line.starts_with(['#', ':']) && !line.contains("CNI-")).map(str::to_string).collect()
}

#[test]
fn rules_of_others_are_kept_with_their_counters_and_their_order() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        Call::new(&lab, &format!("iptables-{flavour}-restore")).args_list(&["-c"]).stdin(FOREIGN).run().success();
        let before = foreign(&lab, flavour);
        assert_eq!(before.iter().filter(|line| line.starts_with('[')).count(), 7);
        let config = config(V4, &json!({"ingressPolicy": "isolated"}));
        for verb in ["ADD", "CHECK", "DEL"] {
            run(&lab, Ours, verb, &config).success();
            assert_eq!(foreign(&lab, flavour), before, "{flavour} after {verb}");
        }
        let forward: Vec<_> = rules(&lab, flavour).into_iter().filter(|line| line.starts_with("-A FORWARD")).collect();
        let targets: Vec<_> = forward.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(targets, ["CNI-ISOLATION-STAGE-1", "CNI-FORWARD", "DOCKER-USER", "KUBE-FORWARD", "ACCEPT"]);
    }
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
fn better_a_run_that_cannot_be_written_does_not_matter() {
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
        assert_eq!(lab.list("/run/cni-box/firewall"), [""; 0]);
        lab.netns("ns2");
        lab.cnitool(&["add", "good", "/var/run/netns/ns2"]).run().success();
        let with_one = lab.snapshot();
        add("bad").dies_with(&["no"]);
        with_one.assert_same(&lab.snapshot());
    }
}

#[test]
fn better_check_reads_only_and_says_what_is_missing() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let config = config(V4, &json!({"ingressPolicy": "isolated"}));
        let jump = "expected FORWARD rule [-m comment --comment CNI firewall plugin rules -j CNI-FORWARD] not found";
        run(&lab, Ours, "CHECK", &config).fails(999, jump);
        assert!(!tables(&lab).iter().any(|line| line.contains("CNI-")), "CHECK has made something");
        run(&lab, Ours, "ADD", &config).result();
        run(&lab, Ours, "CHECK", &config).silent();
        lab.ok(&format!("iptables-{flavour} -D CNI-ISOLATION-STAGE-1 1"));
        run(&lab, Ours, "CHECK", &config).fails_with(999, &["expected CNI-ISOLATION-STAGE-1 rule [-i br0 -o br0"]);
        run(&lab, Ours, "ADD", &config).result();
        lab.ok(&format!("iptables-{flavour} -D CNI-FORWARD 3"));
        run(&lab, Ours, "CHECK", &config).fails(999, "expected rule [-s 10.0.0.2/32 -j ACCEPT] not found");
    }
}

#[test]
fn nonsense_is_refused_before_anything_is_done() {
    let lab = lab("nft");
    let before = lab.snapshot();
    let add = |changes: Value| run(&lab, Ours, "ADD", &config(V4, &changes));
    let long = "CNI-0123456789012345678901234";
    for name in [long, "with space", "FORWARD", "CNI-FORWARD", "-A"] {
        let named = format!("invalid iptablesAdminChainName {name:?}: ");
        add(json!({"iptablesAdminChainName": name})).fails_with(7, &[&named]);
    }
    add(json!({"ingressPolicy": "magic"})).fails(999, "unknown ingress policy: \"magic\"");
    let hint = "make sure to chain \"firewall\" plugin with \"bridge\"";
    add(json!({"ingressPolicy": "isolated", "prevResult": {"interfaces": []}})).fails_with(999, &[hint]);
    let nameless = json!([{"name": ""}]);
    add(json!({"ingressPolicy": "isolated", "prevResult": {"interfaces": nameless}}))
        .fails(999, "got empty bridge name");
    let long_name = json!([{"name": "bridge0123456789"}]);
    add(json!({"ingressPolicy": "isolated", "prevResult": {"interfaces": long_name}}))
        .fails_with(999, &["invalid bridge name \"bridge0123456789\": interface name is too long"]);
    add(json!({"prevResult": null})).fails(999, "missing prevResult from earlier plugin");
    add(json!({"backend": 5})).fails_with(999, &["failed to load netconf: json: cannot unmarshal number 5"]);
    add(json!({"cniVersion": "0.3.1"})).fails_with(1, &["incompatible CNI versions"]);
    let flavour = lab.plugin("firewall").config(&config(V4, &json!({}))).env("CNI_BOX_IPTABLES", "ipfw").run();
    flavour.fails_with(7, &["invalid iptables flavour"]);
    before.assert_same(&lab.snapshot());
    assert!(!lab.exists("/run/cni-box"));
}

#[test]
fn missing_words_are_those_of_the_reference() {
    let lab = lab("nft");
    for (changes, verb) in [
        (json!({"prevResult": null}), "ADD"),
        (json!({"prevResult": null}), "CHECK"),
        (json!({"ingressPolicy": "magic"}), "ADD"),
        (json!({"ingressPolicy": "same-bridge", "prevResult": {"interfaces": null}}), "ADD"),
    ] {
        let config = config(V4, &changes);
        assert_eq!(
            run(&lab, Ours, verb, &config).error(),
            run(&lab, Theirs, verb, &config).error(),
            "{verb} {changes}"
        );
    }
}

#[test]
fn better_another_policy_replaces_that_of_the_bridge() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let with = |policy: &str| config(DUAL, &json!({"ingressPolicy": policy}));
        let [first, second] = ["same-bridge", "isolated"].map(|policy| {
            run(&lab, Ours, "ADD", &with(policy)).result();
            tables(&lab)
        });
        assert_eq!(rules(&lab, flavour), ISOLATED.lines().collect::<Vec<_>>());
        run(&lab, Ours, "ADD", &with("same-bridge")).result();
        assert_eq!(tables(&lab), first, "{flavour}");
        run(&lab, Ours, "CHECK", &with("isolated")).fails_with(999, &["CNI-ISOLATION-STAGE-1 rule [-i br0"]);
        assert_ne!(first, second);
        run(&lab, Ours, "ADD", &with("open")).result();
        assert_eq!(tables(&lab), first, "open leaves what other networks on the bridge may want");
    }
}

/// Debian's 1.1.1 writes other comments than 1.9.1.
#[test]
fn better_shared_rules_of_older_versions_are_recognised() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let config = config(DUAL, &json!({"ingressPolicy": "same-bridge"}));
        run(&lab, Theirs, "ADD", &config).result();
        let before = tables(&lab);
        run(&lab, Ours, "CHECK", &config).silent();
        run(&lab, Ours, "ADD", &config).result();
        assert_eq!(tables(&lab), before);
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
fn newer_status_asks_the_kernel() {
    let lab = lab("nft");
    let status = |changes: Value| {
        let base = json!({"cniVersion": "1.1.0", "name": "net", "type": "firewall"});
        let call = lab.plugin("firewall").verb("STATUS").config(&merged(base, &changes));
        call.without("CNI_CONTAINERID").without("CNI_NETNS").without("CNI_IFNAME").run()
    };
    let before = lab.snapshot();
    for backend in ["iptables", "nftables", ""] {
        status(json!({"backend": backend, "ingressPolicy": "isolated"})).silent();
    }
    before.assert_same(&lab.snapshot());
    status(json!({"backend": "firewalld"})).fails_with(50, &["failed to connect to the bus at unix:path="]);
    status(json!({"ingressPolicy": "magic"})).fails_with(999, &["unknown ingress policy"]);
    status(json!({"iptablesAdminChainName": "a b"})).fails_with(7, &["a b"]);
}

#[test]
fn better_no_other_program_is_started_and_none_is_needed() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        for verb in ["ADD", "CHECK", "DEL"] {
            let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=execve,fork,vfork,clone,clone3"];
            let config = config(DUAL, &json!({"ingressPolicy": "isolated"}));
            let call = lab.plugin("firewall").config(&config).verb(verb).under(&strace);
            call.env("PATH", "/usr/bin").env("CNI_BOX_IPTABLES", flavour).run().success();
            let trace = lab.read("/run/lab/trace");
            assert_eq!(trace.lines().count(), 1, "{verb}: {trace}");
        }
    }
}

#[test]
fn many_at_once_each_get_their_rules() {
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
