//! The owners of each address that the firewall lets through, in files below [`DIRECTORY`].
//!
//! An address has as many owners as attachments: networks may have the same subnet. The rules
//! cannot name the owners (the reference would not find such rules again), but a DEL must leave the
//! rules that another owner needs, and a DEL without prevResult, or GC, must find the addresses.
//! The files vanish with a reboot, as the rules do. They are a help, not a condition: where /run
//! cannot be written there are none.
//!
//! The first owner is in the file `ADDRESS`, as in releases that knew one owner; the others are in
//! `ADDRESS+1`, `ADDRESS+2` and so on, which those releases pass over.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;

use crate::error::{Context, Result};
use crate::firewall::records::Records;
use crate::sys::namespaces::{Census, Presence};
use crate::sys::netns::{Netns, identity_at};

/// Where the files are.
const DIRECTORY: &str = "/run/cni-box/firewall";

/// Missing files in a row that end a list. Replacing a file removes it first, so a killed call may
/// leave one gap.
const LONGEST_GAP: usize = 2;

/// Who an address belongs to, and how it was let through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// Name of the network.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// The interface in the container.
    pub ifname: String,
    /// The container's namespace at the time, see [`Owner::netns_at`].
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
    records: Records,
    /// One for all owners: a search for namespaces takes long.
    census: RefCell<Census>,
}

impl Owners {
    /// Opens the directory, locked.
    pub fn open() -> Self {
        Owners::open_at(Path::new(DIRECTORY))
    }

    fn open_at(directory: &Path) -> Self {
        Owners::in_records(Records::open(directory))
    }

    /// The same; a missing directory is made.
    pub fn create() -> Result<Self> {
        Owners::create_at(Path::new(DIRECTORY))
    }

    fn create_at(directory: &Path) -> Result<Self> {
        Records::create(directory).map(Owners::in_records)
    }

    fn in_records(records: Records) -> Self {
        Owners { records, census: RefCell::default() }
    }

    /// The owners of an address, each once. A file that cannot be understood is none.
    pub fn of(&self, address: IpAddr) -> Vec<Owner> {
        let mut owners: Vec<Owner> = Vec::new();
        for owner in self.texts(address).iter().flatten().filter_map(|text| Owner::parse(text)) {
            if !owners.iter().any(|known| known.is_same(&owner)) {
                owners.push(owner);
            }
        }
        owners
    }

    /// Adds an owner to those of an address, in the place of an earlier record of the same
    /// attachment. Drops owners that are dead.
    pub fn add(&self, address: IpAddr, owner: &Owner) -> Result<()> {
        let mut owners = self.of(address);
        owners.retain(|known| known.is_same(owner) || self.is_alive(known));
        match owners.iter_mut().find(|known| known.is_same(owner)) {
            Some(known) => known.clone_from(owner),
            None => owners.push(owner.clone()),
        }
        self.set(address, &owners)
    }

    /// False when the namespace that the address was given to is gone: then another program (the
    /// reference's plugin) has ended the attachment, and the record says nothing about today's owner
    /// of the address. A namespace lives on without its path while a process is in it. Without its
    /// cookie (before Linux 5.14, or recorded by an earlier release) the path decides, because the
    /// kernel uses inode numbers again.
    pub fn is_alive(&self, owner: &Owner) -> bool {
        let Some((identity, cookie, path)) = owner.namespace() else { return false };
        if identity_at(path).is_some_and(|found| found.to_string() == identity) {
            return true;
        }
        let inode = identity.split_once(':').and_then(|(_, inode)| inode.parse().ok());
        let presence = inode.filter(|_| cookie != 0).map(|inode| self.census.borrow_mut().presence(inode, cookie));
        matches!(presence, Some(Presence::Here | Presence::Unknown))
    }

    /// Makes these, and no others, the owners of an address.
    pub fn set(&self, address: IpAddr, owners: &[Owner]) -> Result<()> {
        let texts = self.texts(address);
        for (place, owner) in owners.iter().enumerate() {
            if texts.get(place).and_then(Option::as_ref) != Some(&owner.text()) {
                let written = self.records.write(&file_name(address, place), &owner.text());
                written.with_context(|| format!("failed to record the owner of {address}"))?;
            }
        }
        // The first file may be unreadable.
        for place in owners.len()..texts.len().max(1) {
            let removed = self.records.remove(&file_name(address, place));
            removed.with_context(|| format!("failed to remove the record of {address}"))?;
        }
        Ok(())
    }

    /// All owners of all addresses, sorted by address. See [`Records::names`].
    pub fn all(&self) -> Result<Vec<(IpAddr, Owner)>> {
        let names = self.records.names()?;
        names.iter().filter(|name| address_of(name).is_some()).for_each(|name| self.records.remove_if_empty(name));
        let mut addresses: Vec<IpAddr> = names.iter().filter_map(|name| address_of(name)).collect();
        addresses.sort();
        addresses.dedup();
        let owned = |address| self.of(address).into_iter().map(move |owner| (address, owner));
        Ok(addresses.into_iter().flat_map(owned).collect())
    }

    /// The texts of an address's files; `None` for one that is missing or unreadable.
    fn texts(&self, address: IpAddr) -> Vec<Option<String>> {
        let mut texts = Vec::new();
        let mut gap = 0;
        while gap < LONGEST_GAP {
            let text = self.records.read(&file_name(address, texts.len()));
            gap = if text.is_some() { 0 } else { gap + 1 };
            texts.push(text);
        }
        texts.truncate(texts.len() - gap);
        texts
    }
}

fn file_name(address: IpAddr, place: usize) -> String {
    if place == 0 { address.to_string() } else { format!("{address}+{place}") }
}

fn address_of(name: &str) -> Option<IpAddr> {
    name.split_once('+').map_or(name, |(address, _)| address).parse().ok()
}

impl Owner {
    /// True when the record is about this attachment.
    pub fn is(&self, network: &str, container: &str, ifname: &str) -> bool {
        self.network == network && self.container == container && self.ifname == ifname
    }

    /// True when both records are about the same attachment.
    pub fn is_same(&self, other: &Owner) -> bool {
        self.is(&other.network, &other.container, &other.ifname)
    }

    /// What `netns` holds: the namespace's identity, its cookie and its path.
    pub fn netns_at(path: &str) -> String {
        let netns = Netns::open(path).ok();
        let identity = netns.as_ref().and_then(|netns| netns.identity().ok());
        let cookie = netns.and_then(|netns| netns.cookie().ok()).unwrap_or(0);
        identity.map_or(String::new(), |identity| format!("{identity} {cookie} {path}"))
    }

    /// The namespace's identity, its cookie (0: not known) and its path.
    fn namespace(&self) -> Option<(&str, u64, &str)> {
        let (identity, rest) = self.netns.split_once(' ')?;
        let with_cookie = rest.split_once(' ').and_then(|(cookie, path)| Some((identity, cookie.parse().ok()?, path)));
        Some(with_cookie.unwrap_or((identity, 0, rest)))
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
    fn owners_are_remembered_until_they_are_removed() {
        let path = scratch_directory();
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap());
        assert_eq!(Owners::open_at(&path).all(), Ok(Vec::new()));
        assert_eq!(Owners::open_at(&path).set(v4, &[]), Ok(()));
        assert!(!path.exists(), "looking makes nothing");
        let owners = Owners::create_at(&path).unwrap();
        owners.add(v6, &owner("c2", "a\nb")).unwrap();
        owners.add(v4, &owner("c1", "")).unwrap();
        fs::write(path.join("10.0.0.3"), "torn").unwrap();
        fs::write(path.join("no address"), "").unwrap();
        fs::write(path.join("10.0.0.4"), "").unwrap();
        assert_eq!(owners.all(), Ok(vec![(v4, owner("c1", "")), (v6, owner("c2", "a\nb"))]));
        assert!(!path.join("10.0.0.4").exists(), "the trace of a crash");
        owners.set(v4, &[]).unwrap();
        owners.set(v4, &[]).unwrap();
        owners.set("10.0.0.3".parse().unwrap(), &[]).unwrap();
        assert_eq!((owners.of(v4), owners.of(v6)), (Vec::new(), vec![owner("c2", "a\nb")]));
        assert_eq!(owners.records.names().unwrap(), ["fd00::2", "no address"]);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn an_address_has_many_owners_and_a_gap_hides_none() {
        let path = scratch_directory();
        let address: IpAddr = "10.0.0.2".parse().unwrap();
        let owners = Owners::create_at(&path).unwrap();
        for container in ["c1", "c2", "c3", "c2"] {
            owners.add(address, &owner(container, "")).unwrap();
        }
        assert_eq!(owners.of(address), [owner("c1", ""), owner("c2", ""), owner("c3", "")]);
        assert_eq!(owners.all().unwrap().len(), 3);
        for gap in ["10.0.0.2", "10.0.0.2+1"] {
            let text = fs::read(path.join(gap)).unwrap();
            fs::remove_file(path.join(gap)).unwrap();
            assert_eq!(owners.of(address).len(), 2, "without {gap}");
            fs::write(path.join(gap), text).unwrap();
        }
        let dead = Owner { netns: "1:2 /proc/self/ns/net".into(), ..owner("c3", "") };
        owners.add(address, &dead).unwrap();
        owners.add(address, &owner("c4", "")).unwrap();
        assert_eq!(owners.of(address), [owner("c1", ""), owner("c2", ""), owner("c4", "")], "c3 is dead");
        owners.set(address, &[owner("c4", "")]).unwrap();
        assert_eq!(
            (owners.of(address), owners.records.names().unwrap()),
            (vec![owner("c4", "")], vec!["10.0.0.2".into()])
        );
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn an_owner_lives_as_long_as_its_namespace() {
        let owners = Owners::open_at(Path::new("/nonexistent"));
        let own = Owner::netns_at("/proc/self/ns/net");
        let [identity, cookie, path] = own.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let other = cookie.parse::<u64>().unwrap() + (1 << 40);
        for (netns, lives) in [
            (own.clone(), true),
            (format!("{identity} {path}"), true),
            ("1:2 /proc/self/ns/net".to_string(), false),
            (format!("{identity} /nonexistent"), false),
            (format!("{identity} {cookie} /nonexistent"), true),
            (format!("{identity} {other} /nonexistent"), false),
            (Owner::netns_at("/nonexistent"), false),
        ] {
            assert_eq!(owners.is_alive(&Owner { netns: netns.clone(), ..owner("c1", "") }), lives, "{netns}");
        }
    }
}
