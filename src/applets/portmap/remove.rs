//! DEL and GC: whatever the configuration says, both kinds of iptables and our own tables are searched, each family past
//! the failures of the other. The chains that all containers share stay.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::Request;
use crate::error::{Context, Failures, Result};
use crate::firewall::conntrack::Destination;
use crate::firewall::place::View;
use crate::firewall::rule::{Protocol, Side};
use crate::firewall::{Edit, Family, Match, Place, Rule, Session, Table};

use super::conf::{self, Mapping};
use super::{forced_flavour, forget, iptables, nftables, owner};

/// What of a table goes: the changes, and the rules that go with them.
type Removal<'a> = &'a dyn Fn(Place, &mut dyn View) -> Result<(Vec<Edit>, Vec<Rule>)>;

/// Ends the attachment's mappings. What is missing is no failure.
pub(super) fn del(request: &Request<'_>) -> Result<()> {
    let (network, container) = (&request.config.name, &request.container_id);
    let chains = [iptables::chain_name(network, container), iptables::old_chain_name(network, container)];
    let owner = owner(request);
    remove(request, &chains, &conf::valid_mappings(request), &|place, view| match place {
        Place::Native(_) => nftables::removal(view, &owner),
        Place::Iptables { .. } => iptables::removal(view, &chains),
    })
}

/// Ends the mappings of all attachments to the network that are not valid any more.
pub(super) fn gc(request: &Request<'_>) -> Result<()> {
    let Some(valid) = request.config.valid_attachments().context("failed to parse config")? else { return Ok(()) };
    let network = &request.config.name;
    let containers: Vec<&str> = valid.iter().map(|(container, _)| container.as_str()).collect();
    remove(request, &[iptables::TOP.to_string()], &[], &|place, view| match place {
        Place::Native(_) => nftables::stale_removal(view, network, &valid),
        Place::Iptables { .. } => {
            let stale = iptables::stale_chains(view, network, &containers)?;
            iptables::removal(view, &stale)
        }
    })
}

/// Removes from the tables `nat` that have one of the chains, and from our own, and forgets the flows that were led by what
/// went, and those of `mappings`.
fn remove(request: &Request<'_>, chains: &[String], mappings: &[Mapping], removal: Removal<'_>) -> Result<()> {
    let mut failures = Failures::default();
    let mut session = Session::default();
    let mut places = Vec::new();
    for family in Family::BOTH {
        places.extend(places_of_any(request, &mut session, family, chains, &mut failures));
        let native = nftables::place(family);
        places.extend(failures.note(has_rules(&mut session, native)).unwrap_or_default().then_some(native));
    }
    let deleted = delete(&mut session, &places, removal, &mut failures);
    for family in Family::BOTH {
        let of_family = deleted.iter().filter(|(place, _)| is_of(*place, family));
        forget_flows(family, conf::udp_destinations(mappings, family), of_family.flat_map(|(_, rules)| rules));
    }
    failures.finish()
}

/// All tables in one step; or else one by one, so that one which cannot be changed does not keep the others' rules.
fn delete(
    session: &mut Session,
    places: &[Place],
    removal: Removal<'_>,
    failures: &mut Failures,
) -> Vec<(Place, Vec<Rule>)> {
    let plan = |place: Place, view: &mut dyn View| {
        let (edits, rules) = removal(place, view)?;
        Ok((edits, (place, rules)))
    };
    if let Ok(deleted) = session.edit_all(places, plan) {
        return deleted;
    }
    let one = |place: &Place| session.edit(*place, |view| plan(*place, view)).context(failed_to_delete(*place));
    places.iter().map(one).collect::<Vec<_>>().into_iter().filter_map(|deleted| failures.note(deleted)).collect()
}

fn is_of(place: Place, wanted: Family) -> bool {
    match place {
        Place::Iptables { family, .. } => family == wanted,
        native => native == nftables::place(wanted),
    }
}

fn has_rules(session: &mut Session, native: Place) -> Result<bool> {
    Ok(session.has_nftables()? && session.look(native, nftables::has_rules)?)
}

/// The tables `nat`, in either flavour, that have one of these chains.
fn places_of_any(
    request: &Request<'_>,
    session: &mut Session,
    family: Family,
    chains: &[String],
    failures: &mut Failures,
) -> Vec<Place> {
    // A flavour that does not exist is for ADD to refuse; here it must not keep anything from being removed.
    let forced = forced_flavour(request).ok().flatten();
    let mut places = Vec::new();
    for chain in chains {
        let found = failures.note(session.places_of_chain(family, Table::Nat, chain, forced)).unwrap_or_default();
        places.extend(found.into_iter().filter(|place| !places.contains(place)).collect::<Vec<_>>());
    }
    places
}

/// Without rules, a client that goes on sending would be led to where the container was.
fn forget_flows<'a>(family: Family, mut destinations: Vec<Destination>, deleted: impl Iterator<Item = &'a Rule>) {
    for destination in deleted.filter_map(udp_destination) {
        if !destinations.contains(&destination) {
            destinations.push(destination);
        }
    }
    // Nobody is helped by a DEL that fails for this.
    let _ = forget(family, &destinations);
}

/// What a rule translates, if it is UDP.
fn udp_destination(rule: &Rule) -> Option<Destination> {
    let port = rule.matches.iter().find_map(|condition| match condition {
        Match::DestinationPort(port) => Some(*port),
        _ => None,
    })?;
    let address = rule.matches.iter().find_map(|condition| match condition {
        Match::Address { side: Side::Destination, negated: false, network } => whole_address(network),
        _ => None,
    });
    (rule.protocol() == Some(Protocol::Udp)).then_some(Destination { port, address })
}

fn whole_address(network: &IpNet) -> Option<IpAddr> {
    (network.prefix_len() == network.max_prefix_len()).then_some(network.addr())
}

fn failed_to_delete(place: Place) -> &'static str {
    match place {
        Place::Iptables { family: Family::V4, .. } => "could not teardown ipv4 dnat",
        Place::Iptables { family: Family::V6, .. } => "could not teardown ipv6 dnat",
        Place::Native(_) => "error deleting nftables rules",
    }
}
