//! A hash table in a file, from the hash of an attachment to its addresses, read and changed in place: a lookup costs a
//! few reads of 24 bytes, however many entries there are. Open addressing with linear probing; removal moves later
//! entries back, so there are no markers of deleted entries. At most half of the slots are used.
//!
//! A hash has at most [`MOST_ALIKE`] entries, or thousands of files that all say "reserved" would make one long run of
//! slots. One that has so many may have more that are not in the table; asking for it is an error.
//!
//! File, all numbers little endian: at 0 ten 64-bit words (magic with format version; seven words of the owner's stamp;
//! number of slots, a power of two; number of used slots), zeros up to 128, then the slots: 64-bit hash (0 = empty) and
//! 16 bytes of address, IPv4 in its v4-mapped form.

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::FileExt;

use std::time::Duration;

use crate::error::{Errno, Error, Result};

use crate::sys::lock::{Lock, Mode};

/// Seven words that the owner of the table writes when it is complete. All zero: it is not.
pub(super) type Stamp = [u64; 7];

pub(super) struct Table {
    /// Locked, because the lock of a network directory is gone when the directory is removed under its holder.
    file: Lock,
    slots: u64,
    used: u64,
}

#[derive(Clone, Copy)]
struct Slot {
    /// Never 0 in a used slot.
    hash: u64,
    address: IpAddr,
}

const MAGIC: u64 = u64::from_le_bytes(*b"cnibox\0\x01");
const SLOTS_AT: u64 = 128;
const SLOT_BYTES: u64 = 24;
const FEWEST_SLOTS: u64 = 256;
const MOST_ALIKE: usize = 16;
const WORDS: usize = 10;
const HEADER_BYTES: usize = WORDS * 8;

impl Table {
    /// Reads the header of the file, which may be empty, and gives the stamp it carries. Fails when another process uses
    /// it.
    pub(super) fn open(file: File) -> Result<(Table, Stamp)> {
        let file = Lock::acquire_within(file, Mode::Exclusive, Duration::ZERO)?;
        let mut bytes = [0; HEADER_BYTES];
        if file.file().read_exact_at(&mut bytes, 0).is_err() {
            return Ok((Table { file, slots: 0, used: 0 }, Stamp::default()));
        }
        let [magic, stamp @ .., slots, used] = words(&bytes);
        let sound = magic == MAGIC && slots.is_power_of_two() && used <= slots / 2;
        Ok((Table { file, slots, used }, if sound { stamp } else { Stamp::default() }))
    }

    /// Writes the header with a stamp.
    pub(super) fn write_header(&self, stamp: &Stamp) -> Result<()> {
        let [a, b, c, d, e, f, g] = *stamp;
        let bytes: Vec<u8> =
            [MAGIC, a, b, c, d, e, f, g, self.slots, self.used].iter().flat_map(|word| word.to_le_bytes()).collect();
        Ok(self.file.file().write_all_at(&bytes, 0)?)
    }

    /// Makes the table empty, with room for `entries`.
    pub(super) fn clear(&mut self, entries: usize) -> Result<()> {
        let wanted = (entries as u64).saturating_mul(2).saturating_add(2).max(FEWEST_SLOTS);
        (self.slots, self.used) = (wanted.next_power_of_two(), 0);
        self.write_header(&Stamp::default())?;
        // Not to nothing: ext4 flushes files that were emptied.
        self.file.file().set_len(SLOTS_AT)?;
        Ok(self.file.file().set_len(SLOTS_AT + self.slots * SLOT_BYTES)?)
    }

    /// The addresses stored for a hash.
    pub(super) fn find(&self, hash: u64) -> Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        self.probe(hash, |_, slot| found.extend(Some(slot.address).filter(|_| slot.hash == hash)))?;
        if found.len() < MOST_ALIKE { Ok(found) } else { Err(Errno::EOVERFLOW.into()) }
    }

    /// Adds an entry.
    pub(super) fn insert(&mut self, hash: u64, address: IpAddr) -> Result<()> {
        if self.used >= self.slots / 2 {
            self.grow()?;
        }
        let mut alike = 0;
        let free = self.probe(hash, |_, slot| alike += usize::from(slot.hash == hash))?;
        if alike < MOST_ALIKE {
            self.write(free, Some(Slot { hash, address }))?;
            self.used += 1;
        }
        Ok(())
    }

    /// Removes an entry, if it is there.
    pub(super) fn remove(&mut self, hash: u64, address: IpAddr) -> Result<()> {
        let (mut place, mut alike) = (None, 0);
        self.probe(hash, |position, slot| {
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

    /// Doubles the number of slots.
    fn grow(&mut self) -> Result<()> {
        let mut slots = Vec::new();
        for position in 0..self.slots {
            slots.extend(self.read(position)?);
        }
        self.clear(slots.len())?;
        slots.into_iter().try_for_each(|slot| self.insert(slot.hash, slot.address))
    }

    /// Visits the slots from the home of a hash up to the first empty one, and gives the position of that.
    fn probe(&self, hash: u64, mut visit: impl FnMut(u64, Slot)) -> Result<u64> {
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
        let (mut hash, mut address) = ([0; 8], [0; 16]);
        let mut bytes = [0; SLOT_BYTES as usize];
        self.file.file().read_exact_at(&mut bytes, SLOTS_AT + position * SLOT_BYTES)?;
        let (front, back) = bytes.split_at(hash.len());
        hash.copy_from_slice(front);
        address.copy_from_slice(back);
        let slot = Slot { hash: u64::from_le_bytes(hash), address: IpAddr::from(address).to_canonical() };
        Ok(Some(slot).filter(|slot| slot.hash != 0))
    }

    fn write(&self, position: u64, slot: Option<Slot>) -> Result<()> {
        let hash = slot.map_or(0, |slot| slot.hash).to_le_bytes();
        let address = slot.map_or(Ipv6Addr::UNSPECIFIED, |slot| mapped(slot.address)).octets();
        let bytes: Vec<u8> = hash.into_iter().chain(address).collect();
        Ok(self.file.file().write_all_at(&bytes, SLOTS_AT + position * SLOT_BYTES)?)
    }
}

/// FNV-1a, and the finalizer of MurmurHash3 for even low bits; never 0.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mixed = bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (mixed ^ (mixed >> 33)).max(1)
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn words(bytes: &[u8; HEADER_BYTES]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

fn damaged() -> Error {
    Errno::EUCLEAN.into()
}

#[cfg(test)]
mod tests;
