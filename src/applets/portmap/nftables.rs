//! Port mappings in a table of our own for each family, `cni_hostport`, as the reference's nftables backend makes it:
//!
//! | chain | what is in it |
//! |---|---|
//! | prerouting, output | `fib daddr type local jump hostports_all` |
//! | hostports_all | jumps to hostip_hostports and hostports |
//! | hostports | the translations of all containers |
//! | hostip_hostports | older versions of the reference had mappings with a host address here |
//! | masquerading | connections of the container, or of the host over 127.0.0.1, to the container |
//! | localnet, localnet_links | ours: foreign packets to 127.0.0.0/8 are dropped, see `localnet` |
//!
//! A container's rules have its id as comment. Beside it, where only we look, is the attachment: network and interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::digest::sha512_hex;
use crate::error::{Error, Result};
use crate::firewall::index::RuleIndex;
use crate::firewall::place::{BaseChain, ChainKind, Hook, NativeFamily, NativeTable, StoredRule};
use crate::firewall::{Edit, Family, Match, Place, Rule, Target, View};
use crate::sorted::{SortedSet, unique};

use super::conf::{Conf, Mapping};
use super::iptables::{Whose, leads_to};

const HOST_PORTS: &str = "hostports";
const OLD_HOST_PORTS: &str = "hostip_hostports";
const ALL_HOST_PORTS: &str = "hostports_all";
const MASQUERADING: &str = "masquerading";
/// Where the guard of 127.0.0.0/8 begins.
pub(super) const LOCALNET: &str = "localnet";
/// The chains that packets to the host reach: from outside, and from the host itself.
const HOOKS: [&str; 2] = ["prerouting", "output"];
/// Chains that hold rules of containers.
const OWNED: [&str; 3] = [HOST_PORTS, OLD_HOST_PORTS, MASQUERADING];

/// Longest comment of a rule, and longest network name in a note, that are kept whole.
const COMMENT_LENGTH: usize = 127;
const NETWORK_LENGTH: usize = 80;
/// Hexadecimal digits that stand for the end of a text that is too long.
const DIGITS: usize = 32;

const fn base(name: &'static str, kind: ChainKind, hook: Hook, priority: i32) -> BaseChain {
    BaseChain { name, kind, hook, priority }
}

const BASE_CHAINS: [BaseChain; 4] = [
    base("prerouting", ChainKind::Nat, Hook::Prerouting, -100),
    base("output", ChainKind::Nat, Hook::Output, -100),
    base(MASQUERADING, ChainKind::Nat, Hook::Postrouting, 100),
    // Before connection tracking, like iptables' table raw.
    base(LOCALNET, ChainKind::Filter, Hook::Prerouting, -300),
];

const fn table(family: NativeFamily) -> NativeTable {
    let comment = "CNI portmap plugin";
    NativeTable { family, name: "cni_hostport", comment, chain_comments: &[], base_chains: &BASE_CHAINS }
}

static V4: NativeTable = table(NativeFamily::Ip);
static V6: NativeTable = table(NativeFamily::Ip6);

/// The table of a family.
pub(super) fn place(family: Family) -> Place {
    Place::Native(if family == Family::V4 { &V4 } else { &V6 })
}

/// How an attachment's rules are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    comment: String,
    note: String,
}

impl Owner {
    /// Of an attachment of `container` to `network`.
    pub(super) fn new(network: &str, container: &str, ifname: &str) -> Self {
        Owner { comment: shortened(container, COMMENT_LENGTH), note: format!("{}{ifname}", note_start(network)) }
    }

    /// The rule is this attachment's. The reference's rules do not tell of which of the container's attachments they are.
    fn owns(&self, rule: &Rule) -> bool {
        rule.comment.as_ref() == Some(&self.comment) && rule.note.as_ref().is_none_or(|note| *note == self.note)
    }
}

/// How the notes of a network's rules start.
fn note_start(network: &str) -> String {
    format!("{}/", shortened(network, NETWORK_LENGTH))
}

/// A text that is too long ends in a part of its hash instead.
fn shortened(text: &str, length: usize) -> String {
    if text.len() <= length {
        return text.to_string();
    }
    let mut hash = sha512_hex(&[text]);
    hash.truncate(DIGITS);
    let kept = text.get(..text.floor_char_boundary(length - DIGITS - 1)).unwrap_or_default();
    format!("{kept}~{hash}")
}

/// The rules of one attachment in one family.
#[derive(Debug)]
pub(super) struct Rules {
    owner: Owner,
    /// In [`HOST_PORTS`].
    ports: Vec<Rule>,
    /// In [`MASQUERADING`].
    masquerades: Vec<Rule>,
    /// What the rules in [`HOST_PORTS`] start with.
    conditions: Vec<Match>,
    /// The container's.
    address: IpAddr,
}

/// What one ADD has changed in one table. The chains that all share stay, as they do in the reference.
#[derive(Debug, Clone)]
pub(super) struct Added {
    owner: Owner,
    /// The attachment's rules from before, each with its chain.
    before: Vec<(&'static str, Rule)>,
}

impl Rules {
    /// The rules that lead the mappings to `address`, which has the length of its network's prefix.
    pub(super) fn new(owner: Owner, conf: &Conf, address: IpNet) -> Self {
        let family = Family::of(&address);
        let owned = |rule: Rule| rule.commented(&owner.comment).noted(&owner.note);
        let ports = conf.mappings_of(family).map(|mapping| owned(translation(conf, mapping, address.addr()))).collect();
        let masquerades = if conf.snat { masquerades(conf, address) } else { Vec::new() };
        let masquerades = masquerades.into_iter().map(owned).collect();
        let conditions = conf.conditions(family).to_vec();
        Rules { ports, masquerades, conditions, address: address.addr(), owner }
    }

    /// What the table lacks. Rules of an earlier ADD are replaced.
    pub(super) fn plan(&self, view: &mut dyn View) -> Result<(Vec<Edit>, Added)> {
        let (mut edits, mut before) = (Vec::new(), Vec::new());
        let shared = self.plan_shared(view, &mut edits)?;
        let packets = self.packets();
        let packets = RuleIndex::new(&packets);
        for chain in OWNED {
            // An empty chain need not be listed; what leads to it counts as one.
            if view.uses(chain)?.unwrap_or(0) > usize::from(chain != MASQUERADING) {
                let stored = view.chain(chain)?.map_or_else(Vec::new, |stored| stored.rules);
                for StoredRule { id, rule, foreign } in stored {
                    let replaced = self.replaces(&rule, &packets);
                    let rule = narrowed(chain, &rule, &shared).filter(|_| !foreign).or(replaced.then_some(rule));
                    edits.extend(rule.is_some().then(|| Edit::delete(chain, id)));
                    match rule {
                        Some(rule) if replaced => before.push((chain, rule)),
                        rule => edits.extend(rule.map(|rule| Edit::append(chain, rule))),
                    }
                }
            }
        }
        edits.extend(self.ports.iter().map(|rule| Edit::append(HOST_PORTS, rule.clone())));
        edits.extend(self.masquerades.iter().map(|rule| Edit::append(MASQUERADING, rule.clone())));
        Ok((edits, Added { owner: self.owner.clone(), before }))
    }

    /// True if an earlier ADD of ours made the rule, or if the reference did and it leads to the
    /// same address or is for the same port. In the last case it may be another attachment's, but
    /// would take the packets of the new rule.
    fn replaces(&self, rule: &Rule, packets: &RuleIndex<'_>) -> bool {
        let is_mine = rule.note.is_some() || address_of(rule) == Some(self.address);
        self.owner.owns(rule) && (is_mine || packets.holds(&for_packets(&rule.matches)))
    }

    /// The packets that our rules are for, also as the reference says them, which has the
    /// conditions elsewhere.
    fn packets(&self) -> Vec<Rule> {
        let own = self.ports.iter().chain(&self.masquerades);
        let bare = |rule: &Rule| rule.matches.strip_prefix(self.conditions.as_slice()).map(for_packets);
        own.flat_map(|rule| [Some(for_packets(&rule.matches)), bare(rule)]).flatten().collect()
    }

    /// What all containers share. Also says the conditions that the reference had put there, which are there no more.
    fn plan_shared(&self, view: &mut dyn View, edits: &mut Vec<Edit>) -> Result<Vec<Match>> {
        for chain in [HOST_PORTS, OLD_HOST_PORTS] {
            if view.uses(chain)?.is_none() {
                edits.push(Edit::create(chain));
            }
        }
        let jump = |chain: &str| Rule::new(Vec::new(), Target::Jump(chain.to_string()));
        ensure_exactly(view, ALL_HOST_PORTS, &[jump(OLD_HOST_PORTS), jump(HOST_PORTS)], edits)?;
        let mut conditions = Vec::new();
        for hook in HOOKS {
            let flushed = ensure_exactly(view, hook, &[to_host()], edits)?;
            if conditions.is_empty() {
                conditions = shared_conditions(&flushed);
            }
        }
        Ok(conditions)
    }

    /// Fails, naming it, when something is missing. Rules that the reference made count too.
    pub(super) fn check(&self, view: &mut dyn View) -> Result<()> {
        let shared = shared_conditions(&view.chain(HOOKS[0])?.map_or_else(Vec::new, |chain| chain.rules));
        for (chain, rules) in [(HOST_PORTS, &self.ports), (MASQUERADING, &self.masquerades)] {
            match view.chain(chain)? {
                None if rules.is_empty() => {}
                None => return Err(missing("chain", chain)),
                Some(mut stored) => {
                    if chain == HOST_PORTS {
                        stored.rules.extend(view.chain(OLD_HOST_PORTS)?.map_or_else(Vec::new, |old| old.rules));
                    }
                    for stored in &mut stored.rules {
                        stored.rule = narrowed(chain, &stored.rule, &shared).unwrap_or(stored.rule.clone());
                    }
                    self.check_rules(chain, rules, &stored.rules)?;
                }
            }
        }
        HOOKS.into_iter().try_for_each(|hook| check_hook(view, hook))
    }
}

impl Rules {
    fn check_rules(&self, chain: &str, rules: &[Rule], stored: &[StoredRule]) -> Result<()> {
        let own: Vec<_> = stored.iter().filter(|stored| !stored.foreign && self.owner.owns(&stored.rule)).collect();
        let is_ours = own.iter().any(|stored| stored.rule.note.is_some());
        let bare = |rule: &Rule| Rule { comment: None, note: None, ..rule.clone() };
        let found: Vec<Rule> = own.iter().map(|stored| bare(&stored.rule)).collect();
        let index = RuleIndex::new(&found);
        let is_there = |rule: &Rule| index.holds(&bare(rule));
        let is_expected = |rule: &&Rule| is_ours || !rule.matches.contains(&Match::DestinationTranslated);
        match rules.iter().filter(is_expected).find(|rule| !is_there(rule)) {
            None => Ok(()),
            Some(rule) => Err(Error::internal(format!(
                "missing hostport rules in {chain:?} chain: no rule [{rule}] in table cni_hostport"
            ))),
        }
    }
}

/// A rule that only says for which packets it is.
fn for_packets(matches: &[Match]) -> Rule {
    Rule { matches: matches.to_vec(), comment: None, note: None, target: None }
}

fn missing(what: &str, chain: &str) -> Error {
    Error::internal(format!("missing {what} {chain:?} in table cni_hostport"))
}

/// The reference may have put conditions in front of the jump, and before 1.9 it led to the rules at once.
fn check_hook(view: &mut dyn View, hook: &str) -> Result<()> {
    for chain in [hook, ALL_HOST_PORTS] {
        let stored = view.chain(chain)?.map_or_else(Vec::new, |stored| stored.rules);
        let leads_to = |next| stored.iter().any(|stored| stored.rule.jumps_to(next));
        if leads_to(HOST_PORTS) {
            return Ok(());
        }
        if !leads_to(ALL_HOST_PORTS) {
            return Err(missing("jump in chain", chain));
        }
    }
    Ok(())
}

/// Only packets to the host itself: one that it forwards to the same port of somebody else is none of ours.
fn to_host() -> Rule {
    Rule::new(vec![Match::LocalDestination], Target::Jump(ALL_HOST_PORTS.to_string()))
}

/// The conditions that the reference puts on the jump to all containers' rules; before 1.9 it had one to each chain.
fn shared_conditions(rules: &[StoredRule]) -> Vec<Match> {
    let leads = |rule: &Rule| [ALL_HOST_PORTS, HOST_PORTS, OLD_HOST_PORTS].iter().any(|chain| rule.jumps_to(chain));
    let jump = rules.iter().find(|stored| !stored.foreign && leads(&stored.rule));
    let matches = jump.map_or_else(Vec::new, |stored| stored.rule.matches.clone());
    matches.into_iter().filter(|condition| *condition != Match::LocalDestination).collect()
}

/// A translation of the reference's with the conditions that so far were on the way to it; `None` when it stays as it is.
fn narrowed(chain: &str, rule: &Rule, shared: &[Match]) -> Option<Rule> {
    // Those that an earlier ADD of ours has moved already are not said again.
    let missing: Vec<&Match> = shared.iter().filter(|condition| !rule.matches.contains(condition)).collect();
    if chain == MASQUERADING || rule.note.is_some() || missing.is_empty() {
        return None;
    }
    let matches = missing.into_iter().chain(&rule.matches).cloned().collect();
    Some(Rule { matches, ..rule.clone() })
}

/// A chain with just these rules. The reference too writes such chains anew. Also says which rules that removes.
fn ensure_exactly(view: &mut dyn View, chain: &str, rules: &[Rule], edits: &mut Vec<Edit>) -> Result<Vec<StoredRule>> {
    let mut flushed = Vec::new();
    let is_base = BASE_CHAINS.iter().any(|base| base.name == chain);
    match view.chain(chain)? {
        Some(stored) => {
            let same =
                stored.rules.iter().map(Some).zip(rules).all(|(stored, rule)| stored.is_some_and(|s| s.is(rule)));
            if same && stored.rules.len() == rules.len() {
                return Ok(flushed);
            }
            edits.push(Edit::Flush(chain.to_string()));
            flushed = stored.rules;
        }
        None if !is_base => edits.push(Edit::create(chain)),
        None => {}
    }
    edits.extend(rules.iter().map(|rule| Edit::append(chain, rule.clone())));
    Ok(flushed)
}

fn translation(conf: &Conf, mapping: &Mapping, address: IpAddr) -> Rule {
    let mut matches = conf.conditions(Family::of_address(address)).to_vec();
    matches.extend(mapping.destination().map(|address| Match::destination(address.into())));
    matches.extend([Match::Protocol(mapping.protocol), Match::DestinationPort(mapping.host_port)]);
    Rule::new(matches, Target::DestinationNat(SocketAddr::new(address, mapping.container_port)))
}

/// Who does not see the answers as those of the host: the container itself, a client on the host at 127.0.0.1, and, which
/// the reference forgets in this backend, the neighbours in the container's network, which it answers directly.
fn masquerades(conf: &Conf, address: IpNet) -> Vec<Rule> {
    let container = address.addr();
    let matches = |source: IpNet| vec![Match::source(source), Match::destination(container.into())];
    let rule = |source: IpNet| Rule::new(matches(source), Target::Masquerade);
    if conf.masq_all {
        return vec![rule(anybody(container))];
    }
    let mut rules = vec![rule(container.into())];
    if container.is_ipv4() {
        rules.push(rule(IpAddr::from(Ipv4Addr::LOCALHOST).into()));
    }
    if address.prefix_len() < address.max_prefix_len() {
        // What neighbours send without the host's help stays as it is.
        let mut matches = matches(address.trunc());
        matches.push(Match::DestinationTranslated);
        rules.push(Rule::new(matches, Target::Masquerade));
    }
    rules
}

fn anybody(like: IpAddr) -> IpNet {
    match like {
        IpAddr::V4(_) => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

/// What an ADD needs, in chains that nothing leads to, for a kernel to judge.
pub(super) fn probe(family: Family) -> Vec<Edit> {
    const CHAIN: &str = "status";
    let address = if family == Family::V4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let port = vec![Match::Protocol(crate::firewall::rule::Protocol::Tcp), Match::DestinationPort(1)];
    vec![
        Edit::create(CHAIN),
        Edit::append(CHAIN, Rule::new(vec![Match::LocalDestination], Target::Return)),
        Edit::append(CHAIN, Rule::new(port, Target::DestinationNat(SocketAddr::new(address, 1)))),
        Edit::append(MASQUERADING, Rule::new(vec![Match::source(address.into())], Target::Masquerade)),
    ]
}

/// Deletes the rules of an attachment, and returns them. Rules of the reference name the container
/// only: their addresses tell the attachment.
pub(super) fn removal(view: &mut dyn View, owner: &Owner, whose: &Whose) -> Result<(Vec<Edit>, Vec<Rule>)> {
    let is_anothers = |rule: &Rule| rule.note.is_none() && address_of(rule).is_some_and(|address| whose.keeps(address));
    removal_of(view, |rule| owner.owns(rule) && !is_anothers(rule))
}

/// The container's address in a rule of its own.
fn address_of(rule: &Rule) -> Option<IpAddr> {
    match rule.target {
        Some(Target::Masquerade) => rule.destination().map(|network| network.addr()),
        _ => leads_to(rule),
    }
}

/// The addresses of mappings whose clients may come from 127.0.0.1.
pub(super) fn masqueraded(view: &mut dyn View) -> Result<Vec<IpAddr>> {
    let mut rules = Vec::new();
    for chain in OWNED {
        let stored = view.chain(chain)?.map_or_else(Vec::new, |stored| stored.rules);
        rules.extend(stored.into_iter().map(|stored| stored.rule));
    }
    Ok(masqueraded_addresses(&rules))
}

/// The same among these rules: a port leads to the address, and a rule masquerades.
pub(super) fn masqueraded_addresses(rules: &[Rule]) -> Vec<IpAddr> {
    let masquerades = rules.iter().filter(|rule| rule.target == Some(Target::Masquerade));
    let masqueraded = SortedSet::new(masquerades.filter_map(address_of).collect());
    unique(rules.iter().filter_map(leads_to).filter(|address| masqueraded.contains(address)).collect())
}

/// Deletes the rules of a network's attachments that are none of `valid`: containers with interfaces. Rules that do not
/// tell their network stay.
pub(super) fn stale_removal(
    view: &mut dyn View,
    network: &str,
    valid: &[(String, String)],
) -> Result<(Vec<Edit>, Vec<Rule>)> {
    let valid: Vec<Owner> = valid.iter().map(|(container, ifname)| Owner::new(network, container, ifname)).collect();
    let start = note_start(network);
    removal_of(view, |rule| {
        let of_network = rule.note.as_ref().is_some_and(|note| note.starts_with(&start));
        of_network && !valid.iter().any(|owner| owner.owns(rule))
    })
}

fn removal_of(view: &mut dyn View, chosen: impl Fn(&Rule) -> bool) -> Result<(Vec<Edit>, Vec<Rule>)> {
    let (mut edits, mut rules) = (Vec::new(), Vec::new());
    for name in OWNED {
        let stored = view.chain(name)?.map_or_else(Vec::new, |stored| stored.rules);
        for stored in stored.into_iter().filter(|stored| chosen(&stored.rule)) {
            edits.push(Edit::delete(name, stored.id));
            rules.push(stored.rule);
        }
    }
    Ok((edits, rules))
}

/// True when the table has rules of containers. Costs one question where there never were any.
pub(super) fn has_rules(view: &mut dyn View) -> Result<bool> {
    let Some(uses) = view.uses(HOST_PORTS)? else { return Ok(false) };
    // The first is the jump to it.
    Ok(uses > 1 || view.uses(MASQUERADING)?.unwrap_or(0) > 0 || view.uses(OLD_HOST_PORTS)?.unwrap_or(0) > 1)
}

impl Added {
    /// Takes it back: what was there before is there again.
    pub(super) fn reversal(&self, view: &mut dyn View) -> Result<Vec<Edit>> {
        let (mut edits, _) =
            removal_of(view, |rule| rule.note.as_ref() == Some(&self.owner.note) && self.owner.owns(rule))?;
        edits.extend(self.before.iter().map(|(chain, rule)| Edit::append(chain, rule.clone())));
        Ok(edits)
    }
}
