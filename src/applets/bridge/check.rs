//! CHECK: bridge, both ends of the pair, addresses, routes and the firewall's rules are as the previous result says.

use super::Conf;
use crate::cni::result::Interface;
use crate::cni::{CniResult, Request};
use crate::error::{Error, Result};
use crate::ipam::verify;
use crate::net::{Handle, Link, Netns};

/// Verifies the attachment; the error says what differs.
pub(super) fn check(conf: &Conf, request: &Request<'_>, container: &Netns) -> Result<()> {
    let previous = request.config.prev_result()?.ok_or_else(|| Error::internal("Required prevResult missing"))?;
    let mut host = Handle::current()?;
    let mut inside = Handle::inside(container)?;
    let bridge = check_bridge(&mut host, conf, &previous)?;
    let mine = verify::container_interface(&previous, &request.ifname, &request.netns)?;
    let end = check_container_end(&mut inside, mine)?;
    let port = check_host_end(&mut host, conf, &previous, &bridge, &end)?;
    check_port(&mut host, conf, &port)?;
    check_vlan_gateway(&mut host, conf, &previous)?;
    verify::applied(&mut inside, &request.ifname, &previous)?;
    conf.firewall.verify(request, &previous, &port.name, (mine, &end.mac))
}

fn find(handle: &mut Handle, name: &str) -> Result<Link> {
    handle.find_link(name)?.ok_or_else(|| Error::internal(format!("Interface name {name} not found")))
}

fn check_bridge(host: &mut Handle, conf: &Conf, previous: &CniResult) -> Result<Link> {
    let name = &conf.bridge;
    let listed = previous.interfaces.iter().rfind(|interface| interface.name == *name);
    let listed = listed.ok_or_else(|| Error::internal("Interface name missing "))?;
    let link = find(host, name)?;
    if !listed.sandbox.is_empty() {
        return Err(Error::internal(format!("Interface {name} should not be in sandbox")));
    }
    if link.kind != "bridge" {
        return Err(Error::internal(format!("Interface {name} does not have link type of bridge")));
    }
    // Only the hardware address of a gateway is pinned; any other follows its ports, and rightly so.
    if conf.is_gateway && conf.vlans.id == 0 && differs(listed, &link) {
        let (wanted, found) = (&listed.mac, &link.mac);
        return Err(Error::internal(format!("Bridge interface {name} Mac doesn't match: {wanted}, found {found}")));
    }
    if link.is_promiscuous() != conf.promiscuous {
        let (wanted, found) = (conf.promiscuous, link.is_promiscuous());
        return Err(Error::internal(format!(
            "Bridge interface {name} configured Promisc Mode {wanted} doesn't match current state: {found}"
        )));
    }
    Ok(link)
}

fn check_container_end(inside: &mut Handle, listed: &Interface) -> Result<Link> {
    let name = &listed.name;
    let link = find(inside, name)?;
    if link.kind != "veth" {
        return Err(Error::internal(format!("Error: Container interface {name} not of type veth")));
    }
    if differs(listed, &link) {
        let (wanted, found) = (&listed.mac, &link.mac);
        return Err(Error::internal(format!("Interface {name} Mac {wanted} doesn't match container Mac: {found}")));
    }
    Ok(link)
}

/// Among the other interfaces of the result there is the veth that is the container's peer and a port of the bridge.
fn check_host_end(host: &mut Handle, conf: &Conf, previous: &CniResult, bridge: &Link, end: &Link) -> Result<Link> {
    let others = previous.interfaces.iter().filter(|listed| listed.name != conf.bridge && listed.name != end.name);
    for listed in others {
        let link = find(host, &listed.name)?;
        let peers = link.kind == "veth" && end.lower == Some(link.index) && link.lower == Some(end.index);
        if !peers || link.master != Some(bridge.index) {
            continue;
        }
        if differs(listed, &link) {
            let (name, wanted, found) = (&listed.name, &listed.mac, &link.mac);
            return Err(Error::internal(format!("Interface {name} Mac doesn't match: {wanted}, found {found}")));
        }
        return Ok(link);
    }
    Err(Error::internal(format!("CNI veth created for bridge {} was not found", conf.bridge)))
}

/// What the port was told when it joined.
fn check_port(host: &mut Handle, conf: &Conf, port: &Link) -> Result<()> {
    if conf.isolated && !host.is_isolated(port.index)? {
        return Err(Error::internal(format!("Interface {} is not isolated", port.name)));
    }
    conf.vlans.verify(host, port.index, &port.name)
}

/// The VLAN's gateway is there if there was one. Whatever it is: the reference takes what it finds under that name, and only
/// a pair keeps its hardware address.
fn check_vlan_gateway(host: &mut Handle, conf: &Conf, previous: &CniResult) -> Result<()> {
    let Some(name) = conf.vlan_gateway() else { return Ok(()) };
    let Some(listed) = previous.interfaces.iter().find(|listed| listed.name == name) else { return Ok(()) };
    let link = find(host, &name)?;
    if link.kind == "veth" && differs(listed, &link) {
        let (wanted, found) = (&listed.mac, &link.mac);
        return Err(Error::internal(format!("Interface {name} Mac doesn't match: {wanted}, found {found}")));
    }
    Ok(())
}

fn differs(listed: &Interface, link: &Link) -> bool {
    !listed.mac.is_empty() && listed.mac != link.mac.to_string()
}
