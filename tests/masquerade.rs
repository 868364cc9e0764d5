//! Masquerading through both flavours of iptables, read back by Debian's own tools.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, bridge_config, merged, wait_for};

pub const FLAVOURS: [&str; 2] = ["nft", "legacy"];
/// `CNI-` and the hash of "mynetcid1", as the reference computes it.
const CHAIN: &str = "CNI-a631aa8e1549a3b129110fd2";
const COMMENT: &str = r#"-m comment --comment "name: \"mynet\" id: \"cid1\"""#;

/// A host with `ns1` on which `iptables` is of this flavour.
pub fn lab(flavour: &str) -> Lab {
    let lab = Lab::new();
    lab.install_iptables(flavour);
    lab.netns("ns1");
    lab
}

pub fn config(changes: &Value) -> Value {
    let base = bridge_config(&json!({"name": "mynet", "isDefaultGateway": true, "ipMasq": true}));
    merged(base, changes)
}

pub fn dual_stack() -> Value {
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    config(&json!({"ipam": {"subnet": null, "ranges": ranges}}))
}

pub fn call<'a>(lab: &'a Lab, config: &Value) -> Call<'a> {
    lab.plugin("bridge").container("cid1").config(config)
}

/// The nat table as the flavour's own tool saves it, without its comment lines.
fn saved(lab: &Lab, tool: &str) -> Vec<String> {
    let text = lab.ok(&format!("{tool}-save -t nat"));
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_string).collect()
}

/// Flavours of iptables that hold rules or chains of ours.
pub fn flavours_in_use(lab: &Lab) -> Vec<&'static str> {
    let rules = lab.rules();
    let holds =
        |flavour: &&str| rules.iter().any(|line| line.contains(&format!("{flavour}-save")) && line.contains("CNI-"));
    FLAVOURS.into_iter().filter(holds).collect()
}

#[test]
pub fn both_flavours_hold_the_rules_that_the_reference_writes() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        call(&lab, &dual_stack()).run().result();
        for (tool, address, network, multicast) in [
            ("iptables", "10.1.2.2/32", "10.1.2.0/24", "224.0.0.0/4"),
            ("ip6tables", "fd00:1:2::2/128", "fd00:1:2::/64", "ff00::/8"),
        ] {
            let found = saved(&lab, &format!("{tool}-{flavour}"));
            let rules: Vec<_> = found.iter().filter(|line| line.starts_with("-A")).cloned().collect();
            let expected = [
                format!("-A POSTROUTING -s {address} {COMMENT} -j {CHAIN}"),
                format!("-A {CHAIN} -d {network} {COMMENT} -j ACCEPT"),
                format!("-A {CHAIN} ! -d {multicast} {COMMENT} -j MASQUERADE"),
            ];
            assert_eq!(rules, expected, "{flavour} {tool}");
            let chain = format!(":{CHAIN} - [0:0]");
            assert!(found.contains(&chain), "{flavour} {tool} {found:?}");
            let policy = found.iter().any(|line| line.starts_with(":POSTROUTING ACCEPT"));
            assert!(policy, "{flavour} {tool} {found:?}");
        }
    }
}

#[test]
fn nft_reads_the_rules_as_it_reads_those_of_iptables() {
    let lab = lab("nft");
    call(&lab, &dual_stack()).run().result();
    let ours = lab.ok("nft list ruleset");
    let twin = Lab::bare();
    for (tool, address, network, multicast) in [
        ("iptables-nft", "10.1.2.2", "10.1.2.0/24", "224.0.0.0/4"),
        ("ip6tables-nft", "fd00:1:2::2", "fd00:1:2::/64", "ff00::/8"),
    ] {
        let script = format!(
            "c='name: \"mynet\" id: \"cid1\"'\n{tool} -t nat -N {CHAIN}\n\
             {tool} -t nat -A {CHAIN} -d {network} -j ACCEPT -m comment --comment \"$c\"\n\
             {tool} -t nat -A {CHAIN} ! -d {multicast} -j MASQUERADE -m comment --comment \"$c\"\n\
             {tool} -t nat -A POSTROUTING -s {address} -j {CHAIN} -m comment --comment \"$c\""
        );
        twin.sh(&script).success();
    }
    let sorted = |text: &str| {
        let mut lines: Vec<_> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&ours), sorted(&twin.ok("nft list ruleset")));
}

#[test]
fn del_removes_the_rules_and_may_be_repeated() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let call = call(&lab, &dual_stack());
        call.run().result();
        assert_eq!(flavours_in_use(&lab), [flavour]);
        for _ in 0..2 {
            call.clone().verb("DEL").run().silent();
            assert_eq!(lab.rules(), [""; 0], "{flavour}");
        }
    }
}

/// Rules of others: chains, matches, targets, counters, other tables.
const FOREIGN: &str = r#"*filter
:INPUT ACCEPT [11:1100]
:FORWARD ACCEPT [22:2200]
:OUTPUT ACCEPT [33:3300]
:KUBE-FORWARD - [0:0]
[5:500] -A FORWARD -m comment --comment "others first" -j KUBE-FORWARD
[6:600] -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [1:100]
:INPUT ACCEPT [2:200]
:OUTPUT ACCEPT [3:300]
:POSTROUTING ACCEPT [4:400]
:CNI-0123456789abcdef01234567 - [0:0]
:DOCKER - [0:0]
[7:700] -A PREROUTING -p tcp -m tcp --dport 8080 -j DOCKER
[8:800] -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
[9:900] -A POSTROUTING -s 10.9.9.9/32 -m comment --comment "name: \"othernet\" id: \"cid1\"" -j CNI-0123456789abcdef01234567
[10:1000] -A CNI-0123456789abcdef01234567 -d 10.9.9.0/24 -j ACCEPT
[12:1200] -A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
"#;

/// Rules of others with their counters, and chains without: the host's own packets pass the policies.
fn foreign(lab: &Lab, flavour: &str) -> Vec<String> {
    let text = lab.ok(&format!("iptables-{flavour}-save -c"));
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.contains(CHAIN));
    lines.map(|line| if line.starts_with(':') { line.split('[').next().unwrap() } else { line }.to_string()).collect()
}

/// Packets that passed the policies: they may grow, but nobody may reset them.
fn policy_packets(lab: &Lab, flavour: &str) -> Vec<u64> {
    let text = lab.ok(&format!("iptables-{flavour}-save -c"));
    let policies = text.lines().filter(|line| line.starts_with(':') && line.contains("ACCEPT"));
    policies.map(|line| line.split(['[', ':']).nth(2).unwrap().parse().unwrap()).collect()
}

#[test]
fn rules_of_others_are_kept_with_their_counters_and_their_order() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        Call::new(&lab, &format!("iptables-{flavour}-restore")).args_list(&["-c"]).stdin(FOREIGN).run().success();
        let before = foreign(&lab, flavour);
        assert_eq!(before.iter().filter(|line| line.starts_with('[')).count(), 7);
        let call = call(&lab, &config(&json!({})));
        for verb in ["ADD", "DEL"] {
            call.clone().verb(verb).run().success();
            assert_eq!(foreign(&lab, flavour), before, "{flavour} after {verb}");
        }
    }
}

/// iptables-legacy itself forgets the counters of nat's policies.
#[test]
fn better_counters_of_policies_are_kept() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        Call::new(&lab, &format!("iptables-{flavour}-restore")).args_list(&["-c"]).stdin(FOREIGN).run().success();
        let before = policy_packets(&lab, flavour);
        let call = call(&lab, &config(&json!({})));
        for verb in ["ADD", "DEL"] {
            call.clone().verb(verb).run().success();
            let after = policy_packets(&lab, flavour);
            let kept = after.iter().zip(&before).all(|(after, before)| after >= before);
            assert!(kept, "{flavour} after {verb}: {before:?} became {after:?}");
        }
    }
}

#[test]
fn our_jump_comes_after_those_of_others() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        Call::new(&lab, &format!("iptables-{flavour}-restore")).args_list(&["-c"]).stdin(FOREIGN).run().success();
        call(&lab, &config(&json!({}))).run().result();
        let rules = saved(&lab, &format!("iptables-{flavour}"));
        let jumps: Vec<_> = rules.iter().filter(|line| line.starts_with("-A POSTROUTING")).collect();
        assert_eq!(jumps.len(), 3);
        assert!(jumps[2].contains(CHAIN), "{jumps:?}");
    }
}

#[test]
fn better_two_attachments_to_one_network_keep_each_others_rules() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let config = config(&json!({}));
        call(&lab, &config).run().result();
        call(&lab, &config).ifname("net1").run().result();
        call(&lab, &config).verb("DEL").run().silent();
        let rules = lab.rules();
        assert!(rules.iter().any(|line| line.contains("-s 10.1.2.3/32")), "{rules:?}");
        assert!(rules.iter().any(|line| line.contains("-j MASQUERADE")), "{rules:?}");
        assert!(!rules.iter().any(|line| line.contains("10.1.2.2/32")), "{rules:?}");
        call(&lab, &config).ifname("net1").verb("DEL").run().silent();
        assert_eq!(lab.rules(), [""; 0], "{flavour}");
    }
}

#[test]
fn better_two_addresses_of_one_family_go_in_one_del() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.3.0.0/24"}]]);
        let config = config(&json!({"isDefaultGateway": false, "ipam": {"subnet": null, "ranges": ranges}}));
        call(&lab, &config).run().result();
        assert_eq!(lab.rules().iter().filter(|line| line.contains("POSTROUTING")).count(), 2);
        call(&lab, &config).verb("DEL").run().silent();
        assert_eq!(lab.rules(), [""; 0], "{flavour}");
    }
}

#[test]
fn old_rules_with_the_prefix_length_are_removed_too() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let call = call(&lab, &config(&json!({})));
        call.run().result();
        let script = format!("iptables-{flavour} -t nat -A POSTROUTING -s 10.1.2.2/24 {COMMENT} -j {CHAIN}");
        lab.sh(&script).success();
        call.verb("DEL").run().silent();
        assert_eq!(lab.rules(), [""; 0], "{flavour}");
    }
}

/// A namespace beyond the host that has no route back to the containers.
pub fn outside(lab: &Lab) {
    lab.netns("outside");
    lab.sh("ip link add out0 type veth peer name eth0 netns outside
        ip addr add 192.0.2.1/24 dev out0; ip addr add fd00:2::1/64 dev out0 nodad; ip link set out0 up
        ip -n outside addr add 192.0.2.2/24 dev eth0; ip -n outside addr add fd00:2::2/64 dev eth0 nodad
        ip -n outside link set eth0 up")
        .success();
}

pub fn ping(lab: &Lab, address: &str) -> bool {
    lab.run(&["ip", "netns", "exec", "ns1", "ping", "-n", "-c", "1", "-W", "1", address]).code == Some(0)
}

#[test]
pub fn masqueraded_traffic_comes_back_from_a_place_without_a_route() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        outside(&lab);
        call(&lab, &dual_stack()).run().result();
        for address in ["192.0.2.2", "fd00:2::2"] {
            wait_for(&format!("{flavour} ping {address}"), || ping(&lab, address));
        }
    }
}

#[test]
fn without_masquerading_nothing_comes_back() {
    let lab = lab("nft");
    outside(&lab);
    let config = merged(dual_stack(), &json!({"ipMasq": false}));
    call(&lab, &config).run().result();
    wait_for("the gateway", || ping(&lab, "10.1.2.1"));
    assert!(!ping(&lab, "192.0.2.2"));
    assert_eq!(lab.rules(), [""; 0]);
}

#[test]
fn newer_an_unknown_backend_is_refused() {
    let lab = lab("nft");
    let error = call(&lab, &config(&json!({"ipMasqBackend": "magic"}))).run().error();
    assert!(error.1.contains("unknown ipmasq backend \"magic\""), "{error:?}");
    assert_eq!(lab.veths(), [""; 0]);
}

#[test]
fn ip_masq_without_ipam_does_nothing() {
    let lab = lab("nft");
    call(&lab, &config(&json!({"ipam": null, "isDefaultGateway": false}))).run().result();
    assert_eq!(lab.rules(), [""; 0]);
}
