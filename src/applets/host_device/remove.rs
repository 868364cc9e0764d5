//! DEL: giving the device back, wherever it is by now.

use super::Conf;
use crate::cni::Request;
use crate::error::{Error, Result};
use crate::ipam::own_link::{Evidence, Own};
use crate::net::moving::{self, Side};
use crate::net::{Handle, Link, Netns};

/// Moves the device out of the container. Nothing to move is a success: then it may have come back by itself.
pub(super) fn give_back(conf: &Conf<'_>, request: &Request<'_>) -> Result<()> {
    let mut host = Side::host()?;
    let Some(container) = Netns::open_if_left(&request.netns)? else {
        return rename_returned(conf.selector.device, request, &mut host.handle);
    };
    let mut inside = Side::of(&container)?;
    match Evidence::of(request)?.find(&container, &mut inside.handle, &request.ifname)? {
        Own::Missing | Own::Elsewhere => rename_returned(conf.selector.device, request, &mut host.handle),
        Own::Link(link) if link.alias.is_empty() => {
            let name = &link.name;
            let msg = format!("failed to find original ifname for {name:?} (alias is not set)");
            Err(Error::internal(msg).with_details(format!("ip link set {name} alias NAME in the container names it")))
        }
        Own::Link(link) => moving::give_back(&mut inside, &link, &mut host, &link.alias, ""),
    }
}

/// When a namespace ends the kernel gives its physical devices to the host: down, with their aliases, and with the names
/// that they had in the container. Gives such a device its name back, unless somebody else has it.
fn rename_returned(device: &str, request: &Request<'_>, host: &mut Handle) -> Result<()> {
    if !device.is_empty() && host.find_link(device)?.is_some_and(|link| link.name == device) {
        return Ok(());
    }
    let previous = request.config.prev_result().ok().flatten().unwrap_or_default();
    let listed = previous.interfaces.iter().find(|interface| interface.name == request.ifname);
    let mac = listed.map(|interface| interface.mac.as_str()).filter(|mac| !mac.is_empty());
    let known = |link: &Link| link.alias == device || mac.is_some_and(|mac| link.mac.to_string() == mac);
    let mine = |link: &Link| is_returned(link, &request.ifname) && known(link);
    match host.all_links()?.into_iter().find(mine) {
        Some(link) if host.find_link(&link.alias)?.is_none() => moving::rename(host, &link),
        _ => Ok(()),
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
