//! One entry of the blob: a rule as bytes, and bytes read by meaning.

use ipnet::IpNet;

use super::layout::{
    ALIGNMENT, CHAIN_NAME_LENGTH, ERROR_TARGET, EXTENSION_HEADER, EntryLayout, INVERT_DESTINATION, INVERT_SOURCE,
    VERDICT_ACCEPT, VERDICT_RETURN, entry, i32_at, malformed, name_at, put, u16_at,
};
use crate::error::{Error, Result};
use crate::firewall::extensions::{comment_info, is_plain, masquerade_info, network, octets, prefix_length};
use crate::firewall::{Family, Match, Rule, Side, Target};

/// Name of the target that only has a verdict.
const STANDARD_TARGET: &[u8] = b"";
const MASQUERADE: &[u8] = b"MASQUERADE";
const COMMENT: &[u8] = b"comment";

/// The parts of an entry that the table's structure hangs on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    /// Length of the entry.
    pub(super) length: usize,
    /// Where the target starts.
    pub(super) target: usize,
    /// The target's name; empty for a standard target.
    pub(super) name: &'a [u8],
}

impl<'a> Shape<'a> {
    /// Reads the entry at the start of `bytes`.
    pub(super) fn read(family: Family, bytes: &'a [u8]) -> Result<Self> {
        let layout = entry(family);
        let target = usize::from(u16_at(bytes, layout.target_offset)?);
        let length = usize::from(u16_at(bytes, layout.target_offset + 2)?);
        if target < layout.length || length < target + EXTENSION_HEADER || bytes.len() < length {
            return Err(malformed());
        }
        Ok(Shape { length, target, name: name_at(bytes, target + 2, EXTENSION_HEADER - 3)? })
    }

    /// The verdict of a standard target.
    pub(super) fn verdict(&self, bytes: &[u8]) -> Result<Option<i32>> {
        if self.name.is_empty() { i32_at(bytes, self.target + EXTENSION_HEADER).map(Some) } else { Ok(None) }
    }

    /// The chain name in an error target.
    pub(super) fn chain_name(&self, bytes: &[u8]) -> Result<Option<String>> {
        if self.name != ERROR_TARGET {
            return Ok(None);
        }
        let name = name_at(bytes, self.target + EXTENSION_HEADER, CHAIN_NAME_LENGTH)?;
        Ok(Some(String::from_utf8_lossy(name).into_owned()))
    }
}

/// The entry that starts a user chain.
pub(super) fn chain_head(family: Family, name: &str) -> Result<Vec<u8>> {
    if name.len() >= CHAIN_NAME_LENGTH {
        return Err(Error::internal(format!("chain name {name:?} is too long for iptables")));
    }
    let mut info = [0; CHAIN_NAME_LENGTH];
    put(&mut info, 0, name.as_bytes());
    Ok(assemble(family, &[], ERROR_TARGET, &info))
}

/// The entry that ends a user chain.
pub(super) fn chain_end(family: Family) -> Vec<u8> {
    assemble(family, &[], STANDARD_TARGET, &VERDICT_RETURN.to_ne_bytes())
}

/// A rule's entry. The verdict of a jump is left 0 for the table to fill in.
pub(super) fn encode(family: Family, rule: &Rule) -> Vec<u8> {
    let matches = rule.comment.as_deref().map_or_else(Vec::new, |text| extension(COMMENT, &comment_info(text)));
    let mut bytes = match &rule.target {
        Some(Target::Masquerade) => assemble(family, &matches, MASQUERADE, masquerade_info(family)),
        Some(Target::Accept) => assemble(family, &matches, STANDARD_TARGET, &VERDICT_ACCEPT.to_ne_bytes()),
        Some(Target::Jump(_)) | None => assemble(family, &matches, STANDARD_TARGET, &[0; 4]),
    };
    for condition in &rule.matches {
        let Match::Address { side, negated, network } = condition;
        put_address(&mut bytes, entry(family), *side, *negated, network);
    }
    bytes
}

/// What an entry means, and whether that is all of it. `jump` is the chain that its verdict leads to.
pub(super) fn decode(family: Family, bytes: &[u8], jump: Option<&str>) -> Result<(Rule, bool)> {
    let (layout, shape) = (entry(family), Shape::read(family, bytes)?);
    let mut rule = Rule { matches: Vec::new(), comment: None, target: None };
    let mut whole = has_only_addresses(layout, bytes);
    for side in [Side::Source, Side::Destination] {
        match read_address(family, bytes, side) {
            Some(found) => rule.matches.extend(found),
            None => whole = false,
        }
    }
    whole &= read_matches(layout, bytes, &shape, &mut rule)?;
    rule.target = match (shape.verdict(bytes)?, jump) {
        (Some(_), Some(chain)) => Some(Target::Jump(chain.to_string())),
        (Some(VERDICT_ACCEPT), None) => Some(Target::Accept),
        (None, _) if is_masquerade(family, bytes, &shape) => Some(Target::Masquerade),
        _ => None,
    };
    whole &= rule.target.is_some();
    Ok((rule, whole))
}

/// An entry without conditions: header, matches, target.
fn assemble(family: Family, matches: &[u8], target: &[u8], info: &[u8]) -> Vec<u8> {
    let layout = entry(family);
    let mut bytes = vec![0; layout.length];
    bytes.extend_from_slice(matches);
    let target_offset = bytes.len() as u16;
    bytes.extend_from_slice(&extension(target, info));
    let length = bytes.len() as u16;
    put(&mut bytes, layout.target_offset, &target_offset.to_ne_bytes());
    put(&mut bytes, layout.target_offset + 2, &length.to_ne_bytes());
    bytes
}

/// A match or target: its padded size, its name, revision 0 and its information.
fn extension(name: &[u8], info: &[u8]) -> Vec<u8> {
    let size = (EXTENSION_HEADER + info.len()).next_multiple_of(ALIGNMENT);
    let mut bytes = vec![0; size];
    put(&mut bytes, 0, &(size as u16).to_ne_bytes());
    put(&mut bytes, 2, name);
    put(&mut bytes, EXTENSION_HEADER, info);
    bytes
}

/// Where a side's address, its mask and its negation bit are.
fn places(layout: &EntryLayout, side: Side) -> (usize, usize, u8) {
    match side {
        Side::Source => (0, 2 * layout.address, INVERT_SOURCE),
        Side::Destination => (layout.address, 3 * layout.address, INVERT_DESTINATION),
    }
}

fn put_address(bytes: &mut [u8], layout: &EntryLayout, side: Side, negated: bool, network: &IpNet) {
    let (address_at, mask_at, inverted) = places(layout, side);
    let (address, mask) = octets(network);
    put(bytes, address_at, &address);
    put(bytes, mask_at, &mask);
    if let (true, Some(flags)) = (negated, bytes.get_mut(layout.invert)) {
        *flags |= inverted;
    }
}

/// The condition on one address, if there is one; `None` when it is none that we model.
fn read_address(family: Family, bytes: &[u8], side: Side) -> Option<Option<Match>> {
    let layout = entry(family);
    let (address_at, mask_at, inverted) = places(layout, side);
    let address = bytes.get(address_at..address_at + layout.address)?;
    let prefix = prefix_length(bytes.get(mask_at..mask_at + layout.address)?)?;
    let negated = bytes.get(layout.invert)? & inverted != 0;
    if prefix == 0 {
        return (!negated).then_some(None);
    }
    let network = network(family, address, prefix)?;
    Some(Some(Match::Address { side, negated, network }))
}

/// No interface, protocol, flag or other negation is asked for.
fn has_only_addresses(layout: &EntryLayout, bytes: &[u8]) -> bool {
    let others = bytes.get(layout.others..layout.invert).unwrap_or(&[1]);
    let inverted = bytes.get(layout.invert).copied().unwrap_or(u8::MAX);
    others.iter().all(|byte| *byte == 0) && inverted & !(INVERT_SOURCE | INVERT_DESTINATION) == 0
}

/// Reads the match extensions; false when one is not a comment.
fn read_matches(layout: &EntryLayout, bytes: &[u8], shape: &Shape<'_>, rule: &mut Rule) -> Result<bool> {
    let (mut at, mut whole) = (layout.length, true);
    while at < shape.target {
        let size = usize::from(u16_at(bytes, at)?);
        let name = name_at(bytes, at + 2, EXTENSION_HEADER - 3)?;
        if size < EXTENSION_HEADER || at + size > shape.target {
            return Err(malformed());
        }
        if name == COMMENT && rule.comment.is_none() {
            let text = name_at(bytes, at + EXTENSION_HEADER, size - EXTENSION_HEADER)?;
            rule.comment = Some(String::from_utf8_lossy(text).into_owned());
        } else {
            whole = false;
        }
        at += size;
    }
    Ok(whole)
}

fn is_masquerade(family: Family, bytes: &[u8], shape: &Shape<'_>) -> bool {
    let info = bytes.get(shape.target + EXTENSION_HEADER..shape.length).unwrap_or_default();
    let revision = bytes.get(shape.target + EXTENSION_HEADER - 1);
    shape.name == MASQUERADE && revision == Some(&0) && is_plain(info, masquerade_info(family))
}
