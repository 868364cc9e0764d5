//! Routes as the kernel lists them, with all that it knows of them, to be moved from one table to another or put back; and
//! changes to routes and rules together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::error::{Context, Error, Result};
use crate::net::Handle;
use crate::net::addresses::ip_from;
use crate::net::routes::{MAIN, Route};
use crate::net::rules::Rule;
use crate::netlink::message::{CREATE, REPLACE};
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
    /// Index of the outgoing link; 0 when there is none, or several.
    pub link: u32,
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
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

/// A change to rules or routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Add a rule.
    AddRule(Rule),
    /// Remove a rule.
    RemoveRule(Rule),
    /// Add a route, in place of one with the same destination and metric.
    New(Route),
    /// Add a route as it is listed, but to this table, also in place of one.
    Put(Listed, u32),
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

    /// The metric that the kernel gives to routes without one.
    pub fn has_default_metric(&self) -> bool {
        self.metric == if self.dst.addr().is_ipv4() { 0 } else { 1024 }
    }

    fn parse(body: &[u8]) -> Result<Option<Listed>> {
        let &[family, length, from, tos, table, protocol, scope, kind, flags @ ..] =
            body.first_chunk::<RTMSG>().unwrap_or(&[0; RTMSG]);
        let flags = u32::from_ne_bytes(flags);
        let any: IpAddr = if family == AF_INET { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let attributes = Attributes::after(body, RTMSG)?;
        let number = |kind| attributes.find(kind).and_then(Attribute::u32);
        let ip = |kind| attributes.find(kind).and_then(|found| ip_from(family, found.payload));
        let Ok(dst) = IpNet::new(ip(RTA_DST).unwrap_or(any), length) else { return Ok(None) };
        let kept = attributes.filter(|found| !matches!(found.kind, RTA_TABLE | RTA_CACHEINFO));
        let listed = Listed {
            header: [family, length, from, tos, 0, protocol, scope, kind],
            is_onlink: flags & RTNH_F_ONLINK != 0,
            attributes: kept.map(|found| (found.kind, found.payload.to_vec())).collect(),
            table: number(RTA_TABLE).unwrap_or(u32::from(table)),
            link: number(RTA_OIF).unwrap_or(0),
            dst,
            gateway: ip(RTA_GATEWAY),
            source: ip(RTA_PREFSRC),
            metric: number(RTA_PRIORITY).unwrap_or(0),
        };
        Ok(Some(listed).filter(|_| flags & RTM_F_CLONED == 0))
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

impl Change {
    fn message(&self) -> Message {
        match self {
            Change::AddRule(rule) => rule.message(),
            Change::RemoveRule(rule) => rule.deletion(),
            Change::New(route) => route.replacement(),
            Change::Put(listed, table) => listed.message(RTM_NEWROUTE, CREATE | REPLACE, *table),
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
        let of_link = |route: &&Listed| route.link == link;
        // Where routes lead is known only when the next hop can be reached: those on the link first.
        let (on_link, others): (Vec<_>, Vec<_>) = self
            .routes
            .iter()
            .filter(of_link)
            .filter(|route| !now.routes.contains(route))
            .cloned()
            .partition(|route| route.gateway.is_none());
        let missing = on_link.into_iter().chain(others).map(|route| (route.table, route));
        let missing = missing.map(|(table, route)| Change::Put(route, table));
        let new = now.routes.iter().filter(of_link).filter(|route| !self.routes.contains(route));
        // One that was replaced goes by being replaced again.
        let replaced = |route: &&Listed| {
            let same = |old: &Listed| (old.dst, old.table, old.metric) == (route.dst, route.table, route.metric);
            self.routes.iter().filter(|old| old.link == link).any(same)
        };
        let new = new.filter(|route| !replaced(route)).cloned().map(Change::Remove);
        rules.chain(missing).chain(new).collect()
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
        let listed = Listed::parse(&body).unwrap().unwrap();
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
        assert_eq!(Change::Put(listed, 100).message().body(), golden);
        body[9] = 2;
        assert_eq!(Listed::parse(&body).unwrap(), None, "a cached one");
    }

    #[test]
    fn a_free_table_has_neither_rule_nor_route() {
        let rule = |table| Rule { source: None, table, priority: 0 };
        let routing = Routing { rules: vec![rule(100), rule(102)], routes: Vec::new() };
        assert_eq!((routing.free_table(100), routing.free_table(102)), (101, 103));
    }
}
