//! DEL: giving the device back, wherever it is by now. The record of ADD says which device that is, and its name on the host.
//! Without a record it is the link CNI_IFNAME, as in the reference, and the configuration says its name. A link that shows
//! signs of being another one stays, and DEL fails as the reference's, also when the container has renamed the device. The
//! alias, where the reference keeps the name, gives the device no name: the container's root can change it.

use super::Conf;
use crate::cni::Request;
use crate::error::{Error, Result};
use crate::ipam::own_card::OwnCard;
use crate::ipam::own_link::{Evidence, Own};
use crate::net::moving::{self, Side};
use crate::net::{Handle, Link, Netns};

/// The place of the device after a DEL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// On the host, under its name.
    Home,
    /// On the host, under another name: its own is taken, or the device is in use by now.
    Unnamed,
    /// It was found nowhere.
    Missing,
}

/// Moves the device out of the container. Nothing to move is a success: then it may have come back by itself. But a device without
/// a record that is not on the host either may still be in the container.
pub(super) fn give_back(conf: &Conf<'_>, request: &Request<'_>) -> Result<Outcome> {
    let mut host = Side::host()?;
    let evidence = Evidence::of(request)?;
    let mut card = evidence.card();
    let mut lost = None;
    let is_home = conf.selector.find(&mut host.handle).is_ok();
    if let Some(container) = Netns::open_if_left(&request.netns)? {
        let mut inside = Side::of(&container)?;
        let own = evidence.find(&container, &mut inside.handle, &request.ifname)?;
        card = card.filter(|card| own == Own::Elsewhere || card.was_moved_to(&container));
        let name = name_of(card, conf);
        match &own {
            Own::Link(link) if card.is_some() || may_be_device(&evidence, &mut inside.handle, link, name, is_home)? => {
                return move_home(&mut inside, link, &mut host, name, &request.ifname);
            }
            Own::Link(link) => lost = Some(unnamed(link)),
            Own::Missing if card.is_none() && may_be_inside(&evidence, &mut inside.handle, name)? => {
                lost = Some(Error::internal(format!("failed to find {:?} in containerNS", request.ifname)));
            }
            _ => {}
        }
        let moved_on = card.filter(|_| own == Own::Missing).map_or(Ok(None), OwnCard::find_elsewhere)?;
        if let Some((netns, link)) = moved_on {
            return move_home(&mut Side::of(&netns)?, &link, &mut host, name, &request.ifname);
        }
    }
    let outcome = rename_returned(card, name_of(card, conf), request, &mut host.handle)?;
    match lost {
        Some(error) if outcome == Outcome::Missing && !is_home => Err(error),
        _ => Ok(outcome),
    }
}

/// True for a link with the right name that may be the device of an attachment without a record: it has the hardware address
/// that prevResult tells of, or the alias that ADD has given it. Without prevResult an empty alias counts, too,
/// unless the device is on the host.
fn may_be_device(evidence: &Evidence, inside: &mut Handle, link: &Link, name: &str, is_home: bool) -> Result<bool> {
    if !name.is_empty() && link.alias == name {
        return Ok(true);
    }
    if let Some(is_told) = evidence.is_told_mac(&link.mac) {
        return Ok(is_told);
    }
    // An alternative name is in no alias.
    Ok(!is_home && (link.alias.is_empty() || name.is_empty() || !is_usable(inside, link, name)?))
}

/// True if the device of an attachment without a record may be in the container under another name: the attachment was made, or
/// a link has the alias that ADD gives.
fn may_be_inside(evidence: &Evidence, inside: &mut Handle, name: &str) -> Result<bool> {
    Ok(evidence.is_told() || !name.is_empty() && inside.all_links()?.iter().any(|link| link.alias == name))
}

/// The reference's words where the alias is empty.
fn unnamed(link: &Link) -> Error {
    let alias = if link.alias.is_empty() { "not set".to_string() } else { format!("{:?}", link.alias) };
    Error::internal(format!("failed to find original ifname for {:?} (alias is {alias})", link.name))
}

/// The device's name on the host; empty when it is not known.
fn name_of<'a>(card: Option<OwnCard<'a>>, conf: &Conf<'a>) -> &'a str {
    card.map_or(conf.selector.device, OwnCard::name)
}

/// Without a usable name the device gets one as from the kernel, when the container's namespace ends.
fn move_home(inside: &mut Side<'_>, link: &Link, host: &mut Side<'_>, name: &str, ifname: &str) -> Result<Outcome> {
    let fallback = format!("dev{}", link.index);
    let name = match is_usable(&mut inside.handle, link, name)? {
        true => name,
        false if host.handle.find_link(ifname)?.is_none() => ifname,
        false => &fallback,
    };
    moving::give_back(inside, link, host, name, "").map(|()| Outcome::Home)
}

/// False for an alternative name: the device has it in every namespace, and it cannot be the first one.
fn is_usable(inside: &mut Handle, link: &Link, name: &str) -> Result<bool> {
    if link.name == name || !moving::is_link_name(name) {
        return Ok(link.name == name);
    }
    Ok(inside.find_link(name)?.is_none_or(|found| found.index != link.index))
}

/// When a namespace ends the kernel gives its physical devices to the host: down, with their aliases, and with the names
/// that they had in the container. Gives such a device its name back, unless the name is taken.
fn rename_returned(card: Option<OwnCard<'_>>, name: &str, request: &Request<'_>, host: &mut Handle) -> Result<Outcome> {
    let taken = if name.is_empty() { None } else { host.find_link(name)? };
    let is_home = taken.as_ref().is_some_and(|link| card.is_none_or(|card| card.looks_like(link)));
    if name.is_empty() || is_home {
        return Ok(Outcome::Missing);
    }
    let previous = request.config.prev_result().ok().flatten().unwrap_or_default();
    let listed = previous.interfaces.iter().find(|interface| interface.name == request.ifname);
    let mac = listed.map(|interface| interface.mac.as_str()).filter(|mac| !mac.is_empty());
    let is_known = |link: &Link| link.alias == name || mac.is_some_and(|mac| link.mac.is_written(mac));
    let is_device = |link: &Link| match card {
        Some(card) => card.looks_like(link),
        None => is_returned(link, &request.ifname) && is_known(link),
    };
    match host.all_links()?.iter().find(|link| is_device(link)) {
        Some(link) if taken.is_some() || link.is_up() => Ok(Outcome::Unnamed),
        Some(link) => moving::rename(host, link, name).map(|()| Outcome::Home),
        None => Ok(Outcome::Missing),
    }
}

/// True for a link in the state that the kernel gives devices back in: with the container's name, or `devNUMBER` if that
/// was taken.
fn is_returned(link: &Link, ifname: &str) -> bool {
    let number = link.name.strip_prefix("dev").unwrap_or_default();
    let fallback = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    let renamed = link.name == ifname || fallback;
    renamed && !link.is_up() && link.alias != link.name && moving::is_link_name(&link.alias)
}
