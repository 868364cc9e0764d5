//! DEL: giving the device back, wherever it is by now.

use super::Conf;
use crate::cni::Request;
use crate::error::{Error, Result};
use crate::net::moving::{self, Inside};
use crate::net::{Handle, Link, Netns};

/// Moves the device out of the container. Nothing to move is a success: then it may have come back by itself.
pub(super) fn give_back(conf: &Conf, request: &Request<'_>) -> Result<()> {
    let Some(container) = Netns::open_if_left(&request.netns)? else { return rename_returned(conf, request) };
    let mut inside = Inside::of(&container)?;
    match inside.handle.find_link(&request.ifname)? {
        None => rename_returned(conf, request),
        Some(link) if link.alias.is_empty() => {
            let name = &link.name;
            let msg = format!("failed to find original ifname for {name:?} (alias is not set)");
            Err(Error::internal(msg).with_details(format!("ip link set {name} alias NAME in the container names it")))
        }
        Some(link) => moving::give_back(&mut Handle::current()?, &link, &mut inside, &link.alias, ""),
    }
}

/// When a namespace ends the kernel gives its physical devices to the host: down, with their aliases, and with the names
/// that they had in the container. Gives such a device its name back, unless somebody else has it.
fn rename_returned(conf: &Conf, request: &Request<'_>) -> Result<()> {
    let device = &conf.selector.device;
    let mut host = Handle::current()?;
    if !device.is_empty() && host.find_link(device)?.is_some_and(|link| link.name == *device) {
        return Ok(());
    }
    match find_returned(&mut host, device, request)? {
        Some(link) if host.find_link(&link.alias)?.is_none() => moving::rename(&mut host, link.index, &link.alias),
        _ => Ok(()),
    }
}

/// The returned device, known by its alias or by the hardware address in prevResult.
fn find_returned(host: &mut Handle, device: &str, request: &Request<'_>) -> Result<Option<Link>> {
    let previous = request.config.prev_result().ok().flatten().unwrap_or_default();
    let macs = previous.interfaces.iter().filter(|interface| interface.name == request.ifname);
    let macs: Vec<&str> = macs.map(|interface| interface.mac.as_str()).filter(|mac| !mac.is_empty()).collect();
    if device.is_empty() && macs.is_empty() {
        return Ok(None);
    }
    let known = |link: &Link| link.alias == device || macs.contains(&link.mac.to_string().as_str());
    let mine = |link: &Link| known(link) && is_returned(link, &request.ifname);
    match host.find_link(&request.ifname)?.filter(mine) {
        Some(link) => Ok(Some(link)),
        None => Ok(host.all_links()?.into_iter().find(mine)),
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
