//! An ADD or DEL that is killed before any of its changes, and what the next call makes of it.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::accidents::{assert_untouched, full};
use crate::lab::{Call, Lab, bridge_config, merged};

/// System calls that change something outside the process.
const CHANGING: [&str; 18] = [
    "sendmsg",
    "sendto",
    "sendmmsg",
    "write",
    "pwrite64",
    "writev",
    "linkat",
    "link",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "ftruncate",
    "setsockopt",
    "exit_group",
];

/// Every call of an ADD that changes something, as name and ordinal among the calls of that name: to die before each of
/// them is to die in every state that others can see.
pub fn changing_calls(lab: &Lab, call: &Call<'_>) -> Vec<(String, usize)> {
    call.clone().under(&["strace", "-f", "-qq", "-o", "/run/lab/trace"]).run().success();
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut points = Vec::new();
    for line in lab.read("/run/lab/trace").lines() {
        let (name, rest) = line.split_once(' ').unwrap().1.trim_start().split_once('(').unwrap_or_default();
        let ordinal = counts.entry(name.to_string()).and_modify(|count| *count += 1).or_insert(1);
        // musl calls open where glibc calls openat.
        let creates = name.starts_with("open") && (rest.contains("O_CREAT") || rest.contains("O_TMPFILE"));
        if creates || CHANGING.contains(&name) {
            points.push((name.to_string(), *ordinal));
        }
    }
    assert!(points.len() > 10, "only {points:?}");
    points
}

/// How many of the traced calls may be missing the next time: an ADD looks once whether its port is up, and only if it is
/// not does it open a socket for events and look again.
const WAITING: usize = 10;

/// Kills the call before one of its system calls. False when it came to its end without that call.
pub fn kill_at(call: &Call<'_>, (name, ordinal): &(String, usize)) -> bool {
    let inject = format!("inject={name}:signal=KILL:when={ordinal}");
    let trace = format!("trace={name}");
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    call.clone().under(&strace).run().code != Some(0)
}

/// Makes one of the call's system calls fail. False when the call succeeded nevertheless.
pub fn fail_at(call: &Call<'_>, (name, ordinal): &(String, usize)) -> bool {
    let inject = format!("inject={name}:error=EPERM:when={ordinal}");
    let trace = format!("trace={name}");
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    call.clone().under(&strace).run().code != Some(0)
}

pub fn assert_nearly_all(killed: usize, points: usize) {
    assert!(killed + WAITING >= points && killed * 2 > points, "only {killed} of {points} were killed");
}

/// A host of this flavour with `ns1`, whose bridge is there, and the call that is to be killed.
fn kill_and_delete_at_every_change(flavour: &str, changes: &Value) {
    let lab = Lab::new();
    lab.install_iptables(flavour);
    lab.netns("ns1");
    let config = merged(bridge_config(&full()), changes);
    let bridge = lab.plugin("bridge").config(&config);
    bridge.run().result();
    bridge.clone().verb("DEL").run().silent();
    let before = lab.snapshot();
    let points = changing_calls(&lab, &bridge);
    bridge.clone().verb("DEL").run().silent();
    let mut killed = 0;
    for point in &points {
        killed += usize::from(kill_at(&bridge, point));
        bridge.clone().verb("DEL").run().silent();
        eprintln!("killed before {point:?} (iptables-{flavour})");
        assert_untouched(&lab, &before);
    }
    assert_nearly_all(killed, points.len());
}

#[test]
fn better_del_cleans_up_after_an_add_killed_before_any_of_its_changes() {
    kill_and_delete_at_every_change("nft", &json!({}));
}

#[test]
fn better_del_cleans_up_after_an_add_killed_before_any_of_its_changes_with_legacy_tables() {
    kill_and_delete_at_every_change("legacy", &json!({}));
}

#[test]
fn better_del_cleans_up_after_a_killed_add_with_rules_in_tables_of_our_own() {
    kill_and_delete_at_every_change("nft", &json!({"ipMasqBackend": "nftables", "macspoofchk": true}));
}

#[test]
fn better_the_very_first_add_may_be_killed_before_any_of_its_changes() {
    let config = bridge_config(&full());
    let fresh = || {
        let lab = Lab::new();
        lab.netns("ns1");
        lab
    };
    let lab = fresh();
    let points = changing_calls(&lab, &lab.plugin("bridge").config(&config));
    let mut killed = 0;
    for point in points.iter().step_by(2) {
        let lab = fresh();
        let bridge = lab.plugin("bridge").config(&config);
        killed += usize::from(kill_at(&bridge, point));
        bridge.clone().verb("DEL").run().silent();
        eprintln!("killed before {point:?}");
        assert_eq!((lab.veths().len(), lab.rules().len(), lab.reserved("net").len()), (0, 0, 0));
        let result = bridge.run().result();
        let checked = merged(config.clone(), &json!({"prevResult": result}));
        bridge.clone().verb("CHECK").config(&checked).run().silent();
    }
    assert_nearly_all(killed, points.len().div_ceil(2));
}

#[test]
fn better_a_killed_del_is_finished_by_the_next() {
    let lab = Lab::new();
    lab.netns("ns1");
    let bridge = lab.plugin("bridge").config(&bridge_config(&full()));
    bridge.run().result();
    let delete = bridge.clone().verb("DEL");
    let points = changing_calls(&lab, &delete);
    let before = lab.snapshot();
    for point in &points {
        bridge.run().result();
        assert!(kill_at(&delete, point), "not killed at {point:?}");
        delete.run().silent();
        eprintln!("killed before {point:?}");
        assert_untouched(&lab, &before);
    }
}

#[test]
fn better_del_cleans_up_after_an_add_of_firewall_killed_before_any_of_its_changes() {
    for (flavour, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")] {
        let lab = crate::firewall::lab(flavour);
        let config =
            crate::firewall::config(crate::firewall::DUAL, &json!({"backend": backend, "ingressPolicy": "isolated"}));
        let add = lab.plugin("firewall").config(&config);
        // A runtime whose ADD was killed has no result to hand out.
        let delete = add.clone().verb("DEL").config(&merged(config.clone(), &json!({"prevResult": null})));
        add.run().result();
        delete.run().silent();
        let before = lab.snapshot();
        let points = changing_calls(&lab, &add);
        delete.run().silent();
        let mut killed = 0;
        for point in &points {
            killed += usize::from(kill_at(&add, point));
            delete.run().silent();
            eprintln!("killed before {point:?} ({flavour} {backend})");
            before.assert_same(&lab.snapshot());
            assert_eq!(lab.list("/run/cni-box/firewall"), [""; 0]);
        }
        assert_nearly_all(killed, points.len());
    }
}
