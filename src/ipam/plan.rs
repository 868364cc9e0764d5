//! Whether a configuration's addresses and routes can work, told from the configuration alone: no file is read, and the kernel
//! is not asked. ADD, STATUS and `cnitool validate` refuse the same by it.

use std::net::IpAddr;

use super::apply;
use crate::cni::delegate::Delegate;
use crate::cni::names::own_name;
use crate::cni::result::IpConfig;
use crate::cni::{CniResult, Request, Verb, version};
use crate::error::{Context, Error, Result};

/// For a plugin that puts the addresses and routes on one interface, whose MTU is in bytes (0 for the kernel's default).
pub fn check(request: &Request<'_>, mtu: i64) -> Result<()> {
    match expected(request)? {
        Some(result) => check_result(request, &result, mtu),
        None => Ok(()),
    }
}

/// The same for what IPAM will give, or has given.
pub fn check_result(request: &Request<'_>, result: &CniResult, mtu: i64) -> Result<()> {
    verify_mtu(result, mtu)?;
    verify_gateways_of_routes(result)?;
    apply::check(&request.ifname, result)
}

/// What the IPAM plugin will give, see [`crate::cni::Plugin::preview`]. `None` where there is none, or only the plugin knows.
pub fn expected(request: &Request<'_>) -> Result<Option<CniResult>> {
    let kind = request.config.ipam_type().context("failed to load netconf")?;
    if kind.is_empty() {
        return require_no_addresses(request).map(|()| None);
    }
    let Ok(Delegate::BuiltIn(ipam)) = Delegate::find_ipam(kind, request) else { return Ok(None) };
    match ipam.preview(request)? {
        Some(given) if given.ips.is_empty() && request.verb == Verb::Add => Err(no_addresses()),
        // STATUS is not told what a container will ask for.
        given => Ok(given.filter(|given| !given.ips.is_empty())),
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

/// Fails if an address's gateway, which the plugin gives to an interface of its own, cannot be one for the address.
pub fn verify_own_gateways(request: &Request<'_>, result: &CniResult) -> Result<()> {
    if let Some(ip) = result.ips.iter().find(|ip| ip.gateway.is_some_and(|gateway| !may_be_gateway(gateway, ip))) {
        return Err(wrong_gateway(ip));
    }
    // Other plugins' addresses may have gateways outside the subnet, to which the container has a route from elsewhere.
    if own_name(request.config.ipam_type()?) != "host-local" {
        return Ok(());
    }
    let is_link_local = |gateway: IpAddr| matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let is_lost = |ip: &&IpConfig| {
        ip.gateway.is_some_and(|gateway| {
            // Nearly always it is in the subnet of its own.
            let own = ip.address.contains(&gateway) || is_link_local(gateway);
            !own && !result.ips.iter().any(|other| other.address.contains(&gateway))
        })
    };
    result.ips.iter().find(is_lost).map_or(Ok(()), |ip| Err(wrong_gateway(ip)))
}

/// True for a gateway of the address's family.
pub(super) fn may_be_gateway(gateway: IpAddr, ip: &IpConfig) -> bool {
    gateway.is_ipv4() == ip.address.addr().is_ipv4() && !gateway.is_unspecified()
}

fn wrong_gateway(ip: &IpConfig) -> Error {
    let (network, gateway) = (ip.address.trunc(), ip.gateway.map_or(String::new(), |gateway| gateway.to_string()));
    Error::internal(format!("invalid gateway {gateway}: the container cannot reach it from {network}"))
}
