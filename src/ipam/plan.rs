//! Whether a configuration's addresses and routes can work, told from the configuration alone: no file is read, and the kernel
//! is not asked. ADD, STATUS and `cnitool validate` refuse the same by it.

use std::net::IpAddr;

use super::apply::{self, gateway_of, is_v6};
use crate::cni::delegate::Delegate;
use crate::cni::result::{IpConfig, Route};
use crate::cni::{CniResult, Request, version};
use crate::error::{Context, Error, Result};

/// For a plugin that puts the addresses and routes on one interface, whose MTU is in bytes (0 for the kernel's default).
pub fn check(request: &Request<'_>, mtu: i64) -> Result<()> {
    expected(request)?.iter().try_for_each(|result| check_result(request, result, mtu))
}

/// The same for what IPAM will give, or has given.
pub fn check_result(request: &Request<'_>, result: &CniResult, mtu: i64) -> Result<()> {
    verify_mtu(result, mtu)?;
    verify_gateways_of_routes(result)?;
    apply::check(&request.ifname, result)
}

/// What the IPAM plugin may give, see [`crate::cni::Plugin::preview`]. Empty where there is none,
/// or only the plugin knows.
pub fn expected(request: &Request<'_>) -> Result<Vec<CniResult>> {
    let kind = request.config.ipam_type().context("failed to load netconf")?;
    if kind.is_empty() {
        return require_no_addresses(request).map(|()| Vec::new());
    }
    match Delegate::find_ipam(kind, request) {
        Ok(Delegate::BuiltIn(ipam)) => ipam.preview(request),
        _ => Ok(Vec::new()),
    }
}

/// The reference's words for an IPAM plugin that gives no address.
pub fn no_addresses() -> Error {
    Error::internal("IPAM plugin returned missing IP config")
}

/// Results of 0.1.0 and 0.2.0 have an address.
fn require_no_addresses(request: &Request<'_>) -> Result<()> {
    let version = request.config.version();
    match version::family(version) {
        Some(_) => CniResult::default().to_json(version).map(drop),
        None => Ok(()),
    }
}

/// Fails if an interface with this MTU in bytes (0 for the kernel's default) cannot have one of the addresses.
pub fn verify_mtu(result: &CniResult, mtu: i64) -> Result<()> {
    // IPV6_MIN_MTU, RFC 8200 section 5: the kernel has no IPv6 on a link with less.
    const LEAST: i64 = 1280;
    match result.ips.iter().find(|ip| ip.address.addr().is_ipv6()) {
        Some(ip) if (1..LEAST).contains(&mtu) => {
            let address = ip.address;
            Err(Error::internal(format!("invalid mtu {mtu}: IPv6 needs at least {LEAST}, and {address} is of IPv6")))
        }
        _ => Ok(()),
    }
}

/// A route without a gateway takes that of its family. Where there is only one of the other family, the destination would be
/// looked for on the link.
fn verify_gateways_of_routes(result: &CniResult) -> Result<()> {
    let misled = |ip: &&IpConfig| ip.gateway.is_some_and(|gateway| gateway.is_ipv4() != ip.address.addr().is_ipv4());
    let Some(ip) = result.ips.iter().find(misled) else { return Ok(()) };
    let v4 = ip.address.addr().is_ipv4();
    if result.ips.iter().any(|ip| ip.gateway.is_some_and(|gateway| gateway.is_ipv4() == v4)) {
        return Ok(());
    }
    let mut plain = result.routes.iter().filter(|route| route.gw.is_none()).filter_map(|route| route.dst);
    match plain.find(|dst| dst.addr().is_ipv4() == v4) {
        Some(dst) => Err(wrong_gateway(ip).with_details(format!("the route to {dst} would have none"))),
        None => Ok(()),
    }
}

/// Fails if a gateway cannot be one of the addresses of the interface that the plugin gives it to,
/// or if a plain or default route leads through a gateway that the container cannot reach. A
/// gateway that no route needs may be anywhere.
pub fn verify_own_gateways(result: &CniResult) -> Result<()> {
    verify_gateways_of_routes(result)?;
    let ips: Vec<&IpConfig> = result.ips.iter().collect();
    let is_wrong = |ip: &&IpConfig| {
        ip.gateway.is_some_and(|gateway| match gateway {
            // The kernel has no such address.
            IpAddr::V6(_) if gateway.is_unspecified() => true,
            IpAddr::V4(_) if ip.address.addr().is_ipv6() => true,
            _ => !is_neighbour(gateway, &ips, result) && leads_to(gateway, &ips, result),
        })
    };
    result.ips.iter().find(is_wrong).map_or(Ok(()), |ip| Err(wrong_gateway(ip)))
}

/// True if a plain or default route has this next hop.
fn leads_to(gateway: IpAddr, ips: &[&IpConfig], result: &CniResult) -> bool {
    let is_default = |route: &Route| route.dst.is_some_and(|dst| dst.prefix_len() == 0);
    let mut routes = result.routes.iter().filter(|route| route.gw.is_none() || is_default(route));
    routes.any(|route| next_hop(route, ips) == Some(gateway))
}

fn next_hop(route: &Route, ips: &[&IpConfig]) -> Option<IpAddr> {
    route.gw.or_else(|| gateway_of(ips, is_v6(route)))
}

/// True if the container has the gateway on its link: in a subnet, or by a route that names no next
/// hop.
fn is_neighbour(gateway: IpAddr, ips: &[&IpConfig], result: &CniResult) -> bool {
    let is_link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let is_on_link = |route: &Route| {
        let is_direct = next_hop(route, ips).is_none_or(|next_hop| next_hop.is_unspecified());
        is_direct && route.dst.is_some_and(|dst| dst.contains(&gateway))
    };
    // Nearly always it is in a subnet.
    ips.iter().any(|ip| may_be_gateway(gateway, ip) && (is_link_local || ip.address.contains(&gateway)))
        || !gateway.is_unspecified() && result.routes.iter().any(is_on_link)
}

/// True for a gateway of the address's family.
pub(super) fn may_be_gateway(gateway: IpAddr, ip: &IpConfig) -> bool {
    gateway.is_ipv4() == ip.address.addr().is_ipv4() && !gateway.is_unspecified()
}

fn wrong_gateway(ip: &IpConfig) -> Error {
    let (network, gateway) = (ip.address.trunc(), ip.gateway.map_or(String::new(), |gateway| gateway.to_string()));
    Error::internal(format!("invalid gateway {gateway}: the container cannot reach it from {network}"))
}
