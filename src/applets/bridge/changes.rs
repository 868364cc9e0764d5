//! What one ADD has changed on a link that others use too, the bridge or a VLAN's gateway, and how that is taken back.

use ipnet::IpNet;

use crate::error::{Context, Errno, Error, Failures, Result};
use crate::net::{Handle, Link};

/// The changes to one link.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) created: bool,
    pub(super) raised: bool,
    pub(super) made_promiscuous: bool,
    added: Vec<IpNet>,
    removed: Vec<IpNet>,
}

impl Changes {
    /// True when there are any.
    pub(super) fn is_some(&self) -> bool {
        self.created || self.raised || self.made_promiscuous || !self.added.is_empty() || !self.removed.is_empty()
    }

    /// Gives the link an address in the place of those that are in conflict with it, and pins its hardware address.
    /// `detects`: the kernel looks for an IPv6 address on the link before it can be used.
    pub(super) fn give_address(
        &mut self,
        host: &mut Handle,
        link: &Link,
        wanted: IpNet,
        conflicts: &[IpNet],
        detects: bool,
    ) -> Result<()> {
        for other in conflicts {
            let removed = host.delete_address(link.index, *other);
            removed.with_context(|| format!("could not remove IP address from {:?}", link.name))?;
            self.removed.push(*other);
        }
        let add = if detects { Handle::add_address } else { Handle::add_address_at_once };
        match add(host, link.index, wanted) {
            Ok(()) => self.added.push(wanted),
            Err(error) if error.is(Errno::EEXIST) => {}
            Err(error) => return Err(error.context(&format!("could not add IP address {wanted} to {:?}", link.name))),
        }
        // The first port of such a bridge is still to join, and its address is set then.
        if link.follows_first_port { Ok(()) } else { pin_mac(host, link) }
    }

    /// Deletes the link if it was created, or restores what it was.
    pub(super) fn take_back(&self, host: &mut Handle, link: &Link) -> Result<()> {
        if self.created {
            return host.delete_link(link.index).with_context(|| format!("failed to delete {:?}", link.name));
        }
        let mut failures = Failures::default();
        for address in &self.added {
            failures.note(host.delete_address(link.index, *address));
        }
        for address in &self.removed {
            failures.note(host.add_address(link.index, *address));
        }
        if self.made_promiscuous {
            failures.note(host.set_promiscuous(link.index, false));
        }
        if self.raised {
            failures.note(host.set_up(link.index, false));
        }
        failures.finish().with_context(|| format!("failed to restore {:?}", link.name))
    }
}

/// Keeps the hardware address that the link had when it was looked up: setting it, even to what it is, makes a bridge stop
/// following its ports. A bridge that had lost its address with its last port has that of its new port by now.
pub(super) fn pin_mac(host: &mut Handle, link: &Link) -> Result<()> {
    const WHAT: &str = "could not set bridge's mac";
    if !link.follows_first_port && !link.mac.is_zero() {
        return host.set_mac(link.index, &link.mac).context(WHAT);
    }
    // Another ADD may have come first.
    let Some(now) = host.find_link_at(link.index)? else { return Ok(()) };
    match now {
        now if now.follows_first_port => host.keep_first_mac(now.index, &now.mac),
        now if now.mac.is_zero() => Ok(()),
        now if link.mac.is_zero() => host.set_mac(now.index, &now.mac),
        now => host.set_mac(now.index, &link.mac),
    }
    .context(WHAT)
}

/// An address that a link is to have.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) address: IpNet,
    /// The network's other gateways, which stay.
    pub(super) kept: &'a [IpNet],
    /// Addresses in conflict with it go.
    pub(super) force: bool,
}

/// The addresses that have to go before the link can have the wanted one; `None` when it has it already.
pub(super) fn conflicts(host: &mut Handle, link: &Link, wanted: &Wanted<'_>) -> Result<Option<Vec<IpNet>>> {
    let Wanted { address: wanted, kept, force } = *wanted;
    let present = host.addresses(link.index).context("could not get list of IP addresses")?;
    if present.iter().any(|address| address.net == wanted) {
        return Ok(None);
    }
    let in_conflict = |other: &IpNet| conflict(*other, wanted) && !kept.contains(other);
    let others = present.iter().map(|address| address.net).filter(in_conflict);
    let others: Vec<IpNet> = others.collect();
    if others.is_empty() || force {
        return Ok(Some(others));
    }
    Err(Error::internal(format!("{:?} already has an IP address different from {wanted}", link.name)))
}

/// True when somebody beyond this host may be on the bridge, who has the gateway's address although it is to be ours: an
/// IPv6 router. Containers and virtual machines can only have it by mistake, or to keep the host from having it.
pub(super) fn leads_outside(host: &mut Handle, bridge: u32) -> Result<bool> {
    Ok(host.ports_of(bridge)?.iter().any(|port| !["veth", "tun", "dummy"].contains(&port.kind.as_str())))
}

fn conflict(other: IpNet, wanted: IpNet) -> bool {
    match (other, wanted) {
        (IpNet::V4(_), IpNet::V4(_)) => true,
        (IpNet::V6(other), IpNet::V6(wanted)) => other.contains(&wanted.trunc()) || wanted.contains(&other.trunc()),
        _ => false,
    }
}
