//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::error::{Context, Errno, Result};
use crate::net::Handle;
use crate::net::addresses::{family_of, ip_from, push_ip, unspecified};
use crate::netlink::message::CREATE;
use crate::netlink::route::*;
use crate::netlink::{Attribute, Attributes, Message};

/// The table that routes are in when nothing else is said.
pub const MAIN: u32 = RT_TABLE_MAIN;

/// The table that is asked after main; empty unless somebody fills it.
pub const DEFAULT: u32 = RT_TABLE_MAIN - 1;

/// The table of the host's own addresses.
pub const LOCAL: u32 = RT_TABLE_MAIN + 1;

/// No address in particular, of each family.
const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// Length of `struct rtmsg` in bytes.
const RTMSG: usize = 12;
/// Where the route's type is in it.
const RTM_TYPE: usize = 7;

/// A unicast route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; `None` for destinations on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the outgoing link; of several, the first.
    pub link: u32,
    /// Routing table; 0 is main.
    pub table: u32,
    /// Scope (`rt_scope_t`); 0 is the whole world.
    pub scope: u8,
    /// Metric; 0 leaves the kernel's default.
    pub priority: u32,
    /// Address that packets of the host itself are sent from; `None` leaves the choice to the kernel.
    pub source: Option<IpAddr>,
    /// Path MTU in bytes; 0 when not set.
    pub mtu: u32,
    /// Maximum segment size to advertise, in bytes; 0 when not set.
    pub advmss: u32,
}

/// Where packets to an address go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Index of the outgoing link.
    pub link: u32,
    /// The address is the host's own.
    pub is_local: bool,
    /// No gateway is between.
    pub is_on_link: bool,
}

impl Way {
    fn parse(body: &[u8]) -> Result<Self> {
        let kind = body.get(RTM_TYPE).copied().unwrap_or(0);
        let attributes = Attributes::after(body, RTMSG)?;
        let link = attributes.find(RTA_OIF).and_then(Attribute::u32);
        let is_on_link = [RTA_GATEWAY, RTA_VIA].into_iter().all(|gateway| attributes.find(gateway).is_none());
        Ok(Way { link: link.unwrap_or(0), is_local: kind == RTN_LOCAL, is_on_link })
    }
}

impl Route {
    /// A route in the main table with nothing special about it.
    pub fn new(dst: IpNet, gateway: Option<IpAddr>, link: u32) -> Self {
        Route { dst, gateway, link, table: 0, scope: 0, priority: 0, source: None, mtu: 0, advmss: 0 }
    }

    /// The table it is in, with main by its number.
    pub fn effective_table(&self) -> u32 {
        if self.table == 0 { MAIN } else { self.table }
    }

    /// The request that adds the route, for pipelines. The same route again is `EEXIST`; the same destination with
    /// another next hop is added beside the first.
    pub(crate) fn message(&self) -> Message {
        self.request(RTM_NEWROUTE, CREATE)
    }

    /// The request that adds the route with these flags besides `NLM_F_CREATE`, for pipelines.
    pub(crate) fn addition(&self, flags: u16) -> Message {
        self.request(RTM_NEWROUTE, CREATE | flags)
    }

    /// The request that removes the route, for pipelines.
    pub(crate) fn deletion(&self) -> Message {
        self.request(RTM_DELROUTE, 0)
    }

    fn request(&self, kind: u16, flags: u16) -> Message {
        let mut message = Message::new(kind, flags);
        let family = family_of(self.dst.addr());
        message.raw(&rtmsg(family, self.dst.prefix_len(), self.effective_table(), self.scope));
        if self.effective_table() > u32::from(u8::MAX) {
            message.u32(RTA_TABLE, self.table);
        }
        if self.dst.prefix_len() > 0 {
            push_ip(&mut message, RTA_DST, self.dst.addr());
        }
        if let Some(gateway) = self.gateway {
            push_ip(&mut message, RTA_GATEWAY, gateway);
        }
        if let Some(source) = self.source {
            push_ip(&mut message, RTA_PREFSRC, source);
        }
        if self.priority > 0 {
            message.u32(RTA_PRIORITY, self.priority);
        }
        self.push_metrics(&mut message);
        message.u32(RTA_OIF, self.link);
        message
    }

    fn push_metrics(&self, message: &mut Message) {
        let metrics = [(RTAX_MTU, self.mtu), (RTAX_ADVMSS, self.advmss)];
        if metrics.iter().any(|(_, value)| *value > 0) {
            message.nested(RTA_METRICS, |nested| {
                for (kind, value) in metrics.iter().filter(|(_, value)| *value > 0) {
                    nested.u32(*kind, *value);
                }
            });
        }
    }

    /// A unicast route of a dump; `None` for anything else (local, broadcast, cached).
    pub(super) fn parse(body: &[u8]) -> Result<Option<Route>> {
        const CLONED: u32 = 0x200;
        let header = body.first_chunk::<RTMSG>().unwrap_or(&[0; RTMSG]);
        let &[family, prefix, _, _, table, _, scope, kind, flags @ ..] = header;
        if kind != RTN_UNICAST || u32::from_ne_bytes(flags) & CLONED != 0 {
            return Ok(None);
        }
        let attributes = Attributes::after(body, RTMSG)?;
        let number = |kind| attributes.find(kind).and_then(Attribute::u32);
        let ip = |kind| attributes.find(kind).and_then(|found| ip_from(family, found.payload));
        let metrics = attributes.find(RTA_METRICS).map(Attribute::nested);
        let mtu = metrics.and_then(|metrics| metrics.ok()?.find(RTAX_MTU).and_then(Attribute::u32));
        // `struct rtnexthop`: length, flags and hops, then the link.
        let hops = attributes.find(RTA_MULTIPATH).and_then(|hops| hops.payload.get(4..8)?.try_into().ok());
        let dst = ip(RTA_DST).or(unspecified(family)).and_then(|dst| IpNet::new(dst, prefix).ok());
        Ok(dst.map(|dst| Route {
            table: number(RTA_TABLE).unwrap_or(u32::from(table)),
            scope,
            priority: number(RTA_PRIORITY).unwrap_or(0),
            mtu: mtu.unwrap_or(0),
            ..Route::new(dst, ip(RTA_GATEWAY), number(RTA_OIF).or(hops.map(u32::from_ne_bytes)).unwrap_or(0))
        }))
    }
}

impl Handle {
    /// Where the host's packets to an address go; `None` when there is no way.
    pub fn way_to(&mut self, address: IpAddr) -> Result<Option<Way>> {
        let family = family_of(address);
        let mut request = Message::new(RTM_GETROUTE, 0);
        request.raw(&[family, if family == AF_INET { 32 } else { 128 }, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        push_ip(&mut request, RTA_DST, address);
        match self.connection.get(&request, Way::parse) {
            // No route, or one that says unreachable, prohibited or black hole.
            Err(error)
                if [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EACCES, Errno::EINVAL]
                    .iter()
                    .any(|no| error.is(*no)) =>
            {
                Ok(None)
            }
            answer => answer.with_context(|| format!("failed to look up the route to {address}")),
        }
    }

    /// The unicast routes of one table, of the family of `like`.
    pub fn routes(&mut self, like: IpAddr, table: u32) -> Result<Vec<Route>> {
        self.routes_that(&|route| route.table == table, like, table)
    }

    /// The unicast routes of a link in all tables, of the family of `like`.
    pub fn routes_over(&mut self, link: u32, like: IpAddr) -> Result<Vec<Route>> {
        self.routes_that(&|route| route.link == link, like, 0)
    }

    /// The maximum transmission unit of the host's default routes in bytes: the lowest of both families, a route's own before
    /// its link's. `None` without a default route.
    pub fn default_mtu(&mut self) -> Result<Option<u32>> {
        let mut lowest = None;
        for any in ANY {
            let Some(route) = self.default_route(any)? else { continue };
            let mtu = if route.mtu > 0 { route.mtu } else { self.find_link_at(route.link)?.map_or(0, |link| link.mtu) };
            lowest = [lowest, Some(mtu)].into_iter().flatten().filter(|mtu| *mtu > 0).min();
        }
        Ok(lowest)
    }

    /// The link of the host's default route: of those in the main table the one with the lowest metric, IPv4 first.
    pub fn default_link(&mut self) -> Result<Option<u32>> {
        for any in ANY {
            if let Some(best) = self.default_route(any)? {
                return Ok(Some(best.link));
            }
        }
        Ok(None)
    }

    fn default_route(&mut self, any: IpAddr) -> Result<Option<Route>> {
        let defaults = self.routes_that(&|route| route.table == MAIN && route.dst.prefix_len() == 0, any, MAIN)?;
        Ok(defaults.into_iter().min_by_key(|route| route.priority))
    }

    /// Kernels that filter give those of `table` only; 0 is all.
    fn routes_that(&mut self, wanted: &dyn Fn(&Route) -> bool, like: IpAddr, table: u32) -> Result<Vec<Route>> {
        let mut request = Message::new(RTM_GETROUTE, 0);
        request.raw(&[family_of(like), 0, 0, 0, u8::try_from(table).unwrap_or(0), 0, 0, 0, 0, 0, 0, 0]);
        if table > u32::from(u8::MAX) {
            request.u32(RTA_TABLE, table);
        }
        let listed = self.connection.dump(&request, Vec::new, |routes, reply| {
            routes.extend(Route::parse(reply.body)?.filter(wanted));
            Ok(())
        });
        match listed {
            // A kernel that filters says so when the table does not exist.
            Err(error) if error.is(Errno::ENOENT) => Ok(Vec::new()),
            result => result.with_context(|| format!("failed to list the routes of table {table}")),
        }
    }
}

/// `struct rtmsg`: family, prefix lengths, type of service, table, protocol, scope, type, flags.
fn rtmsg(family: u8, prefix: u8, table: u32, scope: u8) -> [u8; RTMSG] {
    let table = u8::try_from(table).unwrap_or(0);
    [family, prefix, 0, 0, table, RTPROT_BOOT, scope, RTN_UNICAST, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route() {
        #[rustfmt::skip]
        let golden = [
            2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0,   // rtmsg: IPv4, /0, main, boot, universe, unicast
            8, 0, 5, 0, 10, 88, 0, 1,               // RTA_GATEWAY
            8, 0, 4, 0, 2, 0, 0, 0,                 // RTA_OIF
        ];
        let route = Route::new("0.0.0.0/0".parse().unwrap(), "10.88.0.1".parse().ok(), 2);
        assert_eq!(route.message().body(), golden);
        let read = Route::parse(&golden).unwrap().unwrap();
        assert_eq!((read.dst, read.gateway, read.table), (route.dst, route.gateway, 254));
    }

    #[test]
    fn a_route_from_an_address_and_its_deletion() {
        let dst = "10.88.0.1/32".parse().unwrap();
        let route = Route { scope: 253, source: "10.88.0.2".parse().ok(), ..Route::new(dst, None, 2) };
        #[rustfmt::skip]
        let golden = [
            2, 32, 0, 0, 254, 3, 253, 1, 0, 0, 0, 0,    // rtmsg: IPv4, /32, main, boot, link, unicast
            8, 0, 1, 0, 10, 88, 0, 1,                   // RTA_DST
            8, 0, 7, 0, 10, 88, 0, 2,                   // RTA_PREFSRC
            8, 0, 4, 0, 2, 0, 0, 0,                     // RTA_OIF
        ];
        assert_eq!(route.message().body(), golden);
        assert_eq!(route.deletion().body(), golden);
    }

    #[test]
    fn a_way_says_whether_it_ends_here_and_whether_a_gateway_is_between() {
        #[rustfmt::skip]
        let mut answer = [
            2, 32, 0, 0, 254, 0, 0, 1, 0, 2, 0, 0,  // rtmsg: IPv4, /32, main, unicast, RTM_F_CLONED
            8, 0, 1, 0, 10, 88, 0, 2,               // RTA_DST
            8, 0, 4, 0, 3, 0, 0, 0,                 // RTA_OIF
        ].to_vec();
        assert_eq!(Way::parse(&answer), Ok(Way { link: 3, is_local: false, is_on_link: true }));
        let gateway = [8, 0, 5, 0, 10, 88, 0, 1];
        assert!(!Way::parse(&[&answer[..], &gateway].concat()).unwrap().is_on_link);
        answer[RTM_TYPE] = RTN_LOCAL;
        assert!(Way::parse(&answer).unwrap().is_local);
    }

    #[test]
    fn metrics_and_large_tables_travel_as_attributes() {
        let dst = "10.0.0.0/8".parse().unwrap();
        let route = Route { table: 300, mtu: 1300, advmss: 1200, priority: 5, scope: 253, ..Route::new(dst, None, 2) };
        #[rustfmt::skip]
        let golden = [
            2, 8, 0, 0, 0, 3, 253, 1, 0, 0, 0, 0,   // rtmsg: the table does not fit
            8, 0, 15, 0, 0x2c, 1, 0, 0,             // RTA_TABLE
            8, 0, 1, 0, 10, 0, 0, 0,                // RTA_DST
            8, 0, 6, 0, 5, 0, 0, 0,                 // RTA_PRIORITY
            20, 0, 8, 0x80,                         // RTA_METRICS
            8, 0, 2, 0, 0x14, 5, 0, 0,              //   RTAX_MTU
            8, 0, 8, 0, 0xb0, 4, 0, 0,              //   RTAX_ADVMSS
            8, 0, 4, 0, 2, 0, 0, 0,                 // RTA_OIF
        ];
        assert_eq!(route.message().body(), golden);
    }
}
