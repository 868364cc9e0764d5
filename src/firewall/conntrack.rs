//! Forgetting UDP flows. The kernel translates only the first packet of a flow by the rules and goes on as it did then for
//! as long as packets come. A client that keeps sending to a host port would thus be led for ever to the container that
//! had the port before, or, when there was none, to the host. TCP has an end, and clients start anew.

use std::net::IpAddr;

use crate::error::{Context, Errno, Error, Result};
use crate::firewall::rule::Family;
use crate::netlink::conntrack::*;
use crate::netlink::nftables::{NFPROTO_IPV4, NFPROTO_IPV6};
use crate::netlink::{Attribute, Attributes, Connection, Message, Reply};
use crate::sorted::SortedSet;
use crate::sys::socket::Protocol;

/// Length of `struct nfgenmsg` in bytes.
const NFGENMSG: usize = 4;

/// Where the first packet of a flow was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// The UDP port.
    pub port: u16,
    /// The address; `None` for every address of this host.
    pub address: Option<IpAddr>,
}

/// A flow as far as we need it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flow {
    address: IpAddr,
    port: u16,
    /// What names it to the kernel: attributes as they came.
    names: Vec<(u16, Vec<u8>)>,
}

/// Forgets the UDP flows of a family to these destinations, and says how many those were. `is_local` tells whether an
/// address is one of this host's; it is asked only about destinations of flows to a port without an address. A kernel that
/// tracks nothing has nothing to forget.
pub fn forget_udp(
    family: Family,
    destinations: &[Destination],
    mut is_local: impl FnMut(IpAddr) -> Result<bool>,
) -> Result<usize> {
    let of_family = |address: IpAddr| Family::of_address(address) == family;
    let mut destinations: Vec<_> = destinations.iter().copied().filter(|to| to.address.is_none_or(of_family)).collect();
    destinations.sort_unstable();
    if destinations.is_empty() {
        return Ok(0);
    }
    match try_forget(family, &destinations, &mut is_local) {
        // nfnetlink refuses a subsystem that it doesn't have with EINVAL.
        Err(error) if [Errno::EINVAL, Errno::EPROTONOSUPPORT, Errno::EOPNOTSUPP].into_iter().any(|no| error.is(no)) => {
            Ok(0)
        }
        done => done.context("failed to forget UDP flows"),
    }
}

fn try_forget(
    family: Family,
    destinations: &[Destination],
    is_local: &mut impl FnMut(IpAddr) -> Result<bool>,
) -> Result<usize> {
    let mut connection = Connection::open(Protocol::Netfilter)?;
    let ports = SortedSet::new(destinations.iter().map(|to| to.port).collect());
    let mut forgotten = 0;
    for flow in flows(&mut connection, family, &ports)? {
        if is_to(&flow, destinations, is_local)? && delete(&mut connection, family, &flow)? {
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

/// The UDP flows to these ports.
fn flows(connection: &mut Connection, family: Family, ports: &SortedSet<u16>) -> Result<Vec<Flow>> {
    connection.dump(&dump_request(family), Vec::new, |flows, reply: Reply<'_>| {
        flows.extend(parse(reply.body)?.filter(|flow| ports.contains(&flow.port)));
        Ok(())
    })
}

/// The destinations are sorted.
fn is_to(flow: &Flow, destinations: &[Destination], is_local: &mut impl FnMut(IpAddr) -> Result<bool>) -> Result<bool> {
    let first = destinations.partition_point(|to| to.port < flow.port);
    let mut to_port = destinations.iter().skip(first).take_while(|to| to.port == flow.port);
    if to_port.clone().any(|to| to.address == Some(flow.address)) {
        return Ok(true);
    }
    Ok(to_port.any(|to| to.address.is_none()) && is_local(flow.address)?)
}

/// True unless it was gone already.
fn delete(connection: &mut Connection, family: Family, flow: &Flow) -> Result<bool> {
    match connection.request(delete_request(family, flow)) {
        Err(error) if error.is(Errno::ENOENT) => Ok(false),
        result => result.map(|()| true),
    }
}

/// Asks for the UDP flows only; kernels before 5.8 tell about all.
fn dump_request(family: Family) -> Message {
    let mut message = request(IPCTNL_MSG_CT_GET, family);
    message.nested(CTA_TUPLE_ORIG, |tuple| {
        tuple.nested(CTA_TUPLE_PROTO, |protocol| _ = protocol.u8(CTA_PROTO_NUM, IPPROTO_UDP));
    });
    message.nested(CTA_FILTER, |filter| _ = filter.u32(CTA_FILTER_ORIG_FLAGS, CTA_FILTER_F_CTA_PROTO_NUM));
    message
}

/// Names the flow by what it is and by its number, so that another one that took its place meanwhile stays.
fn delete_request(family: Family, flow: &Flow) -> Message {
    let mut message = request(IPCTNL_MSG_CT_DELETE, family);
    for (kind, payload) in &flow.names {
        match *kind {
            CTA_TUPLE_ORIG => message.nested(CTA_TUPLE_ORIG, |tuple| _ = tuple.raw(payload)),
            kind => message.attribute(kind, payload),
        };
    }
    message
}

fn request(kind: u16, family: Family) -> Message {
    let mut message = Message::new(kind, 0);
    message.raw(&[if family == Family::V4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 }, 0, 0, 0]);
    message
}

/// A flow of a dump; `None` when it is not UDP.
fn parse(body: &[u8]) -> Result<Option<Flow>> {
    let attributes = Attributes::after(body, NFGENMSG)?;
    let tuple = attributes.find(CTA_TUPLE_ORIG).ok_or_else(|| Error::internal("a tracked flow without an origin"))?;
    let tuple = tuple.nested()?;
    let nested = |kind| tuple.find(kind).map(Attribute::nested).transpose();
    let (Some(ip), Some(protocol)) = (nested(CTA_TUPLE_IP)?, nested(CTA_TUPLE_PROTO)?) else { return Ok(None) };
    if protocol.find(CTA_PROTO_NUM).and_then(Attribute::u8) != Some(IPPROTO_UDP) {
        return Ok(None);
    }
    let port =
        protocol.find(CTA_PROTO_DST_PORT).and_then(|port| Some(u16::from_be_bytes(port.payload.try_into().ok()?)));
    let names = [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID].into_iter().filter_map(|kind| attributes.find(kind));
    let names = names.map(|attribute| (attribute.kind, attribute.payload.to_vec())).collect();
    Ok(destination(ip).zip(port).map(|(address, port)| Flow { address, port, names }))
}

fn destination(ip: Attributes<'_>) -> Option<IpAddr> {
    let v4 = || Some(IpAddr::from(<[u8; 4]>::try_from(ip.find(CTA_IP_V4_DST)?.payload).ok()?));
    let v6 = || Some(IpAddr::from(<[u8; 16]>::try_from(ip.find(CTA_IP_V6_DST)?.payload).ok()?));
    v4().or_else(v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow from 10.0.0.1:5000 to 192.168.0.2:8081 as kernel 6.18 tells it, without what we skip.
    #[rustfmt::skip]
    const FLOW: [u8; 76] = [
        2, 0, 0, 0,                         // nfgenmsg: IPv4
        52, 0, 1, 0x80,                     // CTA_TUPLE_ORIG
        20, 0, 1, 0x80,                     //   CTA_TUPLE_IP
        8, 0, 1, 0, 10, 0, 0, 1,            //     CTA_IP_V4_SRC
        8, 0, 2, 0, 192, 168, 0, 2,         //     CTA_IP_V4_DST
        28, 0, 2, 0x80,                     //   CTA_TUPLE_PROTO
        5, 0, 1, 0, 17, 0, 0, 0,            //     CTA_PROTO_NUM: UDP
        6, 0, 2, 0, 0x13, 0x88, 0, 0,       //     CTA_PROTO_SRC_PORT
        6, 0, 3, 0, 0x1f, 0x91, 0, 0,       //     CTA_PROTO_DST_PORT
        8, 0, 3, 0, 0, 0, 1, 0x8e,          // CTA_STATUS
        8, 0, 12, 0, 1, 2, 3, 4,            // CTA_ID
        4, 0, 8, 0,                         // CTA_MARK
    ];

    #[test]
    fn a_dump_asks_for_udp_only() {
        #[rustfmt::skip]
        let golden = [
            10, 0, 0, 0,                        // nfgenmsg: IPv6
            16, 0, 1, 0x80, 12, 0, 2, 0x80,     // CTA_TUPLE_ORIG, CTA_TUPLE_PROTO
            5, 0, 1, 0, 17, 0, 0, 0,            //   CTA_PROTO_NUM
            12, 0, 25, 0x80, 8, 0, 1, 0,        // CTA_FILTER, CTA_FILTER_ORIG_FLAGS
            8, 0, 0, 0,                         //   CTA_PROTO_NUM
        ];
        assert_eq!(dump_request(Family::V6).body(), golden);
    }

    #[test]
    fn a_flow_is_named_as_the_kernel_told_it() {
        let flow = parse(&FLOW).unwrap().unwrap();
        assert_eq!((flow.address.to_string().as_str(), flow.port), ("192.168.0.2", 8081));
        let mut golden = FLOW[..56].to_vec();
        golden.extend([8, 0, 12, 0, 1, 2, 3, 4]);
        assert_eq!(delete_request(Family::V4, &flow).body(), golden);
    }

    #[test]
    fn other_protocols_are_left_alone() {
        let mut tcp = FLOW;
        tcp[36] = 6;
        assert_eq!(parse(&tcp).unwrap(), None);
        assert!(parse(&FLOW[..20]).is_err());
    }

    #[test]
    fn only_flows_to_the_address_or_to_this_host_are_meant() {
        let flow = parse(&FLOW).unwrap().unwrap();
        let is_meant = |port, address: Option<&str>, local: bool| {
            let address = address.map(|address| address.parse().unwrap());
            is_to(&flow, &[Destination { port, address }], &mut |_| Ok(local)).unwrap()
        };
        assert!(is_meant(8081, Some("192.168.0.2"), false) && is_meant(8081, None, true));
        assert!(!is_meant(8081, Some("192.168.0.3"), true) && !is_meant(8081, None, false));
        assert!(!is_meant(8082, Some("192.168.0.2"), true));
    }
}
