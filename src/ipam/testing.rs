//! What the tests of this layer and of its applets share.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::cni::{Host, NetworkConfig, Request, Verb};
use crate::ipam::interface_search::Sign;
use crate::ipam::record;
use crate::sys::namespaces::Presence;

/// An ADD of c1's eth0 to the network "net"; `more` goes to the top of the configuration.
pub(crate) fn request(version: &str, ipam: Value, more: Value, args: &str) -> Request<'static> {
    static HOST: Host = Host { environment: Vec::new(), plugins: |_| None };
    let mut config = json!({"cniVersion": version, "name": "net", "ipam": ipam});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Request {
        verb: Verb::Add,
        container_id: "c1".into(),
        netns: "/nonexistent".into(),
        ifname: "eth0".into(),
        args: args.into(),
        path: String::new(),
        config: NetworkConfig::parse(config.to_string().into_bytes()).unwrap(),
        spares_links: false,
        host: &HOST,
    }
}

/// An empty directory, removed at the end of the test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cni-box-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Names and contents of the files in a directory below, sorted; without `lock`.
    pub(crate) fn files(&self, below: &str) -> Vec<(String, String)> {
        let read = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap_or_default())
        };
        let mut files: Vec<_> = fs::read_dir(self.0.join(below)).unwrap().map(read).collect();
        files.retain(|(name, _)| name != "lock");
        files.sort();
        files
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Numbers that look random and are the same in every run (splitmix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// What the present thread's host is like. Real namespaces would be slow, and a reboot slower.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) boot: u64,
    /// The PID namespace in sight.
    pub(super) view: u32,
    /// Namespaces, by inode, with their cookies.
    pub(super) namespaces: BTreeMap<u32, u64>,
    /// Not everything may be looked at.
    pub(super) blind: bool,
    /// Interfaces that are in another namespace by now, by the address they were given.
    pub(super) moved_on: BTreeMap<IpAddr, Sign>,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

impl World {
    /// Makes this the world, as reservations see it.
    pub(super) fn host(&self) -> record::Host {
        WORLD.set(self.clone());
        let census =
            || -> record::Ask { Box::new(|inode, cookie| WORLD.with_borrow(|world| world.presence(inode, cookie))) };
        let interfaces = || -> record::AskForInterface {
            Box::new(|suspect| WORLD.with_borrow(|world| world.moved_on.get(&suspect.address).cloned()))
        };
        record::Host { boot: self.boot, view: || WORLD.with_borrow(|world| world.view), census, interfaces }
    }

    fn presence(&self, inode: u32, cookie: u64) -> Presence {
        match self.namespaces.get(&inode) {
            Some(theirs) if *theirs == cookie && !self.blind => Presence::Here,
            Some(theirs) if *theirs != cookie => Presence::Gone,
            _ if self.blind => Presence::Unknown,
            _ => Presence::NotFound,
        }
    }
}
