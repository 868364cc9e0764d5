//! ADD.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;

use super::{Backend, Conf, FIREWALLD, Wish, bus_address, has_rules, is_in_zone};
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
        let owner = self.owner(&backend);
        self.record(&owners, &owner)?;
        if let Backend::Firewalld(firewalld) = backend {
            filter.admin_chain = None;
            self.add_sources(firewalld, &owner)?;
        }
        if filter.admin_chain.is_none() && filter.ingress.is_none() {
            return Ok(());
        }
        let store = self.conf.store(&mut session, self.request, self.forced)?;
        let added = filter.add(&mut session, store)?;
        self.undo_rules(added, owner);
        Ok(())
    }

    fn owner(&self, backend: &Backend) -> Owner {
        let is_firewalld = matches!(backend, Backend::Firewalld(_));
        let rules = if self.conf.wish == Wish::Nftables { "nftables" } else { "iptables" };
        Owner {
            network: self.request.config.name.clone(),
            container: self.request.container_id.clone(),
            ifname: self.request.ifname.clone(),
            netns: Owner::netns_at(&self.request.netns),
            backend: if is_firewalld { FIREWALLD } else { rules }.to_string(),
            bridge: self.ingress.map_or(String::new(), |ingress| ingress.bridge.to_string()),
            zone: if is_firewalld { self.conf.zone.clone() } else { String::new() },
        }
    }

    /// Before the rules are there: a DEL after a crash shall find them.
    fn record(&mut self, owners: &Owners, owner: &Owner) -> Result<()> {
        for address in self.addresses.iter().copied() {
            let former = owners.of(address).into_iter().find(|known| known.is_same(owner));
            owners.add(address, owner)?;
            if former.as_ref() == Some(owner) {
                continue;
            }
            let (owner, is_needed) = (owner.clone(), Rc::clone(&self.leaves_sources));
            self.undo.push(move || if is_needed.get() { Ok(()) } else { restore(address, &owner, former) });
        }
        Ok(())
    }

    fn add_sources(&mut self, mut firewalld: Firewalld, owner: &Owner) -> Result<()> {
        let mut added = Vec::new();
        for address in self.addresses.iter().copied() {
            match firewalld.add_source(&self.conf.zone, address) {
                Ok(is_new) => added.extend(is_new.then_some(address)),
                Err(error) => {
                    // What was not answered may have been done, or be done later.
                    added.extend(error.timed_out().then_some(address));
                    // On the same connection: nobody waits a second time for a bus that has fallen silent.
                    self.undo_sources(added, owner, move || Ok(firewalld));
                    return Err(error);
                }
            }
        }
        let bus = bus_address(self.request);
        self.undo_sources(added, owner, move || Firewalld::connect(&bus));
        Ok(())
    }

    fn undo_sources(
        &mut self,
        added: Vec<IpAddr>,
        owner: &Owner,
        connect: impl FnOnce() -> Result<Firewalld> + 'static,
    ) {
        if added.is_empty() {
            return;
        }
        let (owner, leaves_sources) = (owner.clone(), Rc::clone(&self.leaves_sources));
        self.undo.push(move || {
            let owners = Owners::open();
            let is_unused = |address: &IpAddr| !others(&owners, *address, &owner).iter().any(is_in_zone);
            let unused: Vec<IpAddr> = added.into_iter().filter(is_unused).collect();
            let removed = connect().and_then(|firewalld| remove_sources(firewalld, &owner.zone, &unused));
            leaves_sources.set(removed.is_err());
            removed
        });
    }

    fn undo_rules(&mut self, added: Added, owner: Owner) {
        let addresses = self.addresses.to_vec();
        self.undo.push(move || {
            let owners = Owners::open();
            let is_used = |address: &IpAddr| others(&owners, *address, &owner).iter().any(has_rules);
            let used: Vec<IpAddr> = addresses.into_iter().filter(is_used).collect();
            let is_other = |other: &Owner| other.bridge == owner.bridge && !other.is_same(&owner);
            let is_shared = !owner.bridge.is_empty() && owners.all()?.iter().any(|(_, other)| is_other(other));
            added.without(&used).undo(&mut Session::default(), is_shared)
        });
    }
}

/// The living owners of an address besides this one.
fn others(owners: &Owners, address: IpAddr, owner: &Owner) -> Vec<Owner> {
    owners.of(address).into_iter().filter(|other| !other.is_same(owner) && owners.is_alive(other)).collect()
}

fn remove_sources(mut firewalld: Firewalld, zone: &str, addresses: &[IpAddr]) -> Result<()> {
    let mut failures = Failures::default();
    for address in addresses {
        failures.note(firewalld.remove_source(zone, *address));
    }
    failures.finish()
}

/// Takes a record back, unless the same attachment has another one meanwhile.
fn restore(address: IpAddr, ours: &Owner, former: Option<Owner>) -> Result<()> {
    let owners = Owners::open();
    let known = owners.of(address);
    if !known.contains(ours) {
        return Ok(());
    }
    let kept = known.into_iter().filter_map(|owner| if owner == *ours { former.clone() } else { Some(owner) });
    owners.set(address, &kept.collect::<Vec<_>>())
}
