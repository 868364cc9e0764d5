//! Moving a link to another namespace, where it gets another name, and back.
//!
//! The kernel does it all in one request: it moves the link, then renames it, then sets the alias. When somebody takes the
//! name in between, the link has been moved but not renamed; that is found out and taken back here. On the way back to the
//! host the link is renamed before it moves, so that udev sees one device appear, under its own name.

use std::os::fd::{AsFd, AsRawFd};

use crate::error::{Context, Errno, Error, Result};
use crate::net::links::{LONGEST_NAME, message, up_message};
use crate::net::{Handle, Link, Netns};
use crate::netlink::Message;
use crate::netlink::route::*;

/// A container and a handle on its namespace.
#[derive(Debug)]
pub struct Inside {
    /// Its namespace.
    pub netns: Netns,
    /// The handle.
    pub handle: Handle,
}

impl Inside {
    /// Opens a handle on the container.
    pub fn of(container: &Netns) -> Result<Self> {
        Ok(Inside { netns: container.duplicate()?, handle: Handle::inside(container)? })
    }
}

/// Moves a link of the host into a container, as `name` with the link's present name as its alias. It is down there. On
/// failure everything is as before.
pub fn take(host: &mut Handle, link: &Link, inside: &mut Inside, name: &str) -> Result<()> {
    let taken = try_to_take(host, link, inside, name);
    taken.with_context(|| format!("failed to move {name:?} (host: {:?}) to container NS", link.name))
}

fn try_to_take(host: &mut Handle, link: &Link, inside: &mut Inside, name: &str) -> Result<()> {
    expect_free(&mut inside.handle, name)?;
    let moved = host.connection.request(move_message(link.index, &inside.netns, name, &link.name));
    match &moved {
        // Gone before we came: whatever looks like it in the container is somebody else's doing.
        Err(error) if !error.is(Errno::ENODEV) => fetch(host, link, inside, name)?,
        _ => {}
    }
    moved
}

/// Brings a link home whose move has failed behind the first step. It has its old name if somebody took the new one.
fn fetch(host: &mut Handle, link: &Link, inside: &mut Inside, name: &str) -> Result<()> {
    if host.find_link_at(link.index)?.is_some() {
        return Ok(());
    }
    for name in [&link.name, name] {
        if let Some(stray) = find_same(&mut inside.handle, name, link)? {
            let back = move_message(stray.index, Netns::home()?, &link.name, &link.alias);
            inside.handle.connection.request(back).context("failed to move it back")?;
            return restore(host, link);
        }
    }
    Ok(())
}

/// Moves a link of a container to the host, as `name` with this alias. It is down there. On failure it stays in the
/// container as it was, but for its routes if somebody took the name at this very moment.
pub fn give_back(host: &mut Handle, link: &Link, inside: &mut Inside, name: &str, alias: &str) -> Result<()> {
    let given = try_to_give_back(host, link, inside, name, alias);
    given.with_context(|| format!("failed to move {name:?} to hostNS"))
}

fn try_to_give_back(host: &mut Handle, link: &Link, inside: &mut Inside, name: &str, alias: &str) -> Result<()> {
    expect_free(host, name)?;
    let mut requests = Vec::new();
    if inside.handle.find_link(name)?.is_none() {
        // Kernels before 6.2 rename only what is down.
        requests.extend([up_message(link.index, false), rename_message(link.index, name)]);
    }
    requests.push(move_message(link.index, Netns::home()?, name, alias));
    let Err((_, error)) = inside.handle.connection.pipeline(requests) else { return Ok(()) };
    if inside.handle.find_link_at(link.index)?.is_some() {
        let was = [rename_message(link.index, &link.name), up_message(link.index, link.is_up())];
        let restored = inside.handle.connection.pipeline(was.into());
        return restored.map_err(|(_, why)| why.context("failed to restore it")).and(Err(error));
    }
    if find_same(host, name, link)?.is_some() {
        return Ok(()); // Its name was only taken inside.
    }
    if let Some(stray) = find_same(host, &link.name, link)? {
        host.connection.request(move_message(stray.index, &inside.netns, &link.name, &link.alias))?;
        let index = inside.handle.link(&link.name)?.index;
        inside.handle.set_up(index, link.is_up())?;
    }
    Err(error)
}

/// Renames a link that is down and removes its alias; when it cannot be renamed both stay.
pub fn rename(handle: &mut Handle, index: u32, name: &str) -> Result<()> {
    let mut request = rename_message(index, name);
    request.attribute(IFLA_IFALIAS, &[]);
    handle.connection.request(request).with_context(|| format!("failed to rename link {index} to {name:?}"))
}

/// Makes a link that has come back what it was: part of its bridge or the like, and up.
pub fn restore(host: &mut Handle, was: &Link) -> Result<()> {
    let index = host.link(&was.name)?.index;
    let mut requests = Vec::new();
    if let Some(master) = was.master {
        let mut request = message(RTM_SETLINK, 0, index, 0, 0);
        request.u32(IFLA_MASTER, master);
        requests.push(request);
    }
    if was.is_up() {
        requests.push(up_message(index, true));
    }
    host.connection.pipeline(requests).map_err(|(_, error)| error.context(&format!("failed to restore {:?}", was.name)))
}

/// True for names that the kernel takes as they are: it would make another name of one with a `%`.
pub fn is_link_name(name: &str) -> bool {
    let odd = |letter: char| matches!(letter, '/' | ':' | '%') || letter.is_whitespace();
    !matches!(name, "" | "." | "..") && name.len() <= LONGEST_NAME && !name.contains(odd)
}

/// The name can be had in this namespace.
fn expect_free(handle: &mut Handle, name: &str) -> Result<()> {
    if !is_link_name(name) {
        return Err(Error::from(Errno::EINVAL).context(&format!("bad interface name {name:?}")));
    }
    handle.find_link(name)?.map_or(Ok(()), |_| Err(Errno::EEXIST.into()))
}

fn find_same(handle: &mut Handle, name: &str, link: &Link) -> Result<Option<Link>> {
    Ok(handle.find_link(name)?.filter(|found| found.mac == link.mac && found.kind == link.kind))
}

fn rename_message(index: u32, name: &str) -> Message {
    let mut request = message(RTM_SETLINK, 0, index, 0, 0);
    request.string(IFLA_IFNAME, name);
    request
}

fn move_message(index: u32, netns: &Netns, name: &str, alias: &str) -> Message {
    let mut request = rename_message(index, name);
    request.u32(IFLA_NET_NS_FD, netns.as_fd().as_raw_fd() as u32).attribute(IFLA_IFALIAS, alias.as_bytes());
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_one_request() {
        let netns = Netns::home().unwrap();
        let fd = netns.as_fd().as_raw_fd() as u8;
        #[rustfmt::skip]
        let golden = [
            0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,         // ifinfomsg: any family, link 7
            9, 0, 3, 0, b'n', b'e', b't', b'1', 0, 0, 0, 0,         // IFLA_IFNAME
            8, 0, 28, 0, fd, 0, 0, 0,                               // IFLA_NET_NS_FD
            7, 0, 20, 0, b'h', b'd', b'0', 0,                       // IFLA_IFALIAS, without NUL
        ];
        assert_eq!(move_message(7, netns, "net1", "hd0").body(), golden);
    }

    #[test]
    fn names_that_the_kernel_changes_or_refuses() {
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "net%d", "sixteen-letters-"] {
            assert!(!is_link_name(bad), "{bad}");
        }
        assert!(is_link_name("fifteen-letters"));
    }
}
