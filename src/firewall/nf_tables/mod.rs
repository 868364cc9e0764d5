//! nf_tables over nfnetlink: tables of iptables (`ip nat`, `ip6 nat` and so on, whose base chains are the built-in chains)
//! and others.
//!
//! A transaction carries the generation of the rule set that its plan has looked at. When somebody else was faster, the
//! kernel refuses it with `ERESTART`, and we look again. Our own calls queue up first: two hundred at once would thwart each
//! other again and again.

mod decode;
mod encode;
mod expressions;
mod location;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use encode::batch;
pub(super) use location::Location;

use crate::error::{Context, Errno, Error, Result};
use crate::firewall::flavour::{CNI_PREFIX, Contents};
use crate::firewall::place::{Edit, StoredChain, View};
use crate::firewall::rule::Family;
use crate::firewall::session::{Look, Plan};
use crate::netlink::message::APPEND;
use crate::netlink::nftables::*;
use crate::netlink::{Attribute, Connection, Message};
use crate::sorted::{SortedSet, unique};
use crate::sys::file;
use crate::sys::lock::{Lock, Mode};
use crate::sys::socket::Protocol;

/// Times a plan is made again because others keep changing the rule set.
const TRIES: u32 = 100;

/// Where our calls queue up. A help, not a condition: other programs don't know it, and /run may be read-only.
const QUEUE: &str = "/run/cni-box-rules.lock";

/// How long to queue at most.
const QUEUE_LIMIT: Duration = Duration::from_secs(5);

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
    pub(super) fn write(&mut self, location: &Location, edits: &[Edit]) -> Result<()> {
        let messages = self.messages(location, edits)?;
        self.commit(None, messages)
    }

    /// Asks `plan` what to do in each table, by its index, and does all of it in one transaction.
    pub(super) fn edit(&mut self, located: &[(usize, Location)], plan: Plan<'_>) -> Result<()> {
        let describe = || {
            let described: Vec<String> = located.iter().map(|(_, location)| location.described()).collect();
            format!("failed to change {} in nf_tables", described.join(", "))
        };
        let mut last = Error::from(Errno::ERESTART);
        let mut turn: Option<Option<Lock>> = None;
        for _ in 0..TRIES {
            match self.try_edit(located, plan) {
                Err(error) if lost_a_race(&error) => last = error,
                done => return done.with_context(describe),
            }
            // Only who has met somebody waits: the others need not pay for it.
            turn.get_or_insert_with(queue_up);
        }
        Err(last.context(&format!("others kept changing the rules ({TRIES} attempts)"))).with_context(describe)
    }

    fn try_edit(&mut self, located: &[(usize, Location)], plan: Plan<'_>) -> Result<()> {
        let generation = self.generation()?;
        let mut messages = Vec::new();
        for (index, location) in located {
            let edits = plan(*index, &mut Snapshot { nftables: self, location })?;
            messages.extend(self.messages(location, &edits)?);
        }
        if messages.is_empty() { Ok(()) } else { self.commit(Some(generation), messages) }
    }

    /// Shows `look` the table; each chain as it is when asked for.
    pub(super) fn look(&mut self, location: &Location, look: Look<'_>) -> Result<()> {
        let seen = look(&mut Snapshot { nftables: self, location });
        seen.with_context(|| format!("failed to read {} in nf_tables", location.described()))
    }

    /// Asks the kernel to check these changes: without its end it checks a transaction and then drops it.
    pub(super) fn probe(&mut self, location: &Location, edits: &[Edit]) -> Result<()> {
        let messages = self.messages(location, edits)?;
        let (begin, _) = batch(None);
        let probed = self.0.transaction(begin, messages, None);
        probed.with_context(|| format!("the kernel refuses rules in {}", location.described()))
    }

    /// The rules of a chain that are chosen by their message; nothing when it is missing.
    fn chain(
        &mut self,
        location: &Location,
        name: &str,
        chosen: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Option<StoredChain>> {
        let Some(uses) = self.chain_use(location, name)? else { return Ok(None) };
        let request = encode::named_rules(NFT_MSG_GETRULE, location, name, None);
        let listed = self.0.dump(&request, Default::default, |(rules, count): &mut (Vec<_>, usize), reply| {
            *count += 1;
            if chosen(reply.body) {
                rules.push(decode::rule(reply.body, location)?);
            }
            Ok(())
        });
        let (rules, count) = listed.with_context(|| format!("failed to list chain {name:?}"))?;
        // The kernel counts what holds a chain in being: its own rules and the verdicts that lead to it.
        let references = (uses as usize).saturating_sub(count);
        Ok(Some(StoredChain { rules, references }))
    }

    /// How many things hold the chain in being; `None` when it or its table is missing.
    pub(super) fn chain_use(&mut self, location: &Location, name: &str) -> Result<Option<u32>> {
        let request = encode::named_chain(NFT_MSG_GETCHAIN, location, name);
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
        let request = encode::request(
            NFT_MSG_GETCHAIN,
            0,
            match family {
                Family::V4 => NFPROTO_IPV4,
                Family::V6 => NFPROTO_IPV6,
            },
        );
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
    fn messages(&mut self, location: &Location, edits: &[Edit]) -> Result<Vec<Message>> {
        let mut missing = Vec::new();
        let bases = edits.iter().filter_map(added_to).filter(|name| location.base_chain(name).is_some());
        for name in unique(bases.collect()) {
            if self.chain_use(location, name)?.is_none() {
                missing.push(name);
            }
        }
        Ok(messages(location, edits, &missing))
    }

    fn commit(&mut self, generation: Option<u32>, messages: Vec<Message>) -> Result<()> {
        let (begin, end) = batch(generation);
        self.0.transaction(begin, messages, Some(end))
    }
}

impl Drop for Nftables {
    fn drop(&mut self) {
        self.0.close_later();
    }
}

struct Snapshot<'a> {
    nftables: &'a mut Nftables,
    location: &'a Location,
}

impl View for Snapshot<'_> {
    fn chain(&mut self, name: &str) -> Result<Option<StoredChain>> {
        self.nftables.chain(self.location, name, &|_| true)
    }

    fn chain_about(&mut self, name: &str, addresses: &[IpAddr]) -> Result<Option<StoredChain>> {
        let addresses = SortedSet::new(addresses.to_vec());
        self.nftables.chain(self.location, name, &|body| !decode::is_about_another(body, &addresses))
    }

    fn uses(&mut self, name: &str) -> Result<Option<usize>> {
        Ok(self.nftables.chain_use(self.location, name)?.map(|uses| uses as usize))
    }
}

/// Waits for its turn among our own calls.
fn queue_up() -> Option<Lock> {
    let file = file::open_or_create(Path::new(QUEUE), 0o600).ok()?;
    Lock::acquire_within(file, Mode::Exclusive, QUEUE_LIMIT).ok()
}

/// Somebody else changed the rule set between our look and our write, so what we know is old. `ENOENT`, `EEXIST` and
/// `EBUSY` of a write cannot come from that: the generation is compared first.
fn lost_a_race(error: &Error) -> bool {
    [Errno::ERESTART, Errno::EINTR, Errno::EAGAIN].into_iter().any(|errno| error.is(errno))
}

/// The messages of a transaction that makes the base chains in `missing`: where an edit creates them, or else first. The
/// order is the one in which programs list them.
fn messages(location: &Location, edits: &[Edit], missing: &[&str]) -> Vec<Message> {
    let mut messages = Vec::with_capacity(edits.len() + missing.len() + 1);
    if edits.iter().any(|edit| added_to(edit).is_some()) {
        messages.push(encode::new_table(location));
    }
    let is_created = |name: &str| edits.iter().any(|edit| matches!(edit, Edit::CreateChain(chain) if chain == name));
    let bases = missing.iter().filter(|name| !is_created(name)).filter_map(|name| location.base_chain(name));
    messages.extend(bases.map(|base| encode::new_base_chain(location, base)));
    edits.iter().for_each(|edit| push_edit(&mut messages, location, edit, missing));
    messages
}

fn added_to(edit: &Edit) -> Option<&str> {
    match edit {
        Edit::CreateChain(chain) | Edit::Append { chain, .. } | Edit::Prepend { chain, .. } => Some(chain),
        _ => None,
    }
}

fn push_edit(messages: &mut Vec<Message>, location: &Location, edit: &Edit, missing: &[&str]) {
    match edit {
        Edit::CreateChain(name) => match location.base_chain(name) {
            Some(base) if missing.contains(&name.as_str()) => messages.push(encode::new_base_chain(location, base)),
            Some(_) => {}
            None => messages.push(encode::new_chain(location, name)),
        },
        Edit::Flush(chain) => messages.push(encode::named_rules(NFT_MSG_DELRULE, location, chain, None)),
        Edit::Append { chain, rule } => messages.push(encode::new_rule(APPEND, location, chain, rule)),
        Edit::Prepend { chain, rule } => messages.push(encode::new_rule(0, location, chain, rule)),
        Edit::Delete { chain, id } => {
            messages.push(encode::named_rules(NFT_MSG_DELRULE, location, chain, Some(*id)));
        }
        // Kernels before 4.20 refuse to delete a chain with rules in it.
        Edit::DeleteChain(name) => messages.extend([
            encode::named_rules(NFT_MSG_DELRULE, location, name, None),
            encode::named_chain(NFT_MSG_DELCHAIN, location, name),
        ]),
    }
}
