//! What the extensions of x_tables (matches and targets) and networks look like in bytes: the same in both kernels'
//! tables. Numbers in them are in host order unless it is said.

mod read;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
pub(super) use read::{read_match, read_target};

use crate::firewall::rule::{Family, Match, Protocol, Rule, Target};

/// A match or target of x_tables.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extension {
    /// Its name.
    pub(super) name: &'static str,
    /// Which layout `info` has.
    pub(super) revision: u8,
    /// What it is given. The backends pad it to a multiple of 8 bytes.
    pub(super) info: Vec<u8>,
}

/// `struct xt_conntrack_mtinfo3`: its length, and where the flags of what is compared and the states are.
const CONNTRACK_LENGTH: usize = 164;
const CONNTRACK_MATCH_FLAGS: usize = 146;
const CONNTRACK_STATES: usize = 150;
/// `XT_CONNTRACK_STATE`
const CONNTRACK_STATE: u16 = 1;

/// `XT_MULTI_PORTS`: most ports of a `multiport` match.
pub(super) const MOST_PORTS: usize = 15;
/// `XT_MULTIPORT_DESTINATION`
const MULTIPORT_DESTINATION: u8 = 1;
/// `XT_ADDRTYPE` bit of `RTN_LOCAL`.
const ADDRESS_TYPE_LOCAL: u16 = 1 << 2;
/// `XT_SCTP_DEST_PORTS`
const SCTP_DESTINATION_PORTS: u32 = 2;
/// `struct xt_sctp_info`: its length, and where the kinds of chunks and the flags are.
const SCTP_LENGTH: usize = 292;
const SCTP_CHUNK_KINDS: std::ops::Range<usize> = 268..280;
const SCTP_FLAGS: usize = 284;
/// `NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED`
const NAT_ADDRESS_AND_PORT: u32 = 3;

/// Room for the text of a `comment` match (`struct xt_comment_info`).
const COMMENT_INFO_LENGTH: usize = 256;

/// `struct nf_nat_ipv4_multi_range_compat` (20 bytes, padded) that says: one range, and nothing about it.
const MASQUERADE_V4: [u8; 24] = {
    let mut info = [0; 24];
    let one = 1u32.to_ne_bytes();
    (info[0], info[1], info[2], info[3]) = (one[0], one[1], one[2], one[3]);
    info
};

/// `struct nf_nat_range` that says nothing.
const MASQUERADE_V6: [u8; 40] = [0; 40];

/// What the xt target MASQUERADE (revision 0) is given; the same bytes in both kernels.
pub(super) fn masquerade_info(family: Family) -> &'static [u8] {
    match family {
        Family::V4 => &MASQUERADE_V4,
        Family::V6 => &MASQUERADE_V6,
    }
}

/// The extension that says a condition; `None` for one that tables say without.
pub(super) fn match_extension(condition: &Match, rule: &Rule) -> Option<Extension> {
    let (name, revision, info) = match condition {
        Match::DestinationPort(port) => return port_extension(rule.protocol()?, *port),
        Match::DestinationPorts(ports) => ("multiport", 1, multiport(ports)),
        Match::LocalDestination => ("addrtype", 1, address_type()),
        Match::Mark { negated, value, mask } => ("mark", 1, mark(*value, *mask, *negated)),
        Match::ConnectionState(states) => ("conntrack", 3, connection_state(*states)),
        Match::Address { .. } | Match::Interface { .. } | Match::Protocol(_) => return None,
        Match::HardwareSource(_) | Match::DestinationTranslated => return None,
    };
    Some(Extension { name, revision, info })
}

/// The extension that says a comment.
pub(super) fn comment_extension(text: &str) -> Extension {
    Extension { name: "comment", revision: 0, info: comment_info(text).to_vec() }
}

/// The extension that says a target; `None` for those that are a verdict.
pub(super) fn target_extension(target: &Target, family: Family) -> Option<Extension> {
    let (name, revision, info) = match target {
        Target::Masquerade => ("MASQUERADE", 0, masquerade_info(family).to_vec()),
        Target::DestinationNat(to) => ("DNAT", 2, nat_range(*to)),
        Target::SetMark { value, mask } => ("MARK", 2, [value.to_ne_bytes(), mask.to_ne_bytes()].concat()),
        Target::Accept | Target::Drop | Target::Return | Target::Jump(_) | Target::Goto(_) => return None,
    };
    Some(Extension { name, revision, info })
}

/// `--dport` of the match that belongs to the protocol.
fn port_extension(protocol: Protocol, port: u16) -> Option<Extension> {
    let port = port.to_ne_bytes();
    let mut info = Vec::with_capacity(SCTP_LENGTH);
    match protocol {
        // struct xt_tcp, struct xt_udp: source ports from and to, destination ports from and to, options and negations.
        Protocol::Tcp | Protocol::Udp => {
            [[0, 0], [0xff, 0xff], port, port].iter().for_each(|bytes| info.extend_from_slice(bytes));
            info.resize(if protocol == Protocol::Tcp { 12 } else { 10 }, 0);
        }
        Protocol::Sctp => {
            [port, port].iter().for_each(|bytes| info.extend_from_slice(bytes));
            info.resize(SCTP_LENGTH, 0);
            // No kind of chunk is asked for: the first byte of each of four entries.
            info.iter_mut().take(SCTP_CHUNK_KINDS.end).skip(SCTP_CHUNK_KINDS.start).step_by(3).for_each(|b| *b = 0xff);
            put(&mut info, SCTP_FLAGS, &SCTP_DESTINATION_PORTS.to_ne_bytes());
        }
    }
    Some(Extension { name: protocol.name(), revision: 0, info })
}

/// `struct xt_multiport_v1`: flags, count, 15 ports, 15 marks of ranges, negation.
fn multiport(ports: &[u16]) -> Vec<u8> {
    let mut info = vec![MULTIPORT_DESTINATION, ports.len().min(MOST_PORTS) as u8];
    ports.iter().take(MOST_PORTS).for_each(|port| info.extend_from_slice(&port.to_ne_bytes()));
    info.resize(2 + 3 * MOST_PORTS + 1, 0);
    info
}

/// `struct xt_addrtype_info_v1`: source types, destination types, flags.
fn address_type() -> Vec<u8> {
    let mut info = vec![0, 0];
    info.extend_from_slice(&ADDRESS_TYPE_LOCAL.to_ne_bytes());
    info.resize(8, 0);
    info
}

/// `struct xt_mark_mtinfo1`: value, mask, negation.
fn mark(value: u32, mask: u32, negated: bool) -> Vec<u8> {
    let mut info = [value.to_ne_bytes(), mask.to_ne_bytes()].concat();
    info.extend_from_slice(&[negated.into(), 0, 0, 0]);
    info
}

fn connection_state(states: u16) -> Vec<u8> {
    let mut info = vec![0; CONNTRACK_LENGTH];
    put(&mut info, CONNTRACK_MATCH_FLAGS, &CONNTRACK_STATE.to_ne_bytes());
    put(&mut info, CONNTRACK_STATES, &states.to_ne_bytes());
    info
}

/// `struct nf_nat_range2`: flags, first and last address (16 bytes each), first, last and base port (network order).
fn nat_range(to: SocketAddr) -> Vec<u8> {
    let mut info = NAT_ADDRESS_AND_PORT.to_ne_bytes().to_vec();
    let mut address = address_octets(to.ip());
    address.resize(16, 0);
    info.extend_from_slice(&address);
    info.extend_from_slice(&address);
    info.extend_from_slice(&to.port().to_be_bytes());
    info.extend_from_slice(&to.port().to_be_bytes());
    info.resize(44, 0);
    info
}

/// An address in network order.
pub(super) fn address_octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Overwrites bytes; what would lie outside is dropped.
pub(super) fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    let places = bytes.iter_mut().skip(at);
    places.zip(new).for_each(|(place, byte)| *place = *byte);
}

/// What the xt match `comment` (revision 0) is given.
pub(super) fn comment_info(text: &str) -> [u8; COMMENT_INFO_LENGTH] {
    let mut info = [0; COMMENT_INFO_LENGTH];
    // The last byte stays NUL.
    info.iter_mut().take(COMMENT_INFO_LENGTH - 1).zip(text.bytes()).for_each(|(place, byte)| *place = byte);
    info
}

/// The information of an xt extension says the same as `plain`, whatever padding it has.
pub(super) fn is_plain(info: &[u8], plain: &[u8]) -> bool {
    let length = info.len().max(plain.len());
    let padded = |bytes: &[u8], at: usize| bytes.get(at).copied().unwrap_or(0);
    (0..length).all(|at| padded(info, at) == padded(plain, at))
}

/// Network address and mask, in network order.
pub(super) fn octets(network: &IpNet) -> (Vec<u8>, Vec<u8>) {
    match network {
        IpNet::V4(network) => (network.network().octets().to_vec(), network.netmask().octets().to_vec()),
        IpNet::V6(network) => (network.network().octets().to_vec(), network.netmask().octets().to_vec()),
    }
}

/// The length of the prefix that the mask covers; `None` when its bits are not in one run.
pub(super) fn prefix_length(mask: &[u8]) -> Option<u8> {
    let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
    let set: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let full = mask.iter().take_while(|byte| **byte == 0xff).count() as u32 * 8;
    let partial = mask.get((full / 8) as usize).map_or(0, |byte| byte.leading_ones());
    (ones == set && full + partial == set).then_some(set as u8)
}

/// The network whose address starts with these bytes.
pub(super) fn network(family: Family, bytes: &[u8], prefix: u8) -> Option<IpNet> {
    let mut address = [0u8; 16];
    address.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    let address: IpAddr = match family {
        Family::V4 => address.first_chunk::<4>().copied()?.into(),
        Family::V6 => address.into(),
    };
    Some(IpNet::new(address, prefix).ok()?.trunc())
}
