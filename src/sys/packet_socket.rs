//! Packet sockets (packet(7)) without link-layer header: one link's IPv4 packets, chosen by a filter in the kernel.

use std::io::IoSliceMut;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{Errno, Result, unless_refused};
use crate::sys::background::ClosedApart;
use crate::sys::rights::{self, Capability};

/// An instruction of the kernel's classic packet filter: code, jump if true, jump if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// A close-on-exec, non-blocking packet socket on one link of the network namespace it was opened in.
#[derive(Debug)]
pub struct PacketSocket {
    socket: ClosedApart,
    index: u32,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// How long the packet was, which may be more than there was room for.
    pub length: usize,
    /// The sender's hardware address, if it is one of Ethernet.
    pub from: Option<[u8; 6]>,
    /// The packet never left this machine, and its checksum was left to hardware that it never reached.
    pub checksum_pending: bool,
}

const IPV4: u16 = (libc::ETH_P_IP as u16).to_be();
const AUXILIARY: libc::c_int = 8; // PACKET_AUXDATA

/// `struct tpacket_auxdata` of `linux/if_packet.h`.
#[repr(C)]
#[derive(Default)]
struct Auxiliary {
    status: u32,
    length: u32,
    captured: u32,
    mac: u16,
    net: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
}

impl PacketSocket {
    /// Opens a socket on the link with this index. It hears nothing that does not pass `filter`, unless the kernel refuses
    /// filters, as the reference never needs any: the caller must look at every packet itself.
    pub fn open(index: u32, filter: &[Instruction]) -> Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket(2) takes no memory of ours. Protocol 0: it hears nothing before it is bound.
        let raw = Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, 0) });
        let raw = raw.map_err(|errno| rights::explain(errno.into(), Capability::NetRaw))?;
        // SAFETY: `raw` is a descriptor that socket(2) has just given us and that nobody else owns.
        let socket = PacketSocket { socket: unsafe { OwnedFd::from_raw_fd(raw) }.into(), index };
        unless_refused(socket.attach(filter))?;
        unless_refused(socket.set(libc::SOL_PACKET, AUXILIARY, &1_i32))?;
        let address = socket.address([0; 6]);
        // SAFETY: pointer and length describe `address`, which lives through the call.
        let bound = unsafe { libc::bind(raw, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t) };
        Errno::result(bound)?;
        Ok(socket)
    }

    /// Sends an IPv4 packet to a hardware address.
    pub fn send(&self, packet: &[u8], to: [u8; 6]) -> Result<()> {
        let address = self.address(to);
        // SAFETY: pointers and lengths describe `packet` and `address`, which live through the call.
        let sent = unsafe {
            let (bytes, length) = (packet.as_ptr().cast(), size_of_val(&address) as libc::socklen_t);
            libc::sendto(self.socket.as_fd().as_raw_fd(), bytes, packet.len(), 0, (&raw const address).cast(), length)
        };
        Errno::result(sent).map(drop).map_err(Into::into)
    }

    /// Receives the next packet into `buffer`; `None` when none is queued. `ENETDOWN` is said once when the link goes down.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<Received>> {
        // SAFETY: all-zero bytes are a valid sockaddr_ll and a valid msghdr.
        let (mut sender, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { std::mem::zeroed() };
        // Room for one control message; 64-bit numbers, because it must be aligned like a cmsghdr.
        let mut control = [0u64; 8];
        let mut parts = [IoSliceMut::new(buffer)];
        message.msg_name = (&raw mut sender).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = parts.as_mut_ptr().cast();
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the message points to `sender`, `parts` (IoSliceMut is an iovec) and `control`, which live through the call.
        let received = unsafe { libc::recvmsg(self.socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
        let length = match Errno::result(received) {
            Ok(length) => length.unsigned_abs(),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let from = if sender.sll_halen == 6 { sender.sll_addr.first_chunk().copied() } else { None };
        // SAFETY: recvmsg has filled `message`, whose control buffer is still alive.
        let status = unsafe { status(&message) };
        Ok(Some(Received { length, from, checksum_pending: status & libc::TP_STATUS_CSUMNOTREADY != 0 }))
    }

    fn address(&self, to: [u8; 6]) -> libc::sockaddr_ll {
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = IPV4;
        address.sll_ifindex = self.index as libc::c_int;
        address.sll_halen = 6;
        for (place, byte) in address.sll_addr.iter_mut().zip(to) {
            *place = byte;
        }
        address
    }

    fn attach(&self, filter: &[Instruction]) -> Result<()> {
        let one = |&(code, jt, jf, k): &Instruction| libc::sock_filter { code, jt, jf, k };
        let mut instructions: Vec<_> = filter.iter().map(one).collect();
        let program = libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_mut_ptr() };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> Result<()> {
        // SAFETY: pointer and size describe `value`, which lives through the call, as does what it points to (`attach`).
        let set = unsafe {
            let pointer = std::ptr::from_ref(value).cast();
            libc::setsockopt(self.socket.as_fd().as_raw_fd(), level, option, pointer, size_of::<T>() as libc::socklen_t)
        };
        Errno::result(set).map(drop).map_err(Into::into)
    }
}

/// `tp_status` of the one control message that we have asked for; without it, the checksum may be pending.
///
/// # Safety
///
/// recvmsg(2) must have filled `message`, and its control buffer must be alive.
unsafe fn status(message: &libc::msghdr) -> u32 {
    // SAFETY: by the caller's word the macros walk over a control buffer that the kernel has filled; the value is read as
    // plain numbers wherever it may lie.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        let ours = |header: &libc::cmsghdr| header.cmsg_level == libc::SOL_PACKET && header.cmsg_type == AUXILIARY;
        match header.as_ref().filter(|header| ours(header)) {
            Some(_) => libc::CMSG_DATA(header).cast::<Auxiliary>().read_unaligned().status,
            None => libc::TP_STATUS_CSUMNOTREADY,
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
