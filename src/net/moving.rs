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

/// A namespace and a handle on it.
#[derive(Debug)]
pub struct Side<'a> {
    netns: &'a Netns,
    /// The handle.
    pub handle: Handle,
}

impl<'a> Side<'a> {
    /// The namespace this process was started in.
    pub fn host() -> Result<Self> {
        Ok(Side { netns: Netns::home()?, handle: Handle::current()? })
    }

    /// That of a container.
    pub fn of(netns: &'a Netns) -> Result<Self> {
        Ok(Side { netns, handle: Handle::inside(netns)? })
    }
}

/// Moves a link of the host into a container, as `name` with the link's present name as its alias. It is down there. On
/// failure everything is as before.
pub fn take(host: &mut Side<'_>, link: &Link, inside: &mut Side<'_>, name: &str) -> Result<()> {
    let moved = expect_free(&mut inside.handle, name).and_then(|()| {
        let moved = host.handle.connection.request(move_message(link.index, inside.netns, name, &link.name));
        moved.or_else(|error| bring_back(host, link, inside, name, error))
    });
    moved.with_context(|| format!("failed to move {name:?} (host: {:?}) to container NS", link.name))
}

/// Moves a link of a container to the host, as `name` with this alias. It is down there. On failure it stays in the
/// container as it was, but for its routes if somebody took the name at this very moment.
pub fn give_back(inside: &mut Side<'_>, link: &Link, host: &mut Side<'_>, name: &str, alias: &str) -> Result<()> {
    let moved = expect_free(&mut host.handle, name).and_then(|()| {
        // In one send, so that nobody can kill us in between. Kernels before 6.2 rename only what is down.
        let requests = vec![
            up_message(link.index, false),
            rename_message(link.index, name),
            move_message(link.index, host.netns, name, alias),
        ];
        let Err((_, error)) = inside.handle.connection.pipeline(requests) else { return Ok(()) };
        match find_same(&mut host.handle, name, link)? {
            Some(_) => Ok(()), // Its name was only taken inside.
            None => bring_back(inside, link, host, name, error),
        }
    });
    moved.with_context(|| format!("failed to move {name:?} to hostNS"))
}

/// Gives a link that is down another name and removes its alias; when it cannot be renamed both stay.
pub fn rename(handle: &mut Handle, link: &Link, name: &str) -> Result<()> {
    let mut request = rename_message(link.index, name);
    request.attribute(IFLA_IFALIAS, &[]);
    handle.connection.request(request).with_context(|| format!("failed to rename {:?} to {name:?}", link.name))
}

/// Makes a link that has come back what it was: its name, part of its bridge or the like, and up.
pub fn restore(handle: &mut Handle, was: &Link) -> Result<()> {
    let named = find_same(handle, &was.name, was)?;
    let index = named.as_ref().map_or(was.index, |link| link.index);
    let mut requests = Vec::new();
    if named.is_none() {
        requests.push(rename_message(index, &was.name));
    }
    if let Some(master) = was.master {
        let mut request = message(RTM_SETLINK, 0, index, 0, 0);
        request.u32(IFLA_MASTER, master);
        requests.push(request);
    }
    if was.is_up() {
        requests.push(up_message(index, true));
    }
    let restored = handle.connection.pipeline(requests);
    restored.map_err(|(_, error)| error.context(&format!("failed to restore {:?}", was.name)))
}

/// After a move that failed, behind whichever of its steps: the link is what it was where it was. It has its old name if
/// somebody took the new one. Gives the error that made it necessary, or a worse one.
fn bring_back(home: &mut Side<'_>, link: &Link, away: &mut Side<'_>, name: &str, error: Error) -> Result<()> {
    if error.is(Errno::ENODEV) {
        // Gone before we came: whatever looks like it is somebody else's doing.
        return Err(error);
    }
    if home.handle.find_link_at(link.index)?.is_none() {
        let stray = match find_same(&mut away.handle, &link.name, link)? {
            None => find_same(&mut away.handle, name, link)?,
            stray => stray,
        };
        let Some(stray) = stray else { return Err(error) };
        let back = move_message(stray.index, home.netns, &link.name, &link.alias);
        away.handle.connection.request(back).context("failed to move it back")?;
    }
    restore(&mut home.handle, link).and(Err(error))
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
