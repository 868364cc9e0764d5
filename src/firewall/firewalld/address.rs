//! Addresses of message buses, as `DBUS_SYSTEM_BUS_ADDRESS` holds them (D-Bus specification, "Server Addresses").

use crate::error::{Error, Result};

/// Where the system bus listens unless told otherwise: the specification's path, and what it is a link to today.
const DEFAULT: &str = "unix:path=/var/run/dbus/system_bus_socket;unix:path=/run/dbus/system_bus_socket";

/// One place where a bus may listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// As written, for error texts.
    pub(super) text: String,
    /// Name of the socket; `None` when it is of a kind that we don't speak.
    pub(super) socket: Option<Socket>,
}

/// A socket of the unix family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket {
    /// A path, or a name outside of the file system.
    pub(super) name: Vec<u8>,
    /// Which of the two.
    pub(super) is_abstract: bool,
}

/// Reads a list of addresses, in order of preference; an empty text means the system bus's usual place.
pub(super) fn parse(text: &str) -> Result<Vec<Address>> {
    let text = if text.is_empty() { DEFAULT } else { text };
    text.split(';').filter(|address| !address.is_empty()).map(parse_one).collect()
}

fn parse_one(text: &str) -> Result<Address> {
    let malformed = || Error::internal(format!("malformed D-Bus address {text:?}"));
    let (transport, pairs) = text.split_once(':').ok_or_else(malformed)?;
    let mut socket = None;
    for pair in pairs.split(',').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(malformed)?;
        let name = unescape(value).ok_or_else(malformed)?;
        match key {
            "path" => socket = Some(Socket { name, is_abstract: false }),
            "abstract" => socket = Some(Socket { name, is_abstract: true }),
            // guid and whatever else there may be: nothing that we need.
            _ => {}
        }
    }
    Ok(Address { text: text.to_string(), socket: socket.filter(|_| transport == "unix") })
}

/// Replaces `%41` by `A`.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hexadecimal(bytes.next()?)? << 4 | hexadecimal(bytes.next()?)?,
            byte => byte,
        });
    }
    Some(out)
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(text: &str) -> Vec<Option<(String, bool)>> {
        let name = |socket: Socket| (String::from_utf8(socket.name).unwrap(), socket.is_abstract);
        parse(text).unwrap().into_iter().map(|address| address.socket.map(name)).collect()
    }

    #[test]
    fn without_an_address_the_bus_is_in_its_usual_place() {
        let usual = ["/var/run/dbus/system_bus_socket", "/run/dbus/system_bus_socket"];
        assert_eq!(sockets(""), usual.map(|path| Some((path.to_string(), false))));
    }

    #[test]
    fn several_addresses_with_escapes_and_further_keys() {
        let text = "unix:path=/a%20b%2c;tcp:host=h,port=1;;unix:abstract=x=y,guid=0f;unix:guid=1,path=/c;unix:dir=/tmp";
        let expected = [Some(("/a b,", false)), None, Some(("x=y", true)), Some(("/c", false)), None];
        let expected: Vec<_> = expected.map(|one| one.map(|(name, kind)| (name.to_string(), kind))).to_vec();
        assert_eq!(sockets(text), expected);
    }

    #[test]
    fn malformed_addresses_are_named() {
        for bad in ["path", "unix:path", "unix:path=%4", "unix:path=%zz", "unix:path=/a;/b"] {
            let error = parse(bad).unwrap_err().msg.clone();
            assert!(error.starts_with("malformed D-Bus address"), "{bad}: {error}");
        }
    }
}
