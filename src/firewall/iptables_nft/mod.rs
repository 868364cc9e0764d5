//! iptables' tables in nf_tables: tables `ip nat`, `ip6 nat` and so on, whose base chains are the built-in chains.
//!
//! A transaction carries the generation of the rule set that its plan has looked at. When somebody else was faster, the
//! kernel refuses it with `ERESTART`, and we look again.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use encode::{base_chain, batch};

use crate::error::{Context, Errno, Error, Result};
use crate::firewall::flavour::{CNI_PREFIX, Contents};
use crate::firewall::{Edit, Family, StoredChain, Table, View};
use crate::netlink::message::APPEND;
use crate::netlink::nftables::*;
use crate::netlink::{Attribute, Connection, Message};
use crate::sys::socket::Protocol;

/// Times a plan is made again because others keep changing the rule set.
const TRIES: u32 = 100;

/// Tables that iptables-nft makes.
const IPTABLES_TABLES: [&str; 5] = ["nat", "filter", "mangle", "raw", "security"];

/// nf_tables of the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Nftables(Connection);

impl Nftables {
    /// Connects in the current namespace; `None` when the kernel has no nf_tables.
    pub(super) fn open_if_supported() -> Result<Option<Self>> {
        let opened = Connection::open(Protocol::Netfilter).map(Nftables);
        match opened.and_then(|mut nftables| nftables.generation().map(|_| nftables)) {
            // nfnetlink refuses a subsystem that it doesn't have with EINVAL.
            Err(error) if error.is(Errno::EPROTONOSUPPORT) || error.is(Errno::EINVAL) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Does what needs no look at the rules first. It fails, having changed nothing, when a user chain to be created
    /// exists; [`Nftables::edit`] is the answer then.
    pub(super) fn write(&mut self, family: Family, table: Table, edits: &[Edit]) -> Result<()> {
        let messages = self.messages(family, table, edits)?;
        self.commit(None, messages)
    }

    /// Asks `plan` what to do and does it, in one transaction.
    pub(super) fn edit<T>(
        &mut self,
        family: Family,
        table: Table,
        mut plan: impl FnMut(&mut dyn View) -> Result<(Vec<Edit>, T)>,
    ) -> Result<T> {
        let describe = || format!("failed to change {} table {:?} in nf_tables", family.program(), table.name());
        let mut last = Error::from(Errno::ERESTART);
        for _ in 0..TRIES {
            match self.try_edit(family, table, &mut plan) {
                Err(error) if lost_a_race(&error) => last = error,
                done => return done.with_context(describe),
            }
        }
        Err(last.context(&format!("others kept changing the rules ({TRIES} attempts)"))).with_context(describe)
    }

    fn try_edit<T>(
        &mut self,
        family: Family,
        table: Table,
        plan: &mut impl FnMut(&mut dyn View) -> Result<(Vec<Edit>, T)>,
    ) -> Result<T> {
        let generation = self.generation()?;
        let (edits, outcome) = plan(&mut Snapshot { nftables: self, family, table })?;
        let messages = self.messages(family, table, &edits)?;
        if !messages.is_empty() {
            self.commit(Some(generation), messages)?;
        }
        Ok(outcome)
    }

    /// The rules of a chain; nothing when it is missing.
    pub(super) fn chain(&mut self, family: Family, table: Table, name: &str) -> Result<Option<StoredChain>> {
        let Some(uses) = self.chain_use(family, table, name)? else { return Ok(None) };
        let request = encode::named_rules(NFT_MSG_GETRULE, family, table, name, None);
        let rules = self.0.dump(&request, Vec::new, |rules, reply| {
            rules.push(decode::rule(reply.body, family)?);
            Ok(())
        });
        let rules = rules.with_context(|| format!("failed to list chain {name:?}"))?;
        // The kernel counts what holds a chain in being: its own rules and the verdicts that lead to it.
        let references = (uses as usize).saturating_sub(rules.len());
        Ok(Some(StoredChain { rules, references }))
    }

    /// How many things hold the chain in being; `None` when it or its table is missing.
    pub(super) fn chain_use(&mut self, family: Family, table: Table, name: &str) -> Result<Option<u32>> {
        let request = encode::named_chain(NFT_MSG_GETCHAIN, family, table, name);
        let answer = self.0.get(&request, |body| {
            Ok(decode::attributes(body)?.find(NFTA_CHAIN_USE).and_then(Attribute::be32).unwrap_or(0))
        });
        match answer {
            Err(error) if error.is(Errno::ENOENT) => Ok(None),
            answer => answer.with_context(|| format!("failed to read chain {name:?}")),
        }
    }

    /// What iptables' tables of a family hold.
    pub(super) fn contents(&mut self, family: Family) -> Result<Contents> {
        let request = encode::request(NFT_MSG_GETCHAIN, 0, family);
        let contents = self.0.dump(&request, Contents::default, |contents, reply| {
            let chain = decode::attributes(reply.body)?;
            let text = |kind| chain.find(kind).map(Attribute::text).unwrap_or_default();
            if IPTABLES_TABLES.contains(&text(NFTA_CHAIN_TABLE).as_str()) {
                let uses = chain.find(NFTA_CHAIN_USE).and_then(Attribute::be32).unwrap_or(0);
                contents.rules |= uses > 0 || chain.find(NFTA_CHAIN_HOOK).is_none();
                contents.cni |= text(NFTA_CHAIN_NAME).starts_with(CNI_PREFIX);
            }
            Ok(())
        });
        contents.context("failed to list the chains of nf_tables")
    }

    fn generation(&mut self) -> Result<u32> {
        let generation = self.0.get(&encode::generation(), |body| {
            Ok(decode::attributes(body)?.find(NFTA_GEN_ID).and_then(Attribute::be32))
        });
        let missing = || Error::internal("the kernel does not name the generation of its nf_tables rules");
        generation.context("failed to read the generation of nf_tables")?.flatten().ok_or_else(missing)
    }

    /// The messages that make these changes, and the base chains for them that don't exist. Existing ones are not named:
    /// saying the same once more would be allowed, but counts as a change whose end the kernel makes us wait for (10 ms).
    fn messages(&mut self, family: Family, table: Table, edits: &[Edit]) -> Result<Vec<Message>> {
        let mut missing = Vec::new();
        for name in edits.iter().filter_map(added_to).filter(|name| base_chain(table, name).is_some()) {
            if !missing.contains(&name) && self.chain_use(family, table, name)?.is_none() {
                missing.push(name);
            }
        }
        Ok(messages(family, table, edits, &missing))
    }

    fn commit(&mut self, generation: Option<u32>, messages: Vec<Message>) -> Result<()> {
        let (begin, end) = batch(generation);
        self.0.transaction(begin, messages, end)
    }
}

struct Snapshot<'a> {
    nftables: &'a mut Nftables,
    family: Family,
    table: Table,
}

impl View for Snapshot<'_> {
    fn chain(&mut self, name: &str) -> Result<Option<StoredChain>> {
        self.nftables.chain(self.family, self.table, name)
    }
}

/// Somebody else changed the rule set between our look and our write, so what we know is old. `ENOENT`, `EEXIST` and
/// `EBUSY` of a write cannot come from that: the generation is compared first.
fn lost_a_race(error: &Error) -> bool {
    [Errno::ERESTART, Errno::EINTR, Errno::EAGAIN].into_iter().any(|errno| error.is(errno))
}

/// The messages of a transaction that first makes the base chains in `missing`.
fn messages(family: Family, table: Table, edits: &[Edit], missing: &[&str]) -> Vec<Message> {
    let mut messages = Vec::with_capacity(edits.len() + missing.len() + 1);
    if edits.iter().any(|edit| matches!(edit, Edit::CreateChain(_)) || added_to(edit).is_some()) {
        messages.push(encode::new_table(family, table));
    }
    let bases = missing.iter().filter_map(|name| base_chain(table, name));
    messages.extend(bases.map(|base| encode::new_base_chain(family, table, base)));
    edits.iter().for_each(|edit| push_edit(&mut messages, family, table, edit));
    messages
}

fn added_to(edit: &Edit) -> Option<&str> {
    match edit {
        Edit::Append { chain, .. } | Edit::Prepend { chain, .. } => Some(chain),
        _ => None,
    }
}

fn push_edit(messages: &mut Vec<Message>, family: Family, table: Table, edit: &Edit) {
    match edit {
        Edit::CreateChain(name) => messages.push(encode::new_chain(family, table, name)),
        Edit::Append { chain, rule } => messages.push(encode::new_rule(APPEND, family, table, chain, rule)),
        Edit::Prepend { chain, rule } => messages.push(encode::new_rule(0, family, table, chain, rule)),
        Edit::Delete { chain, id } => {
            messages.push(encode::named_rules(NFT_MSG_DELRULE, family, table, chain, Some(*id)));
        }
        // Kernels before 4.20 refuse to delete a chain with rules in it.
        Edit::DeleteChain(name) => messages.extend([
            encode::named_rules(NFT_MSG_DELRULE, family, table, name, None),
            encode::named_chain(NFT_MSG_DELCHAIN, family, table, name),
        ]),
    }
}
