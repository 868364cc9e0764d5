//! A connection to a message bus: over a socket of the unix family, as the user that we are (EXTERNAL).

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::error::{Context, Errno, Error, Result};
use crate::firewall::firewalld::address::{self, Address};
use crate::firewall::firewalld::message::{Call, FIXED, Reply, Start, Value};
use crate::sys::log::Step;
use crate::sys::unix;

/// How long everything said on one connection may take together.
const LIMIT: Duration = Duration::from_secs(10);

/// Longest line of the authentication that is accepted, in bytes.
const LONGEST_LINE: usize = 1024;

/// The bus itself, as a receiver of calls.
pub(super) const BUS: (&str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");

/// A connection to a bus that has told us our name.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    deadline: Instant,
    /// For error texts.
    address: String,
    serial: u32,
}

/// What a method answered, short of failures of the connection.
pub(super) type Answer = std::result::Result<Option<Value>, Refusal>;

/// The error that a method answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Such as `org.freedesktop.DBus.Error.ServiceUnknown`.
    pub(super) name: String,
    /// For people; may be empty.
    pub(super) text: String,
}

impl Bus {
    /// Connects to the first of these addresses (`DBUS_SYSTEM_BUS_ADDRESS`; empty: the usual one) where somebody listens.
    pub(super) fn connect(addresses: &str) -> Result<Self> {
        Bus::connect_within(addresses, LIMIT)
    }

    pub(super) fn connect_within(addresses: &str, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        let mut failure = Error::from(Errno::ENOENT).context("no D-Bus address");
        for address in address::parse(addresses)? {
            match dial(&address, deadline) {
                Ok(stream) => return Bus::greet(stream, address.text, deadline),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn greet(stream: UnixStream, address: String, deadline: Instant) -> Result<Self> {
        let mut bus = Bus { stream, deadline, address, serial: 0 };
        let failed = format!("failed to authenticate with the bus at {}", bus.address);
        bus.authenticate().context(&failed)?;
        match bus.call(&Call { destination: BUS.0, path: BUS.1, interface: BUS.0, member: "Hello", arguments: &[] })? {
            Ok(_) => Ok(bus),
            Err(refusal) => Err(Error::internal(refusal.to_string()).context(&failed)),
        }
    }

    /// EXTERNAL without saying who we are: the bus takes that from the socket. It would not be the same number in another
    /// user namespace.
    fn authenticate(&mut self) -> Result<()> {
        self.write(b"\0AUTH EXTERNAL\r\nDATA\r\n")?;
        for _ in 0..2 {
            let line = self.read_line()?;
            match line.split(' ').next() {
                Some("DATA") => {}
                Some("OK") => return self.write(b"BEGIN\r\n"),
                Some("REJECTED") => return refuse_user(&line),
                _ => return Err(Error::internal(format!("unexpected answer {line:?}"))),
            }
        }
        Err(Error::internal("the bus keeps asking for data"))
    }

    /// Calls a method and waits for the answer. Whatever else comes in is skipped.
    pub(super) fn call(&mut self, call: &Call<'_>) -> Result<Answer> {
        let answered = Step::begin(format_args!("D-Bus {}", call.member)).end(self.call_unnamed(call));
        answered.with_context(|| {
            format!("failed to call {}.{} on the bus at {}", call.interface, call.member, self.address)
        })
    }

    fn call_unnamed(&mut self, call: &Call<'_>) -> Result<Answer> {
        self.serial += 1;
        self.write(&call.bytes(self.serial))?;
        loop {
            let mut fixed = [0; FIXED];
            self.read(&mut fixed)?;
            let start = Start::parse(&fixed)?;
            let mut rest = vec![0; start.remaining()];
            self.read(&mut rest)?;
            match start.reply(&rest, self.serial)? {
                Some(Reply::Return(value)) => return Ok(Ok(value)),
                Some(Reply::Error { name, text }) => return Ok(Err(Refusal { name, text })),
                None => {}
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            let remaining = self.remaining()?;
            // Where the option is refused nothing bounds the wait, as in the reference.
            let _ = self.stream.set_write_timeout(Some(remaining));
            let written = retried(|| self.stream.write(left))?;
            left = left.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            let remaining = self.remaining()?;
            let _ = self.stream.set_read_timeout(Some(remaining));
            let count = retried(|| self.stream.read(left))?;
            if count == 0 {
                return Err(hung_up(Errno::ECONNRESET));
            }
            left = left.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// A line without its end. Read byte by byte, because messages follow.
    fn read_line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        while line.len() < LONGEST_LINE {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.extend(byte);
            if let Some(text) = line.strip_suffix(b"\r\n") {
                return Ok(String::from_utf8_lossy(text).into_owned());
            }
        }
        Err(Error::internal("the bus answers with an endless line"))
    }

    fn remaining(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(timed_out()) } else { Ok(left) }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.text.is_empty() { "" } else { ": " };
        write!(out, "{}{separator}{}", self.name, self.text)
    }
}

fn dial(address: &Address, deadline: Instant) -> Result<UnixStream> {
    let failed = || format!("failed to connect to the bus at {}", address.text);
    let unsupported = || Error::from(Errno::EPROTONOSUPPORT).context("only sockets of the unix family are supported");
    let socket = address.socket.as_ref().ok_or_else(unsupported).with_context(failed)?;
    let left = deadline.saturating_duration_since(Instant::now());
    let connected = unix::connect_within(&socket.name, socket.is_abstract, left);
    connected.map_err(|error| if error.is(Errno::EAGAIN) { timed_out() } else { error }).with_context(failed)
}

fn refuse_user(line: &str) -> Result<()> {
    let msg = format!("the bus refuses this user ({})", line.trim());
    Err(Error::internal(msg).with_errno(Errno::EACCES))
}

fn hung_up(cause: impl Into<Error>) -> Error {
    cause.into().context("the bus hung up")
}

fn timed_out() -> Error {
    let msg = format!("no answer within {} seconds", LIMIT.as_secs());
    Error::internal(msg).with_errno(Errno::ETIMEDOUT)
}

/// Continues after signals. A timeout of the socket is the end of the conversation.
fn retried(mut step: impl FnMut() -> std::io::Result<usize>) -> Result<usize> {
    loop {
        match step() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(timed_out()),
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                return Err(hung_up(error));
            }
            result => return Ok(result?),
        }
    }
}
