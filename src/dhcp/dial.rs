//! The plugin's side of a call to the daemon. Every wait is bounded.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::cni::CniResult;
use crate::dhcp::rpc::{self, CmdArgs, Incoming, Malformed};
use crate::error::{Context, Errno, Error, Result};
use crate::sys::log::Step;
use crate::sys::{output, unix};

/// Where the daemon listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/cni/dhcp.sock";

/// Why a call has no result. All errors are in the words of the reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens.
    Unreachable(Error),
    /// The daemon said no, in these words.
    Refused(Error),
    /// The connection broke, or there was no answer in time.
    Lost(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable(error) | Failure::Refused(error) | Failure::Lost(error) => error.fmt(out),
        }
    }
}

impl Failure {
    /// The error of a call of `method` of the daemon at `socket`.
    pub fn into_error(self, method: &str, socket: &str) -> Error {
        match self {
            Failure::Unreachable(error) => {
                let advice = advice(&error, socket);
                error.with_details(advice).context(DIALING)
            }
            Failure::Refused(error) => error.context(&format!("error calling {method}")),
            Failure::Lost(error) => error,
        }
    }

    /// True when the daemon does not know the method: it is the Go program.
    pub fn is_unknown_method(&self) -> bool {
        matches!(self, Failure::Refused(error) if error.msg.starts_with(rpc::NO_METHOD))
    }
}

/// Says how to get a daemon that listens at `socket`, if `error` shows that there is none.
/// Otherwise returns the details that the error has.
pub fn advice(error: &Error, socket: &str) -> String {
    match error.errno {
        Some(Errno::ENOENT | Errno::ECONNREFUSED) if socket == DEFAULT_SOCKET => {
            "start the daemon: `dhcp daemon`, or `systemctl enable --now cni-dhcp.socket` (contrib/systemd)".to_string()
        }
        Some(Errno::ENOENT | Errno::ECONNREFUSED) => format!("start the daemon: `dhcp daemon -socketpath {socket}`"),
        _ => error.details.clone(),
    }
}

const DIALING: &str = "error dialing DHCP daemon";

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
    let connected = unix::connect_within(socket.as_bytes(), false, limit).map_err(|error| match error.errno {
        Some(Errno::ENAMETOOLONG) => {
            Error::from(Errno::EINVAL).with_details("the path of a socket has at most 107 bytes")
        }
        _ => error,
    });
    connected.with_context(|| format!("dial unix {socket}: connect"))
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
    let mut conversation = Conversation { stream, incoming: Incoming::default(), deadline, limit, socket };
    let greeted = conversation.greet().with_context(|| format!("{DIALING}: dial-http unix {socket}"));
    greeted.map_err(Failure::Lost)?;
    let answer = conversation.ask(method, args).with_context(|| format!("error calling {method}"));
    answer.map_err(Failure::Lost)?.map_err(Failure::Refused)
}

struct Conversation<'a> {
    stream: UnixStream,
    incoming: Incoming,
    deadline: Instant,
    limit: Duration,
    socket: &'a str,
}

impl Conversation<'_> {
    fn greet(&mut self) -> Result<()> {
        self.write(rpc::GREETING)?;
        let head = self.read(Incoming::head)?;
        // As Go's client, which goes by the words.
        match head.split_once(' ') {
            Some((_, "200 Connected to Go RPC")) => Ok(()),
            Some((_, status)) => Err(Error::internal(format!("unexpected HTTP response: {status}"))),
            None => Err(Error::internal(format!("malformed HTTP response {head:?}"))),
        }
    }

    /// The daemon's answer to a call.
    fn ask(&mut self, method: &str, args: &CmdArgs) -> Result<rpc::Reply> {
        self.write(&rpc::call_bytes(method, args))?;
        let refusal = self.read(Incoming::reply_header)?;
        let result = self.read(Incoming::reply_body)?;
        Ok(refusal.map_or(Ok(result), Err))
    }

    fn left(&self) -> Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.late()) } else { Ok(Some(left)) }
    }

    fn late(&self) -> Error {
        let text = format!("the daemon has not answered within {} s", self.limit.as_secs());
        Error::internal(text).with_errno(Errno::ETIMEDOUT)
    }

    fn failed(&self, verb: &str, error: std::io::Error) -> Error {
        match Error::from(error) {
            error if error.is(Errno::EAGAIN) => self.late(),
            error => error.context(&format!("{verb} unix @->{}: {verb}", self.socket)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left()?;
        // Where the option is refused nothing bounds the wait, as in the reference.
        let _ = self.stream.set_write_timeout(left);
        self.stream.write_all(bytes).map_err(|error| self.failed("write", error))
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
            Err(error) => return Err(self.failed("read", error)),
        }
        Ok(())
    }
}
