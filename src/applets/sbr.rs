//! `sbr`: source-based routing. What the container sends from an address of this interface leaves by this interface. Runs
//! behind the plugin that gave the interface its addresses; its result is passed on unchanged.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `table` | a table of its own for each address | the table that decides; its routes are somebody else's business |
//! | `gateways` | those of the result | default gateways, at most one of each family |
//! | `addSourceHints` | false | the subnets stay in the main table, with the address to send from |
//!
//! For each address ADD makes a rule, moves the interface's routes of that family from the main table to a new one (from 100
//! on), and adds a default route. IPv6's link-local subnet stays in the main table. Everything is done under the lock of the
//! namespace, which the reference takes too.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::cni::result::{IpConfig, parse_ip};
use crate::cni::{CniResult, Plugin, Position, Request, Undo};
use crate::error::{Context, Error, Failures, Result, code};
use crate::ipam::own_link::{Evidence, Own};
use crate::net::routes::{DEFAULT, LOCAL, MAIN, Route};
use crate::net::rules::Rule;
use crate::net::tables::{Change, Listed, Place, Routing, main_of};
use crate::net::{Handle, Netns};

/// The first table that may be taken.
const FIRST_TABLE: u32 = 100;

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
table: 1..4294967295
gateways[]: ip
addSourceHints: bool
";

/// The applet.
pub static SBR: Sbr = Sbr;

/// See the module's description.
#[derive(Debug)]
pub struct Sbr;

/// A configuration that can be carried out.
#[derive(Debug, Default)]
struct Conf {
    table: Option<u32>,
    gateways: Vec<IpAddr>,
    hints: bool,
}

/// An address and what is to be done about packets from it.
#[derive(Debug)]
struct Source {
    address: IpNet,
    gateway: Option<IpAddr>,
    /// The gateway is the configuration's, so no other default route may get in its way.
    is_static: bool,
    table: u32,
    /// There is a rule already.
    has_rule: bool,
}

impl Plugin for Sbr {
    fn name(&self) -> &'static str {
        "sbr"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn position(&self) -> Position {
        Position::Behind
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        Conf::of(request).map(drop)
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let conf = Conf::of(request)?;
        let previous = previous(request)?;
        let addresses = addresses(&previous, &request.ifname);
        if previous.ips.is_empty() {
            let msg = format!("No IP addresses supplied on interface: {}", request.ifname);
            return Err(Error::internal(msg));
        }
        let netns = Netns::open(&request.netns)?;
        let _lock = netns.lock()?;
        let mut inside = Handle::inside(&netns)?;
        let before = inside.routing()?;
        let sources = sources(&conf, &previous, &addresses, &before);
        // A table of somebody else's is none of our business, and neither is the interface then.
        let link = conf.table.is_none().then(|| index_of(&mut inside, request)).transpose()?;
        back_to(&netns, &before, link.unwrap_or(0), &sources, undo)?;
        let rules: Vec<Change> = sources.iter().filter(|source| !source.has_rule).map(Source::new_rule).collect();
        perform(&mut inside, &rules)?;
        if let Some(link) = link {
            for source in &sources {
                perform(&mut inside, &source.fill_table(&sources, &before, link))?;
            }
            perform(&mut inside, &tidy_main(&conf, &sources, &before, link))?;
        }
        Ok(previous)
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let previous = previous(request)?;
        let netns = Netns::open(&request.netns)?;
        let mut inside = Handle::inside(&netns)?;
        let now = inside.routing()?;
        let link = conf.table.is_none().then(|| index_of(&mut inside, request)).transpose()?;
        let sources = sources(&conf, &previous, &addresses(&previous, &request.ifname), &now);
        sources.iter().try_for_each(|source| source.verify(conf.hints, &now, link))
    }

    /// Removes the rules, and the routes of the tables that they lead to. Goes by the addresses that the interface has and
    /// those that it had. With the namespace everything is gone, so there is nothing to do for GC either.
    fn del(&self, request: &Request<'_>) -> Result<()> {
        let Some(netns) = Netns::open_if_left(&request.netns)? else { return Ok(()) };
        let _lock = netns.lock()?;
        let mut inside = Handle::inside(&netns)?;
        let link = match Evidence::of(request)?.find(&netns, &mut inside, &request.ifname)? {
            Own::Link(link) => Some(link.index),
            Own::Missing => None,
            Own::Elsewhere => return Ok(()),
        };
        // Whatever else the configuration says is about ADD.
        let table = table(request).ok().flatten();
        let routing = inside.routing()?;
        let fits = |rule: &&Rule| table.map_or(may_be_ours(rule.table), |table| rule.table == table);
        let mut rules: Vec<&Rule> = routing.rules.iter().filter(fits).collect();
        match (request.config.prev_result(), link) {
            (Ok(Some(previous)), _) => {
                keep_ended(&mut rules, &mut inside, link, &addresses(&previous, &request.ifname))?
            }
            (_, Some(_)) => keep_ended(&mut rules, &mut inside, link, &[])?,
            _ => keep_abandoned(&mut rules, &mut inside, &routing, table)?,
        }
        let mut failures = Failures::default();
        for rule in rules {
            let of_table = |route: &&Listed| route.table == rule.table && Some(route.link) == link && table.is_none();
            let routes = routing.routes.iter().filter(of_table).cloned().map(Change::Remove);
            failures.note(perform(&mut inside, &[Change::RemoveRule(rule.clone())]));
            failures.note(perform(&mut inside, &routes.collect::<Vec<_>>()));
        }
        failures.finish()
    }

    /// Whether there are rules at all: kernels can do without.
    fn status(&self, request: &Request<'_>) -> Result<()> {
        let probed = Conf::of(request).and_then(|_| Handle::current()?.rules());
        probed.map(drop).map_err(|error| error.with_code(code::NOT_AVAILABLE))
    }
}

impl Conf {
    fn of(request: &Request<'_>) -> Result<Conf> {
        const WHAT: &str = "failed to parse network configuration";
        let top = request.config.top();
        let hints = top.boolean("addSourceHints").context(WHAT)?;
        let texts = top.strings("gateways").context(WHAT)?;
        match table(request).context(WHAT)? {
            None => Ok(Conf { table: None, gateways: gateways(&texts)?, hints }),
            table => Ok(Conf { table, ..Conf::default() }),
        }
    }
}

fn table(request: &Request<'_>) -> Result<Option<u32>> {
    let Some(number) = request.config.top().integer_if_set("table")? else { return Ok(None) };
    let table = u32::try_from(number).ok().filter(|table| *table > 0);
    table.map(Some).ok_or_else(|| Error::internal(format!("invalid table {number}: numerical result out of range")))
}

/// True for tables that ADD may have taken: not those of the kernel.
fn may_be_ours(table: u32) -> bool {
    table >= FIRST_TABLE && !(DEFAULT..=LOCAL).contains(&table)
}

fn gateways(texts: &[String]) -> Result<Vec<IpAddr>> {
    if texts.len() > 2 {
        let msg = "gateways list cannot contain more than 2 entries (one IPv4, one IPv6)";
        return Err(Error::internal(msg));
    }
    let mut gateways: Vec<IpAddr> = Vec::new();
    for text in texts {
        let bad = |_| Error::internal(format!("invalid static gateway IP address: {text}"));
        let gateway = parse_ip(text).map_err(bad)?;
        if let Some(other) = gateways.iter().find(|other| other.is_ipv4() == gateway.is_ipv4()) {
            let family = if gateway.is_ipv4() { "IPv4" } else { "IPv6" };
            let msg = format!("gateways list contains multiple {family} addresses: {other} and {text}");
            return Err(Error::internal(msg));
        }
        gateways.push(gateway);
    }
    Ok(gateways)
}

fn previous(request: &Request<'_>) -> Result<CniResult> {
    let missing = || Error::internal("This plugin must be called as chained plugin");
    request.config.prev_result()?.ok_or_else(missing)
}

/// The addresses of the interface, and those that the result gives to none.
fn addresses<'r>(previous: &'r CniResult, ifname: &str) -> Vec<&'r IpConfig> {
    let fits = |ip: &&IpConfig| previous.interface_of(ip).is_none_or(|interface| interface.name == ifname);
    previous.ips.iter().filter(fits).collect()
}

fn index_of(inside: &mut Handle, request: &Request<'_>) -> Result<u32> {
    let link = inside.link(&request.ifname);
    Ok(link.with_context(|| format!("Cannot find network interface {}", request.ifname))?.index)
}

/// Of these rules those about addresses that the interface has, or had.
fn keep_ended(rules: &mut Vec<&Rule>, inside: &mut Handle, link: Option<u32>, had: &[&IpConfig]) -> Result<()> {
    let now = link.map_or(Ok(Vec::new()), |link| inside.addresses(link))?;
    let ended = now.iter().map(|address| address.net).chain(had.iter().map(|ip| ip.address));
    let ended: Vec<IpAddr> = ended.map(|net| net.addr()).collect();
    rules.retain(|rule| rule.source.is_some_and(|source| ended.contains(&source.addr())));
    Ok(())
}

/// Of these rules those about addresses that no interface has, as far as their table (if not one of somebody else's) is
/// empty: routes go with their interface. For when neither that nor a result is left.
fn keep_abandoned(rules: &mut Vec<&Rule>, inside: &mut Handle, routing: &Routing, table: Option<u32>) -> Result<()> {
    let present = inside.all_addresses()?;
    let has_routes = |rule: &Rule| table.is_none() && routing.routes.iter().any(|route| route.table == rule.table);
    let is_present = |source: &IpNet| present.iter().any(|address| address.net.addr() == source.addr());
    let is_host = |source: &IpNet| source.prefix_len() == source.max_prefix_len();
    rules
        .retain(|rule| !has_routes(rule) && rule.source.is_some_and(|source| is_host(&source) && !is_present(&source)));
    Ok(())
}

/// What is to be done about each address. One that has a rule already keeps its table.
fn sources(conf: &Conf, previous: &CniResult, addresses: &[&IpConfig], routing: &Routing) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    let mut next = FIRST_TABLE;
    for ip in addresses {
        let of_family = |gateway: &&IpAddr| gateway.is_ipv4() == ip.address.addr().is_ipv4();
        let fixed = conf.gateways.iter().find(of_family).copied();
        let source = IpNet::from(ip.address.addr());
        let fits = |rule: &&Rule| conf.table.map_or(may_be_ours(rule.table), |table| rule.table == table);
        let rule = routing.rules.iter().filter(fits).find(|rule| rule.source == Some(source));
        let table = match (rule, conf.table) {
            (Some(rule), _) => rule.table,
            (None, Some(table)) => table,
            (None, None) => {
                let free = routing.free_table(next);
                next = free + 1;
                free
            }
        };
        sources.push(Source {
            address: ip.address,
            gateway: fixed.or(ip.gateway).or_else(|| default_gateway(previous, ip.address)),
            is_static: fixed.is_some(),
            table,
            has_rule: rule.is_some(),
        });
    }
    sources
}

/// The next hop of the result's default route in the subnet of an address, or on its link.
fn default_gateway(previous: &CniResult, address: IpNet) -> Option<IpAddr> {
    let defaults = previous.routes.iter().filter(|route| route.dst.is_some_and(|dst| dst.prefix_len() == 0));
    let is_near = |gateway: &IpAddr| address.contains(gateway) || address.addr().is_ipv6() && is_link_local(*gateway);
    defaults.filter_map(|route| route.gw).find(is_near)
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

impl Source {
    fn rule(&self) -> Rule {
        Rule { source: Some(IpNet::from(self.address.addr())), table: self.table, priority: 0 }
    }

    fn new_rule(&self) -> Change {
        Change::AddRule(self.rule())
    }

    /// True for a route that packets from this address may take: of its subnet, or of none of the subnets in particular.
    fn may_use(&self, route: &Listed, sources: &[Source]) -> bool {
        let is_default = route.dst.prefix_len() == 0;
        let in_subnet = |ip: Option<IpAddr>| ip.is_some_and(|ip| self.address.contains(&ip));
        let is_others = |gateway: IpAddr| sources.iter().any(|source| source.address.contains(&gateway));
        let is_general = route.source.is_none() && !route.gateway.is_some_and(is_others);
        route.dst.addr().is_ipv4() == self.address.addr().is_ipv4()
            && !(is_default && self.is_static)
            && (is_general || in_subnet(route.source) || in_subnet(route.gateway))
    }

    /// The gateway, if the subnet leads to it.
    fn near_gateway(&self) -> Option<IpAddr> {
        self.gateway.filter(|gateway| self.address.contains(gateway))
    }

    /// Copies the routes, those without gateway first so that the others lead somewhere, and adds a default route.
    fn fill_table(&self, sources: &[Source], before: &Routing, link: u32) -> Vec<Change> {
        let mut routes: Vec<&Listed> = main_of(before, link).filter(|route| self.may_use(route, sources)).collect();
        routes.sort_by_key(|route| route.gateway.is_some());
        let there = before.routes.iter().filter(|route| route.table == self.table && route.link == link);
        let subnet = self.address.trunc();
        let mut changes = Vec::new();
        // The main table has it no more after an ADD and a DEL, and a next hop must be on the link.
        let has_subnet = routes.iter().copied().chain(there).any(|route| route.dst == subnet);
        if self.near_gateway().is_some() && !has_subnet {
            changes.push(Change::New(self.subnet_route(link, self.table), Place::Instead));
        }
        for (at, route) in routes.iter().enumerate() {
            let is_further = routes.iter().take(at).any(|earlier| earlier.competes_with(route));
            let place = if is_further { Place::Last } else { Place::Instead };
            changes.push(Change::Put((*route).clone(), self.table, place));
        }
        let has_default = routes.iter().any(|route| route.dst.prefix_len() == 0 && route.has_default_metric());
        if let Some(gateway) = self.gateway.filter(|_| !has_default) {
            let dst = if gateway.is_ipv4() { Ipv4Net::default().into() } else { Ipv6Net::default().into() };
            let route = Route { table: self.table, ..Route::new(dst, Some(gateway), link) };
            changes.push(Change::New(route, Place::Instead));
        }
        changes
    }

    fn subnet_route(&self, link: u32, table: u32) -> Route {
        const SCOPE_LINK: u8 = 253;
        Route {
            table,
            scope: SCOPE_LINK,
            source: Some(self.address.addr()),
            ..Route::new(self.address.trunc(), None, link)
        }
    }

    /// `link` is the interface, unless the table is somebody else's.
    fn verify(&self, hints: bool, now: &Routing, link: Option<u32>) -> Result<()> {
        let (address, table, subnet) = (self.address.addr(), self.table, self.address.trunc());
        let missing = |what: String| Err(Error::internal(format!("Expected {what} not found")));
        if !self.has_rule {
            return missing(format!("rule from {address}"));
        }
        let Some(link) = link else { return Ok(()) };
        let of_link = |table: u32| now.routes.iter().filter(move |route| route.table == table && route.link == link);
        let is_default =
            |route: &Listed| route.dst.prefix_len() == 0 && route.dst.addr().is_ipv4() == address.is_ipv4();
        if let Some(gateway) = self.gateway.filter(|_| !of_link(table).any(is_default)) {
            return missing(format!("default route via {gateway} in routing table {table}"));
        }
        if self.near_gateway().is_some() && !of_link(table).any(|route| route.dst == subnet) {
            return missing(format!("route to {subnet} in routing table {table}"));
        }
        let is_hint = |route: &Listed| route.dst == subnet && route.source.is_some();
        if hints && !of_link(MAIN).any(is_hint) {
            return missing(format!("route to {subnet} in the main routing table"));
        }
        Ok(())
    }
}

/// What has been moved leaves the main table. With hints the subnets stay, or come back, with an address.
fn tidy_main(conf: &Conf, sources: &[Source], before: &Routing, link: u32) -> Vec<Change> {
    let is_subnet = |dst: IpNet| sources.iter().any(|source| source.address.trunc() == dst);
    let leaves = |route: &&Listed| {
        let has_source = sources.iter().any(|source| source.address.addr().is_ipv4() == route.dst.addr().is_ipv4());
        let is_kept = conf.hints && route.is_of_link_scope() && !is_subnet(route.dst);
        has_source && !is_link_local(route.dst.addr()) && !is_kept
    };
    let mut changes: Vec<Change> = main_of(before, link).filter(leaves).cloned().map(Change::Remove).collect();
    for (at, source) in sources.iter().enumerate().filter(|_| conf.hints) {
        // Of several addresses in one subnet the last counts. Another interface in it keeps its own route.
        if !sources.iter().skip(at + 1).any(|later| later.address.trunc() == source.address.trunc()) {
            changes.push(Change::New(source.subnet_route(link, 0), Place::Last));
        }
    }
    changes
}

/// Writes to `undo` how to come back to these rules and routes.
fn back_to(netns: &Netns, before: &Routing, link: u32, sources: &[Source], undo: &mut Undo) -> Result<()> {
    let (netns, before) = (netns.clone(), before.clone());
    let addresses: Vec<IpNet> = sources.iter().filter_map(|source| source.rule().source).collect();
    undo.push(move || {
        let _lock = netns.lock()?;
        Handle::inside(&netns)?.restore_routing(&before, link, &addresses)
    });
    Ok(())
}

/// Makes the changes; the words for a failure are the reference's.
fn perform(inside: &mut Handle, changes: &[Change]) -> Result<()> {
    inside.change(changes).map_err(|(at, error)| match changes.get(at) {
        Some(Change::AddRule(Rule { source: Some(source), .. })) => {
            error.context(&format!("Failed to add rule from {}", source.addr()))
        }
        Some(Change::New(Route { gateway: Some(gateway), .. }, _)) => {
            error.context(&format!("Failed to add default route to {gateway}"))
        }
        Some(Change::New(route, _)) => error.context(&format!("Failed to add route to {}", route.dst)),
        Some(Change::Put(route, ..)) => error.context(&format!("Failed to readd route: {}", route.dst)),
        Some(Change::RemoveRule(_)) => error.context("Failed to delete rule"),
        _ => error.context("Failed to delete route"),
    })
}
