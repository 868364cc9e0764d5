//! Taking a blob apart: which entries make up which chain, and where their verdicts lead.

use std::borrow::Cow;

use super::{Chain, Entry, HOOK_NAMES, Info, Kind, Leads};
use crate::error::Result;
use crate::firewall::Family;
use crate::firewall::x_tables::entry::Shape;
use crate::firewall::x_tables::layout::{HOOKS, malformed};

/// The chains of a blob, each with its place among them as its identity, and the entry that ends the table.
pub(super) fn chains<'a>(family: Family, info: &Info, blob: &'a [u8]) -> Result<(Vec<Chain<'a>>, Entry<'a>)> {
    let mut reader = Reader { family, info, blob, chains: Vec::new(), starts: Vec::new(), at: 0, number: 0 };
    let trailer = reader.read_all()?;
    let Reader { mut chains, starts, .. } = reader;
    let mut offset = 0;
    for chain in &mut chains {
        offset += chain.head_length();
        for entry in chain.rules.iter_mut().chain([&mut chain.end]) {
            offset += entry.bytes.len();
            entry.leads = leads(family, &entry.bytes, offset, &starts)?;
        }
    }
    Ok((chains, trailer))
}

/// Walks over the entries of a blob.
struct Reader<'a, 'i> {
    family: Family,
    info: &'i Info,
    blob: &'a [u8],
    chains: Vec<Chain<'a>>,
    /// Offsets that jumps to the chains have.
    starts: Vec<usize>,
    at: usize,
    number: u32,
}

impl<'a> Reader<'a, '_> {
    /// Reads the chains; what remains is the trailer.
    fn read_all(&mut self) -> Result<Entry<'a>> {
        loop {
            let start = self.at;
            let hook = (0..HOOKS).find(|hook| self.enters(*hook, start));
            let (name, kind) = match hook {
                Some(hook) => (HOOK_NAMES.get(hook).copied().unwrap_or_default().to_string(), Kind::BuiltIn { hook }),
                None => {
                    let (head, name) = self.next()?;
                    let name = name.ok_or_else(malformed)?;
                    if self.at == self.blob.len() {
                        return Ok(head);
                    }
                    (name, Kind::User { head })
                }
            };
            self.starts.push(self.at);
            let (rules, end) = self.read_rules()?;
            self.chains.push(Chain { id: self.chains.len(), name, kind, rules, end });
        }
    }

    fn enters(&self, hook: usize, offset: usize) -> bool {
        self.info.valid_hooks & (1 << hook) != 0 && self.info.hook_entry.get(hook).copied() == Some(offset as u32)
    }

    /// Reads up to the next chain's start. The last entry is the policy or the RETURN.
    fn read_rules(&mut self) -> Result<(Vec<Entry<'a>>, Entry<'a>)> {
        let first = self.at;
        let mut rules = Vec::new();
        while self.at < self.blob.len() {
            let (at, number) = (self.at, self.number);
            let enters = at != first && (0..HOOKS).any(|hook| self.enters(hook, at));
            let (entry, chain_name) = self.next()?;
            if enters || chain_name.is_some() {
                (self.at, self.number) = (at, number);
                break;
            }
            rules.push(entry);
        }
        let end = rules.pop().ok_or_else(malformed)?;
        Ok((rules, end))
    }

    /// The next entry, and the name in it if it is an error entry.
    fn next(&mut self) -> Result<(Entry<'a>, Option<String>)> {
        let rest = self.blob.get(self.at..).ok_or_else(malformed)?;
        let shape = Shape::read(self.family, rest)?;
        let bytes = rest.get(..shape.length).ok_or_else(malformed)?;
        let entry = Entry { bytes: Cow::Borrowed(bytes), old: Some(self.number), leads: Leads::Nowhere };
        self.at += shape.length;
        self.number += 1;
        Ok((entry, shape.chain_name(bytes)?))
    }
}

/// Where an entry's verdict leads, when `next` is the offset behind it and `starts` are those of the chains.
fn leads(family: Family, bytes: &[u8], next: usize, starts: &[usize]) -> Result<Leads> {
    let Some(verdict) = Shape::read(family, bytes)?.verdict(bytes)? else { return Ok(Leads::Nowhere) };
    let Ok(offset) = usize::try_from(verdict) else { return Ok(Leads::Nowhere) };
    if offset == next {
        return Ok(Leads::Next);
    }
    // Chains were read in the order of their offsets.
    starts.binary_search(&offset).map(Leads::Chain).map_err(|_| malformed())
}
