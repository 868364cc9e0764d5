//! Waiting for many descriptors at once, for signals, and telling the time of timers.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

use crate::error::{Context, Errno, Error, Result};

/// How many descriptors one call of [`Poller::wait`] reports at most. The others' turn comes with the next.
const BATCH: usize = 64;

/// A set of descriptors that are waited for (epoll). A descriptor leaves it by being closed.
#[derive(Debug)]
pub struct Poller(Epoll);

/// Which events of a descriptor are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Readable, again and again until it is read.
    Read,
    /// Readable, writable or hung up, once for each change.
    Changes,
}

impl Poller {
    /// An empty set.
    pub fn new() -> Result<Self> {
        Ok(Poller(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("failed to create an epoll descriptor")?))
    }

    /// Adds a descriptor; `token` is what [`Poller::wait`] calls it.
    pub fn add(&self, descriptor: impl AsFd, token: u64, interest: Interest) -> Result<()> {
        let flags = match interest {
            Interest::Read => EpollFlags::EPOLLIN,
            Interest::Changes => {
                EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
            }
        };
        self.0.add(descriptor, EpollEvent::new(flags, token)).context("failed to watch a descriptor")
    }

    /// Takes out a descriptor that stays open.
    pub fn remove(&self, descriptor: impl AsFd) -> Result<()> {
        self.0.delete(descriptor).context("failed to stop watching a descriptor")
    }

    /// Waits until something has happened, at most `limit` (`None`: for ever), and gives the tokens of whatever it was to
    /// `tokens`.
    pub fn wait(&self, limit: Option<Duration>, tokens: &mut Vec<u64>) -> Result<()> {
        let mut events = [EpollEvent::empty(); BATCH];
        let timeout = match limit {
            None => EpollTimeout::NONE,
            // A fraction of a millisecond counts as a whole one, or the loop would spin until it has passed.
            Some(limit) => {
                let milliseconds = limit.as_nanos().div_ceil(1_000_000);
                EpollTimeout::from(u16::try_from(milliseconds).unwrap_or(u16::MAX))
            }
        };
        tokens.clear();
        match self.0.wait(&mut events, timeout) {
            Ok(count) => tokens.extend(events.iter().take(count).map(EpollEvent::data)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("failed to wait for events"),
        }
        Ok(())
    }
}

/// Makes calls on a socket or pipe return `EAGAIN` instead of waiting. (std makes an ioctl(2) of it for sockets, which a policy
/// for the reference does not know.)
pub fn set_nonblocking(descriptor: impl AsFd) -> Result<()> {
    Ok(fcntl(descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)?)
}

/// SIGINT and SIGTERM as a descriptor: it becomes readable when one of them is sent.
#[derive(Debug)]
pub struct EndSignals(SignalFd);

impl EndSignals {
    /// From now on these signals do not end the process. `None` where a policy refuses signalfd(2), which the reference has
    /// no use for: the signals end the process at once then, as SIGKILL does.
    pub fn catch() -> Result<Option<Self>> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = match SignalFd::with_flags(&signals, flags).map_err(Error::from) {
            Err(error) if error.is_refusal() => return Ok(None),
            created => created.context("failed to create a signal descriptor")?,
        };
        signals.thread_block().context("failed to block signals")?;
        Ok(Some(EndSignals(descriptor)))
    }
}

impl AsFd for EndSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Milliseconds of a clock that never goes back and counts the time asleep.
pub fn boottime() -> i64 {
    // It exists since Linux 2.6.39; without it, no time passes.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000)
}

/// Sleeps, or returns early after a signal. (std ends the process without a word where the call is refused.)
pub fn pause(duration: Duration) {
    let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &TimeSpec::from_duration(duration));
}

/// Lets this process have as many descriptors as it may.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // A wish: where it is refused, some calls fail under load and say why.
    let _ = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_readable_is_reported_until_it_is_taken_out() {
        let poller = Poller::new().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        poller.add(&far, 7, Interest::Read).unwrap();
        let mut tokens = vec![1];
        poller.wait(Some(Duration::ZERO), &mut tokens).unwrap();
        assert!(tokens.is_empty());
        near.write_all(b"x").unwrap();
        for _ in 0..2 {
            poller.wait(None, &mut tokens).unwrap();
            assert_eq!(tokens, [7]);
        }
        poller.remove(&far).unwrap();
        poller.wait(Some(Duration::from_micros(1)), &mut tokens).unwrap();
        assert!(tokens.is_empty());
    }
}
