//! Tells which rules in a container's chain are an attachment's. All attachments of a container to
//! one network share the chain, as in the reference, and its rules name no interface. The address
//! that a DNAT rule leads to tells the attachment.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::firewall::place::StoredRule;
use crate::firewall::rule::Protocol;
use crate::firewall::{Match, Rule, Target};

/// The known addresses of an attachment, and of the container's other attachments to the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::applets::portmap) struct Whose {
    /// The attachment's own, those of an earlier ADD too.
    pub(in crate::applets::portmap) mine: Vec<IpAddr>,
    /// Those of other interfaces of the container.
    pub(in crate::applets::portmap) others: Vec<IpAddr>,
}

impl Whose {
    /// True if the address is another interface's, so that rules which lead to it stay. If no
    /// address of the attachment is known, all addresses count as its own that no other interface
    /// has.
    pub(in crate::applets::portmap) fn keeps(&self, address: IpAddr) -> bool {
        self.others.contains(&address) || (!self.mine.is_empty() && !self.mine.contains(&address))
    }
}

/// The packets of a mapping from any source: protocol, port and address of the host.
type Packets = (Option<Protocol>, Option<u16>, Option<IpNet>);

/// The packets that a rule in a container's chain matches.
fn packets(rule: &Rule) -> Packets {
    (rule.protocol(), rule.destination_port(), rule.destination())
}

/// True if one of `rules` matches the same packets.
pub(super) fn is_for_packets_of(rule: &Rule, rules: &[&Rule]) -> bool {
    let wanted = packets(rule);
    rules.iter().any(|rule| packets(rule) == wanted)
}

/// The address to which a translation leads.
pub(in crate::applets::portmap) fn leads_to(rule: &Rule) -> Option<IpAddr> {
    match &rule.target {
        Some(Target::DestinationNat(to)) => Some(to.ip()),
        _ => None,
    }
}

/// The addresses of mappings whose clients may come from 127.0.0.1: a rule marks the same packets.
pub(in crate::applets::portmap) fn marked_addresses(rules: &[Rule]) -> Vec<IpAddr> {
    let marks: Vec<&Rule> = rules.iter().filter(|rule| matches!(rule.target, Some(Target::Jump(_)))).collect();
    let mut addresses = Vec::new();
    for (rule, address) in rules.iter().filter_map(|rule| Some((rule, leads_to(rule)?))) {
        if !addresses.contains(&address) && is_for_packets_of(rule, &marks) {
            addresses.push(address);
        }
    }
    addresses
}

/// The rules of a container's chain.
#[derive(Debug)]
pub(super) struct Split<'a> {
    /// Those that stay.
    pub(super) stays: Vec<&'a StoredRule>,
    /// Those that go.
    pub(super) goes: Vec<&'a StoredRule>,
}

impl<'a> Split<'a> {
    /// Asks `keeps` about each DNAT rule and its address. A rule that marks stays if a DNAT rule
    /// for the same packets stays. A rule that we don't understand stays if any DNAT rule stays.
    pub(super) fn new(rules: &'a [StoredRule], keeps: impl Fn(&Rule, IpAddr) -> bool) -> Self {
        let is_kept = |rule: &Rule| leads_to(rule).is_some_and(|address| keeps(rule, address));
        let kept: Vec<&Rule> = rules.iter().map(|stored| &stored.rule).filter(|rule| is_kept(rule)).collect();
        let (stays, goes) = rules.iter().partition(|stored| match leads_to(&stored.rule) {
            Some(_) => is_kept(&stored.rule),
            None if stored.foreign => !kept.is_empty(),
            None => is_for_packets_of(&stored.rule, &kept),
        });
        Split { stays, goes }
    }

    /// True if the entry leads to rules that go, and to none that stays.
    pub(super) fn abandons(&self, entry: &Rule) -> bool {
        concerns(entry, &self.goes) && !self.needs(entry)
    }

    /// True if the entry leads to a rule that stays.
    pub(super) fn needs(&self, entry: &Rule) -> bool {
        concerns(entry, &self.stays)
    }
}

/// True if the entry matches packets to a port of one of the rules.
fn concerns(entry: &Rule, rules: &[&StoredRule]) -> bool {
    let ports = entry_ports(entry);
    rules.iter().any(|stored| {
        let (protocol, port, _) = packets(&stored.rule);
        protocol == entry.protocol() && port.is_some_and(|port| ports.contains(&port))
    })
}

/// The ports that an entry matches.
pub(super) fn entry_ports(entry: &Rule) -> Vec<u16> {
    let of = |condition: &Match| match condition {
        Match::DestinationPort(port) => vec![*port],
        Match::DestinationPorts(ports) => ports.clone(),
        _ => Vec::new(),
    };
    entry.matches.iter().flat_map(of).collect()
}
