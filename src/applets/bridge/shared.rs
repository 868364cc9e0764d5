//! The bridge itself, which many containers share: finding or creating it, its gateway addresses, and taking back what a
//! failed ADD has changed on it.

use std::cell::RefCell;
use std::rc::Rc;

use ipnet::IpNet;

use super::Conf;
use crate::cni::Undo;
use crate::error::{Context, Errno, Error, Failures, Result};
use crate::net::{Handle, Link, Mac, SharedLinks};

/// What one ADD has changed on the bridge. The journal's last step holds it too: it takes the changes back, and lets go of
/// the lock when the ADD is over, whichever way.
#[derive(Debug)]
pub(super) struct SharedBridge {
    lock: SharedLinks,
    /// The lock has been held alone since before the first change.
    alone: bool,
    created: bool,
    raised: bool,
    made_promiscuous: bool,
    added: Vec<IpNet>,
    removed: Vec<IpNet>,
    /// The hardware address before one was set for good.
    unpinned: Option<Mac>,
}

/// Shared between the ADD and its journal.
pub(super) type Shared = Rc<RefCell<SharedBridge>>;

/// Takes the lock, and writes to the journal what becomes of the bridge. To be called before anything else is done, so
/// that this step is the journal's last: the container's port is gone by then.
pub(super) fn enter(bridge: &str, undo: &mut Undo) -> Shared {
    let shared = Rc::new(RefCell::new(SharedBridge {
        lock: SharedLinks::together(),
        alone: false,
        created: false,
        raised: false,
        made_promiscuous: false,
        added: Vec::new(),
        removed: Vec::new(),
        unpinned: None,
    }));
    let (bridge, kept) = (bridge.to_string(), Rc::clone(&shared));
    undo.push(move || kept.borrow().take_back(&bridge));
    shared
}

impl SharedBridge {
    /// Finds the bridge or creates it, up and as promiscuous as configured. Two calls may create it at once: the one that
    /// comes second finds it.
    pub(super) fn ensure(&mut self, host: &mut Handle, conf: &Conf) -> Result<Link> {
        let found = host.find_link(&conf.bridge)?;
        let is_ready = |link: &Link| link.is_up() && (link.is_promiscuous() || !conf.promiscuous);
        let bridge = match found {
            Some(link) if link.kind != "bridge" || is_ready(&link) => link,
            _ => self.change(host, conf)?,
        };
        if bridge.kind != "bridge" {
            return Err(Error::internal(format!("{:?} already exists but is not a bridge", conf.bridge)));
        }
        // A wish, as in the reference: /proc/sys may be read-only.
        let _ = host.refuse_router_advertisements(&bridge);
        Ok(bridge)
    }

    /// Creates the bridge, or changes it to what is configured.
    fn change(&mut self, host: &mut Handle, conf: &Conf) -> Result<Link> {
        let name = &conf.bridge;
        self.hold_alone();
        if host.find_link(name)?.is_none() {
            match host.create_bridge(name, &Mac::random()?, conf.mtu) {
                Ok(()) => self.created = true,
                Err(error) if error.is(Errno::EEXIST) => {}
                Err(error) => return Err(error.context(&format!("could not add {name:?}"))),
            }
        }
        let bridge = host.link(name).with_context(|| format!("could not lookup {name:?}"))?;
        if conf.promiscuous && !bridge.is_promiscuous() {
            let set = host.set_promiscuous(bridge.index, true);
            set.with_context(|| format!("could not set promiscuous mode on {name:?}"))?;
            self.made_promiscuous = true;
        }
        if !bridge.is_up() {
            host.set_up(bridge.index, true).with_context(|| format!("failed to set {name:?} up"))?;
            self.raised = true;
        }
        self.let_others_in_if_unchanged();
        Ok(bridge)
    }

    /// Gives the bridge a gateway address. Another IPv4 address, or an overlapping IPv6 one, is a conflict.
    pub(super) fn ensure_address(
        &mut self,
        host: &mut Handle,
        bridge: &Link,
        wanted: IpNet,
        force: bool,
    ) -> Result<()> {
        if self.conflicts(host, bridge, wanted, force)?.is_none() {
            return Ok(());
        }
        self.hold_alone();
        let Some(conflicts) = self.conflicts(host, bridge, wanted, force)? else {
            self.let_others_in_if_unchanged();
            return Ok(());
        };
        for other in conflicts {
            let removed = host.delete_address(bridge.index, other);
            removed.with_context(|| format!("could not remove IP address from {:?}", bridge.name))?;
            self.removed.push(other);
        }
        match host.add_address(bridge.index, wanted) {
            Ok(()) => self.added.push(wanted),
            Err(error) if error.is(Errno::EEXIST) => {}
            Err(error) => return Err(error.context(&format!("could not add IP address {wanted} to {:?}", bridge.name))),
        }
        self.pin_mac(host, bridge)
    }

    /// Keeps the bridge's hardware address from following its ports: setting it, even to what it is, makes it stay. It is
    /// read again because the port that has just joined may have changed it.
    fn pin_mac(&mut self, host: &mut Handle, bridge: &Link) -> Result<()> {
        let now = host.find_link_at(bridge.index)?.map_or_else(|| bridge.mac.clone(), |link| link.mac);
        if now.is_zero() {
            return Ok(());
        }
        self.unpinned = Some(bridge.mac.clone()).filter(|mac| !mac.is_zero());
        host.set_mac(bridge.index, &now).context("could not set bridge's mac")
    }

    /// The addresses that have to go before the bridge can have the wanted one; `None` when it has it already.
    fn conflicts(&self, host: &mut Handle, bridge: &Link, wanted: IpNet, force: bool) -> Result<Option<Vec<IpNet>>> {
        let present = host.addresses(bridge.index).context("could not get list of IP addresses")?;
        if present.iter().any(|address| address.net == wanted) {
            return Ok(None);
        }
        let others = present.iter().map(|address| address.net).filter(|other| conflict(*other, wanted));
        let others: Vec<IpNet> = others.collect();
        if others.is_empty() || force {
            return Ok(Some(others));
        }
        Err(Error::internal(format!("{:?} already has an IP address different from {wanted}", bridge.name)))
    }

    fn hold_alone(&mut self) {
        self.alone = self.alone || self.lock.hold_alone();
    }

    fn let_others_in_if_unchanged(&mut self) {
        if self.alone && !self.is_changed() {
            self.lock.let_others_in();
            self.alone = false;
        }
    }

    fn is_changed(&self) -> bool {
        self.created || self.raised || self.made_promiscuous || !self.added.is_empty() || !self.removed.is_empty()
    }

    /// Takes back this call's changes. A bridge that has got ports is not deleted; and where the lock could not be had,
    /// ports mean that somebody may have come to rely on the changes.
    fn take_back(&self, bridge: &str) -> Result<()> {
        if !self.is_changed() {
            return Ok(());
        }
        let mut host = Handle::current()?;
        let Some(link) = host.find_link(bridge)? else { return Ok(()) };
        let is_used = !host.ports_of(link.index)?.is_empty();
        match (self.created, is_used, self.alone) {
            (true, true, _) | (false, true, false) => Ok(()),
            (true, false, _) => host.delete_link(link.index).with_context(|| format!("failed to delete {bridge:?}")),
            (false, ..) => self.restore(&mut host, &link),
        }
    }

    fn restore(&self, host: &mut Handle, link: &Link) -> Result<()> {
        let mut failures = Failures::default();
        for address in &self.added {
            failures.note(host.delete_address(link.index, *address));
        }
        for address in &self.removed {
            failures.note(host.add_address(link.index, *address));
        }
        if let Some(mac) = &self.unpinned {
            failures.note(host.set_mac(link.index, mac));
        }
        if self.made_promiscuous {
            failures.note(host.set_promiscuous(link.index, false));
        }
        if self.raised {
            failures.note(host.set_up(link.index, false));
        }
        failures.finish().with_context(|| format!("failed to restore bridge {:?}", link.name))
    }
}

fn conflict(other: IpNet, wanted: IpNet) -> bool {
    match (other, wanted) {
        (IpNet::V4(_), IpNet::V4(_)) => true,
        (IpNet::V6(other), IpNet::V6(wanted)) => other.contains(&wanted.trunc()) || wanted.contains(&other.trunc()),
        _ => false,
    }
}
