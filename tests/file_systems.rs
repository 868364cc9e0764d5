//! Files where links, locks, files without a name, renaming or flushing are refused: by strace, and by a real file system
//! (FUSE). What the reference reads stays byte for byte the same.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::accidents::assert_untouched;
use crate::dhcp::{Network, address};
use crate::host_local::{add, call};
use crate::kills::{Accident, Trial, every};
use crate::lab::fuse::{self, FileSystem};
use crate::lab::{Call, Lab, bridge_config, host_local_config, merged, wait_for};
use crate::refusals::{ERRORS, ONE, filtered, ipam};
use crate::{cnitool, flannel, masquerade, tuning};

/// Each call of a program that opens a file without a name, as name and ordinal.
fn unnamed_files(lab: &Lab, call: &Call<'_>) -> Vec<(String, usize)> {
    call.clone().traced(&["-o", "/run/lab/trace"], "?open,openat").run().success();
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut found = Vec::new();
    for line in lab.read("/run/lab/trace").lines() {
        let name = line.split_once(' ').unwrap().1.trim_start().split('(').next().unwrap().to_string();
        let ordinal = *counts.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
        if line.contains("O_TMPFILE") {
            found.push((name, ordinal));
        }
    }
    found
}

#[test]
fn better_files_without_a_name_may_be_refused() {
    let lab = Lab::new();
    lab.netns("ns1");
    let config = merged(bridge_config(&json!({"cniVersion": "1.1.0", "ipam": null})), &json!({"ipam": ipam()}));
    let add = lab.plugin("bridge").config(&config);
    // The first ADD of a host makes the folder of the records.
    add.run().result();
    add.clone().verb("DEL").run().silent();
    let unnamed = unnamed_files(&lab, &add);
    assert_eq!(unnamed.len(), 3, "a file for each address, and the record of the interface");
    add.clone().verb("DEL").run().silent();
    let status = add.clone().verb("STATUS");
    let (probed, _) = &unnamed_files(&lab, &status)[0];
    // EISDIR: Linux before 3.11.
    for error in ERRORS.iter().chain(&["EISDIR"]) {
        for (name, ordinal) in &unnamed {
            let result = add.clone().refused(name, &format!("{error}:when={ordinal}")).run().result();
            assert_eq!(result["ips"][0]["address"], "10.1.2.5/24");
            assert_eq!(lab.read("/var/lib/cni/networks/net/10.1.2.5"), "c1\r\neth0");
            assert_eq!(lab.read("/var/lib/cni/networks/net/fd00:1:2::5"), "c1\r\neth0");
            add.clone().verb("DEL").run().silent();
        }
        for (_, ordinal) in &unnamed_files(&lab, &status) {
            status.clone().refused(probed, &format!("{error}:when={ordinal}")).run().silent();
        }
    }
}

const STORE: &str = "/var/lib/cni/networks/net";
const RESULTS: &str = "/var/lib/cni/results";

/// Links refused, as on vfat.
fn unlinked(call: Call<'_>) -> Call<'_> {
    call.refused("?link,linkat", "EPERM")
}

#[test]
fn better_what_cannot_be_linked_is_recorded_all_the_same() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.netns("ns2");
    let one = json!({"subnet": "10.1.2.0/30"});
    unlinked(call(&lab, &one)).run().result();
    let second = call(&lab, &one).container("c2").netns("/run/netns/ns2");
    second.run().fails_with(999, &["no IP addresses available"]);
    lab.ok("ip netns del ns1");
    wait_for("the namespace is gone", || unlinked(second.clone()).run().code == Some(0));
    assert_eq!(lab.read(&format!("{STORE}/10.1.2.2")), "c2\r\neth0");
}

/// Attachments whose files cannot be linked, killed at every change; DEL leaves nothing that the next GC does not remove.
#[test]
fn better_a_killed_add_that_cannot_link_leaves_what_del_or_gc_removes() {
    let lab = masquerade::lab("nft");
    let config = merged(bridge_config(&json!({"ipMasq": true, "ipam": null})), &json!({"ipam": ipam()}));
    let add = unlinked(lab.plugin("bridge").config(&config));
    let collected = merged(config, &json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}));
    let gc = lab.plugin("bridge").verb("GC").config(&collected);
    add.run().result();
    let delete = add.clone().verb("DEL");
    delete.run().silent();
    let before = lab.snapshot();
    let untouched = || {
        // An empty file, at most.
        for address in lab.reserved("net") {
            assert_eq!(lab.read(&format!("{STORE}/{address}")), "");
        }
        gc.run().silent();
        assert_untouched(&lab, &before);
    };
    Trial { lab: &lab, add, delete, ioctls: 0, which: every, untouched: &untouched }.suffers(Accident::Killed);
}

#[test]
fn better_killed_adds_of_chained_plugins_that_cannot_link_leave_nothing() {
    let cases = [
        filtered("nft", "nftables"),
        (tuning::lab(), tuning::config(&json!({"mtu": 1400}))),
        (flannel::lab(ONE), flannel::config(&json!({}))),
    ];
    for (lab, config) in cases {
        let add = unlinked(lab.plugin(config["type"].as_str().unwrap()).config(&config));
        let delete = add.clone().verb("DEL").config(&merged(config.clone(), &json!({"prevResult": null})));
        add.run().result();
        delete.run().silent();
        let before = lab.snapshot();
        let untouched = || {
            let empty = |address: &String| lab.read(&format!("/var/lib/cni/networks/cbr0/{address}")).is_empty();
            assert!(lab.reserved("cbr0").iter().all(empty));
            lab.sh("find /var/lib/cni/networks -name '1*' -empty -delete 2>/dev/null || true").success();
            before.assert_same(&lab.snapshot());
            for folder in ["/run/cni-box/firewall", tuning::SAVED, "/var/lib/cni/flannel"] {
                assert_eq!(lab.list(folder).into_iter().filter(|name| name != ".cni-box").collect::<Vec<_>>(), [""; 0]);
            }
        };
        Trial { lab: &lab, add, delete, ioctls: 0, which: every, untouched: &untouched }.suffers(Accident::Killed);
    }
}

#[test]
fn without_locks_addresses_are_given_as_by_the_reference() {
    let lab = Lab::new();
    lab.netns("ns1");
    let ipam = json!({"subnet": "10.1.2.0/24"});
    for error in ["ENOLCK", "EACCES", "ENOSYS"] {
        let without = |verb: &str, container: &str| {
            let call = call(&lab, &ipam).container(container).verb(verb).refused("flock", error);
            call.run().success()
        };
        let given: BTreeSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|one| scope.spawn(move || without("ADD", &format!("c{one}")).stdout)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!((given.len(), lab.reserved("net").len()), (8, 8), "{error}");
        (0..8).for_each(|one| drop(without("CHECK", &format!("c{one}")).silent()));
        (0..8).for_each(|one| drop(without("DEL", &format!("c{one}")).silent()));
        assert_eq!(lab.reserved("net"), [""; 0]);
    }
}

/// An empty file may be one that is just being written, and what was read of a file may not be true any more.
#[test]
fn better_without_locks_nothing_is_taken_from_others() {
    let lab = Lab::new();
    lab.netns("ns1");
    let two = json!({"subnet": "10.1.2.0/29", "rangeStart": "10.1.2.2", "rangeEnd": "10.1.2.3"});
    assert_eq!(add(&lab, "c1", &two), ["10.1.2.2/29"]);
    lab.ok("ip netns del ns1");
    lab.write(&format!("{STORE}/10.1.2.3"), "");
    lab.netns("ns2");
    let second = call(&lab, &two).container("c2").netns("/run/netns/ns2");
    let exhausted = "no IP addresses available in range set: 10.1.2.2-10.1.2.3";
    second.clone().refused("flock", "ENOLCK").run().fails_with(999, &[exhausted]);
    let config = host_local_config(&two);
    let version =
        json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
    let gc = lab.plugin("host-local").verb("GC").config(&merged(config, &version));
    gc.clone().refused("flock", "ENOLCK").run().silent();
    assert_eq!(lab.reserved("net"), ["10.1.2.2", "10.1.2.3"]);
    gc.run().silent();
    assert_eq!(lab.reserved("net"), ["10.1.2.2"]);
}

/// The files of a folder: name, mode, content.
fn files(lab: &Lab, folder: &str) -> Vec<String> {
    let file = |name: String| {
        let path = format!("{folder}/{name}");
        let mode = fs::metadata(lab.path(&path)).unwrap().permissions().mode() & 0o777;
        format!("{name} {mode:o} {:?}", lab.read(&path))
    };
    lab.list(folder).into_iter().filter(|name| !name.starts_with('.')).map(file).collect()
}

#[test]
fn newer_reservations_on_a_file_system_without_links_are_the_references() {
    let ipam = json!({"subnet": "10.1.2.0/24"});
    for kind in fuse::KINDS {
        let lab = Lab::new();
        let _served = FileSystem::mount(&lab, "/var/lib/cni", kind);
        assert_eq!(add(&lab, "c1", &ipam), ["10.1.2.2/24"]);
        let theirs = lab.reference("host-local").container("c2").config(&host_local_config(&ipam));
        theirs.run().result();
        assert_eq!(add(&lab, "c3", &ipam), ["10.1.2.4/24"]);
        call(&lab, &ipam).verb("CHECK").run().silent();
        theirs.clone().container("c1").verb("CHECK").run().silent();
        call(&lab, &ipam).container("c2").verb("DEL").run().silent();
        theirs.clone().container("c3").verb("DEL").run().silent();
        let expected = [r#"10.1.2.2 600 "c1\r\neth0""#, r#"last_reserved_ip.0 600 "10.1.2.4""#, r#"lock 750 """#];
        assert_eq!(files(&lab, STORE), expected, "{kind:?}");
    }
}

/// Attachments are checked there, and ended if they have none.
#[test]
fn a_store_that_can_only_be_read_is_read() {
    let lab = Lab::new();
    lab.netns("ns1");
    let ipam = json!({"subnet": "10.1.2.0/24"});
    add(&lab, "c1", &ipam);
    lab.ok("mount -o remount,ro /var/lib");
    call(&lab, &ipam).verb("CHECK").run().silent();
    call(&lab, &ipam)
        .container("c2")
        .verb("CHECK")
        .run()
        .fails_with(999, &["Failed to find address added by container c2"]);
    call(&lab, &ipam).container("c2").verb("DEL").run().silent();
    call(&lab, &ipam).container("c2").run().fails_with(999, &["10.1.2.3", "read-only file system"]);
}

#[test]
fn many_at_once_get_addresses_of_their_own_on_a_file_system_without_links() {
    let ipam = json!({"subnet": "10.1.2.0/24"});
    for kind in fuse::KINDS {
        let lab = Lab::new();
        let _served = FileSystem::mount(&lab, "/var/lib/cni", kind);
        let given: BTreeSet<_> = std::thread::scope(|scope| {
            let ask = |one| {
                let (lab, ipam) = (&lab, &ipam);
                scope.spawn(move || add(lab, &format!("c{one}"), ipam))
            };
            let threads: Vec<_> = (0..16).map(ask).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!((given.len(), lab.reserved("net").len()), (16, 16), "{kind:?}");
    }
}

const KEPT: [&str; 3] = [RESULTS, tuning::SAVED, "/var/lib/cni/flannel"];

/// All that plugins and cnitool keep of two calls for one attachment, of which the second replaces it, and after its end.
fn kept(lab: &Lab) -> [Vec<String>; 2] {
    let all = || KEPT.iter().flat_map(|folder| files(lab, folder)).collect();
    let tune = lab.plugin("tuning").config(&tuning::config(&json!({"mtu": 1400})));
    let lease = lab.plugin("flannel").ifname("eth1").config(&flannel::config(&json!({})));
    for changes in [json!({}), json!({"txQLen": 7})] {
        tune.clone().config(&tuning::config(&merged(json!({"mtu": 1400}), &changes))).run().result();
        lab.cnitool(&["add", "n", cnitool::NETNS]).run().success();
    }
    lease.run().result();
    let while_it_lives = all();
    lab.cnitool(&["check", "n", cnitool::NETNS]).run().success();
    lab.cnitool(&["del", "n", cnitool::NETNS]).run().success();
    for call in [tune, lease] {
        call.verb("DEL").run().silent();
    }
    [while_it_lives, all()]
}

#[test]
fn better_whatever_is_kept_can_be_kept_on_a_file_system_without_links() {
    let host = || {
        let lab = cnitool::recorders();
        lab.netns("ns1");
        tuning::interface(&lab);
        lab.write(flannel::SUBNET_FILE, ONE);
        cnitool::network(&lab, "n.conf", &json!({"cniVersion": "1.0.0", "name": "n", "type": "one"}));
        lab
    };
    let expected = kept(&host());
    assert_eq!((expected[0].len(), expected[1].len()), (3, 0), "{expected:?}");
    for kind in fuse::KINDS {
        let lab = host();
        let _served = ["/var/lib/cni", "/run/cni"].map(|folder| FileSystem::mount(&lab, folder, kind));
        assert_eq!(kept(&lab), expected, "{kind:?}");
        let hidden = lab.sh("find /var/lib/cni /run/cni -name '*.tmp' -o -name '*.new'").success().stdout;
        assert_eq!(hidden, "", "{kind:?}");
    }
}

#[test]
fn better_leases_are_remembered_on_a_file_system_without_links() {
    for kind in fuse::KINDS {
        let mut network = Network::new();
        network.start_dnsmasq("10.1.2.0,10.1.9.255", &[]);
        let _served = FileSystem::mount(&network.lab, "/run/cni-box", kind);
        network.start_daemon(&[]);
        let add = network.container(1);
        let given = address(&add.run().result());
        network.kill_daemon();
        network.start_daemon(&[]);
        // Confirmed, and written again.
        network.wait_for_log(1, "lease renewed");
        let add = network.call(1);
        assert_eq!(address(&add.run().result()), given, "{kind:?}");
        assert_eq!(network.records(), 1);
        add.verb("DEL").run().silent();
        assert_eq!(network.records(), 0);
    }
}
