//! What people call a request, for the log (`sys::log`).

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

/// The kinds of these messages, with the number of equal ones in a row, and the link of the first: `NEWADDR 2xNEWROUTE #7`.
pub(super) fn of(messages: &[Message]) -> String {
    let mut words: Vec<(usize, String)> = Vec::new();
    for name in messages.iter().map(|message| kind(message.kind())) {
        match words.last_mut() {
            Some((count, last)) if *last == name => *count += 1,
            _ => words.push((1, name)),
        }
    }
    let mut text = String::from("netlink");
    for (count, name) in words {
        let times = if count > 1 { format!("{count}x") } else { String::new() };
        text = text + " " + &times + &name;
    }
    text + &messages.first().and_then(link).unwrap_or_default()
}

fn kind(number: u16) -> String {
    let (subsystem, low) = (number >> 8, number & 0xff);
    let known = match (subsystem, low.checked_sub(ROUTE_BASE)) {
        (0, Some(low)) => name(&ROUTE_OBJECTS, &ROUTE_VERBS, low),
        (NFTABLES, _) => name(&NFTABLES_OBJECTS, &NFTABLES_VERBS, low),
        _ => None,
    };
    known.unwrap_or_else(|| format!("{number:#x}"))
}

fn name(objects: &[&str], verbs: &[&str], number: u16) -> Option<String> {
    let number = usize::from(number);
    let (object, verb) = (objects.get(number / verbs.len())?, verbs.get(number % verbs.len())?);
    Some(format!("{verb}{object}"))
}

/// The link that a request about links is for, by name or by index.
fn link(message: &Message) -> Option<String> {
    let body = message.body();
    if kind(message.kind()).ends_with("LINK") {
        let attributes = crate::netlink::Attributes::after(body, IFINFOMSG).ok()?;
        if let Some(name) = attributes.find(IFNAME) {
            return Some(format!(" {}", name.text()));
        }
        let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
        return Some(format!(" #{index}")).filter(|_| index != 0);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

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
