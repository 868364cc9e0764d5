//! One entry of the blob: a rule as bytes, and bytes read by meaning.

mod header;

use super::layout::{
    ALIGNMENT, CHAIN_NAME_LENGTH, ERROR_TARGET, EXTENSION_HEADER, EntryLayout, VERDICT_ACCEPT, VERDICT_DROP,
    VERDICT_RETURN, entry, i32_at, malformed, name_at, u16_at,
};
use crate::error::{Error, Result};
use crate::firewall::extensions::{
    Extension, comment_extension, match_extension, put, read_match, read_target, target_extension,
};
use crate::firewall::rule::{Family, Match, Rule, Target};

/// Name of the target that only has a verdict.
const STANDARD_TARGET: &str = "";

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
        if self.name != ERROR_TARGET.as_bytes() {
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
    let mut info = vec![0; CHAIN_NAME_LENGTH];
    put(&mut info, 0, name.as_bytes());
    Ok(assemble(family, &[], &Extension { name: ERROR_TARGET, revision: 0, info }))
}

/// The entry that ends a user chain.
pub(super) fn chain_end(family: Family) -> Vec<u8> {
    assemble(family, &[], &standard_target(VERDICT_RETURN))
}

/// A rule's entry. The verdict of a jump is left 0 for the table to fill in.
pub(super) fn encode(family: Family, rule: &Rule) -> Result<Vec<u8>> {
    let comment = rule.comment.as_deref().map(comment_extension);
    let others = rule.matches.iter().filter_map(|condition| match_extension(condition, rule));
    let matches: Vec<u8> = comment.into_iter().chain(others).flat_map(|extension| bytes_of(&extension)).collect();
    let target = match &rule.target {
        Some(Target::Accept) => standard_target(VERDICT_ACCEPT),
        Some(Target::Drop) => standard_target(VERDICT_DROP),
        Some(Target::Return) => standard_target(VERDICT_RETURN),
        Some(Target::Jump(_) | Target::Goto(_)) | None => standard_target(0),
        Some(other) => target_extension(other, family).ok_or_else(|| unsayable(rule))?,
    };
    let mut bytes = assemble(family, &matches, &target);
    let is_native = |condition: &Match| matches!(condition, Match::HardwareSource(_) | Match::DestinationTranslated);
    if rule.note.is_some() || rule.matches.iter().any(is_native) {
        return Err(unsayable(rule));
    }
    header::write(&mut bytes, entry(family), rule);
    Ok(bytes)
}

/// What an entry means, and whether that is all of it. `leads` is the chain that its verdict leads to.
pub(super) fn decode(family: Family, bytes: &[u8], leads: Option<&str>) -> Result<(Rule, bool)> {
    let (layout, shape) = (entry(family), Shape::read(family, bytes)?);
    let mut rule = Rule { matches: Vec::new(), comment: None, note: None, target: None };
    let mut whole = header::read(bytes, layout, family, &mut rule.matches).is_some();
    whole &= read_matches(layout, bytes, &shape, &mut rule)?;
    let goes = bytes.get(layout.flags).is_some_and(|flags| flags & layout.goto != 0);
    rule.target = match (shape.verdict(bytes)?, leads) {
        (Some(_), Some(chain)) if goes => Some(Target::Goto(chain.to_string())),
        (Some(_), Some(chain)) => Some(Target::Jump(chain.to_string())),
        (Some(VERDICT_ACCEPT), None) => Some(Target::Accept),
        (Some(VERDICT_DROP), None) => Some(Target::Drop),
        (Some(VERDICT_RETURN), None) => Some(Target::Return),
        (Some(_), None) => None,
        (None, _) => read_target_of(family, bytes, &shape),
    };
    whole &= rule.target.is_some();
    Ok((rule, whole))
}

fn unsayable(rule: &Rule) -> Error {
    Error::internal(format!("x_tables has no way to say {rule:?}"))
}

fn standard_target(verdict: i32) -> Extension {
    Extension { name: STANDARD_TARGET, revision: 0, info: verdict.to_ne_bytes().to_vec() }
}

/// An entry without conditions: header, matches, target.
fn assemble(family: Family, matches: &[u8], target: &Extension) -> Vec<u8> {
    let layout = entry(family);
    let mut bytes = vec![0; layout.length];
    bytes.extend_from_slice(matches);
    let target_offset = bytes.len() as u16;
    bytes.extend_from_slice(&bytes_of(target));
    let length = bytes.len() as u16;
    put(&mut bytes, layout.target_offset, &target_offset.to_ne_bytes());
    put(&mut bytes, layout.target_offset + 2, &length.to_ne_bytes());
    bytes
}

/// A match or target: its padded size, its name, its revision and its information.
fn bytes_of(extension: &Extension) -> Vec<u8> {
    let size = (EXTENSION_HEADER + extension.info.len()).next_multiple_of(ALIGNMENT);
    let mut bytes = vec![0; size];
    put(&mut bytes, 0, &(size as u16).to_ne_bytes());
    put(&mut bytes, 2, extension.name.as_bytes());
    put(&mut bytes, EXTENSION_HEADER - 1, &[extension.revision]);
    put(&mut bytes, EXTENSION_HEADER, &extension.info);
    bytes
}

/// Reads the match extensions; false when one is not understood.
fn read_matches(layout: &EntryLayout, bytes: &[u8], shape: &Shape<'_>, rule: &mut Rule) -> Result<bool> {
    let (mut at, mut whole) = (layout.length, true);
    while at < shape.target {
        let size = usize::from(u16_at(bytes, at)?);
        let name = name_at(bytes, at + 2, EXTENSION_HEADER - 3)?;
        if size < EXTENSION_HEADER || at + size > shape.target {
            return Err(malformed());
        }
        let info = bytes.get(at + EXTENSION_HEADER..at + size).unwrap_or_default();
        if name == b"comment" && rule.comment.is_none() {
            let text = name_at(info, 0, info.len())?;
            rule.comment = Some(String::from_utf8_lossy(text).into_owned());
        } else {
            let revision = bytes.get(at + EXTENSION_HEADER - 1).copied().unwrap_or_default();
            let condition = read_match(&String::from_utf8_lossy(name), revision, info);
            whole &= condition.is_some();
            rule.matches.extend(condition);
        }
        at += size;
    }
    Ok(whole)
}

fn read_target_of(family: Family, bytes: &[u8], shape: &Shape<'_>) -> Option<Target> {
    let info = bytes.get(shape.target + EXTENSION_HEADER..shape.length)?;
    let revision = *bytes.get(shape.target + EXTENSION_HEADER - 1)?;
    read_target(&String::from_utf8_lossy(shape.name), revision, info, family)
}
