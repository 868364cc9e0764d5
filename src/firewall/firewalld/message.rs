//! Messages of D-Bus as bytes (D-Bus specification, "Message Protocol"): method calls with strings for arguments, and the
//! replies to them. Nothing here reads or writes a socket.

use crate::error::{Error, Result};

/// Length of the part of a message that has a fixed size, in bytes.
pub(super) const FIXED: usize = 16;
/// Longest message that is accepted, in bytes. A reply to us has some hundred, or some thousand where it holds a traceback.
const LONGEST: usize = 1024 * 1024;
/// Every message's header ends, and every structure in it starts, at a multiple of this.
const STRUCTURE: usize = 8;

/// Kinds of messages.
mod kind {
    pub(super) const CALL: u8 = 1;
    pub(super) const RETURN: u8 = 2;
    pub(super) const ERROR: u8 = 3;
}

/// Header fields.
mod field {
    pub(super) const PATH: u8 = 1;
    pub(super) const INTERFACE: u8 = 2;
    pub(super) const MEMBER: u8 = 3;
    pub(super) const ERROR_NAME: u8 = 4;
    pub(super) const REPLY_SERIAL: u8 = 5;
    pub(super) const DESTINATION: u8 = 6;
    pub(super) const SIGNATURE: u8 = 8;
}

/// A call of a method.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    /// Name of the receiver on the bus.
    pub(super) destination: &'a str,
    /// Object.
    pub(super) path: &'a str,
    /// Interface.
    pub(super) interface: &'a str,
    /// Method.
    pub(super) member: &'a str,
    /// Arguments.
    pub(super) arguments: &'a [&'a str],
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// The method returned; its first value if that is a string or a truth value.
    Return(Option<Value>),
    /// The method failed.
    Error {
        /// Such as `org.freedesktop.DBus.Error.ServiceUnknown`.
        name: String,
        /// For people; may be empty.
        text: String,
    },
}

/// A value that we understand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// `s`
    Text(String),
    /// `b`
    Boolean(bool),
}

/// A message of which only the fixed part has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    big_endian: bool,
    kind: u8,
    body: usize,
    fields: usize,
}

impl Call<'_> {
    /// The message, little-endian.
    pub(super) fn bytes(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        self.arguments.iter().for_each(|argument| body.text(argument));
        let mut out = Writer::default();
        out.0.extend([b'l', kind::CALL, 0, 1]);
        out.word(length(&body.0));
        out.word(serial);
        let fields_length_at = out.0.len();
        out.word(0);
        let fields_at = out.0.len();
        out.field(field::PATH, "o", |out| out.text(self.path));
        out.field(field::DESTINATION, "s", |out| out.text(self.destination));
        out.field(field::INTERFACE, "s", |out| out.text(self.interface));
        out.field(field::MEMBER, "s", |out| out.text(self.member));
        if !self.arguments.is_empty() {
            out.field(field::SIGNATURE, "g", |out| out.signature(&"s".repeat(self.arguments.len())));
        }
        let fields = (length(&out.0) - length(out.0.get(..fields_at).unwrap_or_default())).to_le_bytes();
        if let Some(place) = out.0.get_mut(fields_length_at..fields_at) {
            place.copy_from_slice(&fields);
        }
        out.align(STRUCTURE);
        out.0.extend(body.0);
        out.0
    }
}

impl Start {
    /// Reads the fixed part: byte order, kind, flags, version, length of the body, serial, length of the fields.
    pub(super) fn parse(bytes: &[u8; FIXED]) -> Result<Self> {
        let [order, kind, _, version, rest @ ..] = bytes;
        let big_endian = match order {
            b'l' => false,
            b'B' => true,
            _ => return Err(malformed("byte order")),
        };
        if *version != 1 {
            return Err(malformed("version"));
        }
        let mut reader = Reader { bytes: rest, at: 0, big_endian };
        let (body, _serial, fields) = (reader.length()?, reader.word()?, reader.length()?);
        let start = Start { big_endian, kind: *kind, body, fields };
        // Each of the two is checked alone first, so that their sum cannot overflow.
        if body > LONGEST || fields > LONGEST || start.remaining() > LONGEST {
            return Err(Error::internal(format!("a message of {body} + {fields} bytes is too long")));
        }
        Ok(start)
    }

    /// Number of bytes that follow the fixed part.
    pub(super) fn remaining(&self) -> usize {
        self.fields.next_multiple_of(STRUCTURE) + self.body
    }

    /// Reads what follows the fixed part: the reply to the call with this serial number, or `None` for any other message.
    pub(super) fn reply(&self, rest: &[u8], serial: u32) -> Result<Option<Reply>> {
        if self.kind != kind::RETURN && self.kind != kind::ERROR {
            return Ok(None);
        }
        let (fields, body) = rest.split_at_checked(rest.len().saturating_sub(self.body)).unwrap_or_default();
        let fields = fields.get(..self.fields).ok_or_else(|| malformed("length"))?;
        let header = Header::parse(&mut Reader { bytes: fields, at: 0, big_endian: self.big_endian })?;
        if header.reply_serial != Some(serial) {
            return Ok(None);
        }
        let value = Reader { bytes: body, at: 0, big_endian: self.big_endian }.first_value(&header.signature)?;
        Ok(Some(match (self.kind, value) {
            (kind::RETURN, value) => Reply::Return(value),
            (_, Some(Value::Text(text))) => Reply::Error { name: header.error_name, text },
            (_, _) => Reply::Error { name: header.error_name, text: String::new() },
        }))
    }
}

/// The header fields that we need.
#[derive(Debug, Default)]
struct Header {
    reply_serial: Option<u32>,
    error_name: String,
    signature: String,
}

impl Header {
    /// Fields start behind the fixed part, which is a multiple of every alignment, so they may be read on their own.
    fn parse(reader: &mut Reader<'_>) -> Result<Self> {
        let mut header = Header::default();
        while reader.at < reader.bytes.len() {
            reader.align(STRUCTURE)?;
            let code = reader.byte()?;
            let signature = reader.signature()?;
            match (code, signature.as_str()) {
                (field::REPLY_SERIAL, "u") => header.reply_serial = Some(reader.word()?),
                (field::ERROR_NAME, "s") => header.error_name = reader.text()?,
                (field::SIGNATURE, "g") => header.signature = reader.signature()?,
                (_, other) => reader.skip(other)?,
            }
        }
        Ok(header)
    }
}

#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn word(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.word(length(text.as_bytes()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// At most 255 bytes; ours have a few.
    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn field(&mut self, code: u8, signature: &str, value: impl FnOnce(&mut Self)) {
        self.align(STRUCTURE);
        self.0.push(code);
        self.signature(signature);
        value(self);
    }
}

#[derive(Debug)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).ok_or_else(|| malformed("length"))?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| malformed("length"))?;
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn word(&mut self) -> Result<u32> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().map_err(|_| malformed("length"))?;
        Ok(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn length(&mut self) -> Result<usize> {
        Ok(self.word()? as usize)
    }

    fn text(&mut self) -> Result<String> {
        let length = self.length()?;
        self.text_of(length)
    }

    fn signature(&mut self) -> Result<String> {
        let length = usize::from(self.byte()?);
        self.text_of(length)
    }

    fn text_of(&mut self, length: usize) -> Result<String> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    fn first_value(&mut self, signature: &str) -> Result<Option<Value>> {
        Ok(match signature.chars().next() {
            Some('s') => Some(Value::Text(self.text()?)),
            Some('b') => Some(Value::Boolean(self.word()? != 0)),
            _ => None,
        })
    }

    /// Skips a value of a simple type; the specification has no header fields of others.
    fn skip(&mut self, signature: &str) -> Result<()> {
        let size = match signature {
            "s" | "o" => return self.text().map(drop),
            "g" => return self.signature().map(drop),
            "y" => 1,
            "n" | "q" => 2,
            "b" | "i" | "u" | "h" => 4,
            "x" | "t" | "d" => 8,
            _ => return Err(malformed("header field")),
        };
        self.align(size)?;
        self.take(size).map(drop)
    }
}

/// The length of something that is far shorter than 4 GiB.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn malformed(what: &str) -> Error {
    Error::internal(format!("malformed D-Bus message: {what}"))
}
