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
        let mut table = create(&directory.path().join("t"), 300);
        let mut model: HashMap<u64, BTreeSet<IpAddr>> = HashMap::new();
        let mut numbers = Numbers(seed);
        for step in 0..2000 {
            let number = numbers.below(300);
            let (hash, address) = (crowded(number), address(number));
            // First mostly insertions, then mostly removals.
            let grows = numbers.below(10) < if step < 1000 { 7 } else { 3 };
            if grows && model.entry(hash).or_default().insert(address) {
                table.insert(slot(hash, address)).unwrap();
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
    let mut table = create(&directory.path().join("t"), 0);
    for number in 0..5000 {
        table.insert(slot(7, address(number))).unwrap();
    }
    assert_eq!((table.used, table.entries()), (MOST_ALIKE as u64, 5000));
    assert!(table.find(7).is_err() && table.remove(7, address(1)).is_err());
    table.insert(slot(8, address(1))).unwrap();
    assert_eq!(table.find(8).unwrap(), [address(1)]);
}

#[test]
fn is_found_again_with_its_stamp() {
    let directory = Directory::new();
    let path = directory.path().join("t");
    assert_eq!(open(&path).unwrap().1, Stamp::default());
    let mut table = create(&path, 1000);
    assert_eq!(table.slots, 2048);
    table.insert(slot(hash(b"a"), address(4))).unwrap();
    table.write_header(&STAMP).unwrap();
    assert!(open(&path).is_err(), "two users at a time");
    drop(table);
    let (table, stamp) = open(&path).unwrap();
    assert_eq!((stamp, table.find(hash(b"a")).unwrap()), (STAMP, vec![address(4)]));
    assert!(table.find(hash(b"b")).unwrap().is_empty());
}

#[test]
fn every_entry_is_visited_with_its_words_until_the_table_is_full() {
    let directory = Directory::new();
    let path = directory.path().join("t");
    let mut table = create(&path, 0);
    let entries: Vec<Slot> = (1..=128).map(|number| slot(hash(&[number]), address(u64::from(number)))).collect();
    for entry in &entries {
        assert!(!table.is_full());
        table.insert(*entry).unwrap();
        assert_eq!(table.words(entry.hash, entry.address).unwrap(), Some(entry.words));
    }
    assert!(table.is_full() && table.insert(slot(1, address(1))).is_err());
    assert_eq!(table.words(entries[0].hash, address(300)).unwrap(), None);
    let mut found = Vec::new();
    table.each(&mut |entry| found.push(entry)).unwrap();
    assert_eq!(found.len(), entries.len());
    assert!(entries.iter().all(|entry| found.contains(entry)));
}

#[test]
fn a_table_of_a_later_version_is_left_alone_and_one_of_an_earlier_version_is_not() {
    let directory = Directory::new();
    let path = directory.path().join("t");
    create(&path, 0).write_header(&STAMP).unwrap();
    let open = |version: u8| {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.write_all_at(&[version], FORMAT.len() as u64).unwrap();
        Table::open(file).map(|(table, stamp)| (table.slots, stamp))
    };
    assert_eq!(open(VERSION), Ok((FEWEST_SLOTS, STAMP)));
    assert_eq!(open(VERSION - 1), Ok((0, Stamp::default())));
    for later in [VERSION + 1, u8::MAX] {
        assert!(open(later).unwrap_err().is(Errno::EOPNOTSUPP), "{later}");
    }
}

#[test]
fn a_table_of_another_format_is_empty() {
    let directory = Directory::new();
    let path = directory.path().join("t");
    let table = create(&path, 0);
    table.write_header(&STAMP).unwrap();
    table.file.file().write_all_at(b"cnibox\0\x01", 0).unwrap();
    drop(table);
    let (table, stamp) = open(&path).unwrap();
    assert_eq!((stamp, table.slots), (Stamp::default(), 0));
    assert!(table.words(7, address(1)).is_err());
}

#[test]
fn a_damaged_file_is_an_error_and_never_an_endless_search() {
    let directory = Directory::new();
    let path = directory.path().join("t");
    let mut table = create(&path, 0);
    table.write_header(&STAMP).unwrap();
    let bytes = vec![1; (SLOTS_AT + table.slots * SLOT_BYTES) as usize];
    table.file.file().write_all_at(&bytes[SLOTS_AT as usize..], SLOTS_AT).unwrap();
    assert!(
        table.find(7).is_err() && table.insert(slot(7, address(1))).is_err() && table.remove(7, address(1)).is_err()
    );
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

fn slot(hash: u64, address: IpAddr) -> Slot {
    Slot { hash, address, words: [hash, !hash, 3, 4] }
}

fn create(path: &std::path::Path, entries: u64) -> Table {
    Table::create(crate::sys::file::start_over(path, 0o600).unwrap(), entries).unwrap()
}

fn open(path: &std::path::Path) -> Result<(Table, Stamp)> {
    Table::open(crate::sys::file::open_or_create(path, 0o600)?)
}
