//! Source NAT of containers: the `ipMasq` of the reference's bridge and ptp (`pkg/ip/ipmasq_iptables_linux.go`).
//!
//! A container's chain accepts what stays in its subnets and masquerades the rest but multicast; POSTROUTING jumps there
//! for the container's addresses. The chain belongs to network and container, so several attachments of one container
//! to one network share it.

mod plan;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::{Context, Failures, Result};
use crate::firewall::flavour::{Flavour, Preference, choose};
use crate::firewall::names;
use crate::firewall::place::{Edit, Place, Table, View};
use crate::firewall::rule::{Family, Rule};
use crate::firewall::session::Session;

/// The length of a chain's name in the reference; the kernel's limit is 28 characters too.
const CHAIN_NAME_LENGTH: usize = 28;

/// The chain of a container's attachments to a network: `CNI-` and 24 hexadecimal digits.
pub fn chain_name(network: &str, container: &str) -> String {
    names::hashed("CNI-", network, container, CHAIN_NAME_LENGTH)
}

/// The comment of all rules of a container's attachments to a network.
pub fn comment(network: &str, container: &str) -> String {
    names::comment(network, container)
}

/// Whose traffic is masqueraded.
#[derive(Debug, Clone, Copy)]
pub struct Masquerade<'a> {
    /// Name of the network.
    pub network: &'a str,
    /// The container's id.
    pub container: &'a str,
}

/// What one [`Masquerade::add`] has added, no more: what was there before it stays when it is undone.
#[derive(Debug, Clone, Default)]
#[must_use = "an ADD that fails later has to undo this"]
pub struct Added(Vec<AddedFamily>);

#[derive(Debug, Clone)]
struct AddedFamily {
    flavour: Flavour,
    family: Family,
    /// The container's chain.
    chain: String,
    /// The chain did not exist.
    created: bool,
    /// Rules that did not exist, each with its chain.
    rules: Vec<(String, Rule)>,
}

impl Masquerade<'_> {
    /// Makes packets from these addresses (each with the prefix length of its subnet) leave with the host's address.
    /// What is there already is not added again. One transaction for each family; all or nothing.
    pub fn add(&self, session: &mut Session, addresses: &[IpNet], preference: &Preference<'_>) -> Result<Added> {
        let mut added = Added::default();
        if addresses.is_empty() {
            return Ok(added);
        }
        let flavour = choose(session, preference).with_context(|| self.failed_to("add"))?;
        for family in Family::BOTH {
            match self.add_family(session, flavour, family, addresses) {
                Ok(more) => added.0.extend(more),
                Err(error) => {
                    let mut failures = Failures::default();
                    failures.note::<()>(Err(error.context(&self.failed_to("add"))));
                    failures.note(added.undo(session));
                    return failures.finish().map(|()| Added::default());
                }
            }
        }
        Ok(added)
    }

    /// Ends it for these addresses, or, when nobody knows them any more, for the container's every attachment to the
    /// network. Both flavours are searched, x_tables also where its tables cannot be listed if `forced` says that they are
    /// used. What is missing is no failure; failures are reported together.
    pub fn del(&self, session: &mut Session, addresses: Option<&[IpAddr]>, forced: Option<Flavour>) -> Result<()> {
        let mut failures = Failures::default();
        let chain = chain_name(self.network, self.container);
        for family in Family::BOTH {
            let places = failures.note(session.places_of_chain(family, Table::Nat, &chain, forced));
            for place in places.into_iter().flatten() {
                failures.note(session.edit(place, |view| Ok((plan::removal(view, &chain, addresses)?, ()))));
            }
        }
        failures.finish().with_context(|| self.failed_to("delete"))
    }

    fn add_family(
        &self,
        session: &mut Session,
        flavour: Flavour,
        family: Family,
        addresses: &[IpNet],
    ) -> Result<Option<AddedFamily>> {
        let addresses: Vec<IpNet> = addresses.iter().copied().filter(|address| Family::of(address) == family).collect();
        if addresses.is_empty() {
            return Ok(None);
        }
        let chain = chain_name(self.network, self.container);
        let rules = plan::Rules::new(family, &chain, &comment(self.network, self.container), &addresses);
        let edits = add_rules(session, Place::Iptables { flavour, family, table: Table::Nat }, &rules)?;
        Ok(Some(AddedFamily::from_edits(flavour, family, chain, edits)))
    }

    fn failed_to(&self, verb: &str) -> String {
        format!("failed to {verb} masquerade rules of container {:?} in network {:?}", self.container, self.network)
    }
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

impl Added {
    /// Takes away what was added. Rules that others share by now stay.
    pub fn undo(self, session: &mut Session) -> Result<()> {
        let mut failures = Failures::default();
        for family in self.0.into_iter().rev() {
            failures.note(family.undo(session));
        }
        failures.finish()
    }
}

impl AddedFamily {
    fn from_edits(flavour: Flavour, family: Family, chain: String, edits: Vec<Edit>) -> Self {
        let created = edits.iter().any(|edit| matches!(edit, Edit::CreateChain(_)));
        let rules = edits.into_iter().filter_map(|edit| match edit {
            Edit::Append { chain, rule } | Edit::Prepend { chain, rule } => Some((chain, rule)),
            _ => None,
        });
        AddedFamily { flavour, family, chain, created, rules: rules.collect() }
    }

    fn undo(&self, session: &mut Session) -> Result<()> {
        if self.rules.is_empty() && !self.created {
            return Ok(());
        }
        let plan = |view: &mut dyn View| Ok((plan::reversal(view, &self.chain, self.created, &self.rules)?, ()));
        let place = Place::Iptables { flavour: self.flavour, family: self.family, table: Table::Nat };
        let undone = session.edit(place, plan);
        undone.with_context(|| format!("failed to undo masquerade chain {:?}", self.chain))
    }
}
