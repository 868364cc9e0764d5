//! Converts the index of host-local, format version 2, to a text and back, independently of the
//! code under test (`src/ipam/table.rs` and `record.rs` describe the format). The text leaves out
//! the facts of a lab: boot, inode and cookie of the namespace, inode and times of the
//! reservation's file.
//!
//! ```text
//! magic 636e69626f780002
//! slots 256
//! used 1
//! left out 0
//! slot 17 hash 00ff00ff00ff00ff address 10.1.2.2 in c1
//! ```

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::state::Facts;

const HEADER_BYTES: usize = 128;
const SLOT_BYTES: usize = 64;

/// FNV-1a, and the finalizer of MurmurHash3; never 0.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mixed = bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (mixed ^ (mixed >> 33)).max(1)
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Stamp of a directory: boot, device, inode, modification time, change time.
fn stamp(directory: &Path, facts: &Facts) -> Vec<u64> {
    let found = std::fs::metadata(directory).unwrap();
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()].map(i64::cast_unsigned);
    [hash(facts.boot_id().as_bytes()), found.dev(), found.ino()].into_iter().chain(times).collect()
}

/// Computes the four words of the record of an address that a container in this namespace has.
fn record(directory: &Path, address: IpAddr, netns: &str, facts: &Facts) -> [u64; 4] {
    let path = directory.join(address.to_string());
    let (content, file) = (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap());
    let (inode, cookie) = facts.namespace(netns);
    let words = [hash(facts.boot_id().as_bytes()), facts.view() << 32 | inode, cookie];
    let about = [hash(&content), file.ino(), file.ctime().cast_unsigned(), file.ctime_nsec().cast_unsigned()];
    let mut bytes: Vec<u8> = words.iter().chain(&about).flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(octets(address));
    let [boot, namespaces, cookie] = words;
    [boot, namespaces, cookie, hash(&bytes)]
}

/// Returns the word after this text.
fn after<'t>(text: &'t str, word: &str) -> &'t str {
    text.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {text:?}")).1.split([' ', '\n']).next().unwrap()
}

/// Makes the bytes of a text for the reservations in `directory`, and sets the directory's
/// modification time ten seconds back.
pub fn render(text: &str, directory: &Path, facts: &Facts) -> Vec<u8> {
    const PAST: Duration = Duration::from_secs(10);
    File::open(directory).unwrap().set_modified(SystemTime::now() - PAST).unwrap();
    let figure = |word: &str| after(text, word).parse::<u64>().unwrap();
    let slots = figure("slots ");
    let mut words = vec![u64::from_str_radix(after(text, "magic "), 16).unwrap().swap_bytes()];
    words.extend(stamp(directory, facts));
    words.extend([slots, figure("used "), figure("left out ")]);
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize(HEADER_BYTES + slots as usize * SLOT_BYTES, 0);
    for line in text.lines().filter(|line| line.starts_with("slot ")) {
        let place = HEADER_BYTES + after(line, "slot ").parse::<usize>().unwrap() * SLOT_BYTES;
        let address: IpAddr = after(line, "address ").parse().unwrap();
        let mut slot = u64::from_str_radix(after(line, "hash "), 16).unwrap().to_le_bytes().to_vec();
        slot.extend(octets(address));
        slot.extend(record(directory, address, after(line, " in "), facts).iter().flat_map(|word| word.to_le_bytes()));
        bytes[place..place + slot.len()].copy_from_slice(&slot);
    }
    bytes
}

/// Makes the text of an index. Fails if a word differs from the word that [`render`] would write.
pub fn text_of(path: &Path, directory: &Path, facts: &Facts) -> String {
    let file = File::open(path).unwrap();
    let word = |at: usize| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at as u64).unwrap();
        u64::from_le_bytes(bytes)
    };
    assert_eq!((1..8).map(|place| word(place * 8)).collect::<Vec<_>>(), stamp(directory, facts), "the stamp");
    let mut text = format!("magic {:016x}\nslots {}\n", word(0).swap_bytes(), word(64));
    text += &format!("used {}\nleft out {}\n", word(72), word(80));
    for slot in (0..word(64)).filter(|slot| word(HEADER_BYTES + *slot as usize * SLOT_BYTES) != 0) {
        let place = HEADER_BYTES + slot as usize * SLOT_BYTES;
        let octets = (u128::from(word(place + 16)) << 64 | u128::from(word(place + 8))).to_le_bytes();
        let address = IpAddr::from(Ipv6Addr::from(octets)).to_canonical();
        let words = [24, 32, 40, 48].map(|offset| word(place + offset));
        let netns = facts.names().find(|netns| record(directory, address, netns, facts) == words);
        let netns = netns.unwrap_or_else(|| panic!("{address} has another record: {words:x?}"));
        text += &format!("slot {slot} hash {:016x} address {address} in {netns}\n", word(place));
    }
    text
}
