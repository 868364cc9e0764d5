//! Whose addresses are: a file for each address that the firewall lets through, in [`DIRECTORY`].
//!
//! The rules themselves cannot say it (the reference would not find them again), but a DEL that comes late must not delete
//! the rules of the address's next owner, and a DEL that is told nothing, or GC, must find what to delete. The files vanish
//! with a reboot, as the rules do. They are a help, not a condition: where /run cannot be written there are none.

use std::net::IpAddr;
use std::path::Path;

use crate::error::{Context, Result};
use crate::firewall::records::Records;
use crate::sys::netns::identity_at;

/// Where the files are.
const DIRECTORY: &str = "/run/cni-box/firewall";

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
pub struct Owners(Records);

impl Owners {
    /// Opens the directory, locked.
    pub fn open() -> Self {
        Owners::open_at(Path::new(DIRECTORY))
    }

    fn open_at(directory: &Path) -> Self {
        Owners(Records::open(directory))
    }

    /// The same; a missing directory is made.
    pub fn create() -> Result<Self> {
        Owners::create_at(Path::new(DIRECTORY))
    }

    fn create_at(directory: &Path) -> Result<Self> {
        Records::create(directory).map(Owners)
    }

    /// The owner of an address, if it has one. A file that cannot be understood is none.
    pub fn of(&self, address: IpAddr) -> Option<Owner> {
        Owner::parse(&self.0.read(&address.to_string())?)
    }

    /// Makes somebody the owner of an address.
    pub fn set(&self, address: IpAddr, owner: &Owner) -> Result<()> {
        let written = self.0.write(&address.to_string(), &owner.text());
        written.with_context(|| format!("failed to record the owner of {address}"))
    }

    /// The address belongs to nobody.
    pub fn clear(&self, address: IpAddr) -> Result<()> {
        self.0.remove(&address.to_string()).with_context(|| format!("failed to remove the record of {address}"))
    }

    /// All addresses with their owners, sorted. See [`Records::names`].
    pub fn all(&self) -> Result<Vec<(IpAddr, Owner)>> {
        let names = self.0.names()?;
        let addresses = names.iter().filter_map(|name| name.parse::<IpAddr>().ok());
        let mut all = Vec::new();
        for address in addresses {
            match self.of(address) {
                Some(owner) => all.push((address, owner)),
                None => self.0.remove_if_empty(&address.to_string()),
            }
        }
        all.sort_by_key(|(address, _)| *address);
        Ok(all)
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::firewall::records::scratch_directory;

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
        let path = scratch_directory();
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
}
