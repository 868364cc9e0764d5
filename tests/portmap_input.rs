//! What portmap refuses, in which words, and that nothing is changed then.

use serde_json::{Value, json};

use crate::lab::merged;
use crate::masquerade::lab;
use crate::portmap::{call, config, mappings};

fn mapping(changes: &Value) -> Value {
    merged(json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}), changes)
}

fn assert_refused(cases: &[(Value, i64, &str)]) {
    let lab = lab("nft");
    let before = lab.snapshot();
    for (changes, code, text) in cases {
        call(&lab, &config(changes)).run().fails(*code, text);
    }
    before.assert_same(&lab.snapshot());
    assert_eq!(lab.ok("nft list ruleset"), "");
}

#[test]
fn bad_configurations_are_refused_in_the_words_of_the_reference() {
    let one = |changes: Value| mappings(&json!([mapping(&changes)]));
    assert_refused(&[
        (one(json!({"hostPort": 0})), 999, "failed to parse config: Invalid host port number: 0"),
        (one(json!({"hostPort": -1})), 999, "failed to parse config: Invalid host port number: -1"),
        (one(json!({"containerPort": 0})), 999, "failed to parse config: Invalid container port number: 0"),
        (json!({"markMasqBit": 32}), 999, "failed to parse config: MasqMarkBit must be between 0 and 31"),
        (
            json!({"markMasqBit": 5, "externalSetMarkChain": "X"}),
            999,
            "failed to parse config: Cannot specify externalSetMarkChain and markMasqBit",
        ),
        (json!({"prevResult": null}), 999, "must be called as chained plugin"),
    ]);
}

#[test]
fn newer_backends_that_contradict_the_conditions_are_refused() {
    let nft = json!(["ip", "saddr", "10.0.0.0/8"]);
    let iptables = json!(["-s", "10.0.0.0/8"]);
    let contradiction = |requested: &str, other: &str, options: &str| {
        format!(
            "failed to parse config: {requested} backend was requested but configuration contains \
             {other}-specific options [{options}]"
        )
    };
    assert_refused(&[
        (json!({"backend": "magic"}), 999, "failed to parse config: unrecognized backend \"magic\""),
        (
            json!({"backend": "iptables", "conditionsV4": nft, "conditionsV6": nft}),
            999,
            &contradiction("iptables", "nftables", "conditionsV4 conditionsV6"),
        ),
        (
            json!({"backend": "nftables", "externalSetMarkChain": "X", "conditionsV6": iptables}),
            999,
            &contradiction("nftables", "iptables", "externalSetMarkChain conditionsV6"),
        ),
        (
            json!({"conditionsV4": nft, "externalSetMarkChain": "X"}),
            999,
            &contradiction("iptables", "nftables", "conditionsV4"),
        ),
    ]);
}

#[test]
fn better_what_would_fail_or_mislead_later_is_refused_first() {
    let one = |changes: Value| mappings(&json!([mapping(&changes)]));
    let two = |first: Value, second: Value| mappings(&json!([mapping(&first), mapping(&second)]));
    let overlap = "overlapping port mappings: tcp 8080 to container port 81 is taken by tcp 8080 to container port 80";
    let name = "x".repeat(29);
    assert_refused(&[
        (one(json!({"hostPort": 65536})), 999, "failed to parse config: Invalid host port number: 65536"),
        (one(json!({"containerPort": 65536})), 999, "failed to parse config: Invalid container port number: 65536"),
        (
            one(json!({"protocol": "icmp"})),
            7,
            "invalid port mapping: unknown protocol \"icmp\": must be tcp, udp or sctp",
        ),
        (one(json!({"hostIP": "localhost"})), 7, "invalid port mapping: hostIP \"localhost\" is no address"),
        (two(json!({}), json!({"containerPort": 81})), 7, overlap),
        (
            two(json!({"hostIP": "0.0.0.0"}), json!({"containerPort": 81, "hostIP": "127.0.0.1"})),
            7,
            "overlapping port mappings: 127.0.0.1 tcp 8080 to container port 81 is taken by 0.0.0.0 tcp 8080 to container port 80",
        ),
        (
            json!({"externalSetMarkChain": name}),
            7,
            &format!("invalid externalSetMarkChain {name:?}: a chain's name has 1 to 28 characters"),
        ),
        (
            json!({"conditionsV4": ["-s", "10.0.0.0/33"]}),
            7,
            "invalid conditionsV4: \"10.0.0.0/33\" of \"-s\" is not what is supported there: network of this family",
        ),
        (
            json!({"externalSetMarkChain": "NOBODYS"}),
            999,
            "unable to setup DNAT to 10.0.0.2: failed to change iptables table \"nat\" in nf_tables: externalSetMarkChain \
             \"NOBODYS\" does not exist in table nat; its owner has to create it first",
        ),
    ]);
    let lab = lab("nft");
    let text = "invalid conditionsV6: unsupported condition \"--sport\"; supported are [!] -s NETWORK";
    call(&lab, &config(&json!({"conditionsV6": ["--sport", "5"]}))).run().fails_with(7, &[text]);
}

#[test]
fn mappings_that_only_look_as_if_they_overlap_are_made() {
    let lab = lab("nft");
    let list = json!([
        mapping(&json!({"hostIP": "192.0.2.1"})),
        mapping(&json!({"hostIP": "192.0.2.2", "containerPort": 81})),
        mapping(&json!({"hostIP": "::1", "containerPort": 82})),
        mapping(&json!({"protocol": "udp", "containerPort": 83})),
        // Behind the particular ones it takes what they leave.
        mapping(&json!({"containerPort": 84})),
    ]);
    call(&lab, &config(&mappings(&list))).run().result();
    assert_eq!(lab.rules().iter().filter(|line| line.contains("DNAT --to-destination 10.0.0.2:")).count(), 4);
}

#[test]
fn better_a_mapping_given_twice_is_made_once() {
    let lab = lab("nft");
    call(&lab, &config(&mappings(&json!([mapping(&json!({})), mapping(&json!({}))])))).run().result();
    assert_eq!(lab.rules().iter().filter(|line| line.contains("DNAT --to-destination 10.0.0.2:")).count(), 1);
}
