use std::collections::{BTreeSet, HashMap};

use super::*;
use crate::ipam::testing::{Directory, Numbers};

const STAMP: Stamp = [1, 2, 3, 4, 5, 6, 7];

fn address(number: u64) -> IpAddr {
    match number % 2 {
        0 => IpAddr::from([10, 0, (number >> 8) as u8, number as u8]),
        _ => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number as u16]),
    }
}

/// Few hashes, so that several entries share one, and homes at the end, so that clusters wrap around.
fn crowded(number: u64) -> u64 {
    match number % 3 {
        0 => number % 40 + 1,
        1 => u64::MAX - number % 40,
        _ => hash(&number.to_le_bytes()),
    }
}

#[test]
fn agrees_with_a_map_through_insertions_removals_and_growth() {
    for seed in 0..3 {
        let directory = Directory::new();
        let (mut table, _) = open(&directory.path().join("t")).unwrap();
        table.clear(0).unwrap();
        let mut model: HashMap<u64, BTreeSet<IpAddr>> = HashMap::new();
        let mut numbers = Numbers(seed);
        for step in 0..2000 {
            let number = numbers.below(300);
            let (hash, address) = (crowded(number), address(number));
            // First mostly insertions, then mostly removals.
            let grows = numbers.below(10) < if step < 1000 { 7 } else { 3 };
            if grows && model.entry(hash).or_default().insert(address) {
                table.insert(hash, address).unwrap();
            } else if !grows {
                model.entry(hash).or_default().remove(&address);
                table.remove(hash, address).unwrap();
            }
            let found: BTreeSet<IpAddr> = table.find(hash).unwrap().into_iter().collect();
            assert_eq!(found, model[&hash], "seed {seed}, step {step}");
        }
        for (hash, addresses) in &model {
            let found = table.find(*hash).unwrap();
            assert_eq!(found.len(), addresses.len());
            assert!(found.iter().all(|address| addresses.contains(address)));
        }
        assert_eq!(table.used, model.values().map(|addresses| addresses.len() as u64).sum::<u64>());
        assert!(table.used <= table.slots / 2);
    }
}

#[test]
fn many_entries_of_one_hash_are_an_error_and_not_a_long_run() {
    let directory = Directory::new();
    let (mut table, _) = open(&directory.path().join("t")).unwrap();
    table.clear(0).unwrap();
    for number in 0..5000 {
        table.insert(7, address(number)).unwrap();
    }
    assert_eq!(table.used, MOST_ALIKE as u64);
    assert!(table.find(7).is_err() && table.remove(7, address(1)).is_err());
    table.insert(8, address(1)).unwrap();
    assert_eq!(table.find(8).unwrap(), [address(1)]);
}

#[test]
fn is_found_again_with_its_stamp() {
    let directory = Directory::new();
    let path = directory.path().join("t");
    let (mut table, stamp) = open(&path).unwrap();
    assert_eq!(stamp, Stamp::default());
    table.clear(1000).unwrap();
    assert_eq!(table.slots, 2048);
    table.insert(hash(b"a"), address(4)).unwrap();
    table.write_header(&STAMP).unwrap();
    assert!(open(&path).is_err(), "two users at a time");
    drop(table);
    let (table, stamp) = open(&path).unwrap();
    assert_eq!((stamp, table.find(hash(b"a")).unwrap()), (STAMP, vec![address(4)]));
    assert!(table.find(hash(b"b")).unwrap().is_empty());
}

#[test]
fn emptying_it_erases_the_stamp() {
    let directory = Directory::new();
    let path = directory.path().join("t");
    let (mut table, _) = open(&path).unwrap();
    table.clear(0).unwrap();
    table.write_header(&STAMP).unwrap();
    table.clear(0).unwrap();
    drop(table);
    assert_eq!(open(&path).unwrap().1, Stamp::default());
}

#[test]
fn a_damaged_file_is_an_error_and_never_an_endless_search() {
    let directory = Directory::new();
    let path = directory.path().join("t");
    let (mut table, _) = open(&path).unwrap();
    table.clear(0).unwrap();
    table.write_header(&STAMP).unwrap();
    let bytes = vec![1; (SLOTS_AT + table.slots * SLOT_BYTES) as usize];
    table.file.file().write_all_at(&bytes[SLOTS_AT as usize..], SLOTS_AT).unwrap();
    assert!(table.find(7).is_err() && table.insert(7, address(1)).is_err() && table.remove(7, address(1)).is_err());
    table.file.file().set_len(SLOTS_AT).unwrap();
    assert!(table.find(7).is_err());
    table.file.file().write_all_at(&bytes[..HEADER_BYTES], 0).unwrap();
    drop(table);
    assert_eq!(open(&path).unwrap().1, Stamp::default());
}

#[test]
fn hashes_do_not_change_between_releases() {
    assert_eq!(hash(b"c1\r\neth0"), 0x5099_ba7c_8b54_7567);
    assert_ne!(hash(b""), 0);
}

fn open(path: &std::path::Path) -> Result<(Table, Stamp)> {
    Table::open(crate::sys::file::open_or_create(path, 0o600)?)
}
