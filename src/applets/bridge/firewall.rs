//! What the configuration wants of the firewall, in each verb: masquerading and the spoof check.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::result::Interface;
use crate::cni::{CniResult, NetworkConfig, Request, Undo};
use crate::error::{Context, Error, Failures, Result, code};
use crate::firewall::Session;
use crate::firewall::flavour::Flavour;
use crate::firewall::masquerade::{self, Manner, Masquerade};
use crate::firewall::spoof_check::SpoofCheck;
use crate::ipam::detach::Attachment;
use crate::net::{Handle, Mac};

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wishes {
    /// `ipMasq`, in a network with addresses.
    pub(super) masquerade: bool,
    /// `macspoofchk`
    pub(super) spoof_check: bool,
}

impl Wishes {
    pub(super) fn of(config: &NetworkConfig) -> Result<Self> {
        let top = config.top();
        let masquerade = top.boolean("ipMasq")? && !config.ipam_type()?.is_empty();
        Ok(Wishes { masquerade, spoof_check: top.boolean("macspoofchk")? })
    }

    /// Refuses what ADD could not do, before it does anything.
    pub(super) fn validate(self, request: &Request<'_>) -> Result<Manner> {
        if self.spoof_check {
            spoof_check(request).validate()?;
        }
        let top = request.config.top();
        let name = top.string("ipMasqBackend").context("failed to load netconf")?;
        let is_wanted = self.masquerade && top.get("ipMasqBackend").is_some();
        let variable = |name| request.host.variable(name);
        Manner::parse(is_wanted.then_some(name), &variable("CNI_BOX_IPTABLES"), variable("PATH"))
    }

    /// CHECK: the rules are in place, in whatever backend. `port` is the host's end of the pair, `container` the other one
    /// with the hardware address that it has.
    pub(super) fn verify(
        self,
        request: &Request<'_>,
        previous: &CniResult,
        port: &str,
        container: (&Interface, &Mac),
    ) -> Result<()> {
        let (container, mac) = container;
        let mut session = Session::default();
        if self.spoof_check {
            spoof_check(request).verify(&mut session, port, ethernet(mac)?)?;
        }
        if !self.masquerade {
            return Ok(());
        }
        let mine = previous.ips.iter().filter(|ip| previous.interface_of(ip).is_none_or(|found| found == container));
        let addresses: Vec<IpNet> = mine.map(|ip| ip.address).collect();
        whose(request).verify(&mut session, &addresses, flavour_if_valid(request))
    }

    /// GC: rules of attachments that are not valid any more.
    pub(super) fn collect_garbage(self, request: &Request<'_>) -> Result<()> {
        let mut session = Session::default();
        let mut failures = Failures::default();
        if self.spoof_check {
            failures.note(collect_spoof_checks(&mut session));
        }
        if self.masquerade
            && let Some(valid) = request.config.valid_attachments()?
        {
            let flavour = flavour_if_valid(request);
            failures.note(masquerade::gc(&mut session, &request.config.name, &valid, flavour));
        }
        failures.finish()
    }

    /// STATUS: the kernel would take the rules.
    pub(super) fn probe(self, request: &Request<'_>) -> Result<()> {
        let manner = self.validate(request)?;
        let mut session = Session::default();
        let mut failures = Failures::default();
        if self.spoof_check {
            failures.note(SpoofCheck::probe(&mut session));
        }
        if self.masquerade {
            failures.note(manner.probe(&mut session));
        }
        failures.finish().map_err(|error| Error::new(code::NOT_AVAILABLE, error.to_string()))
    }
}

/// Masquerades an attachment's addresses.
pub(super) fn begin_masquerade(
    session: &mut Session,
    manner: &Manner,
    request: &Request<'_>,
    addresses: &[IpNet],
    undo: &mut Undo,
) -> Result<()> {
    let added = manner.add(session, &whose(request), addresses)?;
    undo.push(move || added.undo(&mut Session::default()));
    Ok(())
}

/// Lets the container send with its own hardware address only.
pub(super) fn begin_spoof_check(
    session: &mut Session,
    request: &Request<'_>,
    port: &str,
    mac: &Mac,
    undo: &mut Undo,
) -> Result<()> {
    let check = spoof_check(request);
    check.add(session, port, ethernet(mac)?)?;
    undo.push(move || check.del(&mut Session::default()));
    Ok(())
}

/// Ends masquerading, in both backends. Addresses that cannot be found out keep only rules of iptables from being removed.
pub(super) fn end_masquerade(request: &Request<'_>, attachment: &mut Attachment, session: &mut Session) -> Result<()> {
    let mut failures = Failures::default();
    let addresses: Option<Vec<IpAddr>> = failures.note(attachment.addresses(request)).unwrap_or(Some(Vec::new()));
    failures.note(whose(request).del(session, addresses.as_deref(), flavour_if_valid(request)));
    failures.finish()
}

/// The spoof check of this attachment.
pub(super) fn spoof_check(request: &Request<'_>) -> SpoofCheck {
    SpoofCheck::of(&request.container_id, &request.ifname)
}

fn collect_spoof_checks(session: &mut Session) -> Result<()> {
    let mut host = Handle::current()?;
    SpoofCheck::gc(session, |link| Ok(host.find_link(link)?.is_some()))
}

fn whose<'r>(request: &'r Request<'_>) -> Masquerade<'r> {
    Masquerade { network: &request.config.name, container: &request.container_id, ifname: &request.ifname }
}

fn flavour_if_valid(request: &Request<'_>) -> Option<Flavour> {
    Flavour::forced_if_valid(&request.host.variable("CNI_BOX_IPTABLES"))
}

fn ethernet(mac: &Mac) -> Result<[u8; 6]> {
    let wrong = || Error::internal(format!("failed to setup spoof-check: {mac} is no Ethernet address"));
    mac.bytes().try_into().map_err(|_| wrong())
}
