//! A hash table in a file, from the hash of an attachment to its addresses, each with a few words that the owner of the
//! table keeps with it (see `record`), read and changed in place: a lookup costs a few reads of 64 bytes, however many
//! entries there are. Open addressing with linear probing; removal moves later entries back, so there are no markers of
//! deleted entries. At most half of the slots are used; a full table must be copied to a larger one.
//!
//! A hash has at most [`MOST_ALIKE`] entries, or thousands of files that all say "reserved" would make one long run of
//! slots. One that has so many may have more that are not in the table; asking for it is an error.
//!
//! File, all numbers little endian: at 0 eleven 64-bit words (magic with format version; seven words of the owner's stamp;
//! number of slots, a power of two; number of used slots; number of entries left out), zeros up to 128, then the slots:
//! 64-bit hash (0 = empty), 16 bytes of address, IPv4 in its v4-mapped form, the owner's four words, and zeros up to 64. No
//! slot lies across two pages, so none is ever half-written, unless by a power failure.
//!
//! The last byte of the magic is the format version. A file of an earlier version is replaced. A
//! file of a later version is left alone, for the later release that may come back; there is no
//! table then.

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::FileExt;

use std::time::Duration;

use crate::error::{Errno, Error, Result};

use crate::sys::lock::{Lock, Mode};

/// Seven words that the owner of the table writes when it is complete. All zero: it is not.
pub(super) type Stamp = [u64; 7];

/// What is kept with an address. All zero: nothing.
pub(super) type Words = [u64; 4];

pub(super) struct Table {
    /// Locked, because the lock of a network directory is gone when the directory is removed under its holder.
    file: Lock,
    slots: u64,
    used: u64,
    /// Entries that [`MOST_ALIKE`] has kept out.
    left_out: u64,
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// Never 0 in a used slot.
    pub(super) hash: u64,
    pub(super) address: IpAddr,
    pub(super) words: Words,
}

const FORMAT: [u8; 7] = *b"cnibox\0";
const VERSION: u8 = 2;
const SLOTS_AT: u64 = 128;
const SLOT_BYTES: u64 = 64;
const FEWEST_SLOTS: u64 = 256;
const MOST_ALIKE: usize = 16;
const WORDS: usize = 11;
const HEADER_BYTES: usize = WORDS * 8;

impl Table {
    /// Reads the header of the file, which may be empty, and gives the stamp it carries. Fails when another process uses
    /// it, and with `EOPNOTSUPP` when its version is a later one.
    pub(super) fn open(file: File) -> Result<(Table, Stamp)> {
        let mut table = Table::locked(file)?;
        let mut bytes = [0; HEADER_BYTES];
        if table.file.file().read_exact_at(&mut bytes, 0).is_err() {
            return Ok((table, Stamp::default()));
        }
        let [magic, stamp @ .., slots, used, left_out] = words::<WORDS>(&bytes);
        if is_later(magic) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if magic != own_magic() || !slots.is_power_of_two() || used > slots / 2 {
            return Ok((table, Stamp::default()));
        }
        (table.slots, table.used, table.left_out) = (slots, used, left_out);
        Ok((table, stamp))
    }

    /// Makes a table with room for `entries` of an empty file.
    pub(super) fn create(file: File, entries: u64) -> Result<Table> {
        let mut table = Table::locked(file)?;
        table.slots = entries.saturating_mul(2).saturating_add(2).max(FEWEST_SLOTS).next_power_of_two();
        table.write_header(&Stamp::default())?;
        table.file.file().set_len(SLOTS_AT + table.slots * SLOT_BYTES)?;
        Ok(table)
    }

    fn locked(file: File) -> Result<Table> {
        let file = Lock::acquire_within(file, Mode::Exclusive, Duration::ZERO)?;
        Ok(Table { file, slots: 0, used: 0, left_out: 0 })
    }

    /// Writes the header with a stamp.
    pub(super) fn write_header(&self, stamp: &Stamp) -> Result<()> {
        let [a, b, c, d, e, f, g] = *stamp;
        let words: [u64; WORDS] = [own_magic(), a, b, c, d, e, f, g, self.slots, self.used, self.left_out];
        Ok(self.file.file().write_all_at(&bytes_of(&words), 0)?)
    }

    /// Number of entries, those left out too.
    pub(super) fn entries(&self) -> u64 {
        self.used + self.left_out
    }

    /// Counts what another table had left out.
    pub(super) fn count_left_out(&mut self, other: &Table) {
        self.left_out = other.left_out;
    }

    /// True when there is no room for another entry.
    pub(super) fn is_full(&self) -> bool {
        self.used >= self.slots / 2
    }

    /// Visits all entries.
    pub(super) fn each(&self, visit: &mut dyn FnMut(Slot)) -> Result<()> {
        const AT_ONCE: usize = 64;
        let mut bytes = vec![0; AT_ONCE * SLOT_BYTES as usize];
        let mut at = SLOTS_AT;
        let end = SLOTS_AT + self.slots * SLOT_BYTES;
        while at < end {
            // The number of slots is a multiple of what is read at once.
            self.file.file().read_exact_at(&mut bytes, at)?;
            bytes.as_chunks().0.iter().filter_map(Slot::decode).for_each(&mut *visit);
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// The words kept with an address that is stored for a hash.
    pub(super) fn words(&self, hash: u64, address: IpAddr) -> Result<Option<Words>> {
        let mut found = None;
        self.probe(hash, &mut |_, slot| {
            if (slot.hash, slot.address) == (hash, address) {
                found = Some(slot.words);
            }
        })?;
        Ok(found)
    }

    /// The addresses stored for a hash.
    pub(super) fn find(&self, hash: u64) -> Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        self.probe(hash, &mut |_, slot| found.extend(Some(slot.address).filter(|_| slot.hash == hash)))?;
        if found.len() < MOST_ALIKE { Ok(found) } else { Err(Errno::EOVERFLOW.into()) }
    }

    /// Adds an entry.
    pub(super) fn insert(&mut self, entry: Slot) -> Result<()> {
        if self.is_full() {
            return Err(Errno::ENOSPC.into());
        }
        let mut alike = 0;
        let free = self.probe(entry.hash, &mut |_, slot| alike += usize::from(slot.hash == entry.hash))?;
        if alike < MOST_ALIKE {
            self.write(free, Some(entry))?;
            self.used += 1;
        } else {
            self.left_out += 1;
        }
        Ok(())
    }

    /// Removes an entry, if it is there.
    pub(super) fn remove(&mut self, hash: u64, address: IpAddr) -> Result<()> {
        let (mut place, mut alike) = (None, 0);
        self.probe(hash, &mut |position, slot| {
            alike += usize::from(slot.hash == hash);
            if (slot.hash, slot.address) == (hash, address) {
                place = Some(position);
            }
        })?;
        if alike >= MOST_ALIKE {
            return Err(Errno::EOVERFLOW.into());
        }
        let Some(place) = place else { return Ok(()) };
        self.close_gap(place)?;
        self.used = self.used.saturating_sub(1);
        Ok(())
    }

    /// Visits the slots from the home of a hash up to the first empty one, and gives the position of that.
    fn probe(&self, hash: u64, visit: &mut dyn FnMut(u64, Slot)) -> Result<u64> {
        for step in 0..self.slots {
            let position = self.wrap(hash.wrapping_add(step));
            match self.read(position)? {
                Some(slot) => visit(position, slot),
                None => return Ok(position),
            }
        }
        Err(damaged())
    }

    /// Empties a slot and moves back the entries after it that would no longer be found.
    fn close_gap(&self, mut gap: u64) -> Result<()> {
        let start = gap;
        for step in 1..self.slots {
            let position = self.wrap(start + step);
            let Some(slot) = self.read(position)? else { return self.write(gap, None) };
            let from_home = self.wrap(position.wrapping_sub(slot.hash));
            if from_home >= self.wrap(position.wrapping_sub(gap)) {
                self.write(gap, Some(slot))?;
                gap = position;
            }
        }
        Err(damaged())
    }

    /// A position within the table. The home of an entry is its hash, wrapped.
    fn wrap(&self, position: u64) -> u64 {
        position & self.slots.wrapping_sub(1)
    }

    fn read(&self, position: u64) -> Result<Option<Slot>> {
        let mut bytes = [0; SLOT_BYTES as usize];
        self.file.file().read_exact_at(&mut bytes, SLOTS_AT + position * SLOT_BYTES)?;
        Ok(Slot::decode(&bytes))
    }

    fn write(&self, position: u64, slot: Option<Slot>) -> Result<()> {
        let bytes = slot.map_or([0; SLOT_BYTES as usize].to_vec(), |slot| slot.encode());
        Ok(self.file.file().write_all_at(&bytes, SLOTS_AT + position * SLOT_BYTES)?)
    }
}

impl Slot {
    fn decode(bytes: &[u8; SLOT_BYTES as usize]) -> Option<Slot> {
        let [hash, front, back, a, b, c, d, _] = words(bytes);
        let octets = (u128::from(back) << 64 | u128::from(front)).to_le_bytes();
        let address = IpAddr::from(octets).to_canonical();
        Some(Slot { hash, address, words: [a, b, c, d] }).filter(|slot| slot.hash != 0)
    }

    fn encode(&self) -> Vec<u8> {
        let [a, b, c, d] = self.words;
        let [front, back] = words(&mapped(self.address).octets());
        bytes_of(&[self.hash, front, back, a, b, c, d, 0])
    }
}

/// The first word of a file.
fn own_magic() -> u64 {
    let [a, b, c, d, e, f, g] = FORMAT;
    u64::from_le_bytes([a, b, c, d, e, f, g, VERSION])
}

/// True for the first word of a file that a later release has written.
fn is_later(magic: u64) -> bool {
    let [format @ .., version] = magic.to_le_bytes();
    format == FORMAT && version > VERSION
}

/// FNV-1a, and the finalizer of MurmurHash3 for even low bits; never 0.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mixed = bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (mixed ^ (mixed >> 33)).max(1)
}

/// IPv4 in its v4-mapped form.
pub(super) fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// The little-endian words of these bytes, of which there are at least enough.
fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn damaged() -> Error {
    Errno::EUCLEAN.into()
}

#[cfg(test)]
mod tests;
