//! DEL of a veth pair: finding what is left of an attachment, the addresses it had, and removing its links.

use std::net::IpAddr;

use crate::cni::Request;
use crate::error::{Context, Result};
use crate::net::{Handle, Link, Netns, veth};

/// What is left of an attachment's links.
#[derive(Debug)]
pub enum Attachment {
    /// The container's namespace can be entered; the interface may be missing.
    Reachable(Handle, Option<Link>),
    /// The namespace is gone, or nobody knows its name any more.
    Unreachable,
}

impl Attachment {
    /// Looks for the interface in the container.
    pub fn find(request: &Request<'_>) -> Result<Self> {
        let Some(container) = Netns::open_if_left(&request.netns)? else { return Ok(Attachment::Unreachable) };
        let mut inside = Handle::inside(&container)?;
        let link = inside.find_link(&request.ifname)?;
        Ok(Attachment::Reachable(inside, link))
    }

    /// The addresses it has or had: those of the interface and of prevResult. `None` means that they are unknown and that
    /// the container has no other addresses, so that everything which names the container may go.
    pub fn addresses(&mut self, request: &Request<'_>) -> Result<Option<Vec<IpAddr>>> {
        let mut addresses = match self {
            Attachment::Reachable(inside, Some(link)) => ips(inside.addresses(link.index)?),
            _ => Vec::new(),
        };
        if let Ok(Some(previous)) = request.config.prev_result() {
            addresses.extend(previous.ips.iter().map(|ip| ip.address.addr()));
        }
        let others = match self {
            Attachment::Reachable(inside, None) => has_addresses(inside)?,
            _ => false,
        };
        Ok((others || !addresses.is_empty()).then_some(addresses))
    }

    /// Deletes the pair: from the container's end, or, where the container cannot be reached, from the host's end.
    pub fn remove(self, request: &Request<'_>) -> Result<()> {
        match self {
            Attachment::Reachable(mut inside, Some(link)) => {
                let deleted = inside.delete_link(link.index);
                deleted.with_context(|| format!("failed to delete {:?} in {:?}", link.name, request.netns))
            }
            Attachment::Reachable(_, None) => Ok(()),
            Attachment::Unreachable => remove_host_end(request),
        }
    }
}

/// True when the container still has an address of some attachment.
fn has_addresses(inside: &mut Handle) -> Result<bool> {
    let is_local = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    Ok(!ips(inside.all_addresses()?).iter().all(is_local))
}

fn ips(addresses: Vec<crate::net::addresses::Address>) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.net.addr()).collect()
}

/// Deletes the host's end that prevResult names, if it is still the one: a veth with the same hardware address whose other
/// end is in another namespace. (Both ends of a VLAN's gateway are on the host: others use it.)
fn remove_host_end(request: &Request<'_>) -> Result<()> {
    let Ok(Some(previous)) = request.config.prev_result() else { return Ok(()) };
    let mut host = Handle::current()?;
    for interface in previous.interfaces.iter().filter(|interface| interface.sandbox.is_empty()) {
        match host.find_link(&interface.name)? {
            Some(link) if is_hosts_end(&link) && link.mac.to_string() == interface.mac => veth::delete(&link.name)?,
            _ => {}
        }
    }
    Ok(())
}

fn is_hosts_end(link: &Link) -> bool {
    link.kind == "veth" && link.lower_is_elsewhere
}
