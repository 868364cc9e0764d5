//! Which network namespaces are in use on this host: mounted somewhere, entered by a thread, or held open by a process.
//! There is no system call that tells, so this is what proc(5) shows, in the order of effort.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::error::Errno;
use crate::sys::netns::Netns;

/// What is known of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is in use, or may be.
    Here,
    /// Nothing uses it.
    Nowhere,
    /// It was not found, but not everything could be looked at.
    Unknown,
}

/// A search that goes as far as is needed, and remembers what it has seen.
#[derive(Debug, Default)]
pub struct Census {
    /// Inode numbers of namespaces, each with a place where it can be opened.
    places: BTreeMap<u32, String>,
    cookies: BTreeMap<u32, u64>,
    /// Mount namespaces, by inode and root directory, whose mounts have been read.
    mounts_of: BTreeSet<(u32, OsString)>,
    looked_at_mounts: bool,
    looked_at_processes: bool,
    /// Something may not be looked at.
    incomplete: bool,
}

impl Census {
    /// Looks for the namespace with this inode and cookie (see [`Netns::cookie`]; 0 matches every cookie).
    pub fn presence(&mut self, inode: u32, cookie: u64) -> Presence {
        if !self.looked_at_mounts {
            self.looked_at_mounts = true;
            self.read_mounts("/proc/self");
        }
        if !self.places.contains_key(&inode) && !self.looked_at_processes {
            self.looked_at_processes = true;
            self.read_processes();
        }
        match self.cookie_of(inode) {
            // Two that are there at the same time have different inodes.
            Some(theirs) if theirs != 0 && cookie != 0 && theirs != cookie => Presence::Nowhere,
            Some(_) => Presence::Here,
            None if self.incomplete => Presence::Unknown,
            None => Presence::Nowhere,
        }
    }

    /// The cookie of a namespace that was found; 0 when it cannot be had.
    fn cookie_of(&mut self, inode: u32) -> Option<u64> {
        let place = self.places.get(&inode)?;
        Some(*self.cookies.entry(inode).or_insert_with(|| cookie_at(place, inode).unwrap_or(0)))
    }

    fn read_processes(&mut self) {
        for process in self.numbered("/proc") {
            for task in self.numbered(&format!("{process}/task")) {
                self.look_at(format!("{task}/ns/net"));
                self.read_mounts_once(&task);
            }
            for descriptor in self.numbered(&format!("{process}/fd")) {
                self.look_at(descriptor);
            }
        }
    }

    /// Threads of one mount namespace see the same, unless their root directories differ.
    fn read_mounts_once(&mut self, task: &str) {
        let (Some(link), Some(root)) =
            (self.link(&format!("{task}/ns/mnt")), self.link(&format!("{task}/root")))
        else {
            return;
        };
        let inode = inode_in(&link.to_string_lossy(), "mnt");
        if inode.is_some_and(|inode| self.mounts_of.insert((inode, root.into_os_string()))) {
            self.read_mounts(task);
        }
    }

    /// Notes the network namespaces that are mounted where a process sees them.
    fn read_mounts(&mut self, process: &str) {
        let Some(bytes) = self.note(fs::read(format!("{process}/mountinfo"))) else { return };
        for line in String::from_utf8_lossy(&bytes).lines() {
            // Number, parent, device, root, mount point.
            let mut fields = line.split(' ').skip(3);
            if let (Some(inode), Some(point)) = (fields.next().and_then(network), fields.next()) {
                self.places.entry(inode).or_insert_with(|| format!("{process}/root{point}"));
            }
        }
    }

    /// Notes the network namespace that a link of proc(5) leads to, if it does.
    fn look_at(&mut self, path: String) {
        if let Some(inode) = self.link(&path).and_then(|link| network(&link.to_string_lossy())) {
            self.places.entry(inode).or_insert(path);
        }
    }

    fn link(&mut self, path: &str) -> Option<PathBuf> {
        self.note(fs::read_link(path))
    }

    /// Paths of the entries of a directory that are numbers.
    fn numbered(&mut self, directory: &str) -> Vec<String> {
        let Some(entries) = self.note(fs::read_dir(directory)) else { return Vec::new() };
        let names = entries.filter_map(|entry| self.note(entry)?.file_name().into_string().ok());
        let numbers = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        numbers.map(|name| format!("{directory}/{name}")).collect()
    }

    /// What has gone while we look has no namespace; all other failures leave a gap.
    fn note<T>(&mut self, result: io::Result<T>) -> Option<T> {
        const GONE: [Errno; 3] = [Errno::ENOENT, Errno::ESRCH, Errno::EINVAL];
        if let Err(error) = &result {
            self.incomplete |= !error.raw_os_error().is_some_and(|errno| GONE.contains(&Errno::from_raw(errno)));
        }
        result.ok()
    }
}

/// The PID namespace whose processes /proc shows, by its inode; 0 when that may not be looked at.
pub fn pid_namespace_in_sight() -> u32 {
    let link = fs::read_link("/proc/1/ns/pid").unwrap_or_default();
    inode_in(&link.to_string_lossy(), "pid").unwrap_or(0)
}

/// The cookie of the namespace at a place, unless another one is there by now.
fn cookie_at(place: &str, inode: u32) -> Option<u64> {
    let netns = Netns::open(place).ok()?;
    if netns.identity().ok()?.inode() != u64::from(inode) {
        return None;
    }
    netns.cookie().ok()
}

fn network(link: &str) -> Option<u32> {
    inode_in(link, "net")
}

/// Reads `KIND:[INODE]`.
fn inode_in(link: &str, kind: &str) -> Option<u32> {
    link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_of_this_process_is_here_and_another_one_with_its_number_is_not() {
        let own = Netns::open("/proc/self/ns/net").unwrap();
        let (inode, cookie) = (own.identity().unwrap().inode() as u32, own.cookie().unwrap());
        let mut census = Census::default();
        assert_eq!(census.presence(inode, cookie), Presence::Here);
        assert_eq!(census.presence(inode, 0), Presence::Here);
        assert_eq!(census.presence(inode, cookie + 1), Presence::Nowhere);
        assert_ne!(census.presence(7, 0), Presence::Here);
    }

    #[test]
    fn links_of_other_kinds_are_no_network_namespaces() {
        for (link, inode) in [("net:[4026531840]", Some(4_026_531_840)), ("mnt:[1]", None), ("net:[x]", None), ("", None)]
        {
            assert_eq!(network(link), inode);
        }
    }
}
