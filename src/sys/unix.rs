//! Stream sockets of the unix family.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::{Errno, Error, Result};

/// Connects to the socket with this name: a path, or, when `is_abstract`, bytes outside of the file system. Waits at most
/// `limit` for a listener whose queue is full (`EAGAIN` then); std has no such limit.
pub fn connect_within(name: &[u8], is_abstract: bool, limit: Duration) -> Result<UnixStream> {
    let address = match is_abstract {
        true => UnixAddr::new_abstract(name),
        false => UnixAddr::new(OsStr::from_bytes(name)),
    };
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Zero would mean no limit.
    let microseconds = i64::try_from(limit.as_micros()).unwrap_or(i64::MAX).max(1);
    // Where the option is refused there is no limit, as in the reference.
    let _ = setsockopt(&descriptor, sockopt::SendTimeout, &TimeVal::microseconds(microseconds));
    let address = address?;
    loop {
        match connect(descriptor.as_raw_fd(), &address) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::from(errno)),
            Ok(()) => return Ok(UnixStream::from(descriptor)),
        }
    }
}
