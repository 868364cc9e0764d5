//! What the configuration wants of the firewall, in each verb: masquerading and the spoof check.

use ipnet::IpNet;

use crate::cni::result::Interface;
use crate::cni::{CniResult, NetworkConfig, Request, Undo};
use crate::error::{Error, Failures, Result, code};
use crate::firewall::Session;
use crate::firewall::masquerade::Manner;
use crate::firewall::spoof_check::SpoofCheck;
use crate::ip_masq;
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

    /// Refuses what ADD could not do, before it does anything, and gives how to masquerade, if that is wanted.
    pub(super) fn validate(self, request: &Request<'_>) -> Result<Option<Manner>> {
        if self.spoof_check {
            spoof_check(request).validate()?;
        }
        ip_masq::manner(request, self.masquerade)
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
        ip_masq::verify(&mut session, request, &addresses)
    }

    /// GC: rules of attachments that are not valid any more.
    pub(super) fn collect_garbage(self, request: &Request<'_>) -> Result<()> {
        let mut session = Session::default();
        let mut failures = Failures::default();
        if self.spoof_check {
            failures.note(collect_spoof_checks(&mut session));
        }
        if self.masquerade {
            failures.note(ip_masq::collect_garbage(&mut session, request));
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
        if let Some(manner) = manner {
            failures.note(manner.probe(&mut session));
        }
        failures.finish().map_err(|error| Error::new(code::NOT_AVAILABLE, error.to_string()))
    }
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

/// The spoof check of this attachment.
pub(super) fn spoof_check(request: &Request<'_>) -> SpoofCheck {
    SpoofCheck::of(&request.container_id, &request.ifname)
}

fn collect_spoof_checks(session: &mut Session) -> Result<()> {
    let mut host = Handle::current()?;
    SpoofCheck::gc(session, |link| Ok(host.find_link(link)?.is_some()))
}

fn ethernet(mac: &Mac) -> Result<[u8; 6]> {
    let wrong = || Error::internal(format!("failed to setup spoof-check: {mac} is no Ethernet address"));
    mac.bytes().try_into().map_err(|_| wrong())
}
