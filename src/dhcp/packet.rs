//! DHCP messages on the wire (RFC 2131, RFC 2132). Nothing that a server sends may harm us: reading is bounded by the
//! length of what was read, and what is cut short is no message at all.

use std::net::Ipv4Addr;

/// Options that somebody here knows (RFC 2132, 3397, 3442).
#[allow(missing_docs)] // The RFCs are the documentation.
pub mod code {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTERS: u8 = 3;
    pub const DNS_SERVERS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const MTU: u8 = 26;
    pub const STATIC_ROUTES: u8 = 33;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETER_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const LARGEST_MESSAGE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const USER_CLASS: u8 = 77;
    pub const DOMAIN_SEARCH: u8 = 119;
    pub const CLASSLESS_ROUTES: u8 = 121;
    /// Microsoft's number for the same, from before RFC 3442.
    pub const OLD_CLASSLESS_ROUTES: u8 = 249;
    pub const END: u8 = 255;
}

/// Values of option 53.
#[allow(missing_docs)]
pub mod kind {
    pub const DISCOVER: u8 = 1;
    pub const OFFER: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const ACK: u8 = 5;
    pub const NAK: u8 = 6;
    pub const RELEASE: u8 = 7;
}

/// `op` of what clients send.
pub const REQUEST: u8 = 1;
/// `op` of what servers send.
pub const REPLY: u8 = 2;
/// Flag of a client that cannot yet hear unicast.
pub const BROADCAST: u16 = 0x8000;

/// `htype` and `hlen` of Ethernet.
const ETHERNET: (u8, u8) = (1, 6);
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Relays and servers drop messages shorter than BOOTP's.
const SHORTEST: usize = 300;
/// What one option of the wire can hold; longer ones are split (RFC 3396).
const LARGEST_PIECE: usize = 255;
const SERVER_NAME: usize = 64;
const FILE_NAME: usize = 128;

/// Options in ascending order of their codes, each once. In memory (and on disk) they are one string of bytes: code, length
/// as two bytes, value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<u8>);

const HEAD: usize = 3;

impl Options {
    /// Options from the bytes that [`Options::as_bytes`] gave; `None` when they are not such.
    pub fn from_bytes(bytes: &[u8]) -> Option<Options> {
        let mut options = Options::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let ([code, high, low], tail) = rest.split_first_chunk::<HEAD>()?;
            let (value, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
            options.append(*code, value);
            rest = tail;
        }
        Some(options)
    }

    /// All of them as a string of bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Codes and values.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let ([code, high, low], tail) = rest.split_first_chunk::<HEAD>()?;
            let (value, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
            rest = tail;
            Some((*code, value))
        })
    }

    /// The value of an option.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.iter().find(|(each, _)| *each == code).map(|(_, value)| value)
    }

    /// A value that is exactly so many bytes.
    pub fn exactly<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.get(code)?.try_into().ok()
    }

    /// A value that is a number of 32 bits.
    pub fn number(&self, code: u8) -> Option<u32> {
        self.exactly(code).map(u32::from_be_bytes)
    }

    /// A value that is one address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.exactly::<4>(code).map(Ipv4Addr::from)
    }

    /// A value that is one address or more. As in the reference, an odd length makes it nothing.
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let (each, odd) = self.get(code).unwrap_or_default().as_chunks::<4>();
        if odd.is_empty() { each.iter().map(|bytes| Ipv4Addr::from(*bytes)).collect() } else { Vec::new() }
    }

    /// Sets or replaces an option.
    pub fn set(&mut self, code: u8, value: &[u8]) {
        self.remove(code);
        self.append(code, value);
    }

    /// Removes an option.
    pub fn remove(&mut self, code: u8) {
        let (start, end) = self.place(code);
        self.0.drain(start..end);
    }

    /// Adds to the end of an option's value, or adds the option: what has no room in one piece comes in several. A value of
    /// more than 65,535 bytes, which no packet can carry, is cut. Pad and end are no options.
    pub fn append(&mut self, code: u8, value: &[u8]) {
        if matches!(code, code::PAD | code::END) {
            return;
        }
        let (start, end) = self.place(code);
        let before = end.saturating_sub(start + HEAD);
        let value = value.get(..usize::from(u16::MAX).saturating_sub(before)).unwrap_or(value);
        let [high, low] = ((before + value.len()) as u16).to_be_bytes();
        self.0.splice(end..end, value.iter().copied());
        let old_head = if end > start { start + HEAD } else { start };
        self.0.splice(start..old_head, [code, high, low]);
    }

    /// Gives back memory that is not needed.
    pub fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    /// Of these options those with these codes, in as little memory as they need.
    pub fn only(&self, codes: &[u8]) -> Options {
        let mut kept = Options::default();
        for (code, value) in self.iter().filter(|(code, _)| codes.contains(code)) {
            kept.append(code, value);
        }
        kept.shrink();
        kept
    }

    /// Where an option is; start and end are the same where it would be.
    fn place(&self, code: u8) -> (usize, usize) {
        let mut start = 0;
        for (each, value) in self.iter() {
            let end = start + HEAD + value.len();
            if each == code {
                return (start, end);
            }
            if each > code {
                break;
            }
            start = end;
        }
        (start, start)
    }
}

/// A DHCP message between an Ethernet client and a server. Names of servers and boot files are nothing to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// [`REQUEST`] or [`REPLY`].
    pub op: u8,
    /// Transaction.
    pub xid: u32,
    /// [`BROADCAST`] or nothing.
    pub flags: u16,
    /// The client's address, when it has one.
    pub client: Ipv4Addr,
    /// The address that is offered or granted.
    pub yours: Ipv4Addr,
    /// The client's hardware address.
    pub hardware: [u8; 6],
    /// Options; those of server name and file (option 52) are among them.
    pub options: Options,
}

impl Packet {
    /// A message to a server, without options but for its type.
    pub fn to_server(kind: u8, xid: u32, hardware: [u8; 6]) -> Packet {
        let mut options = Options::default();
        options.set(code::MESSAGE_TYPE, &[kind]);
        let nobody = Ipv4Addr::UNSPECIFIED;
        Packet { op: REQUEST, xid, flags: 0, client: nobody, yours: nobody, hardware, options }
    }

    /// Value of option 53.
    pub fn kind(&self) -> Option<u8> {
        self.options.exactly::<1>(code::MESSAGE_TYPE).map(|[kind]| kind)
    }

    /// The bytes on the wire, padded to BOOTP's length.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SHORTEST.max(self.options.0.len() + 300));
        bytes.extend([self.op, ETHERNET.0, ETHERNET.1, 0]);
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend([0, 0]); // seconds since the client began; the reference never says
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.client.octets());
        bytes.extend(self.yours.octets());
        bytes.extend([0; 8]); // next server, relay
        bytes.extend(self.hardware);
        bytes.extend([0; 10 + SERVER_NAME + FILE_NAME]);
        bytes.extend(COOKIE);
        for (code, value) in self.options.iter() {
            encode_option(&mut bytes, code, value);
        }
        bytes.push(code::END);
        bytes.resize(bytes.len().max(SHORTEST), code::PAD);
        bytes
    }

    /// Reads a message; `None` when it is none, is cut short (like the reference we insist on the end option), or is not
    /// about Ethernet.
    pub fn decode(bytes: &[u8]) -> Option<Packet> {
        let ([op, htype, hlen, _hops], rest) = bytes.split_first_chunk()?;
        let (xid, rest) = rest.split_first_chunk()?;
        let (_seconds, rest) = rest.split_first_chunk::<2>()?;
        let (flags, rest) = rest.split_first_chunk()?;
        let (client, rest) = rest.split_first_chunk::<4>()?;
        let (yours, rest) = rest.split_first_chunk::<4>()?;
        let (_next_server_and_relay, rest) = rest.split_first_chunk::<8>()?;
        let (hardware, rest) = rest.split_first_chunk()?;
        let (_unused, rest) = rest.split_first_chunk::<10>()?;
        let (server_name, rest) = rest.split_first_chunk::<SERVER_NAME>()?;
        let (file_name, rest) = rest.split_first_chunk::<FILE_NAME>()?;
        let (cookie, rest) = rest.split_first_chunk()?;
        if (*htype, *hlen) != ETHERNET || *cookie != COOKIE {
            return None;
        }
        Some(Packet {
            op: *op,
            xid: u32::from_be_bytes(*xid),
            flags: u16::from_be_bytes(*flags),
            client: Ipv4Addr::from(*client),
            yours: Ipv4Addr::from(*yours),
            hardware: *hardware,
            options: decode_options(rest, file_name, server_name)?,
        })
    }
}

/// One option, in as many pieces as it needs.
fn encode_option(bytes: &mut Vec<u8>, code: u8, value: &[u8]) {
    let mut rest = value;
    loop {
        let (piece, tail) = rest.split_at_checked(LARGEST_PIECE).unwrap_or((rest, &[]));
        bytes.extend([code, piece.len() as u8]);
        bytes.extend(piece);
        rest = tail;
        if rest.is_empty() {
            return;
        }
    }
}

/// The options of a message. Option 52 says that there are more in the file's name, the server's, or both, in this order.
fn decode_options(bytes: &[u8], file_name: &[u8], server_name: &[u8]) -> Option<Options> {
    const IN_FILE: u8 = 1;
    const IN_SERVER_NAME: u8 = 2;
    let mut options = Options::default();
    read_field(&mut options, bytes)?;
    let [overload] = options.exactly::<1>(code::OVERLOAD).unwrap_or_default();
    options.remove(code::OVERLOAD);
    for (flag, field) in [(IN_FILE, file_name), (IN_SERVER_NAME, server_name)] {
        if overload & flag != 0 {
            read_field(&mut options, field)?;
            options.remove(code::OVERLOAD);
        }
    }
    Some(options)
}

/// The options of one field, up to its end option.
fn read_field(options: &mut Options, field: &[u8]) -> Option<()> {
    let mut rest = field;
    loop {
        let (code, tail) = rest.split_first()?;
        rest = match *code {
            code::PAD => tail,
            code::END => return Some(()),
            code => {
                let (length, tail) = tail.split_first()?;
                let (value, tail) = tail.split_at_checked(usize::from(*length))?;
                options.append(code, value);
                tail
            }
        };
    }
}

#[cfg(test)]
mod tests;
