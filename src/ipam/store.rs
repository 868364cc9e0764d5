//! host-local's reservations on disk, byte for byte the reference plugin's (`backend/disk/backend.go`), so that either
//! can take over from the other at any time. In `<dataDir>/<network>`:
//!
//! - `<ip>`, mode 0600: container id, CR, LF, interface name, no newline at the end. Old releases wrote the id only.
//! - `last_reserved_ip.<index of the range set>`, mode 0600: the address, no newline. It steers the round robin only.
//! - `lock`, mode 0750, empty: locked with flock(2).
//!
//! Only regular files whose name is an address in its canonical text count. An empty one, which a crash of the reference
//! plugin leaves behind (and one of ours where files cannot be made whole, see `file::create_new`), counts as free; one that
//! is too large to name an attachment is of another program, and never read.
//!
//! Where the lock cannot be had (`Lock::acquire_where_possible`) the store goes on without, as the reference does: creating a
//! file is exclusive by itself. But then an empty file may be one that is being written, and what is read may change before
//! it is removed. So empty files stay and count as taken, no address is taken back, and there is no index.
//!
//! Which reservations are over, so that their addresses may be taken back, `record` knows; `reclaim` does it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::error::{Context, Errno, Failures, Result};
use crate::ipam::index::Index;
use crate::ipam::record::{FileId, Host, Record, Sandbox};
use crate::sorted::SortedSet;
use crate::sys::file;
use crate::sys::lock::{Lock, Mode};

/// Where reservations are when the configuration has no `dataDir`.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// No attachment's names are longer: CNI_CONTAINERID and CNI_IFNAME are single strings of an environment (32 pages).
const LONGEST_CONTENT: u64 = 256 * 1024;

/// Fails if no reservation could be written to the store of a network. Leaves nothing.
pub fn probe(data_dir: &Path, network: &str) -> Result<()> {
    file::probe(&data_dir.join(network), b"x")
}

/// Who holds a reservation: an interface of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    content: String,
    id_length: usize,
    /// Where it lives, if that was asked.
    sandbox: Sandbox,
}

impl Attachment {
    /// An attachment by CNI_CONTAINERID and CNI_IFNAME.
    pub fn new(container_id: &str, ifname: &str) -> Attachment {
        let id = container_id.trim();
        Attachment { content: format!("{id}\r\n{ifname}"), id_length: id.len(), sandbox: Sandbox::default() }
    }

    /// The same attachment, whose namespace is at this path.
    #[must_use]
    pub fn living_at(self, netns: &str) -> Attachment {
        self.living_in(Sandbox::at(netns))
    }

    pub(super) fn living_in(self, sandbox: Sandbox) -> Attachment {
        Attachment { sandbox, ..self }
    }

    /// The container id.
    pub fn id(&self) -> &str {
        self.content.get(..self.id_length).unwrap_or_default()
    }

    fn content(&self) -> &[u8] {
        self.content.as_bytes()
    }
}

/// The addresses that an attachment holds, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Reserved for the interface.
    pub exact: Vec<IpAddr>,
    /// Reserved by an old release for the container, whichever interface it was for.
    pub legacy: Vec<IpAddr>,
}

impl Held {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.exact.iter().chain(&self.legacy).copied()
    }
}

/// The reservations of one network, locked for as long as this value lives.
pub struct Store {
    path: PathBuf,
    directory: File,
    index: Index,
    host: Host,
    /// `None` where there are no locks.
    lock: Option<Lock>,
}

/// What a reservation says, and which file it is.
struct Found {
    content: Vec<u8>,
    file: FileId,
}

impl Found {
    fn read(path: &Path) -> Option<Found> {
        let file = file::open_plain(path).ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.len() > LONGEST_CONTENT {
            return None;
        }
        let mut bytes = Vec::with_capacity(128);
        file.take(LONGEST_CONTENT).read_to_end(&mut bytes).ok()?;
        let content = bytes.trim_ascii().to_vec();
        Some(Found { content, file: FileId::of(&metadata) }).filter(|found| !found.content.is_empty())
    }
}

impl Store {
    /// Opens the store of a network, creating it when it is missing, and waits for its lock.
    pub fn open(data_dir: &Path, network: &str) -> Result<Store> {
        Store::open_on(Host::this(), data_dir, network)
    }

    /// The same, if the store is there.
    pub fn open_existing(data_dir: &Path, network: &str) -> Result<Option<Store>> {
        match data_dir.join(network).try_exists() {
            Ok(false) => Ok(None),
            _ => Store::open(data_dir, network).map(Some),
        }
    }

    pub(super) fn open_on(host: Host, data_dir: &Path, network: &str) -> Result<Store> {
        let path = data_dir.join(network);
        let (name, opened) = (path.join("lock"), file::open_or_create_in(&path, 0o755, "lock", 0o750));
        let lock = Lock::acquire_where_possible(file::or_for_reading(opened, &name)?, Mode::Exclusive);
        let lock = lock.with_context(|| format!("failed to lock {name:?}"))?;
        let directory = File::open(&path).with_context(|| format!("failed to open {path:?}"))?;
        let index = match lock {
            Some(_) => Index::open(data_dir, network, &directory, host.boot),
            None => Index::none(),
        };
        Ok(Store { path, directory, index, host, lock })
    }

    /// The addresses that an attachment holds.
    pub fn held_by(&mut self, attachment: &Attachment) -> Result<Held> {
        let mut held = match self.look_up(attachment) {
            Some(held) => held,
            None => self.scan(attachment)?,
        };
        held.exact.sort_unstable();
        held.legacy.sort_unstable();
        Ok(held)
    }

    /// Reserves an address for an attachment; false when it is taken. Leaves nothing behind when it fails.
    pub fn reserve(&mut self, address: IpAddr, attachment: &Attachment) -> Result<bool> {
        let target = self.file_of(address);
        match fs::symlink_metadata(&target) {
            Ok(found) if self.is_free_file(&found) => {
                fs::remove_file(&target).with_context(|| format!("failed to remove empty {target:?}"))?;
            }
            Ok(_) => return Ok(false),
            // Whatever else is wrong shows when the file is created.
            Err(_) => {}
        }
        match file::create_new(&self.path, &address.to_string(), 0o600, attachment.content()) {
            Err(error) if error.is(Errno::EEXIST) => return Ok(false),
            created => created?,
        }
        self.record(address, attachment);
        Ok(true)
    }

    /// False when a reservation, or whatever else, has the address's name.
    pub fn is_free(&self, address: IpAddr) -> bool {
        fs::symlink_metadata(self.file_of(address)).map_or(true, |found| self.is_free_file(&found))
    }

    /// True for the trace of a crash.
    fn is_free_file(&self, file: &fs::Metadata) -> bool {
        self.lock.is_some() && file.is_file() && file.len() == 0
    }

    /// How many reservations there are; `None` when only a look at the directory would tell.
    pub fn count(&self) -> Option<u64> {
        self.index.entries()
    }

    /// Gives back one address, if the attachment holds it.
    pub fn release(&mut self, address: IpAddr, attachment: &Attachment) -> Result<()> {
        match self.read(address) {
            Some(found) if found.content == attachment.content() => self.remove(address, attachment.content()),
            _ => Ok(()),
        }
    }

    /// Gives back all addresses of an attachment, past failures. Those of an old release are only taken for its when
    /// there are no others.
    pub fn release_all(&mut self, attachment: &Attachment) -> Result<()> {
        let held = self.held_by(attachment)?;
        let (addresses, content) = match held.exact.is_empty() {
            false => (held.exact, attachment.content()),
            true => (held.legacy, attachment.id().as_bytes()),
        };
        let mut failures = Failures::default();
        for address in addresses {
            failures.note(self.remove(address, content));
        }
        failures.finish()
    }

    /// Every address that has a file, empty ones too.
    pub fn taken(&self) -> Result<SortedSet<IpAddr>> {
        Ok(SortedSet::new(self.addresses()?))
    }

    /// The address handed out last from the range set with this index. Text that is not exactly an address is none.
    pub fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        const LONGEST: u64 = 64;
        let mut text = String::new();
        file::open_plain(&self.pointer(set)).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
        text.parse().ok().map(|address: IpAddr| address.to_canonical())
    }

    /// Remembers the address handed out last. That it fails is no reason to fail: the next search begins elsewhere.
    pub fn set_last_reserved(&self, set: usize, address: IpAddr) {
        let _ = file::write_over(&self.pointer(set), 0o600, address.to_string().as_bytes());
    }

    /// Asks the index, and verifies its answer. `None` when it does not know, or was wrong.
    fn look_up(&mut self, attachment: &Attachment) -> Option<Held> {
        let held = Held {
            exact: self.index.find(attachment.content())?,
            legacy: self.index.find(attachment.id().as_bytes())?,
        };
        let is = |address: &IpAddr, content: &[u8]| self.read(*address).is_some_and(|found| found.content == content);
        let right = held.exact.iter().all(|address| is(address, attachment.content()))
            && held.legacy.iter().all(|address| is(address, attachment.id().as_bytes()));
        if !right {
            self.index.distrust();
        }
        Some(held).filter(|_| right)
    }

    /// Reads every reservation, and fills the index on the way.
    fn scan(&mut self, attachment: &Attachment) -> Result<Held> {
        let mut held = Held::default();
        self.scan_each(&mut |address, content| {
            if content == attachment.content() {
                held.exact.push(address);
            } else if content == attachment.id().as_bytes() {
                held.legacy.push(address);
            }
        })?;
        Ok(held)
    }

    /// A file keeps its record; one that has none is seen now.
    fn scan_each(&mut self, visit: &mut dyn FnMut(IpAddr, &[u8])) -> Result<()> {
        let addresses = self.addresses()?;
        self.index.begin_scan(addresses.len(), &self.directory);
        for address in addresses {
            let Some(Found { content, file }) = self.read(address) else { continue };
            let words = self.index.words(&content, address);
            let kept = words.and_then(|words| Record::read(words, &content, address, file));
            let record = kept.unwrap_or_else(|| Record::new(&self.host, Sandbox::default(), &content, address, file));
            self.index.insert(&content, address, record.words());
            visit(address, &content);
        }
        self.index.end_scan(&self.directory);
        Ok(())
    }

    /// Remembers where the attachment lives that has just got this address.
    fn record(&mut self, address: IpAddr, attachment: &Attachment) {
        let words = fs::symlink_metadata(self.file_of(address)).map_or(Default::default(), |file| {
            Record::new(&self.host, attachment.sandbox, attachment.content(), address, FileId::of(&file)).words()
        });
        self.index.insert(attachment.content(), address, words);
    }

    fn remove(&mut self, address: IpAddr, content: &[u8]) -> Result<()> {
        let path = self.file_of(address);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("failed to remove {path:?}"));
            }
            _ => self.index.remove(content, address),
        }
        Ok(())
    }

    /// The addresses that have a regular file.
    fn addresses(&self) -> Result<Vec<IpAddr>> {
        let context = || format!("failed to read directory {:?}", self.path);
        let named = |entry: io::Result<fs::DirEntry>| match entry {
            Ok(entry) => {
                let regular = entry.file_type().is_ok_and(|kind| kind.is_file());
                address_of(&entry.file_name()).filter(|_| regular).map(Ok)
            }
            Err(error) => Some(Err(error)),
        };
        let entries = fs::read_dir(&self.path).with_context(context)?;
        entries.filter_map(named).collect::<io::Result<Vec<IpAddr>>>().with_context(context)
    }

    /// What a reservation says, without surrounding white space; `None` when it says nothing.
    fn read(&self, address: IpAddr) -> Option<Found> {
        Found::read(&self.file_of(address))
    }

    fn network(&self) -> &str {
        self.path.file_name().and_then(OsStr::to_str).unwrap_or_default()
    }

    fn file_of(&self, address: IpAddr) -> PathBuf {
        self.path.join(address.to_string())
    }

    fn pointer(&self, set: usize) -> PathBuf {
        self.path.join(format!("last_reserved_ip.{set}"))
    }
}

impl Drop for Store {
    /// Still under the lock, whichever way the call ended.
    fn drop(&mut self) {
        self.index.seal(&self.directory);
    }
}

/// The address that a file is named after, in the only text that a plugin writes.
fn address_of(name: &OsStr) -> Option<IpAddr> {
    let name = name.to_str()?;
    let address: IpAddr = name.parse().ok()?;
    Some(address).filter(|address| address.to_canonical().to_string() == name)
}

mod reclaim;
pub mod survey;
#[cfg(test)]
mod tests;
