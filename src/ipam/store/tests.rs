use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::ipam::testing::Directory;

fn open(data: &Directory) -> Store {
    Store::open(data.path(), "net").unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn put(data: &Directory, name: &str, content: &str) {
    fs::create_dir_all(data.path().join("net")).unwrap();
    fs::write(data.path().join("net").join(name), content).unwrap();
}

fn held(data: &Directory, id: &str) -> Held {
    open(data).held_by(&Attachment::new(id, "eth0")).unwrap()
}

#[test]
fn files_have_the_references_bytes_and_modes() {
    let data = Directory::new();
    let attachment = Attachment::new("c1", "eth0");
    {
        let mut store = open(&data);
        assert!(store.reserve(ip("10.0.0.2"), &attachment).unwrap());
        assert!(store.reserve(ip("2001:db8:1::2"), &attachment).unwrap());
        assert!(!store.reserve(ip("10.0.0.2"), &attachment).unwrap());
        store.set_last_reserved(0, ip("10.0.0.100"));
        store.set_last_reserved(0, ip("10.0.0.2"));
    }
    let text = |a: &str, b: &str| (a.to_string(), b.to_string());
    let content = "c1\r\neth0";
    let files = [text("10.0.0.2", content), text("2001:db8:1::2", content), text("last_reserved_ip.0", "10.0.0.2")];
    assert_eq!(data.files("net"), files);
    let mode = |name: &str| fs::metadata(data.path().join("net").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("10.0.0.2"), mode("last_reserved_ip.0"), mode("lock")), (0o600, 0o600, 0o750));
    assert_eq!(mode("") & 0o700, 0o700);
}

#[test]
fn legacy_reservations_are_released_only_when_there_are_no_others() {
    let data = Directory::new();
    put(&data, "10.0.0.2", "c1\r\neth0\n");
    put(&data, "10.0.0.3", " c1\n");
    put(&data, "10.0.0.4", "c1\r\neth1");
    assert_eq!(held(&data, "c1"), Held { exact: vec![ip("10.0.0.2")], legacy: vec![ip("10.0.0.3")] });
    let attachment = Attachment::new("c1", "eth0");
    let names = |data: &Directory| data.files("net").into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ");
    open(&data).release_all(&attachment).unwrap();
    assert_eq!(names(&data), "10.0.0.3 10.0.0.4");
    open(&data).release_all(&attachment).unwrap();
    assert_eq!(names(&data), "10.0.0.4");
    open(&data).release_all(&attachment).unwrap();
    assert_eq!(names(&data), "10.0.0.4");
}

#[test]
fn empty_files_are_free_and_foreign_ones_are_not() {
    let data = Directory::new();
    put(&data, "10.0.0.2", "");
    put(&data, "10.0.0.3", "c1\r");
    put(&data, "last_reserved_ip.0", "c1");
    put(&data, "lock", "");
    put(&data, "notes", "c1");
    fs::create_dir(data.path().join("net/10.0.0.5")).unwrap();
    put(&data, "10.0.0.5/10.0.0.6", "c1");
    symlink("notes", data.path().join("net/10.0.0.7")).unwrap();
    assert_eq!(held(&data, "c1"), Held { exact: vec![], legacy: vec![ip("10.0.0.3")] }, "a torn legacy file, trimmed");
    let mut store = open(&data);
    let attachment = Attachment::new("c2", "eth0");
    for (address, free) in [("10.0.0.2", true), ("10.0.0.3", false), ("10.0.0.5", false), ("10.0.0.7", false)] {
        assert_eq!(store.reserve(ip(address), &attachment).unwrap(), free, "{address}");
    }
    assert_eq!(store.held_by(&attachment).unwrap().exact, [ip("10.0.0.2")]);
    assert_eq!(store.taken().unwrap().as_slice(), [ip("10.0.0.2"), ip("10.0.0.3")]);
}

#[test]
fn changes_of_others_are_seen() {
    let data = Directory::new();
    let attachment = Attachment::new("c1", "eth0");
    assert!(open(&data).reserve(ip("10.0.0.2"), &attachment).unwrap());
    assert_eq!(held(&data, "c1").exact, [ip("10.0.0.2")]);
    put(&data, "10.0.0.9", "c1\r\neth0");
    assert_eq!(held(&data, "c1").exact, [ip("10.0.0.2"), ip("10.0.0.9")]);
    fs::remove_file(data.path().join("net/10.0.0.2")).unwrap();
    assert_eq!(held(&data, "c1").exact, [ip("10.0.0.9")]);
    // The index cannot know of a file written over in place, but it is never believed unread.
    put(&data, "10.0.0.9", "c2\r\neth0");
    assert_eq!(held(&data, "c1"), Held::default());
    assert_eq!(held(&data, "c2").exact, [ip("10.0.0.9")]);
    fs::remove_dir_all(data.path().join("net")).unwrap();
    assert_eq!(held(&data, "c2"), Held::default());
}

#[test]
fn the_index_answers_when_nothing_has_changed() {
    let data = Directory::new();
    let attachment = Attachment::new("c1", "eth0");
    open(&data).held_by(&attachment).unwrap();
    assert!(open(&data).reserve(ip("10.0.0.2"), &attachment).unwrap());
    assert_eq!(open(&data).look_up(&attachment).unwrap().exact, [ip("10.0.0.2")]);
    open(&data).release_all(&attachment).unwrap();
    assert_eq!(open(&data).look_up(&attachment), Some(Held::default()));
}

#[test]
fn everything_works_without_the_index() {
    let data = Directory::new();
    fs::write(data.path().join(".cni-box"), "in the way").unwrap();
    let attachment = Attachment::new("c1", "eth0");
    assert!(open(&data).reserve(ip("10.0.0.2"), &attachment).unwrap());
    assert_eq!(held(&data, "c1").exact, [ip("10.0.0.2")]);
    open(&data).release_all(&attachment).unwrap();
    assert_eq!(data.files("net"), []);
}

#[test]
fn a_container_with_very_many_addresses_is_found_and_released_whole() {
    let data = Directory::new();
    for last in 2..202 {
        put(&data, &format!("10.0.0.{last}"), "c1\r\neth0");
    }
    assert_eq!((held(&data, "c2").exact.len(), held(&data, "c1").exact.len()), (0, 200));
    let attachment = Attachment::new("c1", "eth0");
    let mut store = open(&data);
    store.release(ip("10.0.0.2"), &attachment).unwrap();
    assert_eq!(store.held_by(&attachment).unwrap().exact.len(), 199);
    drop(store);
    assert_eq!(held(&data, "c1").exact.len(), 199);
    open(&data).release_all(&attachment).unwrap();
    assert_eq!((held(&data, "c1"), data.files("net").len()), (Held::default(), 0));
}

#[test]
fn only_the_holder_gives_back() {
    let data = Directory::new();
    let (one, other) = (Attachment::new("c1", "eth0"), Attachment::new("c2", "eth0"));
    let mut store = open(&data);
    assert!(store.reserve(ip("10.0.0.2"), &one).unwrap());
    store.release(ip("10.0.0.2"), &other).unwrap();
    assert_eq!(store.held_by(&one).unwrap().exact, [ip("10.0.0.2")]);
    store.release(ip("10.0.0.2"), &one).unwrap();
    store.release(ip("10.0.0.2"), &one).unwrap();
    assert_eq!(store.held_by(&one).unwrap(), Held::default());
}

#[test]
fn the_pointer_must_be_exactly_an_address() {
    let data = Directory::new();
    for (text, expected) in [("10.0.0.7", Some(ip("10.0.0.7"))), ("10.0.0.7\n", None), ("", None), ("x", None)] {
        put(&data, "last_reserved_ip.3", text);
        assert_eq!(open(&data).last_reserved(3), expected, "{text:?}");
    }
    assert_eq!(open(&data).last_reserved(4), None);
}

#[test]
fn file_names_are_canonical_addresses() {
    for (name, known) in [("10.0.0.1", true), ("::102:304", true), ("2001:DB8::1", false), ("::ffff:1.2.3.4", false)] {
        assert_eq!(address_of(OsStr::new(name)).is_some(), known, "{name}");
    }
}
