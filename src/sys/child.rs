//! Starting another program, with posix_spawn(3). (std's way is twelve times as long in the binary.)

use std::ffi::{CString, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr::null_mut;

use crate::error::{Errno, Result};

/// A program that has been started. Dropping it neither ends it nor waits for it.
#[derive(Debug)]
pub(super) struct Child {
    process: libc::pid_t,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts `path` with these arguments, of which the first is the program's name, and exactly this environment.
    /// `standard` become its descriptors 0, 1 and so on; the others are ours, as far as they are not closed on exec.
    /// Whatever we do about SIGPIPE (Rust's runtime ignores it) and whatever signals we block, it starts like any program.
    pub(super) fn start(
        path: &str,
        arguments: &[&str],
        environment: &[(OsString, OsString)],
        standard: &[BorrowedFd<'_>],
    ) -> Result<Child> {
        let path = c_string(path.as_bytes())?;
        let arguments = arguments.iter().map(|argument| c_string(argument.as_bytes())).collect::<Result<Vec<_>>>()?;
        let variable = |(name, value): &(OsString, OsString)| {
            let text = [name.as_bytes(), OsStr::new("=").as_bytes(), value.as_bytes()].concat();
            c_string(&text)
        };
        let environment = environment.iter().map(variable).collect::<Result<Vec<_>>>()?;
        let mut process = 0;
        let plan = Plan::new(standard)?;
        // SAFETY: the path, the arrays and all strings in them end with a null and live through the call, the plan's parts
        // have been initialised, and the process id is written to a place of ours.
        let failed = unsafe {
            libc::posix_spawn(
                &raw mut process,
                path.as_ptr(),
                plan.files.as_ptr(),
                plan.attributes.as_ptr(),
                pointers(&arguments).as_ptr(),
                pointers(&environment).as_ptr(),
            )
        };
        if failed == 0 { Ok(Child { process, status: None }) } else { Err(Errno::from_raw(failed).into()) }
    }

    /// Its process id.
    pub(super) fn process(&self) -> libc::pid_t {
        self.process
    }

    /// True once it has ended, or when that cannot be found out: then nothing but the end of its output tells, and
    /// [`Child::wait`] says why.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.reap(libc::WNOHANG), Ok(None) | Err(Errno::EINTR))
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            match self.reap(0) {
                Ok(Some(status)) => return Ok(status),
                Ok(None) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn reap(&mut self, how: libc::c_int) -> std::result::Result<Option<ExitStatus>, Errno> {
        if self.status.is_none() {
            let mut status = 0;
            // SAFETY: the status is written to a place of ours. The process is a child of ours that nobody has reaped yet.
            let reaped = Errno::result(unsafe { libc::waitpid(self.process, &raw mut status, how) })?;
            self.status = (reaped == self.process).then(|| ExitStatus::from_raw(status));
        }
        Ok(self.status)
    }
}

/// What happens between the new process's start and the program's.
struct Plan {
    files: MaybeUninit<libc::posix_spawn_file_actions_t>,
    attributes: MaybeUninit<libc::posix_spawnattr_t>,
}

impl Plan {
    fn new(standard: &[BorrowedFd<'_>]) -> Result<Plan> {
        let mut plan = Plan { files: MaybeUninit::uninit(), attributes: MaybeUninit::uninit() };
        let (files, attributes) = (plan.files.as_mut_ptr(), plan.attributes.as_mut_ptr());
        let mut signals = MaybeUninit::uninit();
        // SAFETY: each object is initialised by the first call that gets it, and lives through all calls; none of them can
        // fail (POSIX allows ENOMEM), and what they are given is valid.
        unsafe {
            libc::posix_spawn_file_actions_init(files);
            libc::posix_spawnattr_init(attributes);
            libc::sigemptyset(signals.as_mut_ptr());
            libc::posix_spawnattr_setsigmask(attributes, signals.as_ptr());
            libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE);
            libc::posix_spawnattr_setsigdefault(attributes, signals.as_ptr());
            let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
            libc::posix_spawnattr_setflags(attributes, flags as libc::c_short);
        }
        for (number, file) in (0..).zip(standard) {
            // SAFETY: the actions have been initialised above, and take the numbers only.
            let failed = unsafe { libc::posix_spawn_file_actions_adddup2(files, file.as_raw_fd(), number) };
            if failed != 0 {
                return Err(Errno::from_raw(failed).into());
            }
        }
        Ok(plan)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: both have been initialised in `new`, which alone makes plans, and are not used any more.
        unsafe {
            libc::posix_spawn_file_actions_destroy(self.files.as_mut_ptr());
            libc::posix_spawnattr_destroy(self.attributes.as_mut_ptr());
        }
    }
}

/// `EINVAL` for text with a null in it.
fn c_string(text: &[u8]) -> Result<CString> {
    CString::new(text).map_err(|_| Errno::EINVAL.into())
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([null_mut()]).collect()
}
