//! Applying a result to a pair of links with nobody else on it, as the reference's ptp does it: the container has its
//! address with the subnet's prefix length, but reaches even its neighbours through the gateway, which is the pair's other
//! end.

use std::net::IpAddr;

use ipnet::IpNet;

use super::apply::{SETTLE_LIMIT, Target, gateway_of, in_step, ips_of, is_v6, perform, prepare_v6, route_step};
use super::plan::may_be_gateway;
use crate::cni::CniResult;
use crate::cni::result::IpConfig;
use crate::error::{Context, Error, Result};
use crate::net::routes::Route;
use crate::net::steps::Step;
use crate::net::{Handle, possible};

/// `RT_SCOPE_LINK`: a destination that is on the link.
const LINK: u8 = 253;
/// `RT_SCOPE_HOST`, which the reference gives to the host's routes.
const HOST: u8 = 254;

/// Every address must have a gateway of its family: it is the address of the host's end.
pub fn require_gateways(result: &CniResult) -> Result<()> {
    let lacks = |ip: &&IpConfig| ip.gateway.is_none_or(|gateway| !may_be_gateway(gateway, ip));
    match result.ips.iter().find(lacks) {
        None => Ok(()),
        Some(ip) => {
            let (address, family) = (ip.address, if ip.address.addr().is_ipv4() { "IPv4" } else { "IPv6" });
            let msg = format!("failed to add IP addr to veth: the IPAM plugin gave {address} no {family} gateway");
            Err(Error::internal(msg).with_details("ptp needs a gateway for each address; it becomes the host's"))
        }
    }
}

/// Fails if no kernel gives the pair the addresses and routes of a result.
pub fn check(name: &str, result: &CniResult) -> Result<()> {
    require_gateways(result)?;
    let ips: Vec<&IpConfig> = result.ips.iter().collect();
    let mut steps = address_steps(&ips);
    steps.extend(route_steps(&ips, result, 0)?);
    possible::check(&steps).map_err(|(failed, error)| in_step(steps.get(failed), name, error))
}

/// The container's end: addresses, up, the way to each gateway, the result's routes, the ways through the gateways.
pub fn configure_container(target: &mut Target<'_>, result: &CniResult) -> Result<()> {
    let ips = ips_of(target.name, result)?;
    let has_v6 = ips.iter().any(|ip| ip.address.addr().is_ipv6());
    let mut steps = address_steps(&ips);
    steps.push(Step::Up);
    let routes = route_steps(&ips, result, target.index)?;
    if has_v6 {
        let (name, accept_ra) = (target.name, target.accept_ra);
        target.netns.run(|| prepare_v6(name, accept_ra, &result.routes))??;
        // The kernel takes no route from an address that is tentative.
        perform(target, &steps)?;
        let settled = target.handle.settle_addresses(target.netns, name, SETTLE_LIMIT);
        settled.with_context(|| format!("failed to settle addresses for {name:?}"))?;
        steps.clear();
    }
    steps.extend(routes);
    perform(target, &steps)
}

fn address_steps(ips: &[&IpConfig]) -> Vec<Step> {
    ips.iter().map(|ip| Step::AddressAlone(ip.address)).collect()
}

fn route_steps(ips: &[&IpConfig], result: &CniResult, link: u32) -> Result<Vec<Step>> {
    let routes = result.routes.iter().map(|route| route_step(route, link, gateway_of(ips, is_v6(route))));
    let routes: Vec<Step> = routes.collect::<Result<_>>()?;
    let detours = detours(ips, &routes, link);
    let mut steps: Vec<Step> = to_gateways(ips, link).into_iter().map(Step::Route).collect();
    steps.extend(detours.iter().cloned().map(Step::Route));
    steps.extend(routes);
    steps.extend(detours.into_iter().map(Step::Unroute));
    steps.extend(through_gateways(ips, link).into_iter().map(Step::Route));
    Ok(steps)
}

/// Routes to the gateways, which are on the link. Several addresses may share one.
fn to_gateways(ips: &[&IpConfig], link: u32) -> Vec<Route> {
    unique(ips.iter().filter_map(|ip| {
        let source = Some(ip.address.addr());
        Some(Route { scope: LINK, source, ..Route::new(IpNet::from(ip.gateway?), None, link) })
    }))
}

/// Routes to the subnets, through the gateways. An address of full length has no subnet.
fn through_gateways(ips: &[&IpConfig], link: u32) -> Vec<Route> {
    let with_subnet = ips.iter().filter(|ip| ip.address.prefix_len() < ip.address.max_prefix_len());
    unique(with_subnet.map(|ip| {
        let source = Some(ip.address.addr());
        Route { source, ..Route::new(ip.address.trunc(), ip.gateway, link) }
    }))
}

/// Subnets that have to be on the link while the result's routes are added: the kernel takes no route through an address
/// that is not, and the reference takes routes through any address of the subnet.
fn detours(ips: &[&IpConfig], routes: &[Step], link: u32) -> Vec<Route> {
    let is_gateway = |ip: IpAddr| ips.iter().any(|config| config.gateway == Some(ip));
    let others: Vec<IpAddr> = routes.iter().filter_map(next_hop).filter(|ip| !is_gateway(*ip)).collect();
    let needed = ips.iter().filter(|ip| others.iter().any(|other| ip.address.contains(other)));
    unique(needed.map(|ip| Route { scope: LINK, ..Route::new(ip.address.trunc(), None, link) }))
}

fn next_hop(step: &Step) -> Option<IpAddr> {
    match step {
        Step::Route(route) => route.gateway,
        _ => None,
    }
}

/// The first route to each destination.
fn unique(routes: impl Iterator<Item = Route>) -> Vec<Route> {
    let mut kept: Vec<Route> = Vec::new();
    for route in routes {
        if kept.iter().all(|other| other.dst != route.dst) {
            kept.push(route);
        }
    }
    kept
}

/// The host's end: it is the gateways, and the way to each address leads there.
pub fn configure_host(host: &mut Handle, link: u32, result: &CniResult) -> Result<()> {
    let mut steps: Vec<Step> = Vec::new();
    for gateway in result.ips.iter().filter_map(|ip| ip.gateway) {
        let step = Step::AddressAtOnce(IpNet::from(gateway));
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    steps.extend(result.ips.iter().map(|ip| {
        let dst = IpNet::from(ip.address.addr());
        Step::Route(Route { scope: HOST, ..Route::new(dst, None, link) })
    }));
    host.perform(link, &steps).map_err(|(failed, error)| match steps.get(failed) {
        Some(Step::AddressAtOnce(net)) => error.context(&format!("failed to add IP addr ({net}) to veth")),
        Some(Step::Route(route)) => error.context(&format!("failed to add route {} on host", route.dst)),
        _ => error,
    })
}

/// The host's end `name` still is the gateways, and the way to each of these addresses still leads there.
pub fn verify_host(host: &mut Handle, name: &str, link: u32, ips: &[&IpConfig]) -> Result<()> {
    let present = host.addresses(link)?;
    for ip in ips {
        let gateway = ip.gateway.filter(|gateway| !present.iter().any(|found| found.net.addr() == *gateway));
        if let Some(gateway) = gateway {
            return Err(Error::internal(format!("Failed to match gateway {gateway} on host interface {name}")));
        }
        let address = ip.address.addr();
        if host.way_to(address)?.is_none_or(|way| way.link != link) {
            let msg = format!("the host's route to {address} does not lead to interface {name}");
            return Err(Error::internal(msg));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::result::Route as CniRoute;

    fn ip(address: &str, gateway: &str) -> IpConfig {
        IpConfig { interface: Some(1), address: address.parse().unwrap(), gateway: gateway.parse().ok() }
    }

    /// What is done to routes, in order: `+` or `-`, destination, gateway, source.
    fn planned(ips: &[IpConfig], routes: &[(&str, &str)]) -> Vec<String> {
        let routes = routes.iter().map(|(dst, gw)| CniRoute {
            dst: dst.parse().ok(),
            gw: gw.parse().ok(),
            ..CniRoute::default()
        });
        let result = CniResult { routes: routes.collect(), ..CniResult::default() };
        let ips: Vec<&IpConfig> = ips.iter().collect();
        let text = |ip: Option<IpAddr>| ip.map_or(String::new(), |ip| ip.to_string());
        let line = |step: Step| match step {
            Step::Route(route) => format!("+ {} {} {}", route.dst, text(route.gateway), text(route.source)),
            Step::Unroute(route) => format!("- {} {} {}", route.dst, text(route.gateway), text(route.source)),
            other => panic!("{other:?}"),
        };
        route_steps(&ips, &result, 2).unwrap().into_iter().map(line).collect()
    }

    #[test]
    fn all_ways_lead_through_the_gateway() {
        let lines = planned(&[ip("10.7.2.2/24", "10.7.2.1")], &[("0.0.0.0/0", "")]);
        let expected = ["+ 10.7.2.1/32  10.7.2.2", "+ 0.0.0.0/0 10.7.2.1 ", "+ 10.7.2.0/24 10.7.2.1 10.7.2.2"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn an_address_of_full_length_has_no_subnet() {
        assert_eq!(planned(&[ip("10.7.2.2/32", "169.254.1.1")], &[]), ["+ 169.254.1.1/32  10.7.2.2"]);
        assert_eq!(planned(&[ip("fd00::2/128", "fe80::1")], &[]), ["+ fe80::1/128  fd00::2"]);
    }

    #[test]
    fn a_route_through_a_neighbour_finds_it_on_the_link() {
        let lines = planned(&[ip("10.7.2.2/24", "10.7.2.1")], &[("10.9.0.0/16", "10.7.2.9")]);
        assert_eq!(
            lines,
            [
                "+ 10.7.2.1/32  10.7.2.2",
                "+ 10.7.2.0/24  ",
                "+ 10.9.0.0/16 10.7.2.9 ",
                "- 10.7.2.0/24  ",
                "+ 10.7.2.0/24 10.7.2.1 10.7.2.2"
            ]
        );
    }

    #[test]
    fn addresses_may_share_a_gateway() {
        let lines = planned(&[ip("10.7.2.2/24", "10.7.2.1"), ip("10.7.2.3/24", "10.7.2.1")], &[]);
        assert_eq!(lines, ["+ 10.7.2.1/32  10.7.2.2", "+ 10.7.2.0/24 10.7.2.1 10.7.2.2"]);
    }

    #[test]
    fn an_address_without_a_gateway_of_its_family_is_refused() {
        for gateway in ["", "fd00::1"] {
            let result = CniResult { ips: vec![ip("10.7.2.2/24", gateway)], ..CniResult::default() };
            let error = require_gateways(&result).unwrap_err();
            assert!(error.msg.ends_with("the IPAM plugin gave 10.7.2.2/24 no IPv4 gateway"), "{error}");
        }
    }
}
