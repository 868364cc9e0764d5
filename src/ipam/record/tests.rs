use super::*;
use crate::ipam::testing::World;

const FILE: FileId = FileId([1, 2, 3]);
const HOME: Sandbox = Sandbox { netns: 11, cookie: 111 };
const CONTENT: &[u8] = b"c1\r\neth0";

fn ip() -> IpAddr {
    IpAddr::from([10, 0, 0, 2])
}

fn world() -> World {
    World { boot: 5, view: 9, namespaces: [(11, 111)].into(), ..World::default() }
}

fn record(world: &World, sandbox: Sandbox) -> Record {
    Record::new(&world.host(), sandbox, CONTENT, ip(), FILE)
}

fn suspect() -> Suspect<'static> {
    Suspect::new("net", CONTENT, ip())
}

/// Whether others, and the attachment itself, would see that it is over.
fn over(world: &World, record: &Record) -> (bool, bool) {
    let mut judge = Judge::new(world.host(), true);
    let elsewhere = Asking::Itself(Sandbox { netns: 12, cookie: 112 });
    (judge.is_over(record, Asking::Other, suspect()), judge.is_over(record, elsewhere, suspect()))
}

#[test]
fn a_record_is_about_one_file_with_one_content_for_one_address() {
    let record = record(&world(), HOME);
    let read = |words, content, address, file| Record::read(words, content, address, file);
    assert_eq!(read(record.words(), CONTENT, ip(), FILE), Some(record));
    assert_eq!(read(record.words(), b"c2\r\neth0", ip(), FILE), None);
    assert_eq!(read(record.words(), CONTENT, IpAddr::from([10, 0, 0, 3]), FILE), None);
    for number in 0..3 {
        let mut file = FILE;
        file.0[number] += 1;
        assert_eq!(read(record.words(), CONTENT, ip(), file), None, "another file");
    }
    for (word, bit) in (0..4).flat_map(|word| (0..64).map(move |bit| (word, bit))) {
        let mut words = record.words();
        words[word] ^= 1 << bit;
        assert_eq!(read(words, CONTENT, ip(), FILE), None, "a damaged record");
    }
    assert_eq!(read([0; 4], CONTENT, ip(), FILE), None);
}

#[test]
fn it_lives_as_long_as_its_namespace() {
    let mut world = world();
    let record = record(&world, HOME);
    assert_eq!(over(&world, &record), (false, false));
    world.namespaces.clear();
    assert_eq!(over(&world, &record), (true, true));
    world.namespaces.insert(11, 222);
    assert_eq!(over(&world, &record), (true, true), "the inode is used again");
}

#[test]
fn it_lives_as_long_as_its_interface() {
    let mut world = world();
    let record = record(&world, HOME);
    world.namespaces.clear();
    for sign in [Sign::Interface, Sign::HostEnd("veth1".to_string())] {
        world.moved_on = [(ip(), sign)].into();
        assert_eq!(over(&world, &record), (false, false));
        assert_eq!(Judge::new(world.host(), true).life(&record, suspect()), Life::Unknown);
    }
    world.moved_on = [(ip(), Sign::Hidden)].into();
    assert_eq!(over(&world, &record), (false, true), "not all namespaces could be searched");
    world.moved_on.clear();
    assert_eq!(over(&world, &record), (true, true));
    world.moved_on = [(IpAddr::from([10, 0, 0, 3]), Sign::Interface)].into();
    assert_eq!(over(&world, &record), (true, true), "another attachment's");
}

#[test]
fn another_boot_ends_it_where_the_directory_is_this_hosts_alone() {
    let mut world = world();
    for sandbox in [HOME, Sandbox::default()] {
        world.boot = 5;
        let record = record(&world, sandbox);
        assert_eq!(over(&world, &record), (false, false));
        world.boot = 6;
        assert_eq!(over(&world, &record), (true, true));
        let mut shared = Judge::new(world.host(), false);
        for asking in [Asking::Other, Asking::Itself(HOME)] {
            assert!(!shared.is_over(&record, asking, suspect()));
        }
    }
}

#[test]
fn without_a_boot_id_nothing_is_over() {
    let mut world = world();
    let record = record(&world, HOME);
    world.boot = 0;
    assert_eq!(over(&world, &record), (false, false));
    let nameless = Record::new(&world.host(), HOME, CONTENT, ip(), FILE);
    assert_eq!(Record::read(nameless.words(), CONTENT, ip(), FILE), None);
}

#[test]
fn who_does_not_see_everything_cannot_tell_but_the_attachment_itself_can() {
    let mut world = world();
    let record = record(&world, HOME);
    world.namespaces.clear();
    world.blind = true;
    assert_eq!(over(&world, &record), (false, true));
    (world.blind, world.view) = (false, 10);
    assert_eq!(over(&world, &record), (false, true), "other processes in sight");
    world.view = 0;
    assert_eq!(over(&world, &record), (false, true), "it is not known which");
}

#[test]
fn the_same_namespace_asking_again_is_alive() {
    let mut world = world();
    let record = record(&world, HOME);
    world.namespaces.clear();
    assert!(!Judge::new(world.host(), true).is_over(&record, Asking::Itself(HOME), suspect()));
}

#[test]
fn a_file_that_was_only_seen_is_not_over_in_the_same_boot() {
    let world = world();
    assert_eq!(over(&world, &record(&world, Sandbox::default())), (false, false));
}
