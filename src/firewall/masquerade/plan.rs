//! Which changes masquerading needs, given what a table holds. Nothing here talks to the kernel.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{CHAIN_NAME_LENGTH, multicast};
use crate::error::Result;
use crate::firewall::index::RuleIndex;
use crate::firewall::names;
use crate::firewall::place::{Edit, StoredChain, StoredRule, View};
use crate::firewall::rule::{Family, Match, Rule, Target};
use crate::sorted::{SortedSet, unique};

/// The chain that forwarded and outgoing packets pass last.
pub(super) const POSTROUTING: &str = "POSTROUTING";

/// The rules of one container in one family.
#[derive(Debug)]
pub(super) struct Rules {
    /// The container's chain.
    pub(super) chain: String,
    /// In the container's chain: what stays in a subnet passes unchanged.
    accepts: Vec<Rule>,
    /// In the container's chain, last: everything else but multicast is masqueraded.
    masquerade: Rule,
    /// In POSTROUTING: an address's packets go to the container's chain.
    jumps: Vec<Rule>,
}

impl Rules {
    /// The rules for these addresses, all of `family`.
    pub(super) fn new(family: Family, chain: &str, comment: &str, addresses: &[IpNet]) -> Self {
        let rule = |condition, target| Rule::new(vec![condition], target).commented(comment);
        let mut rules = Rules {
            chain: chain.to_string(),
            accepts: Vec::new(),
            masquerade: rule(Match::not_destination(multicast(family)), Target::Masquerade),
            jumps: Vec::new(),
        };
        let networks = unique(addresses.iter().map(IpNet::trunc).collect());
        rules.accepts.extend(networks.into_iter().map(|network| rule(Match::destination(network), Target::Accept)));
        let jump = |address| rule(Match::source(IpNet::from(address)), Target::Jump(chain.to_string()));
        rules.jumps.extend(unique(addresses.iter().map(IpNet::addr).collect()).into_iter().map(jump));
        rules
    }

    /// Everything, for a container without a chain.
    pub(super) fn all(&self) -> Vec<Edit> {
        self.missing_from(None, None)
    }

    /// What the table lacks.
    pub(super) fn missing(&self, view: &mut dyn View) -> Result<Vec<Edit>> {
        let chain = view.chain(&self.chain)?;
        // Nothing can jump to a chain that is not there.
        let postrouting = if chain.is_some() { view.chain(POSTROUTING)? } else { None };
        Ok(self.missing_from(chain.as_ref(), postrouting.as_ref()))
    }

    fn missing_from(&self, chain: Option<&StoredChain>, postrouting: Option<&StoredChain>) -> Vec<Edit> {
        let own = RuleIndex::of_stored(chain.iter().flat_map(|chain| &chain.rules));
        let above = RuleIndex::of_stored(postrouting.iter().flat_map(|chain| &chain.rules));
        let append = |chain: &str, rule: &Rule| Edit::Append { chain: chain.to_string(), rule: rule.clone() };
        let mut edits = Vec::with_capacity(2 + self.accepts.len() + self.jumps.len());
        if chain.is_none() {
            edits.push(Edit::CreateChain(self.chain.clone()));
        }
        for rule in self.accepts.iter().filter(|rule| !own.holds(rule)) {
            edits.push(match chain {
                None => append(&self.chain, rule),
                // Behind the masquerade rule of an earlier attachment it would never be reached.
                Some(_) => Edit::Prepend { chain: self.chain.clone(), rule: rule.clone() },
            });
        }
        if !own.holds(&self.masquerade) {
            edits.push(append(&self.chain, &self.masquerade));
        }
        let jumps = self.jumps.iter().filter(|rule| !above.holds(rule));
        edits.extend(jumps.map(|rule| append(POSTROUTING, rule)));
        edits
    }

    /// What the table lacks, in words.
    pub(super) fn lack(&self, view: &mut dyn View) -> Result<Option<String>> {
        let missing = self.missing(view)?.into_iter().find_map(|edit| match edit {
            Edit::CreateChain(name) => Some(format!("there is no chain {name:?}")),
            Edit::Append { chain, rule } | Edit::Prepend { chain, rule } => {
                Some(match (rule.target, rule.matches.first()) {
                    (Some(Target::Jump(_)), Some(Match::Address { network, .. })) => {
                        format!("chain {chain:?} does not lead {network} to chain {:?}", self.chain)
                    }
                    (Some(Target::Accept), Some(Match::Address { network, .. })) => {
                        format!("chain {chain:?} does not accept what stays in {network}")
                    }
                    _ => format!("chain {chain:?} does not masquerade"),
                })
            }
            _ => None,
        });
        Ok(missing)
    }
}

/// Deletes the jumps to `chain` for these addresses, or all of them, and the chain when nothing else leads to it.
pub(super) fn removal(view: &mut dyn View, chain: &str, addresses: Option<&[IpAddr]>) -> Result<Vec<Edit>> {
    let Some(stored) = view.chain(chain)? else { return Ok(Vec::new()) };
    let addresses = addresses.map(|addresses| SortedSet::new(addresses.to_vec()));
    let mut edits = deletions(view, POSTROUTING, |found| {
        found.rule.jumps_to(chain) && addresses.as_ref().is_none_or(|addresses| is_for(&found.rule, addresses))
    })?;
    if stored.references <= edits.len() {
        edits.push(Edit::DeleteChain(chain.to_string()));
    }
    Ok(edits)
}

/// Deletes the chains of a network's containers, but those named in `valid`, and the jumps there. The comment of a jump says
/// which network the chain belongs to; its name, whose it is.
pub(super) fn garbage(view: &mut dyn View, network: &str, valid: &[String]) -> Result<Vec<Edit>> {
    let start = names::comment_start(network);
    let rules = view.chain(POSTROUTING)?.map_or_else(Vec::new, |stored| stored.rules);
    let mut edits = Vec::new();
    let mut chains: Vec<(&str, usize)> = Vec::new();
    for found in &rules {
        let Some(chain) =
            container_chain(&found.rule, &start).filter(|chain| !valid.iter().any(|valid| valid == chain))
        else {
            continue;
        };
        edits.push(Edit::delete(POSTROUTING, found.id));
        match chains.iter_mut().find(|(known, _)| *known == chain) {
            Some((_, jumps)) => *jumps += 1,
            None => chains.push((chain, 1)),
        }
    }
    for (chain, jumps) in chains {
        if view.chain(chain)?.is_some_and(|stored| stored.references <= jumps) {
            edits.push(Edit::DeleteChain(chain.to_string()));
        }
    }
    Ok(edits)
}

/// The chain to which a jump with such a comment leads, if it has the form of a container's.
fn container_chain<'r>(rule: &'r Rule, comment_start: &str) -> Option<&'r str> {
    let Some(Target::Jump(chain)) = &rule.target else { return None };
    let digits = chain.strip_prefix("CNI-")?;
    let is_hash = chain.len() == CHAIN_NAME_LENGTH && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    (is_hash && rule.comment.as_ref()?.starts_with(comment_start)).then_some(chain)
}

/// Deletes rules that an ADD added. A chain that it created goes with all that is in it, unless a later attachment uses
/// it: that one relies on what it found there.
pub(super) fn reversal(view: &mut dyn View, chain: &str, created: bool, added: &[(String, Rule)]) -> Result<Vec<Edit>> {
    let Some(stored) = view.chain(chain)? else { return Ok(Vec::new()) };
    let index = RuleIndex::new(added.iter().map(|(_, rule)| rule));
    // No rule is for both chains.
    let was_added = |found: &StoredRule| index.holds_stored(found);
    let mut edits = deletions(view, POSTROUTING, was_added)?;
    let in_use = stored.references > edits.len();
    match (created, in_use) {
        (true, false) => edits.push(Edit::DeleteChain(chain.to_string())),
        (true, true) => {}
        (false, _) => edits.extend(deletions(view, chain, was_added)?),
    }
    Ok(edits)
}

fn deletions(view: &mut dyn View, chain: &str, chosen: impl Fn(&StoredRule) -> bool) -> Result<Vec<Edit>> {
    let rules = view.chain(chain)?.map_or_else(Vec::new, |stored| stored.rules);
    let chosen = rules.iter().filter(|found| chosen(found));
    Ok(chosen.map(|found| Edit::Delete { chain: chain.to_string(), id: found.id }).collect())
}

/// The rule is for one of the addresses: it names the address, or, as plugins before 0.8 wrote it, its whole subnet.
fn is_for(rule: &Rule, addresses: &SortedSet<IpAddr>) -> bool {
    let Some(source) = rule.source() else { return false };
    let addresses = addresses.as_slice();
    let first = addresses.partition_point(|address| *address < source.network());
    addresses.get(first).is_some_and(|address| *address <= source.broadcast())
}
