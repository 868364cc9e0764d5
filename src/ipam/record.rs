//! What is remembered about a reservation beyond the reference's file: in which boot and network namespace its attachment
//! is. From that follows whether the attachment can still be alive; when it cannot, its address may be taken back.
//!
//! The prime rule: no address is ever given twice. So a reservation is over only if that is certain, and everything
//! doubtful counts as alive.
//!
//! # What a record is
//!
//! A fact that stays true: "this very file was made in boot B for the namespace N", or, of a file that the Go plugin made,
//! "this very file was there in boot B". *This very file* is its inode and the time the kernel set when it was linked
//! into the directory, which no program can set: a reservation that was released and made again, written over, or restored
//! from a backup is another file and has no record until it is seen again. Records therefore may get lost but cannot
//! lie, whichever of reservations and records are restored, rolled back or torn. Times are compared for equality only, so a
//! clock that jumps, or begins in 1970 at each boot, does no harm. (A file that could not be linked, see `file::create_new`,
//! has the time of its last change, which the kernel sets just the same. FAT and exFAT keep neither number nor time on disk:
//! a record gets lost there when the kernel forgets the inode, and another boot proves nothing, because `file::is_local`
//! leaves them out.)
//!
//! A namespace is named by its inode number and, because the kernel uses these again, by the cookie that it gives no second
//! namespace before the next boot (Linux 5.14; zero before, and then the inode decides). The path in CNI_NETNS is not
//! kept: it may lead elsewhere by now, and a namespace lives on without it.
//!
//! # When a reservation is over
//!
//! - Its record is of another boot, and the directory is on a file system that only this host uses. (Another boot of
//!   hosts that share a directory over NFS may be the present one of another host.) A reservation of the Go plugin is so
//!   recognised one boot later than ours: it must have been seen in a boot that has ended.
//! - Its record is of this boot, and nothing on this host uses the namespace any more, be its mount point there or not.
//!   From Linux 6.18 on the kernel says so. Before, or for who has not all rights, it must be mounted in no mount
//!   namespace, no thread may be in it, and no process may hold it open; only who has the same processes in sight as the
//!   one who made the record (same PID namespace), and may look at all of them, can find that out. It is looked for
//!   twice, for a process that forks and ends might be missed once. Not found is then a namespace that nothing but a
//!   socket holds; newer kernels (6.19) call that gone, too.
//!
//! And the interface must be gone, too: a container may have moved it on before its namespace ended (`interface_search`).
//!
//! Neither holds for a file that is not `<id> CR LF <ifname>`: an administrator may have blocked the address.
//!
//! Whoever asks again for the same attachment says that it lives nowhere else. Then what cannot be looked at does not
//! count, so that containers restart without root's rights, too.

use std::fs::{self, Metadata};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use crate::ipam::interface_search::{self, Search, Sign, Traces};
use crate::ipam::table::{Words, hash, mapped};
use crate::sys::namespaces::{self, Census, Presence};
use crate::sys::netns::Netns;

/// Where a container lives. All zero: it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sandbox {
    netns: u32,
    cookie: u64,
}

impl Sandbox {
    #[cfg(test)]
    pub(super) fn new(netns: u32, cookie: u64) -> Sandbox {
        Sandbox { netns, cookie }
    }

    /// The namespace at this path; unknown when there is none.
    pub(super) fn at(path: &str) -> Sandbox {
        Netns::open(path).map_or(Sandbox::default(), |netns| Sandbox::of(&netns))
    }

    /// This namespace.
    pub(super) fn of(netns: &Netns) -> Sandbox {
        let inode = netns.identity().ok().and_then(|identity| u32::try_from(identity.inode()).ok());
        let cookie = netns.cookie().unwrap_or(0);
        inode.map_or(Sandbox::default(), |netns| Sandbox { netns, cookie })
    }

    /// The namespace this process was started in.
    pub(super) fn of_this_process() -> Sandbox {
        Netns::home().map_or(Sandbox::default(), Sandbox::of)
    }

    /// True for a namespace that is another one for certain.
    pub(super) fn is_other_than(self, other: Sandbox) -> bool {
        let is_known = self.netns != 0 && other.netns != 0;
        let has_cookies = self.cookie != 0 && other.cookie != 0;
        is_known && (self.netns != other.netns || has_cookies && self.cookie != other.cookie)
    }

    /// True for a namespace that no other one is taken for before the next boot.
    pub(super) fn is_distinct(self) -> bool {
        self.cookie != 0
    }

    /// Reads what is written with `Display`.
    pub(super) fn parse(text: &str) -> Option<Sandbox> {
        let (netns, cookie) = text.split_once(' ')?;
        Some(Sandbox { netns: netns.parse().ok()?, cookie: cookie.parse().ok()? })
    }
}

impl std::fmt::Display for Sandbox {
    /// `INODE COOKIE`
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}", self.netns, self.cookie)
    }
}

/// Which file a reservation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId([u64; 3]);

impl FileId {
    pub(super) fn of(file: &Metadata) -> FileId {
        FileId([file.ino(), file.ctime().cast_unsigned(), file.ctime_nsec().cast_unsigned()])
    }
}

/// See the head of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    boot: u64,
    sandbox: Sandbox,
    /// The PID namespace of who made the record; 0: unknown.
    view: u32,
    /// Over everything above, and what the record is about.
    check: u64,
}

impl Record {
    /// The record of the reservation of an address that is this file with this content. Without a sandbox: it was seen.
    pub(super) fn new(host: &Host, sandbox: Sandbox, content: &[u8], address: IpAddr, file: FileId) -> Record {
        let view = if sandbox == Sandbox::default() { 0 } else { (host.view)() };
        let record = Record { boot: host.boot, sandbox, view, check: 0 };
        Record { check: record.check(content, address, file), ..record }
    }

    /// The record in these words of the table, if it is about this reservation.
    pub(super) fn read(words: Words, content: &[u8], address: IpAddr, file: FileId) -> Option<Record> {
        let record = Record::decode(words);
        Some(record).filter(|record| record.boot != 0 && record.check == record.check(content, address, file))
    }

    /// The record in these words, whatever it is about.
    pub(super) fn decode([boot, namespaces, cookie, check]: Words) -> Record {
        let (netns, view) = (namespaces as u32, (namespaces >> 32) as u32);
        Record { boot, sandbox: Sandbox { netns, cookie }, view, check }
    }

    pub(super) fn words(&self) -> Words {
        [self.boot, u64::from(self.view) << 32 | u64::from(self.sandbox.netns), self.sandbox.cookie, self.check]
    }

    fn check(&self, content: &[u8], address: IpAddr, FileId(file): FileId) -> u64 {
        let [boot, namespaces, cookie, _] = self.words();
        let numbers = [boot, namespaces, cookie, hash(content)].into_iter().chain(file);
        let bytes: Vec<u8> = numbers.flat_map(u64::to_le_bytes).chain(mapped(address).octets()).collect();
        hash(&bytes)
    }
}

/// Answers for the inode and the cookie of a namespace.
pub(super) type Ask = Box<dyn FnMut(u32, u64) -> Presence>;

/// Gives a sign that the interface of an attachment is there, whatever became of its namespace.
pub(super) type AskForInterface = Box<dyn FnMut(&Suspect<'_>) -> Option<Sign>>;

/// An attachment that its record says is over.
#[derive(Debug)]
pub(super) struct Suspect<'a> {
    network: &'a str,
    /// What the reservation's file holds.
    content: &'a [u8],
    pub(super) address: IpAddr,
    sandbox: Sandbox,
    is_of_this_boot: bool,
}

impl<'a> Suspect<'a> {
    /// The attachment that holds this address.
    pub(super) fn new(network: &'a str, content: &'a [u8], address: IpAddr) -> Self {
        Suspect { network, content, address, sandbox: Sandbox::default(), is_of_this_boot: false }
    }

    /// An interface of an earlier boot cannot have been moved on. Only what may come from another machine, like a boot id
    /// that a backup brought, is looked for then.
    fn sign_of_life(&self, search: &mut Search) -> Option<Sign> {
        let names = std::str::from_utf8(self.content).ok()?.split_once("\r\n")?;
        let traces = Traces::of(self.network, names, self.sandbox, self.address);
        match self.is_of_this_boot {
            true => search.anywhere(&traces),
            false => interface_search::host_end(&traces),
        }
    }
}

/// What the host is asked, which the tests answer themselves.
#[derive(Clone, Copy)]
pub(super) struct Host {
    /// Hash of the boot id; 0: unknown, and then there are no records.
    pub(super) boot: u64,
    /// The PID namespace whose processes are in sight; 0: unknown.
    pub(super) view: fn() -> u32,
    /// Begins a search for namespaces.
    pub(super) census: fn() -> Ask,
    /// Begins a search for interfaces.
    pub(super) interfaces: fn() -> AskForInterface,
}

impl Host {
    pub(super) fn this() -> Host {
        let boot = fs::read("/proc/sys/kernel/random/boot_id").map_or(0, |id| hash(&id));
        let census = || -> Ask {
            let mut census = Census::default();
            Box::new(move |inode, cookie| census.presence(inode, cookie))
        };
        let interfaces = || -> AskForInterface {
            let mut search = Search::default();
            Box::new(move |suspect| suspect.sign_of_life(&mut search))
        };
        Host { boot, view: namespaces::pid_namespace_in_sight, census, interfaces }
    }
}

/// Who asks whether a reservation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// The attachment that it is for, from this sandbox.
    Itself(Sandbox),
    /// Somebody else.
    Other,
}

/// What is known of the attachment that a reservation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Its namespace is in use.
    Lives,
    /// It was in a boot that has ended.
    EarlierBoot,
    /// Nothing uses its namespace any more.
    NamespaceGone,
    /// Nothing tells.
    Unknown,
}

impl Life {
    /// The attachment has ended for certain.
    pub fn is_over(self) -> bool {
        matches!(self, Life::EarlierBoot | Life::NamespaceGone)
    }
}

/// Decides which reservations are over. To be made anew for the second look.
pub(super) struct Judge {
    host: Host,
    view: u32,
    /// The directory is on a file system that only this host uses.
    local: bool,
    census: Ask,
    interfaces: AskForInterface,
}

impl Judge {
    pub(super) fn new(host: Host, local: bool) -> Judge {
        Judge { host, view: (host.view)(), local, census: (host.census)(), interfaces: (host.interfaces)() }
    }

    /// True when neither the namespace nor the interface of the attachment can be there any more.
    pub(super) fn is_over(&mut self, record: &Record, asking: Asking, suspect: Suspect<'_>) -> bool {
        self.may_be_over(record, asking) && self.interface_is_gone(record, asking, suspect)
    }

    /// True when nothing shows the interface of an attachment of which [`Judge::may_be_over`] is true.
    pub(super) fn interface_is_gone(&mut self, record: &Record, asking: Asking, suspect: Suspect<'_>) -> bool {
        let is_of_this_boot = record.boot == self.host.boot;
        match (self.interfaces)(&Suspect { sandbox: record.sandbox, is_of_this_boot, ..suspect }) {
            None => true,
            // Its own container asks again, and nothing shows that the first interface is there.
            Some(Sign::Hidden) => asking != Asking::Other,
            Some(_) => false,
        }
    }

    /// True when the record alone says that the attachment is over.
    pub(super) fn may_be_over(&mut self, record: &Record, asking: Asking) -> bool {
        if record.boot != self.host.boot {
            return self.local && self.host.boot != 0;
        }
        let Sandbox { netns, cookie } = record.sandbox;
        if netns == 0 || asking == Asking::Itself(record.sandbox) {
            return false;
        }
        let lenient = asking != Asking::Other;
        match (self.census)(netns, cookie) {
            Presence::Here => false,
            Presence::Gone => true,
            Presence::NotFound => lenient || record.view != 0 && record.view == self.view,
            Presence::Unknown => lenient,
        }
    }

    /// The same for somebody who wants to know why.
    pub(super) fn life(&mut self, record: &Record, suspect: Suspect<'_>) -> Life {
        let (is_of_this_boot, Sandbox { netns, cookie }) = (record.boot == self.host.boot, record.sandbox);
        match self.is_over(record, Asking::Other, suspect) {
            true if is_of_this_boot => Life::NamespaceGone,
            true => Life::EarlierBoot,
            false if is_of_this_boot && netns != 0 && (self.census)(netns, cookie) == Presence::Here => Life::Lives,
            false => Life::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
