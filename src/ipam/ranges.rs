//! Ranges of addresses as host-local's configuration writes them (`backend/allocator/range.go`, `range_set.go` of the
//! reference): decoded into drafts, then completed and verified. Pure; a range is two bounds, however large.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::Value;

use crate::cni::config::{Object, optional_ip};
use crate::cni::result::parse_cidr;
use crate::cni::version::{self, WITH_LISTS};
use crate::error::{Context, Error, Result};

/// A range as written: nothing is verified but that addresses are addresses.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    subnet: Option<Subnet>,
    start: Option<IpAddr>,
    end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

/// Verified: the subnet leaves at least two host bits, and `start` and `end` lie inside it in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    subnet: IpNet,
    start: IpAddr,
    end: IpAddr,
    gateway: IpAddr,
}

/// One or more ranges of one family without overlap, of which an attachment gets one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

#[derive(Debug, Clone)]
enum Subnet {
    Plain(IpNet),
    /// A v4-mapped v6 subnet, which the reference reads but cannot allocate from.
    Mapped(Ipv4Addr, u8),
}

impl Draft {
    /// Decodes `subnet`, `rangeStart`, `rangeEnd` and `gateway` of an object. An empty address counts as missing.
    pub fn decode(object: &Object<'_>) -> Result<Draft> {
        Ok(Draft {
            subnet: object.parsed("subnet", parse_subnet)?,
            start: optional_ip(object, "rangeStart")?,
            end: optional_ip(object, "rangeEnd")?,
            gateway: optional_ip(object, "gateway")?,
        })
    }

    /// Decodes a list of range sets, each a list of ranges.
    pub fn decode_sets(object: &Object<'_>, key: &str) -> Result<Vec<Vec<Draft>>> {
        let decode_set = |(index, value): (usize, &_)| match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(items) => {
                let ranges = object.objects_in(&format!("{key}[{index}]"), items)?;
                ranges.iter().map(Draft::decode).collect()
            }
            other => Err(object.mistyped(key, other, "list")),
        };
        object.list(key)?.iter().enumerate().map(decode_set).collect()
    }

    /// False for the legacy single range of a configuration that only uses `ranges`.
    pub fn has_subnet(&self) -> bool {
        self.subnet.is_some()
    }

    /// Fills in what is missing and verifies, in the reference's order.
    fn complete(&self) -> Result<Range> {
        let subnet = self.verified_subnet()?;
        let first = successor(subnet.network());
        let start = self.start.unwrap_or(first);
        let outside = |bound, ip| Err(Error::internal(format!("{bound} {ip} not in network {subnet}")));
        let behind_end = self.end.is_some_and(|end| end.is_ipv4() == start.is_ipv4() && start > end);
        if self.start.is_some() && (!subnet.contains(&start) || behind_end) {
            return outside("RangeStart", start);
        }
        let end = self.end.unwrap_or_else(|| last_of(&subnet));
        if self.end.is_some() && (!subnet.contains(&end) || end < start) {
            return outside("RangeEnd", end);
        }
        if start > end {
            let details = format!("rangeEnd, which is missing, would be {end}");
            return outside("RangeStart", start).map_err(|error| error.with_details(details));
        }
        if start.is_unspecified() || (start.is_ipv6() && start.is_multicast()) {
            return Err(Error::internal(format!("RangeStart {start} is no address of an interface")));
        }
        Ok(Range { subnet, start, end, gateway: self.gateway.unwrap_or(first) })
    }

    fn verified_subnet(&self) -> Result<IpNet> {
        const HOST_BITS: u8 = 2;
        const MAPPED_BITS: u8 = 96;
        let too_small = |network: &dyn fmt::Display| format!("Network {network} too small to allocate from");
        let subnet = self.subnet.as_ref().ok_or_else(|| Error::internal("IP <nil> not v4 nor v6"))?;
        let problem = match subnet {
            Subnet::Plain(net) if net.max_prefix_len() - net.prefix_len() < HOST_BITS => too_small(net),
            Subnet::Plain(net) if net.addr() != net.network() => {
                let (bits, network) = (net.prefix_len(), net.network());
                format!(
                    "Network has host bits set. For a subnet mask of length {bits} the network address is {network}"
                )
            }
            Subnet::Plain(net) => return Ok(*net),
            Subnet::Mapped(ip, bits) if *bits > 128 - HOST_BITS => {
                let net = IpNet::new((*ip).into(), bits - MAPPED_BITS).unwrap_or_else(|_| IpAddr::V4(*ip).into());
                too_small(&net)
            }
            Subnet::Mapped(..) => "IPNet IP and Mask version mismatch".to_string(),
        };
        Err(Error::internal(problem))
    }
}

impl Range {
    /// First address that may be handed out.
    pub fn start(&self) -> IpAddr {
        self.start
    }

    /// Last address that may be handed out.
    pub fn end(&self) -> IpAddr {
        self.end
    }

    /// The gateway to tell containers; it is never handed out from this range, and may lie outside it.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// An address with the prefix length of the range's subnet.
    pub fn with_prefix(&self, address: IpAddr) -> IpNet {
        IpNet::new(address, self.subnet.prefix_len()).unwrap_or_else(|_| address.into())
    }

    /// True for an address from `start` to `end`.
    pub fn contains(&self, address: IpAddr) -> bool {
        (self.start..=self.end).contains(&address)
    }

    fn size(&self) -> u128 {
        let difference = match (self.start, self.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => u128::from(end.to_bits().saturating_sub(start.to_bits())),
            (IpAddr::V6(start), IpAddr::V6(end)) => end.to_bits().saturating_sub(start.to_bits()),
            _ => 0,
        };
        difference.saturating_add(u128::from(!self.contains(self.gateway)))
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

impl RangeSet {
    /// The ranges, in the order of the configuration; never empty.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// True for an address inside one of the ranges.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.range_of(address).is_some()
    }

    /// True for an address that may be handed out: it is inside, and not its range's gateway.
    pub fn offers(&self, address: IpAddr) -> bool {
        self.range_of(address).is_some_and(|range| range.gateway != address)
    }

    /// How many addresses may be handed out.
    pub fn size(&self) -> u128 {
        self.0.iter().map(Range::size).fold(0, u128::saturating_add)
    }

    /// The range that contains the address.
    pub fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(address))
    }

    fn complete(drafts: &[Draft]) -> Result<RangeSet> {
        let mut ranges: Vec<Range> = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let range = draft.complete()?;
            if ranges.first().is_some_and(|first| first.start.is_ipv4() != range.start.is_ipv4()) {
                return Err(Error::internal("mixed address families"));
            }
            ranges.push(range);
        }
        if ranges.is_empty() {
            return Err(Error::internal("empty range set"));
        }
        if are_apart(&ranges) {
            return Ok(RangeSet(ranges));
        }
        match first_pair(&ranges, Range::overlaps) {
            None => Ok(RangeSet(ranges)),
            Some(((_, one), (_, other))) => Err(Error::internal(format!("subnets {one} and {other} overlap"))),
        }
    }

    fn overlaps(&self, other: &RangeSet) -> bool {
        self.0.iter().any(|one| other.0.iter().any(|two| one.overlaps(two)))
    }

    fn is_ipv4(&self) -> bool {
        self.0.first().is_some_and(|range| range.start.is_ipv4())
    }
}

impl fmt::Display for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.start, self.end)
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(Range::to_string).collect();
        out.write_str(&texts.join(","))
    }
}

/// Completes and verifies all range sets of a configuration of this `cniVersion` (as written), in the reference's order
/// and with its texts.
pub fn complete(drafts: &[Vec<Draft>], cni_version: &str) -> Result<Vec<RangeSet>> {
    if drafts.is_empty() {
        return Err(Error::internal("no IP ranges specified"));
    }
    let mut sets = Vec::with_capacity(drafts.len());
    for (index, drafts) in drafts.iter().enumerate() {
        sets.push(RangeSet::complete(drafts).with_context(|| format!("invalid range set {index}"))?);
    }
    verify_families(sets.iter().map(RangeSet::is_ipv4), cni_version)?;
    if are_apart(sets.iter().flat_map(RangeSet::ranges)) {
        return Ok(sets);
    }
    match first_pair(&sets, RangeSet::overlaps) {
        None => Ok(sets),
        Some(((one, _), (other, _))) => Err(Error::internal(format!("range set {one} overlaps with {other}"))),
    }
}

/// Results before 0.3.0 hold one address of each family. `v4` tells of each address whether it is IPv4.
pub fn verify_families(v4: impl Iterator<Item = bool>, cni_version: &str) -> Result<()> {
    let (v4, v6): (Vec<bool>, Vec<bool>) = v4.partition(|v4| *v4);
    if v4.len().max(v6.len()) < 2 || version::at_least(cni_version, WITH_LISTS) {
        return Ok(());
    }
    Err(Error::internal(format!("CNI version {cni_version} does not support more than 1 address per family")))
}

/// The address after this one; the last wraps around to the first.
pub fn successor(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(1)).into(),
    }
}

/// The last address to hand out: not the broadcast address of IPv4.
fn last_of(subnet: &IpNet) -> IpAddr {
    match subnet.broadcast() {
        IpAddr::V4(broadcast) => Ipv4Addr::from_bits(broadcast.to_bits().wrapping_sub(1)).into(),
        last => last,
    }
}

fn parse_subnet(text: &str) -> Result<Subnet> {
    match read_mapped(text) {
        Some((ip, bits)) => Ok(Subnet::Mapped(ip, bits)),
        None => parse_cidr(text).map(Subnet::Plain),
    }
}

fn read_mapped(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let bits = bits.parse().ok().filter(|bits| *bits <= 128)?;
    Some((address.to_ipv4_mapped()?, bits))
}

/// True if no two ranges overlap, in one look at all of them in order: there may be thousands.
fn are_apart<'r>(ranges: impl IntoIterator<Item = &'r Range>) -> bool {
    let mut bounds: Vec<(IpAddr, IpAddr)> = ranges.into_iter().map(|range| (range.start, range.end)).collect();
    bounds.sort_unstable();
    bounds.iter().zip(bounds.iter().skip(1)).all(|(one, next)| one.1 < next.0)
}

type Pair<'a, T> = ((usize, &'a T), (usize, &'a T));

/// The first two items, with their positions, of which `related` is true.
fn first_pair<T>(items: &[T], related: impl Fn(&T, &T) -> bool) -> Option<Pair<'_, T>> {
    let indexed = || items.iter().enumerate();
    indexed().find_map(|one| {
        let other = indexed().skip(one.0 + 1).find(|other| related(one.1, other.1))?;
        Some((one, other))
    })
}

#[cfg(test)]
mod tests;
