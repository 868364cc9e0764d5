//! Leaving the closing of a socket to the kernel.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Makes the caller's closing of a socket return at once, whatever the kernel has to wait for before it is gone. (For a
/// socket of nf_tables that is the end of an RCU grace period after deletions, its own and others': 5 to 30 ms.)
///
/// The socket goes in a message to a pair of Unix sockets that go along themselves. When the caller and we have closed
/// all three nobody can ever receive them, which is what the kernel's collector of such cycles is for; since Linux 6.8 it
/// works in the background. An older kernel does its work while we close, and nothing is gained. Failure, of whatever
/// kind, means the same.
pub fn close_later(socket: impl AsFd) {
    let Ok((near, far)) = UnixStream::pair() else { return };
    let cycle = [socket.as_fd().as_raw_fd(), near.as_raw_fd(), far.as_raw_fd()];
    let message = [IoSlice::new(&[0])];
    let control = [ControlMessage::ScmRights(&cycle)];
    let _ = sendmsg::<()>(near.as_raw_fd(), &message, &control, MsgFlags::empty(), None);
}
