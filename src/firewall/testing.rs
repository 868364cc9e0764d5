//! For unit tests of plans: a table in memory that applies edits as the kernel would.

use crate::error::Result;
use crate::firewall::place::{Edit, StoredChain, StoredRule, View};
use crate::firewall::rule::{Rule, Target};

/// Chains that always exist.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// A table in memory.
#[derive(Debug, Default)]
pub(crate) struct FakeTable {
    /// Each rule with its chain; in the order in which packets see those of one chain.
    pub(crate) rules: Vec<(String, StoredRule)>,
    /// User chains.
    pub(crate) chains: Vec<String>,
    next_id: u64,
}

impl FakeTable {
    /// Does what a plan answered, and fails the test where the kernel would refuse it.
    pub(crate) fn apply(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::CreateChain(name) => {
                    assert!(!self.has(name), "chain {name} exists");
                    self.chains.push(name.clone());
                }
                Edit::Append { chain, rule } => self.insert(self.rules.len(), chain, rule),
                Edit::Prepend { chain, rule } => self.insert(0, chain, rule),
                Edit::Delete { id, .. } => self.rules.retain(|(_, stored)| stored.id != *id),
                Edit::Flush(name) => self.rules.retain(|(chain, _)| chain != name),
                Edit::DeleteChain(name) => {
                    self.rules.retain(|(chain, _)| chain != name);
                    self.chains.retain(|chain| chain != name);
                    assert_eq!(self.references(name), 0, "chain {name} is in use");
                }
            }
        }
    }

    /// Every rule as `CHAIN target`, in order.
    pub(crate) fn text(&self) -> Vec<String> {
        self.rules.iter().map(|(chain, stored)| format!("{chain} {:?}", stored.rule.target.as_ref().unwrap())).collect()
    }

    fn insert(&mut self, place: usize, chain: &str, rule: &Rule) {
        assert!(self.has(chain), "chain {chain} is missing");
        if let Some(Target::Jump(target) | Target::Goto(target)) = &rule.target {
            assert!(self.has(target), "chain {target} is missing");
        }
        self.next_id += 1;
        let stored = StoredRule { id: self.next_id, rule: rule.clone(), foreign: false };
        self.rules.insert(place, (chain.to_string(), stored));
    }

    fn has(&self, name: &str) -> bool {
        BUILT_IN.contains(&name) || self.chains.iter().any(|chain| chain == name)
    }

    fn references(&self, name: &str) -> usize {
        let leads = |rule: &Rule| match &rule.target {
            Some(Target::Jump(chain) | Target::Goto(chain)) => chain == name,
            _ => false,
        };
        self.rules.iter().filter(|(_, stored)| leads(&stored.rule)).count()
    }
}

impl View for FakeTable {
    fn chain(&mut self, name: &str) -> Result<Option<StoredChain>> {
        if !self.has(name) {
            return Ok(None);
        }
        let rules = self.rules.iter().filter(|(chain, _)| chain == name).map(|(_, rule)| rule.clone()).collect();
        Ok(Some(StoredChain { rules, references: self.references(name) }))
    }

    fn uses(&mut self, name: &str) -> Result<Option<usize>> {
        Ok(self.chain(name)?.map(|chain| chain.rules.len() + chain.references))
    }
}
