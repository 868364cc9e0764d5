//! What the record of ADD says of a device of the host that `host-device` has moved into a container: its name there, and what
//! else it is known by. The container's root can rename the device and give it another alias and hardware address.

use std::fmt;

use crate::error::Result;
use crate::net::{Handle, Link};

/// A line with name, index of the lower device (or 0), and permanent hardware address (or nothing).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Name on the host.
    pub name: String,
    /// Index of the veth peer or lower device, if that is in the host's namespace.
    pub(super) lower: Option<u32>,
    /// See [`Link::permanent_mac`].
    pub(super) permanent_mac: String,
}

impl Card {
    /// Describes `link` of the container, which is called `name` on the host.
    pub fn new(name: &str, inside: &mut Handle, link: &Link) -> Result<Self> {
        let (lower, permanent_mac) = (inside.lower_at_home(link)?, link.permanent_mac.to_string());
        Ok(Card { name: name.to_string(), lower, permanent_mac })
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (name, lower, permanent_mac) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let lower = Some(lower).filter(|lower| *lower != 0);
        Some(Card { name: name.to_string(), lower, permanent_mac: permanent_mac.to_string() })
    }
}

impl fmt::Display for Card {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.name, self.lower.unwrap_or(0), self.permanent_mac)
    }
}
