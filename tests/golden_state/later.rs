//! Golden states with files as a later release may write them. A file of a later version stays as
//! it is, and its attachments count as alive.

use std::fs;

use serde_json::{Value, json};

use super::state::State;
use super::{all_others, assert_gone, each, host_local, leasing, on_net, tool};
use crate::dhcp::RECORDS;
use crate::lab::Lab;

const INDEX: &str = "/var/lib/cni/networks/.cni-box/net.index";

fn with_later_index(state: &State) -> (Lab, Vec<u8>) {
    let lab = state.host();
    let mut bytes = fs::read(lab.path(INDEX)).unwrap();
    bytes[7] += 1;
    lab.write(INDEX, &bytes);
    (lab, bytes)
}

#[test]
fn a_later_index_stays_and_all_that_it_may_know_of_lives() {
    each(|state| {
        let (lab, bytes) = with_later_index(state);
        let held = on_net(state);
        assert_eq!(all_others(&lab).len(), 5 - held.len());
        for (container, netns, _) in &held {
            host_local(&lab, "CHECK", container, netns).run().silent();
        }
        lab.ok(&format!("ip netns del {}", held[1].1));
        lab.netns("late");
        host_local(&lab, "ADD", "late", "late").run().fails_with(999, &[super::FULL]);
        state.cached().iter().for_each(|cached| drop(tool(&lab, "del", cached).run().success()));
        assert_eq!(lab.reserved("net").len(), 5 - held.len());
        assert_eq!(fs::read(lab.path(INDEX)).unwrap(), bytes);
        assert_eq!(lab.list("/var/lib/cni/networks/.cni-box"), ["flan.index", "net.index"]);
    });
}

#[test]
fn a_later_record_of_a_lease_stays_until_del() {
    each(|state| {
        let mut network = leasing(state);
        let path = format!("{RECORDS}/{}", network.lab.list(RECORDS)[0]);
        let record: Value = serde_json::from_str(&network.lab.read(&path)).unwrap();
        let text = json!({"version": 2, "boot": record["boot"], "lease": {"of": "another shape"}}).to_string();
        network.lab.write(&path, &text);
        for _ in 0..2 {
            network.start_daemon(&[]);
            network.call(1).verb("CHECK").run().fails_with(999, &["there is no lease"]);
            assert_eq!(network.lab.read(&path), text);
            network.kill_daemon();
        }
        network.start_daemon(&[]);
        network.call(1).verb("DEL").run().silent();
        assert_eq!(network.records(), 0);
    });
}

/// Adds keys and lines that no release has written yet.
#[test]
fn more_keys_and_lines_disturb_nothing() {
    each(|state| {
        let lab = state.host();
        for path in lab.kept_files() {
            let text = lab.read(&path);
            let longer = match text.strip_suffix('}') {
                Some(object) => format!("{}, \"later\": {{\"key\": [1]}}}}", object.trim_end()),
                None => format!("{text}\nlater"),
            };
            lab.write(&path, longer);
        }
        for cached in state.cached() {
            tool(&lab, "check", &cached).run().silent();
            tool(&lab, "del", &cached).run().success();
        }
        assert_gone(&lab);
    });
}

/// A result of an unknown kind counts as no result, and DEL goes by the plugins' own files.
#[test]
fn a_later_kind_of_result_keeps_del_from_nothing() {
    each(|state| {
        let lab = state.host();
        for name in lab.list("/var/lib/cni/results") {
            let path = format!("/var/lib/cni/results/{name}");
            let mut cached: Value = serde_json::from_str(&lab.read(&path)).unwrap();
            cached["kind"] = json!("cniCacheV2");
            lab.write(&path, cached.to_string());
        }
        assert!(!lab.cnitool(&["list"]).run().success().stdout.contains("eth0"));
        state.cached().iter().for_each(|cached| drop(tool(&lab, "del", cached).run().success()));
        assert_gone(&lab);
    });
}
