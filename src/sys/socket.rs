//! Netlink sockets.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, NetlinkAddr, recvmsg, sendmsg};

use crate::error::{Context, Errno, Error, Result};

/// Which part of the kernel a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes (`NETLINK_ROUTE`).
    Route,
    /// nf_tables and conntrack (`NETLINK_NETFILTER`).
    Netfilter,
}

/// A close-on-exec netlink socket bound to the network namespace it was opened in.
#[derive(Debug)]
pub struct NetlinkSocket(OwnedFd);

impl NetlinkSocket {
    /// Opens a socket in the current namespace. The kernel answers with extended error texts, without echoing
    /// requests, and (where the kernel is 4.20 or later) checks and honours the filters of dump requests.
    pub fn open(protocol: Protocol) -> Result<Self> {
        let number = match protocol {
            Protocol::Route => libc::NETLINK_ROUTE,
            Protocol::Netfilter => libc::NETLINK_NETFILTER,
        };
        // SAFETY: socket(2) takes no memory of ours.
        let raw = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, number) };
        let raw = Errno::result(raw).context("failed to open a netlink socket")?;
        // SAFETY: `raw` is a descriptor that socket(2) has just given us and that nobody else owns.
        let socket = NetlinkSocket(unsafe { OwnedFd::from_raw_fd(raw) });
        // Only diagnostics and speed hang on these; an old kernel that refuses one is as good without it.
        let _ = socket.set_option(libc::NETLINK_EXT_ACK, 1);
        let _ = socket.set_option(libc::NETLINK_CAP_ACK, 1);
        let _ = socket.set_option(libc::NETLINK_GET_STRICT_CHK, 1);
        Ok(socket)
    }

    /// Joins a multicast group (`RTNLGRP_…`).
    pub fn subscribe(&self, group: u32) -> Result<()> {
        let result = self.set_option(libc::NETLINK_ADD_MEMBERSHIP, group as libc::c_int);
        result.with_context(|| format!("failed to subscribe to netlink group {group}"))
    }

    /// Sends one datagram to the kernel. The kernel has processed every message in it when this returns.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        loop {
            match sendmsg(self.0.as_raw_fd(), &[IoSlice::new(bytes)], &[], MsgFlags::empty(), Some(&kernel)) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(Error::internal("netlink request was cut short")),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("failed to send a netlink request"),
            }
        }
    }

    /// Receives the next datagram from the kernel into `buffer`, which grows to hold it whole. Datagrams from other
    /// processes are dropped. False when `wait` is not set and nothing is queued.
    pub fn receive(&self, buffer: &mut Vec<u8>, wait: bool) -> Result<bool> {
        let flags = if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
        loop {
            // The kernel fills the datagrams of a dump as far as the reader has shown room.
            buffer.resize(buffer.capacity(), 0);
            let Some((length, _)) = self.receive_into(buffer, flags | MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)? else {
                return Ok(false);
            };
            buffer.resize(length, 0);
            match self.receive_into(buffer, flags)? {
                None => return Ok(false),
                Some((_, 0)) => return Ok(true),
                Some(_) => {}
            }
        }
    }

    /// Waits until a datagram is queued; false when `limit` has passed without one.
    pub fn wait(&self, limit: Duration) -> Result<bool> {
        let milliseconds = u16::try_from(limit.as_millis()).unwrap_or(u16::MAX);
        let mut polled = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::from(milliseconds)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno).context("failed to wait for netlink events"),
        }
    }

    /// One recvmsg(2): the datagram's length and its sender's port (0 is the kernel).
    fn receive_into(&self, buffer: &mut [u8], flags: MsgFlags) -> Result<Option<(usize, u32)>> {
        loop {
            let mut slices = [IoSliceMut::new(buffer)];
            match recvmsg::<NetlinkAddr>(self.0.as_raw_fd(), &mut slices, None, flags) {
                Ok(message) => return Ok(Some((message.bytes, message.address.map_or(0, |from| from.pid())))),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno).context("failed to receive a netlink reply"),
            }
        }
    }

    /// setsockopt(2) at level `SOL_NETLINK`. Callers ignore the answer for options that only improve diagnostics.
    fn set_option(&self, option: libc::c_int, value: libc::c_int) -> std::result::Result<(), Errno> {
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the pointer and size describe `value`, which lives through the call.
        let result =
            unsafe { libc::setsockopt(self.0.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const value).cast(), size) };
        Errno::result(result).map(drop)
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
