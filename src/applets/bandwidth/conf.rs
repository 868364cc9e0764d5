//! The configuration of `bandwidth`.

use ipnet::IpNet;

use crate::cni::result::parse_cidr;
use crate::cni::{Object, Request};
use crate::error::{Context, Error, Result};
use crate::net::traffic::{Limit, Remote, Tbf};

/// Bits in a byte: rates are configured in bits a second, bursts in bits.
const BITS: u64 = 8;
/// A rate without a burst gets the bytes of so much of a second,
const DERIVED_PART: u64 = 50;
/// but no less than ten usual packets,
const LEAST_DERIVED: u64 = 15_000;
/// nor than one of the link's, with so many bytes of header: what does not fit into the bucket never passes it.
const HEADER: u32 = 18;

/// The keys. One of them at the top level, be it null, and those in `runtimeConfig` don't count.
const KEYS: [&str; 4] = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];

/// The same, for lists of networks.
const LISTS: [&str; 2] = ["shapedSubnets", "unshapedSubnets"];

/// A configuration that can be carried out.
#[derive(Debug, Default)]
pub(super) struct Conf {
    /// Towards the container.
    pub(super) ingress: Option<Limit>,
    /// From the container.
    pub(super) egress: Option<Limit>,
    /// The burst of each was not given.
    derived: [bool; 2],
}

impl Conf {
    /// Decodes and refuses what ADD cannot do.
    pub(super) fn of(request: &Request<'_>) -> Result<Conf> {
        const WHAT: &str = "failed to parse network configuration";
        let top = request.config.top();
        let runtime = request.config.runtime().context(WHAT)?;
        let runtime = runtime.map_or(Ok(None), |runtime| runtime.object("bandwidth")).context(WHAT)?;
        let own = KEYS.iter().chain(&LISTS).any(|key| top.has(key)).then_some(top);
        let Some(limits) = own.or(runtime) else { return Ok(Conf::default()) };
        let [ingress_rate, ingress_burst, egress_rate, egress_burst] = numbers(&limits).context(WHAT)?;
        let (subnets, only_listed) = subnets(&limits)?;
        let limit = |rate, burst, remote| {
            let bucket = bucket(rate, burst)?;
            Ok::<_, Error>(bucket.map(|bucket| Limit { bucket, subnets: subnets.clone(), only_listed, remote }))
        };
        Ok(Conf {
            ingress: limit(ingress_rate, ingress_burst, Remote::Source)?,
            egress: limit(egress_rate, egress_burst, Remote::Destination)?,
            derived: [ingress_burst == 0, egress_burst == 0],
        })
    }

    /// Makes derived bursts great enough for the packets of the link.
    pub(super) fn fit(&mut self, mtu: u32) {
        let longest = u64::from(mtu.saturating_add(HEADER));
        for (limit, derived) in [&mut self.ingress, &mut self.egress].into_iter().zip(self.derived) {
            if let Some(Limit { bucket, .. }) = limit.as_mut().filter(|_| derived) {
                *bucket = Tbf::new(bucket.rate, derived_burst(bucket.rate, longest));
            }
        }
    }

    /// Nothing is limited.
    pub(super) fn is_empty(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

/// All four, so that each is checked for its type.
fn numbers(limits: &Object<'_>) -> Result<[u64; 4]> {
    let mut numbers = [0; 4];
    for (number, key) in numbers.iter_mut().zip(KEYS) {
        *number = limits.u64(key)?;
    }
    Ok(numbers)
}

/// The networks, and whether only they are limited.
fn subnets(limits: &Object<'_>) -> Result<(Vec<IpNet>, bool)> {
    let [shaped, unshaped] = LISTS.map(|key| limits.strings(key).context("failed to parse network configuration"));
    let (shaped, unshaped) = (shaped?, unshaped?);
    if !shaped.is_empty() && !unshaped.is_empty() {
        let msg = "unshapedSubnets and shapedSubnets cannot be both specified, one of them should be discarded";
        return Err(Error::internal(msg));
    }
    let only_listed = !shaped.is_empty();
    let parse = |text: &String| {
        let parsed = parse_cidr(text).map(|net| net.trunc());
        parsed.map_err(|error| Error::internal(format!("bad subnet {text:?} provided, details {error}")))
    };
    let list = if only_listed { shaped } else { unshaped };
    Ok((list.iter().map(parse).collect::<Result<Vec<IpNet>>>()?, only_listed))
}

fn bucket(rate: u64, burst: u64) -> Result<Option<Tbf>> {
    if rate == 0 && burst != 0 {
        return Err(Error::internal("if burst is set, rate must also be set"));
    }
    let burst = if burst == 0 { derived_burst(rate / BITS, 0).into() } else { burst / BITS };
    let burst = u32::try_from(burst).ok().filter(|burst| *burst < u32::MAX);
    let burst = burst.ok_or_else(|| Error::internal("burst cannot be more than 4GB"))?;
    match rate {
        0 => Ok(None),
        // Less than a byte a second, or a bucket that nothing fits in: the kernel would refuse it.
        _ if rate < BITS => Err(Error::internal(format!("invalid rate: {rate}"))),
        _ if burst == 0 => Err(Error::internal("invalid burst: less than a byte")),
        _ => Ok(Some(Tbf::new(rate / BITS, burst))),
    }
}

/// The burst in bytes for a rate in bytes a second and packets of this length.
fn derived_burst(rate: u64, longest: u64) -> u32 {
    let burst = (rate / DERIVED_PART).max(LEAST_DERIVED).max(longest);
    u32::try_from(burst).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_without_a_burst_gets_one_of_20_ms() {
        assert_eq!(bucket(80_000_000, 0).unwrap(), Some(Tbf::new(10_000_000, 200_000)));
        assert_eq!(bucket(1_000_000, 0).unwrap(), Some(Tbf::new(125_000, 15_000)));
        assert_eq!(bucket(u64::MAX, 0).unwrap(), Some(Tbf::new(u64::MAX / 8, u32::MAX - 1)));
        assert_eq!(bucket(0, 0).unwrap(), None);
    }

    #[test]
    fn numbers_are_refused_in_the_references_words() {
        let text = |rate, burst| bucket(rate, burst).unwrap_err().msg.clone();
        assert_eq!(text(0, 8), "if burst is set, rate must also be set");
        assert_eq!(text(8, u64::from(u32::MAX) * 8), "burst cannot be more than 4GB");
        assert_eq!(text(8, u64::MAX), "burst cannot be more than 4GB");
        assert_eq!(text(7, 8), "invalid rate: 7");
        assert!(bucket(8, u64::from(u32::MAX) * 8 - 1).is_ok());
    }
}
