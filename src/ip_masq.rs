//! `ipMasq`: masquerading as a configuration asks for it, in each verb of the plugins that have this key. Configurations and
//! the firewall meet here, which know nothing of each other.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::{CniResult, Request, Undo};
use crate::error::{Context, Failures, Result};
use crate::firewall::Session;
use crate::firewall::flavour::Flavour;
use crate::firewall::masquerade::{self, Manner, Masquerade};
use crate::ipam::detach::Attachment;

/// The variable that names the flavour of iptables.
const FLAVOUR: &str = "CNI_BOX_IPTABLES";

/// How to masquerade, if that is wanted; refuses what ADD could not do.
pub fn manner(request: &Request<'_>, is_wanted: bool) -> Result<Option<Manner>> {
    let top = request.config.top();
    let name = top.string("ipMasqBackend").context("failed to load netconf")?;
    let backend = top.get("ipMasqBackend").map(|_| name);
    let variable = |name| request.host.variable(name);
    is_wanted.then(|| Manner::parse(backend, &variable(FLAVOUR), variable("PATH"))).transpose()
}

/// ADD: masquerades the result's addresses.
pub fn begin(
    manner: &Manner,
    session: &mut Session,
    request: &Request<'_>,
    result: &CniResult,
    undo: &mut Undo,
) -> Result<()> {
    let addresses: Vec<IpNet> = result.ips.iter().map(|ip| ip.address).collect();
    let added = manner.add(session, &whose(request), &addresses)?;
    undo.push(move || added.undo(&mut Session::default()));
    Ok(())
}

/// CHECK: the rules for these addresses are in place, in whatever backend.
pub fn verify(session: &mut Session, request: &Request<'_>, addresses: &[IpNet]) -> Result<()> {
    whose(request).verify(session, addresses, flavour(request))
}

/// DEL, in both backends. Addresses that cannot be found out keep only rules of iptables from being removed.
pub fn end(session: &mut Session, request: &Request<'_>, attachment: &mut Attachment) -> Result<()> {
    let mut failures = Failures::default();
    let addresses: Option<Vec<IpAddr>> = failures.note(attachment.addresses(request)).unwrap_or(Some(Vec::new()));
    failures.note(whose(request).del(session, addresses.as_deref(), flavour(request)));
    failures.finish()
}

/// GC: removes the rules of attachments that are not valid any more.
pub fn collect_garbage(session: &mut Session, request: &Request<'_>) -> Result<()> {
    let Some(valid) = request.config.valid_attachments()? else { return Ok(()) };
    masquerade::gc(session, &request.config.name, &valid, flavour(request))
}

fn whose<'r>(request: &'r Request<'_>) -> Masquerade<'r> {
    Masquerade { network: &request.config.name, container: &request.container_id, ifname: &request.ifname }
}

/// For verbs that only look for rules.
fn flavour(request: &Request<'_>) -> Option<Flavour> {
    Flavour::forced_if_valid(&request.host.variable(FLAVOUR))
}
