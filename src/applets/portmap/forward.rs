//! Making the rules of an attachment, and checking them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::{Request, Undo};
use crate::error::{Context, Errno, Error, Result};
use crate::firewall::flavour::{Flavour, Preference, choose};
use crate::firewall::place::View;
use crate::firewall::records::Records;
use crate::firewall::{Edit, Family, Place, Session, Table};

use super::conf::{self, Backend, Conf};
use super::iptables::Whose;
use super::localnet::Localnet;
use super::{DIRECTORY, interfaces, iptables, iptables_place, nftables};

/// What the kernel says of an extension or a subsystem that it does not have.
const LACKS: [Errno; 4] = [Errno::ENOENT, Errno::EOPNOTSUPP, Errno::EPROTONOSUPPORT, Errno::ENOPROTOOPT];

/// One call's work on an attachment's rules.
pub(super) struct Forwarding<'a> {
    request: &'a Request<'a>,
    conf: &'a Conf,
    forced: Option<Flavour>,
    session: Session,
    records: Records,
    /// Where rules go, as soon as that is known.
    kind: Option<Kind>,
    /// Which rules in the container's chain are the attachment's.
    whose: Whose,
}

/// Where rules go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// iptables' table `nat` of this flavour.
    Iptables(Flavour),
    /// Our own tables.
    Nftables,
}

impl<'a> Forwarding<'a> {
    /// For CHECK, which takes no lock.
    pub(super) fn to_check(request: &'a Request<'a>, conf: &'a Conf, forced: Option<Flavour>) -> Self {
        Forwarding::with(request, conf, forced, Records::unlocked(DIRECTORY))
    }

    /// For ADD, which holds the lock of the records until this is dropped.
    pub(super) fn to_add(request: &'a Request<'a>, conf: &'a Conf, forced: Option<Flavour>) -> Result<Self> {
        Ok(Forwarding::with(request, conf, forced, Records::create(DIRECTORY)?))
    }

    fn with(request: &'a Request<'a>, conf: &'a Conf, forced: Option<Flavour>, records: Records) -> Self {
        let (session, whose) = (Session::default(), Whose::default());
        Forwarding { request, conf, forced, session, records, kind: None, whose }
    }

    /// Makes the rules for all addresses.
    pub(super) fn add_all(&mut self, addresses: &[(Family, IpNet)], undo: &mut Undo) -> Result<()> {
        let bare: Vec<IpAddr> = addresses.iter().map(|(_, address)| address.addr()).collect();
        self.whose = interfaces::claim(&self.records, self.request, &bare, undo)?;
        for (family, address) in addresses {
            self.add(*address, undo)?;
            // As in the reference, flows that cannot be forgotten do not fail an ADD whose rules
            // are in force.
            let _ = super::forget(*family, &conf::udp_destinations(&self.conf.mappings, *family));
        }
        interfaces::settle(&self.records, self.request, &bare)
    }

    /// Makes the rules of one family, in one step.
    fn add(&mut self, address: IpNet, undo: &mut Undo) -> Result<()> {
        let is_localnet = self.conf.needs_localnet(Family::of(&address));
        if is_localnet {
            let forced = self.forced;
            undo.push(move || {
                let (mut session, records) = (Session::default(), Records::open(DIRECTORY));
                Localnet::new(&mut session, &records, forced)?.release(&[]).context("failed to undo route_localnet")
            });
        }
        match self.kind()? {
            Kind::Nftables => self.add_nftables(address, undo),
            Kind::Iptables(flavour) => match self.add_iptables(flavour, address, undo) {
                Err(error) if self.may_change_backend(&error)? => {
                    self.kind = Some(Kind::Nftables);
                    self.add_nftables(address, undo)
                }
                done => done,
            },
        }?;
        match is_localnet {
            true => self.allow_localnet(address.addr()),
            false => Ok(()),
        }
    }

    /// Lets 127.0.0.1 be a client of the mapped ports.
    fn allow_localnet(&mut self, container: IpAddr) -> Result<()> {
        let kind = self.kind()?;
        Localnet::new(&mut self.session, &self.records, self.forced)?.allow(kind, container)
    }

    /// Fails when something that ADD makes is missing. Where nothing is configured, the rules may be anywhere.
    pub(super) fn check(&mut self, address: IpNet) -> Result<()> {
        let family = Family::of(&address);
        let container = iptables::chain_name(&self.request.config.name, &self.request.container_id);
        let places = match self.conf.backend {
            Some(Backend::Nftables) => Vec::new(),
            _ => self.session.places_of_chain(family, Table::Nat, &container, self.forced)?,
        };
        match (places.first(), self.conf.backend) {
            (Some(place), _) => self.check_iptables(*place, address),
            (None, Some(Backend::Iptables)) => Err(no_chain(&container)).context(could_not_check(family)),
            (None, Some(Backend::Nftables)) => self.check_nftables(address),
            (None, None) => match self.has_native_rules(family)? {
                true => self.check_nftables(address),
                false => Err(no_chain(&container)).context(could_not_check(family)),
            },
        }?;
        self.check_localnet(address)
    }

    fn check_localnet(&mut self, address: IpNet) -> Result<()> {
        match self.conf.needs_localnet(Family::of(&address)) {
            true => Localnet::new(&mut self.session, &self.records, self.forced)?.check(address.addr()),
            false => Ok(()),
        }
    }

    fn check_iptables(&mut self, place: Place, address: IpNet) -> Result<()> {
        let rules = self.iptables_rules(address);
        self.session.look(place, |view| Ok(rules.check(view)))?.context(could_not_check(Family::of(&address)))
    }

    fn check_nftables(&mut self, address: IpNet) -> Result<()> {
        let rules = self.nftables_rules(address);
        self.session.look(nftables::place(Family::of(&address)), |view| Ok(rules.check(view)))?
    }

    fn has_native_rules(&mut self, family: Family) -> Result<bool> {
        Ok(self.session.has_nftables()? && self.session.look(nftables::place(family), nftables::has_rules)?)
    }

    fn kind(&mut self) -> Result<Kind> {
        if let Some(kind) = self.kind {
            return Ok(kind);
        }
        let kind = match self.conf.backend {
            Some(Backend::Nftables) => Kind::Nftables,
            _ => {
                let path = self.request.host.variable("PATH");
                let preference = Preference { forced: self.forced, path: &path };
                Kind::Iptables(choose(&mut self.session, &preference).context("failed to open iptables")?)
            }
        };
        self.kind = Some(kind);
        Ok(kind)
    }

    /// The kernel cannot do iptables, as far as anybody knows by now, and nobody demands it.
    fn may_change_backend(&mut self, error: &Error) -> Result<bool> {
        Ok(is_lacking(error) && self.conf.backend.is_none() && self.forced.is_none() && self.session.has_nftables()?)
    }

    fn add_iptables(&mut self, flavour: Flavour, address: IpNet, undo: &mut Undo) -> Result<()> {
        let place = iptables_place(flavour, Family::of(&address));
        let rules = self.iptables_rules(address);
        let added = self.session.edit(place, |view| rules.plan(view));
        let added = added.with_context(|| format!("unable to setup DNAT to {}", address.addr()))?;
        push_reversal(undo, place, move |view| added.reversal(view));
        Ok(())
    }

    fn add_nftables(&mut self, address: IpNet, undo: &mut Undo) -> Result<()> {
        let place = nftables::place(Family::of(&address));
        let rules = self.nftables_rules(address);
        let added = self.session.edit(place, |view| rules.plan(view));
        let words = || format!("unable to set up nftables rules for port mappings to {}", address.addr());
        let added = added.with_context(words)?;
        push_reversal(undo, place, move |view| added.reversal(view));
        Ok(())
    }

    fn iptables_rules(&self, address: IpNet) -> iptables::Rules {
        let (network, container) = (&self.request.config.name, &self.request.container_id);
        iptables::Rules::new(network, container, self.conf, address, self.whose.clone())
    }

    fn nftables_rules(&self, address: IpNet) -> nftables::Rules {
        nftables::Rules::new(super::owner(self.request), self.conf, address)
    }
}

/// The kernel has no such table, extension or subsystem.
pub(super) fn is_lacking(error: &Error) -> bool {
    LACKS.into_iter().any(|errno| error.is(errno))
}

fn push_reversal(undo: &mut Undo, place: Place, reversal: impl Fn(&mut dyn View) -> Result<Vec<Edit>> + 'static) {
    undo.push(move || {
        let undone = Session::default().edit(place, |view| Ok((reversal(view)?, ())));
        undone.context("failed to undo port mappings")
    });
}

fn could_not_check(family: Family) -> &'static str {
    match family {
        Family::V4 => "could not check ipv4 dnat",
        Family::V6 => "could not check ipv6 dnat",
    }
}

fn no_chain(name: &str) -> Error {
    Error::internal(format!("chain {name} not found in iptables table nat"))
}
