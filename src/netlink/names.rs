//! What people call a request, for the log (`sys::log`).

use std::fmt::{self, Display, Formatter};

use crate::netlink::Attributes;
use crate::netlink::message::Message;

/// Objects of rtnetlink from `RTM_BASE` on, four message types each (`linux/rtnetlink.h`).
const ROUTE_OBJECTS: [&str; 8] = ["LINK", "ADDR", "ROUTE", "NEIGH", "RULE", "QDISC", "TCLASS", "TFILTER"];
const ROUTE_VERBS: [&str; 4] = ["NEW", "DEL", "GET", "SET"];
const ROUTE_BASE: u16 = 16;

/// Objects of nf_tables, three message types each (`linux/netfilter/nf_tables.h`).
const NFTABLES_OBJECTS: [&str; 6] = ["TABLE", "CHAIN", "RULE", "SET", "SETELEM", "GEN"];
const NFTABLES_VERBS: [&str; 3] = ["NEW", "GET", "DEL"];
/// The subsystem, in the upper byte of a type (`NFNL_SUBSYS_NFTABLES`).
const NFTABLES: u16 = 10;

/// `IFLA_IFNAME`, and the length of `struct ifinfomsg` before the attributes.
const IFNAME: u16 = 3;
const IFINFOMSG: usize = 16;

/// The kinds of these messages, equal ones in a row once with their number, and the link of the first:
/// `netlink NEWADDR 2xNEWROUTE #7`.
pub(super) struct Names<'a>(pub(super) &'a [Message]);

impl Display for Names<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str("netlink")?;
        for equal in self.0.chunk_by(|one, next| one.kind() == next.kind()) {
            out.write_str(" ")?;
            if equal.len() > 1 {
                write!(out, "{}x", equal.len())?;
            }
            equal.first().map_or(Ok(()), |message| write_kind(message.kind(), out))?;
        }
        self.0.first().map_or(Ok(()), |message| write_link(message, out))
    }
}

fn write_kind(number: u16, out: &mut Formatter<'_>) -> fmt::Result {
    let (subsystem, low) = (number >> 8, number & 0xff);
    let known = match (subsystem, low.checked_sub(ROUTE_BASE)) {
        (0, Some(low)) => name(&ROUTE_OBJECTS, &ROUTE_VERBS, low),
        (NFTABLES, _) => name(&NFTABLES_OBJECTS, &NFTABLES_VERBS, low),
        _ => None,
    };
    match known {
        Some((verb, object)) => write!(out, "{verb}{object}"),
        None => write!(out, "{number:#x}"),
    }
}

fn name<'n>(objects: &[&'n str], verbs: &[&'n str], number: u16) -> Option<(&'n str, &'n str)> {
    let number = usize::from(number);
    Some((verbs.get(number % verbs.len())?, objects.get(number / verbs.len())?))
}

/// The link that a request about links is for, by name or by index.
fn write_link(message: &Message, out: &mut Formatter<'_>) -> fmt::Result {
    let is_about_links = (ROUTE_BASE..ROUTE_BASE + ROUTE_VERBS.len() as u16).contains(&message.kind());
    let named = Attributes::after(message.body(), IFINFOMSG).ok().and_then(|attributes| attributes.find(IFNAME));
    let index = message.body().get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    match named {
        _ if !is_about_links => Ok(()),
        Some(name) => write!(out, " {}", name.text()),
        None if index == 0 => Ok(()),
        None => write!(out, " #{index}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(messages: &[Message]) -> String {
        Names(messages).to_string()
    }

    #[test]
    fn requests_are_named() {
        let mut link = Message::new(16, 0);
        link.raw(&[0; 16]).string(3, "eth0");
        let mut index = Message::new(19, 0);
        index.raw(&[0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            of(&[link, Message::new(20, 0), Message::new(24, 0), Message::new(24, 0)]),
            "netlink NEWLINK NEWADDR 2xNEWROUTE eth0"
        );
        assert_eq!(of(&[index]), "netlink SETLINK #7");
        assert_eq!(of(&[Message::new(0x0a06, 0), Message::new(0x0a10, 0)]), "netlink NEWRULE GETGEN");
        assert_eq!(of(&[Message::new(0x0102, 0)]), "netlink 0x102");
    }
}
