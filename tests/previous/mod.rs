//! Upgrades from the previous release of cni-box, and downgrades to it, under living containers:
//! each release checks, collects and detaches the containers that the other has attached. No
//! address is given twice, traffic flows on, and nothing is left.
//!
//! `scripts/previous-release.sh` builds the previous release from this repository's history.

mod addresses;
mod chains;
mod golden;
mod interfaces;
mod leases;

use serde_json::{Value, json};

use crate::lab::{Lab, PLUGINS, Snapshot, binary, merged, previous_dir};

/// One of the two releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    Previous,
    This,
}

use Release::{Previous, This};

/// The release that attaches, and the other one: upgrade and downgrade.
const WAYS: [(Release, Release); 2] = [(Previous, This), (This, Previous)];

/// Path of the release's program.
fn program(release: Release) -> String {
    match release {
        Previous => format!("{}/cni-box", previous_dir()),
        This => binary(),
    }
}

/// Links the plugins' names to this release.
fn install(lab: &Lab, release: Release) {
    lab.run(&[&program(release), "--install", PLUGINS]).success();
}

/// Makes a host with the plugins of this release.
fn lab_with(release: Release) -> Lab {
    let lab = Lab::bare();
    install(&lab, release);
    lab
}

/// Runs this release's GC after a DEL of the previous one, which does not know the records of interfaces.
fn collect_after(detached_by: Release, lab: &Lab, config: &Value) {
    if detached_by == Previous {
        install(lab, This);
        let none_valid = json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []});
        lab.plugin(config["type"].as_str().unwrap())
            .verb("GC")
            .config(&merged(config.clone(), &none_valid))
            .run()
            .silent();
    }
}

/// Snapshot without the rules that drop packets of containers to 127.0.0.0/8: portmap leaves these
/// rules on purpose, and their number depends on the release.
fn traces(lab: &Lab) -> Snapshot {
    lab.snapshot().without(|line| line.contains("127.0.0.0/8") && line.to_lowercase().contains("drop"))
}
