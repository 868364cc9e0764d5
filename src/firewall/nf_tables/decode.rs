//! Rules of the kernel read by meaning: any way of saying `-s 10.0.0.0/24` is understood, and what says something else
//! makes the rule a foreign one.

use std::net::{IpAddr, SocketAddr};

use super::encode::USER_DATA_NOTE;
use super::expressions::{DESTINATION_PORT, HARDWARE_SOURCE, ROUTE_LOCAL, offset};
use super::location::Location;
use crate::error::{Error, Result};
use crate::firewall::extensions::{network, prefix_length, read_match, read_target};
use crate::firewall::place::StoredRule;
use crate::firewall::rule::{Direction, Family, Match, Protocol, Rule, Side, Target};
use crate::netlink::nftables::*;
use crate::netlink::{Attribute, Attributes};
use crate::sorted::SortedSet;

/// Length of `struct nfgenmsg`.
const HEADER_LENGTH: usize = 4;

/// The attributes behind a message's `struct nfgenmsg`.
pub(super) fn attributes(body: &[u8]) -> Result<Attributes<'_>> {
    Attributes::after(body, HEADER_LENGTH)
}

/// The rule in an `NFT_MSG_NEWRULE` message.
pub(super) fn rule(body: &[u8], location: &Location) -> Result<StoredRule> {
    let attributes = attributes(body)?;
    let id = attributes.find(NFTA_RULE_HANDLE).and_then(Attribute::be64);
    let id = id.ok_or_else(|| Error::internal("rule without a handle from the kernel"))?;
    let mut reader = Reader::new(location.family());
    if let Some(list) = attributes.find(NFTA_RULE_EXPRESSIONS) {
        list.nested()?.for_each(|element| {
            if reader.expression(element).is_none() {
                reader.foreign = true;
            }
        });
    }
    if let Some(data) = attributes.find(NFTA_RULE_USERDATA) {
        reader.user_data(data.payload);
    }
    let foreign = reader.foreign || !reader.registers.is_empty();
    Ok(StoredRule { id, rule: reader.rule, foreign })
}

/// True when the first condition of the rule in an `NFT_MSG_NEWRULE` message is an address, and none of these. Found out in a
/// tenth of the time that [`rule`] takes.
pub(super) fn is_about_another(body: &[u8], addresses: &SortedSet<IpAddr>) -> bool {
    let address = |value: &[u8]| -> Option<IpAddr> {
        let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
    };
    first_compared(body).and_then(address).is_some_and(|address| !addresses.contains(&address))
}

/// What a part of the packet is compared with by the rule's first two expressions, if that is what they do.
fn first_compared(body: &[u8]) -> Option<&[u8]> {
    let mut expressions = attributes(body).ok()?.find(NFTA_RULE_EXPRESSIONS)?.nested().ok()?;
    let (load, compare) = (expressions.next()?.nested().ok()?, expressions.next()?.nested().ok()?);
    let named =
        |expression: Attributes<'_>, name| expression.find(NFTA_EXPR_NAME)?.payload.strip_prefix(name).map(drop);
    named(load, b"payload\0".as_slice())?;
    named(compare, b"cmp\0".as_slice())?;
    value(compare.find(NFTA_EXPR_DATA)?.nested().ok()?, NFTA_CMP_DATA)
}

/// Reads expressions one after another. Each method gives `None` for what it doesn't understand.
struct Reader {
    /// The family of addresses, once it is known.
    family: Option<Family>,
    rule: Rule,
    foreign: bool,
    /// What is in the registers, until it is used.
    registers: Vec<(u32, Loaded)>,
}

/// What a register holds.
struct Loaded {
    what: What,
    length: usize,
    mask: Option<Vec<u8>>,
}

enum What {
    Payload { base: u32, offset: u32 },
    Meta(u32),
    LocalDestination,
    ConnectionState,
    ConnectionStatus,
    Value(Vec<u8>),
}

/// A comparison: is (or, negated, is not) `value`, the bits in `mask` only.
struct Comparison<'a> {
    negated: bool,
    value: &'a [u8],
    mask: Option<Vec<u8>>,
}

impl Reader {
    fn new(family: Option<Family>) -> Self {
        let rule = Rule { matches: Vec::new(), comment: None, note: None, target: None };
        Reader { family, rule, foreign: false, registers: Vec::new() }
    }

    fn expression(&mut self, element: Attribute<'_>) -> Option<()> {
        let element = element.nested().ok()?;
        let name = element.find(NFTA_EXPR_NAME)?.text();
        let data = match element.find(NFTA_EXPR_DATA) {
            Some(data) => data.nested().ok()?,
            None => Attributes::parse(&[]).ok()?,
        };
        match name.as_str() {
            "payload" => self.payload(data),
            "meta" => self.meta(data),
            "ct" if number(data, NFTA_CT_KEY)? == NFT_CT_STATE => {
                self.load(number(data, NFTA_CT_DREG)?, What::ConnectionState, 4)
            }
            "ct" if number(data, NFTA_CT_KEY)? == NFT_CT_STATUS => {
                self.load(number(data, NFTA_CT_DREG)?, What::ConnectionStatus, 4)
            }
            "fib" => self.fib(data),
            "bitwise" => self.bitwise(data),
            "cmp" => self.compare(data),
            "counter" => Some(()),
            "match" => self.xt_match(data),
            "immediate" => self.immediate(data),
            "target" => self.xt_target(data),
            "masq" if data.count() == 0 => self.target(Target::Masquerade),
            "nat" => self.nat(data),
            _ => None,
        }
    }

    fn load(&mut self, register: u32, what: What, length: usize) -> Option<()> {
        let free = self.registers.iter().all(|(used, _)| *used != register);
        self.registers.push((register, Loaded { what, length, mask: None }));
        free.then_some(())
    }

    fn take(&mut self, register: u32) -> Option<Loaded> {
        let at = self.registers.iter().position(|(used, _)| *used == register)?;
        Some(self.registers.swap_remove(at).1)
    }

    fn payload(&mut self, data: Attributes<'_>) -> Option<()> {
        let (base, offset) = (number(data, NFTA_PAYLOAD_BASE)?, number(data, NFTA_PAYLOAD_OFFSET)?);
        let length = number(data, NFTA_PAYLOAD_LEN)? as usize;
        self.load(number(data, NFTA_PAYLOAD_DREG)?, What::Payload { base, offset }, length)
    }

    fn meta(&mut self, data: Attributes<'_>) -> Option<()> {
        let key = number(data, NFTA_META_KEY)?;
        let length = match key {
            NFT_META_NFPROTO | NFT_META_L4PROTO => 1,
            NFT_META_MARK => 4,
            NFT_META_IIFNAME | NFT_META_OIFNAME => 0,
            _ => return None,
        };
        self.load(number(data, NFTA_META_DREG)?, What::Meta(key), length)
    }

    fn fib(&mut self, data: Attributes<'_>) -> Option<()> {
        let about_destination = number(data, NFTA_FIB_RESULT)? == NFT_FIB_RESULT_ADDRTYPE
            && number(data, NFTA_FIB_FLAGS)? == NFTA_FIB_F_DADDR;
        self.load(number(data, NFTA_FIB_DREG)?, What::LocalDestination, 4)?;
        about_destination.then_some(())
    }

    fn bitwise(&mut self, data: Attributes<'_>) -> Option<()> {
        let loaded = self.take(number(data, NFTA_BITWISE_SREG)?)?;
        let (mask, xor) = (value(data, NFTA_BITWISE_MASK)?, value(data, NFTA_BITWISE_XOR)?);
        let sound = xor.iter().all(|byte| *byte == 0)
            && mask.len() == loaded.length
            && loaded.mask.is_none()
            && mask.len() <= 16;
        let masked = Loaded { mask: Some(mask.to_vec()), ..loaded };
        self.registers.push((number(data, NFTA_BITWISE_DREG)?, masked));
        sound.then_some(())
    }

    fn compare(&mut self, data: Attributes<'_>) -> Option<()> {
        let loaded = self.take(number(data, NFTA_CMP_SREG)?)?;
        let value = value(data, NFTA_CMP_DATA)?;
        if loaded.length != 0 && value.len() != loaded.length {
            return None;
        }
        let negated = match number(data, NFTA_CMP_OP)? {
            NFT_CMP_EQ => false,
            NFT_CMP_NEQ => true,
            _ => return None,
        };
        let comparison = Comparison { negated, value, mask: loaded.mask };
        let condition = match loaded.what {
            What::Payload { base: NFT_PAYLOAD_NETWORK_HEADER, offset } => self.address(offset, &comparison)?,
            What::Meta(NFT_META_NFPROTO) => return self.nfproto(&comparison),
            What::Payload { base, offset } => comparison.header(base, offset)?,
            What::Meta(key) => comparison.meta(key)?,
            What::LocalDestination => comparison.local_destination()?,
            What::ConnectionState => comparison.connection_state()?,
            What::ConnectionStatus => comparison.connection_status()?,
            What::Value(_) => return None,
        };
        self.rule.matches.push(condition);
        Some(())
    }

    fn address(&self, at: u32, comparison: &Comparison<'_>) -> Option<Match> {
        let family = self.family?;
        let side = [Side::Source, Side::Destination].into_iter().find(|side| offset(family, *side) == at)?;
        let prefix = match &comparison.mask {
            Some(mask) => prefix_length(mask)?,
            None => u8::try_from(comparison.value.len() * 8).ok()?,
        };
        let network = network(family, comparison.value, prefix)?;
        Some(Match::Address { side, negated: comparison.negated, network })
    }

    /// In tables of both families: which one the addresses that follow are of. It is said again before each of them.
    fn nfproto(&mut self, comparison: &Comparison<'_>) -> Option<()> {
        let family = match comparison.whole()? {
            [NFPROTO_IPV4] => Family::V4,
            [NFPROTO_IPV6] => Family::V6,
            _ => return None,
        };
        let same = *self.family.get_or_insert(family) == family;
        (same && !comparison.negated).then_some(())
    }

    fn xt_match(&mut self, data: Attributes<'_>) -> Option<()> {
        let (name, revision) = (data.find(NFTA_MATCH_NAME)?.text(), number(data, NFTA_MATCH_REV)?);
        let info = data.find(NFTA_MATCH_INFO)?;
        if name == "comment" {
            let first = self.rule.comment.is_none();
            self.rule.comment.get_or_insert(info.text());
            return first.then_some(());
        }
        let condition = read_match(&name, u8::try_from(revision).ok()?, info.payload)?;
        self.rule.matches.push(condition);
        Some(())
    }

    fn xt_target(&mut self, data: Attributes<'_>) -> Option<()> {
        let (name, revision) = (data.find(NFTA_TARGET_NAME)?.text(), number(data, NFTA_TARGET_REV)?);
        let info = data.find(NFTA_TARGET_INFO)?.payload;
        let target = read_target(&name, u8::try_from(revision).ok()?, info, self.family?)?;
        self.target(target)
    }

    fn immediate(&mut self, data: Attributes<'_>) -> Option<()> {
        let register = number(data, NFTA_IMMEDIATE_DREG)?;
        let data = data.find(NFTA_IMMEDIATE_DATA)?.nested().ok()?;
        match data.find(NFTA_DATA_VALUE) {
            Some(value) => self.load(register, What::Value(value.payload.to_vec()), value.payload.len()),
            None => self.verdict(data.find(NFTA_DATA_VERDICT)?.nested().ok()?),
        }
    }

    fn verdict(&mut self, verdict: Attributes<'_>) -> Option<()> {
        let chain = || verdict.find(NFTA_VERDICT_CHAIN).map(Attribute::text);
        let target = match number(verdict, NFTA_VERDICT_CODE)? {
            NF_ACCEPT => Target::Accept,
            NF_DROP => Target::Drop,
            NFT_RETURN => Target::Return,
            NFT_JUMP => Target::Jump(chain()?),
            NFT_GOTO => Target::Goto(chain()?),
            _ => return None,
        };
        self.target(target)
    }

    /// A destination of one address and one port, both in registers.
    fn nat(&mut self, data: Attributes<'_>) -> Option<()> {
        let (address, port) = (number(data, NFTA_NAT_REG_ADDR_MIN)?, number(data, NFTA_NAT_REG_PROTO_MIN)?);
        let single = number(data, NFTA_NAT_TYPE)? == NFT_NAT_DNAT
            && number(data, NFTA_NAT_REG_ADDR_MAX).is_none_or(|register| register == address)
            && number(data, NFTA_NAT_REG_PROTO_MAX).is_none_or(|register| register == port)
            && number(data, NFTA_NAT_FLAGS).is_none_or(|flags| flags & !NF_NAT_RANGE_ADDRESS_AND_PORT == 0);
        let (What::Value(address), What::Value(port)) = (self.take(address)?.what, self.take(port)?.what) else {
            return None;
        };
        let address: IpAddr = match address.len() {
            4 => address.first_chunk::<4>().copied()?.into(),
            _ => address.first_chunk::<16>().copied()?.into(),
        };
        let port = u16::from_be_bytes(port.first_chunk().copied()?);
        self.target(Target::DestinationNat(SocketAddr::new(address, port))).filter(|()| single)
    }

    fn target(&mut self, target: Target) -> Option<()> {
        let first = self.rule.target.is_none();
        self.rule.target.get_or_insert(target);
        first.then_some(())
    }

    /// Comment and note beside the expressions. Other kinds are others' business and change nothing of what a rule does.
    fn user_data(&mut self, mut data: &[u8]) {
        while let [kind, length, rest @ ..] = data {
            let (text, behind) = rest.split_at(usize::from(*length).min(rest.len()));
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            let text = || Some(String::from_utf8_lossy(text).into_owned());
            match *kind {
                NFTNL_UDATA_COMMENT => self.rule.comment = text(),
                USER_DATA_NOTE => self.rule.note = text(),
                _ => {}
            }
            data = behind;
        }
    }
}

impl Comparison<'_> {
    /// The value, if all of its bits are compared.
    fn whole(&self) -> Option<&[u8]> {
        self.mask.is_none().then_some(self.value)
    }

    fn header(&self, base: u32, offset: u32) -> Option<Match> {
        let value = self.whole().filter(|_| !self.negated)?;
        match (base, (offset, value.len())) {
            (NFT_PAYLOAD_TRANSPORT_HEADER, DESTINATION_PORT) => {
                Some(Match::DestinationPort(u16::from_be_bytes(value.try_into().ok()?)))
            }
            (NFT_PAYLOAD_LL_HEADER, HARDWARE_SOURCE) => Some(Match::HardwareSource(value.try_into().ok()?)),
            _ => None,
        }
    }

    fn meta(&self, key: u32) -> Option<Match> {
        match key {
            NFT_META_MARK => {
                let mask = self.mask.as_deref().map_or(Some(u32::MAX), word)?;
                Some(Match::Mark { negated: self.negated, value: word(self.value)?, mask })
            }
            NFT_META_L4PROTO if !self.negated => Protocol::of_number(*self.whole()?.first()?).map(Match::Protocol),
            NFT_META_IIFNAME => self.interface(Direction::In),
            NFT_META_OIFNAME => self.interface(Direction::Out),
            _ => None,
        }
    }

    /// A whole name; one that ends without NUL is only the start of a name (`eth+`).
    fn interface(&self, direction: Direction) -> Option<Match> {
        let value = self.whole()?;
        let end = value.iter().position(|byte| *byte == 0)?;
        let name = String::from_utf8_lossy(value.get(..end)?).into_owned();
        Some(Match::Interface { direction, negated: self.negated, name })
    }

    fn local_destination(&self) -> Option<Match> {
        (!self.negated && word(self.whole()?)? == ROUTE_LOCAL).then_some(Match::LocalDestination)
    }

    /// `state & mask != 0`
    fn connection_state(&self) -> Option<Match> {
        let states = u16::try_from(word(self.mask.as_deref()?)?).ok()?;
        (self.negated && word(self.value)? == 0).then_some(Match::ConnectionState(states))
    }

    /// `status & mask != 0`
    fn connection_status(&self) -> Option<Match> {
        let translated = word(self.mask.as_deref()?)? == NFT_CT_STATUS_DNAT;
        (translated && self.negated && word(self.value)? == 0).then_some(Match::DestinationTranslated)
    }
}

fn number(data: Attributes<'_>, kind: u16) -> Option<u32> {
    data.find(kind).and_then(Attribute::be32)
}

fn value<'a>(data: Attributes<'a>, kind: u16) -> Option<&'a [u8]> {
    Some(data.find(kind)?.nested().ok()?.find(NFTA_DATA_VALUE)?.payload)
}

/// Four bytes in host order.
fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}
