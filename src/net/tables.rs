//! Routes as the kernel lists them, with all that it knows of them, to be moved from one table to another or put back; and
//! changes to routes and rules together.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::{Context, Error, Result};
use crate::net::Handle;
use crate::net::addresses::{ip_from, unspecified};
use crate::net::next_hops::{gateway_of, hops_of, links_of};
use crate::net::routes::{MAIN, Route};
use crate::net::rules::Rule;
use crate::netlink::message::{APPEND, CREATE, REPLACE};
use crate::netlink::route::*;
use crate::netlink::{Attribute, Attributes, Message};

/// Length of `struct rtmsg` in bytes.
const RTMSG: usize = 12;

/// A route of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `struct rtmsg` without table and flags.
    header: [u8; RTMSG - 4],
    /// The one flag that matters to the kernel when the route is added again.
    is_onlink: bool,
    /// Without the table, and without figures about its use.
    attributes: Vec<(u16, Vec<u8>)>,
    /// Its table.
    pub table: u32,
    /// Index of the outgoing link; 0 when there is none, or several. (In IPv6 several are listed one by one: there next hops
    /// come and go by themselves.)
    pub link: u32,
    /// Destination.
    pub dst: IpNet,
    /// Next hop; of several, the first.
    pub gateway: Option<IpAddr>,
    /// Address that packets of the host itself are sent from.
    pub source: Option<IpAddr>,
    /// Its metric.
    pub metric: u32,
}

/// All rules and routes of a namespace.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    /// The rules, in their order for each family.
    pub rules: Vec<Rule>,
    /// The routes, IPv4 first.
    pub routes: Vec<Listed>,
}

/// Where a new route goes among those with its destination and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In place of the first of them, whatever link it is of.
    Instead,
    /// Before them, so that it is the one that counts (IPv4 only).
    First,
    /// Behind them.
    Last,
}

impl Place {
    fn flags(self) -> u16 {
        match self {
            Place::Instead => CREATE | REPLACE,
            Place::First => CREATE,
            Place::Last => CREATE | APPEND,
        }
    }
}

/// A change to rules or routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Add a rule.
    AddRule(Rule),
    /// Remove a rule.
    RemoveRule(Rule),
    /// Add a route.
    New(Route, Place),
    /// Add a route as it is listed, but to this table.
    Put(Listed, u32, Place),
    /// Remove a route.
    Remove(Listed),
}

impl Listed {
    /// True for the scope of addresses on the link. Routes of IPv6 have none.
    pub fn is_of_link_scope(&self) -> bool {
        const LINK: u8 = 253;
        let [.., scope, _] = self.header;
        scope == LINK
    }

    /// True for routes that the kernel made from router advertisements.
    pub fn is_advertised(&self) -> bool {
        let [.., protocol, _, _] = self.header;
        protocol == RTPROT_RA
    }

    /// The metric that the kernel gives to routes without one.
    pub fn has_default_metric(&self) -> bool {
        self.metric == if self.dst.addr().is_ipv4() { 0 } else { 1024 }
    }

    /// True for routes of which, in one table, the kernel takes the first.
    pub fn competes_with(&self, other: &Listed) -> bool {
        (self.dst, self.metric) == (other.dst, other.metric)
    }

    /// The routes of an entry of a dump: none if it is a cached one, or neither of IPv4 nor IPv6.
    fn parse(body: &[u8]) -> Result<Vec<Listed>> {
        let &[family, length, from, tos, table, protocol, scope, kind, flags @ ..] =
            body.first_chunk::<RTMSG>().unwrap_or(&[0; RTMSG]);
        let flags = u32::from_ne_bytes(flags);
        let attributes = Attributes::after(body, RTMSG)?;
        let number = |kind| attributes.find(kind).and_then(Attribute::u32);
        let ip = |kind| attributes.find(kind).and_then(|found| ip_from(family, found.payload));
        let dst = ip(RTA_DST).or(unspecified(family)).and_then(|dst| IpNet::new(dst, length).ok());
        let Some(dst) = dst else { return Ok(Vec::new()) };
        let is_object = attributes.find(RTA_NH_ID).is_some();
        let kept = attributes.filter(|found| is_wish(found.kind, is_object));
        let listed = Listed {
            header: [family, length, from, tos, 0, protocol, scope, kind],
            is_onlink: flags & RTNH_F_ONLINK != 0 && !is_object,
            attributes: kept.map(|found| (found.kind, found.payload.to_vec())).collect(),
            table: number(RTA_TABLE).unwrap_or(u32::from(table)),
            link: number(RTA_OIF).unwrap_or(0),
            dst,
            gateway: ip(RTA_GATEWAY),
            source: ip(RTA_PREFSRC),
            metric: number(RTA_PRIORITY).unwrap_or(0),
        };
        Ok(if flags & RTM_F_CLONED != 0 { Vec::new() } else { listed.by_link() })
    }

    /// The same with the next hops through each link apart, if that is how the kernel sees them.
    fn by_link(self) -> Vec<Listed> {
        let found = self.attributes.iter().find(|(kind, _)| *kind == RTA_MULTIPATH);
        let Some(hops) = found.map(|(_, hops)| hops.clone()) else { return vec![self] };
        let links = links_of(&hops);
        if links.len() > 1 && self.dst.addr().is_ipv4() {
            return vec![self];
        }
        links.into_iter().map(|link| self.through(link, &hops_of(&hops, link))).collect()
    }

    fn through(&self, link: u32, hops: &[u8]) -> Listed {
        let gateway = gateway_of(hops, self.header.first().copied().unwrap_or(0));
        let mut listed = Listed { link, gateway, ..self.clone() };
        let found = listed.attributes.iter_mut().filter(|(kind, _)| *kind == RTA_MULTIPATH);
        found.for_each(|(_, payload)| *payload = hops.to_vec());
        listed
    }

    fn message(&self, kind: u16, flags: u16, table: u32) -> Message {
        let mut message = Message::new(kind, flags);
        let own = if self.is_onlink { RTNH_F_ONLINK } else { 0 };
        message.raw(&[self.header.as_slice(), &own.to_ne_bytes()].concat());
        message.u32(RTA_TABLE, table);
        for (kind, payload) in &self.attributes {
            message.attribute(*kind, payload);
        }
        message
    }
}

/// True for attributes that can be asked for again. A next-hop object stands for all that is said about next hops.
fn is_wish(kind: u16, is_object: bool) -> bool {
    match kind {
        RTA_TABLE | RTA_CACHEINFO => false,
        RTA_OIF | RTA_GATEWAY | RTA_VIA | RTA_MULTIPATH | RTA_ENCAP | RTA_ENCAP_TYPE => !is_object,
        _ => true,
    }
}

impl Change {
    fn message(&self) -> Message {
        match self {
            Change::AddRule(rule) => rule.message(),
            Change::RemoveRule(rule) => rule.deletion(),
            Change::New(route, place) => route.addition(place.flags()),
            Change::Put(listed, table, place) => listed.message(RTM_NEWROUTE, place.flags(), *table),
            Change::Remove(listed) => listed.message(RTM_DELROUTE, 0, listed.table),
        }
    }
}

impl Routing {
    /// The lowest number of a table, from `first` on, that no rule leads to and no route is in.
    pub fn free_table(&self, first: u32) -> u32 {
        let is_used = |table: u32| {
            self.rules.iter().any(|rule| rule.table == table) || self.routes.iter().any(|route| route.table == table)
        };
        (first..u32::MAX).find(|table| !is_used(*table)).unwrap_or(first)
    }

    /// What leads from the present state back to this one, as far as one link and rules about these sources go.
    fn way_back(&self, now: &Routing, link: u32, sources: &[IpNet]) -> Vec<Change> {
        let is_ours = |rule: &&Rule| rule.source.is_some_and(|source| sources.contains(&source));
        let is_new_rule = |rule: &&Rule| is_ours(rule) && !self.rules.contains(rule);
        let rules = now.rules.iter().filter(is_new_rule).cloned().map(Change::RemoveRule);
        let of_link = |route: &&Listed| link > 0 && route.link == link;
        let new = now.routes.iter().filter(of_link).filter(|route| !self.routes.contains(route));
        let new = new.cloned().map(Change::Remove);
        // Where routes lead is known only when the next hop can be reached: those on the link first.
        let missing = self.routes.iter().filter(of_link).filter(|route| !now.routes.contains(route));
        let (on_link, others): (Vec<_>, Vec<_>) = missing.partition(|route| route.gateway.is_none());
        let missing = on_link.into_iter().chain(others);
        let missing = missing.map(|route| Change::Put(route.clone(), route.table, self.place_of(route)));
        rules.chain(new).chain(missing).collect()
    }

    /// Where a route is among those that compete with it.
    fn place_of(&self, route: &Listed) -> Place {
        let mut earlier = self.routes.iter().take_while(|other| *other != route);
        match earlier.any(|other| other.table == route.table && other.competes_with(route)) {
            true => Place::Last,
            false => Place::First,
        }
    }
}

impl Handle {
    /// All rules and routes.
    pub fn routing(&mut self) -> Result<Routing> {
        let mut routing = Routing { rules: self.rules()?, routes: Vec::new() };
        for family in [AF_INET, AF_INET6] {
            let mut request = Message::new(RTM_GETROUTE, 0);
            request.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let listed = self.connection.dump(&request, Vec::new, |routes, reply| {
                routes.extend(Listed::parse(reply.body)?);
                Ok(())
            });
            routing.routes.extend(listed.context("Failed to list all routes")?);
        }
        Ok(routing)
    }

    /// Makes the changes in order, all in one send. The first that failed is named by its index; those behind it have been
    /// tried nevertheless.
    pub fn change(&mut self, changes: &[Change]) -> std::result::Result<(), (usize, Error)> {
        self.connection.pipeline(changes.iter().map(Change::message).collect())
    }

    /// Brings back the routes of a link, and takes away rules about these sources that were not there.
    pub fn restore_routing(&mut self, before: &Routing, link: u32, sources: &[IpNet]) -> Result<()> {
        let changes = before.way_back(&self.routing()?, link, sources);
        self.change(&changes).map_err(|(_, error)| error).context("failed to restore routes and rules")
    }
}

/// The routes of a link in the main table.
pub fn main_of(routing: &Routing, link: u32) -> impl Iterator<Item = &Listed> {
    routing.routes.iter().filter(move |route| route.link == link && route.table == MAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_keeps_all_but_its_table() {
        #[rustfmt::skip]
        let mut body = vec![
            2, 24, 0, 0, 254, 2, 253, 1, 16, 0, 0, 0,   // rtmsg: IPv4, /24, main, kernel, link, unicast; link down
            8, 0, 15, 0, 254, 0, 0, 0,                  // RTA_TABLE
            8, 0, 1, 0, 10, 0, 0, 0,                    // RTA_DST
            8, 0, 7, 0, 10, 0, 0, 2,                    // RTA_PREFSRC
            8, 0, 4, 0, 3, 0, 0, 0,                     // RTA_OIF
            8, 0, 12, 0, 1, 2, 3, 4,                    // RTA_CACHEINFO, cut
        ];
        let listed = Listed::parse(&body).unwrap().remove(0);
        assert_eq!((listed.table, listed.link, listed.dst.to_string()), (MAIN, 3, "10.0.0.0/24".to_string()));
        assert!(listed.is_of_link_scope() && listed.has_default_metric());
        #[rustfmt::skip]
        let golden = [
            2, 24, 0, 0, 0, 2, 253, 1, 0, 0, 0, 0,
            8, 0, 15, 0, 100, 0, 0, 0,
            8, 0, 1, 0, 10, 0, 0, 0,
            8, 0, 7, 0, 10, 0, 0, 2,
            8, 0, 4, 0, 3, 0, 0, 0,
        ];
        assert_eq!(Change::Put(listed, 100, Place::Instead).message().body(), golden);
        body[9] = 2;
        assert_eq!(Listed::parse(&body).unwrap(), [], "a cached one");
        (body[0], body[9]) = (28, 0);
        assert_eq!(Listed::parse(&body).unwrap(), [], "of MPLS");
    }

    #[test]
    fn a_free_table_has_neither_rule_nor_route() {
        let rule = |table| Rule { source: None, table, priority: 0 };
        let routing = Routing { rules: vec![rule(100), rule(102)], routes: Vec::new() };
        assert_eq!((routing.free_table(100), routing.free_table(102)), (101, 103));
    }
}
