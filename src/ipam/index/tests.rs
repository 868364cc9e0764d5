use std::path::PathBuf;

use super::*;
use crate::ipam::testing::Directory;

const BOOT: u64 = 5;
const WORDS: Words = [1, 2, 3, 4];

/// A network directory with one reservation that a sealed index knows.
struct Network {
    data: Directory,
}

impl Network {
    fn new() -> Network {
        let network = Network { data: Directory::new() };
        fs::create_dir(network.path()).unwrap();
        fs::write(network.path().join("10.0.0.2"), "a").unwrap();
        let (directory, mut index) = network.open();
        index.begin_scan(1, &directory);
        index.insert(b"a", ip(2), WORDS);
        index.end_scan(&directory);
        index.seal(&directory);
        network
    }

    fn path(&self) -> PathBuf {
        self.data.path().join("net")
    }

    fn open(&self) -> (File, Index) {
        let directory = File::open(self.path()).unwrap();
        let index = Index::open(self.data.path(), "net", &directory, BOOT);
        (directory, index)
    }

    fn find(&self, content: &str) -> Option<Vec<IpAddr>> {
        self.open().1.find(content.as_bytes())
    }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

#[test]
fn our_own_changes_keep_it_trusted() {
    let network = Network::new();
    assert_eq!(network.find("a"), Some(vec![ip(2)]));
    assert_eq!(network.find("b"), Some(vec![]));
    let (directory, mut index) = network.open();
    fs::write(network.path().join("10.0.0.3"), "b").unwrap();
    index.insert(b"b", ip(3), WORDS);
    fs::remove_file(network.path().join("10.0.0.2")).unwrap();
    index.remove(b"a", ip(2));
    index.seal(&directory);
    drop(index);
    assert_eq!((network.find("a"), network.find("b")), (Some(vec![]), Some(vec![ip(3)])));
}

#[test]
fn changes_of_others_end_the_trust() {
    type Change = fn(&Path);
    let changes: [Change; 5] = [
        |path| fs::write(path.join("10.0.0.9"), "x").unwrap(),
        |path| fs::remove_file(path.join("10.0.0.2")).unwrap(),
        |path| fs::rename(path.join("10.0.0.2"), path.join("10.0.0.4")).unwrap(),
        |path| {
            // A restore: another inode, with the old times.
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            fs::rename(path, path.with_file_name("old")).unwrap();
            fs::create_dir(path).unwrap();
            File::open(path).unwrap().set_modified(modified).unwrap();
        },
        |path| {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            fs::write(path.join("10.0.0.9"), "x").unwrap();
            File::open(path).unwrap().set_modified(modified).unwrap();
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        let network = Network::new();
        change(&network.path());
        assert_eq!(network.find("a"), None, "change {number}");
    }
}

#[test]
fn a_process_killed_at_any_point_leaves_it_distrusted() {
    let add_file = |network: &Network| fs::write(network.path().join("10.0.0.3"), "b").unwrap();
    // After the directory.
    let network = Network::new();
    add_file(&network);
    assert_eq!(network.find("b"), None);
    // After the stamp is erased and the table written.
    let network = Network::new();
    let (_, mut index) = network.open();
    add_file(&network);
    index.insert(b"b", ip(3), WORDS);
    drop(index);
    assert_eq!(network.find("b"), None);
    // After the directory got its times.
    let network = Network::new();
    let (directory, mut index) = network.open();
    add_file(&network);
    index.insert(b"b", ip(3), WORDS);
    seal_directory(&directory, index.boot).unwrap();
    drop(index);
    assert_eq!(network.find("b"), None);
    // In a scan.
    let network = Network::new();
    add_file(&network);
    let (directory, mut index) = network.open();
    index.begin_scan(2, &directory);
    index.insert(b"b", ip(3), WORDS);
    drop(index);
    assert_eq!(network.find("a"), None);
    assert_eq!(network.open().1.words(b"a", ip(2)), Some(WORDS), "records stay until the scan has ended");
}

#[test]
fn it_grows_and_forgets_nothing() {
    let network = Network::new();
    let (directory, mut index) = network.open();
    for number in 0..1000_u32 {
        index.insert(&number.to_le_bytes(), IpAddr::from(number.to_be_bytes()), [u64::from(number); 4]);
    }
    assert_eq!((index.entries(), index.all().len()), (Some(1001), 1001));
    index.seal(&directory);
    drop(index);
    let (_, mut index) = network.open();
    assert_eq!((index.entries(), index.find(&7_u32.to_le_bytes())), (Some(1001), Some(vec![ip4(7)])));
    assert_eq!(index.words(&999_u32.to_le_bytes(), ip4(999)), Some([999; 4]));
    assert!(!network.data.path().join(".cni-box/net.new").exists());
}

fn ip4(number: u32) -> IpAddr {
    IpAddr::from(number.to_be_bytes())
}

#[test]
fn a_scan_during_which_the_directory_changes_does_not_count() {
    let network = Network::new();
    let (directory, mut index) = network.open();
    index.begin_scan(1, &directory);
    fs::write(network.path().join("10.0.0.3"), "b").unwrap();
    index.end_scan(&directory);
    index.seal(&directory);
    assert_eq!(index.find(b"a"), None);
}

#[test]
fn another_boot_ends_the_trust() {
    let network = Network::new();
    let (directory, mut index) = network.open();
    index.insert(b"b", ip(3), WORDS);
    index.boot ^= 1;
    index.seal(&directory);
    drop(index);
    assert_eq!(network.find("a"), None);
}

#[test]
fn what_cannot_be_used_is_ignored() {
    let data = Directory::new();
    fs::write(data.path().join(".cni-box"), "in the way").unwrap();
    let directory = File::open(data.path()).unwrap();
    let mut index = Index::open(data.path(), "net", &directory, BOOT);
    index.begin_scan(3, &directory);
    index.insert(b"a", ip(2), WORDS);
    index.end_scan(&directory);
    index.remove(b"a", ip(2));
    index.seal(&directory);
    assert_eq!((index.find(b"a"), index.entries(), index.all()), (None, None, Vec::new()));
}

#[test]
fn a_second_process_works_without_it() {
    let network = Network::new();
    let (_directory, mut index) = network.open();
    assert_eq!(network.find("a"), None);
    assert_eq!(index.find(b"a"), Some(vec![ip(2)]));
}
