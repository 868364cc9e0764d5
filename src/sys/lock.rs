//! flock(2), the lock that the reference plugins, iptables and we share.

use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Errno, Result};
use crate::sys::events;
use crate::sys::log::Step;

/// How a file is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Many holders.
    Shared,
    /// One holder.
    Exclusive,
}

/// A held lock; dropping it releases the lock, also if others have the same open file.
#[derive(Debug)]
pub struct Lock(Arc<File>);

impl Lock {
    /// Waits for the lock without limit.
    pub fn acquire(file: impl Into<Arc<File>>, mode: Mode) -> Result<Self> {
        let file = file.into();
        let step = waiting_for(&file);
        step.end(flock(&file, operation(mode)))?;
        Ok(Lock(file))
    }

    /// Waits for the lock without limit; `None` where there are no locks to be had: a file system without flock(2), such as
    /// NFS without a lock server or (`EBADF`) for a file that may only be read, AppArmor without `k`, seccomp.
    pub fn acquire_where_possible(file: impl Into<Arc<File>>, mode: Mode) -> Result<Option<Self>> {
        match Lock::acquire(file, mode) {
            Err(error) if error.is_refusal() || error.is(Errno::EBADF) => Ok(None),
            acquired => acquired.map(Some),
        }
    }

    /// Waits for the lock at most `limit`; `ETIMEDOUT` when somebody else held it for all that time.
    pub fn acquire_within(file: impl Into<Arc<File>>, mode: Mode, limit: Duration) -> Result<Self> {
        let file = file.into();
        let step = waiting_for(&file);
        step.end(flock_within(&file, mode, limit))?;
        Ok(Lock(file))
    }

    /// Changes how the lock is held, waiting at most `limit`. The kernel releases the old lock first, so others may come in
    /// between; after `ETIMEDOUT` no lock is held.
    pub fn convert_within(&self, mode: Mode, limit: Duration) -> Result<()> {
        waiting_for(&self.0).end(flock_within(&self.0, mode, limit))
    }

    /// The locked file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing releases it too, unless the file is open elsewhere; there is nothing to do about a failure.
        let _ = flock(&self.0, libc::LOCK_UN);
    }
}

fn waiting_for(file: &File) -> Step {
    Step::begin(format_args!("lock {}", PathOf(file)))
}

/// The path that a file was opened by; asked for only when it is wanted.
struct PathOf<'a>(&'a File);

impl fmt::Display for PathOf<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).unwrap_or_default();
        path.display().fmt(out)
    }
}

/// flock has no timed form: it is tried again and again, gently enough not to burn the processor under contention.
fn flock_within(file: &File, mode: Mode, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    loop {
        match flock(file, operation(mode) | libc::LOCK_NB) {
            Err(Errno::EWOULDBLOCK) if Instant::now() < deadline => events::pause(pause),
            Err(Errno::EWOULDBLOCK) => return Err(Errno::ETIMEDOUT.into()),
            locked => return Ok(locked?),
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn operation(mode: Mode) -> libc::c_int {
    match mode {
        Mode::Shared => libc::LOCK_SH,
        Mode::Exclusive => libc::LOCK_EX,
    }
}

/// flock(2), continued after signals.
fn flock(file: &File, operation: libc::c_int) -> std::result::Result<(), Errno> {
    loop {
        // SAFETY: the descriptor is open for as long as `file` lives; flock touches no memory of ours.
        match Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}
