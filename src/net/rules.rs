//! Rules of routing: which table decides about packets from an address.

use ipnet::IpNet;

use crate::error::{Context, Result};
use crate::net::Handle;
use crate::net::addresses::{family_of, ip_from, push_ip};
use crate::netlink::message::{CREATE, EXCL};
use crate::netlink::route::*;
use crate::netlink::{Attribute, Attributes, Message};

/// Length of `struct fib_rule_hdr` in bytes.
const FIB_RULE_HDR: usize = 12;

/// `FIB_RULE_INVERT`: for packets that come from elsewhere.
const INVERTED: u32 = 2;

/// A rule about where packets come from. All others only matter for the tables that they use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where the packets come from; `None` for rules that ask for anything else, or for more than that.
    pub source: Option<IpNet>,
    /// The table that decides; 0 for rules that don't lead to one.
    pub table: u32,
    /// Its place among the rules; 0 leaves the choice to the kernel, which takes one before all others.
    pub priority: u32,
}

impl Rule {
    /// The request that adds the rule, for pipelines.
    pub(super) fn message(&self) -> Message {
        self.request(RTM_NEWRULE, CREATE | EXCL)
    }

    /// The request that removes the rule, for pipelines.
    pub(super) fn deletion(&self) -> Message {
        self.request(RTM_DELRULE, 0)
    }

    fn request(&self, kind: u16, flags: u16) -> Message {
        let mut message = Message::new(kind, flags);
        let family = self.source.map_or(AF_UNSPEC, |source| family_of(source.addr()));
        let length = self.source.map_or(0, |source| source.prefix_len());
        message.raw(&[family, 0, length, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]);
        if let Some(source) = self.source {
            push_ip(&mut message, FRA_SRC, source.addr());
        }
        message.u32(FRA_TABLE, self.table);
        if self.priority > 0 {
            message.u32(FRA_PRIORITY, self.priority);
        }
        message
    }

    /// A rule of a dump; `None` for families other than IPv4 and IPv6.
    fn parse(body: &[u8]) -> Result<Option<Rule>> {
        let &[family, to, length, tos, table, _, _, action, flags @ ..] =
            body.first_chunk::<FIB_RULE_HDR>().unwrap_or(&[0; FIB_RULE_HDR]);
        if family != AF_INET && family != AF_INET6 {
            return Ok(None);
        }
        let attributes = Attributes::after(body, FIB_RULE_HDR)?;
        let number = |kind| attributes.find(kind).and_then(Attribute::u32);
        let asks_more = (to, tos) != (0, 0)
            || u32::from_ne_bytes(flags) & INVERTED != 0
            || attributes.filter(is_condition).count() > 0;
        let source = attributes.find(FRA_SRC).filter(|_| !asks_more).and_then(|found| ip_from(family, found.payload));
        let leads = action == FR_ACT_TO_TBL;
        Ok(Some(Rule {
            source: source.and_then(|source| IpNet::new(source, length).ok()),
            table: if leads { number(FRA_TABLE).unwrap_or(u32::from(table)) } else { 0 },
            priority: number(FRA_PRIORITY).unwrap_or(0),
        }))
    }
}

/// True for what a rule can ask for besides the source.
fn is_condition(attribute: &Attribute<'_>) -> bool {
    match attribute.kind {
        FRA_SRC | FRA_TABLE | FRA_PRIORITY | FRA_PROTOCOL => false,
        // The kernel tells it always.
        FRA_SUPPRESS_PREFIXLEN => attribute.u32() != Some(u32::MAX),
        _ => true,
    }
}

impl Handle {
    /// All rules of both families.
    pub fn rules(&mut self) -> Result<Vec<Rule>> {
        let mut request = Message::new(RTM_GETRULE, 0);
        request.raw(&[0; FIB_RULE_HDR]);
        let listed = self.connection.dump(&request, Vec::new, |rules, reply| {
            rules.extend(Rule::parse(reply.body)?);
            Ok(())
        });
        listed.context("Failed to list all rules")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_from_an_address() {
        let rule = Rule { source: "10.0.0.2/32".parse().ok(), table: 300, priority: 32765 };
        #[rustfmt::skip]
        let golden = [
            2, 0, 32, 0, 0, 0, 0, 1, 0, 0, 0, 0,    // fib_rule_hdr: IPv4, from /32, to a table
            8, 0, 2, 0, 10, 0, 0, 2,                // FRA_SRC
            8, 0, 15, 0, 0x2c, 1, 0, 0,             // FRA_TABLE
            8, 0, 6, 0, 0xfd, 0x7f, 0, 0,           // FRA_PRIORITY
        ];
        assert_eq!(rule.message().body(), golden);
        assert_eq!(Rule::parse(&golden).unwrap(), Some(rule.clone()));
        let with = |attribute: [u8; 8]| Rule::parse(&[golden.as_slice(), &attribute].concat()).unwrap().unwrap();
        assert_eq!(with([8, 0, 14, 0, 255, 255, 255, 255]), rule);
        let other = Rule { source: None, ..rule };
        assert_eq!(
            (with([8, 0, 14, 0, 0, 0, 0, 0]), with([8, 0, 10, 0, 7, 0, 0, 0])),
            (other.clone(), other),
            "a mark"
        );
    }
}
