//! The plugin's side of a call to the daemon. Every wait is bounded.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::cni::CniResult;
use crate::dhcp::rpc::{self, CmdArgs, Incoming, Malformed};
use crate::error::{Errno, Error, Result};
use crate::sys::log::Step;
use crate::sys::{output, unix};

/// Where the daemon listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/cni/dhcp.sock";

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens.
    Unreachable(Error),
    /// The daemon said no, in these words.
    Refused(String),
    /// The connection broke, or there was no answer in time.
    Lost(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(text) => out.write_str(text),
            Failure::Unreachable(error) | Failure::Lost(error) => error.fmt(out),
        }
    }
}

impl Failure {
    /// The error, in the reference's words.
    pub fn into_error(self, method: &str) -> Error {
        match self {
            Failure::Unreachable(error) => error.context("error dialing DHCP daemon"),
            Failure::Refused(text) => Error::internal(format!("error calling {method}: {text}")),
            Failure::Lost(error) => error.context(&format!("error calling {method}")),
        }
    }

    /// True when the daemon does not know the method: it is the Go program.
    pub fn is_unknown_method(&self) -> bool {
        matches!(self, Failure::Refused(text) if text.starts_with(rpc::NO_METHOD))
    }
}

/// Tells people something that is no failure.
pub fn note(text: &str) {
    // Nobody can be told when standard error does not take it.
    let _ = output::print_error(format!("dhcp: {text}\n").as_bytes());
}

/// Succeeds when somebody listens at `socket`.
pub fn probe(socket: &str, limit: Duration) -> Result<()> {
    connect(socket, limit).map(drop)
}

fn connect(socket: &str, limit: Duration) -> Result<UnixStream> {
    let connected = unix::connect_within(socket.as_bytes(), false, limit);
    connected.map_err(|error| error.context(&format!("dial unix {socket}: connect")))
}

/// Calls a method of the daemon at `socket`, waiting at most `limit`.
pub fn call(socket: &str, method: &str, args: &CmdArgs, limit: Duration) -> std::result::Result<CniResult, Failure> {
    let step = Step::begin(format_args!("dhcp daemon {method}"));
    let answered = converse(socket, method, args, limit);
    step.end_with(answered.as_ref().err().map(|failure| failure as _));
    answered
}

fn converse(socket: &str, method: &str, args: &CmdArgs, limit: Duration) -> std::result::Result<CniResult, Failure> {
    let deadline = Instant::now() + limit;
    let stream = connect(socket, limit).map_err(Failure::Unreachable)?;
    let mut conversation = Conversation { stream, incoming: Incoming::default(), deadline, limit };
    conversation.write(rpc::GREETING).map_err(Failure::Lost)?;
    let head = conversation.read(Incoming::head).map_err(Failure::Lost)?;
    // As Go's client, which goes by the words.
    if !head.ends_with("200 Connected to Go RPC") {
        return Err(Failure::Lost(Error::internal(format!("unexpected HTTP response: {head}"))));
    }
    conversation.write(&rpc::call_bytes(method, args)).map_err(Failure::Lost)?;
    let refusal = conversation.read(Incoming::reply_header).map_err(Failure::Lost)?;
    let result = conversation.read(Incoming::reply_body).map_err(Failure::Lost)?;
    if refusal.is_empty() { Ok(result) } else { Err(Failure::Refused(refusal)) }
}

struct Conversation {
    stream: UnixStream,
    incoming: Incoming,
    deadline: Instant,
    limit: Duration,
}

impl Conversation {
    fn left(&self) -> Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.late()) } else { Ok(Some(left)) }
    }

    fn late(&self) -> Error {
        let text = format!("the daemon has not answered within {} s", self.limit.as_secs());
        Error::internal(text).with_errno(Errno::ETIMEDOUT)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        let error = Error::from(error);
        if error.is(Errno::EAGAIN) { self.late() } else { error }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left()?;
        // Where the option is refused nothing bounds the wait, as in the reference.
        let _ = self.stream.set_write_timeout(left);
        self.stream.write_all(bytes).map_err(|error| self.failed(error))
    }

    /// Reads until `take` has what it wants.
    fn read<T>(&mut self, take: impl Fn(&mut Incoming) -> std::result::Result<Option<T>, Malformed>) -> Result<T> {
        loop {
            match take(&mut self.incoming) {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => self.read_more()?,
                Err(Malformed) => return Err(Error::internal("the answer is malformed")),
            }
        }
    }

    fn read_more(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        let left = self.left()?;
        let _ = self.stream.set_read_timeout(left);
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(Error::internal("unexpected EOF")),
            Ok(length) => self.incoming.push(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(self.failed(error)),
        }
        Ok(())
    }
}
