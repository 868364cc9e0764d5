//! The one door for requests: sequence numbers, acknowledgements, the kernel's error texts, dumps and their retry.

use std::time::Duration;

use crate::error::{Errno, Error, Result};
use crate::netlink::attributes::Attributes;
use crate::netlink::message::{ACK, ALIGNMENT, DUMP, HEADER_LENGTH, Message};
use crate::sys::socket::{NetlinkSocket, Protocol};

/// Times a dump that changes disturbed is read again before we give up.
const DUMP_TRIES: u32 = 100;

/// The largest datagrams that the kernel makes for dumps, if it sees that there is room (`netlink_recvmsg`).
const DUMP_BUFFER: usize = 32 * 1024;

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
        self.pipeline(vec![message]).into_iter().next().unwrap_or(Ok(()))
    }

    /// Sends independent requests in one go; one verdict for each, in order. A request that fails does not stop those
    /// behind it.
    pub fn pipeline(&mut self, messages: Vec<Message>) -> Vec<Result<()>> {
        let (first, count) = (self.sequence.wrapping_add(1), messages.len());
        let mut verdicts: Vec<Option<Result<()>>> = vec![None; count];
        if let Err(error) = self.send(messages, ACK).and_then(|()| self.collect(first, &mut verdicts)) {
            return vec![Err(error); count];
        }
        verdicts.into_iter().map(|verdict| verdict.unwrap_or(Ok(()))).collect()
    }

    /// Sends a request for one object and gives the reply to `read`; `None` when the kernel acknowledges without one.
    pub fn get<T>(&mut self, message: Message, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>> {
        self.send(vec![message], 0)?;
        let mut answer = None;
        let (wanted, mut read) = (self.sequence, Some(read));
        self.replies(|reply| {
            if reply.sequence != wanted {
                return Ok(false);
            }
            match reply.kind {
                ERROR => reply.verdict()?,
                _ => answer = read.take().map(|read| read(reply.body)).transpose()?,
            }
            Ok(true)
        })?;
        Ok(answer)
    }

    /// Asks for all objects and gives each to `read`. Starts over, with `start`'s fresh value, when a change in between
    /// made the kernel's answer inconsistent.
    pub fn dump<T>(
        &mut self,
        message: &Message,
        start: impl Fn() -> T,
        mut read: impl FnMut(&mut T, Reply<'_>) -> Result<()>,
    ) -> Result<T> {
        self.buffer.reserve(DUMP_BUFFER.saturating_sub(self.buffer.len()));
        for _ in 0..DUMP_TRIES {
            self.send(vec![message.clone()], DUMP)?;
            let (wanted, mut interrupted) = (self.sequence, false);
            let mut collected = start();
            self.replies(|reply| {
                if reply.sequence != wanted {
                    return Ok(false);
                }
                interrupted |= reply.flags & DUMP_INTERRUPTED != 0;
                match reply.kind {
                    ERROR => reply.verdict().map(|()| true),
                    DONE => reply.verdict().map(|()| true),
                    _ => read(&mut collected, reply).map(|()| false),
                }
            })?;
            if !interrupted {
                return Ok(collected);
            }
        }
        Err(Error::from(Errno::EINTR).context("netlink dump kept being interrupted by changes"))
    }

    /// Sends messages that the kernel takes as one transaction (nfnetlink batches): all are done or the first refusal is
    /// the error. `begin` and `end` frame the batch. Refusals come unasked, so only the last message between them is
    /// acknowledged: without any answer nobody has taken the batch.
    pub fn transaction(&mut self, begin: Message, mut messages: Vec<Message>, end: Message) -> Result<()> {
        if let Some(last) = messages.last_mut() {
            last.add_flags(ACK);
        }
        let mut bytes = Vec::with_capacity(messages.len() * 512);
        for mut message in std::iter::once(begin).chain(messages).chain([end]) {
            bytes.extend_from_slice(self.number(&mut message));
        }
        self.socket.send(&bytes)?;
        self.drain_verdicts()
    }

    /// Joins a multicast group (`RTNLGRP_…`) of events.
    pub fn subscribe(&self, group: u32) -> Result<()> {
        self.socket.subscribe(group)
    }

    /// Waits at most `limit` for events and drops them; the caller then looks again.
    pub fn await_events(&mut self, limit: Duration) -> Result<()> {
        if self.socket.wait(limit)? {
            while self.socket.receive(&mut self.buffer, false)? {}
        }
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>, flags: u16) -> Result<()> {
        let mut bytes = Vec::with_capacity(messages.len() * 128);
        for mut message in messages {
            message.add_flags(flags);
            bytes.extend_from_slice(self.number(&mut message));
        }
        self.socket.send(&bytes)
    }

    fn number<'m>(&mut self, message: &'m mut Message) -> &'m [u8] {
        self.sequence = self.sequence.wrapping_add(1);
        message.finish(self.sequence)
    }

    /// Reads until every slot of `verdicts` (the first is that of sequence number `first`) is filled.
    fn collect(&mut self, first: u32, verdicts: &mut [Option<Result<()>>]) -> Result<()> {
        let mut missing = verdicts.len();
        if missing == 0 {
            return Ok(());
        }
        self.replies(|reply| {
            let slot = verdicts.get_mut(reply.sequence.wrapping_sub(first) as usize);
            if let (ERROR, Some(slot @ None)) = (reply.kind, slot) {
                *slot = Some(reply.verdict());
                missing -= 1;
            }
            Ok(missing == 0)
        })
    }

    /// Gives every received message to `read` until it returns true.
    fn replies(&mut self, mut read: impl FnMut(Reply<'_>) -> Result<bool>) -> Result<()> {
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
    fn drain_verdicts(&mut self) -> Result<()> {
        let mut outcome = None;
        while self.socket.receive(&mut self.buffer, false)? {
            let mut rest = self.buffer.as_slice();
            while let Some((reply, behind)) = Reply::split(rest) {
                if reply.kind == ERROR && !matches!(outcome, Some(Err(_))) {
                    outcome = Some(reply.verdict());
                }
                rest = behind;
            }
        }
        outcome.unwrap_or_else(|| Err(Error::internal("the kernel did not answer a transaction")))
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
        if let Some(text) = self.kernel_text() {
            error.msg = format!("{} ({text})", error.msg);
        }
        Err(error)
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
