//! DEL and GC. Both carry on past failures and report them together.

use super::ifb::{self, PREFIX};
use super::indices_of;
use crate::cni::Request;
use crate::error::{Context, Errno, Failures, Result};
use crate::ipam::own_link::{Evidence, Own};
use crate::net::traffic::Root;
use crate::net::{Handle, Link, Netns, SharedLinks, veth};

/// The id of a namespace that is ending, as links whose other end is there tell it (`NETNSA_NSID_NOT_ASSIGNED`).
const ENDING: u32 = u32::MAX;

/// Ends what ADD began, whatever is left of it and whatever the configuration says by now.
pub(super) fn del(request: &Request<'_>) -> Result<()> {
    let mut host = Handle::current()?;
    let mut failures = Failures::default();
    let container = failures.note(Netns::open_if_left(&request.netns));
    let ends = failures.note(host_ends(&mut host, request, container.flatten())).unwrap_or_default();
    let [plain, further] = ifb::names_for(request);
    let mut found = failures.note(ifb::find(&mut host, &further)).flatten();
    // It is the first interface's. An interface with an ifb of its own has no part in it.
    if found.is_none() {
        let plain = failures.note(ifb::find(&mut host, &plain)).flatten();
        found = plain.filter(|plain| failures.note(is_free(&mut host, plain, &ends)).unwrap_or(false));
    }
    let mut is_used = false;
    // The filter goes before its target: what comes from the container would be dropped meanwhile, and for ever if the filter
    // stayed.
    for end in &ends {
        match unshape(&mut host, end, found.as_ref()) {
            // Its namespace goes at this moment, and takes it along.
            Err(error) if error.is(Errno::ENODEV) => {}
            unshaped => is_used |= failures.note(unshaped).is_none(),
        }
    }
    if let Some(ifb) = found.filter(|_| !is_used) {
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

/// The host's ends that are left: the one that ADD has made, as the record and prevResult tell, otherwise the peer of the
/// container's interface. udev may give the host's end another name and hardware address after ADD.
fn host_ends(host: &mut Handle, request: &Request<'_>, container: Option<Netns>) -> Result<Vec<Link>> {
    let evidence = Evidence::of(request)?;
    if evidence.has_host_end() {
        let end = match (evidence.host_end(), container) {
            (None, Some(container)) => renamed_end(host, request, &evidence, &container)?,
            (end, _) => end.cloned(),
        };
        return Ok(end.into_iter().collect());
    }
    let previous = request.config.prev_result().ok().flatten().unwrap_or_default();
    let told: Vec<_> = previous.interfaces.iter().filter(|told| told.sandbox.is_empty()).collect();
    if let Some(container) = container {
        let named = Handle::inside(&container)?.find_link(&request.ifname)?;
        let Some((index, peer)) = named.as_ref().and_then(indices_of) else { return Ok(Vec::new()) };
        let is_told = |link: &Link| told.is_empty() || told.iter().any(|told| told.name == link.name);
        let is_end = |link: &Link| link.kind == "veth" && link.lower == Some(index) && is_told(link);
        return Ok(host.find_link_at(peer)?.filter(is_end).into_iter().collect());
    }
    let mut ends = Vec::new();
    for told in told {
        let link = host.find_link(&told.name)?;
        ends.extend(link.filter(|link| link.kind == "veth" && (told.mac.is_empty() || link.mac.is_written(&told.mac))));
    }
    Ok(ends)
}

/// The host's end under another name or with another hardware address: the peer of the interface that ADD has made, or
/// of the one with its name, if that sends to this attachment's ifb.
fn renamed_end(
    host: &mut Handle,
    request: &Request<'_>,
    evidence: &Evidence,
    container: &Netns,
) -> Result<Option<Link>> {
    let mut inside = Handle::inside(container)?;
    let (own, is_own) = match evidence.find(container, &mut inside, &request.ifname)? {
        Own::Link(link) => (Some(link), true),
        _ => (inside.find_link(&request.ifname)?, false),
    };
    let Some(own) = own.filter(|own| own.kind == veth::KIND) else { return Ok(None) };
    // A pair within the container may have the numbers of another container's.
    let Some(peer) = inside.lower_at_home(&own)? else { return Ok(None) };
    let is_end = |link: &Link| link.kind == veth::KIND && link.lower == Some(own.index);
    match host.find_link_at(peer)?.filter(is_end) {
        Some(end) if is_own || ifb::of(host, request, end.index)?.is_some() => Ok(Some(end)),
        _ => Ok(None),
    }
}

/// No links but these send anything to the ifb. A link whose other end's namespace is ending does not count.
fn is_free(host: &mut Handle, ifb: &Link, ends: &[Link]) -> Result<bool> {
    for end in ends {
        if host.redirects(end.index)?.iter().any(|redirect| redirect.target == ifb.index) {
            return Ok(true);
        }
    }
    for (link, _) in ifb::redirections(host)?.into_iter().filter(|(_, target)| *target == ifb.index) {
        if host.find_link_at(link)?.is_some_and(|link| link.lower_netns != Some(ENDING)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sends nothing from a link to an ifb any more, nor to devices that are gone. The qdisc goes if it was made for that and no
/// other program uses it; also if an ADD or DEL was killed that had made the ifb.
pub(super) fn unredirect(host: &mut Handle, link: u32, ifb: Option<u32>) -> Result<()> {
    let mut filters = host.redirects(link)?;
    filters.retain(|filter| filter.target == 0 || Some(filter.target) == ifb);
    for filter in &filters {
        host.delete_redirect(link, *filter).context("failed to delete a filter")?;
    }
    let is_unfinished = ifb.is_some() && filters.is_empty();
    match is_unfinished || filters.iter().any(|filter| filter.made_qdisc) {
        true => host.delete_empty_ingress(link).context("failed to delete an ingress qdisc"),
        false => Ok(()),
    }
}

/// Removes the filters of a link that lead to another.
pub(super) fn remove_filters(host: &mut Handle, link: u32, target: u32) -> Result<()> {
    for filter in host.redirects(link)?.iter().filter(|filter| filter.target == target) {
        host.delete_redirect(link, *filter).context("failed to delete a filter")?;
    }
    Ok(())
}

/// Takes our limits from a link that stays.
fn unshape(host: &mut Handle, end: &Link, ifb: Option<&Link>) -> Result<()> {
    let name = &end.name;
    unredirect(host, end.index, ifb.map(|ifb| ifb.index)).with_context(|| format!("{name:?}"))?;
    match host.root_qdisc(end.index)? {
        Root::Tbf(_) | Root::Htb(_) => {
            host.delete_root(end.index).with_context(|| format!("failed to delete the root qdisc of {name:?}"))
        }
        Root::Default | Root::Foreign => Ok(()),
    }
}
