//! The one door for requests: sequence numbers, acknowledgements, the kernel's error texts, dumps and their retry.

use std::os::fd::{AsFd, BorrowedFd};
use std::slice;
use std::time::{Duration, Instant};

use crate::error::{Errno, Error, Result};
use crate::netlink::attributes::Attributes;
use crate::netlink::family::{explain, has_no_entries, is_asked_for};
use crate::netlink::hints;
use crate::netlink::message::{ACK, ALIGNMENT, DUMP, HEADER_LENGTH, Message};
use crate::netlink::names::Names;
use crate::sys::background::close_later;
use crate::sys::log::Step;
use crate::sys::socket::{NetlinkSocket, Protocol};

/// Times a dump that changes disturbed is read again before we give up.
const DUMP_TRIES: u32 = 100;
/// No dump is given up earlier: on a busy machine a hundred long dumps in a row may each meet a change.
const DUMP_PATIENCE: Duration = Duration::from_secs(30);

/// Requests that are sent in one go. Each refusal takes up to 1 kB of the 208 kB that a socket has
/// by default (net.core.rmem_default).
const MOST_REQUESTS: usize = 128;

/// Control message: error or acknowledgement (`NLMSG_ERROR`).
const ERROR: u16 = 2;
/// Control message: end of a dump (`NLMSG_DONE`).
const DONE: u16 = 3;
/// Header flag: a change disturbed the dump (`NLM_F_DUMP_INTR`).
const DUMP_INTERRUPTED: u16 = 0x10;
/// Header flag of an error: the request is not echoed behind it (`NLM_F_CAPPED`).
const CAPPED: u16 = 0x100;
/// Header flag of an error: attributes follow (`NLM_F_ACK_TLVS`).
const ACK_ATTRIBUTES: u16 = 0x200;
/// Attribute of an error: the kernel's text (`NLMSGERR_ATTR_MSG`).
const ERROR_TEXT: u16 = 1;

/// One message received from the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// Message type.
    pub kind: u16,
    /// Everything behind the header.
    pub body: &'a [u8],
    flags: u16,
    sequence: u32,
}

/// A netlink socket with its request counter, for life bound to the namespace it was opened in.
#[derive(Debug)]
pub struct Connection {
    socket: NetlinkSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects in the current namespace.
    pub fn open(protocol: Protocol) -> Result<Self> {
        Ok(Connection { socket: NetlinkSocket::open(protocol)?, sequence: 0, buffer: Vec::new() })
    }

    /// Sends one request and waits for the kernel's verdict.
    pub fn request(&mut self, message: Message) -> Result<()> {
        self.pipeline(vec![message]).map_err(|(_, error)| error)
    }

    /// Sends requests in one go; the first that was refused is named by its index. A request that fails does not stop
    /// those behind it. Refusals come unasked, so only the last request is acknowledged.
    pub fn pipeline(&mut self, mut messages: Vec<Message>) -> std::result::Result<(), (usize, Error)> {
        let step = Step::begin(format_args!("{}", Names(&messages)));
        let outcome = self.send_in_turns(&mut messages);
        step.end_with(outcome.as_ref().err().map(|(_, error)| error as _));
        outcome.map_err(|(at, error)| (at, explain(&messages, at, error)))
    }

    /// Refusals of more requests than these would not fit into the socket's buffer, and the kernel
    /// would say `ENOBUFS` instead.
    fn send_in_turns(&mut self, messages: &mut [Message]) -> std::result::Result<(), (usize, Error)> {
        let mut refused = Ok(());
        for (turn, requests) in messages.chunks_mut(MOST_REQUESTS).enumerate() {
            let heard = self.send_and_hear(requests).map_err(|(at, error)| (turn * MOST_REQUESTS + at, error));
            refused = refused.and(heard);
        }
        refused
    }

    fn send_and_hear(&mut self, messages: &mut [Message]) -> std::result::Result<(), (usize, Error)> {
        let Some(last) = messages.last_mut() else { return Ok(()) };
        last.add_flags(ACK);
        let (first, count) = (self.sequence.wrapping_add(1), messages.len());
        let mut refused = None;
        let sent = self.send(messages);
        let last = self.sequence;
        let answered = sent.and_then(|()| {
            self.replies(&mut |reply| {
                let index = reply.sequence.wrapping_sub(first) as usize;
                if reply.kind == ERROR && index < count && refused.is_none() {
                    refused = reply.verdict().err().map(|error| (index, error));
                }
                Ok(reply.kind == ERROR && reply.sequence == last)
            })
        });
        answered.map_err(|error| (0, error))?;
        refused.map_or(Ok(()), Err)
    }

    /// Sends a request for one object and gives the reply to `read`; `None` when the kernel
    /// acknowledges without one, or does not have the object's family.
    pub fn get<T>(&mut self, message: &Message, read: impl Fn(&[u8]) -> Result<T>) -> Result<Option<T>> {
        let mut answer = None;
        self.try_get(message, &mut |body| {
            answer = Some(read(body)?);
            Ok(())
        })?;
        Ok(answer)
    }

    fn try_get(&mut self, message: &Message, read: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let step = Step::begin(format_args!("{}", Names(slice::from_ref(message))));
        let mut outcome = self.get_once(message, read);
        if matches!(&outcome, Err(error) if error.is(Errno::EMSGSIZE)) {
            outcome = self.get_once(message, read);
        }
        match step.end(outcome) {
            Err(error) if has_no_entries(message, &error) => Ok(()),
            outcome => outcome,
        }
    }

    fn get_once(&mut self, message: &Message, read: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.send(&mut [message.clone()])?;
        let wanted = self.sequence;
        self.replies(&mut |reply| {
            match (reply.sequence == wanted, reply.kind) {
                (false, _) => return Ok(false),
                (true, ERROR) => reply.verdict()?,
                (true, _) if is_asked_for(message, reply.body) => read(reply.body)?,
                (true, _) => {}
            }
            Ok(true)
        })
    }

    /// Asks for all objects and gives each of the request's family to `read`. Starts over, with
    /// `start`'s fresh value, when a change in between made the kernel's answer inconsistent.
    pub fn dump<T>(
        &mut self,
        message: &Message,
        start: impl Fn() -> T,
        mut read: impl FnMut(&mut T, Reply<'_>) -> Result<()>,
    ) -> Result<T> {
        let mut message = message.clone();
        message.add_flags(DUMP);
        let begun = Instant::now();
        let mut tries = 0;
        while tries < DUMP_TRIES || begun.elapsed() < DUMP_PATIENCE {
            tries += 1;
            let mut collected = start();
            match self.try_dump(&message, &mut |reply| read(&mut collected, reply)) {
                Ok(true) => return Ok(collected),
                Ok(false) => {}
                // The kernel is still at it, and takes no other dump until it is done.
                Err(error) if error.is(Errno::EMSGSIZE) => self.skip_dump()?,
                Err(error) if has_no_entries(&message, &error) => return Ok(start()),
                Err(error) => return Err(error),
            }
        }
        Err(Error::from(Errno::EINTR).context("netlink dump kept being interrupted by changes"))
    }

    /// True when the answer was consistent.
    fn try_dump(&mut self, message: &Message, read: &mut dyn FnMut(Reply<'_>) -> Result<()>) -> Result<bool> {
        let step = Step::begin(format_args!("{} all", Names(slice::from_ref(message))));
        let consistent = self.read_dump(message, read);
        step.end(consistent)
    }

    fn read_dump(&mut self, message: &Message, read: &mut dyn FnMut(Reply<'_>) -> Result<()>) -> Result<bool> {
        self.send(&mut [message.clone()])?;
        let (wanted, mut consistent) = (self.sequence, true);
        self.replies(&mut |reply| {
            if reply.sequence != wanted {
                return Ok(false);
            }
            consistent &= reply.flags & DUMP_INTERRUPTED == 0;
            match reply.kind {
                ERROR | DONE => reply.verdict().map(|()| true),
                _ if is_asked_for(message, reply.body) => read(reply).map(|()| false),
                _ => Ok(false),
            }
        })?;
        Ok(consistent)
    }

    fn skip_dump(&mut self) -> Result<()> {
        let wanted = self.sequence;
        self.replies(&mut |reply| Ok(reply.sequence == wanted && matches!(reply.kind, ERROR | DONE)))
    }

    /// Sends messages that the kernel takes as one transaction (nfnetlink batches): all are done or the first refusal is
    /// the error. `begin` and `end` frame the batch; without an end it is only checked. Refusals come unasked, so only the last message between them is
    /// acknowledged: without any answer nobody has taken the batch.
    pub fn transaction(&mut self, begin: Message, mut messages: Vec<Message>, end: Option<Message>) -> Result<()> {
        if let Some(last) = messages.last_mut() {
            last.add_flags(ACK);
        }
        let step = Step::begin(format_args!("{}", Names(&messages)));
        let mut batch: Vec<Message> = std::iter::once(begin).chain(messages).chain(end).collect();
        let sent = self.send(&mut batch);
        step.end(sent.and_then(|()| self.drain_verdicts(&batch)))
    }

    /// Connects in the current namespace for the events of multicast groups (`RTNLGRP_…`) only.
    pub fn events(groups: &[u32]) -> Result<Self> {
        let connection = Connection::open(Protocol::Route)?;
        connection.socket.subscribe(groups)?;
        Ok(connection)
    }

    /// Waits at most `limit` for events and drops them; the caller then looks again. That the kernel had to drop some
    /// itself, or that one is too long (`ENOBUFS`, `EMSGSIZE`), says no more than that there were events.
    pub fn await_events(&mut self, limit: Duration) -> Result<()> {
        let step = Step::begin(format_args!("netlink wait for events"));
        if !step.end(self.socket.wait(limit))? {
            return Ok(());
        }
        self.queued_events(&mut |_| {}).map(drop)
    }

    /// Gives each event that has come to `read`, and does not wait for any. False when some were lost: the kernel had to drop
    /// them (`ENOBUFS`), or one was too long (`EMSGSIZE`).
    pub fn queued_events(&mut self, read: &mut dyn FnMut(Reply<'_>)) -> Result<bool> {
        let mut complete = true;
        loop {
            match self.socket.receive(&mut self.buffer, false) {
                Ok(true) => {}
                Ok(false) => return Ok(complete),
                Err(error) if error.is(Errno::ENOBUFS) || error.is(Errno::EMSGSIZE) => {
                    complete = false;
                    continue;
                }
                Err(error) => return Err(error),
            }
            let mut rest = self.buffer.as_slice();
            while let Some((event, behind)) = Reply::split(rest) {
                read(event);
                rest = behind;
            }
        }
    }

    /// Dropping this connection will not wait for what the kernel has to do before its socket is gone.
    pub fn close_later(&self) {
        close_later(&self.socket);
    }

    fn send(&mut self, messages: &mut [Message]) -> Result<()> {
        let mut bytes = Vec::with_capacity(messages.iter().map(Message::length).sum());
        for message in messages {
            if message.is_oversized() {
                return Err(Error::from(Errno::ENAMETOOLONG).context("netlink request"));
            }
            bytes.extend_from_slice(self.number(message));
        }
        self.socket.send(&bytes)
    }

    fn number<'m>(&mut self, message: &'m mut Message) -> &'m [u8] {
        self.sequence = self.sequence.wrapping_add(1);
        message.finish(self.sequence)
    }

    /// Gives every received message to `read` until it returns true. (`dyn`, here and above: one copy for all is enough.)
    fn replies(&mut self, read: &mut dyn FnMut(Reply<'_>) -> Result<bool>) -> Result<()> {
        loop {
            self.socket.receive(&mut self.buffer, true)?;
            let mut rest = self.buffer.as_slice();
            while let Some((reply, behind)) = Reply::split(rest) {
                if read(reply)? {
                    return Ok(());
                }
                rest = behind;
            }
        }
    }

    /// Reads what a transaction has queued. The kernel has finished with it when send returns, so nothing is waited for.
    fn drain_verdicts(&mut self, batch: &[Message]) -> Result<()> {
        let mut outcome = None;
        let last = self.sequence;
        while self.socket.receive(&mut self.buffer, false)? {
            let mut rest = self.buffer.as_slice();
            while let Some((reply, behind)) = Reply::split(rest) {
                if reply.kind == ERROR && !matches!(outcome, Some(Err(_))) {
                    let index = batch.len().wrapping_sub(1 + last.wrapping_sub(reply.sequence) as usize);
                    outcome = Some(reply.verdict().map_err(|error| explain(batch, index, error)));
                }
                rest = behind;
            }
        }
        outcome.unwrap_or_else(|| Err(Error::internal("the kernel did not answer a transaction")))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<'a> Reply<'a> {
    /// The first message of a datagram and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let length = word(0)? as usize;
        let body = bytes.get(HEADER_LENGTH..length)?;
        let rest = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((Reply { kind: half(4)?, body, flags: half(6)?, sequence: word(8)? }, rest))
    }

    /// What an error, acknowledgement or end-of-dump message says: it starts with a negated errno, or 0.
    fn verdict(self) -> Result<()> {
        let number = self.body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
        if number == 0 {
            return Ok(());
        }
        let mut error = Error::from(Errno::from_raw(number.wrapping_neg()));
        let text = self.kernel_text();
        if let Some(text) = &text {
            error.msg = format!("{} ({text})", error.msg);
        }
        Err(hints::explain(error, self.refused_kind(), text.as_deref().unwrap_or_default()))
    }

    /// The type of the request that an error is about: its header follows the errno. 0 at the end
    /// of a dump.
    fn refused_kind(self) -> u16 {
        let bytes = self.body.get(8..10).filter(|_| self.kind == ERROR);
        bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes)
    }

    /// The extended acknowledgement's text, which follows the errno and the request's header (or, on kernels that do not
    /// cap, the whole request).
    fn kernel_text(self) -> Option<String> {
        if self.flags & ACK_ATTRIBUTES == 0 {
            return None;
        }
        let echoed = match (self.kind, self.flags & CAPPED) {
            (DONE, _) => 0,
            (_, 0) => u32::from_ne_bytes(self.body.get(4..8)?.try_into().ok()?) as usize,
            _ => HEADER_LENGTH,
        };
        let attributes = Attributes::after(self.body, 4 + echoed).ok()?;
        Some(attributes.find(ERROR_TEXT)?.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An NLMSG_ERROR as kernel 6.18 sends it for an address that exists already: errno, the capped request header, text.
    fn refusal() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, 2, 0, 0, 3, 7, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&(-17i32).to_ne_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&[9, 0, 1, 0, b'b', b'u', b's', b'y', 0, 0, 0, 0]);
        bytes[0] = bytes.len() as u8;
        bytes
    }

    #[test]
    fn an_error_carries_errno_and_the_kernels_text() {
        let bytes = refusal();
        let (reply, rest) = Reply::split(&bytes).unwrap();
        assert!(rest.is_empty());
        let error = reply.verdict().unwrap_err();
        assert!(error.is(Errno::EEXIST));
        assert_eq!(error.msg, "file exists (busy)");
    }

    #[test]
    fn a_cut_message_is_not_read() {
        let bytes = refusal();
        assert!(Reply::split(&bytes[..20]).is_none());
    }
}
