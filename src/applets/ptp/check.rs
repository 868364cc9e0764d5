//! CHECK: both ends of the pair, addresses, routes on both sides and the masquerading are as the previous result says.

use ipnet::IpNet;

use super::Conf;
use crate::cni::result::{Interface, IpConfig};
use crate::cni::{CniResult, Request};
use crate::error::{Error, Result};
use crate::firewall::Session;
use crate::ip_masq;
use crate::ipam::{point_to_point, verify};
use crate::net::{Handle, Link, Netns};

/// Verifies the attachment; the error says what differs.
pub(super) fn check(conf: &Conf, request: &Request<'_>, container: &Netns) -> Result<()> {
    let previous = request.config.prev_result()?;
    let previous = previous.ok_or_else(|| Error::internal("ptp: Required prevResult missing"))?;
    let mine = verify::container_interface(&previous, &request.ifname, &request.netns)?;
    let mut inside = Handle::inside(container)?;
    let end = check_container_end(&mut inside, mine)?;
    verify::applied(&mut inside, &request.ifname, &previous)?;
    let of_mine = |ip: &&IpConfig| previous.interface_of(ip).is_none_or(|found| found == mine);
    let ips: Vec<&IpConfig> = previous.ips.iter().filter(of_mine).collect();
    let mut host = Handle::current()?;
    let port = check_host_end(&mut host, &previous, &end)?;
    point_to_point::verify_host(&mut host, &port.name, port.index, &ips)?;
    if !conf.masquerade {
        return Ok(());
    }
    let addresses: Vec<IpNet> = ips.iter().map(|ip| ip.address).collect();
    ip_masq::verify(&mut Session::default(), request, &addresses)
}

fn check_container_end(inside: &mut Handle, listed: &Interface) -> Result<Link> {
    let name = &listed.name;
    let missing = || Error::internal(format!("ptp: Container Interface name in prevResult: {name} not found"));
    let link = inside.find_link(name)?.ok_or_else(missing)?;
    if link.kind != "veth" {
        return Err(Error::internal(format!("Error: Container interface {name} not of type veth/p2p")));
    }
    if differs(listed, &link) {
        let (wanted, found) = (&listed.mac, &link.mac);
        return Err(Error::internal(format!(
            "ptp: Interface {name} Mac {wanted} doesn't match container Mac: {found}"
        )));
    }
    Ok(link)
}

/// Among the interfaces of the result there is the host's veth that is the container's peer.
fn check_host_end(host: &mut Handle, previous: &CniResult, end: &Link) -> Result<Link> {
    for listed in previous.interfaces.iter().filter(|listed| listed.sandbox.is_empty()) {
        let Some(link) = host.find_link(&listed.name)? else { continue };
        if link.kind != "veth" || end.lower != Some(link.index) || link.lower != Some(end.index) {
            continue;
        }
        let name = &listed.name;
        if differs(listed, &link) {
            let (wanted, found) = (&listed.mac, &link.mac);
            return Err(Error::internal(format!("ptp: Interface {name} Mac {wanted} doesn't match: {found}")));
        }
        if !link.is_up() {
            return Err(Error::internal(format!("ptp: Interface {name} is down")));
        }
        return Ok(link);
    }
    let name = &end.name;
    Err(Error::internal(format!("ptp: host interface that is the peer of container interface {name} was not found")))
}

fn differs(listed: &Interface, link: &Link) -> bool {
    !listed.mac.is_empty() && listed.mac != link.mac.to_string()
}
