//! Random bytes from the kernel.

use std::fs::File;
use std::io::Read;

use crate::error::{Context, Errno, Error, Result};

/// The same source as a file.
const DEVICE: &str = "/dev/urandom";

/// `N` bytes from getrandom(2). Requests of up to 256 bytes are never cut short once the pool is initialised.
///
/// Linux before 3.17 and some seccomp profiles have no getrandom: the bytes come from a file then, as the reference's do.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0u8; N];
    loop {
        // SAFETY: the pointer and length describe `bytes`, which lives through the call.
        let length = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
        match Errno::result(length) {
            Ok(got) if usize::try_from(got) == Ok(N) => return Ok(bytes),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) if Error::from(errno).is_refusal() => {
                let read = File::open(DEVICE).and_then(|mut device| device.read_exact(&mut bytes));
                return read.map(|()| bytes).with_context(|| format!("failed to get random bytes from {DEVICE}"));
            }
            Err(errno) => return Err(errno).context("failed to get random bytes"),
        }
    }
}
