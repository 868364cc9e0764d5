//! Virtual devices that belong to one container: macvlan, ipvlan and vlan, which lie on another device, and dummy.

use std::os::fd::{AsFd, AsRawFd};

use crate::digest::sha512_hex;
use crate::error::{Errno, Error, Result};
use crate::net::links::{self, message, push_mtu};
use crate::net::{Handle, Link, Mac, Netns};
use crate::netlink::Message;
use crate::netlink::message::{CREATE, EXCL};
use crate::netlink::route::*;

/// `MACVLAN_MODE_PASSTHRU` of `linux/if_link.h`.
const PASSTHRU: u32 = 8;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One more hardware address on the lower device.
    Macvlan {
        /// `MACVLAN_MODE_…`
        mode: u32,
        /// Broadcast packets that may wait to be delivered; 0 leaves the kernel's default.
        queue: u32,
    },
    /// Shares the lower device's hardware address.
    Ipvlan {
        /// `IPVLAN_MODE_…`
        mode: u16,
    },
    /// What is tagged (802.1Q) on the lower device.
    Vlan {
        /// The tag.
        id: u16,
    },
    /// Swallows what it is given.
    Dummy,
}

/// A device to be created.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// What it is to be.
    pub kind: Kind,
    /// The device it lies on, in the namespace of the handle that asks for it.
    pub lower: Option<&'a Link>,
    /// Maximum transmission unit in bytes; 0 for the kernel's default.
    pub mtu: u32,
    /// Hardware address; `None` for a random one. The kernel takes no notice where it is the lower device's.
    pub mac: Option<&'a Mac>,
    /// Namespace it belongs to.
    pub container: &'a Netns,
    /// Its name there.
    pub ifname: &'a str,
}

/// A device that exists, down.
#[derive(Debug)]
pub struct Device {
    /// The kernel's name for its kind.
    pub kind: &'static str,
    /// Index in its namespace.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// Hardware address.
    pub mac: Mac,
}

impl Kind {
    /// The kernel's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Macvlan { .. } => "macvlan",
            Kind::Ipvlan { .. } => "ipvlan",
            Kind::Vlan { .. } => "vlan",
            Kind::Dummy => "dummy",
        }
    }

    /// What [`Link::setting`] of such a device says.
    pub fn setting(self) -> Option<u32> {
        match self {
            Kind::Macvlan { mode, .. } => Some(mode),
            Kind::Ipvlan { mode } => Some(mode.into()),
            Kind::Vlan { id } => Some(id.into()),
            Kind::Dummy => None,
        }
    }

    fn has_own_mac(self) -> bool {
        matches!(self, Kind::Macvlan { mode, .. } if mode != PASSTHRU) || self == Kind::Dummy
    }

    fn write(self, data: &mut Message) {
        match self {
            Kind::Macvlan { mode, queue } => {
                data.u32(FIRST_OF_INFO_DATA, mode);
                if queue > 0 {
                    data.u32(IFLA_MACVLAN_BC_QUEUE_LEN, queue);
                }
            }
            // As the reference: the flags are those of bridge mode, also on kernels with another default.
            Kind::Ipvlan { mode } => drop(data.u16(FIRST_OF_INFO_DATA, mode).u16(IFLA_IPVLAN_FLAGS, 0)),
            Kind::Vlan { id } => drop(data.u16(FIRST_OF_INFO_DATA, id)),
            Kind::Dummy => {}
        }
    }
}

/// Creates the device where it belongs and under its name. `sender` is a handle on the namespace of the lower device. If
/// anything fails it is removed again.
///
/// The reference always creates it under another name and renames it, for which the kernel makes everybody wait (RCU).
pub fn create(sender: &mut Handle, wanted: &Wanted<'_>) -> Result<Device> {
    let Wanted { kind, container, ifname, .. } = *wanted;
    if ifname.contains('%') {
        // The kernel would make another name of it.
        return Err(Error::internal(format!("failed to create {}: invalid interface name {ifname:?}", kind.name())));
    }
    let mac = wanted.chosen_mac()?;
    match sender.connection.request(wanted.message(ifname, &mac)) {
        Err(error) if error.is(Errno::EEXIST) => create_and_rename(sender, wanted, &mac)?,
        result => result.map_err(|error| wanted.refused(error))?,
    }
    match links::index_of(container, ifname) {
        Ok(Some(index)) => Ok(Device { kind: kind.name(), index, name: ifname.to_string(), mac }),
        missing => {
            let _ = Handle::inside(container).and_then(|mut inside| inside.delete_link_named(ifname));
            let error = missing.err().unwrap_or_else(|| Errno::ENODEV.into());
            Err(error.context(&format!("failed to refetch {} {ifname:?}", kind.name())))
        }
    }
}

/// Deletes the device that an ADD of this interface may have left when it was killed before it could give the device its name.
pub fn delete_unfinished(inside: &mut Handle, ifname: &str) -> Result<()> {
    inside.delete_link_named(&temporary_name(ifname))
}

/// Kernels before 6.15 look for the name among the sender's links too: a host that has an `eth0` could give none to a
/// container. So the device gets there under another name, which DEL can tell.
fn create_and_rename(sender: &mut Handle, wanted: &Wanted<'_>, mac: &Mac) -> Result<()> {
    let Wanted { kind, container, ifname, .. } = *wanted;
    let refused = |error: Error| match kind {
        Kind::Dummy => wanted.refused(error),
        _ => error.context(&format!("failed to rename {} to {ifname:?}", kind.name())),
    };
    if let Some(taken) = Handle::inside(container)?.find_link(ifname)? {
        // In the reference's two steps the first fails where the VLAN id is taken too: a second ADD.
        let is_same = kind.name() == "vlan" && wanted.is_like(&taken);
        return Err(if is_same { wanted.refused(Errno::EEXIST.into()) } else { refused(Errno::EEXIST.into()) });
    }
    let temporary = temporary_name(ifname);
    sender.connection.request(wanted.message(&temporary, mac)).map_err(|error| wanted.refused(error))?;
    let renamed = rename(container, &temporary, ifname);
    if renamed.is_err() {
        let _ = Handle::inside(container).and_then(|mut inside| inside.delete_link_named(&temporary));
    }
    renamed.map_err(refused)
}

fn rename(container: &Netns, old: &str, new: &str) -> Result<()> {
    let index = links::index_of(container, old)?.ok_or(Errno::ENODEV)?;
    Handle::inside(container)?.rename(index, new)
}

/// A name that nobody else gives, and that follows from the final one.
fn temporary_name(ifname: &str) -> String {
    let digits: String = sha512_hex(&["cni-box", ifname]).chars().take(8).collect();
    format!("veth{digits}")
}

impl Wanted<'_> {
    /// Hardware addresses are chosen here, so nothing that follows random addresses (udev) changes them behind our back,
    /// and nobody has to ask for them; or they are the lower device's.
    fn chosen_mac(&self) -> Result<Mac> {
        match (self.lower, self.mac) {
            (Some(lower), _) if !self.kind.has_own_mac() => Ok(lower.mac.clone()),
            (_, Some(mac)) => Ok(mac.clone()),
            _ => Mac::random(),
        }
    }

    fn is_like(&self, link: &Link) -> bool {
        let lower = self.lower.map(|lower| lower.index);
        link.kind == self.kind.name() && link.setting == self.kind.setting() && link.lower == lower
    }

    fn message(&self, name: &str, mac: &Mac) -> Message {
        let mut request = message(RTM_NEWLINK, CREATE | EXCL, 0, 0, 0);
        request.string(IFLA_IFNAME, name);
        push_mtu(&mut request, self.mtu);
        if self.kind.has_own_mac() {
            request.attribute(IFLA_ADDRESS, mac.bytes());
        }
        if let Some(lower) = self.lower {
            request.u32(IFLA_LINK, lower.index);
        }
        request.u32(IFLA_NET_NS_FD, self.container.as_fd().as_raw_fd() as u32);
        request.container(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, self.kind.name());
            info.container(IFLA_INFO_DATA, |data| self.kind.write(data));
        });
        request
    }

    fn refused(&self, mut error: Error) -> Error {
        if let Some(lower) = self.lower.filter(|lower| lower.is_loopback()) {
            error.msg = format!("{} ({:?} is a loopback device)", error.msg, lower.name);
        }
        error.context(&format!("failed to create {}", self.kind.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_one_request() {
        let netns = Netns::home().unwrap();
        let lower = Link { index: 7, name: "eth0".to_string(), ..Link::default() };
        let mac = Mac::from_bytes(&[2, 0, 0, 0, 0, 1]);
        let kind = Kind::Macvlan { mode: 4, queue: 9 };
        let wanted = Wanted { kind, lower: Some(&lower), mtu: 1400, mac: Some(&mac), container: netns, ifname: "net1" };
        let fd = netns.as_fd().as_raw_fd() as u8;
        #[rustfmt::skip]
        let golden = [
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,         // ifinfomsg
            9, 0, 3, 0, b'n', b'e', b't', b'1', 0, 0, 0, 0,         // IFLA_IFNAME
            8, 0, 4, 0, 0x78, 5, 0, 0,                              // IFLA_MTU 1400
            10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0,                    // IFLA_ADDRESS
            8, 0, 5, 0, 7, 0, 0, 0,                                 // IFLA_LINK
            8, 0, 28, 0, fd, 0, 0, 0,                               // IFLA_NET_NS_FD
            36, 0, 18, 0,                                           // IFLA_LINKINFO
            12, 0, 1, 0, b'm', b'a', b'c', b'v', b'l', b'a', b'n', 0, //  IFLA_INFO_KIND
            20, 0, 2, 0,                                            //   IFLA_INFO_DATA
            8, 0, 1, 0, 4, 0, 0, 0,                                 //     IFLA_MACVLAN_MODE
            8, 0, 7, 0, 9, 0, 0, 0,                                 //     IFLA_MACVLAN_BC_QUEUE_LEN
        ];
        assert_eq!(wanted.message("net1", &wanted.chosen_mac().unwrap()).body(), golden);
    }

    #[test]
    fn a_device_without_a_hardware_address_of_its_own_has_the_lower_ones() {
        let mac = Mac::from_bytes(&[2, 0, 0, 0, 0, 7]);
        let lower = Link { mac: mac.clone(), ..Link::default() };
        let container = Netns::home().unwrap();
        let chosen = |kind| {
            let asked = Mac::from_bytes(&[2, 0, 0, 0, 0, 1]);
            let lower = Some(&lower);
            Wanted { kind, lower, mtu: 0, mac: Some(&asked), container, ifname: "x" }.chosen_mac().unwrap()
        };
        for kind in [Kind::Ipvlan { mode: 0 }, Kind::Vlan { id: 5 }, Kind::Macvlan { mode: PASSTHRU, queue: 0 }] {
            assert_eq!(chosen(kind), mac);
        }
        assert_ne!(chosen(Kind::Macvlan { mode: 4, queue: 0 }), mac);
    }

    #[test]
    fn the_temporary_name_fits_and_follows_from_the_final_one() {
        assert_eq!(temporary_name("eth0"), temporary_name("eth0"));
        assert_ne!(temporary_name("eth0"), temporary_name("eth1"));
        assert_eq!(temporary_name("a-long-name-15b").len(), 12);
    }
}
