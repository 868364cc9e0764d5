//! Addresses of links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};

use crate::error::{Context, Errno, Error, Result};
use crate::net::links::State;
use crate::net::{Handle, Netns};
use crate::netlink::message::{CREATE, EXCL};
use crate::netlink::route::*;
use crate::netlink::{Attribute, Attributes, Connection, Message};

/// Length of `struct ifaddrmsg` in bytes.
const IFADDRMSG: usize = 8;

/// In place of a link's index: no filter.
const ALL_LINKS: u32 = 0;

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Address with prefix length.
    pub net: IpNet,
    /// `IFA_F_…` flags.
    pub flags: u32,
}

impl Address {
    /// True while duplicate address detection is going on.
    pub fn is_tentative(&self) -> bool {
        self.flags & IFA_F_TENTATIVE != 0
    }

    /// True for IPv6 addresses that the kernel made from router advertisements, temporary ones
    /// (RFC 8981) too. Other programs give addresses a lifetime, but not these flags.
    pub fn is_advertised(&self) -> bool {
        self.net.addr().is_ipv6() && self.flags & (IFA_F_MANAGETEMPADDR | IFA_F_TEMPORARY) != 0
    }

    /// True when duplicate address detection found another owner.
    pub fn is_duplicate(&self) -> bool {
        self.flags & IFA_F_DADFAILED != 0
    }
}

impl Handle {
    /// The addresses of a link, IPv4 first.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Address>> {
        let listed = self.list_addresses(index);
        listed.with_context(|| format!("failed to list the addresses of link {index}"))
    }

    /// The addresses of all links.
    pub fn all_addresses(&mut self) -> Result<Vec<Address>> {
        self.list_addresses(ALL_LINKS).context("failed to list the addresses of all links")
    }

    fn list_addresses(&mut self, index: u32) -> Result<Vec<Address>> {
        let mut request = Message::new(RTM_GETADDR, 0);
        request.raw(&ifaddrmsg(AF_UNSPEC, 0, index));
        self.connection.dump(&request, Vec::new, |addresses, reply| {
            addresses.extend(parse(reply.body, index)?);
            Ok(())
        })
    }

    /// Adds an address; `EEXIST` when it is there already.
    pub fn add_address(&mut self, index: u32, net: IpNet) -> Result<()> {
        self.connection.request(new_address(index, net))
    }

    /// The same for an address that nobody else on the link can have: it can be used at once.
    pub fn add_address_at_once(&mut self, index: u32, net: IpNet) -> Result<()> {
        self.connection.request(new_address_at_once(index, net))
    }

    /// Removes an address; one that is gone already counts as removed.
    pub fn delete_address(&mut self, index: u32, net: IpNet) -> Result<()> {
        match self.connection.request(address_message(RTM_DELADDR, 0, index, net)) {
            Err(error) if error.is(Errno::EADDRNOTAVAIL) || error.is(Errno::ENODEV) => Ok(()),
            result => result,
        }
    }

    /// Waits until no IPv6 address of the link is tentative: at most `limit`, and not at all on a link without carrier,
    /// where detection cannot end. `netns` is this handle's own. An address that somebody else owns is an error (`SettleAddresses` of the reference).
    pub fn settle_addresses(&mut self, netns: &Netns, name: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut events: Option<Connection> = None;
        loop {
            let link = self.link(name)?;
            let addresses = self.addresses(link.index)?;
            if let Some(failed) = addresses.iter().find(|address| address.is_duplicate()) {
                let ip = failed.net.addr();
                return Err(Error::internal(format!(
                    "link {name} has address {ip} in DADFAILED state: another host on the network uses it"
                )));
            }
            let waiting = addresses.iter().any(Address::is_tentative);
            let left = deadline.saturating_duration_since(Instant::now());
            match (waiting, &mut events) {
                (false, _) => return Ok(()),
                (true, None) => events = Some(netns.run(|| Connection::events(&[RTNLGRP_IPV6_IFADDR, RTNLGRP_LINK]))??),
                (true, Some(_)) if !link.has_carrier() => return Ok(()),
                (true, Some(_)) if left.is_zero() && link.state != State::UP => return Ok(()),
                (true, Some(_)) if left.is_zero() => return Err(still_tentative(name, limit)),
                (true, Some(events)) => events.await_events(left)?,
            }
        }
    }
}

fn still_tentative(name: &str, limit: Duration) -> Error {
    Error::internal(format!("link {name} still has tentative addresses after {} seconds", limit.as_secs()))
}

/// The request that adds an address, for pipelines.
pub(crate) fn new_address(index: u32, net: IpNet) -> Message {
    address_message(RTM_NEWADDR, CREATE | EXCL, index, net)
}

/// The same without the route to the address's network that the kernel otherwise adds.
pub(crate) fn new_address_alone(index: u32, net: IpNet) -> Message {
    let mut message = new_address(index, net);
    message.u32(IFA_FLAGS, IFA_F_NOPREFIXROUTE);
    message
}

/// The same for an address that nobody else on the link can have: an IPv6 address is not looked for there first.
pub(crate) fn new_address_at_once(index: u32, net: IpNet) -> Message {
    let mut message = new_address(index, net);
    if net.addr().is_ipv6() {
        message.u32(IFA_FLAGS, IFA_F_NODAD);
    }
    message
}

/// IPv4 addresses with room for one get a broadcast address, as `ip address add … brd +` and the reference give them.
fn address_message(kind: u16, flags: u16, index: u32, net: IpNet) -> Message {
    const FIRST_WITHOUT_BROADCAST: u8 = 31;
    let mut message = Message::new(kind, flags);
    message.raw(&ifaddrmsg(family_of(net.addr()), net.prefix_len(), index));
    push_ip(&mut message, IFA_LOCAL, net.addr());
    push_ip(&mut message, IFA_ADDRESS, net.addr());
    if let IpNet::V4(v4) = net
        && v4.prefix_len() < FIRST_WITHOUT_BROADCAST
    {
        message.attribute(IFA_BROADCAST, &Ipv4Net::broadcast(&v4).octets());
    }
    message
}

/// One address of a dump. Kernels before 4.20 ignore the filter by link.
pub(super) fn parse(body: &[u8], wanted: u32) -> Result<Option<Address>> {
    let &[family, prefix, flags, _, index @ ..] = body.first_chunk::<IFADDRMSG>().unwrap_or(&[0; IFADDRMSG]);
    if wanted != ALL_LINKS && u32::from_ne_bytes(index) != wanted {
        return Ok(None);
    }
    let attributes = Attributes::after(body, IFADDRMSG)?;
    let bytes = attributes.find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS)).map_or(&[][..], |ip| ip.payload);
    let net = ip_from(family, bytes).and_then(|ip| IpNet::new(ip, prefix).ok());
    let flags = attributes.find(IFA_FLAGS).and_then(Attribute::u32).unwrap_or(u32::from(flags));
    Ok(net.map(|net| Address { net, flags }))
}

/// `AF_INET` or `AF_INET6`.
pub(crate) fn family_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// Appends an address of either family.
pub(crate) fn push_ip(message: &mut Message, kind: u16, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => message.attribute(kind, &ip.octets()),
        IpAddr::V6(ip) => message.attribute(kind, &ip.octets()),
    };
}

/// The address in an attribute.
pub(crate) fn ip_from(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// The address of all zeros; `None` for other families than IPv4 and IPv6.
pub(crate) fn unspecified(family: u8) -> Option<IpAddr> {
    ip_from(family, if family == AF_INET { &[0; 4] } else { &[0; 16] })
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, link index.
fn ifaddrmsg(family: u8, prefix: u8, index: u32) -> [u8; IFADDRMSG] {
    let [a, b, c, d] = index.to_ne_bytes();
    [family, prefix, 0, 0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_its_broadcast() {
        #[rustfmt::skip]
        let golden = [
            2, 16, 0, 0, 3, 0, 0, 0,            // ifaddrmsg: IPv4, /16, link 3
            8, 0, 2, 0, 10, 88, 0, 2,           // IFA_LOCAL
            8, 0, 1, 0, 10, 88, 0, 2,           // IFA_ADDRESS
            8, 0, 4, 0, 10, 88, 255, 255,       // IFA_BROADCAST
        ];
        let message = new_address(3, "10.88.0.2/16".parse().unwrap());
        assert_eq!(message.body(), golden);
        assert_eq!(parse(&golden, 3).unwrap().unwrap().net.to_string(), "10.88.0.2/16");
        assert_eq!(parse(&golden, 4).unwrap(), None);
    }

    #[test]
    fn an_address_without_a_route_to_its_network() {
        let net = "fd00::2/64".parse().unwrap();
        let (plain, alone) = (new_address(3, net), new_address_alone(3, net));
        let flags = alone.body().strip_prefix(plain.body()).unwrap();
        assert_eq!(flags, [8, 0, 8, 0, 0, 2, 0, 0], "IFA_FLAGS: IFA_F_NOPREFIXROUTE");
        let at_once = new_address_at_once(3, net);
        let flags = at_once.body().strip_prefix(plain.body()).unwrap();
        assert_eq!(flags, [8, 0, 8, 0, 2, 0, 0, 0], "IFA_FLAGS: IFA_F_NODAD");
    }

    #[test]
    fn point_to_point_prefixes_have_no_broadcast() {
        assert_eq!(new_address(3, "10.88.0.2/31".parse().unwrap()).body().len(), 24);
    }
}
