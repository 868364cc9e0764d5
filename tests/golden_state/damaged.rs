//! Golden states whose files are cut off, emptied or overwritten.

use std::collections::BTreeSet;

use serde_json::json;

use super::state::State;
use super::{all_others, assert_gone, each, host_local, leasing, on_net, tool};
use crate::dhcp::RECORDS;
use crate::lab::{Lab, wait_for};

/// A kind of damage with its name.
type Damage = (&'static str, fn(&[u8]) -> Vec<u8>);

const DAMAGES: [Damage; 3] = [
    ("cut off", |bytes| bytes[..bytes.len() / 2].to_vec()),
    ("emptied", |_| Vec::new()),
    ("overwritten", |bytes| bytes.iter().map(|byte| byte ^ 0xa5).collect()),
];

/// The folders of a state's files.
fn folders(state: &State) -> BTreeSet<String> {
    state.written().iter().map(|path| path.rsplit_once('/').unwrap().0.to_string()).collect()
}

/// True for the file of a reservation.
fn is_reservation(path: &str) -> bool {
    path.rsplit('/').next().unwrap().parse::<std::net::IpAddr>().is_ok() && path.starts_with("/var/lib/cni/networks/")
}

/// Lays a state into a lab and damages all files of a folder. Empties no reservation: an empty one
/// is free, because a crash of the reference's ADD leaves one.
fn host(state: &State, folder: &str, (name, damage): Damage) -> Lab {
    eprintln!("all in {folder} is {name}");
    let lab = state.host();
    let inside = |path: &String| path.rsplit_once('/').unwrap().0 == folder;
    for path in state.written().into_iter().filter(inside).filter(|path| name != "emptied" || !is_reservation(path)) {
        let bytes = std::fs::read(lab.path(&path)).unwrap();
        lab.write(&path, damage(&bytes));
    }
    lab
}

/// DEL removes everything except reservations that no longer name their owner.
#[test]
fn addresses_stay_taken_and_dels_succeed() {
    each(|state| {
        let held = on_net(state);
        for folder in folders(state) {
            for damage in DAMAGES {
                let lab = host(state, &folder, damage);
                let others = all_others(&lab);
                assert_eq!(others.len(), 5 - held.len(), "{others:?}");
                assert!(held.iter().all(|(.., address)| !others.contains(address)), "{others:?}");
                state.cached().iter().for_each(|cached| drop(tool(&lab, "del", cached).run().success()));
                assert_gone(&lab);
                let left = |network: &str| {
                    let is_damaged = folder.ends_with(&format!("/{network}")) && damage.0 != "emptied";
                    (lab.reserved(network), is_damaged)
                };
                let ((net, net_is_damaged), (flan, flan_is_damaged)) = (left("net"), left("flan"));
                assert_eq!(net.len(), others.len() + if net_is_damaged { held.len() } else { 0 }, "{net:?}");
                assert_eq!(flan.len(), if flan_is_damaged { 2 } else { 0 }, "{flan:?}");
            }
        }
    });
}

/// Without a record nothing proves that an attachment is over. (The records in the first half of an
/// index that is cut off are still true.)
#[test]
fn without_records_every_attachment_lives() {
    each(|state| {
        for damage in DAMAGES.into_iter().filter(|(name, _)| *name != "cut off") {
            let lab = host(state, "/var/lib/cni/networks/.cni-box", damage);
            let held = on_net(state);
            for (container, netns, _) in &held {
                host_local(&lab, "CHECK", container, netns).run().silent();
            }
            all_others(&lab);
            lab.ok(&format!("ip netns del {}", held[1].1));
            wait_for("the end of its link", || lab.veths().len() == 2);
            host_local(&lab, "ADD", "late", "new0").run().fails_with(999, &[super::FULL]);
            assert_eq!(lab.reserved("net").len(), 5);
        }
    });
}

#[test]
fn a_damaged_lease_costs_no_other_its_own() {
    each(|state| {
        for (name, damage) in DAMAGES {
            eprintln!("the record is {name}");
            let mut network = leasing(state);
            let path = format!("{RECORDS}/{}", network.lab.list(RECORDS)[0]);
            let bytes = std::fs::read(network.lab.path(&path)).unwrap();
            network.lab.write(&path, damage(&bytes));
            network.start_daemon(&[]);
            network.status().run().silent();
            // The server still has the lease, and gives the client the same address.
            let result = network.call(1).run().result();
            assert_eq!(result["ips"][0]["address"], json!("10.1.2.7/16"));
            network.call(1).verb("DEL").run().silent();
            wait_for("the server to hear of the release", || network.leases() == 0);
            assert_eq!(network.records(), 0);
        }
    });
}
