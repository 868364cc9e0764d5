//! host-local: the other release's reservations, index and records.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Previous, Release, This, WAYS, install, lab_with, program, traces};
use crate::gc_command::{add, all_in_sight, cached, leave, netns, simple, write_list};
use crate::host_local::{call, del};
use crate::host_local_life::{reboot, up};
use crate::lab::{Call, Lab, host_local_config, merged, wait_for};

const INDEX: &str = "/var/lib/cni/networks/.cni-box/net.index";
const FULL: &str = "no IP addresses available in range set";

/// A range of five addresses.
fn five() -> Value {
    json!({"subnet": "10.1.2.0/29"})
}

/// Builds the ADD of a container whose namespace has its name.
fn at<'a>(lab: &'a Lab, container: &str) -> Call<'a> {
    call(lab, &five()).container(container).netns(&format!("/run/netns/{container}"))
}

fn checks(lab: &Lab, containers: &[&str]) {
    containers.iter().for_each(|container| drop(at(lab, container).verb("CHECK").run().silent()));
}

/// Attaches these containers, and returns their addresses.
fn all_up(lab: &Lab, containers: &[&str]) -> BTreeSet<String> {
    containers.iter().map(|container| up(lab, container, &five())).collect()
}

#[test]
fn no_address_is_given_twice() {
    for (first, second) in WAYS {
        let lab = lab_with(first);
        let mut given = all_up(&lab, &["a", "b", "c"]);
        install(&lab, second);
        checks(&lab, &["a", "b", "c"]);
        given.append(&mut all_up(&lab, &["d", "e"]));
        assert_eq!(given.len(), 5, "{given:?}");
        lab.netns("f");
        for release in [second, first] {
            install(&lab, release);
            at(&lab, "f").run().fails_with(999, &[FULL]);
            checks(&lab, &["a", "b", "c", "d", "e"]);
        }
        install(&lab, second);
        ["a", "b", "c", "d", "e"].into_iter().for_each(|container| del(&lab, container, &five()));
        assert_eq!(lab.reserved("net"), [""; 0]);
    }
}

/// Without records every reservation of this boot would count as alive.
#[test]
fn the_other_takes_back_what_is_over_and_nothing_else() {
    for (first, second) in WAYS {
        let lab = lab_with(first);
        all_up(&lab, &["a", "b", "c", "d", "e"]);
        install(&lab, second);
        lab.netns("f");
        at(&lab, "f").run().fails_with(999, &[FULL]);
        lab.ok("ip netns del b");
        wait_for("the address of b", || at(&lab, "f").run().code == Some(0));
        assert_eq!(lab.read("/var/lib/cni/networks/net/10.1.2.3"), "f\r\neth0");
        checks(&lab, &["a", "c", "d", "e", "f"]);
        // A restarted container gets its address again.
        lab.sh("ip netns del c; ip netns add c").success();
        assert_eq!(up(&lab, "c", &five()), "10.1.2.4/29");
        reboot(&lab, 2);
        assert_eq!(all_up(&lab, &["g", "h"]).len(), 2);
    }
}

#[test]
fn valid_attachments_of_the_other_stay() {
    for (first, second) in WAYS {
        let lab = lab_with(first);
        all_up(&lab, &["a", "b"]);
        install(&lab, second);
        all_up(&lab, &["c"]);
        install(&lab, first);
        let valid = ["a", "c"].map(|id| json!({"containerID": id, "ifname": "eth0"}));
        let changes = json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid});
        lab.plugin("host-local").verb("GC").config(&merged(host_local_config(&five()), &changes)).run().silent();
        assert_eq!(lab.reserved("net"), ["10.1.2.2", "10.1.2.4"]);
    }
}

/// Builds `cni-box gc` of a release.
fn collect<'a>(lab: &'a Lab, release: Release, words: &[&str]) -> Call<'a> {
    Call::new(lab, &program(release)).args_list(&[&["gc"], words].concat())
}

#[test]
fn the_command_gc_removes_the_others_dead_and_spares_the_living() {
    for (first, second) in WAYS {
        let lab = lab_with(first);
        all_in_sight(&lab);
        write_list(&lab, "net", &simple(2));
        let (goes, stays) = (netns(&lab, "goes"), netns(&lab, "stays"));
        add(&lab, "net", &stays, "{}");
        let living = traces(&lab);
        add(&lab, "net", &goes, "{}");
        install(&lab, second);
        assert_eq!(collect(&lab, second, &[]).run().success().stdout, "nothing to do\n");
        leave(&lab, &goes);
        let dry = || collect(&lab, second, &["--dry-run"]).run().success().stdout;
        wait_for("the namespace is gone", || dry().ends_with("\n1 attachment would be removed\n"));
        collect(&lab, second, &[]).run().success();
        assert_eq!((cached(&lab).len(), lab.reserved("net").len()), (1, 1));
        living.assert_same(&traces(&lab));
        lab.cnitool(&["check", "net", &stays]).run().silent();
    }
}

/// Gives the index the next version number.
#[test]
fn a_later_index_costs_no_release_an_address() {
    for release in [Previous, This] {
        let lab = lab_with(This);
        let mut given = all_up(&lab, &["a", "b"]);
        let mut bytes = std::fs::read(lab.path(INDEX)).unwrap();
        bytes[7] += 1;
        lab.write(INDEX, &bytes);
        install(&lab, release);
        checks(&lab, &["a", "b"]);
        given.append(&mut all_up(&lab, &["c", "d", "e"]));
        assert_eq!(given.len(), 5, "{release:?}: {given:?}");
        lab.ok("ip netns del a");
        lab.netns("f");
        // No record proves that a is gone.
        at(&lab, "f").run().fails_with(999, &[FULL]);
        ["a", "b", "c", "d", "e"].into_iter().for_each(|container| del(&lab, container, &five()));
        assert_eq!(lab.reserved("net"), [""; 0]);
    }
}
