//! Links: looking up, creating, changing, deleting.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use crate::error::{Context, Errno, Error, Result};
use crate::net::bridges::has_own_address;
use crate::net::{Handle, Mac, Netns, sysctls, veth};
use crate::netlink::message::{CREATE, EXCL};
use crate::netlink::route::*;
use crate::netlink::{Attribute, Attributes, Connection, Message};
use crate::sys::random;

/// Longest interface name in bytes (`IFNAMSIZ` without the NUL); longer ones are alternative names.
pub(super) const LONGEST_NAME: usize = 15;

/// Length of `struct ifinfomsg` in bytes.
pub(super) const IFINFOMSG: usize = 16;

/// A network interface as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// What somebody wants to be known about it (`ip link set … alias`); empty when nobody said anything.
    pub alias: String,
    /// Kind of a virtual device (`bridge`, `veth`); empty for others.
    pub kind: String,
    /// What a device of its kind is set to: the mode of a macvlan or ipvlan, the id of a vlan. Of other kinds, anything.
    pub setting: Option<u32>,
    /// A bridge that has the random hardware address of its creation: the first port will change it.
    pub follows_first_port: bool,
    /// Hardware address.
    pub mac: Mac,
    /// Hardware address that the device was made with, which no one can change; empty before Linux 5.6 and for most virtual
    /// devices.
    pub permanent_mac: Mac,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// Packets that may wait to be sent.
    pub queue: u32,
    /// `IFF_…` flags.
    pub flags: u32,
    /// Operational state (RFC 2863).
    pub state: State,
    /// Index of the bridge or similar it belongs to.
    pub master: Option<u32>,
    /// Index of the peer or lower device, possibly in another namespace.
    pub lower: Option<u32>,
    /// The peer or lower device is in another namespace.
    pub lower_is_elsewhere: bool,
    /// The id by which the link's namespace calls that other namespace.
    pub lower_netns: Option<u32>,
    /// `net/ipv6/conf/…/accept_ra`; `None` without IPv6.
    pub accept_ra: Option<i32>,
}

/// Operational state of a link (RFC 2863, `IF_OPER_…` of `linux/if.h`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State(pub u8);

impl State {
    /// Ready to pass packets.
    pub const UP: State = State(6);

    /// The name that `ip link` and the reference print.
    pub fn name(self) -> &'static str {
        match self.0 {
            1 => "not-present",
            2 => "down",
            3 => "lower-layer-down",
            4 => "testing",
            5 => "dormant",
            6 => "up",
            _ => "unknown",
        }
    }
}

/// A veth pair to be created: one end here, the other in a container.
#[derive(Debug)]
pub struct NewVeth<'a> {
    /// Name of the end in this namespace.
    pub name: &'a str,
    /// Hardware address of the end in this namespace.
    pub mac: &'a Mac,
    /// Bridge that the end in this namespace joins.
    pub master: Option<u32>,
    /// Namespace of the other end.
    pub peer_netns: &'a Netns,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Hardware address of the other end.
    pub peer_mac: &'a Mac,
    /// Maximum transmission unit of both ends in bytes; 0 leaves the kernel's default.
    pub mtu: u32,
}

impl Link {
    /// True when the link is administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// True for `lo`.
    pub fn is_loopback(&self) -> bool {
        self.flags & IFF_LOOPBACK != 0
    }

    /// True when something is at the other end. The operational state follows from this, but later.
    pub fn has_carrier(&self) -> bool {
        self.flags & IFF_LOWER_UP != 0
    }

    /// True when the link was asked to take all packets.
    pub fn is_promiscuous(&self) -> bool {
        self.flags & IFF_PROMISC != 0
    }

    /// Reads the attributes in one pass: there are about sixty, and this is done several times in every call.
    fn parse(body: &[u8]) -> Result<Link> {
        let word =
            |at: usize| body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let mut link = Link { index: word(4), flags: word(8), ..Link::default() };
        for attribute in Attributes::after(body, IFINFOMSG)? {
            match attribute.kind {
                IFLA_IFNAME => link.name = attribute.text(),
                IFLA_IFALIAS => link.alias = attribute.text(),
                IFLA_LINKINFO => link.read_kind(attribute).unwrap_or_default(),
                IFLA_ADDRESS => link.mac = Mac::from_bytes(attribute.payload),
                IFLA_PERM_ADDRESS => link.permanent_mac = Mac::from_bytes(attribute.payload),
                IFLA_MTU => link.mtu = attribute.u32().unwrap_or(0),
                IFLA_TXQLEN => link.queue = attribute.u32().unwrap_or(0),
                IFLA_OPERSTATE => link.state = State(attribute.u8().unwrap_or(0)),
                IFLA_MASTER => link.master = attribute.u32(),
                IFLA_LINK => link.lower = attribute.u32(),
                IFLA_LINK_NETNSID => (link.lower_is_elsewhere, link.lower_netns) = (true, attribute.u32()),
                IFLA_AF_SPEC => link.accept_ra = accept_ra(attribute),
                _ => {}
            }
        }
        link.follows_first_port &= !link.mac.is_zero();
        Ok(link)
    }

    /// Reads the name of the kind, and the first attribute of the data of kinds with one setting that matters.
    fn read_kind(&mut self, info: Attribute<'_>) -> Option<()> {
        let info = info.nested().ok()?;
        self.kind = info.find(IFLA_INFO_KIND)?.text();
        let data = info.find(IFLA_INFO_DATA)?.nested().ok()?;
        let number = data.find(FIRST_OF_INFO_DATA);
        self.setting = number.and_then(|number| number.u32().or(number.u16().map(u32::from)));
        self.follows_first_port = self.kind == "bridge" && !has_own_address(data);
        Some(())
    }
}

fn accept_ra(families: Attribute<'_>) -> Option<i32> {
    let settings = families.nested().ok()?.find(u16::from(AF_INET6))?.nested().ok()?.find(IFLA_INET6_CONF)?;
    let number = settings.payload.chunks_exact(4).nth(DEVCONF_ACCEPT_RA)?;
    Some(i32::from_ne_bytes(number.try_into().ok()?))
}

impl Handle {
    /// The link with this name, if there is one.
    pub fn find_link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut request = message(RTM_GETLINK, 0, 0, 0, 0);
        request.string(if name.len() > LONGEST_NAME { IFLA_ALT_IFNAME } else { IFLA_IFNAME }, name);
        self.get_link(request).with_context(|| format!("failed to look up link {name:?}"))
    }

    /// The link with this name; `Link not found` as the reference says when there is none.
    pub fn link(&mut self, name: &str) -> Result<Link> {
        self.find_link(name)?.ok_or_else(not_found)
    }

    /// The link with this index; the same error when there is none.
    pub fn link_at(&mut self, index: u32) -> Result<Link> {
        self.find_link_at(index)?.ok_or_else(not_found)
    }

    /// The link with this index, if there is one.
    pub fn find_link_at(&mut self, index: u32) -> Result<Option<Link>> {
        let request = message(RTM_GETLINK, 0, index, 0, 0);
        self.get_link(request).with_context(|| format!("failed to look up link {index}"))
    }

    /// Links that belong to this bridge.
    pub fn ports_of(&mut self, master: u32) -> Result<Vec<Link>> {
        let mut request = message(RTM_GETLINK, 0, 0, 0, 0);
        request.u32(IFLA_MASTER, master);
        let mut ports = self.dump_links(request)?;
        ports.retain(|link| link.master == Some(master));
        Ok(ports)
    }

    /// All links, for the questions that the kernel answers no other way.
    pub fn all_links(&mut self) -> Result<Vec<Link>> {
        self.dump_links(message(RTM_GETLINK, 0, 0, 0, 0)).context("failed to list node links")
    }

    /// Creates a veth pair in one request. The end here is up and in its bridge; the other end is down.
    pub fn create_veth(&mut self, veth: &NewVeth<'_>) -> Result<()> {
        self.connection.request(veth.message())
    }

    /// Deletes a link; one that is gone already counts as deleted.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        match self.connection.request(message(RTM_DELLINK, 0, index, 0, 0)) {
            Err(error) if error.is(Errno::ENODEV) => Ok(()),
            result => result,
        }
    }

    /// Deletes the link with this name; one that is gone already counts as deleted.
    pub fn delete_link_named(&mut self, name: &str) -> Result<()> {
        let mut request = message(RTM_DELLINK, 0, 0, 0, 0);
        request.string(IFLA_IFNAME, name);
        match self.connection.request(request) {
            Err(error) if error.is(Errno::ENODEV) => Ok(()),
            result => result.with_context(|| format!("failed to delete link {name:?}")),
        }
    }

    /// Gives a link another name; `EEXIST` when it is taken.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<()> {
        let mut request = message(RTM_SETLINK, 0, index, 0, 0);
        request.string(IFLA_IFNAME, name);
        self.connection.request(request)
    }

    /// Sets a link up or down.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        self.connection.request(up_message(index, up))
    }

    /// Makes a link take all packets, or only those for it.
    pub fn set_promiscuous(&mut self, index: u32, on: bool) -> Result<()> {
        self.connection.request(message(RTM_SETLINK, 0, index, if on { IFF_PROMISC } else { 0 }, IFF_PROMISC))
    }

    /// Sets the hardware address of a link.
    pub fn set_mac(&mut self, index: u32, mac: &Mac) -> Result<()> {
        let mut request = message(RTM_SETLINK, 0, index, 0, 0);
        request.attribute(IFLA_ADDRESS, mac.bytes());
        self.connection.request(request)
    }

    /// Sets the hardware address (`None`: it stays) and the MTU in bytes (0: it stays) of a link.
    pub fn set_mac_and_mtu(&mut self, index: u32, mac: Option<&Mac>, mtu: u32) -> Result<()> {
        let mut request = message(RTM_SETLINK, 0, index, 0, 0);
        if let Some(mac) = mac {
            request.attribute(IFLA_ADDRESS, mac.bytes());
        }
        push_mtu(&mut request, mtu);
        self.connection.request(request)
    }

    /// Makes a link a port of a bridge.
    pub fn set_master(&mut self, index: u32, master: u32) -> Result<()> {
        self.connection.request(master_message(index, master))
    }

    /// Keeps the host from taking router advertisements on a link (CVE-2020-10749). Links without IPv6 take none.
    pub fn refuse_router_advertisements(&self, link: &Link) -> Result<()> {
        match link.accept_ra {
            None | Some(0) => Ok(()),
            Some(_) => sysctls::write(&format!("net/ipv6/conf/{}/accept_ra", link.name), "0"),
        }
    }

    /// Waits at most `limit` for a link to be operationally up and gives its last state. Wakes on the kernel's events.
    pub fn wait_until_up(&mut self, link: Link, limit: Duration) -> Result<Link> {
        if link.state == State::UP {
            return Ok(link);
        }
        let deadline = Instant::now() + limit;
        let mut events = Connection::events(&[RTNLGRP_LINK])?;
        loop {
            let now = self.find_link_at(link.index)?.ok_or_else(|| Error::from(Errno::ENODEV))?;
            let left = deadline.saturating_duration_since(Instant::now());
            if now.state == State::UP || left.is_zero() {
                return Ok(now);
            }
            events.await_events(left)?;
        }
    }

    fn dump_links(&mut self, mut request: Message) -> Result<Vec<Link>> {
        request.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        self.connection.dump(&request, Vec::new, |links, reply| {
            links.push(Link::parse(reply.body)?);
            Ok(())
        })
    }

    fn get_link(&mut self, mut request: Message) -> Result<Option<Link>> {
        request.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        match self.connection.get(&request, Link::parse) {
            Err(error) if error.is(Errno::ENODEV) => Ok(None),
            result => result,
        }
    }
}

impl NewVeth<'_> {
    fn message(&self) -> Message {
        let mut request = message(RTM_NEWLINK, CREATE | EXCL, 0, IFF_UP, IFF_UP);
        request.string(IFLA_IFNAME, self.name).attribute(IFLA_ADDRESS, self.mac.bytes());
        // The reference's host ends have no transmit queue length, and qdiscs put on them later inherit it.
        request.u32(IFLA_TXQLEN, 0);
        push_mtu(&mut request, self.mtu);
        if let Some(master) = self.master {
            request.u32(IFLA_MASTER, master);
        }
        request.container(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, veth::KIND);
            info.container(IFLA_INFO_DATA, |data| {
                data.container(VETH_INFO_PEER, |peer| self.write_peer(peer));
            });
        });
        request
    }

    fn write_peer(&self, peer: &mut Message) {
        peer.raw(&ifinfomsg(AF_UNSPEC, 0, 0, 0));
        peer.string(IFLA_IFNAME, self.peer_name).attribute(IFLA_ADDRESS, self.peer_mac.bytes());
        push_mtu(peer, self.mtu);
        peer.u32(IFLA_NET_NS_FD, self.peer_netns.as_fd().as_raw_fd() as u32);
    }
}

fn not_found() -> Error {
    Error::internal("Link not found").with_errno(Errno::ENODEV)
}

/// The index of a link in a namespace, if it exists. Unlike looking the link up, this neither waits for the kernel's lock
/// of all links nor makes it settle the link's pending state first.
pub fn index_of(netns: &Netns, name: &str) -> Result<Option<u32>> {
    match netns.run(|| nix::net::if_::if_nametoindex(name))? {
        Ok(index) => Ok(Some(index)),
        Err(Errno::ENODEV | Errno::ENXIO) => Ok(None),
        // A policy for the reference knows neither datagram sockets of the unix family nor SIOCGIFINDEX.
        Err(_) => Ok(Handle::inside(netns)?.find_link(name)?.map(|link| link.index)),
    }
}

/// The request that sets a link up or down, for pipelines.
pub(crate) fn up_message(index: u32, up: bool) -> Message {
    message(RTM_NEWLINK, 0, index, if up { IFF_UP } else { 0 }, IFF_UP)
}

/// The request that makes a link a port of `master`, for pipelines.
pub(super) fn master_message(index: u32, master: u32) -> Message {
    let mut request = message(RTM_SETLINK, 0, index, 0, 0);
    request.u32(IFLA_MASTER, master);
    request
}

/// The request that makes a link announce its addresses when it comes up (`arp_notify`), for pipelines.
pub(crate) fn announce_message(index: u32) -> Message {
    let mut request = message(RTM_SETLINK, 0, index, 0, 0);
    request.nested(IFLA_AF_SPEC, |families| {
        families.nested(u16::from(AF_INET), |inet| {
            inet.nested(IFLA_INET_CONF, |settings| {
                settings.u32(IPV4_DEVCONF_ARP_NOTIFY, 1);
            });
        });
    });
    request
}

/// A name for the host's end of a veth pair, or for a link that is renamed later: `veth` and 8 random digits.
pub fn random_name() -> Result<String> {
    Ok(format!("veth{:08x}", u32::from_be_bytes(random::bytes()?)))
}

/// An MTU in bytes; 0 leaves the choice to the kernel.
pub(super) fn push_mtu(request: &mut Message, mtu: u32) {
    if mtu > 0 {
        request.u32(IFLA_MTU, mtu);
    }
}

/// A request about a link: type and flags of the message, the link's index, its flags and which of them to change.
pub(super) fn message(kind: u16, flags: u16, index: u32, link_flags: u32, change: u32) -> Message {
    let mut message = Message::new(kind, flags);
    message.raw(&ifinfomsg(AF_UNSPEC, index, link_flags, change));
    message
}

/// `struct ifinfomsg`: family, padding, device type, index, flags, mask of flags to change.
pub(super) fn ifinfomsg(family: u8, index: u32, flags: u32, change: u32) -> [u8; IFINFOMSG] {
    let mut bytes = [0; IFINFOMSG];
    let fields = [u32::from(family).to_le_bytes(), index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()];
    for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
        place.copy_from_slice(&field);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_veth_pair_is_one_request() {
        let netns = Netns::home().unwrap();
        let (mac, peer_mac) = (Mac::from_bytes(&[2, 0, 0, 0, 0, 1]), Mac::from_bytes(&[2, 0, 0, 0, 0, 2]));
        let veth = NewVeth {
            name: "veth0",
            mac: &mac,
            master: Some(7),
            peer_netns: netns,
            peer_name: "eth0",
            peer_mac: &peer_mac,
            mtu: 1400,
        };
        let fd = netns.as_fd().as_raw_fd() as u8;
        #[rustfmt::skip]
        let golden = [
            0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,         // ifinfomsg: any family, IFF_UP of IFF_UP
            10, 0, 3, 0, b'v', b'e', b't', b'h', b'0', 0, 0, 0,     // IFLA_IFNAME
            10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0,                    // IFLA_ADDRESS
            8, 0, 13, 0, 0, 0, 0, 0,                                // IFLA_TXQLEN
            8, 0, 4, 0, 0x78, 5, 0, 0,                              // IFLA_MTU 1400
            8, 0, 10, 0, 7, 0, 0, 0,                                // IFLA_MASTER
            80, 0, 18, 0,                                           // IFLA_LINKINFO
            9, 0, 1, 0, b'v', b'e', b't', b'h', 0, 0, 0, 0,         //   IFLA_INFO_KIND
            64, 0, 2, 0,                                            //   IFLA_INFO_DATA
            60, 0, 1, 0,                                            //     VETH_INFO_PEER
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,         //       ifinfomsg
            9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0,         //       IFLA_IFNAME
            10, 0, 1, 0, 2, 0, 0, 0, 0, 2, 0, 0,                    //       IFLA_ADDRESS
            8, 0, 4, 0, 0x78, 5, 0, 0,                              //       IFLA_MTU
            8, 0, 28, 0, fd, 0, 0, 0,                               //       IFLA_NET_NS_FD
        ];
        assert_eq!(veth.message().body(), golden);
    }

    #[test]
    fn random_names_fit() {
        let name = random_name().unwrap();
        assert_eq!((name.len(), &name[..4]), (12, "veth"));
    }
}
