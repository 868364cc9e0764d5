//! DEL of a veth pair: finding what is left of an attachment, the addresses it had, and removing its links.

use std::net::IpAddr;

use crate::cni::Request;
use crate::error::{Context, Result};
use crate::ipam::own_link::{self, Evidence, Own};
use crate::net::{Handle, Link, Netns, veth};

/// What is left of an attachment's links.
#[derive(Debug)]
pub struct Attachment {
    evidence: Evidence,
    inside: Inside,
}

/// What is left of them in the container.
#[derive(Debug)]
enum Inside {
    /// The container's namespace can be entered; the interface may be missing.
    Reachable(Handle, Option<Box<Link>>),
    /// The namespace is gone, its path is not known any more or leads to another container.
    Unreachable,
}

impl Attachment {
    /// Looks for the interface in the container.
    pub fn find(request: &Request<'_>) -> Result<Self> {
        let evidence = Evidence::of(request)?;
        let container = Netns::open_if_left(&request.netns)?;
        let inside =
            container.map_or(Ok(Inside::Unreachable), |container| Inside::find(&evidence, &container, request));
        Ok(Attachment { evidence, inside: inside? })
    }

    /// The addresses it has or had: those of the interface and of prevResult. `None` means that they are unknown and that
    /// the container has no other addresses, so that everything which names the container may go.
    pub fn addresses(&mut self, request: &Request<'_>) -> Result<Option<Vec<IpAddr>>> {
        let mut addresses = match &mut self.inside {
            Inside::Reachable(inside, Some(link)) => ips(inside.addresses(link.index)?),
            _ => Vec::new(),
        };
        if let Ok(Some(previous)) = request.config.prev_result() {
            addresses.extend(previous.ips.iter().map(|ip| ip.address.addr()));
        }
        let others = match &mut self.inside {
            Inside::Reachable(inside, None) => has_addresses(inside)?,
            _ => false,
        };
        Ok((others || !addresses.is_empty()).then_some(addresses))
    }

    /// Deletes the pair: from the host's end if that is known, otherwise from the container's. The container may have moved its
    /// end on, and put a pair that looks the same in its place. False if a link was left alone that uses the addresses.
    pub fn remove(self, request: &Request<'_>) -> Result<bool> {
        match (self.evidence.host_end(), self.inside) {
            (Some(end), _) => veth::delete(&end.name)?,
            (None, Inside::Reachable(mut inside, Some(link))) => {
                let deleted = inside.delete_link(link.index);
                deleted.with_context(|| format!("failed to delete {:?} in {:?}", link.name, request.netns))?;
            }
            _ => return own_link::is_left_in_use(request).map(|is_used| !is_used),
        }
        Ok(true)
    }
}

impl Inside {
    fn find(evidence: &Evidence, container: &Netns, request: &Request<'_>) -> Result<Self> {
        let mut inside = Handle::inside(container)?;
        Ok(match evidence.find(container, &mut inside, &request.ifname)? {
            Own::Link(link) => Inside::Reachable(inside, Some(Box::new(link))),
            Own::Missing => Inside::Reachable(inside, None),
            Own::Elsewhere => Inside::Unreachable,
        })
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
