//! Where a lease's link is, and whether it is still there.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use crate::cni::config::Object;
use crate::cni::json::Node;
use crate::dhcp::lease::unreadable;
use crate::error::{Context, Errno, Error, Result};
use crate::net::{Handle, Link, Netns};
use crate::sys::netns::{self, Identity};

/// A link of a container, remembered without keeping anything open. Its index finds it again: the
/// container may rename it, and may give its name to another link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Path of the namespace as the daemon sees it.
    pub(super) path: String,
    /// [`Identity`] of the namespace behind it.
    identity: String,
    /// Name of the link when the lease was asked for.
    pub(super) ifname: String,
    /// Its index.
    pub(super) index: u32,
}

/// A place that has been found again. It keeps the namespace alive, so it is not kept.
pub(super) struct Visit {
    pub(super) netns: Netns,
    pub(super) inside: Handle,
    pub(super) link: Link,
}

impl Visit {
    /// True when the link has this address.
    pub(super) fn has_address(&mut self, address: Ipv4Addr) -> Result<bool> {
        let addresses = self.inside.addresses(self.link.index)?;
        Ok(addresses.iter().any(|found| IpNet::addr(&found.net) == address))
    }

    /// Sets the link down if it has this address.
    pub(super) fn set_down_with(mut self, address: Ipv4Addr) -> Result<()> {
        if self.has_address(address)? { self.set_down() } else { Ok(()) }
    }

    pub(super) fn set_down(&mut self) -> Result<()> {
        let down = self.inside.set_up(self.link.index, false);
        down.with_context(|| format!("failed to bring {:?} interface DOWN", self.link.name))
    }
}

impl Place {
    /// The link `ifname` in the namespace at `path`.
    pub(super) fn find(path: &str, ifname: &str) -> Result<(Place, Visit)> {
        let netns = Netns::open(path)?;
        let mut inside = Handle::inside(&netns)?;
        let link = inside.link(ifname).with_context(|| looking_up(ifname))?;
        let identity = netns.identity()?.to_string();
        let place = Place { path: path.to_string(), identity, ifname: ifname.to_string(), index: link.index };
        Ok((place, Visit { netns, inside, link }))
    }

    /// Finds the same link in the same namespace, whatever its name, or gives the reason why it is
    /// not to be had.
    pub(super) fn visit(&self) -> Result<Visit> {
        let netns = Netns::open(&self.path)?;
        if netns.identity()?.to_string() != self.identity {
            return Err(self.is_another());
        }
        let mut inside = Handle::inside(&netns)?;
        let link = inside.link_at(self.index).with_context(|| looking_up(&self.ifname))?;
        Ok(Visit { netns, inside, link })
    }

    /// True when both are the same link.
    pub(super) fn is_same_link(&self, other: &Place) -> bool {
        (&self.identity, self.index) == (&other.identity, other.index)
    }

    /// Succeeds when the name of old still leads to this place's link: calls of plugins are about
    /// the link with that name.
    pub(super) fn has_its_name(&self) -> Result<()> {
        let (found, _) = Place::find(&self.path, &self.ifname)?;
        if found == *self { Ok(()) } else { Err(self.is_another()) }
    }

    pub(super) fn is_another(&self) -> Error {
        Error::internal(format!("{:?} in {} is not the interface it was", self.ifname, self.path))
    }

    /// True when `path` leads to this place's namespace.
    pub(super) fn is_in(&self, path: &str) -> bool {
        let identity: Option<Identity> = netns::identity_at(path);
        identity.is_some_and(|identity| identity.to_string() == self.identity)
    }

    pub(super) fn members(&self) -> Vec<(&'static str, Node)> {
        vec![
            ("netns", self.path.as_str().into()),
            ("netnsIdentity", self.identity.as_str().into()),
            ("ifname", self.ifname.as_str().into()),
            ("index", self.index.into()),
        ]
    }

    pub(super) fn read(record: &Object<'_>) -> Result<Place> {
        let text = |key| record.string(key).map(str::to_string);
        let index = u32::try_from(record.integer("index")?).ok().filter(|index| *index > 0);
        let index = index.ok_or_else(|| unreadable("index"))?;
        Ok(Place { path: text("netns")?, identity: text("netnsIdentity")?, ifname: text("ifname")?, index })
    }
}

/// True when an error says that a place does not exist any more; all others may pass.
pub(super) fn is_gone(error: &Error) -> bool {
    matches!(error.errno, None | Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ENODEV | Errno::ENXIO))
}

fn looking_up(ifname: &str) -> String {
    format!("error looking up {ifname:?}")
}
