//! Standard output and standard error, without a buffer in between: an answer is one write.

use std::os::fd::{AsFd, BorrowedFd};

use crate::error::{Errno, Result};

/// Writes to standard output.
pub fn print(bytes: &[u8]) -> Result<()> {
    write_all(std::io::stdout().as_fd(), bytes)
}

/// Writes to standard error.
pub fn print_error(bytes: &[u8]) -> Result<()> {
    write_all(std::io::stderr().as_fd(), bytes)
}

fn write_all(stream: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match nix::unistd::write(stream, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
