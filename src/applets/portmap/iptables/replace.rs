//! An ADD whose chain exists: a repeated one, or one for a further interface of the container.

use crate::error::Result;
use crate::firewall::place::{StoredChain, StoredRule};
use crate::firewall::{Edit, Rule, View};

use super::whose::{Split, entry_ports, is_for_packets_of};
use super::{Added, Before, Rules, TOP, known};

impl Rules {
    /// Replaces the attachment's rules in the chain. The rules of the container's other interfaces
    /// stay.
    pub(super) fn replace(
        &self,
        view: &mut dyn View,
        chain: &StoredChain,
        edits: &mut Vec<Edit>,
        added: &mut Added,
    ) -> Result<()> {
        let own: Vec<&Rule> = self.own.iter().collect();
        // An address without a record: the rule is the reference's. For the same port it would take
        // the packets of the new rule.
        let split = Split::new(&chain.rules, |rule, address| match self.whose.others.contains(&address) {
            true => true,
            false => self.whose.keeps(address) && !is_for_packets_of(rule, &own),
        });
        match split.stays.is_empty() {
            true => edits.push(Edit::Flush(self.chain.clone())),
            false => edits.extend(split.goes.iter().map(|stored| Edit::delete(&self.chain, stored.id))),
        }
        let is_there = |rule: &&Rule| split.stays.iter().any(|stored| stored.is(rule));
        added.own = self.own.iter().filter(|rule| !is_there(rule)).cloned().collect();
        let entries = self.replace_entries(view, &split, edits, added)?;
        added.before = Some(Before { own: known(split.goes.into_iter()), entries });
        Ok(())
    }

    /// Replaces the attachment's entry rules unless they are right already. Returns those that go.
    fn replace_entries(
        &self,
        view: &mut dyn View,
        split: &Split<'_>,
        edits: &mut Vec<Edit>,
        added: &mut Added,
    ) -> Result<Vec<Rule>> {
        let mut entries = view.chain(TOP)?.map_or_else(Vec::new, |top| top.rules);
        entries.retain(|stored| stored.rule.jumps_to(&self.chain));
        let is_anothers = |entry: &StoredRule| !split.stays.is_empty() && !self.owns_entry(&entry.rule, split);
        let (others, stale): (Vec<_>, Vec<_>) = entries.iter().partition(|stored| is_anothers(stored));
        let is_there = |rule: &&Rule| others.iter().any(|stored| stored.is(rule));
        let wanted: Vec<&Rule> = self.entries.iter().filter(|rule| !is_there(rule)).collect();
        if stale.len() == wanted.len() && stale.iter().zip(&wanted).all(|(stored, rule)| stored.is(rule)) {
            return Ok(Vec::new());
        }
        edits.extend(stale.iter().map(|stored| Edit::delete(TOP, stored.id)));
        added.entries = wanted.into_iter().cloned().collect();
        Ok(known(stale.into_iter()))
    }

    /// True if an earlier ADD of the attachment made the entry, which then has no port of other
    /// interfaces.
    fn owns_entry(&self, entry: &Rule, split: &Split<'_>) -> bool {
        let ports = entry_ports(entry);
        let is_same =
            |own: &Rule| own.protocol() == entry.protocol() && entry_ports(own).iter().any(|port| ports.contains(port));
        (split.abandons(entry) || self.entries.iter().any(is_same)) && !split.needs(entry)
    }
}
