//! An accelerator beside the reservations of a network: which addresses belong to which attachment, found without
//! opening every file; and with each address the words of its record (see `record`), which are all that the reservation
//! files do not hold themselves. Nobody needs it: whatever goes wrong with it ends in a scan of the files, never in an
//! error. The index of a later release is left alone: until that release comes back there are no
//! records, and all reservations count as alive.
//!
//! Kept outside the network's directory, where the reference plugin would read it as a reservation:
//! `<dataDir>/.cni-box/<network>.index` (see `table` for its format). A scan writes a new file, `<network>.new`, which takes
//! the old one's place when it is complete; until then the old one has the records.
//!
//! # When it is trusted
//!
//! After each change of ours, still under the network's lock, the directory's modification time is set to a value in the
//! past. The kernel sets the change time of the directory to now at that moment. Both times, with the directory's device
//! and inode and the boot id, are the stamp in the header, and the index is trusted only while the directory still has
//! them. Whatever else adds or removes a file (the reference plugin, an administrator, a restore) sets both times to
//! the same instant, so its result never equals a stamp, even if the clock is set back.
//!
//! A change happens in the order: directory entry; stamp erased; table; times of the directory; stamp. A process killed
//! anywhere in between leaves a stamp that does not match. The boot id keeps out a table of which a power failure left
//! only a part on disk.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Errno, Result};
use crate::ipam::table::{Slot, Stamp, Table, Words, hash};
use crate::sys::file;

/// The folder of the index, in `dataDir`: no network has such a name.
const FOLDER: &str = ".cni-box";
/// What the name of an index that is being made ends in.
const NEW: &str = "new";

/// Which addresses belong to which attachment, unless the directory was changed by somebody else.
pub struct Index {
    table: Option<Table>,
    /// The table before the scan that is going on.
    before: Option<Table>,
    state: State,
    /// Hash of the boot id; 0: unknown.
    boot: u64,
    /// Where the table is; beside it, `.new`.
    path: PathBuf,
    /// The stamp of the directory when the scan that fills the table began.
    scanned_from: Option<Stamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing in the table counts.
    Distrusted,
    /// As on disk.
    Sealed,
    /// Complete, but not so on disk.
    Changed,
}

impl Index {
    /// Opens the index of a network, whose `directory` is locked, in this boot. Whether it can be used shows later.
    pub fn open(data_dir: &Path, network: &str, directory: &File, boot: u64) -> Index {
        let path = data_dir.join(FOLDER).join(format!("{network}.index"));
        let mut index = Index { table: None, before: None, state: State::Distrusted, boot, path, scanned_from: None };
        // Without all of this there is no index; everything still works.
        let _ = index.try_open(data_dir, network, directory);
        index
    }

    /// No index.
    pub(super) fn none() -> Index {
        let (table, before, path) = (None, None, PathBuf::new());
        Index { table, before, state: State::Distrusted, boot: 0, path, scanned_from: None }
    }

    /// The index as it is on disk, if there is one; only [`Index::words`] may be asked of it, and nothing is changed.
    pub(super) fn open_to_read(data_dir: &Path, network: &str) -> Index {
        let path = data_dir.join(FOLDER).join(format!("{network}.index"));
        let table = File::open(&path).ok().and_then(|file| Table::open(file).ok()).map(|(table, _)| table);
        Index { table, before: None, state: State::Distrusted, boot: 0, path, scanned_from: None }
    }

    /// False when the files have to be scanned first.
    pub fn is_trusted(&self) -> bool {
        self.table.is_some() && self.state != State::Distrusted
    }

    /// The addresses of the attachment whose reservations have this content; `None` when the index is not trusted.
    pub fn find(&mut self, content: &[u8]) -> Option<Vec<IpAddr>> {
        let found = self.trusted()?.find(hash(content)).ok();
        if found.is_none() {
            self.distrust();
        }
        found
    }

    /// How many reservations there are; `None` when the index is not trusted.
    pub(super) fn entries(&self) -> Option<u64> {
        self.trusted().map(Table::entries)
    }

    /// All entries; none when the index is not trusted.
    pub(super) fn all(&self) -> Vec<Slot> {
        let mut all = Vec::new();
        // What cannot be read has no record.
        let _ = self.trusted().map(|table| table.each(&mut |slot| all.push(slot)));
        all
    }

    /// What is kept with a reservation; in a scan, what was kept with it before. Whether the index is trusted doesn't
    /// matter: a record tells itself what it is about.
    pub(super) fn words(&self, content: &[u8], address: IpAddr) -> Option<Words> {
        self.before.as_ref().or(self.table.as_ref())?.words(hash(content), address).ok()?
    }

    /// A reservation with this content has been made.
    pub(super) fn insert(&mut self, content: &[u8], address: IpAddr, words: Words) {
        if self.trusted().is_some_and(Table::is_full) && self.grow().is_err() {
            self.discard_new();
            self.distrust();
        }
        self.change(|table| table.insert(Slot { hash: hash(content), address, words }));
    }

    /// A reservation with this content has been removed.
    pub fn remove(&mut self, content: &[u8], address: IpAddr) {
        self.change(|table| table.remove(hash(content), address));
    }

    /// Nothing in the index counts until it has been filled again.
    pub fn distrust(&mut self) {
        self.state = State::Distrusted;
    }

    /// Begins to fill an empty index, with about so many entries, from the files of the directory.
    pub fn begin_scan(&mut self, entries: usize, directory: &File) {
        self.scanned_from = stamp(directory, self.boot).ok();
        let empty = self.empty_table(entries as u64).ok();
        self.state = if empty.is_some() { State::Changed } else { State::Distrusted };
        if empty.is_some() {
            self.before = std::mem::replace(&mut self.table, empty);
        }
    }

    /// Ends it. If the directory was changed meanwhile, by somebody who takes no lock, the result does not count.
    pub fn end_scan(&mut self, directory: &File) {
        let as_before = self.scanned_from.is_some() && stamp(directory, self.boot).ok() == self.scanned_from;
        let placed = self.state != State::Distrusted && self.take_place().is_ok();
        if !placed {
            self.discard_new();
        }
        self.before = None;
        if !as_before || !placed {
            self.distrust();
        }
    }

    /// Makes what has changed count for the next process.
    pub fn seal(&mut self, directory: &File) {
        if self.state != State::Changed {
            return;
        }
        let sealed = self
            .table
            .as_ref()
            .map_or(Err(Errno::EBADF.into()), |table| table.write_header(&seal_directory(directory, self.boot)?));
        self.state = if sealed.is_ok() { State::Sealed } else { State::Distrusted };
    }

    fn try_open(&mut self, data_dir: &Path, network: &str, directory: &File) -> Result<()> {
        let file = file::open_or_create_in(&data_dir.join(FOLDER), 0o700, &format!("{network}.index"), 0o600)?;
        if self.boot == 0 {
            return Err(Errno::ENOENT.into());
        }
        let (table, sealed) = Table::open(file)?;
        if stamp(directory, self.boot)? == sealed {
            self.state = State::Sealed;
        }
        self.table = Some(table);
        Ok(())
    }

    fn trusted(&self) -> Option<&Table> {
        self.table.as_ref().filter(|_| self.state != State::Distrusted)
    }

    /// A table beside the present one, which nobody else may be using.
    fn empty_table(&self, entries: u64) -> Result<Table> {
        self.table.as_ref().ok_or(Errno::EBADF)?;
        Table::create(file::start_over(&self.path.with_extension(NEW), 0o600)?, entries)
    }

    fn take_place(&self) -> Result<()> {
        Ok(fs::rename(self.path.with_extension(NEW), &self.path)?)
    }

    /// What could not take the old one's place is of no use.
    fn discard_new(&self) {
        if self.table.is_some() {
            let _ = fs::remove_file(self.path.with_extension(NEW));
        }
    }

    /// Copies everything to a table of twice the size.
    fn grow(&mut self) -> Result<()> {
        let old = self.trusted().ok_or(Errno::EBADF)?;
        let mut larger = self.empty_table(old.entries())?;
        let mut copied = Ok(());
        old.each(&mut |slot| {
            if copied.is_ok() {
                copied = larger.insert(slot);
            }
        })?;
        copied?;
        larger.count_left_out(old);
        self.take_place()?;
        self.table = Some(larger);
        self.state = State::Changed;
        Ok(())
    }

    fn change(&mut self, change: impl FnOnce(&mut Table) -> Result<()>) {
        if self.state == State::Distrusted {
            return;
        }
        let Some(table) = self.table.as_mut() else { return };
        let erased = if self.state == State::Sealed { table.write_header(&Stamp::default()) } else { Ok(()) };
        let changed = erased.and_then(|()| change(table));
        self.state = if changed.is_ok() { State::Changed } else { State::Distrusted };
    }
}

/// Gives the directory times that no ordinary change gives it.
fn seal_directory(directory: &File, boot: u64) -> Result<Stamp> {
    /// More than the coarsest resolution of a file system's times.
    const PAST: Duration = Duration::from_secs(10);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    file::set_modified(directory, now.saturating_sub(PAST))?;
    let stamp = stamp(directory, boot)?;
    let [.., modified, modified_nanoseconds, changed, changed_nanoseconds] = stamp;
    if (modified, modified_nanoseconds) == (changed, changed_nanoseconds) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    Ok(stamp)
}

fn stamp(directory: &File, boot: u64) -> Result<Stamp> {
    let found = directory.metadata()?;
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()].map(i64::cast_unsigned);
    let [modified, modified_nanoseconds, changed, changed_nanoseconds] = times;
    Ok([boot, found.dev(), found.ino(), modified, modified_nanoseconds, changed, changed_nanoseconds])
}

#[cfg(test)]
mod tests;
