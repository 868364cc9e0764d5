//! Next hops of a route that has several: `RTA_MULTIPATH`, an array of `struct rtnexthop` with attributes.

use std::net::IpAddr;

use crate::net::addresses::ip_from;
use crate::netlink::Attributes;
use crate::netlink::route::RTA_GATEWAY;

/// Length of `struct rtnexthop` in bytes: length, flags, hops, index of the link.
const NEXT_HOP: usize = 8;
/// Of the flags of a next hop the only one that is a wish (`RTNH_F_ONLINK`); the others are states.
const ONLINK: u8 = 4;

/// Each next hop with its link.
fn hops(mut rest: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    std::iter::from_fn(move || {
        let &[low, high, _, _, index @ ..] = rest.first_chunk::<NEXT_HOP>()?;
        let length = usize::from(u16::from_ne_bytes([low, high])).next_multiple_of(4);
        let (hop, behind) = rest.split_at_checked(length).filter(|_| length >= NEXT_HOP)?;
        rest = behind;
        Some((u32::from_ne_bytes(index), hop))
    })
}

/// The next hops through a link, fit for a request.
pub(super) fn hops_of(all: &[u8], link: u32) -> Vec<u8> {
    let mut kept = Vec::new();
    for (_, hop) in hops(all).filter(|(index, _)| *index == link) {
        let flags = kept.len() + 2;
        kept.extend_from_slice(hop);
        kept.iter_mut().skip(flags).take(1).for_each(|flags| *flags &= ONLINK);
    }
    kept
}

/// The links of the next hops, each once.
pub(super) fn links_of(all: &[u8]) -> Vec<u32> {
    let mut links: Vec<u32> = hops(all).map(|(link, _)| link).collect();
    links.sort_unstable();
    links.dedup();
    links
}

/// The address of the first next hop.
pub(super) fn gateway_of(all: &[u8], family: u8) -> Option<IpAddr> {
    let (_, hop) = hops(all).next()?;
    ip_from(family, Attributes::after(hop, NEXT_HOP).ok()?.find(RTA_GATEWAY)?.payload)
}
