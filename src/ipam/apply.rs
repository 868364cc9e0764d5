//! Applying a result's addresses and routes to a container's interface (`pkg/ipam/ipam_linux.go`, `ConfigureIface`).

use std::net::IpAddr;
use std::time::Duration;

use crate::cni::CniResult;
use crate::cni::result::{IpConfig, Route as CniRoute};
use crate::error::{Context, Error, Result};
use crate::ipam::advertisements;
use crate::net::routes::Route;
use crate::net::steps::Step;
use crate::net::{Handle, Mac, Netns, possible, sysctls};

/// How long duplicate address detection may take.
pub(super) const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// The interface that a result is applied to.
#[derive(Debug)]
pub struct Target<'a> {
    /// Its namespace.
    pub netns: &'a Netns,
    /// A handle on that namespace.
    pub handle: &'a mut Handle,
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: &'a str,
    /// The namespace's settings decide about router advertisements, whatever IPAM has given
    /// (`acceptRA`).
    pub accept_ra: bool,
}

/// Adds the addresses, sets the link up and adds the routes. `prepare` runs inside the namespace before anything else,
/// for the plugin's own settings. (`dyn`: one copy for all plugins is enough.)
pub fn configure(target: &mut Target<'_>, result: &CniResult, prepare: &dyn Fn()) -> Result<()> {
    if result.interfaces.is_empty() {
        return Err(Error::internal("no interfaces to configure"));
    }
    let ips = ips_of(target.name, result)?;
    let (name, accept_ra) = (target.name, target.accept_ra);
    let has_v6 = ips.iter().any(|ip| ip.address.addr().is_ipv6());
    target.netns.run(|| {
        prepare();
        if !has_v6 {
            return Ok(());
        }
        announce_v6(name);
        prepare_v6(name, accept_ra, &result.routes)
    })??;
    let mut steps = link_steps(&ips);
    let routes = route_steps(&ips, result, target.index)?;
    if gateway_of(&ips, true).is_none() {
        steps.extend(routes);
        return perform(target, &steps);
    }
    // A tentative IPv6 address cannot be used yet, and one that turns out to be a duplicate never can.
    perform(target, &steps)?;
    let settled = target.handle.settle_addresses(target.netns, name, SETTLE_LIMIT);
    settled.with_context(|| format!("failed to settle addresses for {name:?}"))?;
    perform(target, &routes)
}

/// Fails if no kernel gives an interface of this name the addresses and routes of a result, of which all are for this
/// interface.
pub fn check(name: &str, result: &CniResult) -> Result<()> {
    let ips: Vec<&IpConfig> = result.ips.iter().collect();
    let mut steps = link_steps(&ips);
    steps.extend(route_steps(&ips, result, 0)?);
    possible::check(&steps).map_err(|(failed, error)| in_step(steps.get(failed), name, error))
}

fn link_steps(ips: &[&IpConfig]) -> Vec<Step> {
    let addresses = ips.iter().map(|ip| Step::Address(ip.address));
    addresses.chain([Step::Announce, Step::Up]).collect()
}

fn route_steps(ips: &[&IpConfig], result: &CniResult, link: u32) -> Result<Vec<Step>> {
    result.routes.iter().map(|route| route_step(route, link, gateway_of(ips, is_v6(route)))).collect()
}

/// The gateway of routes that name none: the first one of the family.
pub(super) fn gateway_of(ips: &[&IpConfig], v6: bool) -> Option<IpAddr> {
    ips.iter().filter_map(|ip| ip.gateway).find(|gateway| gateway.is_ipv6() == v6)
}

/// Makes the link announce its IPv6 addresses when they can be used, and whenever IPv4 addresses are announced. A wish, as in
/// the reference: a kernel without IPv6, or a read-only /proc/sys, does not fail the call.
pub(super) fn announce_v6(name: &str) {
    let _ = sysctls::write(&format!("net/ipv6/conf/{name}/ndisc_notify"), "1");
}

/// Lets the neighbours know once more who has the addresses of a link that [`configure`] was for: one of them may have been
/// somebody else's a moment ago. Until they know they send to that one's hardware address, for ten seconds or longer.
///
/// The kernel announces addresses when the link goes up, but that is before a bridge forwards what its new port sends. It
/// does so again whenever a hardware address is set, even to what it is. Nobody fails for lack of an announcement.
pub fn announce(inside: &mut Handle, index: u32, mac: &Mac) {
    let _ = inside.set_mac(index, mac);
}

/// The result's addresses that are for this interface: those with an index, which must then name it.
pub(super) fn ips_of<'r>(name: &str, result: &'r CniResult) -> Result<Vec<&'r IpConfig>> {
    let indexed: Vec<&IpConfig> = result.ips.iter().filter(|ip| ip.interface.is_some()).collect();
    match indexed.iter().find(|ip| result.interface_of(ip).is_none_or(|interface| interface.name != name)) {
        None => Ok(indexed),
        Some(ip) => {
            let address = ip.address;
            Err(Error::internal(format!("failed to add IP addr {address} to {name:?}: invalid interface index")))
        }
    }
}

/// Prepares a link for IPv6 addresses before it goes up. Limits router advertisements unless the
/// link is to take them. Switches IPv6 on, which some hosts have off by default. Keeps addresses
/// when the link goes down. Kernels without the settings are left alone: adding the address will
/// say what is wrong.
pub(super) fn prepare_v6(name: &str, accept_ra: bool, routes: &[CniRoute]) -> Result<()> {
    if !accept_ra {
        advertisements::limit(name, routes);
    }
    for link in ["lo", name] {
        let setting = format!("net/ipv6/conf/{link}/disable_ipv6");
        if sysctls::read(&setting).is_ok_and(|value| value != "0") {
            let written = sysctls::write(&setting, "0");
            written.with_context(|| format!("failed to enable IPv6 for interface {name:?}"))?;
        }
    }
    let _ = sysctls::write(&format!("net/ipv6/conf/{name}/keep_addr_on_down"), "1");
    Ok(())
}

pub(super) fn is_v6(route: &CniRoute) -> bool {
    route.dst.is_some_and(|dst| dst.addr().is_ipv6())
}

pub(super) fn route_step(route: &CniRoute, link: u32, default_gateway: Option<IpAddr>) -> Result<Step> {
    let dst = route.dst.ok_or_else(|| Error::internal("failed to add route: it has no destination (dst)"))?;
    let number = |what: &str, value: i64| {
        u32::try_from(value).map_err(|_| Error::internal(format!("failed to add route '{dst}': bad {what} {value}")))
    };
    let scope = number("scope", route.scope.unwrap_or(0))?;
    // 0.0.0.0 or :: says that the destination is on the link.
    let gateway = route.gw.or(default_gateway).filter(|gateway| !gateway.is_unspecified());
    Ok(Step::Route(Route {
        table: number("table", route.table.unwrap_or(0))?,
        scope: u8::try_from(scope)
            .map_err(|_| Error::internal(format!("failed to add route '{dst}': bad scope {scope}")))?,
        priority: number("priority", route.priority)?,
        mtu: number("mtu", route.mtu)?,
        advmss: number("advmss", route.advmss)?,
        ..Route::new(dst, gateway, link)
    }))
}

pub(super) fn perform(target: &mut Target<'_>, steps: &[Step]) -> Result<()> {
    let name = target.name;
    let performed = target.handle.perform(target.index, steps);
    performed.map_err(|(failed, error)| in_step(steps.get(failed), name, error))
}

/// The error of a step for the interface `name`.
pub(super) fn in_step(step: Option<&Step>, name: &str, error: Error) -> Error {
    match step {
        Some(Step::Address(net) | Step::AddressAlone(net)) => {
            error.context(&format!("failed to add IP addr {net} to {name:?}"))
        }
        Some(Step::Unroute(route)) => error.context(&format!("failed to delete route '{}'", describe(route, name))),
        Some(Step::Route(route)) => error.context(&format!("failed to add route '{}'", describe(route, name))),
        _ => error.context(&format!("failed to set {name:?} UP")),
    }
}

fn describe(route: &Route, name: &str) -> String {
    let scope = match route.scope {
        0 => "universe".to_string(),
        200 => "site".to_string(),
        253 => "link".to_string(),
        254 => "host".to_string(),
        255 => "nowhere".to_string(),
        other => other.to_string(),
    };
    let gateway = route.gateway.map_or("<nil>".to_string(), |gateway| gateway.to_string());
    let (dst, metric, table) = (route.dst, route.priority, route.table);
    format!("{dst} via {gateway} dev {name} metric {metric} (Scope: {scope}, Table: {table})")
}
