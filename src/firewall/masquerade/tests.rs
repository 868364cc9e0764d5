use super::iptables::AddedFamily;
use super::plan::POSTROUTING;
use super::*;
use crate::firewall::place::{Edit, Place, Table};
use crate::firewall::rule::{COMPARISONS, Match, Target};
use crate::firewall::testing::FakeTable;

/// Ten times as many addresses cost ten times as many comparisons.
#[test]
fn the_cost_is_in_proportion_to_the_addresses() {
    let costs = |count: u16| {
        let texts: Vec<String> =
            (0..count).map(|number| format!("10.{}.{}.2/24", number >> 8, number & 0xff)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (mut table, start) = (FakeTable::default(), COMPARISONS.get());
        let added = table.add(&texts);
        assert!(rules(&texts).missing(&mut table).unwrap().is_empty());
        let checked = COMPARISONS.get();
        drop(plan::reversal(&mut table, CHAIN, false, &added.rules).unwrap());
        [checked - start, COMPARISONS.get() - checked]
    };
    for (few, many) in costs(100).into_iter().zip(costs(1000)) {
        assert!(many <= 20 * few.max(10), "{few} comparisons, then {many}");
    }
}

/// Masquerading of one container, in a table.
trait Container {
    fn add(&mut self, addresses: &[&str]) -> AddedFamily;
    fn undo(&mut self, added: &AddedFamily);
    fn del(&mut self, addresses: Option<&[&str]>);
    fn is_empty(&self) -> bool;
}

impl Container for FakeTable {
    /// What an ADD for these addresses adds.
    fn add(&mut self, addresses: &[&str]) -> AddedFamily {
        let edits = rules(addresses).missing(self).unwrap();
        self.apply(&edits);
        let place = Place::Iptables { flavour: Flavour::Nft, family: Family::V4, table: Table::Nat };
        AddedFamily::from_edits(place, CHAIN.to_string(), edits)
    }

    fn undo(&mut self, added: &AddedFamily) {
        let edits = plan::reversal(self, CHAIN, added.created, &added.rules).unwrap();
        self.apply(&edits);
    }

    fn del(&mut self, addresses: Option<&[&str]>) {
        let addresses: Option<Vec<IpAddr>> =
            addresses.map(|addresses| addresses.iter().map(|address| address.parse().unwrap()).collect());
        let edits = plan::removal(self, CHAIN, addresses.as_deref()).unwrap();
        self.apply(&edits);
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.chains.is_empty()
    }
}

const CHAIN: &str = "CNI-x";

fn rules(addresses: &[&str]) -> plan::Rules {
    let addresses: Vec<IpNet> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    plan::Rules::new(Family::V4, CHAIN, "comment", &addresses)
}

#[test]
fn a_second_add_adds_nothing_and_its_undo_takes_nothing() {
    let mut table = FakeTable::default();
    let first = table.add(&["10.0.0.2/24"]);
    assert_eq!(first.rules.len(), 3);
    let second = table.add(&["10.0.0.2/24"]);
    assert!(second.rules.is_empty() && !second.created);
    table.undo(&second);
    assert_eq!(table.rules.len(), 3);
    table.undo(&first);
    assert!(table.is_empty());
}

#[test]
fn subnets_are_accepted_before_the_rest_is_masqueraded() {
    let mut table = FakeTable::default();
    let _ = table.add(&["10.0.0.2/24", "10.0.0.3/24"]);
    assert_eq!(table.rules.len(), 4, "one subnet, two addresses");
    let _ = table.add(&["10.7.0.2/16"]);
    let in_chain: Vec<String> = table.text().into_iter().filter(|line| line.starts_with(CHAIN)).collect();
    assert_eq!(in_chain, ["CNI-x Accept", "CNI-x Accept", "CNI-x Masquerade"]);
}

#[test]
fn an_undo_leaves_what_a_later_attachment_uses() {
    let mut table = FakeTable::default();
    let first = table.add(&["10.0.0.2/24"]);
    let _ = table.add(&["10.0.0.3/24"]);
    table.undo(&first);
    assert_eq!(table.text(), ["CNI-x Accept", "CNI-x Masquerade", "POSTROUTING Jump(\"CNI-x\")"]);
}

#[test]
fn del_takes_the_chain_with_the_last_jump() {
    let mut table = FakeTable::default();
    let _ = table.add(&["10.0.0.2/24", "10.0.0.3/24"]);
    table.del(Some(&["10.0.0.2"]));
    assert_eq!(table.rules.len(), 3);
    table.del(Some(&["10.0.0.3"]));
    assert!(table.is_empty());
    table.del(Some(&["10.0.0.3"]));
    let _ = table.add(&["10.0.0.2/24", "10.0.0.3/24"]);
    table.del(None);
    assert!(table.is_empty());
}

#[test]
fn del_finds_jumps_by_subnet_as_old_plugins_wrote_them() {
    let mut table = FakeTable::default();
    let _ = table.add(&["10.0.0.2/24"]);
    let subnet = Match::source("10.0.0.0/24".parse().unwrap());
    let old = Rule::new(vec![subnet], Target::Jump(CHAIN.to_string()));
    table.apply(&[Edit::prepend(POSTROUTING, old)]);
    table.del(Some(&["10.0.0.2"]));
    assert!(table.is_empty());
}

#[test]
fn names_are_those_of_the_reference() {
    assert_eq!(chain_name("mynet", "cid1"), "CNI-a631aa8e1549a3b129110fd2");
    assert_eq!(comment("mynet", "cid1"), "name: \"mynet\" id: \"cid1\"");
}

#[test]
fn garbage_is_what_no_valid_container_of_the_network_has() {
    let mut table = FakeTable::default();
    let names = [("net", "a"), ("net", "b"), ("net2", "a")];
    for (network, container) in names {
        let (chain, text) = (chain_name(network, container), comment(network, container));
        let rules = plan::Rules::new(Family::V4, &chain, &text, &["10.0.0.2/24".parse().unwrap()]);
        table.apply(&rules.all());
    }
    let foreign = Rule::new(vec![], Target::Jump(chain_name("net", "b"))).commented("by hand");
    table.apply(&[Edit::append(POSTROUTING, foreign)]);
    let edits = plan::garbage(&mut table, "net", &[chain_name("net", "a")]).unwrap();
    table.apply(&edits);
    assert_eq!(table.chains.len(), 3, "somebody else leads to the chain");
    assert_eq!(table.rules.iter().filter(|(chain, _)| chain == POSTROUTING).count(), 3);
    let edits = plan::garbage(&mut table, "net", &[]).unwrap();
    table.apply(&edits);
    assert_eq!(table.chains, [chain_name("net", "b"), chain_name("net2", "a")]);
}

#[test]
fn only_a_lack_in_the_kernel_leads_to_the_other_backend() {
    let mut session = Session::default();
    let mut used = |errno: Errno, wanted, forced| {
        let mut used = Vec::new();
        let preference = Preference { forced, path: "" };
        let done = with_backend(&mut session, wanted, &preference, |_, backend| {
            used.push(backend);
            if backend == Backend::Iptables { Err(Error::from(errno)) } else { Ok(()) }
        });
        assert_eq!(done.is_ok(), used.len() == 2);
        used.len()
    };
    assert_eq!(used(Errno::ENOENT, None, None), 2);
    assert_eq!(used(Errno::EPERM, None, None), 1);
    assert_eq!(used(Errno::ENOENT, Some(Backend::Iptables), None), 1);
    assert_eq!(used(Errno::ENOENT, None, Some(Flavour::Legacy)), 1);
}
