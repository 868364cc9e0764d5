//! A whole table: the blob taken apart into chains, changed, and put together again. Entries that nobody touches keep
//! every byte but the offset in a verdict that leads to a place which has moved.

mod parse;

use std::borrow::Cow;

use super::entry::{Shape, chain_end, chain_head, decode, encode};
use super::layout::{EXTENSION_HEADER, HOOKS};
use crate::error::{Errno, Error, Result};
use crate::firewall::extensions::put;
use crate::firewall::place::{Edit, StoredChain, StoredRule, View};
use crate::firewall::rule::{Family, Rule, Target};
use crate::sorted::SortedSet;

/// `IPT_SO_GET_INFO`'s answer: where the hooks enter the table and what each falls through to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Info {
    /// Bit N is set when the table has a chain for hook N.
    pub(super) valid_hooks: u32,
    /// Offset of the first entry for each hook.
    pub(super) hook_entry: [u32; HOOKS],
    /// Offset of the policy for each hook.
    pub(super) underflow: [u32; HOOKS],
    /// Number of entries.
    pub(super) entries: u32,
    /// Length of all entries.
    pub(super) size: u32,
}

impl Info {
    fn set_hook(&mut self, hook: usize, entry: u32, underflow: u32) {
        self.valid_hooks |= 1 << hook;
        if let (Some(at), Some(end)) = (self.hook_entry.get_mut(hook), self.underflow.get_mut(hook)) {
            (*at, *end) = (entry, underflow);
        }
    }
}

/// A table as chains.
#[derive(Debug)]
pub(super) struct TableData<'a> {
    family: Family,
    chains: Vec<Chain<'a>>,
    /// The error entry that ends every table.
    trailer: Entry<'a>,
    /// The next identity for a chain.
    next_id: usize,
    /// Rules that lead to each chain, by its identity, in the table as it was read.
    references: Vec<usize>,
}

/// What goes back to the kernel.
#[derive(Debug)]
pub(super) struct Rendered {
    /// The new table's description.
    pub(super) info: Info,
    /// Its entries.
    pub(super) blob: Vec<u8>,
    /// For each new entry the number of the old one that it continues.
    pub(super) continues: Vec<Option<u32>>,
}

#[derive(Debug)]
struct Chain<'a> {
    /// Stays when other chains come and go; jumps are kept as this number.
    id: usize,
    name: String,
    kind: Kind<'a>,
    rules: Vec<Entry<'a>>,
    /// Policy of a built-in chain, RETURN of a user chain.
    end: Entry<'a>,
}

#[derive(Debug)]
enum Kind<'a> {
    BuiltIn { hook: usize },
    User { head: Entry<'a> },
}

#[derive(Debug)]
struct Entry<'a> {
    bytes: Cow<'a, [u8]>,
    /// Its number in the table that was read.
    old: Option<u32>,
    leads: Leads,
}

/// Where the verdict of an entry leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leads {
    /// To no place in the table.
    Nowhere,
    /// To a user chain.
    Chain(usize),
    /// To the next entry: a rule without a target.
    Next,
}

/// Built-in chains by hook number.
const HOOK_NAMES: [&str; HOOKS] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

impl<'a> TableData<'a> {
    /// Takes a blob apart.
    pub(super) fn parse(family: Family, info: &Info, blob: &'a [u8]) -> Result<Self> {
        let (chains, trailer) = parse::chains(family, info, blob)?;
        let mut references = vec![0; chains.len()];
        for entry in chains.iter().flat_map(|chain| &chain.rules) {
            if let Leads::Chain(id) = entry.leads
                && let Some(count) = references.get_mut(id)
            {
                *count += 1;
            }
        }
        Ok(TableData { family, next_id: chains.len(), chains, trailer, references })
    }

    /// Applies changes that a plan made looking at this table.
    pub(super) fn apply(&mut self, edits: &[Edit]) -> Result<()> {
        self.delete_rules(edits)?;
        edits.iter().try_for_each(|edit| match edit {
            Edit::CreateChain(name) => self.create(name),
            Edit::Append { chain, rule } => self.add(chain, rule, |rules, entry| rules.push(entry)),
            Edit::Prepend { chain, rule } => self.add(chain, rule, |rules, entry| rules.insert(0, entry)),
            Edit::Delete { .. } => Ok(()),
            Edit::Flush(chain) => self.find_mut(chain).map(|chain| chain.rules.clear()),
            Edit::DeleteChain(name) => self.delete_chain(name),
        })
    }

    /// Puts the table together.
    pub(super) fn render(&self) -> Rendered {
        let (starts, size) = self.starts();
        let info =
            Info { valid_hooks: 0, hook_entry: [0; HOOKS], underflow: [0; HOOKS], entries: 0, size: size as u32 };
        let mut out = Rendered { info, blob: Vec::with_capacity(size), continues: Vec::new() };
        for chain in &self.chains {
            chain.head().into_iter().for_each(|head| out.push(self.family, &starts, head));
            let first = out.blob.len();
            chain.rules.iter().for_each(|rule| out.push(self.family, &starts, rule));
            let end = out.blob.len();
            out.push(self.family, &starts, &chain.end);
            if let Kind::BuiltIn { hook } = chain.kind {
                out.info.set_hook(hook, first as u32, end as u32);
            }
        }
        out.push(self.family, &starts, &self.trailer);
        out.info.entries = out.continues.len() as u32;
        out
    }

    /// Where jumps to each chain lead, by identity, and the length of the table.
    fn starts(&self) -> (Vec<usize>, usize) {
        let mut starts = vec![0; self.next_id];
        let mut offset = 0;
        for chain in &self.chains {
            offset += chain.head_length();
            if let Some(start) = starts.get_mut(chain.id) {
                *start = offset;
            }
            offset += chain.rules.iter().map(|entry| entry.bytes.len()).sum::<usize>() + chain.end.bytes.len();
        }
        (starts, offset + self.trailer.bytes.len())
    }

    fn find(&self, name: &str) -> Option<&Chain<'a>> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    fn find_mut(&mut self, name: &str) -> Result<&mut Chain<'a>> {
        let missing = || Error::internal(format!("chain {name:?} is missing"));
        self.chains.iter_mut().find(|chain| chain.name == name).ok_or_else(missing)
    }

    /// User chains are sorted by name: iptables searches them so.
    fn create(&mut self, name: &str) -> Result<()> {
        if self.find(name).is_some() {
            return Err(Error::from(Errno::EEXIST).context(&format!("failed to create chain {name:?}")));
        }
        let later = |chain: &Chain<'_>| matches!(chain.kind, Kind::User { .. }) && chain.name.as_str() > name;
        let place = self.chains.iter().position(later).unwrap_or(self.chains.len());
        let head = Entry::new(chain_head(self.family, name)?, Leads::Nowhere);
        let end = Entry::new(chain_end(self.family), Leads::Nowhere);
        let kind = Kind::User { head };
        self.chains.insert(place, Chain { id: self.next_id, name: name.to_string(), kind, rules: Vec::new(), end });
        self.next_id += 1;
        Ok(())
    }

    fn add(&mut self, chain: &str, rule: &Rule, place: impl Fn(&mut Vec<Entry<'a>>, Entry<'a>)) -> Result<()> {
        let leads = match &rule.target {
            Some(Target::Jump(target) | Target::Goto(target)) => Leads::Chain(self.find_mut(target)?.id),
            None => Leads::Next,
            _ => Leads::Nowhere,
        };
        let entry = Entry::new(encode(self.family, rule)?, leads);
        place(&mut self.find_mut(chain)?.rules, entry);
        Ok(())
    }

    /// Deletes all rules that go, in one walk over each chain: no other edit names an old rule.
    fn delete_rules(&mut self, edits: &[Edit]) -> Result<()> {
        let deleted = edits.iter().filter_map(|edit| match edit {
            Edit::Delete { chain, id } => Some((chain.as_str(), *id)),
            _ => None,
        });
        let doomed = SortedSet::new(deleted.collect());
        for rules in doomed.as_slice().chunk_by(|one, next| one.0 == next.0) {
            let Some((chain, _)) = rules.first() else { continue };
            let goes = |entry: &Entry<'_>| entry.old.is_some_and(|id| doomed.contains(&(*chain, id.into())));
            self.find_mut(chain)?.rules.retain(|entry| !goes(entry));
        }
        Ok(())
    }

    fn delete_chain(&mut self, name: &str) -> Result<()> {
        let id = self.find_mut(name)?.id;
        self.chains.retain(|chain| chain.id != id);
        match self.references(id) {
            0 => Ok(()),
            _ => Err(Error::internal(format!("chain {name:?} is still in use"))),
        }
    }

    fn references(&self, id: usize) -> usize {
        let rules = self.chains.iter().flat_map(|chain| &chain.rules);
        rules.filter(|entry| entry.leads == Leads::Chain(id)).count()
    }

    fn stored(&self, entry: &Entry<'a>) -> Result<StoredRule> {
        let target = match entry.leads {
            // In a table that was not changed, the identity is the place.
            Leads::Chain(id) => self
                .chains
                .get(id)
                .filter(|chain| chain.id == id)
                .or_else(|| self.chains.iter().find(|chain| chain.id == id)),
            Leads::Nowhere | Leads::Next => None,
        };
        let (rule, whole) = decode(self.family, &entry.bytes, target.map(|chain| chain.name.as_str()))?;
        Ok(StoredRule { id: entry.old.unwrap_or(u32::MAX).into(), rule, foreign: !whole })
    }

    /// Names of the user chains.
    pub(super) fn chain_names(&self) -> impl Iterator<Item = &str> {
        self.chains.iter().map(|chain| chain.name.as_str())
    }
}

impl View for TableData<'_> {
    fn chain(&mut self, name: &str) -> Result<Option<StoredChain>> {
        let Some(chain) = self.find(name) else { return Ok(None) };
        let rules = chain.rules.iter().map(|entry| self.stored(entry)).collect::<Result<_>>()?;
        Ok(Some(StoredChain { rules, references: self.references.get(chain.id).copied().unwrap_or_default() }))
    }

    fn uses(&mut self, name: &str) -> Result<Option<usize>> {
        let references = |chain: &Chain<'_>| self.references.get(chain.id).copied().unwrap_or_default();
        Ok(self.find(name).map(|chain| chain.rules.len() + references(chain)))
    }
}

impl Rendered {
    /// Appends an entry, its verdict leading to where that place is now.
    fn push(&mut self, family: Family, starts: &[usize], entry: &Entry<'_>) {
        let start = self.blob.len();
        self.blob.extend_from_slice(&entry.bytes);
        self.continues.push(entry.old);
        let place = match entry.leads {
            Leads::Nowhere => return,
            Leads::Next => Some(self.blob.len()),
            Leads::Chain(id) => starts.get(id).copied(),
        };
        if let (Some(place), Ok(shape)) = (place, Shape::read(family, &entry.bytes)) {
            put(&mut self.blob, start + shape.target + EXTENSION_HEADER, &(place as u32).to_ne_bytes());
        }
    }
}

impl<'a> Entry<'a> {
    fn new(bytes: Vec<u8>, leads: Leads) -> Self {
        Entry { bytes: Cow::Owned(bytes), old: None, leads }
    }
}

impl<'a> Chain<'a> {
    fn head(&self) -> Option<&Entry<'a>> {
        match &self.kind {
            Kind::User { head } => Some(head),
            Kind::BuiltIn { .. } => None,
        }
    }

    fn head_length(&self) -> usize {
        self.head().map_or(0, |head| head.bytes.len())
    }
}
