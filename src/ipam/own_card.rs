//! Which link is the device of the host that ADD has moved, see [`crate::ipam::own_link`]. The container's root can give the device
//! another name, alias and hardware address, move it on to a namespace of its own, and make links that look like it. None of
//! those must get onto the host.

use crate::error::Result;
use crate::ipam::card::Card;
use crate::ipam::interface_record::InterfaceRecord;
use crate::ipam::record::Sandbox;
use crate::net::{Handle, Link, Netns};
use crate::sys::namespaces::{self, Census};

/// The record of such a device.
#[derive(Debug, Clone, Copy)]
pub struct OwnCard<'a> {
    record: &'a InterfaceRecord,
    card: &'a Card,
}

impl<'a> OwnCard<'a> {
    /// None for interfaces of other kinds.
    pub fn of(record: &'a InterfaceRecord) -> Option<Self> {
        record.card.as_ref().map(|card| OwnCard { record, card })
    }

    /// Name on the host.
    pub fn name(self) -> &'a str {
        &self.card.name
    }

    /// True for a device that the container's root can make no copy of.
    pub fn is_distinct(self) -> bool {
        self.record.kind.is_empty() || self.card.lower.is_some()
    }

    /// True if the record was written for this namespace, as far as that can be told.
    pub fn was_moved_to(self, container: &Netns) -> bool {
        !self.record.sandbox.is_other_than(Sandbox::of(container))
    }

    /// True if `link`, which `inside` has just described, is the device. An index only counts where the device was moved to
    /// (`in_sandbox`). Links of kinds that the container's root can make need more than a hardware address.
    pub(super) fn is(self, inside: &mut Handle, link: &Link, in_sandbox: bool) -> Result<bool> {
        let same_index = in_sandbox && link.index == self.record.index;
        let same_mac = self.has_mac_of(link);
        if link.kind != self.record.kind || link.is_loopback() || !(same_index || same_mac) {
            return Ok(false);
        }
        match self.card.lower {
            _ if link.kind.is_empty() => Ok(same_mac || self.card.permanent_mac.is_empty()),
            Some(lower) => Ok(inside.lower_at_home(link)? == Some(lower)),
            None => Ok(same_index),
        }
    }

    /// True if `link` has the device's hardware address: the one that cannot be changed, if the device has one.
    fn has_mac_of(self, link: &Link) -> bool {
        match self.card.permanent_mac.as_str() {
            "" => link.mac.to_string() == self.record.mac,
            mac => link.permanent_mac.to_string() == mac,
        }
    }

    /// True for a link of the host that is the device, as far as kind and hardware address tell.
    pub fn looks_like(self, link: &Link) -> bool {
        link.kind == self.record.kind && self.has_mac_of(link)
    }

    /// Finds the device in a namespace that the container has moved it on to, unless it was given to another container since.
    pub fn find_elsewhere(self) -> Result<Option<(Netns, Link)>> {
        let home = Sandbox::of_this_process();
        for place in Census::default().places().0 {
            let Ok(Some(netns)) = namespaces::open_place(&place) else { continue };
            if Sandbox::of(&netns) == home {
                continue;
            }
            let mut handle = Handle::inside(&netns)?;
            for link in handle.all_links()? {
                if self.is(&mut handle, &link, false)? && !self.record.is_outdated() {
                    return Ok(Some((netns, link)));
                }
            }
        }
        Ok(None)
    }
}
