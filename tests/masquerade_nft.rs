//! Masquerading in nf_tables (`ipMasqBackend: nftables`), compared with what the reference 1.9.1 left: tests/golden/nft-*
//! is what `nft --debug=netlink list ruleset` printed after its ADD.

use serde_json::{Value, json};

use crate::kills::{ordinal_of, run_refused};
use crate::lab::{Call, Lab, merged, wait_for, without_random_names};
use crate::masquerade::{FLAVOURS, call, config, dual_stack, flavours_in_use, lab, outside, ping};

const V4: &str = include_str!("golden/nft-masquerade-v4.txt");
const V6: &str = include_str!("golden/nft-masquerade-v6.txt");
const DUAL: &str = include_str!("golden/nft-masquerade-dual.txt");
const TWO_INTERFACES: &str = include_str!("golden/nft-masquerade-two-interfaces.txt");
const LONG: &str = include_str!("golden/nft-masquerade-long.txt");
const EMPTY: &str = include_str!("golden/nft-masquerade-empty.txt");

/// What `nft` says of the kernel's rules, both in bytecode and in its language, without handles and random names.
pub fn ruleset(lab: &Lab) -> String {
    let text = lab.run(&["nft", "--debug=netlink", "list", "ruleset"]).success();
    normalised(&(text.stdout + &text.stderr))
}

pub fn normalised(text: &str) -> String {
    without_random_names(text).lines().map(normalised_line).collect()
}

fn normalised_line(line: &str) -> String {
    // The name of a veth in four words.
    let line = line.replace("  [ cmp eq reg 1 0x68746576 ", "  [ cmp eq VETH ");
    let line = line.split_once("VETH 0x").map_or(line.as_str(), |(before, _)| before);
    let is_rule = line.starts_with("inet ") || line.starts_with("bridge ") || line.starts_with("ip");
    let line = if is_rule { line.trim_end_matches(|end: char| end.is_ascii_digit() || end == ' ') } else { line };
    format!("{line}\n")
}

/// Puts the rules of a golden text into the kernel.
pub fn restore(lab: &Lab, golden: &str) {
    let listing = &golden[golden.find("\ntable ").map_or(0, |at| at + 1)..];
    Call::new(lab, "nft").args_list(&["-f", "-"]).stdin(listing).run().success();
}

fn nft(changes: &Value) -> Value {
    merged(config(&json!({"ipMasqBackend": "nftables"})), changes)
}

fn v6() -> Value {
    nft(&json!({"ipam": {"subnet": "fd00:1:2::/64"}}))
}

fn dual() -> Value {
    nft(&json!({"ipam": {"subnet": null, "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]}}))
}

fn masq_checks(lab: &Lab) -> Vec<String> {
    let text = lab.ok("nft list chain inet cni_plugins_masquerade masq_checks");
    text.lines().filter(|line| line.contains("masquerade comment")).map(|line| line.trim().to_string()).collect()
}

fn assert_ruleset(lab: &Lab, golden: &str) {
    let (found, wanted) = (ruleset(lab), normalised(golden));
    assert_eq!(found, wanted, "found:\n{found}\nwanted:\n{wanted}");
}

#[test]
fn newer_the_rules_are_those_of_the_reference_in_text_and_in_bytecode() {
    for (config, golden) in [(nft(&json!({})), V4), (v6(), V6), (dual(), DUAL)] {
        let lab = lab("nft");
        call(&lab, &config).run().result();
        assert_ruleset(&lab, golden);
    }
}

/// Hides that the kernel has IPv6.
fn hide_ipv6(lab: &Lab) {
    lab.sh("mount -t tmpfs none /proc/sys/net; mkdir /proc/sys/net/ipv4; echo 1 > /proc/sys/net/ipv4/ip_forward")
        .success();
}

/// Kernels built without IPv6 have no tables inet, where the reference keeps the rules. The first
/// transaction, about such a table, gets the answer of such a kernel.
#[test]
fn better_without_tables_inet_the_rules_are_in_a_table_ip() {
    let config = json!({"cniVersion": "1.1.0", "name": "mynet", "type": "ptp", "ipMasq": true,
        "ipMasqBackend": "nftables", "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}});
    let (traced, lab) = (lab("nft"), lab("nft"));
    hide_ipv6(&traced);
    hide_ipv6(&lab);
    let refused = |verb: &str| {
        let [traced_call, call] =
            [&traced, &lab].map(|lab| lab.plugin("ptp").container("cid1").verb(verb).config(&config));
        let ordinal = ordinal_of(&traced, &traced_call, "sendto", "NFNL_MSG_BATCH_BEGIN");
        run_refused(&lab, &call, "sendto", "NFNL_MSG_BATCH_BEGIN", (ordinal, "EOPNOTSUPP"))
    };
    refused("STATUS").silent();
    let attached = merged(config.clone(), &json!({"prevResult": refused("ADD").result()}));
    let listing = V4[V4.find("\ntable ").unwrap() + 1..].replace("table inet", "table ip");
    assert_eq!(lab.ok("nft list ruleset"), listing.replace("\t\tip6 daddr ff00::/8 return\n", ""));
    let call = |verb: &str| lab.plugin("ptp").container("cid1").verb(verb).config(&attached).run();
    let rules = lab.ok("nft list chain ip cni_plugins_masquerade masq_checks");
    call("CHECK").silent();
    lab.ok("nft flush chain ip cni_plugins_masquerade masq_checks");
    call("CHECK")
        .fails_with(999, &["in nftables, chain \"masq_checks\" has no rule of this attachment for 10.1.2.2/24"]);
    restore(&lab, &rules);
    call("CHECK").silent();
    call("DEL").silent();
    assert!(!lab.ok("nft list ruleset").contains("cid1"));
}

#[test]
fn newer_two_interfaces_of_a_container_have_rules_of_their_own() {
    let lab = lab("nft");
    call(&lab, &dual()).run().result();
    call(&lab, &dual()).ifname("net1").run().result();
    assert_ruleset(&lab, TWO_INTERFACES);
    call(&lab, &dual()).ifname("net1").verb("DEL").run();
    assert!(masq_checks(&lab).iter().all(|rule| rule.contains("if: eth0")));
    assert_eq!(masq_checks(&lab).len(), 2);
}

#[test]
fn newer_a_long_comment_is_cut_to_what_nft_holds() {
    let lab = lab("nft");
    let id = "c".repeat(90);
    call(&lab, &nft(&json!({}))).container(&id).run().result();
    assert_ruleset(&lab, LONG);
    call(&lab, &nft(&json!({}))).container(&id).verb("DEL").run();
    assert_eq!(masq_checks(&lab), [""; 0]);
}

#[test]
fn better_del_of_nftables_succeeds_and_may_be_repeated() {
    let lab = lab("nft");
    call(&lab, &dual()).run().result();
    for _ in 0..2 {
        call(&lab, &dual()).verb("DEL").run().silent();
        assert_ruleset(&lab, EMPTY);
    }
}

#[test]
fn better_del_removes_the_rules_in_every_state_of_the_namespace() {
    for (netns, backend) in [("", "nftables"), ("/var/run/netns/gone", "nftables"), ("/var/run/netns/ns1", "iptables")]
    {
        let lab = lab("nft");
        call(&lab, &dual()).run().result();
        let config = merged(dual(), &json!({"ipMasqBackend": backend}));
        call(&lab, &config).netns(netns).verb("DEL").run().silent();
        assert_ruleset(&lab, EMPTY);
    }
}

#[test]
fn better_del_finds_rules_of_iptables_whatever_backend_is_configured() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        call(&lab, &dual_stack()).run().result();
        assert_eq!(flavours_in_use(&lab), [flavour]);
        call(&lab, &dual()).verb("DEL").run().silent();
        assert_eq!(lab.rules(), [""; 0]);
    }
}

#[test]
fn better_del_removes_what_the_reference_has_left() {
    for (config, golden) in [(nft(&json!({})), V4), (v6(), V6), (dual(), DUAL), (nft(&json!({})), LONG)] {
        let lab = lab("nft");
        restore(&lab, golden);
        let id = if golden == LONG { "c".repeat(90) } else { "cid1".to_string() };
        call(&lab, &config).container(&id).verb("DEL").run().silent();
        assert_ruleset(&lab, EMPTY);
    }
}

#[test]
fn newer_add_replaces_stale_rules_of_the_same_attachment_only() {
    let lab = lab("nft");
    restore(&lab, &TWO_INTERFACES.replace("10.1.2.2", "10.7.7.7"));
    call(&lab, &dual()).run().result();
    let rules = masq_checks(&lab);
    assert_eq!(rules.iter().filter(|rule| rule.contains("if: net1")).count(), 2, "{rules:?}");
    assert_eq!(rules.iter().filter(|rule| rule.contains("if: eth0")).count(), 2, "{rules:?}");
    assert!(!rules.iter().any(|rule| rule.contains("10.7.7.7")), "{rules:?}");
}

#[test]
fn newer_a_repeated_add_does_not_pile_up_rules() {
    let lab = lab("nft");
    for _ in 0..2 {
        call(&lab, &dual()).run().result();
        lab.sh("ip -n ns1 link del eth0; rm -r /var/lib/cni/networks").success();
    }
    assert_ruleset(&lab, DUAL);
}

/// Handles of the rules in `postrouting`.
fn handles(lab: &Lab) -> Vec<String> {
    let text = lab.ok("nft -a list chain inet cni_plugins_masquerade postrouting");
    let rules = text.lines().filter(|line| line.contains("return") || line.contains("goto"));
    rules.map(|line| line.split("handle ").last().unwrap().to_string()).collect()
}

#[test]
fn better_postrouting_is_only_written_when_it_is_not_what_it_should_be() {
    let lab = lab("nft");
    call(&lab, &dual()).run().result();
    let before = handles(&lab);
    call(&lab, &dual()).ifname("net1").run().result();
    assert_eq!((before.len(), &handles(&lab)), (3, &before));
    lab.sh("nft add rule inet cni_plugins_masquerade postrouting ip daddr 192.0.2.2 return").success();
    call(&lab, &dual()).ifname("net2").run().result();
    assert_eq!(handles(&lab).len(), 3);
}

#[test]
fn newer_rules_of_others_stay() {
    let lab = lab("nft");
    call(&lab, &dual()).run().result();
    lab.sh("nft insert rule inet cni_plugins_masquerade masq_checks ip saddr 10.9.9.9 return comment '\"ours\"'
        nft add rule inet cni_plugins_masquerade masq_checks tcp dport 99 counter return
        nft add table inet cni_other; nft add chain inet cni_other masq_checks")
        .success();
    call(&lab, &dual()).ifname("net1").run().result();
    for ifname in ["eth0", "net1"] {
        call(&lab, &dual()).ifname(ifname).verb("DEL").run();
    }
    let text = lab.ok("nft list ruleset");
    for rule in ["ip saddr 10.9.9.9 return comment \"ours\"", "tcp dport 99 counter", "table inet cni_other"] {
        assert!(text.contains(rule), "{rule}: {text}");
    }
    assert_eq!(masq_checks(&lab), [""; 0]);
}

/// An ADD that fails at the very end: nobody can read its result.
fn failing_add(lab: &Lab, config: &Value) {
    let outcome = call(lab, config).under(&["sh", "-c", "exec \"$0\" >/dev/full"]).run();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
}

#[test]
fn better_a_failed_add_takes_its_rules_back() {
    let lab = lab("nft");
    let config = merged(dual(), &json!({"macspoofchk": true}));
    failing_add(&lab, &config);
    let scaffold = ruleset(&lab);
    let empty = normalised(EMPTY);
    assert!(scaffold.contains(&empty[empty.find("table").unwrap()..]), "{scaffold}");
    assert!(!scaffold.contains("cid1"), "{scaffold}");
    call(&lab, &config).ifname("net1").run().result();
    let before = (ruleset(&lab), lab.snapshot());
    failing_add(&lab, &config);
    before.1.assert_same(&lab.snapshot());
    assert_eq!(ruleset(&lab), before.0);
}

/// For each flow to this address, whether its source was changed.
fn flows(lab: &Lab, to: &str) -> Vec<bool> {
    let text = lab.ok("conntrack -L -p icmp") + &lab.ok("conntrack -L -p icmpv6");
    let flows = text.lines().filter(|line| line.contains(&format!(" dst={to} ")));
    let answer = |line: &str| line.rsplit(" dst=").next().unwrap().split(' ').next().unwrap().to_string();
    flows.map(|line| !["10.1.2.2", "fd00:1:2::2"].contains(&answer(line).as_str())).collect()
}

#[test]
fn newer_what_leaves_the_subnet_is_masqueraded_and_what_stays_is_not() {
    let lab = lab("nft");
    outside(&lab);
    call(&lab, &dual()).run().result();
    for address in ["192.0.2.2", "fd00:2::2"] {
        wait_for(&format!("ping {address}"), || ping(&lab, address));
        let flows = flows(&lab, address);
        assert!(!flows.is_empty() && flows.iter().all(|changed| *changed), "{address}: {flows:?}");
    }
    // An address of the subnet that happens to be behind another interface of the host.
    lab.sh("ip route add 10.1.2.200 dev out0; echo 1 > /proc/sys/net/ipv4/conf/cni0/proxy_arp
        ip -n outside addr add 10.1.2.200/32 dev eth0; ip -n outside route add 10.1.2.0/24 via 192.0.2.1")
        .success();
    wait_for("ping within the subnet", || ping(&lab, "10.1.2.200"));
    let flows = flows(&lab, "10.1.2.200");
    assert!(!flows.is_empty() && flows.iter().all(|changed| !*changed), "{flows:?}");
}

#[test]
fn better_an_unknown_backend_is_refused_only_when_it_is_needed() {
    let lab = lab("nft");
    for name in ["magic", ""] {
        let unknown = nft(&json!({"ipMasqBackend": name}));
        call(&lab, &unknown).run().fails(999, &format!("unknown ipmasq backend {name:?}"));
    }
    assert_eq!(lab.veths(), [""; 0]);
    let unused = nft(&json!({"ipMasqBackend": "magic", "ipMasq": false}));
    call(&lab, &unused).run().result();
    call(&lab, &unused).verb("DEL").run().silent();
}

#[test]
fn newer_null_is_no_backend() {
    let lab = lab("nft");
    call(&lab, &nft(&json!({"ipMasqBackend": null}))).run().result();
    assert_eq!(flavours_in_use(&lab), ["nft"]);
}

#[test]
fn better_without_iptables_in_the_kernel_masquerading_falls_back_to_nftables() {
    let lab = lab("legacy");
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=getsockopt:error=ENOPROTOOPT"];
    call(&lab, &config(&json!({}))).under(&strace).run().result();
    assert_eq!((flavours_in_use(&lab), masq_checks(&lab).len()), (vec![], 1));
    let demanded = call(&lab, &config(&json!({"ipMasqBackend": "iptables"}))).ifname("net1").under(&strace);
    demanded.run().fails_with(999, &["protocol not available"]);
}

#[test]
fn better_no_program_is_needed() {
    let lab = lab("nft");
    let config = merged(dual(), &json!({"macspoofchk": true}));
    for verb in ["ADD", "CHECK", "DEL"] {
        let config = if verb == "CHECK" { with_result(&lab, &config) } else { config.clone() };
        let strace =
            ["/usr/bin/strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=execve,fork,vfork,clone,clone3"];
        let outcome = call(&lab, &config).verb(verb).env("PATH", "/nowhere").under(&strace).run().success();
        if verb == "ADD" {
            lab.write("/opt/result", outcome.stdout);
        }
        assert_eq!(lab.read("/run/lab/trace").lines().count(), 1, "{verb}");
    }
}

/// The configuration with the result in /opt/result as its prevResult.
fn with_result(lab: &Lab, config: &Value) -> Value {
    let result: Value = serde_json::from_str(&lab.read("/opt/result")).unwrap();
    merged(config.clone(), &json!({"prevResult": result}))
}

#[test]
fn better_check_looks_for_the_rules_in_whatever_backend_has_them() {
    for (made, named) in [("nftables", "iptables"), ("iptables", "nftables")] {
        let lab = lab("nft");
        let result = call(&lab, &merged(dual(), &json!({"ipMasqBackend": made}))).run().result();
        let config = merged(dual(), &json!({"ipMasqBackend": named, "prevResult": result}));
        call(&lab, &config).verb("CHECK").run().silent();
    }
}

#[test]
fn better_check_says_which_masquerade_rule_is_missing() {
    let changes = [
        (
            "nftables",
            "nft flush chain inet cni_plugins_masquerade masq_checks",
            "has no rule of this attachment for 10.1.2.2/24",
        ),
        (
            "nftables",
            "nft flush chain inet cni_plugins_masquerade postrouting",
            "does not lead to chain \"masq_checks\"",
        ),
        ("nftables", "nft delete table inet cni_plugins_masquerade", "there is no table inet"),
        ("iptables", "iptables-nft -t nat -F POSTROUTING", "does not lead 10.1.2.2/32 to chain \"CNI-"),
        (
            "iptables",
            "ip6tables-nft -t nat -D CNI-a631aa8e1549a3b129110fd2 1",
            "does not accept what stays in fd00:1:2::/64",
        ),
        ("iptables", "iptables-nft -t nat -D CNI-a631aa8e1549a3b129110fd2 2", "does not masquerade"),
        ("iptables", "iptables-nft -t nat -F; iptables-nft -t nat -X", "iptables has no chain"),
    ];
    for (backend, change, missing) in changes {
        let lab = lab("nft");
        let config = merged(dual(), &json!({"ipMasqBackend": backend}));
        let result = call(&lab, &config).run().result();
        lab.sh(change).success();
        let check = call(&lab, &merged(config, &json!({"prevResult": result}))).verb("CHECK").run();
        check.fails_with(999, &["failed to find masquerade rules of container \"cid1\" in network \"mynet\"", missing]);
    }
}

fn gc(lab: &Lab, config: &Value, valid: &Value) {
    let config = merged(config.clone(), &json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}));
    call(lab, &config).verb("GC").run().silent();
}

#[test]
fn better_gc_deletes_the_rules_of_attachments_that_are_not_valid() {
    let lab = lab("nft");
    let other = merged(dual(), &json!({"name": "othernet", "bridge": "cni1"}));
    for (ifname, config) in [("eth0", &dual()), ("net1", &dual()), ("net2", &other)] {
        call(&lab, config).ifname(ifname).run().result();
    }
    call(&lab, &dual()).container("cid2").ifname("net3").run().result();
    lab.sh("nft add rule inet cni_plugins_masquerade masq_checks ip saddr 10.9.9.9 return").success();
    let interfaces = || -> Vec<String> {
        let rules = masq_checks(&lab);
        rules.iter().map(|rule| rule.split("if: ").nth(1).unwrap()[..4].to_string()).collect()
    };
    let valid = json!([{"containerID": "cid1", "ifname": "net1"}, {"containerID": "cid2", "ifname": "net3"}]);
    gc(&lab, &dual(), &valid);
    assert_eq!(interfaces(), ["net1", "net1", "net2", "net2", "net3", "net3"]);
    // The runtime did not say what is valid.
    gc(&lab, &dual(), &Value::Null);
    assert_eq!(interfaces().len(), 6);
    gc(&lab, &dual(), &json!([]));
    assert_eq!(interfaces(), ["net2", "net2"]);
    assert!(lab.ok("nft list ruleset").contains("ip saddr 10.9.9.9 return"));
}

#[test]
fn better_gc_deletes_chains_of_iptables_of_either_flavour() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let other = merged(dual_stack(), &json!({"name": "mynet2", "bridge": "cni1"}));
        let long = "c".repeat(300);
        let attached = [("cid1", "eth0"), ("cid2", "net1"), (long.as_str(), "net2")];
        for (container, ifname) in attached {
            call(&lab, &dual_stack()).container(container).ifname(ifname).run().result();
        }
        call(&lab, &other).ifname("net3").run().result();
        lab.sh(&format!("iptables-{flavour} -t nat -A POSTROUTING -s 10.9.9.9 -j MASQUERADE")).success();
        let chains = || lab.rules().iter().filter(|line| line.contains(" :CNI-")).count();
        assert_eq!(chains(), 8);
        gc(
            &lab,
            &dual_stack(),
            &json!([{"containerID": "cid2", "ifname": "net1"}, {"containerID": long, "ifname": "net2"}]),
        );
        let rules = lab.rules();
        assert!(
            !rules.iter().any(|line| line.contains("id: \\\"cid1\\\"") && line.contains("\\\"mynet\\\"")),
            "{rules:?}"
        );
        assert_eq!(chains(), 6, "{flavour}: {rules:?}");
        gc(&lab, &dual_stack(), &json!([]));
        let rules = lab.rules();
        assert_eq!(chains(), 2, "{flavour}: {rules:?}");
        assert!(rules.iter().any(|line| line.contains("-s 10.9.9.9/32 -j MASQUERADE")), "{rules:?}");
        call(&lab, &other).ifname("net3").verb("DEL").run().silent();
        assert_eq!(chains(), 0);
    }
}

#[test]
fn newer_status_asks_the_kernel_and_changes_nothing() {
    let lab = lab("nft");
    let before = lab.snapshot();
    for backend in [json!("nftables"), json!("iptables"), Value::Null] {
        let config = nft(&json!({"cniVersion": "1.1.0", "ipMasqBackend": backend, "macspoofchk": true}));
        call(&lab, &config).verb("STATUS").run().silent();
    }
    before.assert_same(&lab.snapshot());
    assert_eq!(lab.ok("nft list ruleset"), "");
}

#[test]
fn better_status_says_why_masquerading_is_not_possible() {
    let lab = lab("nft");
    for (key, value, reason) in
        [("ipMasq", true, "masquerading is not possible"), ("macspoofchk", true, "failed to setup spoof-check")]
    {
        let config = nft(&json!({"cniVersion": "1.1.0", "ipMasq": false, key: value}));
        let status = call(&lab, &config).verb("STATUS").under(&["unshare", "-U"]).run();
        status.fails_with(50, &[reason, "operation not permitted"]);
    }
}

#[test]
fn better_thirty_containers_at_once_get_and_lose_their_rules() {
    let lab = lab("nft");
    let config = merged(dual(), &json!({"macspoofchk": true}));
    let names: Vec<String> = (0..30).map(|number| format!("n{number}")).collect();
    names.iter().for_each(|name| drop(lab.netns(name)));
    let everywhere = |verb: &str| {
        let path = |name: &str| format!("/var/run/netns/{name}");
        let calls: Vec<_> = names
            .iter()
            .map(|name| call(&lab, &config).container(name).netns(&path(name)).verb(verb).spawn())
            .collect();
        calls.into_iter().for_each(|call| assert!(call.wait().success(), "{verb}"));
    };
    everywhere("ADD");
    let text = lab.ok("nft list ruleset");
    assert_eq!((masq_checks(&lab).len(), text.matches("iifname").count()), (60, 30));
    everywhere("DEL");
    let text = lab.ok("nft list ruleset");
    assert!(masq_checks(&lab).is_empty() && !text.contains("macspoofchk") && !text.contains("cni-br"), "{text}");
}
