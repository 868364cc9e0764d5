//! DEL and GC. Both carry on past failures and report them together.

use super::ifb::{self, PREFIX};
use super::peer_of;
use crate::cni::Request;
use crate::error::{Context, Errno, Failures, Result};
use crate::net::traffic::Root;
use crate::net::{Handle, Link, Netns, SharedLinks};

/// Ends what ADD began, whatever is left of it and whatever the configuration says by now.
pub(super) fn del(request: &Request<'_>) -> Result<()> {
    let mut host = Handle::current()?;
    let mut failures = Failures::default();
    let container = failures.note(Netns::open_if_left(&request.netns));
    let is_gone = matches!(container, Some(None));
    let ends = failures.note(host_ends(&mut host, request, container.flatten())).unwrap_or_default();
    let [plain, further] = ifb::names_for(request);
    let mut found = Vec::new();
    found.extend(failures.note(ifb::find(&mut host, &further)).flatten());
    // It is the first interface's. Who has one of its own has no part in it. Without a namespace nobody has, even if the
    // kernel has not come to taking down the host's end, of which we need not know.
    if found.is_empty() {
        let plain = failures.note(ifb::find(&mut host, &plain)).flatten();
        found.extend(plain.filter(|plain| is_gone || failures.note(is_free(&mut host, plain, &ends)).unwrap_or(false)));
    }
    // The filter goes before its target: what comes from the container would be dropped meanwhile.
    for end in &ends {
        match unshape(&mut host, end) {
            // Its namespace goes at this moment, and takes it along.
            Err(error) if error.is(Errno::ENODEV) => {}
            unshaped => drop(failures.note(unshaped)),
        }
    }
    for ifb in found {
        failures.note(host.delete_link(ifb.index).with_context(|| format!("failed to delete link {:?}", ifb.name)));
    }
    failures.finish()
}

/// Removes the ifbs that nobody sends anything to and that are of no valid attachment. Nothing tells of which network an
/// ifb was, but one that is in use is left alone.
pub(super) fn gc(request: &Request<'_>) -> Result<()> {
    let valid = request.config.valid_attachments().context("failed to load netconf")?;
    let Some(valid) = valid else { return Ok(()) };
    let valid: Vec<[String; 2]> =
        valid.iter().map(|(id, ifname)| ifb::names(&request.config.name, id, ifname)).collect();
    let shared = SharedLinks::ifbs();
    // An ADD may have made its ifb and not yet the filter. Whoever takes longer than we wait is met by the next GC.
    if !shared.hold_alone() {
        return Ok(());
    }
    let mut host = Handle::current()?;
    let is_orphan = |link: &Link| {
        let is_valid = valid.iter().any(|names| names.contains(&link.name));
        link.kind == "ifb" && link.name.starts_with(PREFIX) && !is_valid
    };
    let mut orphans: Vec<Link> = host.all_links()?.into_iter().filter(is_orphan).collect();
    if !orphans.is_empty() {
        let used = ifb::redirections(&mut host)?;
        orphans.retain(|ifb| !used.iter().any(|(_, target)| *target == ifb.index));
    }
    let mut failures = Failures::default();
    for ifb in orphans {
        failures.note(host.delete_link(ifb.index).with_context(|| format!("failed to delete link {:?}", ifb.name)));
    }
    failures.finish()
}

/// The host's ends that are left: the peer of the container's interface, or what prevResult says.
fn host_ends(host: &mut Handle, request: &Request<'_>, container: Option<Netns>) -> Result<Vec<Link>> {
    if let Some(container) = container {
        let Ok((index, peer)) = peer_of(&container, &request.ifname) else { return Ok(Vec::new()) };
        let link = host.find_link_at(peer)?;
        return Ok(link.filter(|link| link.kind == "veth" && link.lower == Some(index)).into_iter().collect());
    }
    let Ok(Some(previous)) = request.config.prev_result() else { return Ok(Vec::new()) };
    let mut ends = Vec::new();
    for told in previous.interfaces.iter().filter(|told| told.sandbox.is_empty()) {
        let link = host.find_link(&told.name)?;
        ends.extend(
            link.filter(|link| link.kind == "veth" && (told.mac.is_empty() || told.mac == link.mac.to_string())),
        );
    }
    Ok(ends)
}

/// Nobody but these links sends anything to the ifb.
fn is_free(host: &mut Handle, ifb: &Link, ends: &[Link]) -> Result<bool> {
    for end in ends {
        if host.redirects(end.index)?.iter().any(|redirect| redirect.target == ifb.index) {
            return Ok(true);
        }
    }
    Ok(!ifb::redirections(host)?.iter().any(|(_, target)| *target == ifb.index))
}

/// Sends nothing from a link to an ifb any more. The ingress qdisc stays if somebody else uses it.
pub(super) fn release(host: &mut Handle, end: &Link, ifb: u32) -> Result<()> {
    match host.has_own_ingress(end.index)? {
        true => delete_ingress(host, end),
        false => unredirect(host, end.index, ifb),
    }
}

/// Removes the filters of a link that lead to another.
pub(super) fn unredirect(host: &mut Handle, link: u32, target: u32) -> Result<()> {
    for filter in host.redirects(link)?.iter().filter(|filter| filter.target == target) {
        host.delete_redirect(link, *filter).context("failed to delete a filter")?;
    }
    Ok(())
}

fn delete_ingress(host: &mut Handle, end: &Link) -> Result<()> {
    host.delete_ingress(end.index).with_context(|| format!("failed to delete the ingress qdisc of {:?}", end.name))
}

/// Takes our limits from a link that stays.
fn unshape(host: &mut Handle, end: &Link) -> Result<()> {
    let name = &end.name;
    if host.has_own_ingress(end.index)? {
        delete_ingress(host, end)?;
    }
    match host.root_qdisc(end.index)? {
        Root::Tbf(_) | Root::Htb(_) => {
            host.delete_root(end.index).with_context(|| format!("failed to delete the root qdisc of {name:?}"))
        }
        Root::Default | Root::Foreign => Ok(()),
    }
}
