//! What an ADD has added, and how that is taken back.

use std::net::IpAddr;

use super::plan::{Plan, address_rules};
use super::{CNI_FORWARD, STAGE_1, STAGE_2, Store};
use crate::error::{Context, Failures, Result};
use crate::firewall::index::RuleIndex;
use crate::firewall::place::StoredChain;
use crate::firewall::{Edit, Family, Rule, Session, View};

/// What one [`Filter::add`](super::Filter::add) has added, no more.
#[derive(Debug, Clone)]
#[must_use = "an ADD that fails later has to undo this"]
pub struct Added {
    store: Store,
    families: Vec<(Family, Plan)>,
}

impl Added {
    pub(super) fn new(store: Store) -> Self {
        Added { store, families: Vec::new() }
    }

    pub(super) fn push(&mut self, family: Family, plan: Plan) {
        self.families.push((family, plan));
    }

    /// Lets the rules of these addresses stay: other attachments rely on them by now.
    pub fn without(mut self, addresses: &[IpAddr]) -> Self {
        let rules: Vec<Rule> = addresses.iter().copied().flat_map(address_rules).collect();
        let index = RuleIndex::new(&rules);
        self.families.iter_mut().for_each(|(_, plan)| plan.added.retain(|(_, rule)| !index.holds(rule)));
        self
    }

    /// Takes away what was added. Chains and jumps stay when others use them by now; so does the bridge's policy when
    /// `bridge_is_shared`.
    pub fn undo(self, session: &mut Session, bridge_is_shared: bool) -> Result<()> {
        let mut failures = Failures::default();
        for (family, plan) in self.families.iter().rev().filter(|(_, plan)| !plan.edits.is_empty()) {
            let undone = session.edit(self.store.place(*family), |view| {
                let reversal = Reversal { plan, forward: self.store.forward(), bridge_is_shared };
                Ok((reversal.edits(view)?, ()))
            });
            failures.note(undone);
        }
        failures.finish().context("failed to undo firewall rules")
    }
}

/// Takes one family's changes back.
#[derive(Debug)]
pub(super) struct Reversal<'a> {
    pub(super) plan: &'a Plan,
    pub(super) forward: &'a str,
    pub(super) bridge_is_shared: bool,
}

impl Reversal<'_> {
    pub(super) fn edits(&self, view: &mut dyn View) -> Result<Vec<Edit>> {
        let mut edits = self.accepting(view)?;
        if !self.bridge_is_shared {
            edits.extend(self.isolation(view)?);
        }
        Ok(edits)
    }

    fn accepting(&self, view: &mut dyn View) -> Result<Vec<Edit>> {
        let Some(private) = view.chain(CNI_FORWARD)? else { return Ok(Vec::new()) };
        if !self.is_ours_alone(CNI_FORWARD, &private) {
            return Ok(self.deletions(CNI_FORWARD, &private, is_specific));
        }
        let mut edits = self.jumps(view, CNI_FORWARD)?;
        edits.push(Edit::DeleteChain(CNI_FORWARD.to_string()));
        for admin in self.plan.created.iter().filter(|name| ![CNI_FORWARD, STAGE_1, STAGE_2].contains(&name.as_str())) {
            // Only the jump in CNI-FORWARD leads there.
            let is_unused = |chain: StoredChain| chain.rules.is_empty() && chain.references <= 1;
            if view.chain(admin)?.is_some_and(is_unused) {
                edits.push(Edit::DeleteChain(admin.clone()));
            }
        }
        Ok(edits)
    }

    fn isolation(&self, view: &mut dyn View) -> Result<Vec<Edit>> {
        let (Some(first), Some(second)) = (view.chain(STAGE_1)?, view.chain(STAGE_2)?) else { return Ok(Vec::new()) };
        if self.is_ours_alone(STAGE_1, &first) && self.is_ours_alone(STAGE_2, &second) {
            let mut edits = self.jumps(view, STAGE_1)?;
            edits.extend([STAGE_1, STAGE_2].map(|chain| Edit::DeleteChain(chain.to_string())));
            return Ok(edits);
        }
        let mut edits = self.deletions(STAGE_1, &first, is_specific);
        edits.extend(self.deletions(STAGE_2, &second, is_specific));
        let former = self.plan.replaced.iter().rev().filter(|(_, rule)| !first.holds(rule));
        edits.extend(former.map(|(chain, rule)| Edit::prepend(chain, rule.clone())));
        Ok(edits)
    }

    /// Deletes the jumps to a chain that we added.
    fn jumps(&self, view: &mut dyn View, chain: &str) -> Result<Vec<Edit>> {
        let forward = view.chain(self.forward)?;
        Ok(forward.map_or(Vec::new(), |stored| self.deletions(self.forward, &stored, |rule| rule.jumps_to(chain))))
    }

    /// We made the chain and every rule in it, and nobody but us leads there.
    fn is_ours_alone(&self, chain: &str, stored: &StoredChain) -> bool {
        let jumps = self.plan.added.iter().filter(|(_, rule)| rule.jumps_to(chain)).count();
        self.plan.created.iter().any(|created| created == chain)
            && stored.references <= jumps
            && self.added_to(chain, |added| stored.rules.iter().all(|found| added.holds_stored(found)))
    }

    /// Deletes the added rules of a chain that are chosen.
    fn deletions(&self, chain: &str, stored: &StoredChain, chosen: impl Fn(&Rule) -> bool) -> Vec<Edit> {
        self.added_to(chain, |added| stored.deletions(chain, |found| added.holds_stored(found) && chosen(&found.rule)))
    }

    /// Asks about the rules that were added to a chain.
    fn added_to<T>(&self, chain: &str, ask: impl FnOnce(&RuleIndex<'_>) -> T) -> T {
        let added = self.plan.added.iter().filter(|(place, _)| place == chain);
        ask(&RuleIndex::new(added.map(|(_, rule)| rule)))
    }
}

/// The rule is about an address or a bridge; the others hold the chains together.
fn is_specific(rule: &Rule) -> bool {
    !rule.matches.is_empty()
}
