//! Making the rules of an attachment, and checking them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::{Request, Undo};
use crate::error::{Context, Errno, Error, Result};
use crate::firewall::flavour::{Flavour, Preference, choose};
use crate::firewall::place::View;
use crate::firewall::{Edit, Family, Place, Session, Table};
use crate::net::Handle;

use super::conf::{Backend, Conf};
use super::{iptables, iptables_place, localnet, nftables};

/// What the kernel says of an extension or a subsystem that it does not have.
const LACKS: [Errno; 4] = [Errno::ENOENT, Errno::EOPNOTSUPP, Errno::EPROTONOSUPPORT, Errno::ENOPROTOOPT];

/// One call's work on an attachment's rules.
pub(super) struct Forwarding<'a> {
    request: &'a Request<'a>,
    conf: &'a Conf,
    forced: Option<Flavour>,
    session: Session,
    /// Where rules go, as soon as that is known.
    kind: Option<Kind>,
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
    pub(super) fn new(request: &'a Request<'a>, conf: &'a Conf, forced: Option<Flavour>) -> Self {
        Forwarding { request, conf, forced, session: Session::default(), kind: None }
    }

    /// Makes the rules of one family, in one step.
    pub(super) fn add(&mut self, address: IpNet, undo: &mut Undo) -> Result<()> {
        match self.kind()? {
            Kind::Nftables => self.add_nftables(address, undo),
            Kind::Iptables(flavour) => match self.add_iptables(flavour, address, undo) {
                Err(error) if self.may_change_backend(&error)? => {
                    self.kind = Some(Kind::Nftables);
                    self.add_nftables(address, undo)
                }
                done => done,
            },
        }
    }

    /// Lets 127.0.0.1 be a client of the mapped ports, once foreign packets to it are dropped.
    pub(super) fn allow_localnet(&mut self, container: IpAddr) -> Result<()> {
        if let Kind::Iptables(flavour) = self.kind()? {
            let guarded = localnet::guard(&mut self.session, flavour);
            guarded.context("unable to keep foreign packets from 127.0.0.0/8")?;
        }
        localnet::enable(&mut Handle::current()?, container)
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
        let concerned = self.conf.snat && address.addr().is_ipv4();
        if concerned && !localnet::is_enabled(&mut Handle::current()?, address.addr())? {
            let msg = format!("route_localnet is not set on the link to {}", address.addr());
            return Err(Error::internal(msg));
        }
        Ok(())
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
        let unfit = LACKS.into_iter().any(|errno| error.is(errno));
        Ok(unfit && self.conf.backend.is_none() && self.forced.is_none() && self.session.has_nftables()?)
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
        iptables::Rules::new(&self.request.config.name, &self.request.container_id, self.conf, address)
    }

    fn nftables_rules(&self, address: IpNet) -> nftables::Rules {
        nftables::Rules::new(super::owner(self.request), self.conf, address)
    }
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
