//! Leaving the closing of a socket to others: to the kernel, or to a thread.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
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

/// A descriptor that a thread of its own closes, because the kernel makes whoever closes it wait. (For a packet socket
/// that is always an RCU grace period, 5 to 30 ms. The collector of [`close_later`] would do on new kernels only, and a
/// daemon has a thread's time, which a plugin has not.)
#[derive(Debug)]
pub struct ClosedApart(RawFd);

impl From<OwnedFd> for ClosedApart {
    fn from(descriptor: OwnedFd) -> Self {
        ClosedApart(descriptor.into_raw_fd())
    }
}

impl AsFd for ClosedApart {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is ours and open until we are dropped.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

impl Drop for ClosedApart {
    fn drop(&mut self) {
        if !start_closing(self.0) {
            close(self.0 as usize as *mut libc::c_void);
        }
    }
}

/// What the thread does: nothing that needs memory, or anything else of this program.
extern "C" fn close(descriptor: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: whoever calls or starts this owned the descriptor and has given it up.
    unsafe { libc::close(descriptor as usize as RawFd) };
    std::ptr::null_mut()
}

/// False when there is no thread to be had.
fn start_closing(descriptor: RawFd) -> bool {
    /// Address space only; what is touched is a page or two.
    const STACK: usize = 64 * 1024;
    let mut thread = MaybeUninit::uninit();
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: both are written by the functions that are given them first, and the attributes destroyed once. The thread
    // gets a number, not a pointer.
    unsafe {
        if libc::pthread_attr_init(attributes.as_mut_ptr()) != 0 {
            return false;
        }
        libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK);
        libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
        let argument = descriptor as usize as *mut libc::c_void;
        let started = libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), close, argument);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        started == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_closed_apart_is_closed() {
        let (mut near, far) = UnixStream::pair().unwrap();
        drop(ClosedApart::from(OwnedFd::from(far)));
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
    }
}
