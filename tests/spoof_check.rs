//! `macspoofchk`, compared with what the reference 1.9.1 left: see `masquerade_nft`.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, bridge_config, merged, wait_for};
use crate::masquerade::lab;
use crate::masquerade_nft::{normalised, restore, ruleset};

const ONE: &str = include_str!("golden/nft-spoof-check.txt");
const TWO_INTERFACES: &str = include_str!("golden/nft-spoof-check-two-interfaces.txt");
const EMPTY: &str = include_str!("golden/nft-spoof-check-empty.txt");

fn config(changes: &Value) -> Value {
    merged(bridge_config(&json!({"name": "mynet", "isDefaultGateway": true, "macspoofchk": true})), changes)
}

/// A call for `cid1`, whose interface will have the hardware address of the golden texts.
fn call<'a>(lab: &'a Lab, ifname: &str) -> Call<'a> {
    let mac = if ifname == "eth0" { "02:00:00:00:00:01" } else { "02:00:00:00:00:02" };
    lab.plugin("bridge")
        .container("cid1")
        .ifname(ifname)
        .args(&format!("IgnoreUnknown=1;MAC={mac}"))
        .config(&config(&json!({})))
}

fn assert_ruleset(lab: &Lab, golden: &str) {
    let (found, wanted) = (ruleset(lab), normalised(golden));
    assert_eq!(found, wanted, "found:\n{found}\nwanted:\n{wanted}");
}

#[test]
fn the_rules_are_those_of_the_reference_in_text_and_in_bytecode() {
    let lab = lab("nft");
    call(&lab, "eth0").run().result();
    assert_ruleset(&lab, ONE);
    call(&lab, "net1").run().result();
    assert_ruleset(&lab, TWO_INTERFACES);
    call(&lab, "net1").verb("DEL").run().silent();
    assert_ruleset(&lab, ONE);
    call(&lab, "eth0").verb("DEL").run().silent();
    assert_ruleset(&lab, EMPTY);
}

#[test]
fn better_a_second_del_says_nothing() {
    let lab = lab("nft");
    call(&lab, "eth0").run().result();
    for _ in 0..2 {
        let outcome = call(&lab, "eth0").verb("DEL").run().silent();
        assert_eq!(outcome.stderr, "");
    }
    assert_ruleset(&lab, EMPTY);
}

#[test]
fn better_del_ends_the_check_in_every_state_of_the_namespace() {
    for netns in ["", "/var/run/netns/gone"] {
        let lab = lab("nft");
        call(&lab, "eth0").run().result();
        call(&lab, "eth0").netns(netns).verb("DEL").run().silent();
        assert_ruleset(&lab, EMPTY);
    }
}

#[test]
fn better_a_check_lasts_as_long_as_its_interface() {
    let lab = lab("nft");
    call(&lab, "eth0").run().result();
    let del = call(&lab, "eth0").verb("DEL");
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=setns:error=EPERM"];
    del.clone().under(&strace).run().fails_with(999, &["operation not permitted"]);
    assert_ruleset(&lab, ONE);
    del.run().silent();
    assert_ruleset(&lab, EMPTY);
}

#[test]
fn del_removes_what_the_reference_has_left() {
    let lab = lab("nft");
    restore(&lab, TWO_INTERFACES);
    for ifname in ["eth0", "net1"] {
        call(&lab, ifname).verb("DEL").run().silent();
    }
    assert_ruleset(&lab, EMPTY);
}

#[test]
fn better_del_removes_what_repeated_adds_of_the_reference_have_piled_up() {
    let lab = lab("nft");
    restore(&lab, ONE);
    lab.sh("nft add rule bridge nat PREROUTING iifname vethold jump cni-br-iface-cid1-eth0 \
        comment '\"macspoofchk-cid1-eth0\"'")
        .success();
    call(&lab, "eth0").verb("DEL").run().silent();
    assert_ruleset(&lab, EMPTY);
}

#[test]
fn better_a_repeated_add_does_not_pile_up_rules() {
    let lab = lab("nft");
    restore(&lab, ONE);
    for _ in 0..2 {
        call(&lab, "eth0").run().result();
        assert_ruleset(&lab, ONE);
        let veth = lab.veths().pop().unwrap();
        assert!(lab.ok("nft list chain bridge nat PREROUTING").contains(&veth));
        lab.sh("ip -n ns1 link del eth0; rm -r /var/lib/cni/networks").success();
    }
}

#[test]
fn rules_of_others_stay() {
    let lab = lab("nft");
    lab.sh("nft add table bridge nat
        nft add chain bridge nat PREROUTING '{ type filter hook prerouting priority dstnat; policy accept; }'
        nft add rule bridge nat PREROUTING iifname eth9 counter accept comment '\"macspoofchk-ours\"'
        nft add chain bridge nat ours; nft add rule bridge nat ours drop")
        .success();
    let before = lab.ok("nft list ruleset");
    call(&lab, "eth0").run().result();
    assert_ne!(lab.ok("nft list ruleset"), before);
    call(&lab, "eth0").verb("DEL").run().silent();
    assert_eq!(lab.ok("nft list ruleset"), before);
}

fn reaches(lab: &Lab) -> bool {
    lab.run(&["ip", "netns", "exec", "ns1", "ping", "-n", "-c", "1", "-W", "1", "10.1.2.3"]).code == Some(0)
}

#[test]
fn frames_with_a_foreign_sender_are_dropped_and_others_pass() {
    let lab = lab("nft");
    call(&lab, "eth0").run().result();
    lab.netns("ns2");
    call(&lab, "net1").container("cid2").netns("/var/run/netns/ns2").run().result();
    wait_for("an answer", || reaches(&lab));
    lab.ok("ip -n ns1 link set eth0 address 02:00:00:00:00:99");
    assert!(!reaches(&lab));
    lab.ok("ip -n ns1 link set eth0 address 02:00:00:00:00:01");
    wait_for("an answer to the honest sender", || reaches(&lab));
    // It was the rules, and nothing else, that kept the spoofed frames back.
    lab.sh("ip -n ns1 link set eth0 address 02:00:00:00:00:99; nft flush chain bridge nat PREROUTING").success();
    wait_for("an answer without rules", || reaches(&lab));
}

#[test]
fn without_ipam_senders_are_checked_too() {
    let lab = lab("nft");
    call(&lab, "eth0").config(&config(&json!({"ipam": null, "isDefaultGateway": false}))).run().result();
    assert_ruleset(&lab, ONE);
}

#[test]
fn better_a_failed_add_leaves_no_rules() {
    let lab = lab("nft");
    lab.executable("/opt/cni/bin/none", "#!/bin/sh\ncat >/dev/null\necho '{\"cniVersion\":\"1.0.0\"}'\n");
    let doomed = config(&json!({"ipam": {"type": "none", "subnet": null}}));
    call(&lab, "eth0").config(&doomed).run().fails(999, "IPAM plugin returned missing IP config");
    assert_ruleset(&lab, EMPTY);
    assert_eq!(lab.veths(), [""; 0]);
}

#[test]
fn container_ids_may_be_as_long_as_the_kernel_allows() {
    let lab = lab("nft");
    let id = "c".repeat(233);
    let call = call(&lab, "eth0").container(&id);
    call.run().result();
    assert_eq!(lab.ok("nft list ruleset").matches(&format!("\"macspoofchk-{id}-eth0\"")).count(), 4);
    call.verb("DEL").run().silent();
    assert_ruleset(&lab, EMPTY);
}

#[test]
fn better_longer_container_ids_are_refused_before_anything_is_made() {
    let lab = lab("nft");
    let before = lab.snapshot();
    let call = call(&lab, "eth0").container(&"c".repeat(234));
    let error = call.run().fails_with(999, &["failed to setup spoof-check: the container id is too long"]).error();
    assert_eq!(error.2, "1 bytes too long with the interface's name");
    before.assert_same(&lab.snapshot());
    assert_eq!(lab.ok("nft list ruleset"), "");
    call.verb("DEL").run().silent();
}

#[test]
fn better_check_says_what_is_wrong_with_the_rules() {
    let lab = lab("nft");
    let result = call(&lab, "eth0").run().result();
    let check = || call(&lab, "eth0").config(&config(&json!({"prevResult": result}))).verb("CHECK").run();
    check().silent();
    lab.sh("nft insert rule bridge nat cni-br-iface-cid1-eth0-mac accept").success();
    check().fails_with(
        999,
        &["spoof check of \"veth", "the rules of chain \"cni-br-iface-cid1-eth0-mac\" are not the ones"],
    );
    lab.sh("nft flush chain bridge nat PREROUTING").success();
    check().fails_with(999, &["the rules of chain \"PREROUTING\" are not the ones for \"veth"]);
    lab.sh("nft delete table bridge nat").success();
    check().fails_with(999, &["table bridge \"nat\" has no chain \"PREROUTING\""]);
}

#[test]
fn better_gc_ends_the_checks_of_links_that_are_gone() {
    let lab = lab("nft");
    restore(&lab, TWO_INTERFACES);
    lab.netns("ns2");
    call(&lab, "eth0").container("cid2").netns("/var/run/netns/ns2").run().result();
    let valid = config(&json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}));
    call(&lab, "eth0").config(&valid).verb("GC").run().silent();
    let text = lab.ok("nft list ruleset");
    assert!(!text.contains("cid1") && text.contains("macspoofchk-cid2-eth0"), "{text}");
    call(&lab, "eth0").container("cid2").netns("/var/run/netns/ns2").verb("DEL").run().silent();
    assert_ruleset(&lab, EMPTY);
}

#[test]
fn better_adding_does_not_list_the_rules_of_others() {
    let lab = lab("nft");
    lab.sh("nft add table bridge nat
        nft add chain bridge nat PREROUTING '{ type filter hook prerouting priority dstnat; policy accept; }'
        for i in $(seq 500); do echo add rule bridge nat PREROUTING iifname veth$i drop; done | nft -f -")
        .success();
    let strace = ["strace", "-f", "-qq", "-y", "-o", "/run/lab/trace", "-e", "trace=recvmsg,recvfrom"];
    call(&lab, "eth0").under(&strace).run().result();
    let trace = lab.read("/run/lab/trace");
    let largest = trace.lines().filter_map(|line| line.rsplit(" = ").next()?.parse::<usize>().ok()).max().unwrap();
    assert!(largest < 4096, "somebody read {largest} bytes:\n{trace}");
}
