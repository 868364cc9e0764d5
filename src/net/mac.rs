//! Hardware addresses.

use std::fmt;

use crate::error::{Errno, Error, Result};
use crate::sys::random;

/// A hardware address of 6 bytes (Ethernet), or 8 or 20 (EUI-64, InfiniBand).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mac(Vec<u8>);

impl Mac {
    /// Bytes as the kernel gives them.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Mac(bytes.to_vec())
    }

    /// A random Ethernet address: unicast, locally administered.
    pub fn random() -> Result<Self> {
        const LOCAL: u8 = 0x02;
        const MULTICAST: u8 = 0x01;
        let mut bytes: [u8; 6] = random::bytes()?;
        if let Some(first) = bytes.first_mut() {
            *first = (*first | LOCAL) & !MULTICAST;
        }
        Ok(Mac(bytes.to_vec()))
    }

    /// A random Ethernet address that is higher than nearly any other. An unpinned bridge takes the lowest address of its
    /// ports, so a port with such an address does not change the bridge's.
    pub fn random_high() -> Result<Self> {
        const HIGH: u8 = 0xfe;
        let mut mac = Mac::random()?;
        mac.0.splice(..1, [HIGH]);
        Ok(mac)
    }

    /// Reads the forms that Go's `net.ParseMAC` reads: byte pairs with `:` or `-`, or groups of four digits with `.`; 6, 8
    /// or 20 bytes.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = || Error::internal(format!("address {text}: invalid MAC address"));
        let (separator, width) = match (text.as_bytes().get(2), text.as_bytes().get(4)) {
            (Some(b':'), _) => (':', 2),
            (Some(b'-'), _) => ('-', 2),
            (_, Some(b'.')) => ('.', 4),
            _ => return Err(invalid()),
        };
        let mut bytes = Vec::new();
        for group in text.split(separator) {
            let digits = group.len() == width && group.bytes().all(|digit| digit.is_ascii_hexdigit());
            let number = u16::from_str_radix(group, 16).ok().filter(|_| digits).ok_or_else(invalid)?;
            let pair = number.to_be_bytes();
            bytes.extend_from_slice(if width == 4 { &pair } else { &pair[1..] });
        }
        if matches!(bytes.len(), 6 | 8 | 20) { Ok(Mac(bytes)) } else { Err(invalid()) }
    }

    /// True if the text is this address, in any of the forms that [`Mac::parse`] reads.
    pub fn is_written(&self, text: &str) -> bool {
        Mac::parse(text).is_ok_and(|parsed| parsed == *self)
    }

    /// True for the address that a link without one has.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Fails for an address that the kernel gives to no Ethernet device (`is_valid_ether_addr`, linux/etherdevice.h).
    pub fn verify_assignable(&self) -> Result<()> {
        const MULTICAST: u8 = 0x01;
        let is_multicast = self.0.first().is_some_and(|first| first & MULTICAST != 0);
        if !self.is_zero() && !is_multicast {
            return Ok(());
        }
        let what = if is_multicast { "a multicast address" } else { "no address" };
        Err(Error::from(Errno::EADDRNOTAVAIL).with_details(format!("mac {self} is {what}")))
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(out, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for text in ["02:00:5e:10:00:01", "02-00-5E-10-00-01", "0200.5e10.0001"] {
            assert_eq!(Mac::parse(text).unwrap().to_string(), "02:00:5e:10:00:01");
        }
        assert_eq!(Mac::parse("02:00:5e:10:00:00:00:01").unwrap().bytes().len(), 8);
        for bad in ["zz", "02:00:5e:10:00", "2:0:5e:10:0:1", "02:00-5e:10:00:01", "", "+2:00:5e:10:00:01"] {
            assert_eq!(Mac::parse(bad).unwrap_err().msg, format!("address {bad}: invalid MAC address"));
        }
    }

    #[test]
    fn random_addresses_are_local_and_unicast() {
        for _ in 0..64 {
            assert_eq!(Mac::random().unwrap().bytes()[0] & 3, 2);
            let high = Mac::random_high().unwrap();
            assert_eq!((high.bytes()[0], high.bytes().len()), (0xfe, 6));
        }
    }
}
