//! DEL and GC. Both carry on past failures and report them together.

use std::net::IpAddr;

use super::{FIREWALLD, Wish, bus_address, forced, is_of, wish, zone};
use crate::cni::Request;
use crate::error::{Context, Errno, Error, Failures, Result};
use crate::firewall::firewalld::Firewalld;
use crate::firewall::owners::{Owner, Owners};
use crate::firewall::{Session, filter};

/// An address whose rules go.
#[derive(Debug)]
struct Ending {
    address: IpAddr,
    /// Its record, unless the reference's plugin let it through.
    owner: Option<Owner>,
}

/// Ends what ADD began, with whatever backend that was.
pub(super) fn del(request: &Request<'_>) -> Result<()> {
    let owners = Owners::open();
    let mut failures = Failures::default();
    let endings = match request.config.prev_result() {
        Ok(Some(previous)) => of_addresses(request, &owners, &super::addresses(&previous)),
        // Nobody knows the addresses any more but we.
        _ => failures.note(of_records(&owners, |owner| is_of(owner, request))).unwrap_or_default(),
    };
    end(request, &owners, &endings, &mut failures);
    failures.finish()
}

/// Ends all attachments to the network that are not valid any more, as far as we have made them.
pub(super) fn gc(request: &Request<'_>) -> Result<()> {
    let valid = request.config.valid_attachments().context("failed to load netconf")?;
    let Some(valid) = valid else { return Ok(()) };
    let is_valid = |owner: &Owner| valid.iter().any(|(id, ifname)| owner.container == *id && owner.ifname == *ifname);
    let owners = Owners::open();
    let endings = of_records(&owners, |owner| owner.network == request.config.name && !is_valid(owner))?;
    let mut failures = Failures::default();
    end(request, &owners, &endings, &mut failures);
    failures.finish()
}

/// Those of the addresses that are not somebody else's by now.
fn of_addresses(request: &Request<'_>, owners: &Owners, addresses: &[IpAddr]) -> Vec<Ending> {
    let with_owner = addresses.iter().map(|address| Ending { address: *address, owner: owners.of(*address) });
    with_owner
        .filter(|ending| ending.owner.as_ref().is_none_or(|owner| is_of(owner, request) || !owner.is_alive()))
        .collect()
}

fn of_records(owners: &Owners, chosen: impl Fn(&Owner) -> bool) -> Result<Vec<Ending>> {
    let all = owners.all()?.into_iter().filter(|(_, owner)| chosen(owner));
    Ok(all.map(|(address, owner)| Ending { address, owner: Some(owner) }).collect())
}

fn end(request: &Request<'_>, owners: &Owners, endings: &[Ending], failures: &mut Failures) {
    let addresses: Vec<IpAddr> = endings.iter().map(|ending| ending.address).collect();
    let mut session = Session::default();
    // A flavour that does not exist is for ADD to refuse; here it must not keep anything from being removed.
    let rules = filter::remove(&mut session, &addresses, forced(request).ok().flatten());
    let sources = remove_sources(request, endings);
    let all_gone = rules.is_ok() && sources.is_ok();
    failures.note(rules);
    failures.note(sources);
    // A rule that is left is found again by its record. Otherwise the record goes, readable or not:
    // a damaged one would stay until the next boot.
    for ending in endings.iter().filter(|_| all_gone) {
        failures.note(owners.clear(ending.address));
    }
}

/// Takes the addresses out of firewalld's zones. Without a bus, or firewalld, there is nothing left to do. A bus that fails
/// us counts only if firewalld is known to have the addresses, or is demanded; one that refuses us, only if it is known: who
/// may not take addresses out has not put them in either, and would have a DEL that fails for ever.
fn remove_sources(request: &Request<'_>, endings: &[Ending]) -> Result<()> {
    let wish = wish(request).context("failed to load netconf")?;
    let zone = zone(request).context("failed to load netconf")?;
    let is_known = |ending: &Ending| ending.owner.as_ref().is_some_and(|owner| owner.backend == FIREWALLD);
    let is_needed = wish == Wish::Firewalld || endings.iter().any(is_known);
    if endings.is_empty() || !(is_needed || wish == Wish::Auto) {
        return Ok(());
    }
    let mut failures = Failures::default();
    let connected = Firewalld::connect_if_present(&bus_address(request));
    let running = connected.and_then(|bus| match bus {
        Some(mut firewalld) => Ok(firewalld.is_running()?.then_some(firewalld)),
        None => Ok(None),
    });
    let is_unable = |error: &Error| error.is(Errno::EACCES) && !endings.iter().any(is_known);
    let firewalld = match running {
        Err(error) if is_needed && !is_unable(&error) => failures.note(Err(error)),
        running => running.ok(),
    };
    if let Some(mut firewalld) = firewalld.flatten() {
        for ending in endings {
            let recorded = ending.owner.as_ref().filter(|_| is_known(ending)).map(|owner| owner.zone.as_str());
            match firewalld.remove_source(recorded.unwrap_or(&zone), ending.address) {
                Err(error) if is_unable(&error) => {}
                removed => drop(failures.note(removed)),
            }
        }
    }
    failures.finish()
}
