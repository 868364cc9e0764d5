//! ADD.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;

use super::{Backend, Conf, FIREWALLD, Wish, bus_address};
use crate::cni::{Request, Undo};
use crate::error::{Failures, Result};
use crate::firewall::Session;
use crate::firewall::filter::{Added, Filter, Ingress};
use crate::firewall::firewalld::Firewalld;
use crate::firewall::flavour::Flavour;
use crate::firewall::owners::{Owner, Owners};

/// One ADD at work.
pub(super) struct Attaching<'a, 'h> {
    pub(super) conf: &'a Conf,
    pub(super) request: &'a Request<'h>,
    pub(super) addresses: &'a [IpAddr],
    pub(super) ingress: Option<Ingress<'a>>,
    pub(super) forced: Option<Flavour>,
    pub(super) undo: &'a mut Undo,
    /// Set when firewalld may have kept addresses of an ADD that failed. Then their records stay, for DEL.
    pub(super) leaves_sources: Rc<Cell<bool>>,
}

impl Attaching<'_, '_> {
    pub(super) fn attach(mut self) -> Result<()> {
        if self.addresses.is_empty() {
            return Ok(());
        }
        let backend = self.conf.backend(self.request)?;
        let mut session = Session::default();
        let mut filter =
            Filter { addresses: self.addresses, admin_chain: Some(&self.conf.admin_chain), ingress: self.ingress };
        // Held until the rules are there: a late DEL of the address's last owner must not come in between.
        let owners = Owners::create()?;
        self.record(&owners, &backend)?;
        if let Backend::Firewalld(firewalld) = backend {
            filter.admin_chain = None;
            self.add_sources(firewalld)?;
        }
        if filter.admin_chain.is_none() && filter.ingress.is_none() {
            return Ok(());
        }
        let store = self.conf.store(&mut session, self.request, self.forced)?;
        let added = filter.add(&mut session, store)?;
        self.undo_rules(added);
        Ok(())
    }

    /// Before the rules are there: a DEL after a crash shall find them.
    fn record(&mut self, owners: &Owners, backend: &Backend) -> Result<()> {
        let is_firewalld = matches!(backend, Backend::Firewalld(_));
        let rules = if self.conf.wish == Wish::Nftables { "nftables" } else { "iptables" };
        let owner = Owner {
            network: self.request.config.name.clone(),
            container: self.request.container_id.clone(),
            ifname: self.request.ifname.clone(),
            netns: Owner::netns_at(&self.request.netns),
            backend: if is_firewalld { FIREWALLD } else { rules }.to_string(),
            bridge: self.ingress.map_or(String::new(), |ingress| ingress.bridge.to_string()),
            zone: if is_firewalld { self.conf.zone.clone() } else { String::new() },
        };
        for address in self.addresses.iter().copied() {
            let former = owners.of(address);
            if former.as_ref() == Some(&owner) {
                continue;
            }
            owners.set(address, &owner)?;
            let (owner, is_needed) = (owner.clone(), Rc::clone(&self.leaves_sources));
            self.undo.push(move || if is_needed.get() { Ok(()) } else { restore(address, &owner, former.as_ref()) });
        }
        Ok(())
    }

    fn add_sources(&mut self, mut firewalld: Firewalld) -> Result<()> {
        let mut added = Vec::new();
        for address in self.addresses.iter().copied() {
            match firewalld.add_source(&self.conf.zone, address) {
                Ok(is_new) => added.extend(is_new.then_some(address)),
                Err(error) => {
                    // What was not answered may have been done, or be done later.
                    added.extend(error.timed_out().then_some(address));
                    // On the same connection: nobody waits a second time for a bus that has fallen silent.
                    self.undo_sources(added, move || Ok(firewalld));
                    return Err(error);
                }
            }
        }
        let bus = bus_address(self.request);
        self.undo_sources(added, move || Firewalld::connect(&bus));
        Ok(())
    }

    fn undo_sources(&mut self, added: Vec<IpAddr>, connect: impl FnOnce() -> Result<Firewalld> + 'static) {
        if added.is_empty() {
            return;
        }
        let (zone, leaves_sources) = (self.conf.zone.clone(), Rc::clone(&self.leaves_sources));
        self.undo.push(move || {
            let removed = connect().and_then(|firewalld| remove_sources(firewalld, &zone, &added));
            leaves_sources.set(removed.is_err());
            removed
        });
    }

    fn undo_rules(&mut self, added: Added) {
        let (network, container) = (self.request.config.name.clone(), self.request.container_id.clone());
        let ifname = self.request.ifname.clone();
        let bridge = self.ingress.map(|ingress| ingress.bridge.to_string());
        self.undo.push(move || {
            let owners = Owners::open();
            let is_other = |owner: &Owner| !owner.is(&network, &container, &ifname);
            let is_shared = match &bridge {
                None => false,
                Some(bridge) => owners.all()?.iter().any(|(_, owner)| owner.bridge == *bridge && is_other(owner)),
            };
            added.undo(&mut Session::default(), is_shared)
        });
    }
}

fn remove_sources(mut firewalld: Firewalld, zone: &str, addresses: &[IpAddr]) -> Result<()> {
    let mut failures = Failures::default();
    for address in addresses {
        failures.note(firewalld.remove_source(zone, *address));
    }
    failures.finish()
}

/// Takes a record back, unless somebody else has written another one meanwhile.
fn restore(address: IpAddr, ours: &Owner, former: Option<&Owner>) -> Result<()> {
    let owners = Owners::open();
    match (owners.of(address), former) {
        (Some(found), Some(former)) if found == *ours => owners.set(address, former),
        (Some(found), None) if found == *ours => owners.clear(address),
        _ => Ok(()),
    }
}
