//! Random bytes from the kernel.

use crate::error::{Context, Errno, Result};

/// `N` bytes from getrandom(2). Requests of up to 256 bytes are never cut short once the pool is initialised.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0u8; N];
    loop {
        // SAFETY: the pointer and length describe `bytes`, which lives through the call.
        let length = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
        match Errno::result(length) {
            Ok(got) if usize::try_from(got) == Ok(N) => return Ok(bytes),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("failed to get random bytes"),
        }
    }
}
