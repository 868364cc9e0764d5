//! Properties of a link that can be changed while it is in use, and changed back.

use std::fmt;

use crate::error::Error;
use crate::net::links::message;
use crate::net::{Handle, Link, Mac};
use crate::netlink::Message;
use crate::netlink::route::*;

/// A property of a link with the value that it has or is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    /// Hardware address.
    Mac(Mac),
    /// Takes all packets. What others ask for meanwhile, a packet sniffer or a bridge, is not counted.
    Promiscuous(bool),
    /// Maximum transmission unit in bytes.
    Mtu(u32),
    /// Takes all multicast packets; others' wishes are not counted here either.
    AllMulticast(bool),
    /// Packets that may wait to be sent.
    Queue(u32),
}

impl Property {
    /// The same property as a link has it.
    pub fn of(&self, link: &Link) -> Property {
        match self {
            Property::Mac(_) => Property::Mac(link.mac.clone()),
            Property::Promiscuous(_) => Property::Promiscuous(link.is_promiscuous()),
            Property::Mtu(_) => Property::Mtu(link.mtu),
            Property::AllMulticast(_) => Property::AllMulticast(link.flags & IFF_ALLMULTI != 0),
            Property::Queue(_) => Property::Queue(link.queue),
        }
    }

    /// What it is called in errors.
    pub fn name(&self) -> &'static str {
        match self {
            Property::Mac(_) => "MAC address",
            Property::Promiscuous(_) => "promiscuous mode",
            Property::Mtu(_) => "MTU",
            Property::AllMulticast(_) => "all-multicast mode",
            Property::Queue(_) => "transmit queue length",
        }
    }

    fn message(&self, index: u32) -> Message {
        let (flags, mask) = match self {
            Property::Promiscuous(on) => (u32::from(*on) * IFF_PROMISC, IFF_PROMISC),
            Property::AllMulticast(on) => (u32::from(*on) * IFF_ALLMULTI, IFF_ALLMULTI),
            _ => (0, 0),
        };
        let mut request = message(RTM_SETLINK, 0, index, flags, mask);
        match self {
            Property::Mac(mac) => drop(request.attribute(IFLA_ADDRESS, mac.bytes())),
            Property::Mtu(mtu) => drop(request.u32(IFLA_MTU, *mtu)),
            Property::Queue(length) => drop(request.u32(IFLA_TXQLEN, *length)),
            Property::Promiscuous(_) | Property::AllMulticast(_) => {}
        }
        request
    }
}

impl fmt::Display for Property {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Property::Mac(mac) => mac.fmt(out),
            Property::Promiscuous(on) | Property::AllMulticast(on) => on.fmt(out),
            Property::Mtu(number) | Property::Queue(number) => number.fmt(out),
        }
    }
}

impl Handle {
    /// Gives a link these properties, all in one send. The first that the kernel refused is named by its index; those behind
    /// it have been tried nevertheless.
    pub fn tune(&mut self, index: u32, wanted: &[Property]) -> std::result::Result<(), (usize, Error)> {
        self.connection.pipeline(wanted.iter().map(|property| property.message(index)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_in_the_header_and_all_else_in_attributes() {
        let flags = Property::Promiscuous(true).message(7);
        assert_eq!(flags.body(), [0, 0, 0, 0, 7, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0]);
        let cleared = Property::AllMulticast(false).message(7);
        assert_eq!(cleared.body(), [0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]);
        let queue = Property::Queue(0).message(7);
        assert_eq!(queue.body()[8..], [0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 13, 0, 0, 0, 0, 0]);
    }
}
