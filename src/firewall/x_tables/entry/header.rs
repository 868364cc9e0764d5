//! The conditions that an entry holds before its extensions: addresses, interfaces and the protocol (`struct ipt_ip`,
//! `struct ip6t_ip6`).

use ipnet::IpNet;

use crate::firewall::extensions::{network, octets, prefix_length, put};
use crate::firewall::rule::{Direction, Family, Match, Protocol, Rule, Side, Target};
use crate::firewall::x_tables::layout::{
    EntryLayout, INTERFACE_NAME_LENGTH, INVERT_DESTINATION, INVERT_IN, INVERT_OUT, INVERT_SOURCE, u16_at,
};

/// Writes what the rule says about these.
pub(super) fn write(bytes: &mut [u8], layout: &EntryLayout, rule: &Rule) {
    for condition in &rule.matches {
        match condition {
            Match::Address { side, negated, network } => write_address(bytes, layout, *side, *negated, network),
            Match::Interface { direction, negated, name } => {
                write_interface(bytes, layout, *direction, *negated, name);
            }
            Match::Protocol(protocol) => {
                put(bytes, layout.protocol, &u16::from(protocol.number()).to_ne_bytes());
                set_bits(bytes, layout.flags, layout.has_protocol);
            }
            _ => {}
        }
    }
    if let Some(Target::Goto(_)) = rule.target {
        set_bits(bytes, layout.flags, layout.goto);
    }
}

/// Reads them, in the order in which iptables prints them; `None` when there is something that we don't model.
pub(super) fn read(bytes: &[u8], layout: &EntryLayout, family: Family, matches: &mut Vec<Match>) -> Option<()> {
    let mut understood = has_known_bits_only(bytes, layout);
    for direction in [Direction::In, Direction::Out] {
        collect(read_interface(bytes, layout, direction), matches, &mut understood);
    }
    collect(read_protocol(bytes, layout), matches, &mut understood);
    for side in [Side::Source, Side::Destination] {
        collect(read_address(bytes, layout, family, side), matches, &mut understood);
    }
    understood.then_some(())
}

fn collect(found: Option<Option<Match>>, matches: &mut Vec<Match>, understood: &mut bool) {
    match found {
        Some(condition) => matches.extend(condition),
        None => *understood = false,
    }
}

/// Where a side's address, its mask and its negation bit are.
fn address_places(layout: &EntryLayout, side: Side) -> (usize, usize, u8) {
    match side {
        Side::Source => (0, 2 * layout.address, INVERT_SOURCE),
        Side::Destination => (layout.address, 3 * layout.address, INVERT_DESTINATION),
    }
}

fn write_address(bytes: &mut [u8], layout: &EntryLayout, side: Side, negated: bool, network: &IpNet) {
    let (address_at, mask_at, inverted) = address_places(layout, side);
    let (address, mask) = octets(network);
    put(bytes, address_at, &address);
    put(bytes, mask_at, &mask);
    set_bits(bytes, layout.invert, if negated { inverted } else { 0 });
}

/// The condition on one address, if there is one; `None` when it is none that we model.
fn read_address(bytes: &[u8], layout: &EntryLayout, family: Family, side: Side) -> Option<Option<Match>> {
    let (address_at, mask_at, inverted) = address_places(layout, side);
    let address = bytes.get(address_at..address_at + layout.address)?;
    let prefix = prefix_length(bytes.get(mask_at..mask_at + layout.address)?)?;
    let negated = bytes.get(layout.invert)? & inverted != 0;
    if prefix == 0 {
        return (!negated).then_some(None);
    }
    let network = network(family, address, prefix)?;
    Some(Some(Match::Address { side, negated, network }))
}

/// Where a direction's interface name, its mask and its negation bit are.
fn interface_places(layout: &EntryLayout, direction: Direction) -> (usize, usize, u8) {
    let start = layout.interfaces();
    match direction {
        Direction::In => (start, start + 2 * INTERFACE_NAME_LENGTH, INVERT_IN),
        Direction::Out => (start + INTERFACE_NAME_LENGTH, start + 3 * INTERFACE_NAME_LENGTH, INVERT_OUT),
    }
}

/// The name with its NUL is compared.
fn write_interface(bytes: &mut [u8], layout: &EntryLayout, direction: Direction, negated: bool, name: &str) {
    let (name_at, mask_at, inverted) = interface_places(layout, direction);
    let name = name.get(..name.len().min(INTERFACE_NAME_LENGTH - 1)).unwrap_or_default();
    put(bytes, name_at, name.as_bytes());
    put(bytes, mask_at, &vec![0xff; name.len() + 1]);
    set_bits(bytes, layout.invert, if negated { inverted } else { 0 });
}

fn read_interface(bytes: &[u8], layout: &EntryLayout, direction: Direction) -> Option<Option<Match>> {
    let (name_at, mask_at, inverted) = interface_places(layout, direction);
    let mask = bytes.get(mask_at..mask_at + INTERFACE_NAME_LENGTH)?;
    let negated = bytes.get(layout.invert)? & inverted != 0;
    let compared = mask.iter().take_while(|byte| **byte == 0xff).count();
    if mask.iter().all(|byte| *byte == 0) {
        return (!negated).then_some(None);
    }
    // A name without its NUL is only the start of a name (`eth+`).
    let (last, name) = bytes.get(name_at..name_at + compared)?.split_last()?;
    let whole = *last == 0 && mask.iter().skip(compared).all(|byte| *byte == 0);
    let name = String::from_utf8_lossy(name).into_owned();
    whole.then_some(Some(Match::Interface { direction, negated, name }))
}

fn read_protocol(bytes: &[u8], layout: &EntryLayout) -> Option<Option<Match>> {
    match u16_at(bytes, layout.protocol).ok()? {
        0 => Some(None),
        number => Some(Some(Match::Protocol(Protocol::of_number(u8::try_from(number).ok()?)?))),
    }
}

/// No fragments, traffic classes or other negations are asked for.
fn has_known_bits_only(bytes: &[u8], layout: &EntryLayout) -> bool {
    let between = bytes.get(layout.protocol + 2..layout.flags).unwrap_or(&[1]);
    let flags = bytes.get(layout.flags).copied().unwrap_or(u8::MAX);
    let inverted = bytes.get(layout.invert).copied().unwrap_or(u8::MAX);
    between.iter().all(|byte| *byte == 0)
        && flags & !(layout.goto | layout.has_protocol) == 0
        && inverted & !(INVERT_IN | INVERT_OUT | INVERT_SOURCE | INVERT_DESTINATION) == 0
}

fn set_bits(bytes: &mut [u8], at: usize, bits: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte |= bits;
    }
}
