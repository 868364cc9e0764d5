//! Extensions read by meaning, in each layout that programs in use write. `None` is what we don't understand.

use std::net::{IpAddr, SocketAddr};

use super::{
    ADDRESS_TYPE_LOCAL, CONNTRACK_LENGTH, CONNTRACK_STATES, Extension, MOST_PORTS, MULTIPORT_DESTINATION,
    NAT_ADDRESS_AND_PORT, SCTP_FLAGS, SCTP_LENGTH, address_octets, address_type, connection_state, is_plain, mark,
    masquerade_info, multiport, port_extension,
};
use crate::firewall::rule::{Family, Match, Protocol, Target};

/// The condition that a match says, unless it is a comment.
pub(in crate::firewall) fn read_match(name: &str, revision: u8, info: &[u8]) -> Option<Match> {
    match (name, revision) {
        ("tcp", 0) => read_port(Protocol::Tcp, info),
        ("udp", 0) => read_port(Protocol::Udp, info),
        ("sctp", 0) => read_port(Protocol::Sctp, info),
        ("multiport", 1) => read_multiport(info),
        ("addrtype", 1) => {
            let flags_aside = is_plain(info, &address_type()) && u16_at(info, 2)? == ADDRESS_TYPE_LOCAL;
            flags_aside.then_some(Match::LocalDestination)
        }
        ("mark", 1) => {
            let (value, mask, negated) = (u32_at(info, 0)?, u32_at(info, 4)?, *info.get(8)? != 0);
            is_plain(info, &self::mark(value, mask, negated)).then_some(Match::Mark { negated, value, mask })
        }
        // Revisions 1 to 3 differ in what we don't use; states are 8 bits in revision 1, which nobody writes any more.
        ("conntrack", 2 | 3) if info.len() >= CONNTRACK_LENGTH - 8 => {
            let states = u16_at(info, CONNTRACK_STATES)?;
            is_plain(info, &connection_state(states)).then_some(Match::ConnectionState(states))
        }
        _ => None,
    }
}

/// The target that an extension says.
pub(in crate::firewall) fn read_target(name: &str, revision: u8, info: &[u8], family: Family) -> Option<Target> {
    match (name, revision) {
        ("MASQUERADE", 0) => is_plain(info, masquerade_info(family)).then_some(Target::Masquerade),
        ("MARK", 2) => {
            let (value, mask) = (u32_at(info, 0)?, u32_at(info, 4)?);
            Some(Target::SetMark { value, mask })
        }
        ("DNAT", _) => read_nat(revision, info, family).map(Target::DestinationNat),
        _ => None,
    }
}

/// A match on exactly one destination port.
fn read_port(protocol: Protocol, info: &[u8]) -> Option<Match> {
    let at = match protocol {
        Protocol::Tcp | Protocol::Udp => 4,
        Protocol::Sctp => 0,
    };
    let port = u16_at(info, at)?;
    let Extension { info: plain, .. } = port_extension(protocol, port)?;
    if protocol == Protocol::Sctp {
        // What is behind the flags that say what is compared means nothing without them.
        let same = |range: std::ops::Range<usize>| info.get(range.clone()) == plain.get(range);
        return (same(0..4) && same(SCTP_FLAGS..SCTP_LENGTH)).then_some(Match::DestinationPort(port));
    }
    is_plain(info, &plain).then_some(Match::DestinationPort(port))
}

fn read_multiport(info: &[u8]) -> Option<Match> {
    let (flags, count) = (*info.first()?, usize::from(*info.get(1)?));
    if flags != MULTIPORT_DESTINATION || count > MOST_PORTS {
        return None;
    }
    let ports: Vec<u16> = (0..count).map(|index| u16_at(info, 2 + 2 * index)).collect::<Option<_>>()?;
    is_plain(info, &multiport(&ports)).then_some(Match::DestinationPorts(ports))
}

/// Where DNAT leads, if that is one address and one port.
fn read_nat(revision: u8, info: &[u8], family: Family) -> Option<SocketAddr> {
    let length = match family {
        Family::V4 => 4,
        Family::V6 => 16,
    };
    // Revision 0 of IPv4 has a count of ranges first and packs its addresses; all others have 16 bytes for each.
    let (start, size) = if revision == 0 && family == Family::V4 { (4, 4) } else { (0, 16) };
    let field = |at: usize, length: usize| info.get(start + at..start + at + length);
    let (address, port) = (field(4, length)?, field(4 + 2 * size, 2)?);
    let one = field(0, 4)? == NAT_ADDRESS_AND_PORT.to_ne_bytes()
        && address == field(4 + size, length)?
        && port == field(6 + 2 * size, 2)?;
    let address: IpAddr = match family {
        Family::V4 => address.first_chunk::<4>().copied()?.into(),
        Family::V6 => address.first_chunk::<16>().copied()?.into(),
    };
    let to = SocketAddr::new(address, u16::from_be_bytes(port.try_into().ok()?));
    (one && address_octets(address).len() == length).then_some(to)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}
