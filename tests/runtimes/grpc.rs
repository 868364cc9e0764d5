//! As much of gRPC as calling a method of a container runtime takes: one call a connection, without TLS or compression
//! (HTTP/2: RFC 9113; its headers: RFC 7541; gRPC's wire format; Protocol Buffers' encoding).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// Longer than any runtime takes, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Calls `/SERVICE/METHOD`; the answer's message, or `None` if there is none because the call failed.
pub fn call(socket: &Path, path: &str, message: &Message) -> Option<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut request = PREFACE.to_vec();
    request.extend(frame(SETTINGS, 0, 0, &[]));
    request.extend(frame(HEADERS, END_HEADERS, 1, &headers(path)));
    let length = u32::try_from(message.0.len()).unwrap().to_be_bytes();
    request.extend(frame(DATA, END_STREAM, 1, &[&[0][..], &length, &message.0].concat()));
    stream.write_all(&request).unwrap();
    let answer = answer(&mut stream);
    answer.get(5..).map(<[u8]>::to_vec)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Literal fields, never indexed by the other side.
fn headers(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// All data until the other side ends the stream.
fn answer(stream: &mut UnixStream) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).expect("the runtime answers in time");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).unwrap();
        match (head[3], head[4]) {
            (DATA, _) => data.extend(payload),
            (HEADERS, flags) if flags & END_STREAM != 0 => return data,
            (kind @ (SETTINGS | PING), 0) => {
                let echo = if kind == PING { payload } else { Vec::new() };
                stream.write_all(&frame(kind, ACK, 0, &echo)).unwrap();
            }
            _ => {}
        }
    }
}

/// A message being written, field by field.
#[derive(Default, Clone)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn number(mut self, field: u8, value: u64) -> Message {
        self.0.push(field << 3);
        self.varint(value)
    }

    pub fn text(self, field: u8, value: &str) -> Message {
        self.bytes(field, value.as_bytes())
    }

    pub fn message(self, field: u8, value: &Message) -> Message {
        self.bytes(field, &value.0)
    }

    /// An entry of a map of texts.
    pub fn entry(self, field: u8, key: &str, value: &str) -> Message {
        self.message(field, &Message::default().text(1, key).text(2, value))
    }

    fn bytes(mut self, field: u8, value: &[u8]) -> Message {
        self.0.push(field << 3 | 2);
        let mut message = self.varint(value.len() as u64);
        message.0.extend(value);
        message
    }

    fn varint(mut self, mut value: u64) -> Message {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }
}

fn read_varint(bytes: &mut &[u8]) -> u64 {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap();
    let value = bytes[..=end].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    *bytes = &bytes[end + 1..];
    value
}

/// A field of a message that has no fields of fixed length: a number, or the bytes of a text or message.
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

fn values(mut message: &[u8], wanted: u64) -> Vec<Value> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = read_varint(&mut message);
        let number = read_varint(&mut message);
        let mut value = Value::Number(number);
        if key & 7 == 2 {
            let (content, rest) = message.split_at(usize::try_from(number).unwrap());
            (value, message) = (Value::Bytes(content.to_vec()), rest);
        }
        if key >> 3 == wanted {
            found.push(value);
        }
    }
    found
}

/// Texts and messages in a field.
pub fn fields(message: &[u8], wanted: u64) -> Vec<Vec<u8>> {
    let bytes = |value| if let Value::Bytes(bytes) = value { Some(bytes) } else { None };
    values(message, wanted).into_iter().filter_map(bytes).collect()
}

/// Numbers in a field.
pub fn numbers(message: &[u8], wanted: u64) -> Vec<u64> {
    let number = |value| if let Value::Number(number) = value { Some(number) } else { None };
    values(message, wanted).into_iter().filter_map(number).collect()
}
