//! Rules that drop packets to 127.0.0.0/8 which come in by guarded links. One rule sends all
//! packets to 127.0.0.0/8 that do not come in by `lo` to a chain with a rule for each guarded link.
//! So all other packets pass one rule, however many links are guarded.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::error::Result;
use crate::firewall::flavour::Flavour;
use crate::firewall::place::StoredRule;
use crate::firewall::rule::{Direction, RELATED_OR_ESTABLISHED, Side};
use crate::firewall::{Edit, Family, Match, Place, Rule, Table, Target, View};
use crate::net::Link;

use super::super::forward::Kind;
use super::super::nftables;

/// Length of the prefix of 127.0.0.0/8.
const PREFIX: u8 = 8;
const LOOPBACK: &str = "lo";
const COMMENT: &str = "CNI portmap: 127.0.0.0/8 is local";
/// The chain with a rule for each link, in tables of iptables.
const CHAIN: &str = "CNI-HOSTPORT-LOCALNET";
/// `XT_CONNTRACK_STATE_DNAT`: the destination of the connection is translated.
const TRANSLATED: u16 = 1 << 7;

/// A table that can hold the guard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    /// The table.
    pub(super) place: Place,
    /// Its chain that packets reach by themselves.
    base: &'static str,
    /// The chain with a rule for each link.
    chain: &'static str,
    /// Destinations are translated before: answers to a client at 127.0.0.1 are for 127.0.0.1 here.
    is_behind_translation: bool,
}

/// The guard as found in one table.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The chain exists.
    pub(super) is_there: bool,
    /// The links with a rule.
    pub(super) links: Vec<String>,
    /// Packets reach these rules.
    pub(super) is_in_force: bool,
    /// The rule of version 0.1.0 exists, which guards all links but `lo`.
    pub(super) is_for_all: bool,
}

/// A hook in a table of iptables. `raw`, as our own table, comes before connection tracking.
/// `mangle` comes after connection tracking but before translation, INPUT of `filter` after both.
const fn iptables(flavour: Flavour, table: Table, base: &'static str) -> Hook {
    let place = Place::Iptables { flavour, family: Family::V4, table };
    Hook { place, base, chain: CHAIN, is_behind_translation: matches!(table, Table::Filter) }
}

const RAW: Hook = iptables(Flavour::Nft, Table::Raw, "PREROUTING");
const LEGACY: [Hook; 3] = [
    iptables(Flavour::Legacy, Table::Raw, "PREROUTING"),
    iptables(Flavour::Legacy, Table::Mangle, "PREROUTING"),
    iptables(Flavour::Legacy, Table::Filter, "INPUT"),
];

fn native() -> Hook {
    let (base, chain) = (nftables::LOCALNET, "localnet_links");
    Hook { place: nftables::place(Family::V4), base, chain, is_behind_translation: false }
}

/// The hooks to try for mappings of a kind, the best first.
pub(super) fn hooks_for(kind: Kind) -> Vec<Hook> {
    match kind {
        Kind::Iptables(Flavour::Nft) => vec![RAW, native()],
        Kind::Iptables(Flavour::Legacy) => LEGACY.into_iter().chain([native()]).collect(),
        Kind::Nftables => vec![native()],
    }
}

/// All hooks at which a guard may be.
pub(super) fn all_hooks() -> impl Iterator<Item = Hook> {
    [RAW, native()].into_iter().chain(LEGACY)
}

fn loopback() -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::LOCALHOST), PREFIX)
}

/// Packets to 127.0.0.0/8 that another host may have sent.
fn foreign() -> Vec<Match> {
    let interface = Match::Interface { direction: Direction::In, negated: true, name: LOOPBACK.to_string() };
    vec![interface, Match::destination(loopback())]
}

/// The rule of version 0.1.0.
fn for_all() -> Rule {
    Rule::new(foreign(), Target::Drop).commented(COMMENT)
}

/// Drops what comes in by a link. The host's own packets to 127.0.0.1 in a VRF come in by the VRF.
fn drop_from(link: &Link) -> Rule {
    let own = Match::Address { side: Side::Source, negated: true, network: loopback() };
    let is_vrf = link.kind == "vrf";
    let matches = [Match::comes_in_by(&link.name)].into_iter().chain(is_vrf.then_some(own));
    Rule::new(matches.collect(), Target::Drop).commented(COMMENT)
}

/// The link that a rule in the chain is for.
fn dropped(stored: &StoredRule) -> Option<&str> {
    let link = stored.rule.matches.iter().find_map(|condition| match condition {
        Match::Interface { direction: Direction::In, negated: false, name } => Some(name.as_str()),
        _ => None,
    });
    link.filter(|_| stored.rule.target == Some(Target::Drop) && !stored.foreign)
}

impl Hook {
    /// Reads the guard.
    pub(super) fn find(&self, view: &mut dyn View) -> Result<Found> {
        let Some(base) = view.chain(self.base)? else { return Ok(Found::default()) };
        let chain = view.chain(self.chain)?;
        Ok(Found {
            is_there: chain.is_some(),
            links: chain.iter().flat_map(|chain| &chain.rules).filter_map(dropped).map(str::to_string).collect(),
            is_in_force: base.rules.iter().any(|stored| stored.rule.jumps_to(self.chain)),
            is_for_all: base.holds(&for_all()),
        })
    }

    /// Guards these links, and removes the rule of version 0.1.0.
    pub(super) fn raise(&self, view: &mut dyn View, links: &[Link]) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        let base = view.chain(self.base)?;
        if !links.is_empty() {
            self.fill(view, links, &mut edits)?;
            if !base.as_ref().is_some_and(|base| base.rules.iter().any(|stored| stored.rule.jumps_to(self.chain))) {
                let jump = Rule::new(foreign(), Target::Jump(self.chain.to_string())).commented(COMMENT);
                edits.push(Edit::prepend(self.base, jump));
            }
        }
        let for_all = for_all();
        edits.extend(base.into_iter().flat_map(|base| base.deletions(self.base, |stored| stored.is(&for_all))));
        Ok(edits)
    }

    fn fill(&self, view: &mut dyn View, links: &[Link], edits: &mut Vec<Edit>) -> Result<()> {
        let chain = view.chain(self.chain)?;
        if chain.is_none() {
            edits.push(Edit::create(self.chain));
        }
        let answers = Match::ConnectionState(RELATED_OR_ESTABLISHED | TRANSLATED);
        let answers = self.is_behind_translation.then(|| Rule::new(vec![answers], Target::Return));
        let wanted = answers.into_iter().chain(links.iter().map(drop_from));
        let is_there = |rule: &Rule| chain.as_ref().is_some_and(|chain| chain.holds(rule));
        edits.extend(wanted.filter(|rule| !is_there(rule)).map(|rule| Edit::append(self.chain, rule)));
        Ok(())
    }

    /// Guards these links no longer. Removes the chain with the last link.
    pub(super) fn lower(&self, view: &mut dyn View, links: &[String]) -> Result<Vec<Edit>> {
        let Some(chain) = view.chain(self.chain)? else { return Ok(Vec::new()) };
        let goes = |stored: &StoredRule| dropped(stored).is_some_and(|link| links.iter().any(|gone| gone == link));
        if chain.rules.iter().any(|stored| dropped(stored).is_some() && !goes(stored)) {
            return Ok(chain.deletions(self.chain, goes));
        }
        let Some(base) = view.chain(self.base)? else { return Ok(Vec::new()) };
        let mut edits = base.deletions(self.base, |stored| stored.rule.jumps_to(self.chain));
        let (jumps, is_emptied) = (edits.len(), edits.len() == base.rules.len());
        // A chain that a foreign rule leads to cannot be deleted.
        edits.push(match chain.references > jumps {
            true => Edit::Flush(self.chain.to_string()),
            false => Edit::DeleteChain(self.chain.to_string()),
        });
        if is_emptied && matches!(self.place, Place::Native(_)) {
            edits.push(Edit::DeleteChain(self.base.to_string()));
        }
        Ok(edits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::testing::FakeTable;

    fn links(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn raise(hook: &Hook, table: &mut FakeTable, names: &[&str]) {
        let link = |name: &&str| Link { name: name.to_string(), ..Link::default() };
        let edits = hook.raise(table, &names.iter().map(link).collect::<Vec<_>>()).unwrap();
        table.apply(&edits);
    }

    fn lower(hook: &Hook, table: &mut FakeTable, names: &[&str]) {
        let edits = hook.lower(table, &links(names)).unwrap();
        table.apply(&edits);
    }

    #[test]
    fn each_link_has_one_rule_and_nothing_is_left_without_the_last() {
        for hook in [RAW, LEGACY[1], LEGACY[2]] {
            let mut table = FakeTable::default();
            let foreign = Rule::new(Vec::new(), Target::Accept);
            table.apply(&[Edit::append(hook.base, foreign)]);
            let before = table.text();
            raise(&hook, &mut table, &["br0"]);
            raise(&hook, &mut table, &["br0", "br1"]);
            let jumps = table.text().iter().filter(|line| line.contains("Jump")).count();
            let found = hook.find(&mut table).unwrap();
            assert_eq!((jumps, found.links, found.is_in_force), (1, links(&["br0", "br1"]), true));
            assert!(table.text().iter().any(|line| line.starts_with(hook.base)), "in front: {:?}", table.text());
            lower(&hook, &mut table, &["br0", "br7"]);
            assert_eq!(hook.find(&mut table).unwrap().links, ["br1"]);
            lower(&hook, &mut table, &["br1"]);
            lower(&hook, &mut table, &["br1"]);
            assert_eq!((table.text(), table.chains.len()), (before, 0));
        }
    }

    #[test]
    fn the_rule_for_all_links_is_replaced() {
        let mut table = FakeTable::default();
        table.apply(&[Edit::append("PREROUTING", for_all())]);
        assert!(RAW.find(&mut table).unwrap().is_for_all);
        raise(&RAW, &mut table, &["br0"]);
        let found = RAW.find(&mut table).unwrap();
        assert_eq!((found.links, found.is_in_force, found.is_for_all), (links(&["br0"]), true, false));
        table.apply(&[Edit::append("PREROUTING", for_all())]);
        lower(&RAW, &mut table, &["br0"]);
        raise(&RAW, &mut table, &[]);
        assert_eq!(table.text(), [""; 0]);
    }

    #[test]
    fn what_others_put_into_the_chain_goes_and_what_they_jump_to_is_emptied() {
        let mut table = FakeTable::default();
        raise(&RAW, &mut table, &["br0"]);
        let jump = Rule::new(Vec::new(), Target::Jump(CHAIN.to_string()));
        table.apply(&[Edit::create("ADMIN"), Edit::append("ADMIN", jump)]);
        lower(&RAW, &mut table, &["br0"]);
        assert_eq!((table.text().len(), table.chain(CHAIN).unwrap().map(|chain| chain.rules.len())), (1, Some(0)));
    }
}
