//! A plugin's connection. Nothing here waits: what has come is read, what can be sent is sent.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use crate::dhcp::Moment;
use crate::dhcp::rpc::{self, Call, Incoming, Malformed, Reply};
use crate::error::Result;
use crate::sys::events::set_nonblocking;

/// How long a plugin may take to say what it wants, and to take the answer, in milliseconds.
const LIMIT: Moment = 10_000;

/// The connection has served its purpose, or never will.
#[derive(Debug)]
pub(super) struct Over;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The HTTP head is awaited.
    Greeting,
    /// Then the call.
    Calling,
    /// The call is being served.
    Waiting,
    /// The answer is being sent; then it is over.
    Answering,
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    stage: Stage,
    incoming: Incoming,
    header: Option<(String, u64)>,
    call: Call,
    output: Vec<u8>,
    sent: usize,
    deadline: Moment,
    /// Slot of the lease that its call waits for.
    pub(super) waits_for: Option<usize>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, now: Moment) -> Result<Connection> {
        set_nonblocking(&stream)?;
        let (incoming, call, output) = (Incoming::default(), Call::default(), Vec::new());
        let deadline = now + LIMIT;
        Ok(Connection {
            stream,
            stage: Stage::Greeting,
            incoming,
            header: None,
            call,
            output,
            sent: 0,
            deadline,
            waits_for: None,
        })
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// When to close it whatever it does.
    pub(super) fn deadline(&self) -> Moment {
        self.deadline
    }

    /// Reads and writes what is possible now. Gives the call, once, when it is complete.
    pub(super) fn proceed(&mut self) -> std::result::Result<Option<Call>, Over> {
        self.flush()?;
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Over),
                Ok(length) => {
                    if let Some(call) = self.take(buffer.get(..length).unwrap_or_default())? {
                        return Ok(Some(call));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Over),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> std::result::Result<Option<Call>, Over> {
        if matches!(self.stage, Stage::Waiting | Stage::Answering) {
            // One call a connection.
            return Err(Over);
        }
        self.incoming.push(bytes);
        if self.stage == Stage::Greeting {
            let Some(head) = self.incoming.head().map_err(over)? else { return Ok(None) };
            let welcome = head.starts_with("CONNECT ");
            self.stage = if welcome { Stage::Calling } else { Stage::Answering };
            self.output.extend_from_slice(if welcome { rpc::WELCOME } else { rpc::UNWELCOME });
            self.flush()?;
            if !welcome {
                return Ok(None);
            }
        }
        if self.header.is_none() {
            self.header = self.incoming.call_header().map_err(over)?;
        }
        if self.header.is_none() {
            return Ok(None);
        }
        let Some(args) = self.incoming.call_args().map_err(over)? else { return Ok(None) };
        let (method, sequence) = self.header.take().unwrap_or_default();
        self.stage = Stage::Waiting;
        self.deadline = Moment::MAX;
        self.incoming = Incoming::default();
        self.call = Call { method: method.clone(), sequence, ..Call::default() };
        Ok(Some(Call { method, sequence, args }))
    }

    /// Sends the answer, now as far as possible.
    pub(super) fn answer(&mut self, reply: &Reply, now: Moment) -> std::result::Result<(), Over> {
        self.waits_for = None;
        self.stage = Stage::Answering;
        self.deadline = now + LIMIT;
        self.output.extend(rpc::reply_bytes(&self.call, reply));
        self.flush()
    }

    fn flush(&mut self) -> std::result::Result<(), Over> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(Over),
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Over),
            }
        }
        if self.stage == Stage::Answering { Err(Over) } else { Ok(()) }
    }
}

fn over(_malformed: Malformed) -> Over {
    Over
}
