//! ADD: bridge, veth pair, addresses, gateway, masquerading, and waiting for the port.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::changes::Wanted;
use super::plan::expected;
use super::shared::{self, Shared};
use super::{Conf, default_route, firewall};
use crate::cni::delegate::Delegate;
use crate::cni::result::{Interface, IpConfig, Route};
use crate::cni::{CniResult, Request, Undo};
use crate::error::{Context, Error, Result};
use crate::firewall::Session;
use crate::firewall::masquerade::Manner;
use crate::ip_masq;
use crate::ipam::apply::{self, Target};
use crate::ipam::interface_record::InterfaceRecord;
use crate::ipam::plan;
use crate::ipam::ranges::successor;
use crate::net::bridge_ports::PortSettings;
use crate::net::links::State;
use crate::net::{Handle, Link, Mac, Netns, forwarding, sysctls, veth};

/// Index of the container's interface in the result.
const CONTAINER: i64 = 2;

/// How long the port may take to come up: the sum of the reference's pauses.
const PORT_LIMIT: Duration = Duration::from_millis(2550);

/// One ADD under way.
pub(super) struct Attaching<'a, 'r> {
    pub(super) conf: &'a Conf,
    pub(super) request: &'a Request<'r>,
    pub(super) container: &'a Netns,
    /// `None` for a network without addresses.
    pub(super) ipam: Option<Delegate>,
    /// How to masquerade, if that is wanted.
    pub(super) manner: Option<Manner>,
    pub(super) session: Session,
    pub(super) undo: &'a mut Undo,
}

impl Attaching<'_, '_> {
    /// Attaches the container and gives the result.
    pub(super) fn attach(mut self) -> Result<CniResult> {
        let name = &self.conf.bridge;
        let mut host = Handle::current()?;
        let shared = shared::enter(self.conf, self.undo);
        let bridge = shared.borrow_mut().ensure(&mut host, self.conf);
        let bridge = bridge.with_context(|| format!("failed to create bridge {name:?}"))?;
        let pair = self.create_pair(&mut host, &bridge, &shared)?;
        if self.conf.firewall.spoof_check {
            let (port, mac) = (&pair.host_name, &pair.container_mac);
            firewall::begin_spoof_check(&mut self.session, self.request, port, mac, self.undo)?;
        }
        let mut result = match &self.ipam {
            Some(ipam) => ipam.add(self.request, self.undo)?,
            None => CniResult::default(),
        };
        InterfaceRecord::of_pair(self.request, self.container, &pair).write(self.undo);
        result.interfaces = vec![
            Interface::new(&bridge.name, &bridge.mac, ""),
            Interface::new(&pair.host_name, &pair.host_mac, ""),
            Interface::new(&self.request.ifname, &pair.container_mac, &self.request.netns),
        ];
        let mut inside = Handle::inside(self.container)?;
        if self.ipam.is_some() {
            self.configure_container(&mut inside, pair.container_index, &mut result)?;
            self.configure_host(&mut host, &bridge, &shared, &mut result)?;
        } else if !self.conf.disable_container_interface {
            let up = inside.set_up(pair.container_index, true);
            up.with_context(|| format!("failed to set {:?} up", self.request.ifname))?;
        }
        if self.joins_last(&bridge) {
            shared.borrow_mut().join(&mut host, &bridge, self.conf, &pair.host_name)?;
        }
        self.finish(&mut host, &mut inside, &bridge, &pair, &mut result)?;
        Ok(result)
    }

    /// True if the port joins the bridge when all else is done. The first port changes a bridge for good: the hardware
    /// address is either set by then, which no request undoes, or is lost with the port. So an ADD that fails before leaves
    /// the bridge as it was.
    fn joins_last(&self, bridge: &Link) -> bool {
        bridge.follows_first_port && !self.ipam.as_ref().is_some_and(Delegate::may_use_interface)
    }

    fn create_pair(&mut self, host: &mut Handle, bridge: &Link, shared: &Shared) -> Result<veth::Pair> {
        let wanted = veth::Wanted {
            container: self.container,
            ifname: &self.request.ifname,
            mac: self.conf.mac.as_ref(),
            master: Some(bridge.index).filter(|_| !bridge.follows_first_port),
            mtu: self.conf.mtu.bytes(),
        };
        let pair = veth::create(host, &wanted)?;
        let name = pair.host_name.clone();
        self.undo.push(move || veth::delete(&name));
        if bridge.follows_first_port {
            if !self.joins_last(bridge) {
                shared.borrow_mut().join(host, bridge, self.conf, &pair.host_name)?;
            }
            return Ok(pair);
        }
        let settings = self.conf.port();
        if settings != PortSettings::default() {
            let port = host.link(&pair.host_name)?;
            host.set_port(port.index, &port.name, &settings)?;
        }
        Ok(pair)
    }

    /// Addresses and routes in the container, after completing the result with what the bridge adds to it.
    fn configure_container(&self, inside: &mut Handle, index: u32, result: &mut CniResult) -> Result<()> {
        if result.ips.is_empty() {
            return Err(plan::no_addresses());
        }
        complete(self.conf, result);
        if self.conf.is_gateway {
            plan::verify_own_gateways(result)?;
        }
        let name = &self.request.ifname;
        let accept_ra = self.conf.accept_ra;
        let mut target = Target { netns: self.container, handle: inside, index, name, accept_ra };
        apply::configure(&mut target, result, &|| prepare_container(name, self.conf.enable_dad))
    }

    /// Gateway addresses, forwarding and masquerading.
    fn configure_host(
        &mut self,
        host: &mut Handle,
        bridge: &Link,
        shared: &Shared,
        result: &mut CniResult,
    ) -> Result<()> {
        let gateways = if self.conf.is_gateway { gateways(result) } else { Vec::new() };
        if !gateways.is_empty() {
            let gateway = shared.borrow_mut().ensure_gateway(host, bridge, self.conf);
            let gateway = gateway.context("failed to create vlan interface")?;
            let mut words = "failed to set bridge addr";
            if gateway.index != bridge.index {
                words = "failed to set vlan interface for bridge with addr";
                result.interfaces.push(Interface::new(&gateway.name, &gateway.mac, ""));
            }
            let kept = self.kept_gateways(&gateways)?;
            for address in &gateways {
                let wanted = Wanted { address: *address, kept: &kept, force: self.conf.force_address };
                let ensured = shared.borrow_mut().ensure_address(host, (bridge, &gateway), &wanted);
                ensured.context(words)?;
            }
        }
        let has = |v6: bool| gateways.iter().any(|gateway| gateway.addr().is_ipv6() == v6);
        forwarding::enable(has(false), has(true)).context("failed to enable forwarding")?;
        let Some(manner) = &self.manner else { return Ok(()) };
        ip_masq::begin(manner, &mut self.session, self.request, result, self.undo)
    }

    /// This container's gateways, and those that other containers of the network have from other ranges.
    fn kept_gateways(&self, own: &[IpNet]) -> Result<Vec<IpNet>> {
        let expected = expected(self.conf, self.request)?;
        Ok(own.iter().copied().chain(expected.iter().flat_map(gateways)).collect())
    }

    /// Waits for the port, announces the addresses behind it, and completes the result.
    fn finish(
        &self,
        host: &mut Handle,
        inside: &mut Handle,
        bridge: &Link,
        pair: &veth::Pair,
        result: &mut CniResult,
    ) -> Result<()> {
        if !self.conf.disable_container_interface {
            wait_for_port(host, &pair.host_name)?;
        }
        if self.ipam.is_some() {
            apply::announce(inside, pair.container_index, &pair.container_mac);
        }
        if may_follow(bridge, &pair.host_mac)
            && let (Some(now), Some(first)) = (host.find_link_at(bridge.index)?, result.interfaces.first_mut())
        {
            first.mac = now.mac.to_string();
        }
        if let Some(dns) = &self.conf.dns {
            result.dns = dns.clone();
        }
        Ok(())
    }
}

/// True when the bridge may have taken its new port's hardware address. One that is up has other ports, of whose addresses
/// its own is the lowest, if it is not pinned anyway.
fn may_follow(bridge: &Link, port: &Mac) -> bool {
    bridge.state != State::UP || port.bytes() < bridge.mac.bytes()
}

/// Completes the result, or what IPAM is expected to give: which interface has the addresses, the gateways that the bridge is, and default routes there.
pub(super) fn complete(conf: &Conf, result: &mut CniResult) {
    for ip in &mut result.ips {
        ip.interface = Some(CONTAINER);
        if ip.gateway.is_none() && conf.is_gateway {
            ip.gateway = Some(computed_gateway(ip.address));
        }
        if conf.is_default_gateway {
            ensure_default_route(&mut result.routes, ip);
        }
    }
}

/// The addresses that the bridge needs, IPv4 first.
pub(super) fn gateways(result: &CniResult) -> Vec<IpNet> {
    let with_prefix = |ip: &IpConfig| IpNet::new(ip.gateway?, ip.address.prefix_len()).ok();
    let mut gateways: Vec<IpNet> = result.ips.iter().filter_map(with_prefix).collect();
    gateways.sort_by_key(|gateway| gateway.addr().is_ipv6());
    gateways
}

/// The address after the network's, whatever the prefix length. `IpNet::hosts` would not do: it begins with the network's
/// own address for IPv6, and for IPv4 networks without room for a broadcast address.
fn computed_gateway(address: IpNet) -> IpAddr {
    successor(address.network())
}

/// One default route with a gateway for the family: one that the IPAM gave without is completed rather than doubled.
fn ensure_default_route(routes: &mut Vec<Route>, ip: &IpConfig) {
    let dst = default_route(ip.address.addr());
    match routes.iter_mut().find(|route| route.dst == Some(dst)) {
        Some(route) => route.gw = route.gw.or(ip.gateway),
        None => routes.push(Route { dst: Some(dst), gw: ip.gateway, ..Route::default() }),
    }
}

/// The container's settings before it has addresses. As in the reference they are wishes: a kernel without IPv6, or a
/// read-only /proc/sys, does not fail the call.
fn prepare_container(ifname: &str, enable_dad: bool) {
    let dad = if enable_dad { "1" } else { "0" };
    if enable_dad {
        let _ = sysctls::write(&format!("net/ipv6/conf/{ifname}/enhanced_dad"), dad);
    }
    let _ = sysctls::write(&format!("net/ipv6/conf/{ifname}/accept_dad"), dad);
}

fn wait_for_port(host: &mut Handle, name: &str) -> Result<()> {
    let port = host.link(name).with_context(|| format!("failed to lookup {name:?}"))?;
    let port = host.wait_until_up(port, PORT_LIMIT)?;
    if port.state == State::UP {
        return Ok(());
    }
    Err(Error::internal(format!("bridge port in error state: {}", port.state.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_computed_gateway_is_the_address_after_the_networks() {
        for (address, gateway) in [
            ("10.1.2.77/24", "10.1.2.1"),
            ("fd00:1::5/64", "fd00:1::1"),
            ("10.9.0.4/31", "10.9.0.5"),
            ("10.9.0.5/32", "10.9.0.6"),
        ] {
            assert_eq!(computed_gateway(address.parse().unwrap()).to_string(), gateway, "{address}");
        }
    }
}
