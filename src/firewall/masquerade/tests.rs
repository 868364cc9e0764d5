use super::*;
use crate::firewall::{POSTROUTING, StoredChain, StoredRule};

/// A table in memory that applies edits, as the kernel would.
#[derive(Default)]
struct FakeTable {
    rules: Vec<(String, StoredRule)>,
    chains: Vec<String>,
    next_id: u64,
}

impl View for FakeTable {
    fn chain(&mut self, name: &str) -> Result<Option<StoredChain>> {
        if name != POSTROUTING && !self.chains.iter().any(|chain| chain == name) {
            return Ok(None);
        }
        let rules = self.rules.iter().filter(|(chain, _)| chain == name).map(|(_, rule)| rule.clone()).collect();
        let references = self.rules.iter().filter(|(_, stored)| stored.rule.jumps_to(name)).count();
        Ok(Some(StoredChain { rules, references }))
    }
}

impl FakeTable {
    fn apply(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::CreateChain(name) => self.chains.push(name.clone()),
                Edit::Append { chain, rule } => self.insert(self.rules.len(), chain, rule),
                Edit::Prepend { chain, rule } => self.insert(0, chain, rule),
                Edit::Delete { id, .. } => self.rules.retain(|(_, stored)| stored.id != *id),
                Edit::DeleteChain(name) => {
                    self.rules.retain(|(chain, _)| chain != name);
                    self.chains.retain(|chain| chain != name);
                    assert!(!self.rules.iter().any(|(_, stored)| stored.rule.jumps_to(name)), "chain is in use");
                }
            }
        }
    }

    fn insert(&mut self, place: usize, chain: &str, rule: &Rule) {
        self.next_id += 1;
        let stored = StoredRule { id: self.next_id, rule: rule.clone(), foreign: false };
        self.rules.insert(place, (chain.to_string(), stored));
    }

    /// What an ADD for these addresses adds.
    fn add(&mut self, addresses: &[&str]) -> AddedFamily {
        let edits = rules(addresses).missing(self).unwrap();
        self.apply(&edits);
        AddedFamily::from_edits(Flavour::Nft, Family::V4, CHAIN.to_string(), edits)
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

    /// Every rule as `CHAIN target`, in order.
    fn text(&self) -> Vec<String> {
        self.rules.iter().map(|(chain, stored)| format!("{chain} {:?}", stored.rule.target.as_ref().unwrap())).collect()
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
    let old = Rule {
        matches: vec![crate::firewall::Match::source("10.0.0.0/24".parse().unwrap())],
        comment: None,
        target: Some(crate::firewall::Target::Jump(CHAIN.to_string())),
    };
    table.insert(0, POSTROUTING, &old);
    table.del(Some(&["10.0.0.2"]));
    assert!(table.is_empty());
}

#[test]
fn names_are_those_of_the_reference() {
    assert_eq!(chain_name("mynet", "cid1"), "CNI-a631aa8e1549a3b129110fd2");
    assert_eq!(comment("mynet", "cid1"), "name: \"mynet\" id: \"cid1\"");
}
