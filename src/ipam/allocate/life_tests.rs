//! Random lives of containers on a host where we and the Go plugin share a network, against a simple model: who is
//! given which address, who is refused, what GC takes; and above all that no address of a living container is given away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::ipam::record::Sandbox;
use crate::ipam::store::Attachment;
use crate::ipam::testing::{Directory, Numbers, World};

/// What is known about a file.
#[derive(Debug, Clone, Copy)]
struct Fact {
    boot: u64,
    /// Inode and cookie, and the view they were written down in; `None`: the file was seen.
    sandbox: Option<(u32, u64, u32)>,
}

#[derive(Debug, Clone)]
struct Reservation {
    id: String,
    /// Each file has another number.
    file: u64,
}

struct Life {
    data: Directory,
    set: RangeSet,
    world: World,
    order: Vec<IpAddr>,
    /// What lies in the directory.
    files: BTreeMap<IpAddr, Reservation>,
    last: Option<IpAddr>,
    facts: BTreeMap<u64, Fact>,
    /// Where each container lives: inode and cookie.
    homes: BTreeMap<String, (u32, u64)>,
    /// The truth: living containers and their addresses, whatever the files say.
    living: BTreeMap<String, IpAddr>,
    /// An old index with the facts in it.
    backup: Option<(Vec<u8>, BTreeMap<u64, Fact>)>,
    next: u64,
}

impl Life {
    fn new(set: RangeSet) -> Life {
        let data = Directory::new();
        fs::create_dir(data.path().join("net")).unwrap();
        let order = set.candidates(None).map(|(_, address)| address).collect();
        Life {
            data,
            set,
            order,
            world: World { boot: 1, view: 1, ..World::default() },
            files: BTreeMap::new(),
            last: None,
            facts: BTreeMap::new(),
            homes: BTreeMap::new(),
            living: BTreeMap::new(),
            backup: None,
            next: 0,
        }
    }

    fn store(&mut self) -> Store {
        // Whoever opens the store sees what has no record yet.
        let seen = Fact { boot: self.world.boot, sandbox: None };
        for reservation in self.files.values() {
            self.facts.entry(reservation.file).or_insert(seen);
        }
        Store::open_on(self.world.host(), self.data.path(), "net").unwrap()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.data.path().join(format!("net/{address}"))
    }

    fn is_living(&self, (inode, cookie): (u32, u64)) -> bool {
        self.world.namespaces.get(&inode) == Some(&cookie)
    }

    fn is_over(&self, reservation: &Reservation, by_itself: bool) -> bool {
        let fact = self.facts[&reservation.file];
        let Some((inode, cookie, view)) = fact.sandbox.filter(|_| fact.boot == self.world.boot) else {
            return fact.boot != self.world.boot;
        };
        if by_itself {
            let found = self.is_living((inode, cookie)) && !self.world.blind;
            return !found && self.homes.get(&reservation.id) != Some(&(inode, cookie));
        }
        let recycled = self.world.namespaces.get(&inode).is_some_and(|theirs| *theirs != cookie);
        recycled || view == self.world.view && !self.world.blind && !self.is_living((inode, cookie))
    }

    fn drop_all_that_is_over(&mut self) {
        let mut files = std::mem::take(&mut self.files);
        files.retain(|_, one| !self.is_over(one, false));
        self.files = files;
    }

    fn next_free(&self) -> Option<IpAddr> {
        let after = self.last.and_then(|last| self.order.iter().position(|ip| *ip == last)).map_or(0, |at| at + 1);
        let mut turn = self.order.iter().cycle().skip(after).take(self.order.len());
        turn.find(|address| !self.files.contains_key(address)).copied()
    }

    fn address_of(&self, id: &str) -> Option<IpAddr> {
        self.files.iter().find(|(_, reservation)| reservation.id == id).map(|(address, _)| *address)
    }

    /// What ADD should answer, which the model then takes for done.
    fn expected(&mut self, id: &str) -> Option<IpAddr> {
        let address = match self.address_of(id) {
            Some(address) if self.is_over(&self.files[&address], true) => address,
            Some(_) => return None,
            None => {
                if self.next_free().is_none() {
                    self.drop_all_that_is_over();
                }
                self.next_free()?
            }
        };
        let (inode, cookie) = self.homes[id];
        let file = self.number();
        self.facts.insert(file, Fact { boot: self.world.boot, sandbox: Some((inode, cookie, self.world.view)) });
        self.files.insert(address, Reservation { id: id.to_string(), file });
        self.last = Some(address);
        Some(address)
    }

    /// A namespace for a container, which reuses inodes as the kernel does.
    fn start(&mut self, id: &str) {
        let inode = (1..).find(|inode| !self.world.namespaces.contains_key(inode)).unwrap();
        let cookie = self.number();
        self.world.namespaces.insert(inode, cookie);
        self.homes.insert(id.to_string(), (inode, cookie));
    }

    /// The container's namespace goes, and nobody calls DEL.
    fn stop(&mut self, id: &str) {
        if let Some(home) = self.homes.remove(id) {
            if self.is_living(home) {
                self.world.namespaces.remove(&home.0);
            }
            self.living.remove(id);
        }
    }

    fn add(&mut self, id: &str) {
        if self.homes.get(id).is_none_or(|home| !self.is_living(*home)) {
            self.start(id);
        }
        let (inode, cookie) = self.homes[id];
        let attachment = Attachment::new(id, "eth0").living_in(Sandbox::new(inode, cookie));
        let mut store = self.store();
        let held = store.held_by(&attachment).unwrap();
        let given = allocate(&mut store, &self.set, 0, None, &attachment, &held);
        drop(store);
        let given = given.ok().map(|config| config.address.addr());
        if let Some(address) = given {
            let holder = self.living.iter().find(|(holder, held)| **held == address && *holder != id);
            assert_eq!(holder, None, "{address} is given to {id} while somebody else has it");
            self.living.insert(id.to_string(), address);
        }
        assert_eq!(given, self.expected(id), "the address of {id}");
    }

    fn del(&mut self, id: &str) {
        self.store().release_all(&Attachment::new(id, "eth0")).unwrap();
        self.files.retain(|_, reservation| reservation.id != id);
        self.living.remove(id);
    }

    /// The Go plugin's ADD: no record, no index.
    fn go_add(&mut self, id: &str) {
        let (None, Some(address)) = (self.address_of(id), self.next_free()) else { return };
        self.start(id);
        fs::write(self.path(address), format!("{id}\r\neth0")).unwrap();
        fs::write(self.data.path().join("net/last_reserved_ip.0"), address.to_string()).unwrap();
        let file = self.number();
        self.files.insert(address, Reservation { id: id.to_string(), file });
        self.last = Some(address);
        self.living.insert(id.to_string(), address);
    }

    fn go_del(&mut self, id: &str) {
        let Some(address) = self.address_of(id) else { return };
        fs::remove_file(self.path(address)).unwrap();
        self.files.remove(&address);
        self.living.remove(id);
    }

    /// A backup is copied back: the same content in another file.
    fn restore(&mut self, id: &str) {
        let Some(address) = self.address_of(id) else { return };
        let aside = self.data.path().join("aside");
        fs::write(&aside, fs::read(self.path(address)).unwrap()).unwrap();
        fs::rename(aside, self.path(address)).unwrap();
        let file = self.number();
        self.files.insert(address, Reservation { id: id.to_string(), file });
    }

    fn gc(&mut self, valid: Option<BTreeSet<String>>) {
        let attachments: Option<Vec<Attachment>> =
            valid.as_ref().map(|ids| ids.iter().map(|id| Attachment::new(id, "eth0")).collect());
        self.store().collect(attachments.as_deref()).unwrap();
        match valid {
            Some(valid) => {
                self.files.retain(|_, one| valid.contains(&one.id));
                self.living.retain(|id, _| valid.contains(id));
            }
            None => self.drop_all_that_is_over(),
        }
    }

    fn reboot(&mut self) {
        self.world.boot += 1;
        self.world.namespaces.clear();
        self.homes.clear();
        self.living.clear();
    }

    fn index(&self) -> PathBuf {
        self.data.path().join(".cni-box/net.index")
    }

    fn step(&mut self, numbers: &mut Numbers) {
        let id = format!("c{}", numbers.below(24));
        match numbers.below(100) {
            0..=39 => self.add(&id),
            40..=49 => self.stop(&id),
            50..=62 => self.del(&id),
            63..=70 => self.go_add(&id),
            71..=75 => self.go_del(&id),
            76..=79 => self.restore(&id),
            80..=82 => self.gc(None),
            83 => {
                let valid = (0..24).map(|number| format!("c{number}")).filter(|_| numbers.below(4) > 0).collect();
                self.gc(Some(valid));
            }
            84..=85 => self.reboot(),
            86..=88 => self.world.view = 1 + self.world.view % 2,
            89..=91 => self.world.blind = !self.world.blind,
            92 => {
                let _ = fs::remove_file(self.index());
                self.facts.clear();
            }
            93 => self.backup = fs::read(self.index()).ok().map(|bytes| (bytes, self.facts.clone())),
            94 => {
                if let Some((bytes, facts)) = self.backup.take() {
                    fs::write(self.index(), bytes).unwrap();
                    self.facts = facts;
                }
            }
            _ => {
                let room = has_room(&mut self.store(), &self.set.clone(), 0).unwrap();
                let over = self.files.values().any(|one| self.is_over(one, false));
                assert_eq!(room, self.next_free().is_some() || over);
            }
        }
    }

    fn assert_same(&self) {
        let files = self.data.files("net").into_iter().filter(|(name, _)| !name.starts_with("last"));
        let expected: BTreeMap<String, String> =
            self.files.iter().map(|(ip, one)| (ip.to_string(), format!("{}\r\neth0", one.id))).collect();
        assert_eq!(files.collect::<BTreeMap<_, _>>(), expected);
        for (id, address) in &self.living {
            assert_eq!(self.files.get(address).map(|one| &one.id), Some(id), "{address} of {id} is lost");
        }
    }
}

#[test]
fn thousands_of_lives_agree_with_a_model() {
    for seed in 0..12 {
        let mut numbers = Numbers(seed);
        let ranges = serde_json::json!([
            {"subnet": "10.0.0.0/28", "rangeStart": "10.0.0.5", "gateway": "10.0.0.9"},
            {"subnet": "10.0.1.0/29"},
        ]);
        let mut life = Life::new(super::tests::set(ranges));
        for step in 0..700 {
            eprintln!("seed {seed}, step {step}");
            life.step(&mut numbers);
            life.assert_same();
        }
    }
}
