//! Leaving the closing of a socket to the kernel.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

/// A control message of descriptors (`SCM_RIGHTS`). Both parts are aligned as `CMSG_DATA` wants them.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    descriptors: [libc::c_int; 3],
}

/// Makes the caller's closing of a socket return at once, whatever the kernel has to wait for before it is gone. (For a
/// socket of nf_tables that is the end of an RCU grace period after deletions, its own and others': 5 to 30 ms.)
///
/// The socket goes in a message to a pair of Unix sockets that go along themselves. When the caller and we have closed
/// all three nobody can ever receive them, which is what the kernel's collector of such cycles is for; since Linux 6.8 it
/// works in the background. An older kernel does its work while we close, and nothing is gained. Failure, of whatever
/// kind, means the same.
pub fn close_later(socket: impl AsFd) {
    let Ok((near, far)) = UnixStream::pair() else { return };
    let descriptors = [socket.as_fd().as_raw_fd(), near.as_raw_fd(), far.as_raw_fd()];
    send_rights(&near, descriptors);
}

fn send_rights(through: &UnixStream, descriptors: [libc::c_int; 3]) {
    // SAFETY: all-zero bytes are a valid cmsghdr and a valid msghdr (no name, no content, no control message).
    let (mut header, mut message): (libc::cmsghdr, libc::msghdr) = unsafe { std::mem::zeroed() };
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    let length = size_of::<libc::cmsghdr>() + size_of_val(&descriptors);
    header.cmsg_len = length as _;
    let mut rights = Rights { header, descriptors };
    let mut byte = 0u8;
    let mut content = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    message.msg_iov = &raw mut content;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut rights).cast();
    message.msg_controllen = length as _;
    // SAFETY: the message points to `content`, that to `byte`, and to `rights`, each with its length; all live through the
    // call, which only reads them.
    let _ = unsafe { libc::sendmsg(through.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
}
