//! Port mappings in the table `nat` of iptables, chain for chain as the reference makes them:
//!
//! | chain | what is in it |
//! |---|---|
//! | PREROUTING, OUTPUT | a jump to CNI-HOSTPORT-DNAT for packets to the host |
//! | CNI-HOSTPORT-DNAT | for each container, protocol and 15 ports a jump to the container's chain |
//! | CNI-DN-… | for each mapping: marking of what has to be masqueraded, and the translation |
//! | CNI-HOSTPORT-SETMARK | sets the mark |
//! | POSTROUTING | first of all a jump to CNI-HOSTPORT-MASQ |
//! | CNI-HOSTPORT-MASQ | masquerades what is marked |
//!
//! Chains with rules of others are not listed where a count tells enough.

mod remove;
mod replace;
#[cfg(test)]
mod tests;
mod whose;

pub(super) use remove::{Doomed, removal, stale_chains};
pub(super) use whose::{Whose, leads_to, marked_addresses};

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::error::{Error, Result};
use crate::firewall::index::RuleIndex;
use crate::firewall::names::hashed;
use crate::firewall::place::{StoredChain, StoredRule};
use crate::firewall::rule::Protocol;
use crate::firewall::{Edit, Family, Match, Rule, Target, View};
use crate::sorted::unique;

use super::conf::{Conf, Mapping, Marking};

/// Where all containers' mappings begin.
pub(super) const TOP: &str = "CNI-HOSTPORT-DNAT";
/// Where plugins before 0.7 began their translation of sources.
const OLD_TOP: &str = "CNI-HOSTPORT-SNAT";
const SET_MARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQUERADE: &str = "CNI-HOSTPORT-MASQ";
const POSTROUTING: &str = "POSTROUTING";
/// The chains that packets to the host reach: from outside, and from the host itself.
const HOOKS: [&str; 2] = ["PREROUTING", "OUTPUT"];

/// Length of chain names in the reference.
const CHAIN_NAME_LENGTH: usize = 28;
/// Most ports of one `multiport` match.
const MOST_PORTS: usize = 15;
/// Longest comment that is not cut.
const COMMENT_LENGTH: usize = 255;

/// The rules of one container in one family.
#[derive(Debug)]
pub(super) struct Rules {
    /// The container's chain.
    chain: String,
    /// In the container's chain.
    own: Vec<Rule>,
    /// In [`TOP`].
    entries: Vec<Rule>,
    marking: Option<Marking>,
    /// Which rules in the chain are the attachment's.
    whose: Whose,
}

/// What one ADD has changed in one table.
#[derive(Debug, Clone, Default)]
pub(super) struct Added {
    /// The container's chain.
    chain: String,
    /// Chains that did not exist, but the container's.
    created: Vec<&'static str>,
    /// The mark rules, where they were added to chains that existed, and the rules that used these chains before.
    marks: Option<(u32, usize)>,
    /// The rules that it has added to the container's chain.
    own: Vec<Rule>,
    /// The rules that it has added to [`TOP`].
    entries: Vec<Rule>,
    /// The rules of an earlier ADD that it has replaced; `None` when the container had no chain.
    before: Option<Before>,
}

/// An attachment's rules as an earlier ADD made them.
#[derive(Debug, Clone)]
struct Before {
    own: Vec<Rule>,
    /// In [`TOP`].
    entries: Vec<Rule>,
}

/// The container's chain.
pub(super) fn chain_name(network: &str, container: &str) -> String {
    hashed("CNI-DN-", network, container, CHAIN_NAME_LENGTH)
}

/// The container's chain of plugins before 0.7.
pub(super) fn old_chain_name(network: &str, container: &str) -> String {
    hashed("CNI-SN-", network, container, CHAIN_NAME_LENGTH)
}

/// The comment of a container's entry rules, as the kernel keeps it: the reference cuts it to one byte more.
fn comment(network: &str, container: &str) -> String {
    let mut text = format!("{}{container}\"", comment_start(network));
    if text.len() > COMMENT_LENGTH {
        text.truncate(text.floor_char_boundary(COMMENT_LENGTH - 2));
        text.push_str("..");
    }
    text
}

/// How the comments of a network's entry rules start.
fn comment_start(network: &str) -> String {
    format!("dnat name: \"{network}\" id: \"")
}

impl Rules {
    /// The rules that lead the mappings to `address`, which has the length of its network's prefix.
    pub(super) fn new(network: &str, container: &str, conf: &Conf, address: IpNet, mut whose: Whose) -> Self {
        let family = Family::of(&address);
        let chain = chain_name(network, container);
        let marking = conf.snat.then(|| conf.marking.clone());
        let own = conf.mappings_of(family).flat_map(|mapping| own_rules(conf, mapping, address)).collect();
        let entries = entry_rules(conf, family, &chain, &comment(network, container));
        whose.mine.push(address.addr());
        Rules { chain, own, entries, marking, whose }
    }

    /// What the table lacks. Rules of an earlier ADD are replaced.
    pub(super) fn plan(&self, view: &mut dyn View) -> Result<(Vec<Edit>, Added)> {
        let (mut edits, mut added) = (Vec::new(), Added { chain: self.chain.clone(), ..Added::default() });
        match &self.marking {
            Some(Marking::Mark(mark)) => plan_marking(view, *mark, &mut edits, &mut added)?,
            Some(Marking::Chain(name)) if view.uses(name)?.is_none() => return Err(missing_mark_chain(name)),
            _ => {}
        }
        plan_top(view, &mut edits, &mut added)?;
        match view.chain(&self.chain)? {
            Some(chain) => self.replace(view, &chain, &mut edits, &mut added)?,
            None => {
                edits.push(Edit::create(&self.chain));
                (added.own, added.entries) = (self.own.clone(), self.entries.clone());
            }
        }
        edits.extend(added.own.iter().map(|rule| Edit::append(&self.chain, rule.clone())));
        edits.extend(added.entries.iter().map(|rule| Edit::append(TOP, rule.clone())));
        Ok((edits, added))
    }

    /// Fails, naming it, when something is missing.
    pub(super) fn check(&self, view: &mut dyn View) -> Result<()> {
        check_rules(view, &self.chain, &self.own)?;
        check_rules(view, TOP, &self.entries)?;
        for hook in HOOKS {
            check_jump(view, hook, TOP)?;
        }
        if let Some(Marking::Mark(mark)) = self.marking {
            check_rules(view, SET_MARK, &[set_mark(mark)])?;
            check_rules(view, MASQUERADE, &[masquerade(mark)])?;
            check_jump(view, POSTROUTING, MASQUERADE)?;
        }
        Ok(())
    }
}

/// In the container's chain: who is to be masqueraded, then the translation.
fn own_rules(conf: &Conf, mapping: &Mapping, address: IpNet) -> Vec<Rule> {
    let destination = mapping.destination().map(|address| Match::destination(address.into()));
    let rule = |source: Option<Match>, target| {
        let port = [Match::Protocol(mapping.protocol), Match::DestinationPort(mapping.host_port)];
        Rule::new(source.into_iter().chain(destination.clone()).chain(port).collect(), target)
    };
    let mut rules = Vec::new();
    if conf.snat {
        let set_mark = || Target::Jump(mark_chain(&conf.marking).to_string());
        // Who is in the container's network, the container itself among them, must not see its address answer.
        let source = (!conf.masq_all).then(|| Match::source(address));
        rules.push(rule(source, set_mark()));
        if address.addr().is_ipv4() && !conf.masq_all {
            rules.push(rule(Some(Match::source(LOCALHOST.into())), set_mark()));
        }
    }
    let to = SocketAddr::new(address.addr(), mapping.container_port);
    rules.push(rule(None, Target::DestinationNat(to)));
    rules
}

const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// In [`TOP`]. The reference names the ports of mappings of the other family too.
fn entry_rules(conf: &Conf, family: Family, chain: &str, comment: &str) -> Vec<Rule> {
    let mut protocols: Vec<Protocol> = conf.mappings.iter().map(|mapping| mapping.protocol).collect();
    protocols.sort();
    protocols.dedup();
    let rule = |protocol, ports: &[u16]| {
        let ports = [Match::Protocol(protocol), Match::DestinationPorts(ports.to_vec())];
        let matches = ports.into_iter().chain(conf.conditions(family).iter().cloned()).collect();
        Rule::new(matches, Target::Jump(chain.to_string())).commented(comment)
    };
    let mut rules = Vec::new();
    for protocol in protocols {
        let mappings = conf.mappings.iter().filter(|mapping| mapping.protocol == protocol);
        let ports: Vec<u16> = mappings.map(|mapping| mapping.host_port).collect();
        rules.extend(ports.chunks(MOST_PORTS).map(|ports| rule(protocol, ports)));
    }
    rules
}

/// The chain that marks.
fn mark_chain(marking: &Marking) -> &str {
    match marking {
        Marking::Mark(_) => SET_MARK,
        Marking::Chain(name) => name,
    }
}

/// What an ADD needs, in chains that nothing leads to, for a kernel to judge.
pub(super) fn probe(family: Family) -> Vec<Edit> {
    const CHAINS: [&str; 2] = ["CNI-STATUS-1", "CNI-STATUS-2"];
    const MARK: u32 = 1;
    let [first, second] = CHAINS;
    let address = if family == Family::V4 { LOCALHOST } else { std::net::Ipv6Addr::LOCALHOST.into() };
    let ports = vec![Match::Protocol(Protocol::Tcp), Match::DestinationPorts(vec![1]), Match::LocalDestination];
    let port = vec![Match::Protocol(Protocol::Tcp), Match::DestinationPort(1)];
    let mut edits = CHAINS.map(Edit::create).to_vec();
    edits.extend([
        Edit::append(first, Rule::new(ports, Target::Jump(second.to_string())).commented("probe")),
        Edit::append(second, set_mark(MARK)),
        Edit::append(second, Rule::new(port, Target::DestinationNat(SocketAddr::new(address, 1)))),
        Edit::append(first, masquerade(MARK)),
    ]);
    edits
}

fn set_mark(mark: u32) -> Rule {
    Rule::new(Vec::new(), Target::SetMark { value: mark, mask: mark }).commented("CNI portfwd masquerade mark")
}

fn masquerade(mark: u32) -> Rule {
    Rule::new(vec![Match::Mark { negated: false, value: mark, mask: mark }], Target::Masquerade)
}

/// The chains that mark and masquerade. Each mark in use has its rules there.
fn plan_marking(view: &mut dyn View, mark: u32, edits: &mut Vec<Edit>, added: &mut Added) -> Result<()> {
    let marks = view.chain(SET_MARK)?;
    create_unless(marks.as_ref(), SET_MARK, edits, added);
    if marks.as_ref().is_none_or(|chain| !chain.holds(&set_mark(mark))) {
        edits.push(Edit::append(SET_MARK, set_mark(mark)));
        added.marks = marks.map(|chain| (mark, chain.references));
    }
    let masquerades = view.chain(MASQUERADE)?;
    create_unless(masquerades.as_ref(), MASQUERADE, edits, added);
    if masquerades.as_ref().is_none_or(|chain| !chain.holds(&masquerade(mark))) {
        edits.push(Edit::append(MASQUERADE, masquerade(mark)));
    }
    if masquerades.is_none_or(|chain| chain.references == 0) {
        let jump = Rule::new(Vec::new(), Target::Jump(MASQUERADE.to_string()));
        // First, because the rules of bridge and ptp would have the last word otherwise.
        edits.push(Edit::prepend(POSTROUTING, jump.commented("CNI portfwd requiring masquerade")));
    }
    Ok(())
}

fn create_unless(chain: Option<&StoredChain>, name: &'static str, edits: &mut Vec<Edit>, added: &mut Added) {
    if chain.is_none() {
        edits.push(Edit::create(name));
        added.created.push(name);
    }
}

/// [`TOP`] and the jumps to it. Whether these exist is seen in the shorter of the chains at both ends.
fn plan_top(view: &mut dyn View, edits: &mut Vec<Edit>, added: &mut Added) -> Result<()> {
    let jump = || Rule::new(vec![Match::LocalDestination], Target::Jump(TOP.to_string()));
    let Some(uses) = view.uses(TOP)? else {
        create_unless(None, TOP, edits, added);
        edits.extend(HOOKS.map(|hook| Edit::append(hook, jump())));
        return Ok(());
    };
    let mut length = 0;
    for hook in HOOKS {
        length += view.uses(hook)?.unwrap_or(0);
    }
    if uses < length && view.chain(TOP)?.is_some_and(|top| top.references >= HOOKS.len()) {
        return Ok(());
    }
    for hook in HOOKS {
        let rules = view.chain(hook)?.map_or_else(Vec::new, |chain| chain.rules);
        if !rules.iter().any(|stored| stored.rule.jumps_to(TOP)) {
            edits.push(Edit::append(hook, jump()));
        }
    }
    Ok(())
}

/// Shows `see` the addresses of each container's mappings whose clients may come from 127.0.0.1,
/// until `see` returns false. Returns the last answer.
pub(super) fn each_marked(view: &mut dyn View, see: &mut dyn FnMut(Vec<IpAddr>) -> Result<bool>) -> Result<bool> {
    let top = view.chain(TOP)?.map_or_else(Vec::new, |top| top.rules);
    let names = top.into_iter().filter_map(|stored| match stored.rule.target {
        Some(Target::Jump(name)) => Some(name),
        _ => None,
    });
    for name in unique(names.collect()) {
        let rules = view.chain(&name)?.map_or_else(Vec::new, |chain| chain.rules);
        if !see(marked_addresses(&known(rules.iter())))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn missing_mark_chain(name: &str) -> Error {
    Error::internal(format!(
        "externalSetMarkChain {name:?} does not exist in table nat; its owner has to create it first"
    ))
}

/// The rules that we can write again.
fn known<'a>(rules: impl Iterator<Item = &'a StoredRule>) -> Vec<Rule> {
    rules.filter(|stored| !stored.foreign).map(|stored| stored.rule.clone()).collect()
}

fn check_rules(view: &mut dyn View, chain: &str, rules: &[Rule]) -> Result<()> {
    let missing = || Error::internal(format!("chain {chain} not found in iptables table nat"));
    let stored = view.chain(chain)?.ok_or_else(missing)?;
    let index = RuleIndex::of_stored(&stored.rules);
    match rules.iter().find(|rule| !index.holds(rule)) {
        None => Ok(()),
        Some(rule) => Err(Error::internal(format!("rule [{rule}] in chain {chain} not found in table nat"))),
    }
}

fn check_jump(view: &mut dyn View, hook: &str, chain: &str) -> Result<()> {
    let rules = view.chain(hook)?.map_or_else(Vec::new, |stored| stored.rules);
    match rules.iter().any(|stored| stored.rule.jumps_to(chain)) {
        true => Ok(()),
        false => Err(Error::internal(format!("rule [-j {chain}] in chain {hook} not found in table nat"))),
    }
}
