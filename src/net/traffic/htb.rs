//! A limit that counts for some remote addresses only: a hierarchy (htb) with one class, `1:30`, where filters or the default
//! send what is limited. Everything else passes it by (`direct`). Handle, class, filters and their priorities are those of
//! the reference's versions 1.5.0 and 1.5.1.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Limit, OURS, TCMSG, Tbf, priority, push_wide, read_rate, selector, split_rate, tcmsg, word, words};
use crate::error::{Context, Result};
use crate::net::Handle;
use crate::netlink::message::{ACK, CREATE, ECHO, EXCL};
use crate::netlink::traffic::*;
use crate::netlink::{Attribute, Attributes, Message};

/// The class of what is limited; its minor number is 0x30.
const LIMITED: u32 = OURS | MINOR;
const MINOR: u32 = 0x30;
/// The reference's class for what is not limited.
const PAST: u32 = OURS | 1;
/// Packets that may wait beside the class.
const DIRECT: u32 = 1000;
/// Bytes that the class may send in its turn, of which there is only one.
const QUANTUM: u32 = 200_000;

/// The side of a packet that the remote address is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// Packets to the container.
    Source,
    /// Packets from it.
    Destination,
}

/// Priority and protocol, class, selector.
type Filter = (u32, u32, Vec<u8>);

/// All that is made for a limit on networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Of the class and its queue. Half made, it is nothing.
    pub(super) bucket: Tbf,
    /// Minor number of the class of packets that no filter sends elsewhere.
    default: u32,
    /// In order.
    filters: Vec<Filter>,
}

impl Hierarchy {
    /// Of the same networks.
    pub(super) fn is_about(&self, limit: &Limit) -> bool {
        let wanted = Hierarchy::from(limit);
        (self.default, &self.filters) == (wanted.default, &wanted.filters)
    }
}

impl From<&Limit> for Hierarchy {
    fn from(limit: &Limit) -> Self {
        let default = if limit.only_listed { 0 } else { MINOR };
        Hierarchy { bucket: limit.bucket, default, filters: filters(limit) }
    }
}

impl Handle {
    /// Limits some of what goes out through a link; `EEXIST` if it has a qdisc.
    pub fn add_htb(&mut self, link: u32, wanted: &Hierarchy) -> Result<()> {
        self.connection.request(qdisc(link, wanted.default))?;
        let mut requests = vec![class(link, &wanted.bucket), leaf(link, &wanted.bucket)];
        requests.extend(wanted.filters.iter().map(|wanted| filter(link, wanted)));
        self.connection.pipeline(requests).map_err(|(_, error)| {
            let _ = self.delete_root(link);
            error
        })
    }

    /// The hierarchy at the root of a link, whose default is known, if it has no classes but ours (and the reference's `1:1`).
    pub(super) fn htb(&mut self, link: u32, default: u32) -> Result<Option<Hierarchy>> {
        let Some(bucket) = self.class_bucket(link)? else { return Ok(None) };
        let mut filters = self.filters(link, OURS, read_filter)?;
        filters.sort();
        // Without a queue of its own the class has one of packets.
        let queue = tcmsg(RTM_GETQDISC, ACK | ECHO, link, 0, LIMITED, 0);
        let limit = self.connection.get(&queue, read_leaf).ok().flatten().unwrap_or(0);
        Ok(Some(Hierarchy { bucket: Tbf { limit, ..bucket }, default, filters }))
    }

    fn class_bucket(&mut self, link: u32) -> Result<Option<Tbf>> {
        let nothing = || Some(Tbf { rate: 0, limit: 0, buffer: 0 });
        let classes = tcmsg(RTM_GETTCLASS, 0, link, 0, 0, 0);
        let listed = self.connection.dump(&classes, nothing, |bucket, reply| {
            match (word(reply.body, 8), word(reply.body, 12)) {
                (LIMITED, TC_H_ROOT) => *bucket = bucket.and(read_class(reply.body)?),
                (PAST, TC_H_ROOT) => {}
                _ => *bucket = None,
            }
            Ok(())
        });
        listed.context("failed to list classes")
    }
}

fn qdisc(link: u32, default: u32) -> Message {
    const VERSION: u32 = 3;
    const RATE_TO_QUANTUM: u32 = 10;
    let mut request = tcmsg(RTM_NEWQDISC, CREATE | EXCL, link, OURS, TC_H_ROOT, 0);
    request.string(TCA_KIND, "htb").container(TCA_OPTIONS, |options| {
        options.attribute(TCA_HTB_INIT, &words(&[VERSION, RATE_TO_QUANTUM, default, 0, 0]));
        options.u32(TCA_HTB_DIRECT_QLEN, DIRECT);
    });
    request
}

fn class(link: u32, bucket: &Tbf) -> Message {
    let ceiling = bucket.rate.saturating_mul(2);
    let ([rate, wide], [ceil, wide_ceil], buffer) = (split_rate(bucket.rate), split_rate(ceiling), bucket.buffer);
    let mut request = tcmsg(RTM_NEWTCLASS, CREATE | EXCL, link, LIMITED, OURS, 0);
    request.string(TCA_KIND, "htb").container(TCA_OPTIONS, |options| {
        let parameters = [0, 0, rate, 0, 0, ceil, buffer, buffer, QUANTUM, 0, 0];
        options.attribute(TCA_HTB_PARMS, &words(&parameters));
        push_wide(options, TCA_HTB_RATE64, bucket.rate, wide);
        push_wide(options, TCA_HTB_CEIL64, ceiling, wide_ceil);
    });
    request
}

/// As many bytes may wait as for a bucket alone. By default it would be as many packets as the link's queue has, which for an
/// ifb is none.
fn leaf(link: u32, bucket: &Tbf) -> Message {
    let mut request = tcmsg(RTM_NEWQDISC, CREATE | EXCL, link, 0, LIMITED, 0);
    request.string(TCA_KIND, "bfifo").u32(TCA_OPTIONS, bucket.limit);
    request
}

fn filter(link: u32, (info, class, selector): &Filter) -> Message {
    let mut request = tcmsg(RTM_NEWTFILTER, CREATE | EXCL, link, 0, OURS, *info);
    request.string(TCA_KIND, "u32").container(TCA_OPTIONS, |options| {
        options.u32(TCA_U32_CLASSID, *class).attribute(TCA_U32_SEL, selector);
    });
    request
}

fn filters(limit: &Limit) -> Vec<Filter> {
    let class = if limit.only_listed { LIMITED } else { OURS };
    let mut filters: Vec<Filter> = limit.subnets.iter().map(|net| wanted_filter(net, class, limit.remote)).collect();
    filters.sort();
    filters
}

fn wanted_filter(net: &IpNet, class: u32, remote: Remote) -> Filter {
    let (info, [source, destination]) = match net {
        IpNet::V4(_) => (priority(16, ETH_P_IP), [12, 16]),
        IpNet::V6(_) => (priority(15, ETH_P_IPV6), [8, 24]),
    };
    let offset = if remote == Remote::Source { source } else { destination };
    let (masks, values) = (numbers(net.netmask()), numbers(net.network()));
    let keys = masks.into_iter().zip(values).zip((offset..).step_by(4));
    let mut keys: Vec<_> = keys.map(|((mask, value), at)| [mask, value, at]).collect();
    keys.retain(|[mask, ..]| *mask != 0);
    if keys.is_empty() {
        keys.push([0; 3]);
    }
    (info, class, selector(&keys))
}

/// An address as numbers of 32 bits.
fn numbers(address: IpAddr) -> Vec<u32> {
    match address {
        IpAddr::V4(address) => vec![address.to_bits()],
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32).to_vec()
        }
    }
}

fn read_class(body: &[u8]) -> Result<Option<Tbf>> {
    let options = Attributes::after(body, TCMSG)?.find(TCA_OPTIONS).and_then(|options| options.nested().ok());
    let bucket = |options: Attributes<'_>| {
        let parameters = options.find(TCA_HTB_PARMS)?.payload;
        Some(Tbf { rate: read_rate(parameters, options.find(TCA_HTB_RATE64)), limit: 0, buffer: word(parameters, 24) })
    };
    Ok(options.and_then(bucket))
}

/// The default class of a hierarchy's options.
pub(super) fn read_default(options: Attributes<'_>) -> Option<u32> {
    Some(word(options.find(TCA_HTB_INIT)?.payload, 8))
}

/// Bytes of a queue that counts them.
fn read_leaf(body: &[u8]) -> Result<u32> {
    let attributes = Attributes::after(body, TCMSG)?;
    let is_ours = attributes.find(TCA_KIND).map(Attribute::text).as_deref() == Some("bfifo");
    Ok(attributes.find(TCA_OPTIONS).and_then(Attribute::u32).filter(|_| is_ours).unwrap_or(0))
}

/// A filter of a dump; hash tables are none.
fn read_filter(body: &[u8]) -> Result<Option<Filter>> {
    let options = Attributes::after(body, TCMSG)?.find(TCA_OPTIONS).and_then(|options| options.nested().ok());
    let Some((options, selector)) = options.and_then(|options| Some((options, options.find(TCA_U32_SEL)?))) else {
        return Ok(None);
    };
    let class = options.find(TCA_U32_CLASSID).and_then(Attribute::u32).unwrap_or(0);
    Ok(Some((word(body, 16), class, selector.payload.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(subnets: &[&str], only_listed: bool) -> Limit {
        let subnets = subnets.iter().map(|net| net.parse().unwrap()).collect();
        Limit { bucket: Tbf::new(250_000, 10_000), subnets, only_listed, remote: Remote::Destination }
    }

    /// What follows `struct tcmsg` in the requests of `tc` 6.1 (`strace`), here and below.
    #[test]
    fn a_hierarchy_with_one_class_and_its_queue() {
        #[rustfmt::skip]
        let golden = [
            8, 0, 1, 0, b'h', b't', b'b', 0, 36, 0, 2, 0,                       // TCA_KIND, TCA_OPTIONS
            24, 0, 2, 0, 3, 0, 0, 0, 10, 0, 0, 0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // TCA_HTB_INIT
            8, 0, 5, 0, 0xe8, 3, 0, 0,                                          // TCA_HTB_DIRECT_QLEN
        ];
        assert_eq!(qdisc(7, MINOR).body()[20..], golden);
        #[rustfmt::skip]
        let golden = [
            0, 0, 0, 0, 7, 0, 0, 0, 0x30, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0,      // tcmsg: link 7, 1:30 below 1:
            8, 0, 1, 0, b'h', b't', b'b', 0, 52, 0, 2, 0, 48, 0, 1, 0,          // TCA_KIND, TCA_OPTIONS, TCA_HTB_PARMS
            0, 0, 0, 0, 0, 0, 0, 0, 0x90, 0xd0, 3, 0,                           // rate 250,000
            0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0xa1, 7, 0,                           // ceiling 500,000
            0x68, 0x89, 9, 0, 0x68, 0x89, 9, 0, 0x40, 0x0d, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, // buffers, quantum
        ];
        let bucket = limit(&[], false).bucket;
        assert_eq!(class(7, &bucket).body(), golden);
        assert_eq!(read_class(&golden).unwrap(), Some(Tbf { limit: 0, ..bucket }));
        let golden = [10, 0, 1, 0, b'b', b'f', b'i', b'f', b'o', 0, 0, 0, 8, 0, 2, 0, 0x7a, 0x3f, 0, 0];
        assert_eq!(leaf(7, &bucket).body()[20..], golden);
    }

    #[test]
    fn a_filter_for_each_subnet() {
        let requests =
            |limit: &Limit| -> Vec<Message> { filters(limit).iter().map(|wanted| filter(7, wanted)).collect() };
        let made = requests(&limit(&["10.0.0.0/8", "fd00:1::/48", "0.0.0.0/0"], true));
        #[rustfmt::skip]
        let golden = [
            0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 16, 0,        // tcmsg: priority 16, IPv4
            8, 0, 1, 0, b'u', b'3', b'2', 0, 48, 0, 2, 0,                       // TCA_KIND, TCA_OPTIONS
            8, 0, 1, 0, 0x30, 0, 1, 0,                                          // TCA_U32_CLASSID 1:30
            36, 0, 5, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,        // TCA_U32_SEL: terminal, 1 key
            255, 0, 0, 0, 10, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0,                 // mask, value, offset
        ];
        assert_eq!(made[2].body(), golden);
        assert_eq!(read_filter(&golden).unwrap().as_ref(), filters(&limit(&["10.0.0.0/8"], true)).first());
        #[rustfmt::skip]
        let golden = [
            0x86, 0xdd, 15, 0,                                                  // priority 15, IPv6
            8, 0, 1, 0, b'u', b'3', b'2', 0, 64, 0, 2, 0,
            8, 0, 1, 0, 0x30, 0, 1, 0,
            52, 0, 5, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,        // 2 keys
            255, 255, 255, 255, 0xfd, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0, 0,
            255, 255, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(made[0].body()[16..], golden);
        assert_eq!(made[1].body()[60..], [0; 16], "everything");
    }

    #[test]
    fn packets_to_the_container_have_the_remote_address_as_their_source() {
        let towards = Limit { remote: Remote::Source, ..limit(&["10.0.0.0/8", "fd00::/16"], false) };
        let filters = filters(&towards);
        let offsets: Vec<u32> = filters.iter().map(|(_, _, selector)| word(selector, 24)).collect();
        assert_eq!(offsets, [8, 12]);
        assert!(filters.iter().all(|(_, class, _)| *class == OURS), "past the class");
    }
}
