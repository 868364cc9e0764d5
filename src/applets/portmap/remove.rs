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

use super::{conf, forced_flavour, forget, iptables, nftables, owner};

/// Ends the attachment's mappings. What is missing is no failure.
pub(super) fn del(request: &Request<'_>) -> Result<()> {
    let (network, container) = (&request.config.name, &request.container_id);
    let chains = [iptables::chain_name(network, container), iptables::old_chain_name(network, container)];
    let configured = conf::udp_destinations(request);
    let owner = owner(request);
    let mut failures = Failures::default();
    let mut session = Session::default();
    for family in Family::BOTH {
        let mut deleted = Vec::new();
        for place in places_of_any(request, &mut session, family, &chains, &mut failures) {
            let rules = session.edit(place, |view| iptables::removal(view, &chains));
            deleted.extend(failures.note(rules.with_context(|| teardown(family))).unwrap_or_default());
        }
        let native = delete_native(&mut session, family, |view| nftables::removal(view, &owner));
        deleted.extend(failures.note(native).unwrap_or_default());
        forget_flows(family, configured.clone(), &deleted);
    }
    failures.finish()
}

/// Ends the mappings of all attachments to the network that are not valid any more.
pub(super) fn gc(request: &Request<'_>) -> Result<()> {
    let Some(valid) = request.config.valid_attachments().context("failed to parse config")? else { return Ok(()) };
    let network = &request.config.name;
    let containers: Vec<&str> = valid.iter().map(|(container, _)| container.as_str()).collect();
    let mut failures = Failures::default();
    let mut session = Session::default();
    for family in Family::BOTH {
        let mut deleted = Vec::new();
        for place in places_of_any(request, &mut session, family, &[iptables::TOP.to_string()], &mut failures) {
            let rules = session.edit(place, |view| {
                let stale = iptables::stale_chains(view, network, &containers)?;
                iptables::removal(view, &stale)
            });
            deleted.extend(failures.note(rules.with_context(|| teardown(family))).unwrap_or_default());
        }
        let native = delete_native(&mut session, family, |view| nftables::stale_removal(view, network, &valid));
        deleted.extend(failures.note(native).unwrap_or_default());
        forget_flows(family, Vec::new(), &deleted);
    }
    failures.finish()
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

fn delete_native(
    session: &mut Session,
    family: Family,
    removal: impl Fn(&mut dyn View) -> Result<(Vec<Edit>, Vec<Rule>)>,
) -> Result<Vec<Rule>> {
    let place = nftables::place(family);
    if !session.has_nftables()? || !session.look(place, nftables::has_rules)? {
        return Ok(Vec::new());
    }
    session.edit(place, removal).context("error deleting nftables rules")
}

/// Without rules, a client that goes on sending would be led to where the container was.
fn forget_flows(family: Family, mut destinations: Vec<Destination>, deleted: &[Rule]) {
    for destination in deleted.iter().filter_map(udp_destination) {
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

fn teardown(family: Family) -> String {
    format!("could not teardown {} dnat", if family == Family::V4 { "ipv4" } else { "ipv6" })
}
