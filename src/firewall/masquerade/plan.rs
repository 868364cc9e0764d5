//! Which changes masquerading needs, given what a table holds. Nothing here talks to the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::Result;
use crate::firewall::place::{Edit, StoredChain, StoredRule, View};
use crate::firewall::rule::{Family, Match, Rule, Target};

/// The chain that forwarded and outgoing packets pass last.
const POSTROUTING: &str = "POSTROUTING";

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
        for address in addresses {
            let jump = rule(Match::source(IpNet::from(address.addr())), Target::Jump(chain.to_string()));
            push_new(&mut rules.accepts, rule(Match::destination(*address), Target::Accept));
            push_new(&mut rules.jumps, jump);
        }
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
        let lacks = |chain: Option<&StoredChain>, rule: &Rule| chain.is_none_or(|chain| !chain.holds(rule));
        let append = |chain: &str, rule: &Rule| Edit::Append { chain: chain.to_string(), rule: rule.clone() };
        let mut edits = Vec::with_capacity(2 + self.accepts.len() + self.jumps.len());
        if chain.is_none() {
            edits.push(Edit::CreateChain(self.chain.clone()));
        }
        for rule in self.accepts.iter().filter(|rule| lacks(chain, rule)) {
            edits.push(match chain {
                None => append(&self.chain, rule),
                // Behind the masquerade rule of an earlier attachment it would never be reached.
                Some(_) => Edit::Prepend { chain: self.chain.clone(), rule: rule.clone() },
            });
        }
        if lacks(chain, &self.masquerade) {
            edits.push(append(&self.chain, &self.masquerade));
        }
        let jumps = self.jumps.iter().filter(|rule| lacks(postrouting, rule));
        edits.extend(jumps.map(|rule| append(POSTROUTING, rule)));
        edits
    }
}

/// Deletes the jumps to `chain` for these addresses, or all of them, and the chain when nothing else leads to it.
pub(super) fn removal(view: &mut dyn View, chain: &str, addresses: Option<&[IpAddr]>) -> Result<Vec<Edit>> {
    let Some(stored) = view.chain(chain)? else { return Ok(Vec::new()) };
    let mut edits = deletions(view, POSTROUTING, |found| {
        found.rule.jumps_to(chain) && addresses.is_none_or(|addresses| is_for(&found.rule, addresses))
    })?;
    if stored.references <= edits.len() {
        edits.push(Edit::DeleteChain(chain.to_string()));
    }
    Ok(edits)
}

/// Deletes rules that an ADD added. A chain that it created goes with all that is in it, unless a later attachment uses
/// it: that one relies on what it found there.
pub(super) fn reversal(view: &mut dyn View, chain: &str, created: bool, added: &[(String, Rule)]) -> Result<Vec<Edit>> {
    let Some(stored) = view.chain(chain)? else { return Ok(Vec::new()) };
    let was_added =
        |place: &str, found: &StoredRule| added.iter().any(|(chain, rule)| chain == place && found.is(rule));
    let mut edits = deletions(view, POSTROUTING, |found| was_added(POSTROUTING, found))?;
    let in_use = stored.references > edits.len();
    match (created, in_use) {
        (true, false) => edits.push(Edit::DeleteChain(chain.to_string())),
        (true, true) => {}
        (false, _) => edits.extend(deletions(view, chain, |found| was_added(chain, found))?),
    }
    Ok(edits)
}

fn deletions(view: &mut dyn View, chain: &str, chosen: impl Fn(&StoredRule) -> bool) -> Result<Vec<Edit>> {
    let rules = view.chain(chain)?.map_or_else(Vec::new, |stored| stored.rules);
    let chosen = rules.iter().filter(|found| chosen(found));
    Ok(chosen.map(|found| Edit::Delete { chain: chain.to_string(), id: found.id }).collect())
}

/// The rule is for one of the addresses: it names the address, or, as plugins before 0.8 wrote it, its whole subnet.
fn is_for(rule: &Rule, addresses: &[IpAddr]) -> bool {
    rule.source().is_some_and(|source| addresses.iter().any(|address| source.contains(address)))
}

fn push_new(rules: &mut Vec<Rule>, rule: Rule) {
    if !rules.contains(&rule) {
        rules.push(rule);
    }
}

fn multicast(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8).into(),
    }
}
