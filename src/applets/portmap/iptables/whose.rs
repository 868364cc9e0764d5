//! Tells which rules in a container's chain are an attachment's. All attachments of a container to
//! one network share the chain, as in the reference, and its rules name no interface. The address
//! that a DNAT rule leads to tells the attachment.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::firewall::place::StoredRule;
use crate::firewall::rule::Protocol;
use crate::firewall::{Match, Rule, Target};
use crate::sorted::{SortedSet, unique};

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

/// The packets that rules match.
pub(super) struct PacketSet(SortedSet<Packets>);

impl PacketSet {
    /// Those of these rules.
    pub(super) fn of<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        PacketSet(SortedSet::new(rules.into_iter().map(packets).collect()))
    }

    /// True if one of the rules matches the same packets.
    pub(super) fn contains(&self, rule: &Rule) -> bool {
        self.0.contains(&packets(rule))
    }
}

/// Ports of protocols.
#[derive(Debug)]
pub(super) struct PortSet(SortedSet<(Option<Protocol>, u16)>);

impl PortSet {
    /// Those that these rules match.
    pub(super) fn of<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        PortSet(SortedSet::new(rules.into_iter().flat_map(ports).collect()))
    }

    /// True if the entry matches packets to one of the ports.
    pub(super) fn has_any_of(&self, entry: &Rule) -> bool {
        ports(entry).iter().any(|port| self.0.contains(port))
    }
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
    let marks = PacketSet::of(rules.iter().filter(|rule| matches!(rule.target, Some(Target::Jump(_)))));
    unique(rules.iter().filter(|rule| marks.contains(rule)).filter_map(leads_to).collect())
}

/// The rules of a container's chain.
#[derive(Debug)]
pub(super) struct Split<'a> {
    /// Those that stay.
    pub(super) stays: Vec<&'a StoredRule>,
    /// Those that go.
    pub(super) goes: Vec<&'a StoredRule>,
    staying_ports: PortSet,
    going_ports: PortSet,
}

impl<'a> Split<'a> {
    /// Asks `keeps` about each DNAT rule and its address. A rule that marks stays if a DNAT rule
    /// for the same packets stays. A rule that we don't understand stays if any DNAT rule stays.
    pub(super) fn new(rules: &'a [StoredRule], keeps: impl Fn(&Rule, IpAddr) -> bool) -> Self {
        let is_kept = |rule: &Rule| leads_to(rule).is_some_and(|address| keeps(rule, address));
        let kept = PacketSet::of(rules.iter().map(|stored| &stored.rule).filter(|rule| is_kept(rule)));
        let (stays, goes): (Vec<_>, Vec<_>) = rules.iter().partition(|stored| match leads_to(&stored.rule) {
            Some(_) => is_kept(&stored.rule),
            None if stored.foreign => !kept.0.as_slice().is_empty(),
            None => kept.contains(&stored.rule),
        });
        let ports = |rules: &[&'a StoredRule]| PortSet::of(rules.iter().map(|stored| &stored.rule));
        Split { staying_ports: ports(&stays), going_ports: ports(&goes), stays, goes }
    }

    /// True if the entry leads to rules that go, and to none that stays.
    pub(super) fn abandons(&self, entry: &Rule) -> bool {
        self.going_ports.has_any_of(entry) && !self.needs(entry)
    }

    /// True if the entry leads to a rule that stays.
    pub(super) fn needs(&self, entry: &Rule) -> bool {
        self.staying_ports.has_any_of(entry)
    }
}

/// The ports that a rule matches, with their protocol.
fn ports(rule: &Rule) -> Vec<(Option<Protocol>, u16)> {
    let of = |condition: &Match| match condition {
        Match::DestinationPort(port) => vec![*port],
        Match::DestinationPorts(ports) => ports.clone(),
        _ => Vec::new(),
    };
    let protocol = rule.protocol();
    rule.matches.iter().flat_map(of).map(|port| (protocol, port)).collect()
}
