//! What a rule does as expressions of nf_tables: those of iptables-nft 1.8.9 in tables of iptables, those of nft 1.0.6 in
//! other tables.

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::firewall::extensions::{
    Extension, address_octets, comment_extension, match_extension, octets, target_extension,
};
use crate::firewall::nf_tables::location::{Location, Manner};
use crate::firewall::rule::{Direction, Family, Match, Protocol, Rule, Side, Target};
use crate::netlink::Message;
use crate::netlink::nftables::*;

/// Extensions of x_tables start and end on multiples of this.
const EXTENSION_ALIGNMENT: usize = 8;
/// Where the destination port is in the headers of tcp, udp and sctp, and its length.
pub(super) const DESTINATION_PORT: (u32, usize) = (2, 2);
/// Where the sender is in the header of an Ethernet frame, and its length.
pub(super) const HARDWARE_SOURCE: (u32, usize) = (6, 6);
/// `RTN_LOCAL`
pub(super) const ROUTE_LOCAL: u32 = 2;
/// `IFNAMSIZ`
const INTERFACE_NAME_LENGTH: usize = 16;

/// Writes the list of a rule's expressions.
pub(super) fn expressions(list: &mut Message, location: &Location, rule: &Rule) {
    let mut writer = Writer { list, location, knows_family: false };
    match location.manner {
        Manner::Iptables(_) => writer.iptables(rule),
        Manner::Native(_) => writer.native(rule),
    }
}

struct Writer<'a> {
    list: &'a mut Message,
    location: &'a Location,
    /// In a table of both families: the rule says already of which its addresses are.
    knows_family: bool,
}

impl Writer<'_> {
    /// In iptables' order, with its comment and its counter.
    fn iptables(&mut self, rule: &Rule) {
        let mut matches: Vec<&Match> = rule.matches.iter().collect();
        matches.sort_by_key(|condition| rank(condition));
        let headers = matches.iter().take_while(|condition| rank(condition) < BEHIND_COMMENT).count();
        let (headers, others) = matches.split_at(headers);
        headers.iter().for_each(|condition| self.condition(condition, rule));
        if let Some(text) = &rule.comment {
            self.extension("match", &comment_extension(text));
        }
        others.iter().for_each(|condition| self.condition(condition, rule));
        self.counter();
        let Some((target, family)) = rule.target.as_ref().zip(self.location.family()) else { return };
        match target_extension(target, family) {
            Some(extension) => self.extension("target", &extension),
            None => self.verdict(target),
        }
    }

    fn native(&mut self, rule: &Rule) {
        rule.matches.iter().for_each(|condition| self.condition(condition, rule));
        match &rule.target {
            Some(Target::Masquerade) => self.expression("masq", |_| {}),
            Some(Target::DestinationNat(to)) => self.destination_nat(*to),
            Some(target) => self.verdict(target),
            None => {}
        }
    }

    fn condition(&mut self, condition: &Match, rule: &Rule) {
        let native = matches!(self.location.manner, Manner::Native(_));
        match condition {
            Match::Address { side, negated, network } => self.address(*side, *negated, network),
            Match::Interface { direction, negated, name } => self.interface(*direction, *negated, name),
            Match::Protocol(protocol) => {
                self.meta(NFT_META_L4PROTO);
                self.compare(false, &[protocol.number()]);
            }
            Match::DestinationPort(port) if native || rule.protocol() != Some(Protocol::Sctp) => {
                self.payload(NFT_PAYLOAD_TRANSPORT_HEADER, DESTINATION_PORT.0, DESTINATION_PORT.1);
                self.compare(false, &port.to_be_bytes());
            }
            Match::Mark { negated, value, mask } => self.mark(*negated, *value, *mask),
            Match::LocalDestination if native => self.local_destination(),
            Match::ConnectionState(states) if native => self.connection_bits(NFT_CT_STATE, u32::from(*states)),
            Match::DestinationTranslated => self.connection_bits(NFT_CT_STATUS, NFT_CT_STATUS_DNAT),
            Match::HardwareSource(address) => {
                self.payload(NFT_PAYLOAD_LL_HEADER, HARDWARE_SOURCE.0, HARDWARE_SOURCE.1);
                self.compare(false, address);
            }
            other => {
                if let Some(extension) = match_extension(other, rule) {
                    self.extension("match", &extension);
                }
            }
        }
    }

    /// Loads the address, or only the bytes that a prefix of whole bytes covers, masks other prefixes, and compares. nft
    /// writes even what any address fulfils.
    fn address(&mut self, side: Side, negated: bool, network: &IpNet) {
        let (bytes, mask) = octets(network);
        let prefix = usize::from(network.prefix_len());
        if prefix == 0 && matches!(self.location.manner, Manner::Iptables(_)) {
            return;
        }
        let family = Family::of(network);
        if self.location.protocols == NFPROTO_INET && !std::mem::replace(&mut self.knows_family, true) {
            self.meta(NFT_META_NFPROTO);
            self.compare(false, &[if family == Family::V4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 }]);
        }
        let whole_bytes = prefix.is_multiple_of(8) && prefix > 0;
        let length = if whole_bytes { prefix / 8 } else { bytes.len() };
        self.payload(NFT_PAYLOAD_NETWORK_HEADER, offset(family, side), length);
        if !whole_bytes {
            self.masked(&mask);
        }
        self.compare(negated, bytes.get(..length).unwrap_or_default());
    }

    /// iptables compares the name with its NUL, nft the whole field.
    fn interface(&mut self, direction: Direction, negated: bool, name: &str) {
        self.meta(match direction {
            Direction::In => NFT_META_IIFNAME,
            Direction::Out => NFT_META_OIFNAME,
        });
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(
            match self.location.manner {
                Manner::Iptables(_) => name.len() + 1,
                Manner::Native(_) => INTERFACE_NAME_LENGTH,
            },
            0,
        );
        self.compare(negated, &bytes);
    }

    fn mark(&mut self, negated: bool, value: u32, mask: u32) {
        self.meta(NFT_META_MARK);
        if mask != u32::MAX {
            self.masked(&mask.to_ne_bytes());
        }
        self.compare(negated, &value.to_ne_bytes());
    }

    fn local_destination(&mut self) {
        self.expression("fib", |data| {
            data.be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR).be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
            data.be32(NFTA_FIB_DREG, NFT_REG_1);
        });
        self.compare(false, &ROUTE_LOCAL.to_ne_bytes());
    }

    /// True when one of the bits is set.
    fn connection_bits(&mut self, key: u32, bits: u32) {
        self.expression("ct", |data| {
            data.be32(NFTA_CT_KEY, key).be32(NFTA_CT_DREG, NFT_REG_1);
        });
        self.masked(&bits.to_ne_bytes());
        self.compare(true, &[0; 4]);
    }

    fn destination_nat(&mut self, to: SocketAddr) {
        self.immediate(NFT_REG_1, &address_octets(to.ip()));
        self.immediate(NFT_REG_2, &to.port().to_be_bytes());
        let family = if to.is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
        self.expression("nat", |data| {
            data.be32(NFTA_NAT_TYPE, NFT_NAT_DNAT).be32(NFTA_NAT_FAMILY, family.into());
            data.be32(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1).be32(NFTA_NAT_REG_PROTO_MIN, NFT_REG_2);
        });
    }

    fn verdict(&mut self, target: &Target) {
        let (code, chain) = match target {
            Target::Accept => (NF_ACCEPT, None),
            Target::Drop => (NF_DROP, None),
            Target::Return => (NFT_RETURN, None),
            Target::Jump(chain) => (NFT_JUMP, Some(chain)),
            Target::Goto(chain) => (NFT_GOTO, Some(chain)),
            Target::Masquerade | Target::DestinationNat(_) | Target::SetMark { .. } => return,
        };
        self.expression("immediate", |data| {
            data.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT).nested(NFTA_IMMEDIATE_DATA, |wrapped| {
                wrapped.nested(NFTA_DATA_VERDICT, |verdict| {
                    verdict.be32(NFTA_VERDICT_CODE, code);
                    if let Some(chain) = chain {
                        verdict.string(NFTA_VERDICT_CHAIN, chain);
                    }
                });
            });
        });
    }

    /// A match or target of x_tables.
    fn extension(&mut self, kind: &str, extension: &Extension) {
        let (name, revision, info_attribute) = match kind {
            "match" => (NFTA_MATCH_NAME, NFTA_MATCH_REV, NFTA_MATCH_INFO),
            _ => (NFTA_TARGET_NAME, NFTA_TARGET_REV, NFTA_TARGET_INFO),
        };
        let mut info = extension.info.clone();
        info.resize(info.len().next_multiple_of(EXTENSION_ALIGNMENT), 0);
        self.expression(kind, |data| {
            data.string(name, extension.name).be32(revision, extension.revision.into());
            data.attribute(info_attribute, &info);
        });
    }

    fn counter(&mut self) {
        self.expression("counter", |data| {
            data.be64(NFTA_COUNTER_BYTES, 0).be64(NFTA_COUNTER_PACKETS, 0);
        });
    }

    fn meta(&mut self, key: u32) {
        self.expression("meta", |data| {
            data.be32(NFTA_META_KEY, key).be32(NFTA_META_DREG, NFT_REG_1);
        });
    }

    fn payload(&mut self, base: u32, offset: u32, length: usize) {
        self.expression("payload", |data| {
            data.be32(NFTA_PAYLOAD_DREG, NFT_REG_1).be32(NFTA_PAYLOAD_BASE, base);
            data.be32(NFTA_PAYLOAD_OFFSET, offset).be32(NFTA_PAYLOAD_LEN, length as u32);
        });
    }

    fn masked(&mut self, mask: &[u8]) {
        self.expression("bitwise", |data| {
            data.be32(NFTA_BITWISE_SREG, NFT_REG_1).be32(NFTA_BITWISE_DREG, NFT_REG_1);
            data.be32(NFTA_BITWISE_LEN, mask.len() as u32);
            data.nested(NFTA_BITWISE_MASK, |wrapped| _ = wrapped.attribute(NFTA_DATA_VALUE, mask));
            let nothing = vec![0; mask.len()];
            data.nested(NFTA_BITWISE_XOR, |wrapped| _ = wrapped.attribute(NFTA_DATA_VALUE, &nothing));
        });
    }

    fn compare(&mut self, negated: bool, value: &[u8]) {
        self.expression("cmp", |data| {
            let operation = if negated { NFT_CMP_NEQ } else { NFT_CMP_EQ };
            data.be32(NFTA_CMP_SREG, NFT_REG_1).be32(NFTA_CMP_OP, operation);
            data.nested(NFTA_CMP_DATA, |wrapped| _ = wrapped.attribute(NFTA_DATA_VALUE, value));
        });
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.expression("immediate", |data| {
            data.be32(NFTA_IMMEDIATE_DREG, register);
            data.nested(NFTA_IMMEDIATE_DATA, |wrapped| _ = wrapped.attribute(NFTA_DATA_VALUE, value));
        });
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Message)) {
        self.list.nested(NFTA_LIST_ELEM, |element| {
            element.string(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, fill);
        });
    }
}

/// Conditions of this rank come behind the comment.
const BEHIND_COMMENT: u32 = 5;

/// The order in which iptables writes conditions, whatever order they are given in.
fn rank(condition: &Match) -> u32 {
    match condition {
        Match::Interface { direction: Direction::In, .. } => 0,
        Match::Interface { direction: Direction::Out, .. } => 1,
        Match::Protocol(_) => 2,
        Match::Address { side: Side::Source, .. } => 3,
        Match::Address { side: Side::Destination, .. } => 4,
        _ => BEHIND_COMMENT,
    }
}

/// Where the address is in the packet's network header.
pub(super) fn offset(family: Family, side: Side) -> u32 {
    match (family, side) {
        (Family::V4, Side::Source) => 12,
        (Family::V4, Side::Destination) => 16,
        (Family::V6, Side::Source) => 8,
        (Family::V6, Side::Destination) => 24,
    }
}
