//! Whether packets of containers are forwarded: the rules of the reference's `firewall` plugin
//! (`plugins/meta/firewall/iptables.go`, `ingresspolicy.go`).
//!
//! FORWARD leads to CNI-FORWARD, which leads to the administrator's chain and then accepts what containers send, and the
//! answers to it. Above that, CNI-ISOLATION-STAGE-1 and -2 drop what goes from one bridge with an ingress policy to
//! another. All but the rules for an address is shared by everybody and stays.
//!
//! The same plan serves tables of iptables and tables of our own ([`TABLES`]), one transaction for each family.

mod plan;
#[cfg(test)]
mod tests;
mod undo;
mod words;

use std::net::IpAddr;

use crate::error::{Context, Error, Failures, Result};
use crate::firewall::flavour::Flavour;
use crate::firewall::place::{BaseChain, ChainKind, Hook, NativeFamily, NativeTable};
use crate::firewall::{Edit, Family, Place, Session, Table, View};
use crate::net::Handle;
pub use undo::Added;

/// The chain with the rules for addresses.
pub(crate) const CNI_FORWARD: &str = "CNI-FORWARD";
/// The chain that knows where packets come from.
const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
/// The chain that knows where packets from an isolated bridge go.
const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";
/// Longest name of a chain in iptables, in bytes (`XT_EXTENSION_MAXNAMELEN` without the NUL).
const LONGEST_CHAIN_NAME: usize = 28;

/// iptables' chain of packets on their way through the host.
const FORWARD: &str = "FORWARD";
/// The same in tables of our own.
const NATIVE_FORWARD: &str = "forward";

/// Our own tables: `ip cni_firewall` and `ip6 cni_firewall`. One for each family, and not one `inet` table, so that a
/// family that a network does not use is never touched and the plan is that of iptables.
///
/// Their `forward` chain stands at the priority of iptables' FORWARD. A drop there is final. An accept is not: it ends our
/// chain, and other tables still have their say.
static TABLES: [NativeTable; 2] = [table(NativeFamily::Ip), table(NativeFamily::Ip6)];

const BASE_CHAINS: [BaseChain; 1] =
    [BaseChain { name: NATIVE_FORWARD, kind: ChainKind::Filter, hook: Hook::Forward, priority: 0 }];

const fn table(family: NativeFamily) -> NativeTable {
    NativeTable { family, name: "cni_firewall", comment: "", chain_comments: &[], base_chains: &BASE_CHAINS }
}

/// What keeps rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// iptables' table `filter`.
    Iptables(Flavour),
    /// nf_tables, in tables of our own.
    Native,
}

/// What shall hold for one attachment.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    /// The container's addresses.
    pub addresses: &'a [IpAddr],
    /// The chain of the administrator, asked before packets of these addresses are accepted. `None` when something else
    /// (firewalld) accepts them.
    pub admin_chain: Option<&'a str>,
    /// Who may send to the container; `None` for everybody.
    pub ingress: Option<Ingress<'a>>,
}

/// An ingress policy: packets come to a bridge only from outside of all bridges with a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ingress<'a> {
    /// The bridge that the container is attached to.
    pub bridge: &'a str,
    /// Containers on the bridge do not reach one another either. The rules need br_netfilter for
    /// that.
    pub isolated: bool,
}

impl Store {
    fn place(self, family: Family) -> Place {
        match self {
            Store::Iptables(flavour) => Place::Iptables { flavour, family, table: Table::Filter },
            Store::Native => {
                let [v4, v6] = &TABLES;
                Place::Native(if family == Family::V4 { v4 } else { v6 })
            }
        }
    }

    /// The chain that packets reach by themselves.
    fn forward(self) -> &'static str {
        if self == Store::Native { NATIVE_FORWARD } else { FORWARD }
    }
}

impl Filter<'_> {
    /// Adds what is missing. One transaction for each family; all or nothing.
    pub fn add(&self, session: &mut Session, store: Store) -> Result<Added> {
        let mut added = Added::new(store);
        for family in self.families() {
            let wanted = plan::Wanted::new(self, store.forward(), family);
            let done = session.edit(store.place(family), |view| {
                let plan = wanted.missing(view)?;
                Ok((plan.edits.clone(), plan))
            });
            match done {
                Ok(plan) => added.push(family, plan),
                Err(error) => return Err(take_back(session, added, error.context(&self.failed_to("add")))),
            }
        }
        Ok(added)
    }

    /// Fails with the first rule that is missing. In iptables it looks in both flavours: the host may have been switched.
    pub fn check(&self, session: &mut Session, store: Store, forced: Option<Flavour>) -> Result<()> {
        for family in self.families() {
            let wanted = plan::Wanted::new(self, store.forward(), family);
            let places = match store {
                Store::Native => vec![store.place(family)],
                Store::Iptables(_) => {
                    let chain = if self.admin_chain.is_some() { CNI_FORWARD } else { STAGE_1 };
                    session.places_of_chain(family, Table::Filter, chain, forced)?
                }
            };
            let mut missing = wanted.first_rule();
            for place in places {
                missing = session.look(place, |view| wanted.first_missing(view))?;
                if missing.is_none() {
                    break;
                }
            }
            if let Some(text) = missing {
                return Err(Error::internal(text));
            }
        }
        Ok(())
    }

    /// Asks the kernel whether it would take the rules.
    pub fn probe(&self, session: &mut Session, store: Store) -> Result<()> {
        for family in self.families() {
            let wanted = plan::Wanted::new(self, store.forward(), family);
            let place = store.place(family);
            let edits = session.look(place, |view| Ok(wanted.missing(view)?.edits))?;
            session.probe(place, &edits)?;
        }
        Ok(())
    }

    fn families(&self) -> impl Iterator<Item = Family> {
        let needed = self.admin_chain.is_some() || self.ingress.is_some();
        let has = |family| self.addresses.iter().any(|address| Family::of_address(*address) == family);
        Family::BOTH.into_iter().filter(move |family| needed && has(*family))
    }

    fn failed_to(&self, verb: &str) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        format!("failed to {verb} firewall rules for {}", addresses.join(", "))
    }
}

fn take_back(session: &mut Session, added: Added, error: Error) -> Error {
    let mut failures = Failures::default();
    failures.note::<()>(Err(error.clone()));
    failures.note(added.undo(session, false));
    failures.finish().err().unwrap_or(error)
}

/// Deletes the rules for these addresses wherever they are, all copies, and those of bridges that don't exist any more.
/// What is missing is no failure; failures are reported together. x_tables is searched also where its tables cannot be
/// listed if `forced` says that they are used.
pub fn remove(session: &mut Session, addresses: &[IpAddr], forced: Option<Flavour>) -> Result<()> {
    let mut failures = Failures::default();
    for family in Family::BOTH {
        for place in failures.note(places(session, family, forced)).unwrap_or_default() {
            failures.note(session.edit(place, |view| {
                let mut edits = plan::removal(view, addresses)?;
                edits.extend(end_of_missing_bridges(view)?);
                Ok((edits, ()))
            }));
        }
    }
    failures.finish().context("failed to delete firewall rules")
}

/// Where there may be something to delete.
fn places(session: &mut Session, family: Family, forced: Option<Flavour>) -> Result<Vec<Place>> {
    let mut places = session.places_of_chain(family, Table::Filter, CNI_FORWARD, forced)?;
    for place in session.places_of_chain(family, Table::Filter, STAGE_1, forced)? {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    if session.has_nftables()? {
        places.push(Store::Native.place(family));
    }
    Ok(places)
}

/// Deletes the policies of bridges that are gone.
fn end_of_missing_bridges(view: &mut dyn View) -> Result<Vec<Edit>> {
    let named = plan::bridges(view)?;
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let mut host = Handle::current()?;
    let mut gone = Vec::new();
    for bridge in named {
        if host.find_link(&bridge)?.is_none() {
            gone.push(bridge);
        }
    }
    plan::removal_of_bridges(view, &gone)
}

/// Why this cannot be the name of the administrator's chain, if it cannot.
pub fn unusable_chain_name(name: &str) -> Option<&'static str> {
    // Built-in chains, targets that iptables would take for the name's meaning, and our own chains.
    const TAKEN: [&str; 19] = [
        "INPUT",
        FORWARD,
        "OUTPUT",
        "PREROUTING",
        "POSTROUTING",
        NATIVE_FORWARD,
        "ACCEPT",
        "DROP",
        "QUEUE",
        "RETURN",
        "REJECT",
        "LOG",
        "MARK",
        "DNAT",
        "SNAT",
        "MASQUERADE",
        CNI_FORWARD,
        STAGE_1,
        STAGE_2,
    ];
    match name {
        "" => Some("it is empty"),
        _ if name.len() > LONGEST_CHAIN_NAME => Some("it is longer than 28 bytes"),
        _ if name.contains(|letter: char| letter.is_whitespace() || letter.is_control()) => {
            Some("it contains white space or control characters")
        }
        _ if name.starts_with(['-', '!']) => Some("it starts with '-' or '!'"),
        _ if TAKEN.contains(&name) => Some("it means something else already"),
        _ => None,
    }
}
