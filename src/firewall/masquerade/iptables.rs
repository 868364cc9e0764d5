//! Masquerading in tables of iptables (the reference's `pkg/ip/ipmasq_iptables_linux.go`).
//!
//! A container's chain accepts what stays in its subnets and masquerades the rest but multicast; POSTROUTING jumps there
//! for the container's addresses. The chain belongs to network and container, so several attachments of one container
//! to one network share it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::plan::{self, POSTROUTING};
use super::{Masquerade, chain_name, comment};
use crate::error::{Context, Failures, Result};
use crate::firewall::flavour::{Flavour, Preference, choose};
use crate::firewall::place::{Edit, Place, Table, View};
use crate::firewall::rule::{Family, Rule};
use crate::firewall::session::Session;

/// What one [`add`] has added.
pub(super) type Added = Vec<AddedFamily>;

#[derive(Debug, Clone)]
pub(super) struct AddedFamily {
    place: Place,
    /// The container's chain.
    chain: String,
    /// The chain did not exist.
    pub(super) created: bool,
    /// Rules that did not exist, each with its chain.
    pub(super) rules: Vec<(String, Rule)>,
}

/// Adds the rules for these addresses. One transaction for each family; all or nothing.
pub(super) fn add(
    session: &mut Session,
    masquerade: &Masquerade<'_>,
    addresses: &[IpNet],
    preference: &Preference<'_>,
) -> Result<Added> {
    let flavour = choose(session, preference)?;
    let mut added = Added::default();
    for (family, rules) in rules_of_families(masquerade, addresses) {
        let place = Place::Iptables { flavour, family, table: Table::Nat };
        match add_rules(session, place, &rules) {
            Ok(edits) => added.push(AddedFamily::from_edits(place, rules.chain, edits)),
            Err(error) => {
                let mut failures = Failures::default();
                failures.note::<()>(Err(error));
                failures.note(undo(session, added));
                return failures.finish().map(|()| Added::default());
            }
        }
    }
    Ok(added)
}

/// Takes away what was added. Rules that others share by now stay.
pub(super) fn undo(session: &mut Session, added: Added) -> Result<()> {
    let mut failures = Failures::default();
    for family in added.into_iter().rev() {
        failures.note(family.undo(session));
    }
    failures.finish()
}

/// Deletes the rules for these addresses, or all of the container's, in both flavours.
pub(super) fn del(
    session: &mut Session,
    masquerade: &Masquerade<'_>,
    addresses: Option<&[IpAddr]>,
    forced: Option<Flavour>,
) -> Result<()> {
    let chain = chain_name(masquerade.network, masquerade.container);
    edit_everywhere(session, &chain, forced, |view| plan::removal(view, &chain, addresses))
}

/// Deletes the chains of the network's containers that have no valid attachment, and the jumps there, in both flavours.
pub(super) fn gc(
    session: &mut Session,
    network: &str,
    valid: &[Masquerade<'_>],
    forced: Option<Flavour>,
) -> Result<()> {
    let valid: Vec<String> = valid.iter().map(|valid| chain_name(network, valid.container)).collect();
    edit_everywhere(session, POSTROUTING, forced, |view| plan::garbage(view, network, &valid))
}

/// What the tables lack of these addresses' rules; `None` when they have all.
pub(super) fn lacks(
    session: &mut Session,
    masquerade: &Masquerade<'_>,
    addresses: &[IpNet],
    forced: Option<Flavour>,
) -> Result<Option<String>> {
    for (family, rules) in rules_of_families(masquerade, addresses) {
        let places = session.places_of_chain(family, Table::Nat, &rules.chain, forced)?;
        let mut lack = Some(format!("{} has no chain {:?}", family.program(), rules.chain));
        for place in places {
            lack = session.look(place, |view| rules.lack(view))?;
            if lack.is_none() {
                break;
            }
        }
        if lack.is_some() {
            return Ok(lack);
        }
    }
    Ok(None)
}

/// Asks the kernel whether it would take such rules, for either family.
pub(super) fn probe(
    session: &mut Session,
    masquerade: &Masquerade<'_>,
    addresses: &[IpNet],
    preference: &Preference<'_>,
) -> Result<()> {
    let flavour = choose(session, preference)?;
    let mut outcome = Ok(());
    for (family, rules) in rules_of_families(masquerade, addresses).rev() {
        outcome = session.probe(Place::Iptables { flavour, family, table: Table::Nat }, &rules.all());
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// The rules of each family that has addresses.
fn rules_of_families(
    masquerade: &Masquerade<'_>,
    addresses: &[IpNet],
) -> impl DoubleEndedIterator<Item = (Family, plan::Rules)> {
    let chain = chain_name(masquerade.network, masquerade.container);
    let comment = comment(masquerade.network, masquerade.container);
    Family::BOTH.into_iter().filter_map(move |family| {
        let own: Vec<IpNet> = addresses.iter().copied().filter(|address| Family::of(address) == family).collect();
        (!own.is_empty()).then(|| (family, plan::Rules::new(family, &chain, &comment, &own)))
    })
}

/// Changes the tables that have this chain, past failures.
fn edit_everywhere(
    session: &mut Session,
    chain: &str,
    forced: Option<Flavour>,
    plan: impl Fn(&mut dyn View) -> Result<Vec<Edit>>,
) -> Result<()> {
    let mut failures = Failures::default();
    for family in Family::BOTH {
        let places = failures.note(session.places_of_chain(family, Table::Nat, chain, forced));
        for place in places.into_iter().flatten() {
            failures.note(session.edit(place, |view| Ok((plan(view)?, ()))));
        }
    }
    failures.finish()
}

/// Adds what is missing and says what that was.
fn add_rules(session: &mut Session, place: Place, rules: &plan::Rules) -> Result<Vec<Edit>> {
    // Nearly always the chain is new. Then there is nothing to look at, however many rules others have.
    if session.look(place, |view| view.uses(&rules.chain))?.is_none() {
        let all = rules.all();
        if session.write(place, &all).is_ok() {
            return Ok(all);
        }
        // Somebody has just made it, or we are told below what is wrong.
    }
    session.edit(place, |view| {
        let edits = rules.missing(view)?;
        Ok((edits.clone(), edits))
    })
}

impl AddedFamily {
    pub(super) fn from_edits(place: Place, chain: String, edits: Vec<Edit>) -> Self {
        let created = edits.iter().any(|edit| matches!(edit, Edit::CreateChain(_)));
        let rules = edits.into_iter().filter_map(|edit| match edit {
            Edit::Append { chain, rule } | Edit::Prepend { chain, rule } => Some((chain, rule)),
            _ => None,
        });
        AddedFamily { place, chain, created, rules: rules.collect() }
    }

    fn undo(&self, session: &mut Session) -> Result<()> {
        if self.rules.is_empty() && !self.created {
            return Ok(());
        }
        let plan = |view: &mut dyn View| Ok((plan::reversal(view, &self.chain, self.created, &self.rules)?, ()));
        let undone = session.edit(self.place, plan);
        undone.with_context(|| format!("failed to undo masquerade chain {:?}", self.chain))
    }
}
