//! Choosing addresses from a range set (`IPAllocator.Get` of the reference's `allocator.go`).

use std::net::IpAddr;

use crate::cni::result::IpConfig;
use crate::error::{Error, Result};
use crate::ipam::ranges::{Range, RangeSet};
use crate::ipam::store::{Attachment, Held, Store};
use crate::sorted::SortedSet;

/// Reserves one address of range set number `index`: the `wanted` one, or the next that is free. An attachment that
/// already `held` one of the set is refused the latter, unless that was in a namespace or boot that has ended: then it gets
/// the same address again. Addresses of others that have ended are taken when there are no others.
pub fn allocate(
    store: &mut Store,
    set: &RangeSet,
    index: usize,
    wanted: Option<IpAddr>,
    attachment: &Attachment,
    held: &Held,
) -> Result<IpConfig> {
    let (range, address) = match wanted {
        Some(address) => (reserve_wanted(store, set, address, attachment)?, address),
        None => match reserve_again(store, set, attachment, held)? {
            Some(again) => again,
            None => reserve_next(store, set, index, attachment)?,
        },
    };
    store.set_last_reserved(index, address);
    Ok(IpConfig { interface: None, address: range.with_prefix(address), gateway: Some(range.gateway()) })
}

/// True when [`allocate`] would find an address in range set number `index`. As a rule this costs the same however many
/// reservations there are.
pub fn has_room(store: &mut Store, set: &RangeSet, index: usize) -> Result<bool> {
    let last = store.last_reserved(index);
    if store.count().is_some_and(|count| u128::from(count) < set.size())
        || set.candidates(last).take(PATIENCE).any(|(_, address)| store.is_free(address))
    {
        return Ok(true);
    }
    let taken = store.taken()?;
    let mut rest = set.candidates(last).skip(PATIENCE).map(|(_, address)| address);
    if rest.any(|address| !taken.contains(&address) && store.is_free(address)) {
        return Ok(true);
    }
    // Traces of crashes, then, and what is over.
    let empty = taken.as_slice().iter().any(|address| set.offers(*address) && store.is_free(*address));
    Ok(empty || store.reclaimable()?.into_iter().any(|address| set.offers(address)))
}

/// The error when there is nothing left.
pub fn exhausted(set: &RangeSet) -> Error {
    Error::internal(format!("no IP addresses available in range set: {set}"))
}

/// Taken addresses to try one by one before the whole directory is read.
const PATIENCE: usize = 16;

fn reserve_wanted<'s>(
    store: &mut Store,
    set: &'s RangeSet,
    address: IpAddr,
    attachment: &Attachment,
) -> Result<&'s Range> {
    let outside = || Error::internal(format!("{address} not in range set {set}"));
    let range = set.range_of(address).ok_or_else(outside)?;
    if address == range.gateway() {
        return Err(Error::internal(format!("requested ip {address} is subnet's gateway")));
    }
    let reserved = store.reserve(address, attachment)?
        || store.reclaim_one(address, attachment)? && store.reserve(address, attachment)?;
    if !reserved {
        let msg = format!("requested IP address {address} is not available in range set {set}");
        return Err(Error::internal(msg));
    }
    Ok(range)
}

fn reserve_again<'s>(
    store: &mut Store,
    set: &'s RangeSet,
    attachment: &Attachment,
    held: &Held,
) -> Result<Option<(&'s Range, IpAddr)>> {
    let mut again = None;
    for address in held.all() {
        let Some(range) = set.range_of(address) else { continue };
        if !store.reclaim_one(address, attachment)? {
            let id = attachment.id();
            let msg = format!("{address} has been allocated to {id}, duplicate allocation is not allowed");
            return Err(Error::internal(msg));
        }
        // Of several the first, unless it has become the gateway.
        again = again.or_else(|| set.offers(address).then_some((range, address)));
    }
    let Some((_, address)) = again else { return Ok(None) };
    let reserved = store.reserve(address, attachment)?;
    Ok(again.filter(|_| reserved))
}

fn reserve_next<'s>(
    store: &mut Store,
    set: &'s RangeSet,
    index: usize,
    attachment: &Attachment,
) -> Result<(&'s Range, IpAddr)> {
    if let Some(found) = search(store, set, index, attachment)? {
        return Ok(found);
    }
    let found = if store.reclaim(attachment)? { search(store, set, index, attachment)? } else { None };
    found.ok_or_else(|| exhausted(set))
}

fn search<'s>(
    store: &mut Store,
    set: &'s RangeSet,
    index: usize,
    attachment: &Attachment,
) -> Result<Option<(&'s Range, IpAddr)>> {
    let last = store.last_reserved(index);
    let tried = first_free(store, set.candidates(last).take(PATIENCE), attachment, &SortedSet::new(Vec::new()))?;
    if tried.is_some() {
        return Ok(tried);
    }
    let taken = store.taken()?;
    let untaken = first_free(store, set.candidates(last).skip(PATIENCE), attachment, &taken)?;
    if untaken.is_some() {
        return Ok(untaken);
    }
    // Nothing is left but files that a crash has left empty.
    first_free(store, set.candidates(last).skip(PATIENCE), attachment, &SortedSet::new(Vec::new()))
}

/// Reserves the first candidate that is neither in `taken` nor turns out to be.
fn first_free<'s>(
    store: &mut Store,
    candidates: impl Iterator<Item = (&'s Range, IpAddr)>,
    attachment: &Attachment,
    taken: &SortedSet<IpAddr>,
) -> Result<Option<(&'s Range, IpAddr)>> {
    for (range, address) in candidates {
        if !taken.contains(&address) && store.reserve(address, attachment)? {
            return Ok(Some((range, address)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod tests;
