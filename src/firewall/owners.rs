//! Whose addresses are: a file for each address that the firewall lets through, in [`DIRECTORY`].
//!
//! The rules themselves cannot say it (the reference would not find them again), but a DEL that comes late must not delete
//! the rules of the address's next owner, and a DEL that is told nothing, or GC, must find what to delete. The files vanish
//! with a reboot, as the rules do. They are a help, not a condition: where /run cannot be written there are none.

use std::fs::{self, File};
use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Context, Errno, Error, Result};
use crate::sys::file;
use crate::sys::lock::{Lock, Mode};
use crate::sys::netns::identity_at;

/// Where the files are.
const DIRECTORY: &str = "/run/cni-box/firewall";

/// How long others may hold the lock before we go on without.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// Who an address belongs to, and how it was let through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// Name of the network.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// The interface in the container.
    pub ifname: String,
    /// The container's namespace at the time.
    pub netns: String,
    /// What let the address through.
    pub backend: String,
    /// The bridge with an ingress policy; empty when there is none.
    pub bridge: String,
    /// firewalld's zone; empty with other backends.
    pub zone: String,
}

/// The directory, locked against other calls.
#[derive(Debug)]
pub struct Owners {
    directory: PathBuf,
    /// Held until this is dropped.
    lock: Option<Lock>,
}

impl Owners {
    /// Opens the directory, locked.
    pub fn open() -> Self {
        Owners::open_at(Path::new(DIRECTORY))
    }

    fn open_at(directory: &Path) -> Self {
        let file = File::open(directory);
        let lock = file.ok().and_then(|file| Lock::acquire_within(file, Mode::Exclusive, LOCK_LIMIT).ok());
        Owners { directory: directory.to_path_buf(), lock }
    }

    /// The same; a missing directory is made.
    pub fn create() -> Result<Self> {
        Owners::create_at(Path::new(DIRECTORY))
    }

    fn create_at(directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            where_possible(file::create_directories(directory, 0o700))?;
        }
        Ok(Owners::open_at(directory))
    }

    /// The owner of an address, if it has one. A file that cannot be understood is none.
    pub fn of(&self, address: IpAddr) -> Option<Owner> {
        let text = fs::read_to_string(self.directory.join(address.to_string())).ok()?;
        Owner::parse(&text)
    }

    /// Makes somebody the owner of an address.
    pub fn set(&self, address: IpAddr, owner: &Owner) -> Result<()> {
        let (name, text) = (address.to_string(), owner.text());
        // Not written aside and renamed: killed in between, that would leave a file that nobody removes.
        let write = || file::create_new(&self.directory, &name, 0o600, text.as_bytes());
        let written = match write() {
            Err(error) if error.is(Errno::EEXIST) => self.clear(address).and_then(|()| write()),
            // The directory could not be made, then.
            Err(error) if error.is(Errno::ENOENT) => Ok(()),
            written => written,
        };
        where_possible(written).with_context(|| format!("failed to record the owner of {address}"))
    }

    /// The address belongs to nobody.
    pub fn clear(&self, address: IpAddr) -> Result<()> {
        match fs::remove_file(self.directory.join(address.to_string())) {
            Err(error) if error.kind() == NotFound => Ok(()),
            removed => where_possible(removed.map_err(Error::from))
                .with_context(|| format!("failed to remove the record of {address}")),
        }
    }

    /// All addresses with their owners, sorted. None where the directory is missing, is no directory, or may not be read: a
    /// DEL or GC that failed for that would fail for ever.
    pub fn all(&self) -> Result<Vec<(IpAddr, Owner)>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("failed to list {:?}", self.directory))?,
        };
        let addresses = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<IpAddr>().ok());
        let mut all = Vec::new();
        for address in addresses {
            match self.of(address) {
                Some(owner) => all.push((address, owner)),
                None => self.remove_if_empty(address),
            }
        }
        all.sort_by_key(|(address, _)| *address);
        Ok(all)
    }

    /// A killed ADD leaves an empty file where files cannot be made whole (see `file::create_new`).
    fn remove_if_empty(&self, address: IpAddr) {
        let path = self.directory.join(address.to_string());
        // Without the lock the file may just be being written.
        if self.lock.is_some() && fs::metadata(&path).is_ok_and(|found| found.len() == 0) {
            let _ = fs::remove_file(path);
        }
    }
}

impl Owner {
    /// True when the record is about this attachment.
    pub fn is(&self, network: &str, container: &str, ifname: &str) -> bool {
        self.network == network && self.container == container && self.ifname == ifname
    }

    /// False when the namespace that the address was given to is gone: then somebody else (the reference's plugin) has
    /// ended the attachment, and the record says nothing about who has the address today.
    pub fn is_alive(&self) -> bool {
        let (path, identity) = self.netns.split_once(' ').map_or(("", ""), |(identity, path)| (path, identity));
        identity_at(path).is_some_and(|found| found.to_string() == identity)
    }

    /// What `netns` holds: the namespace's identity and its path, for paths are used again.
    pub fn netns_at(path: &str) -> String {
        identity_at(path).map_or(String::new(), |identity| format!("{identity} {path}"))
    }

    /// One line for each; the zone, which may be any text, is the rest.
    fn text(&self) -> String {
        let lines =
            [&self.network, &self.container, &self.ifname, &self.netns, &self.backend, &self.bridge, &self.zone];
        lines.map(String::as_str).join("\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.splitn(7, '\n').map(str::to_string);
        Some(Owner {
            network: lines.next()?,
            container: lines.next()?,
            ifname: lines.next()?,
            netns: lines.next()?,
            backend: lines.next()?,
            bridge: lines.next()?,
            zone: lines.next()?,
        })
    }
}

/// Nothing is remembered where /run belongs to others or cannot be written, and that is no failure.
fn where_possible(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if matches!(error.errno, Some(Errno::EROFS | Errno::EACCES | Errno::EPERM)) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> PathBuf {
        let suffix = u64::from_ne_bytes(crate::sys::random::bytes().unwrap());
        std::env::temp_dir().join(format!("cni-box-owners-{suffix:016x}"))
    }

    fn owner(container: &str, zone: &str) -> Owner {
        Owner {
            network: "net".into(),
            container: container.into(),
            ifname: "eth0".into(),
            netns: Owner::netns_at("/proc/self/ns/net"),
            backend: "firewalld".into(),
            bridge: String::new(),
            zone: zone.into(),
        }
    }

    #[test]
    fn owners_are_remembered_until_they_are_cleared() {
        let path = directory();
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap());
        assert_eq!(Owners::open_at(&path).all(), Ok(Vec::new()));
        assert_eq!(Owners::open_at(&path).clear(v4), Ok(()));
        assert!(!path.exists(), "looking makes nothing");
        let owners = Owners::create_at(&path).unwrap();
        owners.set(v6, &owner("c2", "a\nb")).unwrap();
        owners.set(v4, &owner("c1", "")).unwrap();
        fs::write(path.join("10.0.0.3"), "torn").unwrap();
        fs::write(path.join("no address"), "").unwrap();
        fs::write(path.join("10.0.0.4"), "").unwrap();
        assert_eq!(owners.all(), Ok(vec![(v4, owner("c1", "")), (v6, owner("c2", "a\nb"))]));
        assert!(!path.join("10.0.0.4").exists(), "the trace of a crash");
        owners.clear(v4).unwrap();
        owners.clear(v4).unwrap();
        assert_eq!((owners.of(v4), owners.of(v6)), (None, Some(owner("c2", "a\nb"))));
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn an_owner_lives_as_long_as_its_namespace() {
        let mut owner = owner("c1", "");
        assert!(owner.is_alive());
        owner.netns = "1:2 /proc/self/ns/net".into();
        assert!(!owner.is_alive(), "the path leads to another namespace");
        owner.netns = Owner::netns_at("/nonexistent");
        assert!(!owner.is_alive());
    }

    #[test]
    fn what_is_no_directory_holds_no_records() {
        let path = directory();
        fs::write(&path, "").unwrap();
        assert_eq!(Owners::open_at(&path).all(), Ok(Vec::new()));
        assert_eq!(Owners::open_at(&path.join("firewall")).all(), Ok(Vec::new()));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_no_failure() {
        // Nobody, not even root, makes directories in /proc; it says ENOENT, though, which is a failure.
        assert!(Owners::create_at(Path::new("/proc/cni-box")).is_err());
        for errno in [Errno::EROFS, Errno::EACCES, Errno::EPERM] {
            assert_eq!(where_possible(Err(errno.into())), Ok(()));
        }
        assert!(where_possible(Err(Errno::ENOSPC.into())).is_err());
    }
}
