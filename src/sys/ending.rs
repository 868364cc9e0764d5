//! Signals that want this process to end while it waits for another program. The program gets them too and is waited for,
//! so that it is not left running unnoticed, and so that the caller can take back what has been done.

use std::fs::File;
use std::io::{PipeWriter, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollTimeout;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

use crate::sys::child::Child;
use crate::sys::events::set_nonblocking;

/// How long the program may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a terminal's end, Ctrl-C and a service manager send; and that a child has ended.
const WATCHED: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD];

/// The pipe that [`note`] writes to; -1: none.
static NOTES: AtomicI32 = AtomicI32::new(-1);

/// Handlers belong to the whole process, so one at a time has them. Only unit tests run programs in several threads.
static TURN: Mutex<()> = Mutex::new(());

/// The watch over one program, from before its start to its end.
pub(super) struct Ending {
    notes: Option<File>,
    before: Vec<(Signal, SigAction)>,
    ended: bool,
    /// When the program is killed; set by the first signal.
    deadline: Option<Instant>,
    _held: Option<(PipeWriter, MutexGuard<'static, ()>)>,
}

impl Ending {
    /// Signals are noted from now on, apart from those that this process ignores. (Blocked ones would go to another thread
    /// and end the process there.) Where that cannot be had, they end this process as always.
    pub(super) fn watch() -> Self {
        let mut ending = Ending { notes: None, before: Vec::new(), ended: false, deadline: None, _held: None };
        let (Ok(turn), Ok((read, write))) = (TURN.try_lock(), std::io::pipe()) else { return ending };
        // A handler must never wait.
        if set_nonblocking(&read).is_ok() && set_nonblocking(&write).is_ok() {
            NOTES.store(write.as_raw_fd(), Ordering::Relaxed);
            ending.notes = Some(File::from(OwnedFd::from(read)));
            ending._held = Some((write, turn));
            // Whoever started us may have had it blocked; it is what ends the waiting.
            let _ = SigSet::from_iter([Signal::SIGCHLD]).thread_unblock();
            ending.before = WATCHED.into_iter().filter_map(catch).collect();
        }
        ending
    }

    /// Becomes readable with every signal.
    pub(super) fn signals(&self) -> &Option<File> {
        &self.notes
    }

    /// True as long as there is something to wait for. Pipes that are `open` although the program has ended are held by
    /// its children; who wants us to end does not wait for those.
    pub(super) fn goes_on(&self, open: bool) -> bool {
        match (&self.notes, self.deadline) {
            (None, _) => open,
            (_, None) => open || !self.ended,
            (_, Some(_)) => !self.ended,
        }
    }

    /// How long to wait for anything.
    pub(super) fn patience(&self) -> PollTimeout {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Rounded up, or the last millisecond would be a busy loop.
        left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::NONE)
        })
    }

    /// Gives the program the signals that have come; kills it when it has had its time.
    pub(super) fn hand_on(&mut self, child: &mut Child) {
        let signals = self.take();
        // Also a child of another kind may have ended.
        self.ended = self.ended || child.has_ended();
        if self.ended {
            return;
        }
        let late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        for signal in signals.into_iter().chain(late.then_some(Signal::SIGKILL)) {
            // It has not been reaped, so the number is still its own.
            let _ = kill(Pid::from_raw(child.process()), signal);
        }
    }

    /// Ends the watch. True if there was a signal.
    pub(super) fn finish(mut self) -> bool {
        self.restore();
        self.is_wanted()
    }

    /// True if there was a signal. Whoever has not started the program yet need not.
    pub(super) fn is_wanted(&mut self) -> bool {
        self.take();
        self.deadline.is_some()
    }

    /// The signals noted since the last time that want us to end.
    fn take(&mut self) -> Vec<Signal> {
        let mut numbers = Vec::new();
        // It ends with "would block".
        let _ = self.notes.as_mut().map(|notes| notes.read_to_end(&mut numbers));
        let signals = numbers.into_iter().filter_map(|number| Signal::try_from(i32::from(number)).ok());
        let signals: Vec<Signal> = signals.filter(|signal| *signal != Signal::SIGCHLD).collect();
        if !signals.is_empty() && self.deadline.is_none() {
            self.deadline = Some(Instant::now() + PATIENCE);
        }
        signals
    }

    fn restore(&mut self) {
        for (signal, before) in self.before.drain(..) {
            // SAFETY: the action is the one that was in force before.
            let _ = unsafe { sigaction(signal, &before) };
        }
        if self.notes.is_some() {
            NOTES.store(-1, Ordering::Relaxed);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Has a signal noted and gives what was done about it before; `None` if it was ignored, which it stays.
fn catch(signal: Signal) -> Option<(Signal, SigAction)> {
    let flags = SaFlags::SA_RESTART | SaFlags::SA_NOCLDSTOP;
    let action = SigAction::new(SigHandler::Handler(note), flags, SigSet::empty());
    // SAFETY: the handler touches an atomic, errno and a pipe, and calls only write, which is async-signal-safe.
    let before = unsafe { sigaction(signal, &action) }.ok()?;
    if matches!(before.handler(), SigHandler::SigIgn) && signal != Signal::SIGCHLD {
        // SAFETY: the action is the one that was in force before.
        let _ = unsafe { sigaction(signal, &before) };
        return None;
    }
    Some((signal, before))
}

extern "C" fn note(signal: libc::c_int) {
    let errno = Errno::last_raw();
    let byte = u8::try_from(signal).unwrap_or_default();
    // SAFETY: one byte of ours is read. A descriptor that is none fails with EBADF.
    unsafe { libc::write(NOTES.load(Ordering::Relaxed), (&raw const byte).cast(), 1) };
    Errno::set_raw(errno);
}
