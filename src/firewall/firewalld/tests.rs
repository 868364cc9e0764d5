//! Bytes of messages, and a bus played by a thread.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Firewalld;
use super::bus::Bus;
use super::message::{Call, FIXED, Reply, Start, Value};
use crate::error::{Errno, Error, Result};

/// `GetNameOwner("a")`, serial 2, as dbus-daemon takes it.
const CALL: &[u8] = b"l\x01\x00\x01\x06\x00\x00\x00\x02\x00\x00\x00\x7f\x00\x00\x00\
    \x01\x01o\x00\x15\x00\x00\x00/org/freedesktop/DBus\x00\x00\x00\
    \x06\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00\
    \x02\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00\
    \x03\x01s\x00\x0c\x00\x00\x00GetNameOwner\x00\x00\x00\x00\
    \x08\x01g\x00\x01s\x00\x00\x01\x00\x00\x00a\x00";

#[test]
fn a_call_is_encoded_as_the_specification_says() {
    let bus = "org.freedesktop.DBus";
    let path = "/org/freedesktop/DBus";
    let call = Call { destination: bus, path, interface: bus, member: "GetNameOwner", arguments: &["a"] };
    assert_eq!(call.bytes(2).escape_ascii().to_string(), CALL.escape_ascii().to_string());
}

/// Writes messages as a bus would, in either byte order.
struct Builder {
    big_endian: bool,
    bytes: Vec<u8>,
}

impl Builder {
    fn new(big_endian: bool) -> Self {
        Builder { big_endian, bytes: Vec::new() }
    }

    fn align(mut self, to: usize) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
        self
    }

    fn word(mut self, value: u32) -> Self {
        self = self.align(4);
        self.bytes.extend(if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.word(text.len() as u32).raw(text.as_bytes()).raw(&[0])
    }
}

/// What a bus sends.
#[derive(Clone)]
enum Sent {
    Text(&'static str),
    Boolean(bool),
    Nothing,
    Error(&'static str, &'static str),
    Signal,
}

/// A message about the call with this serial number.
fn message(sent: &Sent, serial: u32, big_endian: bool) -> Vec<u8> {
    let new = || Builder::new(big_endian);
    let (kind, signature, body) = match sent {
        Sent::Text(text) | Sent::Error(_, text) => (2, "s", new().text(text)),
        Sent::Boolean(value) => (2, "b", new().word(u32::from(*value))),
        Sent::Nothing => (2, "", new()),
        Sent::Signal => (4, "s", new().text("signal")),
    };
    let kind = if matches!(sent, Sent::Error(..)) { 3 } else { kind };
    // A field of a kind that we don't need comes first.
    let mut fields = new().raw(&[7, 1, b's', 0]).text(":1.7").align(8).raw(&[5, 1, b'u', 0]).word(serial);
    if let Sent::Error(name, _) = sent {
        fields = fields.align(8).raw(&[4, 1, b's', 0]).text(name);
    }
    if !signature.is_empty() {
        fields = fields.align(8).raw(&[8, 1, b'g', 0, 1]).raw(signature.as_bytes()).raw(&[0]);
    }
    let order = if big_endian { b'B' } else { b'l' };
    let start = Builder { big_endian, bytes: vec![order, kind, 0, 1] };
    let start = start.word(body.bytes.len() as u32).word(99).word(fields.bytes.len() as u32);
    start.raw(&fields.bytes).align(8).raw(&body.bytes).bytes
}

fn read(bytes: &[u8], serial: u32) -> Result<Option<Reply>> {
    let (fixed, rest) = bytes.split_first_chunk::<FIXED>().unwrap();
    let start = Start::parse(fixed)?;
    assert_eq!(start.remaining(), rest.len());
    start.reply(rest, serial)
}

#[test]
fn replies_are_read_in_both_byte_orders() {
    for big_endian in [false, true] {
        let reply = |sent: Sent| read(&message(&sent, 7, big_endian), 7).unwrap();
        assert_eq!(reply(Sent::Text("x")), Some(Reply::Return(Some(Value::Text("x".into())))));
        assert_eq!(reply(Sent::Boolean(true)), Some(Reply::Return(Some(Value::Boolean(true)))));
        assert_eq!(reply(Sent::Nothing), Some(Reply::Return(None)));
        let error = Reply::Error { name: "a.b".into(), text: "why".into() };
        assert_eq!(reply(Sent::Error("a.b", "why")), Some(error));
        assert_eq!(reply(Sent::Signal), None);
        assert_eq!(read(&message(&Sent::Nothing, 8, big_endian), 7).unwrap(), None);
    }
}

#[test]
fn torn_and_overlong_messages_are_errors_and_never_panics() {
    let whole = message(&Sent::Error("a.b", "why"), 7, false);
    let (fixed, rest) = whole.split_first_chunk::<FIXED>().unwrap();
    for end in 0..rest.len() {
        assert!(Start::parse(fixed).unwrap().reply(&rest[..end], 7).is_err(), "cut at {end}");
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let (fixed, rest) = bytes.split_first_chunk::<FIXED>().unwrap();
            let _ = Start::parse(fixed).and_then(|start| start.reply(rest, 7));
        }
    }
    let mut long = *fixed;
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Start::parse(&long).unwrap_err().msg.contains("too long"));
}

/// A bus that takes one connection; ends with it.
struct FakeBus {
    address: String,
    thread: Option<JoinHandle<()>>,
}

impl FakeBus {
    fn new(conversation: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cni-box-bus-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let thread = std::thread::spawn(move || conversation(listener.accept().unwrap().0));
        FakeBus { address: format!("unix:abstract={name}"), thread: Some(thread) }
    }

    /// A bus that lets us in and sends these, one or several for each call after Hello.
    fn answering(answers: Vec<Vec<Sent>>, big_endian: bool) -> Self {
        FakeBus::new(move |stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            authenticate(&mut reader, &stream);
            let hello = vec![Sent::Text(":1.1"), Sent::Signal];
            for answer in std::iter::once(hello).chain(answers) {
                let serial = next_call(&mut reader);
                for sent in answer {
                    (&stream).write_all(&message(&sent, serial, big_endian)).unwrap();
                }
            }
        })
    }
}

impl Drop for FakeBus {
    fn drop(&mut self) {
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn authenticate(reader: &mut impl BufRead, mut stream: &UnixStream) {
    let mut lines = [String::new(), String::new(), String::new()];
    reader.read_line(&mut lines[0]).unwrap();
    stream.write_all(b"DATA\r\n").unwrap();
    reader.read_line(&mut lines[1]).unwrap();
    stream.write_all(b"OK 0123456789abcdef\r\n").unwrap();
    reader.read_line(&mut lines[2]).unwrap();
    assert_eq!(lines, ["\0AUTH EXTERNAL\r\n", "DATA\r\n", "BEGIN\r\n"]);
}

/// Reads a call and gives its serial number.
fn next_call(reader: &mut impl Read) -> u32 {
    let mut fixed = [0; FIXED];
    reader.read_exact(&mut fixed).unwrap();
    let mut rest = vec![0; Start::parse(&fixed).unwrap().remaining()];
    reader.read_exact(&mut rest).unwrap();
    u32::from_le_bytes(fixed[8..12].try_into().unwrap())
}

fn container() -> IpAddr {
    "10.0.0.2".parse().unwrap()
}

#[test]
fn what_is_no_answer_to_us_is_skipped() {
    for big_endian in [false, true] {
        let answers =
            vec![vec![Sent::Signal, Sent::Boolean(true)], vec![Sent::Boolean(false)], vec![Sent::Text("trusted")]];
        let bus = FakeBus::answering(answers, big_endian);
        let mut firewalld = Firewalld::connect(&bus.address).unwrap();
        assert_eq!(firewalld.query_source("trusted", container()), Ok(true));
        assert_eq!(firewalld.query_source("trusted", container()), Ok(false));
        assert_eq!(firewalld.add_source("trusted", container()), Ok(true));
    }
}

#[test]
fn firewalld_runs_when_it_has_its_name() {
    let error = |name| vec![Sent::Error(name, "no")];
    let no_owner = error("org.freedesktop.DBus.Error.NameHasNoOwner");
    let bus = FakeBus::answering(vec![vec![Sent::Text(":1.2")], no_owner, error("other")], false);
    let mut firewalld = Firewalld::connect(&bus.address).unwrap();
    assert_eq!(firewalld.is_running(), Ok(true));
    assert_eq!(firewalld.is_running(), Ok(false));
    assert_eq!(firewalld.is_running().unwrap_err().msg, "failed to look for firewalld: other: no");
}

#[test]
fn errors_of_firewalld_that_mean_done_are_success() {
    let error = |text| vec![Sent::Error("org.fedoraproject.FirewallD1.Exception", text)];
    let answers = [
        "ZONE_ALREADY_SET: there",
        "UNKNOWN_SOURCE: none",
        "ZONE_CONFLICT: elsewhere",
        "ZONE_CONFLICT: elsewhere",
        "COMMAND_FAILED: x",
    ];
    let bus = FakeBus::answering(answers.into_iter().map(error).collect(), false);
    let mut firewalld = Firewalld::connect(&bus.address).unwrap();
    assert_eq!(firewalld.add_source("trusted", container()), Ok(false));
    assert_eq!(firewalld.remove_source("trusted", container()), Ok(()));
    assert_eq!(firewalld.remove_source("trusted", container()), Ok(()));
    let conflict = firewalld.add_source("trusted", container()).unwrap_err().msg.clone();
    assert_eq!(
        conflict,
        "failed to add the address 10.0.0.2/32 to trusted zone: org.fedoraproject.FirewallD1.zone.addSource: \
         org.fedoraproject.FirewallD1.Exception: ZONE_CONFLICT: elsewhere"
    );
    assert!(firewalld.remove_source("trusted", container()).unwrap_err().msg.contains("removeSource"));
}

#[test]
fn the_first_bus_that_listens_is_taken() {
    let bus = FakeBus::answering(Vec::new(), false);
    let addresses = format!("unix:path=/nowhere/bus;tcp:host=x;{}", bus.address);
    assert!(Firewalld::connect(&addresses).is_ok());
}

fn refused(addresses: &str) -> Error {
    Bus::connect_within(addresses, Duration::from_millis(200)).unwrap_err()
}

#[test]
fn an_absent_bus_is_named() {
    let error = refused("unix:path=/nowhere/bus");
    assert_eq!(error.msg, "failed to connect to the bus at unix:path=/nowhere/bus: no such file or directory");
    assert!(error.is(Errno::ENOENT));
    assert!(refused("tcp:host=x").msg.contains("only sockets of the unix family"));
}

#[test]
fn a_silent_bus_is_given_up() {
    let bus = FakeBus::new(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let error = refused(&bus.address);
    assert!(error.is(Errno::ETIMEDOUT), "{error}");
    assert!(error.msg.contains(&bus.address) && error.msg.contains("no answer within"), "{error}");
}

#[test]
fn a_bus_whose_queue_is_full_is_given_up() {
    let name = format!("cni-box-full-{}", std::process::id());
    let socket = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&socket).unwrap();
    let mut waiting = Vec::new();
    let error = loop {
        match crate::sys::unix::connect_within(name.as_bytes(), true, Duration::from_millis(50)) {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
        assert!(waiting.len() < 10_000, "the queue has no end");
    };
    assert!(error.is(Errno::EAGAIN), "{error}");
    assert!(refused(&format!("unix:abstract={name}")).is(Errno::ETIMEDOUT));
}

#[test]
fn a_bus_that_refuses_or_hangs_up_is_named() {
    let bus = FakeBus::new(|mut stream| {
        stream.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
        let _ = stream.read(&mut [0; 64]);
    });
    let error = refused(&bus.address);
    let expected = format!("failed to authenticate with the bus at {}: the bus refuses this user", bus.address);
    assert!(error.msg.starts_with(&expected) && error.is(Errno::EACCES), "{error}");

    let bus = FakeBus::new(|stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        authenticate(&mut reader, &stream);
        next_call(&mut reader);
    });
    let error = refused(&bus.address).msg.clone();
    assert!(error.contains("org.freedesktop.DBus.Hello") && error.contains("the bus hung up"), "{error}");
}
