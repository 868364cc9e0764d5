//! A link's door for DHCP: a packet socket that hears what servers say to one hardware address. Only such a socket can
//! send from, and hear at, an address that the link does not have yet; and no firewall of the container is in its way.

use std::os::fd::{AsFd, BorrowedFd};

use crate::dhcp::client::Datagram;
use crate::dhcp::frame;
use crate::dhcp::packet::{self, Packet};
use crate::error::Result;
use crate::sys::netns::Netns;
use crate::sys::packet_socket::{Instruction, PacketSocket};

/// Longer packets, which no server sends (we ask for at most 1500), are dropped.
const LARGEST: usize = 4096;

/// An answer of a server.
#[derive(Debug)]
pub enum Received {
    /// A message, with the hardware address it came from.
    Packet(Packet, Option<[u8; 6]>),
    /// The answer cannot be read, for this reason.
    Damaged(&'static str),
}

/// An open socket; it pins its namespace. Readable (epoll) when something has come.
#[derive(Debug)]
pub struct Socket(PacketSocket);

impl Socket {
    /// Opens a socket on the link with this index in a namespace. Non-blocking, close-on-exec.
    pub fn open(netns: &Netns, index: u32, hardware: [u8; 6]) -> Result<Socket> {
        netns.run(|| PacketSocket::open(index, &filter(hardware)))?.map(Socket)
    }

    /// Sends. `ENETDOWN` when the link is down, `ENXIO` or `ENODEV` when it is gone.
    pub fn send(&self, datagram: &Datagram) -> Result<()> {
        let frame = frame::encode(datagram.source, datagram.destination, &datagram.payload);
        self.0.send(&frame, datagram.mac)
    }

    /// Takes the next answer from the queue; `None` when the queue is empty. An error (`ENETDOWN`)
    /// says that the link went down; the socket hears again when the link is up.
    pub fn receive(&self) -> Result<Option<Received>> {
        let mut buffer = [0; LARGEST];
        let Some(received) = self.0.receive(&mut buffer)? else { return Ok(None) };
        let frame = buffer.get(..received.length).unwrap_or_default();
        Ok(Some(match frame::decode(frame, received.checksum_pending).map(Packet::decode) {
            Some(Some(packet)) => Received::Packet(packet, received.from),
            Some(None) => Received::Damaged("it is no complete DHCP message"),
            None if frame::decode(frame, true).is_some() => Received::Damaged("its UDP checksum is wrong"),
            None => Received::Damaged("its IP or UDP header is damaged, or it is cut short"),
        }))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets pass what is unfragmented UDP to port 68, a reply, and for this hardware address. Servers may broadcast: without
/// the last condition every client of a network would wake up for every other's answers.
fn filter(hardware: [u8; 6]) -> [Instruction; 15] {
    const BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
    const HEADER_LENGTH: u16 = 0xb1; // BPF_LDX | BPF_B | BPF_MSH
    const BYTE_BEHIND: u16 = 0x50; // BPF_LD | BPF_B | BPF_IND
    const HALF_BEHIND: u16 = 0x48; // BPF_LD | BPF_H | BPF_IND
    const WORD_BEHIND: u16 = 0x40; // BPF_LD | BPF_W | BPF_IND
    const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const UDP: u32 = 17;
    /// Offsets behind the IP header.
    const PORT: u32 = 2;
    const OP: u32 = 8;
    const CHADDR: u32 = OP + 28;
    let [a, b, c, d, e, f] = hardware;
    [
        (BYTE, 0, 0, 9),
        (EQUAL, 0, 11, UDP),
        (HALF, 0, 0, 6),
        (ANY_BIT, 9, 0, 0x3fff),
        (HEADER_LENGTH, 0, 0, 0),
        (HALF_BEHIND, 0, 0, PORT),
        (EQUAL, 0, 6, u32::from(frame::CLIENT_PORT)),
        (BYTE_BEHIND, 0, 0, OP),
        (EQUAL, 0, 4, u32::from(packet::REPLY)),
        (WORD_BEHIND, 0, 0, CHADDR),
        (EQUAL, 0, 2, u32::from_be_bytes([a, b, c, d])),
        (HALF_BEHIND, 0, 0, CHADDR + 4),
        (EQUAL, 1, 0, u32::from(u16::from_be_bytes([e, f]))),
        (RETURN, 0, 0, 0),
        (RETURN, 0, 0, LARGEST as u32),
    ]
}
