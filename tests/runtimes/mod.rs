//! Container runtimes as Debian ships them, with our plugins in a plugin directory that was empty: `make test-runtimes` runs
//! these tests, and only these (scripts/test-runtimes.sh). They need root and what scripts/runtimes-fetch.sh brings; the
//! other tests don't.
//!
//! The runtimes see a machine that has no program which could do a plugin's work. What they ask for is checked with traffic
//! and, from outside, with the programs of the real machine.

mod containerd;
mod cri;
mod grpc;
mod machine;
mod podman;

use std::path::{Path, PathBuf};

/// Files and folders below one, links not followed.
fn all_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            all_below(&entry.path(), found);
        }
        found.push(entry.path());
    }
}

/// Whether a plugin could call this, or a runtime take it for a plugin.
fn could_do_our_work(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    let programs = [
        "iptables",
        "ip6tables",
        "xtables",
        "arptables",
        "ebtables",
        "nft",
        "conntrack",
        "ipset",
        "netavark",
        "aardvark",
    ];
    let program = programs.iter().any(|program| name == *program || name.starts_with(&format!("{program}-")));
    let folder = path.parent().unwrap();
    let plugin = folder.ends_with("cni") || folder.ends_with("cni/bin");
    (program || plugin) && !path.is_dir()
}

#[test]
fn nothing_on_the_machine_but_cni_box_could_do_a_plugins_work() {
    let root = PathBuf::from(machine::files()).join("root");
    let mut files = Vec::new();
    all_below(&root, &mut files);
    assert!(files.iter().any(|path| path.ends_with("usr/bin/containerd")), "this is the machine's root");
    let others: Vec<_> = files.into_iter().filter(|path| could_do_our_work(path)).collect();
    assert_eq!(others, [""; 0].map(PathBuf::from));

    let machine = machine::Machine::new();
    let plugins = machine.ok("cd /opt/cni/bin; for name in *; do readlink -f $name; done | sort -u");
    assert_eq!(plugins.trim(), "/usr/local/bin/cni-box");
}
