//! ADD: bridge, veth pair, addresses, gateway, masquerading, and waiting for the port.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ipnet::IpNet;

use super::{Conf, default_route, entry, masquerade};
use crate::cni::delegate::Delegate;
use crate::cni::result::{IpConfig, Route};
use crate::cni::{CniResult, Request, Undo};
use crate::error::{Context, Errno, Error, Result};
use crate::firewall::Session;
use crate::firewall::flavour::Preference;
use crate::ipam::apply::{self, Target};
use crate::ipam::ranges::successor;
use crate::net::links::State;
use crate::net::{Handle, Link, Mac, NamespaceLock, Netns, sysctls, veth};

/// Index of the container's interface in the result.
const CONTAINER: i64 = 2;

/// How long the port may take to come up: the sum of the reference's pauses.
const PORT_LIMIT: Duration = Duration::from_millis(2550);

/// What this call has changed on the bridge, to be taken back if nobody else uses it by then.
type BridgeChanges = Rc<RefCell<Changes>>;

#[derive(Debug, Default)]
struct Changes {
    created: bool,
    addresses: Vec<IpNet>,
}

/// Attaches the container and gives the result.
pub(super) fn attach(conf: &Conf, request: &Request<'_>, container: &Netns, undo: &mut Undo) -> Result<CniResult> {
    // A failing ADD removes the bridge it created, but not from under others that have come to use it.
    let _lock = NamespaceLock::shared()?;
    let mut host = Handle::current()?;
    let changes = undo_of_bridge(&conf.bridge, undo);
    let bridge = ensure_bridge(&mut host, conf, &changes)
        .with_context(|| format!("failed to create bridge {:?}", conf.bridge))?;
    let pair = create_pair(&mut host, conf, request, container, &bridge, undo)?;
    let mut result = if conf.ipam.is_empty() {
        CniResult::default()
    } else {
        Delegate::find(&conf.ipam, request)?.add(request, undo)?
    };
    result.interfaces = vec![
        entry(&bridge.name, &bridge.mac, ""),
        entry(&pair.host_name, &pair.host_mac, ""),
        entry(&request.ifname, &pair.container_mac, &request.netns),
    ];
    let mut inside = Handle::inside(container)?;
    if !conf.ipam.is_empty() {
        let mut target =
            Target { netns: container, handle: &mut inside, index: pair.container_index, name: &request.ifname };
        configure(conf, request, &mut host, &mut target, &bridge, &mut result, &changes, undo)?;
    } else if !conf.disable_container_interface {
        let up = inside.set_up(pair.container_index, true);
        up.with_context(|| format!("failed to set {:?} up", request.ifname))?;
    }
    if !conf.disable_container_interface {
        wait_for_port(&mut host, &pair.host_name)?;
    }
    // A bridge that is not pinned may have taken another address from its new port.
    if let (Some(now), Some(first)) = (host.find_link_at(bridge.index)?, result.interfaces.first_mut()) {
        first.mac = now.mac.to_string();
    }
    if let Some(dns) = &conf.dns {
        result.dns = dns.clone();
    }
    Ok(result)
}

/// Writes to the journal, before anything else, what becomes of the bridge: that step runs last.
fn undo_of_bridge(bridge: &str, undo: &mut Undo) -> BridgeChanges {
    let changes = BridgeChanges::default();
    let (bridge, made) = (bridge.to_string(), Rc::clone(&changes));
    undo.push(move || take_back(&bridge, &made.borrow()));
    changes
}

/// Takes back this call's changes to the bridge, unless other containers are connected to it.
fn take_back(bridge: &str, changes: &Changes) -> Result<()> {
    if !changes.created && changes.addresses.is_empty() {
        return Ok(());
    }
    let _lock = NamespaceLock::exclusive()?;
    let mut host = Handle::current()?;
    let Some(link) = host.find_link(bridge)? else { return Ok(()) };
    if !host.ports_of(link.index)?.is_empty() {
        return Ok(());
    }
    if changes.created {
        return host.delete_link(link.index).with_context(|| format!("failed to delete bridge {bridge:?}"));
    }
    changes.addresses.iter().try_for_each(|address| host.delete_address(link.index, *address))
}

/// Finds the bridge or creates it. Two calls may create it at once: the one that comes second finds it.
fn ensure_bridge(host: &mut Handle, conf: &Conf, changes: &BridgeChanges) -> Result<Link> {
    let name = &conf.bridge;
    let bridge = match host.find_link(name)? {
        Some(link) => link,
        None => {
            match host.create_bridge(name, &Mac::random()?, conf.mtu) {
                Ok(()) => changes.borrow_mut().created = true,
                Err(error) if error.is(Errno::EEXIST) => {}
                Err(error) => return Err(error.context(&format!("could not add {name:?}"))),
            }
            host.link(name).with_context(|| format!("could not lookup {name:?}"))?
        }
    };
    if bridge.kind != "bridge" {
        return Err(Error::internal(format!("{name:?} already exists but is not a bridge")));
    }
    if conf.promiscuous && !bridge.is_promiscuous() {
        let set = host.set_promiscuous(bridge.index);
        set.with_context(|| format!("could not set promiscuous mode on {name:?}"))?;
    }
    // A wish, as in the reference: /proc/sys may be read-only.
    let _ = host.refuse_router_advertisements(&bridge);
    if !bridge.is_up() {
        host.set_up(bridge.index, true).with_context(|| format!("failed to set {name:?} up"))?;
    }
    Ok(bridge)
}

fn create_pair(
    host: &mut Handle,
    conf: &Conf,
    request: &Request<'_>,
    container: &Netns,
    bridge: &Link,
    undo: &mut Undo,
) -> Result<veth::Pair> {
    let wanted = veth::Wanted {
        container,
        ifname: &request.ifname,
        mac: conf.mac.as_ref(),
        master: Some(bridge.index),
        mtu: conf.mtu,
    };
    let pair = veth::create(host, &wanted)?;
    let name = pair.host_name.clone();
    undo.push(move || veth::delete(&name));
    if conf.hairpin {
        let port = host.link(&pair.host_name)?;
        let set = host.set_hairpin(port.index, true);
        set.with_context(|| format!("failed to setup hairpin mode for {}", pair.host_name))?;
    }
    Ok(pair)
}

/// Everything that depends on addresses.
#[expect(clippy::too_many_arguments, reason = "the state of one ADD, used once")]
fn configure(
    conf: &Conf,
    request: &Request<'_>,
    host: &mut Handle,
    target: &mut Target<'_>,
    bridge: &Link,
    result: &mut CniResult,
    changes: &BridgeChanges,
    undo: &mut Undo,
) -> Result<()> {
    if result.ips.is_empty() {
        return Err(Error::internal("IPAM plugin returned missing IP config"));
    }
    let gateways = plan_gateways(conf, result);
    let name = target.name;
    apply::configure(target, result, || prepare_container(name, conf.enable_dad))?;
    for gateway in &gateways {
        ensure_address(host, bridge, *gateway, conf.force_address, changes).context("failed to set bridge addr")?;
    }
    let has = |v6: bool| gateways.iter().any(|gateway| gateway.addr().is_ipv6() == v6);
    sysctls::enable_forwarding(has(false), has(true)).context("failed to enable forwarding")?;
    if conf.ip_masq {
        let addresses: Vec<IpNet> = result.ips.iter().map(|ip| ip.address).collect();
        let path = request.host.variable("PATH");
        let preference = Preference { forced: conf.flavour, path: &path };
        let added = masquerade(request).add(&mut Session::default(), &addresses, &preference)?;
        undo.push(move || added.undo(&mut Session::default()));
    }
    Ok(())
}

/// Completes the result with gateways and default routes; the addresses that the bridge needs, IPv4 first.
fn plan_gateways(conf: &Conf, result: &mut CniResult) -> Vec<IpNet> {
    let mut gateways = Vec::new();
    for ip in &mut result.ips {
        ip.interface = Some(CONTAINER);
        if ip.gateway.is_none() && conf.is_gateway {
            ip.gateway = Some(computed_gateway(ip.address));
        }
        let Some(gateway) = ip.gateway else { continue };
        if conf.is_default_gateway {
            ensure_default_route(&mut result.routes, ip);
        }
        if conf.is_gateway {
            gateways.extend(IpNet::new(gateway, ip.address.prefix_len()));
        }
    }
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

/// Gives the bridge a gateway address. Another IPv4 address, or an overlapping IPv6 one, is a conflict.
fn ensure_address(host: &mut Handle, bridge: &Link, wanted: IpNet, force: bool, changes: &BridgeChanges) -> Result<()> {
    let present = host.addresses(bridge.index).context("could not get list of IP addresses")?;
    if present.iter().any(|address| address.net == wanted) {
        return Ok(());
    }
    for other in present.iter().map(|address| address.net).filter(|other| conflicts(*other, wanted)) {
        if !force {
            let name = &bridge.name;
            return Err(Error::internal(format!("{name:?} already has an IP address different from {wanted}")));
        }
        let removed = host.delete_address(bridge.index, other);
        removed.with_context(|| format!("could not remove IP address from {:?}", bridge.name))?;
    }
    match host.add_address(bridge.index, wanted) {
        Ok(()) => changes.borrow_mut().addresses.push(wanted),
        Err(error) if error.is(Errno::EEXIST) => {}
        Err(error) => return Err(error.context(&format!("could not add IP address {wanted} to {:?}", bridge.name))),
    }
    pin_mac(host, bridge)
}

fn conflicts(other: IpNet, wanted: IpNet) -> bool {
    match (other, wanted) {
        (IpNet::V4(_), IpNet::V4(_)) => true,
        (IpNet::V6(other), IpNet::V6(wanted)) => other.contains(&wanted.trunc()) || wanted.contains(&other.trunc()),
        _ => false,
    }
}

/// Keeps the bridge's hardware address from following its ports: setting it, even to what it is, makes it stay. It is
/// read again because the port that has just joined may have changed it.
fn pin_mac(host: &mut Handle, bridge: &Link) -> Result<()> {
    let now = host.find_link_at(bridge.index)?.map_or_else(|| bridge.mac.clone(), |link| link.mac);
    if now.bytes().iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    host.set_mac(bridge.index, &now).context("could not set bridge's mac")
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
