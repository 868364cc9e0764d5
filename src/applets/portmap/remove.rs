//! DEL and GC: whatever the configuration says, both kinds of iptables and our own tables are searched, each family past
//! the failures of the other. The chains that all containers share stay.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::Request;
use crate::error::{Context, Failures, Result};
use crate::firewall::conntrack::Destination;
use crate::firewall::place::View;
use crate::firewall::records::Records;
use crate::firewall::rule::Protocol;
use crate::firewall::{Edit, Family, Place, Rule, Session, Table};
use crate::sorted::unique;

use super::conf::{self, Mapping};
use super::interfaces::Interfaces;
use super::iptables::{Doomed, Whose};
use super::localnet::Localnet;
use super::{DIRECTORY, forced_flavour, forget, iptables, nftables, owner};

/// What of a table goes: the changes, and the rules that go with them.
type Removal<'a> = &'a dyn Fn(Place, &mut dyn View) -> Result<(Vec<Edit>, Vec<Rule>)>;

/// Ends the attachment's mappings. What is missing is no failure.
pub(super) fn del(request: &Request<'_>) -> Result<()> {
    let (network, container, ifname) = (&request.config.name, &request.container_id, &request.ifname);
    let mut records = Records::open(DIRECTORY);
    let mut known = Interfaces::of(&records, network, container);
    let whose = whose(request, &known);
    let old = Doomed::whole(iptables::old_chain_name(network, container));
    let doomed = [Doomed { chain: iptables::chain_name(network, container), whose: whose.clone() }, old];
    let chains = doomed.each_ref().map(|doomed| doomed.chain.clone());
    let owner = owner(request);
    remove(request, &mut records, &chains, &conf::valid_mappings(request), &|place, view| match place {
        Place::Native(_) => nftables::removal(view, &owner, &whose),
        Place::Iptables { .. } => iptables::removal(view, &doomed),
    })?;
    known.set(ifname, &[]);
    known.save(&records)
}

/// Tells the attachment's addresses by ADD's record and by the previous result.
fn whose(request: &Request<'_>, known: &Interfaces) -> Whose {
    let mut whose = known.whose(|name| name == request.ifname);
    let previous = request.config.prev_result().ok().flatten();
    let told = previous.map_or_else(Vec::new, |previous| conf::container_addresses(&previous, &request.ifname));
    whose.mine.extend(told.into_iter().map(|(_, address)| address.addr()));
    whose
}

/// Ends the mappings of all attachments to the network that are not valid any more.
pub(super) fn gc(request: &Request<'_>) -> Result<()> {
    let Some(valid) = request.config.valid_attachments().context("failed to parse config")? else { return Ok(()) };
    let network = &request.config.name;
    let containers: Vec<&str> = valid.iter().map(|(container, _)| container.as_str()).collect();
    let mut records = Records::open(DIRECTORY);
    let mut known = Interfaces::all_of(&records, network)?;
    let dead = dead_interfaces(&known, &valid);
    remove(request, &mut records, &[iptables::TOP.to_string()], &[], &|place, view| match place {
        Place::Native(_) => nftables::stale_removal(view, network, &valid),
        Place::Iptables { .. } => {
            let mut doomed = dead.clone();
            doomed.extend(iptables::stale_chains(view, network, &containers)?.into_iter().map(Doomed::whole));
            iptables::removal(view, &doomed)
        }
    })?;
    for known in &mut known {
        if known.forget_all_but(|container, ifname| is_valid(&valid, container, ifname)) {
            known.save(&records)?;
        }
    }
    Ok(())
}

fn is_valid(valid: &[(String, String)], container: &str, ifname: &str) -> bool {
    valid.iter().any(|(known, name)| known == container && name == ifname)
}

/// Lists the interfaces that are not valid any more of containers with valid ones.
fn dead_interfaces(known: &[Interfaces], valid: &[(String, String)]) -> Vec<Doomed> {
    let has_others = |known: &&Interfaces| valid.iter().any(|(container, _)| *container == known.container);
    let doomed = |known: &Interfaces| Doomed {
        chain: iptables::chain_name(&known.network, &known.container),
        whose: known.whose(|name| !is_valid(valid, &known.container, name)),
    };
    known.iter().filter(has_others).map(doomed).filter(|doomed| !doomed.whose.mine.is_empty()).collect()
}

/// Removes rules from the tables `nat` that have one of the chains, and from our own. Forgets the
/// flows of these rules and of `mappings`, and releases links that no mapping leads over any more.
fn remove(
    request: &Request<'_>,
    records: &mut Records,
    chains: &[String],
    mappings: &[Mapping],
    removal: Removal<'_>,
) -> Result<()> {
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
    failures.note(release(request, &mut session, records, &deleted));
    failures.finish()
}

/// Releases links that no mapping leads over any more.
fn release(
    request: &Request<'_>,
    session: &mut Session,
    records: &mut Records,
    deleted: &[(Place, Vec<Rule>)],
) -> Result<()> {
    let of_v4 = deleted.iter().filter(|(place, _)| is_of(*place, Family::V4));
    let freed: Vec<IpAddr> = of_v4
        .flat_map(|(place, rules)| match place {
            Place::Native(_) => nftables::masqueraded_addresses(rules),
            Place::Iptables { .. } => iptables::marked_addresses(rules),
        })
        .collect();
    if !freed.is_empty() {
        // A DEL that finds no mapping makes no directory.
        records.make()?;
    }
    let forced = forced_flavour(request).ok().flatten();
    Localnet::new(session, records, forced)?.release(&freed)
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
fn forget_flows<'a>(family: Family, destinations: Vec<Destination>, deleted: impl Iterator<Item = &'a Rule>) {
    let destinations = unique(destinations.into_iter().chain(deleted.filter_map(udp_destination)).collect());
    // Nobody is helped by a DEL that fails for this.
    let _ = forget(family, &destinations);
}

/// What a rule translates, if it is UDP.
fn udp_destination(rule: &Rule) -> Option<Destination> {
    let port = rule.destination_port()?;
    let address = rule.destination().and_then(|network| whole_address(&network));
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
