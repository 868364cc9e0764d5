//! The firewall plugin with rules of its own: what the tables hold, compared with what the reference leaves.

use serde_json::{Value, json};

use crate::lab::{Call, Configurations, Lab, Outcome, merged};

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
pub enum Side {
    Ours,
    Theirs,
}

use Side::{Ours, Theirs};

pub fn run(lab: &Lab, side: Side, verb: &str, config: &Value) -> Outcome {
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
pub fn configurations() -> Configurations {
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

pub fn both_leave_the_same(configurations: &Configurations) {
    for flavour in FLAVOURS {
        for (name, config) in configurations {
            let config = versioned(config.clone());
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

#[test]
fn both_leave_the_same_tables_and_print_the_same_result() {
    both_leave_the_same(&configurations());
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
pub fn rules(lab: &Lab, flavour: &str) -> Vec<String> {
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

/// ADD by one side, CHECK and DEL by the other.
pub fn round_trips(configurations: &Configurations) {
    for flavour in FLAVOURS {
        for (name, config) in configurations {
            let config = versioned(config.clone());
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

#[test]
fn what_one_adds_the_other_checks_and_deletes() {
    round_trips(&configurations());
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
        let config = config(V4, &json!({"ingressPolicy": "same-bridge"}));
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
fn better_nonsense_is_refused_before_anything_is_done() {
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
fn shared_rules_of_older_versions_are_recognised() {
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
