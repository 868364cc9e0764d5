//! DEL and GC. Both carry on past failures and report them together.

use std::net::IpAddr;

use super::{Wish, bus_address, forced, has_rules, is_in_zone, is_of, isolation, wish, zone};
use crate::cni::Request;
use crate::error::{Context, Errno, Error, Failures, Result};
use crate::firewall::firewalld::Firewalld;
use crate::firewall::owners::{Owner, Owners};
use crate::firewall::{Session, filter};

/// An address that loses owners.
#[derive(Debug)]
struct Ending {
    address: IpAddr,
    /// The records that go. None if the reference's plugin let the address through.
    ended: Vec<Owner>,
    /// The other owners, whose rules stay.
    others: Vec<Owner>,
}

impl Ending {
    fn new(owners: &Owners, address: IpAddr, ends: &dyn Fn(&Owner) -> bool) -> Self {
        let (ended, others) = owners.of(address).into_iter().partition(ends);
        Ending { address, ended, others }
    }

    /// The zones that the address was put into, as far as records tell.
    fn zones(&self) -> impl Iterator<Item = &str> {
        self.ended.iter().filter(|owner| is_in_zone(owner)).map(|owner| owner.zone.as_str())
    }
}

/// Ends what ADD began, with whatever backend that was.
pub(super) fn del(request: &Request<'_>) -> Result<()> {
    let owners = Owners::open();
    let mut failures = Failures::default();
    let addresses = match request.config.prev_result() {
        Ok(Some(previous)) => super::addresses(&previous),
        // Nobody knows the addresses any more but we.
        _ => failures.note(recorded(&owners, &|owner| is_of(owner, request))).unwrap_or_default(),
    };
    let ends = |owner: &Owner| is_of(owner, request) || !owners.is_alive(owner);
    end(request, &owners, endings(&owners, &addresses, &ends), &mut failures);
    failures.note(isolation::del(request));
    failures.finish()
}

/// Ends all attachments to the network that are not valid any more, as far as we have made them.
pub(super) fn gc(request: &Request<'_>) -> Result<()> {
    let valid = request.config.valid_attachments().context("failed to load netconf")?;
    let Some(valid) = valid else { return Ok(()) };
    let is_listed = |id: &str, ifname: &str| valid.iter().any(|(container, name)| container == id && name == ifname);
    let is_valid = |owner: &Owner| is_listed(&owner.container, &owner.ifname);
    let is_of_network = |owner: &Owner| owner.network == request.config.name;
    let owners = Owners::open();
    let addresses = recorded(&owners, &|owner| is_of_network(owner) && !is_valid(owner))?;
    let ends = |owner: &Owner| if is_of_network(owner) { !is_valid(owner) } else { !owners.is_alive(owner) };
    let mut failures = Failures::default();
    end(request, &owners, endings(&owners, &addresses, &ends), &mut failures);
    failures.note(isolation::gc(request, &is_listed));
    failures.finish()
}

/// The addresses that have such an owner.
fn recorded(owners: &Owners, chosen: &dyn Fn(&Owner) -> bool) -> Result<Vec<IpAddr>> {
    let all = owners.all()?.into_iter().filter(|(_, owner)| chosen(owner));
    let mut addresses: Vec<IpAddr> = all.map(|(address, _)| address).collect();
    addresses.dedup();
    Ok(addresses)
}

/// An address that has only other owners is left alone.
fn endings(owners: &Owners, addresses: &[IpAddr], ends: &dyn Fn(&Owner) -> bool) -> Vec<Ending> {
    let endings = addresses.iter().map(|address| Ending::new(owners, *address, ends));
    endings.filter(|ending| !ending.ended.is_empty() || ending.others.is_empty()).collect()
}

fn end(request: &Request<'_>, owners: &Owners, endings: Vec<Ending>, failures: &mut Failures) {
    let without_rules = endings.iter().filter(|ending| !ending.others.iter().any(has_rules));
    let addresses: Vec<IpAddr> = without_rules.map(|ending| ending.address).collect();
    let mut session = Session::default();
    // A flavour that does not exist is for ADD to refuse; here it must not keep anything from being removed.
    let rules = filter::remove(&mut session, &addresses, forced(request).ok().flatten());
    let without_zone = endings.iter().filter(|ending| !ending.others.iter().any(is_in_zone));
    let sources = remove_sources(request, &without_zone.collect::<Vec<_>>());
    let all_gone = rules.is_ok() && sources.is_ok();
    failures.note(rules);
    failures.note(sources);
    // A rule that is left is found again by its record. Otherwise the record goes, readable or not:
    // a damaged one would stay until the next boot.
    for ending in endings.iter().filter(|_| all_gone) {
        failures.note(owners.set(ending.address, &ending.others));
    }
}

/// Takes the addresses out of firewalld's zones. Without a bus, or firewalld, there is nothing left to do. A bus that fails
/// us counts only if firewalld is known to have the addresses, or is demanded; one that refuses us, only if it is known: who
/// may not take addresses out has not put them in either, and would have a DEL that fails for ever.
fn remove_sources(request: &Request<'_>, endings: &[&Ending]) -> Result<()> {
    let wish = wish(request).context("failed to load netconf")?;
    let zone = zone(request).context("failed to load netconf")?;
    let is_known = endings.iter().any(|ending| ending.zones().next().is_some());
    let is_needed = wish == Wish::Firewalld || is_known;
    if endings.is_empty() || !(is_needed || wish == Wish::Auto) {
        return Ok(());
    }
    let mut failures = Failures::default();
    let connected = Firewalld::connect_if_present(&bus_address(request));
    let running = connected.and_then(|bus| match bus {
        Some(mut firewalld) => Ok(firewalld.is_running()?.then_some(firewalld)),
        None => Ok(None),
    });
    let is_unable = |error: &Error| error.is(Errno::EACCES) && !is_known;
    let firewalld = match running {
        Err(error) if is_needed && !is_unable(&error) => failures.note(Err(error)),
        running => running.ok(),
    };
    if let Some(mut firewalld) = firewalld.flatten() {
        for ending in endings {
            let configured = ending.zones().next().is_none().then_some(zone.as_str());
            for zone in ending.zones().chain(configured) {
                match firewalld.remove_source(zone, ending.address) {
                    Err(error) if is_unable(&error) => {}
                    removed => drop(failures.note(removed)),
                }
            }
        }
    }
    failures.finish()
}
