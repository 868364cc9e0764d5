//! A link's door for DHCP: a packet socket that hears what is sent to UDP port 68 of one hardware address.

use std::os::fd::{AsFd, BorrowedFd};

use crate::dhcp::client::Datagram;
use crate::dhcp::packet::Packet;
use crate::error::Result;
use crate::sys::netns::Netns;

/// An open socket; it pins its namespace. Readable (epoll) when something has come.
#[derive(Debug)]
pub struct Socket(std::os::fd::OwnedFd);

impl Socket {
    /// Opens a socket on the link with this index in a namespace. Non-blocking, close-on-exec.
    pub fn open(_netns: &Netns, _index: u32, _hardware: [u8; 6]) -> Result<Socket> {
        todo!()
    }

    /// Sends. `ENETDOWN` when the link is down, `ENXIO` or `ENODEV` when it is gone.
    pub fn send(&self, _datagram: &Datagram) -> Result<()> {
        todo!()
    }

    /// The next packet that was well-formed, with the hardware address it came from; `None` when nothing more is queued.
    /// An error (`ENETDOWN`) says that the link went down; the socket hears again when it is up.
    pub fn receive(&self) -> Result<Option<(Packet, Option<[u8; 6]>)>> {
        todo!()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
