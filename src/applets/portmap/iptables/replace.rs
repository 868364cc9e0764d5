//! An ADD whose chain exists: a repeated one, or one for a further interface of the container.

use crate::error::Result;
use crate::firewall::index::RuleIndex;
use crate::firewall::place::{StoredChain, StoredRule};
use crate::firewall::{Edit, Rule, View};

use super::whose::{PacketSet, PortSet, Split};
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
        let own = PacketSet::of(&self.own);
        // An address without a record: the rule is the reference's. For the same port it would take
        // the packets of the new rule.
        let split = Split::new(&chain.rules, |rule, address| match self.whose.others.contains(&address) {
            true => true,
            false => self.whose.keeps(address) && !own.contains(rule),
        });
        match split.stays.is_empty() {
            true => edits.push(Edit::Flush(self.chain.clone())),
            false => edits.extend(split.goes.iter().map(|stored| Edit::delete(&self.chain, stored.id))),
        }
        let staying = RuleIndex::of_stored(split.stays.iter().copied());
        added.own = self.own.iter().filter(|rule| !staying.holds(rule)).cloned().collect();
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
        let own = PortSet::of(&self.entries);
        let owns = |entry: &Rule| (split.abandons(entry) || own.has_any_of(entry)) && !split.needs(entry);
        // An entry of an earlier ADD of the attachment has no port of other interfaces.
        let is_anothers = |entry: &StoredRule| !split.stays.is_empty() && !owns(&entry.rule);
        let (others, stale): (Vec<_>, Vec<_>) = entries.iter().partition(|stored| is_anothers(stored));
        let there = RuleIndex::of_stored(others);
        let wanted: Vec<&Rule> = self.entries.iter().filter(|rule| !there.holds(rule)).collect();
        if stale.len() == wanted.len() && stale.iter().zip(&wanted).all(|(stored, rule)| stored.is(rule)) {
            return Ok(Vec::new());
        }
        edits.extend(stale.iter().map(|stored| Edit::delete(TOP, stored.id)));
        added.entries = wanted.into_iter().cloned().collect();
        Ok(known(stale.into_iter()))
    }
}
