//! Choosing addresses from a range set (`IPAllocator.Get` of the reference's `allocator.go`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::cni::result::IpConfig;
use crate::error::{Error, Result};
use crate::ipam::ranges::{Range, RangeSet};
use crate::ipam::store::{Attachment, Held, Store};

/// Reserves one address of range set number `index`: the `wanted` one, or the next that is free. An attachment that
/// already `held` one of the set is refused the latter.
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
        None => {
            refuse_duplicate(set, attachment, held)?;
            reserve_next(store, set, index, attachment)?
        }
    };
    store.set_last_reserved(index, address);
    Ok(IpConfig { interface: None, address: range.with_prefix(address), gateway: Some(range.gateway()) })
}

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
    if !store.reserve(address, attachment)? {
        let msg = format!("requested IP address {address} is not available in range set {set}");
        return Err(Error::internal(msg));
    }
    Ok(range)
}

fn refuse_duplicate(set: &RangeSet, attachment: &Attachment, held: &Held) -> Result<()> {
    let Some(address) = held.all().find(|address| set.contains(*address)) else { return Ok(()) };
    let id = attachment.id();
    Err(Error::internal(format!("{address} has been allocated to {id}, duplicate allocation is not allowed")))
}

fn reserve_next<'s>(
    store: &mut Store,
    set: &'s RangeSet,
    index: usize,
    attachment: &Attachment,
) -> Result<(&'s Range, IpAddr)> {
    /// Taken addresses to try one by one before the whole directory is read.
    const PATIENCE: usize = 16;
    let last = store.last_reserved(index);
    let tried = first_free(store, set.candidates(last).take(PATIENCE), attachment, &BTreeSet::new())?;
    if let Some(found) = tried {
        return Ok(found);
    }
    let taken = store.taken()?;
    let untaken = first_free(store, set.candidates(last).skip(PATIENCE), attachment, &taken)?;
    if let Some(found) = untaken {
        return Ok(found);
    }
    // Nothing is left but files that a crash has left empty.
    let stale = first_free(store, set.candidates(last).skip(PATIENCE), attachment, &BTreeSet::new())?;
    stale.ok_or_else(|| Error::internal(format!("no IP addresses available in range set: {set}")))
}

/// Reserves the first candidate that is neither in `taken` nor turns out to be.
fn first_free<'s>(
    store: &mut Store,
    candidates: impl Iterator<Item = (&'s Range, IpAddr)>,
    attachment: &Attachment,
    taken: &BTreeSet<IpAddr>,
) -> Result<Option<(&'s Range, IpAddr)>> {
    for (range, address) in candidates {
        if !taken.contains(&address) && store.reserve(address, attachment)? {
            return Ok(Some((range, address)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
