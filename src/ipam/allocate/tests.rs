use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::cni::config::Object;
use crate::ipam::ranges::{Draft, complete};
use crate::ipam::testing::{Directory, Numbers};

pub(super) fn set(ranges: Value) -> RangeSet {
    let document = json!({ "ranges": [ranges] });
    let drafts = Draft::decode_sets(&Object::top(document.as_object().unwrap()), "ranges").unwrap();
    complete(&drafts, "1.0.0").unwrap().remove(0)
}

fn add(data: &Directory, set: &RangeSet, wanted: Option<&str>, id: &str) -> std::result::Result<String, String> {
    let attachment = Attachment::new(id, "eth0");
    let mut store = Store::open(data.path(), "net").unwrap();
    let held = store.held_by(&attachment).unwrap();
    let wanted = wanted.map(|ip| ip.parse().unwrap());
    allocate(&mut store, set, 0, wanted, &attachment, &held)
        .map(|ip| ip.address.to_string())
        .map_err(|error| error.msg.clone())
}

fn del(data: &Directory, id: &str) {
    Store::open(data.path(), "net").unwrap().release_all(&Attachment::new(id, "eth0")).unwrap();
}

#[test]
fn a_wanted_address_is_given_or_refused_with_the_references_words() {
    let data = Directory::new();
    let set = set(json!([{"subnet": "10.0.0.0/29"}, {"subnet": "10.0.1.0/28", "rangeEnd": "10.0.1.6"}]));
    let all = "10.0.0.1-10.0.0.6,10.0.1.1-10.0.1.6";
    let ask = |ip| add(&data, &set, Some(ip), "c1");
    assert_eq!(ask("10.0.1.4"), Ok("10.0.1.4/28".into()));
    assert_eq!(ask("10.0.1.4"), Err(format!("requested IP address 10.0.1.4 is not available in range set {all}")));
    assert_eq!(ask("10.0.1.1"), Err("requested ip 10.0.1.1 is subnet's gateway".into()));
    assert_eq!(ask("10.0.1.7"), Err(format!("10.0.1.7 not in range set {all}")));
    assert_eq!(ask("10.0.0.3"), Ok("10.0.0.3/29".into()));
    assert_eq!(add(&data, &set, None, "c2"), Ok("10.0.0.4/29".into()), "the pointer moved");
    let duplicate = "10.0.0.3 has been allocated to c1, duplicate allocation is not allowed";
    assert_eq!(add(&data, &set, None, "c1"), Err(duplicate.into()));
}

#[test]
fn a_full_set_is_refused_and_empty_files_in_it_are_used_last() {
    let data = Directory::new();
    let set = set(json!([{"subnet": "10.0.0.0/26"}]));
    fs::create_dir(data.path().join("net")).unwrap();
    for last in 2..63 {
        fs::write(data.path().join(format!("net/10.0.0.{last}")), if last == 40 { "" } else { "x" }).unwrap();
    }
    assert_eq!(add(&data, &set, None, "c1"), Ok("10.0.0.40/26".into()));
    let full = "no IP addresses available in range set: 10.0.0.1-10.0.0.62";
    assert_eq!(add(&data, &set, None, "c2"), Err(full.into()));
}

#[test]
fn a_long_run_of_taken_addresses_is_passed_in_memory() {
    let data = Directory::new();
    let set = set(json!([{"subnet": "fd00::/16"}]));
    fs::create_dir(data.path().join("net")).unwrap();
    for last in 2..3000 {
        fs::write(data.path().join(format!("net/fd00::{last:x}")), "x").unwrap();
    }
    assert_eq!(add(&data, &set, None, "c1"), Ok("fd00::bb8/16".into()));
}

/// The reference's rules, on a map.
struct Model {
    order: Vec<IpAddr>,
    last: Option<IpAddr>,
    taken: BTreeMap<IpAddr, String>,
}

impl Model {
    fn add(&mut self, id: &str) -> Option<IpAddr> {
        if self.taken.values().any(|holder| holder == id) {
            return None;
        }
        let after = self.last.and_then(|last| self.order.iter().position(|ip| *ip == last)).map_or(0, |at| at + 1);
        let mut turn = self.order.iter().cycle().skip(after).take(self.order.len());
        let found = *turn.find(|ip| !self.taken.contains_key(*ip))?;
        self.taken.insert(found, id.to_string());
        self.last = Some(found);
        Some(found)
    }
}

#[test]
fn round_robin_agrees_with_a_model_and_so_does_the_directory() {
    for seed in 0..4 {
        let data = Directory::new();
        let ranges = json!([
            {"subnet": "10.0.0.0/27", "rangeStart": "10.0.0.5", "gateway": "10.0.0.9"},
            {"subnet": "10.0.1.0/28"},
        ]);
        let set = set(ranges);
        let order: Vec<IpAddr> = set.candidates(None).map(|(_, ip)| ip).collect();
        let mut model = Model { order, last: None, taken: BTreeMap::new() };
        let mut numbers = Numbers(seed);
        for _ in 0..300 {
            let id = format!("c{}", numbers.below(50));
            match numbers.below(9) {
                0..=4 => {
                    let given = add(&data, &set, None, &id).ok();
                    let given = given.map(|text| text.split('/').next().unwrap().parse().unwrap());
                    assert_eq!(given, model.add(&id));
                }
                // Somebody else's hand, past the index.
                5 => {
                    if let Some((ip, _)) = model.taken.pop_last() {
                        fs::remove_file(data.path().join(format!("net/{ip}"))).unwrap();
                    }
                }
                _ => {
                    del(&data, &id);
                    model.taken.retain(|_, holder| *holder != id);
                }
            }
        }
        let expected: BTreeMap<String, String> =
            model.taken.iter().map(|(ip, id)| (ip.to_string(), format!("{id}\r\neth0"))).collect();
        let files: BTreeMap<String, String> =
            data.files("net").into_iter().filter(|(name, _)| !name.starts_with("last")).collect();
        assert_eq!(files, expected);
    }
}
