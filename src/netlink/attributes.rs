//! Reading attributes.

use crate::error::{Error, Result};
use crate::netlink::message::ALIGNMENT;

/// Attribute types without the nested and byte-order bits (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;

/// A run of attributes whose framing has been checked.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

/// One attribute.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    /// Its type without flag bits.
    pub kind: u16,
    /// Its bytes without header and padding.
    pub payload: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Checks that `bytes` is nothing but whole attributes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = split(rest).ok_or_else(malformed)?.1;
        }
        Ok(Attributes(bytes))
    }

    /// The attributes behind a fixed struct of `length` bytes.
    pub fn after(body: &'a [u8], length: usize) -> Result<Self> {
        Attributes::parse(body.get(length.next_multiple_of(ALIGNMENT)..).ok_or_else(malformed)?)
    }

    /// The last attribute of this type, as the kernel's own parser takes it.
    pub fn find(self, kind: u16) -> Option<Attribute<'a>> {
        self.filter(|attribute| attribute.kind == kind).last()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let (attribute, rest) = split(self.0)?;
        self.0 = rest;
        Some(attribute)
    }
}

impl<'a> Attribute<'a> {
    /// First byte.
    pub fn u8(self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// Exactly two bytes in host order.
    pub fn u16(self) -> Option<u16> {
        Some(u16::from_ne_bytes(self.payload.try_into().ok()?))
    }

    /// Exactly four bytes in host order.
    pub fn u32(self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.payload.try_into().ok()?))
    }

    /// Exactly four bytes in network order.
    pub fn be32(self) -> Option<u32> {
        Some(u32::from_be_bytes(self.payload.try_into().ok()?))
    }

    /// Exactly eight bytes in network order.
    pub fn be64(self) -> Option<u64> {
        Some(u64::from_be_bytes(self.payload.try_into().ok()?))
    }

    /// Text up to the first NUL; bytes that are no UTF-8 are replaced.
    pub fn text(self) -> String {
        let end = self.payload.iter().position(|byte| *byte == 0).unwrap_or(self.payload.len());
        String::from_utf8_lossy(self.payload.get(..end).unwrap_or_default()).into_owned()
    }

    /// The attributes inside.
    pub fn nested(self) -> Result<Attributes<'a>> {
        Attributes::parse(self.payload)
    }
}

/// The first attribute and what follows it; `None` when the framing is broken.
fn split(bytes: &[u8]) -> Option<(Attribute<'_>, &[u8])> {
    let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
    let payload = bytes.get(4..length)?;
    let rest = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    Some((Attribute { kind, payload }, rest))
}

fn malformed() -> Error {
    Error::internal("malformed netlink attributes from the kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_and_masks_flag_bits() {
        let bytes = [8, 0, 1, 0x80, 5, 0, 1, 0, 5, 0, 2, 0, 9, 0, 0, 0];
        let attributes = Attributes::parse(&bytes).unwrap();
        let kinds: Vec<u16> = attributes.map(|attribute| attribute.kind).collect();
        assert_eq!(kinds, [1, 2]);
        assert_eq!(attributes.find(2).and_then(Attribute::u8), Some(9));
        assert!(attributes.find(1).unwrap().nested().is_err());
    }

    #[test]
    fn broken_framing_is_an_error() {
        for bytes in [&[3u8, 0, 1, 0][..], &[9, 0, 1, 0, 1], &[4, 0, 1], &[0, 0, 0, 0]] {
            assert!(Attributes::parse(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn the_last_attribute_may_lack_its_padding() {
        assert_eq!(Attributes::parse(&[5, 0, 1, 0, 1]).unwrap().count(), 1);
    }
}
