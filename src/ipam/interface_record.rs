//! The interface that an ADD has made: a file for each attachment in [`DIRECTORY`].
//!
//! The container's own namespace cannot say it: its root may rename the interface, give it another hardware address, or hand
//! it on to another namespace. The files vanish with a reboot, as the interfaces do. They are a help, not a
//! condition: where /run cannot be written there are none, and the Go plugins make none.
//!
//! A file is named after a hash of network, container and interface, and has eight lines: [`FORMAT`], network, container,
//! interface, inode and cookie of the container's namespace, the same of the host's, the interface (kind, index, hardware
//! address), and the host's end of a veth pair (name, hardware address). A device of the host that was moved has a ninth
//! line, see [`Card`].

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::cni::{Request, Undo};
use crate::digest::sha512_hex;
use crate::error::{Context, Errno, Error, Failures, Result};
use crate::ipam::card::Card;
use crate::ipam::record::Sandbox;
use crate::net::{Link, Mac, Netns, veth};
use crate::sys::{file, log};

/// Where the files are.
const DIRECTORY: &str = "/run/cni-box/interfaces";

/// The first line. A file with another one is of another version, and counts as none.
const FORMAT: &str = "cni-box interface 1";

/// More than names of any length that a runtime gives.
const LARGEST: u64 = 1024 * 1024;

/// What an ADD has made for an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceRecord {
    network: String,
    container: String,
    ifname: String,
    /// The container's namespace at the time.
    pub(super) sandbox: Sandbox,
    /// The namespace of the process that made the interface.
    pub(super) host: Sandbox,
    /// The kernel's name for its kind; empty for a device of the host that was moved.
    pub kind: String,
    /// Index in the container's namespace.
    pub index: u32,
    /// Hardware address.
    pub mac: String,
    /// The other end of a veth pair.
    pub host_end: Option<HostEnd>,
    /// A device of the host that was moved.
    pub card: Option<Card>,
}

/// The host's end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEnd {
    /// Name of the link.
    pub name: String,
    /// Hardware address; empty if it is not known.
    pub mac: String,
}

impl InterfaceRecord {
    /// The record of an interface in the container's namespace.
    pub fn new(request: &Request<'_>, container: &Netns, kind: &str, index: u32, mac: &Mac) -> Self {
        InterfaceRecord {
            network: request.config.name.clone(),
            container: request.container_id.clone(),
            ifname: request.ifname.clone(),
            sandbox: Sandbox::of(container),
            host: Sandbox::of_this_process(),
            kind: kind.to_string(),
            index,
            mac: mac.to_string(),
            host_end: None,
            card: None,
        }
    }

    /// The record of a device of the host that was moved, as `link` of the container.
    pub fn of_card(request: &Request<'_>, container: &Netns, link: &Link, card: Card) -> Self {
        let record = InterfaceRecord::new(request, container, &link.kind, link.index, &link.mac);
        InterfaceRecord { card: Some(card), ..record }
    }

    /// The record of a veth pair.
    pub fn of_pair(request: &Request<'_>, container: &Netns, pair: &veth::Pair) -> Self {
        let host_end = Some(HostEnd { name: pair.host_name.clone(), mac: pair.host_mac.to_string() });
        let (index, mac) = (pair.container_index, &pair.container_mac);
        InterfaceRecord { host_end, ..InterfaceRecord::new(request, container, veth::KIND, index, mac) }
    }

    /// Writes the file, in the place of one that an earlier attachment has left; `undo` removes it. To be called when the IPAM
    /// plugin has given addresses: before, it may have to know the interface of the earlier attachment. An ADD does not fail
    /// for a file that cannot be written: the log tells.
    pub fn write(&self, undo: &mut Undo) {
        let [network, container, ifname] = [&self.network, &self.container, &self.ifname].map(String::clone);
        undo.push(move || remove(&network, &container, &ifname));
        let _ = log::Step::begin(format_args!("write the interface record")).end(self.try_write());
    }

    fn try_write(&self) -> Result<()> {
        let name = file_name(&self.network, &self.container, &self.ifname);
        let directory = PathBuf::from(DIRECTORY);
        let write = || file::create_new(&directory, &name, 0o600, self.text().as_bytes());
        match write() {
            Err(error) if error.is(Errno::ENOENT) => {
                file::create_directories(&directory, 0o700)?;
                write()
            }
            Err(error) if error.is(Errno::EEXIST) => {
                remove(&self.network, &self.container, &self.ifname)?;
                write()
            }
            written => written,
        }
    }

    /// The record of the request's attachment. None in a DEL that touches no link.
    pub fn of(request: &Request<'_>) -> Option<Self> {
        let Request { container_id, ifname, .. } = request;
        if request.spares_links { None } else { InterfaceRecord::read(&request.config.name, container_id, ifname) }
    }

    /// The record of an attachment. None when there is no file, or one that cannot be understood.
    pub fn read(network: &str, container: &str, ifname: &str) -> Option<Self> {
        let record = read_named(&file_name(network, container, ifname))?;
        record.is_of(network, container, ifname).then_some(record)
    }

    /// True if this link of this namespace, or an interface of this name there, has a record in another file than `own`. Where
    /// the kernel has no cookies, an old record may be of a namespace that had the same inode: then the link counts only.
    pub(super) fn is_recorded(here: Sandbox, ifname: &str, link: Option<&Link>, own: &str) -> bool {
        let is_link = |record: &InterfaceRecord, link: &Link| {
            let is_same_mac = || here.is_distinct() || record.mac == link.mac.to_string();
            record.kind == link.kind && record.index == link.index && is_same_mac()
        };
        let is_this = |record: &InterfaceRecord| {
            let is_name = here.is_distinct() && record.ifname == ifname;
            record.sandbox == here && (is_name || link.is_some_and(|link| is_link(record, link)))
        };
        let others = names().into_iter().filter(|name| name != own);
        others.filter_map(|name| read_named(&name)).any(|record| is_this(&record))
    }

    /// True if a later record of another attachment is about the same device of the host: that container has it now.
    pub(super) fn is_outdated(&self) -> bool {
        let of_same_card = |name: &String| {
            let other = read_named(name).filter(|other| other.card.is_some());
            other.is_some_and(|other| other.card == self.card || (&other.kind, &other.mac) == (&self.kind, &self.mac))
        };
        let own = file_name(&self.network, &self.container, &self.ifname);
        let others = || names().into_iter().filter(|name| *name != own && of_same_card(name));
        self.card.is_some() && others().any(|other| written(&other) >= written(&own))
    }

    /// True for the record of this attachment.
    fn is_of(&self, network: &str, container: &str, ifname: &str) -> bool {
        (self.network.as_str(), self.container.as_str(), self.ifname.as_str()) == (network, container, ifname)
    }

    fn text(&self) -> String {
        let [netns, host] = [self.sandbox, self.host].map(|sandbox| sandbox.to_string());
        let interface = format!("{} {} {}", self.kind, self.index, self.mac);
        let end = self.host_end.as_ref().map_or(String::new(), |end| format!("{} {}", end.name, end.mac));
        let lines = [FORMAT, &self.network, &self.container, &self.ifname, &netns, &host, &interface, &end];
        let card = self.card.as_ref().map_or(String::new(), |card| format!("\n{card}"));
        lines.join("\n") + &card
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split('\n');
        let mut line = || lines.next();
        line().filter(|format| *format == FORMAT)?;
        let (network, container, ifname) = (line()?, line()?, line()?);
        let (sandbox, host) = (Sandbox::parse(line()?)?, Sandbox::parse(line()?)?);
        let mut interface = line()?.split(' ');
        let (kind, index, mac) = (interface.next()?, interface.next()?.parse().ok()?, interface.next()?);
        let end = line()?.split_once(' ');
        Some(InterfaceRecord {
            network: network.to_string(),
            container: container.to_string(),
            ifname: ifname.to_string(),
            sandbox,
            host,
            kind: kind.to_string(),
            index,
            mac: mac.to_string(),
            host_end: end.map(|(name, mac)| HostEnd { name: name.to_string(), mac: mac.to_string() }),
            card: lines.next().and_then(Card::parse),
        })
    }
}

/// Removes the record of an attachment whose interface is gone.
pub fn forget(request: &Request<'_>) -> Result<()> {
    let Request { container_id, ifname, .. } = request;
    if request.spares_links { Ok(()) } else { remove(&request.config.name, container_id, ifname) }
}

/// Removes the record of an attachment, if there is one.
pub fn remove(network: &str, container: &str, ifname: &str) -> Result<()> {
    remove_named(&file_name(network, container, ifname))
}

/// GC: removes the records of the network's attachments that are not among the valid ones.
pub fn collect(request: &Request<'_>) -> Result<()> {
    let valid = request.config.valid_attachments().context("failed to load netconf")?;
    let Some(valid) = valid else { return Ok(()) };
    let mut failures = Failures::default();
    for name in names() {
        let is_invalid = |record: &InterfaceRecord| {
            let named = |(id, ifname): &(String, String)| record.is_of(&request.config.name, id, ifname);
            record.network == request.config.name && !valid.iter().any(named)
        };
        if read_named(&name).as_ref().is_some_and(is_invalid) {
            failures.note(remove_named(&name));
        }
    }
    failures.finish()
}

/// Names of the files of all records.
fn names() -> Vec<String> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Names may be longer than a file's name can be, and hold any character.
pub(super) fn file_name(network: &str, container: &str, ifname: &str) -> String {
    const DIGITS: usize = 40;
    let mut hash = sha512_hex(&[network, "\n", container, "\n", ifname]);
    hash.truncate(DIGITS);
    hash
}

fn read_named(name: &str) -> Option<InterfaceRecord> {
    let bytes = file::read_bounded(&PathBuf::from(DIRECTORY).join(name), LARGEST).ok()?;
    InterfaceRecord::parse(std::str::from_utf8(&bytes).ok()?)
}

/// Time of a file.
fn written(name: &str) -> Option<SystemTime> {
    fs::metadata(PathBuf::from(DIRECTORY).join(name)).and_then(|file| file.modified()).ok()
}

fn remove_named(name: &str) -> Result<()> {
    const NONE: [Errno; 4] = [Errno::ENOENT, Errno::ENOTDIR, Errno::EACCES, Errno::EROFS];
    let path = PathBuf::from(DIRECTORY).join(name);
    match fs::remove_file(&path).map_err(Error::from) {
        Err(error) if NONE.iter().any(|errno| error.is(*errno)) => Ok(()),
        removed => removed.with_context(|| format!("failed to remove {path:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> InterfaceRecord {
        InterfaceRecord {
            network: "net".to_string(),
            container: "c1".to_string(),
            ifname: "eth0".to_string(),
            sandbox: Sandbox::new(4_026_532_000, 77),
            host: Sandbox::new(4_026_531_840, 1),
            kind: "veth".to_string(),
            index: 7,
            mac: "02:00:00:00:00:01".to_string(),
            host_end: Some(HostEnd { name: "veth1234".to_string(), mac: "fe:00:00:00:00:01".to_string() }),
            card: None,
        }
    }

    #[test]
    fn a_record_is_eight_lines_and_read_back_whole() {
        let text = "cni-box interface 1\nnet\nc1\neth0\n4026532000 77\n4026531840 1\nveth 7 02:00:00:00:00:01\nveth1234 fe:00:00:00:00:01";
        assert_eq!(record().text(), text);
        assert_eq!(InterfaceRecord::parse(text), Some(record()));
        let moved = InterfaceRecord { kind: String::new(), host_end: None, ..record() };
        assert_eq!(InterfaceRecord::parse(&moved.text()), Some(moved.clone()));
        let card = Card { name: "eno1".to_string(), lower: None, permanent_mac: "02:00:00:00:00:02".to_string() };
        let card = InterfaceRecord { card: Some(card), ..moved };
        assert!(card.text().ends_with("\n\neno1 0 02:00:00:00:00:02"), "{}", card.text());
        assert_eq!(InterfaceRecord::parse(&card.text()), Some(card));
    }

    #[test]
    fn another_version_and_half_a_file_are_no_record() {
        let text = record().text();
        assert_eq!(InterfaceRecord::parse(&text.replace("interface 1", "interface 2")), None);
        for end in (0..text.rfind('\n').unwrap()).filter(|end| text.is_char_boundary(*end)) {
            assert_eq!(InterfaceRecord::parse(&text[..end]), None, "{end}");
        }
    }

    #[test]
    fn attachments_with_the_same_letters_have_different_files() {
        let names = [["ab", "c", "d"], ["a", "bc", "d"], ["a", "b", "cd"]].map(|[a, b, c]| file_name(a, b, c));
        assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2]);
    }
}
