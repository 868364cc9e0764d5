//! Netlink sockets.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, NetlinkAddr, bind, sendto, setsockopt, sockopt};

use crate::error::{Context, Errno, Error, Result};

/// Which part of the kernel a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes (`NETLINK_ROUTE`).
    Route,
    /// nf_tables and conntrack (`NETLINK_NETFILTER`).
    Netfilter,
}

/// Room shown to the kernel, which makes the datagrams of dumps up to this long and others rarely longer.
const LARGEST_DATAGRAM: usize = 32 * 1024;

/// Port of the kernel.
const KERNEL: u32 = 0;

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

    /// Joins multicast groups (`RTNLGRP_…`, 1 to 32). To be called once.
    pub fn subscribe(&self, groups: &[u32]) -> Result<()> {
        // By bind(2), which the reference needs too, not by the socket option that higher groups would take.
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        // The port is the kernel's choice. A socket without one gets none of the events that the kernel sends on its own
        // account: it takes such a socket for the sender.
        bind(self.0.as_raw_fd(), &NetlinkAddr::new(0, mask)).context("failed to subscribe to netlink events")
    }

    /// Sends one datagram to the kernel. The kernel has processed every message in it when this returns.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        let kernel = NetlinkAddr::new(KERNEL, 0);
        let mut enlarged = false;
        loop {
            match sendto(self.0.as_raw_fd(), bytes, &kernel, MsgFlags::empty()) {
                // The default is about 200 kB: some hundred rules.
                Err(Errno::EMSGSIZE) if !enlarged => {
                    self.enlarge_send_buffer(bytes.len());
                    enlarged = true;
                }
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(Error::internal("netlink request was cut short")),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("failed to send a netlink request"),
            }
        }
    }

    /// Receives the next datagram from the kernel into `buffer`. Datagrams from other processes are dropped. False when
    /// `wait` is not set and nothing is queued. A datagram that does not fit is lost (`EMSGSIZE`); `buffer` then has room
    /// for its like when it is asked for again.
    pub fn receive(&self, buffer: &mut Vec<u8>, wait: bool) -> Result<bool> {
        let flags = libc::MSG_TRUNC | if wait { 0 } else { libc::MSG_DONTWAIT };
        loop {
            buffer.clear();
            buffer.reserve(LARGEST_DATAGRAM);
            let Some((length, sender)) = self.receive_into(buffer.spare_capacity_mut(), flags)? else {
                return Ok(false);
            };
            if length > buffer.capacity() {
                buffer.reserve(length);
                return Err(Errno::EMSGSIZE).context("failed to receive a netlink reply");
            }
            // SAFETY: recvfrom has written `length` bytes, no more than there was room for, to the start of the buffer.
            unsafe { buffer.set_len(length) };
            if sender == KERNEL {
                return Ok(true);
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

    /// One recvfrom(2): the datagram's length, which with `MSG_TRUNC` may be more than was written, and its sender's port.
    fn receive_into(&self, buffer: &mut [MaybeUninit<u8>], flags: libc::c_int) -> Result<Option<(usize, u32)>> {
        // SAFETY: all-zero bytes are a valid sockaddr_nl.
        let mut sender: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        loop {
            let mut length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            // SAFETY: pointers and lengths describe `buffer` and `sender`, which are writable and live through the call.
            let received = unsafe {
                let (bytes, address) = (buffer.as_mut_ptr().cast(), (&raw mut sender).cast());
                libc::recvfrom(self.0.as_raw_fd(), bytes, buffer.len(), flags, address, &raw mut length)
            };
            match Errno::result(received) {
                Ok(bytes) => return Ok(Some((bytes.unsigned_abs(), sender.nl_pid))),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno).context("failed to receive a netlink reply"),
            }
        }
    }

    /// Makes room for a datagram of this length, beyond the administrator's limit where we may. If it is still too small
    /// the next attempt to send says so.
    fn enlarge_send_buffer(&self, length: usize) {
        // The kernel keeps a part for itself.
        let room = length.saturating_add(length / 4 + 4096);
        let _ = setsockopt(self, sockopt::SndBufForce, &room).or_else(|_| setsockopt(self, sockopt::SndBuf, &room));
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
