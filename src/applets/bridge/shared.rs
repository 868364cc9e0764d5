//! What many containers share, the bridge itself and a VLAN's gateway: finding or creating them, their gateway addresses,
//! and taking back what a failed ADD has changed on them.

use std::cell::RefCell;
use std::rc::Rc;

use super::Conf;
use super::changes::{self, Changes, Wanted};
use crate::cni::Undo;
use crate::error::{Context, Errno, Error, Failures, Result};
use crate::net::bridge_ports::PortSettings;
use crate::net::bridges::NewBridge;
use crate::net::{Handle, Link, Mac, Netns, SharedLinks, veth};

/// What one ADD has changed on the bridge. The journal's last step holds it too: it takes the changes back, and lets go of
/// the lock when the ADD is over, whichever way.
#[derive(Debug)]
pub(super) struct SharedBridge {
    lock: SharedLinks,
    /// The lock has been held alone since before the first change.
    alone: bool,
    bridge: Changes,
    /// Name of the VLAN's gateway, if this network has one.
    gateway_name: Option<String>,
    gateway: Changes,
    /// It was this call that made a port of the gateway's other end.
    joined: bool,
}

/// Shared between the ADD and its journal.
pub(super) type Shared = Rc<RefCell<SharedBridge>>;

/// Takes the lock, and writes to the journal what becomes of the bridge. To be called before anything else is done, so
/// that this step is the journal's last: the container's port is gone by then.
pub(super) fn enter(conf: &Conf, undo: &mut Undo) -> Shared {
    let shared = Rc::new(RefCell::new(SharedBridge {
        lock: SharedLinks::together(),
        alone: false,
        bridge: Changes::default(),
        gateway_name: conf.vlan_gateway(),
        gateway: Changes::default(),
        joined: false,
    }));
    let (bridge, kept) = (conf.bridge.clone(), Rc::clone(&shared));
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
            let mac = Mac::random()?;
            match host.create_bridge(&NewBridge {
                name,
                mac: &mac,
                mtu: conf.mtu.bytes(),
                filters_vlans: conf.vlans.filters,
            }) {
                Ok(()) => self.bridge.created = true,
                Err(error) if error.is(Errno::EEXIST) => {}
                Err(error) => return Err(error.context(&format!("could not add {name:?}"))),
            }
        }
        let bridge = host.link(name).with_context(|| format!("could not lookup {name:?}"))?;
        if conf.promiscuous && !bridge.is_promiscuous() {
            let set = host.set_promiscuous(bridge.index, true);
            set.with_context(|| format!("could not set promiscuous mode on {name:?}"))?;
            self.bridge.made_promiscuous = true;
        }
        if !bridge.is_up() {
            host.set_up(bridge.index, true).with_context(|| format!("failed to set {name:?} up"))?;
            self.bridge.raised = true;
        }
        self.let_others_in_if_unchanged();
        Ok(bridge)
    }

    /// Makes the container's port the first one of a bridge. A bridge that is a gateway keeps its hardware address; any
    /// other takes the port's, as with the reference.
    pub(super) fn join(&mut self, host: &mut Handle, bridge: &Link, conf: &Conf, port: &str) -> Result<()> {
        if conf.bridge_is_gateway() {
            self.hold_alone();
            changes::pin_mac(host, bridge)?;
            self.let_others_in_if_unchanged();
        }
        let port = host.link(port)?;
        host.set_port(port.index, &port.name, &PortSettings { bridge: Some(bridge), ..conf.port() })
    }

    /// Finds or creates the link that has the gateway addresses of this network: the bridge, or, for a VLAN, one end of a
    /// pair whose other end is in that VLAN.
    pub(super) fn ensure_gateway(&mut self, host: &mut Handle, bridge: &Link, conf: &Conf) -> Result<Link> {
        let Some(name) = self.gateway_name.clone() else { return Ok(bridge.clone()) };
        let found = host.find_link(&name).with_context(|| format!("failed to find interface {name:?}"))?;
        // It is set up last, so one that is up is complete, unless the bridge that it was on is gone. Who has made the
        // present one may have been another network, which knows nothing of this gateway.
        let gateway = match found {
            Some(link) if link.is_up() && port_of(host, &link)?.is_none_or(|port| port.master.is_some()) => link,
            _ => {
                self.hold_alone();
                self.complete_gateway(host, bridge, conf, &name)?
            }
        };
        // A wish, as for the bridge.
        let _ = host.refuse_router_advertisements(&gateway);
        Ok(gateway)
    }

    fn complete_gateway(&mut self, host: &mut Handle, bridge: &Link, conf: &Conf, name: &str) -> Result<Link> {
        if host.find_link(name)?.is_none() {
            let container = Netns::home()?;
            let wanted =
                veth::Wanted { container, ifname: name, mac: None, master: Some(bridge.index), mtu: bridge.mtu };
            match veth::create(host, &wanted) {
                Ok(_) => (self.gateway.created, self.joined) = (true, true),
                Err(error) if error.is(Errno::EEXIST) => {}
                Err(error) => return Err(error.context(&format!("failed to create vlan gateway {name:?}"))),
            }
        }
        let gateway = host.link(name).with_context(|| format!("failed to lookup {name:?}"))?;
        if let Some(port) = port_of(host, &gateway)?
            && port.master.is_none_or(|master| master == bridge.index)
        {
            // In one send: a port that is there without its VLAN would never be put right.
            self.joined |= port.master.is_none();
            let bridge = port.master.is_none().then_some(bridge);
            host.set_port(port.index, &port.name, &PortSettings { bridge, ..conf.vlans.gateway_port() })?;
            if !gateway.is_up() {
                host.set_up(gateway.index, true).with_context(|| format!("failed to up {name:?}"))?;
                self.gateway.raised = true;
            }
        }
        self.let_others_in_if_unchanged();
        Ok(gateway)
    }

    /// Gives the bridge, or the VLAN's gateway on it, an address. Another IPv4 address, or an overlapping IPv6 one, is a
    /// conflict unless the network has it too.
    pub(super) fn ensure_address(
        &mut self,
        host: &mut Handle,
        (bridge, link): (&Link, &Link),
        wanted: &Wanted<'_>,
    ) -> Result<()> {
        if changes::conflicts(host, link, wanted)?.is_none() {
            return Ok(());
        }
        self.hold_alone();
        let Some(conflicts) = changes::conflicts(host, link, wanted)? else {
            self.let_others_in_if_unchanged();
            return Ok(());
        };
        let wanted = wanted.address;
        let detects = wanted.addr().is_ipv6() && changes::leads_outside(host, bridge.index)?;
        let changes = if self.gateway_name.is_some() { &mut self.gateway } else { &mut self.bridge };
        changes.give_address(host, link, wanted, &conflicts, detects)
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
        self.bridge.is_some() || self.gateway.is_some()
    }

    /// Takes back this call's changes. A bridge that has got ports is not deleted; and where the lock could not be had,
    /// ports mean that somebody may have come to rely on the changes.
    fn take_back(&self, name: &str) -> Result<()> {
        if !self.is_changed() {
            return Ok(());
        }
        let mut host = Handle::current()?;
        let bridge = host.find_link(name)?;
        let gateway = self.gateway_name.as_ref().map_or(Ok(None), |name| host.find_link(name))?;
        let own = gateway.as_ref().and_then(|gateway| gateway.lower).filter(|_| self.joined);
        if let Some(bridge) = &bridge
            && (self.bridge.created || !self.alone)
            && host.ports_of(bridge.index)?.iter().any(|port| Some(port.index) != own)
        {
            return Ok(());
        }
        let mut failures = Failures::default();
        for (changes, link) in [(&self.gateway, gateway), (&self.bridge, bridge)] {
            if let Some(link) = link {
                failures.note(changes.take_back(&mut host, &link));
            }
        }
        failures.finish()
    }
}

/// The other end of a pair on the host.
fn port_of(host: &mut Handle, gateway: &Link) -> Result<Option<Link>> {
    match gateway.lower {
        Some(port) if gateway.kind == "veth" && !gateway.lower_is_elsewhere => host.find_link_at(port),
        _ => Ok(None),
    }
}
