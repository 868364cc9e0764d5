//! Writing messages.

use smallvec::SmallVec;

/// Request (`NLM_F_REQUEST`).
pub const REQUEST: u16 = 0x001;
/// An answer is wanted even when nothing went wrong (`NLM_F_ACK`).
pub const ACK: u16 = 0x004;
/// The requester, too, gets what others are told about it (`NLM_F_ECHO`).
pub const ECHO: u16 = 0x008;
/// All objects instead of one (`NLM_F_DUMP`).
pub const DUMP: u16 = 0x300;
/// Change it if it exists (`NLM_F_REPLACE`).
pub const REPLACE: u16 = 0x100;
/// Fail if it exists (`NLM_F_EXCL`).
pub const EXCL: u16 = 0x200;
/// Create if it is missing (`NLM_F_CREATE`).
pub const CREATE: u16 = 0x400;
/// Put it at the end (`NLM_F_APPEND`).
pub const APPEND: u16 = 0x800;

/// Type bit of attributes that hold attributes (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;

/// Length of `struct nlmsghdr` in bytes.
pub const HEADER_LENGTH: usize = 16;

/// Attributes and messages start at multiples of this many bytes.
pub const ALIGNMENT: usize = 4;

/// One message being written. Sequence and port are filled in by the connection that sends it.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: SmallVec<[u8; 512]>,
    /// An attribute is longer than its 16-bit length can say.
    oversized: bool,
}

impl Message {
    /// A request of this type. `flags` are added to `NLM_F_REQUEST`.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut message = Message { bytes: SmallVec::new(), oversized: false };
        message.write(&[0; 4]);
        message.write(&kind.to_ne_bytes());
        message.write(&(flags | REQUEST).to_ne_bytes());
        message.write(&[0; 8]);
        message
    }

    /// Appends raw bytes (the fixed struct behind the header), padded.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.write(bytes);
        self.pad()
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let start = self.begin(kind);
        self.write(payload);
        self.end(start)
    }

    /// Appends a one-byte attribute.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attribute(kind, &[value])
    }

    /// Appends a two-byte attribute in host order.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends a four-byte attribute in host order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends a four-byte attribute in network order, as netfilter wants them.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends an eight-byte attribute in network order.
    pub fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends a string with its terminating NUL.
    pub fn string(&mut self, kind: u16, text: &str) -> &mut Self {
        let start = self.begin(kind);
        self.write(text.as_bytes());
        self.bytes.push(0);
        self.end(start)
    }

    /// Appends an attribute that holds what `fill` writes, with the nested bit.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.container(kind | NESTED, fill)
    }

    /// Appends an attribute that holds what `fill` writes, without the nested bit: what some older users of rtnetlink
    /// send and what a struct followed by attributes needs.
    pub fn container(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.begin(kind);
        fill(self);
        self.end(start)
    }

    /// The finished message with this sequence number.
    pub fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = (self.bytes.len() as u32).to_ne_bytes();
        self.overwrite(0, &length);
        self.overwrite(8, &sequence.to_ne_bytes());
        &self.bytes
    }

    /// Its length in bytes so far.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// True when the message cannot be sent, because an attribute is too long.
    pub fn is_oversized(&self) -> bool {
        self.oversized
    }

    /// Adds flags to the header.
    pub fn add_flags(&mut self, flags: u16) {
        let old = self.bytes.get(6..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
        self.overwrite(6, &(old | flags).to_ne_bytes());
    }

    /// Its type.
    pub fn kind(&self) -> u16 {
        self.bytes.get(4..6).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes)
    }

    /// The address family of the request: the first byte of each fixed struct of rtnetlink and
    /// nfnetlink.
    pub fn family(&self) -> u8 {
        self.body().first().copied().unwrap_or(0)
    }

    /// The body without the header.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_LENGTH..).unwrap_or_default()
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.write(&[0; 2]);
        self.write(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) -> &mut Self {
        let length = u16::try_from(self.bytes.len() - start);
        self.oversized |= length.is_err();
        self.overwrite(start, &length.unwrap_or(u16::MAX).to_ne_bytes());
        self.pad()
    }

    fn pad(&mut self) -> &mut Self {
        let padded = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(padded, 0);
        self
    }

    /// Nearly everything is a few bytes long: a loop over them is faster than two calls that could also do megabytes.
    fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes.iter().copied());
    }

    fn overwrite(&mut self, at: usize, new: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + new.len()) {
            place.copy_from_slice(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_too_long_for_its_length_is_noticed() {
        let mut message = Message::new(16, 0);
        message.string(3, &"x".repeat(65_530));
        assert!(!message.is_oversized());
        message.nested(4, |inner| {
            inner.string(3, &"x".repeat(65_530));
        });
        assert!(message.is_oversized());
    }

    #[test]
    fn attributes_are_padded_and_counted_without_padding() {
        let mut message = Message::new(16, ACK);
        message.raw(&[9; 4]).string(3, "ab").nested(18, |inner| {
            inner.u8(1, 7);
        });
        assert_eq!(
            message.body(),
            [
                9, 9, 9, 9, // the fixed struct
                7, 0, 3, 0, b'a', b'b', 0, 0, // a string of two letters and NUL, one byte of padding
                12, 0, 18, 0x80, 5, 0, 1, 0, 7, 0, 0, 0, // nested: its padding counts for the outer length
            ]
        );
        let bytes = message.finish(5).to_vec();
        assert_eq!(bytes[..16], [40, 0, 0, 0, 16, 0, 5, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    }
}
