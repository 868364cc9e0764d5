//! The one error type. It carries what the CNI error object needs (code, msg, details) and the errno that decisions are
//! made on; texts are for people only.

use std::fmt;
use std::ops::{Deref, DerefMut};

pub use nix::errno::Errno;

/// Error codes of the CNI specification 1.1.0 (section "Error") and of the reference implementation.
pub mod code {
    /// A delegate failed without an error object.
    pub const UNKNOWN: u32 = 0;
    /// The plugin does not speak the configuration's `cniVersion`.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A configuration key or value that this plugin does not support.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A `CNI_` environment variable is missing or malformed.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Standard input could not be read.
    pub const IO_FAILURE: u32 = 5;
    /// JSON could not be decoded.
    pub const DECODING_FAILURE: u32 = 6;
    /// The network configuration is not valid.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace is the plugin's own (reference implementation only).
    pub const INVALID_NETNS: u32 = 8;
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: the plugin cannot serve ADD and existing attachments may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// Anything else.
    pub const INTERNAL: u32 = 999;
}

/// A failure. In results it takes no more than a pointer: errors are rare, and everybody hands them on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Failure>);

/// CNI error code, what went wrong, further detail, and the kernel's errno when there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// CNI error code, see [`code`].
    pub code: u32,
    /// What was being done to what, and the cause.
    pub msg: String,
    /// Further detail; empty when there is none.
    pub details: String,
    /// The kernel's error number, when the kernel refused something.
    pub errno: Option<Errno>,
    /// The call was about a file, not about the network: the same number may mean another thing
    /// there.
    pub about_file: bool,
}

impl Deref for Error {
    type Target = Failure;

    fn deref(&self) -> &Failure {
        &self.0
    }
}

impl DerefMut for Error {
    fn deref_mut(&mut self) -> &mut Failure {
        &mut self.0
    }
}

/// Result with the project's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with a CNI code of its own.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Error::with_text(code, msg.into())
    }

    fn with_text(code: u32, msg: String) -> Self {
        Error(Box::new(Failure { code, msg, details: String::new(), errno: None, about_file: false }))
    }

    /// An error without a CNI code of its own (999).
    pub fn internal(msg: impl Into<String>) -> Self {
        Error::with_text(code::INTERNAL, msg.into())
    }

    /// The same error with a CNI code of its own.
    #[must_use]
    pub fn with_code(mut self, code: u32) -> Self {
        self.code = code;
        self
    }

    /// The same error with the kernel's error number.
    #[must_use]
    pub fn with_errno(mut self, errno: Errno) -> Self {
        self.errno = Some(errno);
        self
    }

    /// The same error with the `details` field set.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Puts `what: ` in front of the message. An error with a CNI code of its own passes unchanged, as it does in the
    /// reference implementation, where such an error object replaces everything wrapped around it.
    #[must_use]
    pub fn context(self, what: &str) -> Self {
        if self.code == code::INTERNAL { self.behind(what) } else { self }
    }

    /// Puts `what: ` in front of the message, whatever the error's code.
    #[must_use]
    pub fn behind(mut self, what: &str) -> Self {
        self.msg = format!("{what}: {}", self.msg);
        self
    }

    /// The same error with the cause in its details, if the kernel's answer has only one cause and
    /// the details are empty. (What the network's part of the kernel refuses is explained where the
    /// request is known: `netlink::hints`.)
    #[must_use]
    pub fn with_hint(self) -> Self {
        match self.errno.and_then(|errno| hint(errno, self.about_file)) {
            Some(hint) if self.details.is_empty() => self.with_details(hint),
            _ => self,
        }
    }

    /// True when the kernel's answer was `errno`.
    pub fn is(&self, errno: Errno) -> bool {
        self.errno == Some(errno)
    }

    /// True when somebody did not answer in time.
    pub fn timed_out(&self) -> bool {
        self.is(Errno::ETIMEDOUT)
    }

    /// True when the call itself was refused: the kernel does not have the call, the file system does not support the
    /// call, or a policy (seccomp, AppArmor, SELinux) forbids the call. Another way to the same end may be open then.
    pub fn is_refusal(&self) -> bool {
        self.errno.is_some_and(|errno| REFUSALS.contains(&errno))
    }
}

/// The outcome of a step that is only a help: success also where the call was refused.
pub fn unless_refused(step: Result<()>) -> Result<()> {
    match step {
        Err(error) if error.is_refusal() => Ok(()),
        step => step,
    }
}

/// Answers to a call that is refused whatever the state of the file or socket is. `ENOSYS`: a kernel without the call, a FUSE
/// server. `EPERM`: seccomp, a file system without hard links. `EACCES`: AppArmor, SELinux. `EOPNOTSUPP`, `EINVAL`: a file
/// system, or an older kernel that does not know a flag. `ENOLCK`: NFS without a lock server.
const REFUSALS: [Errno; 6] =
    [Errno::ENOSYS, Errno::EPERM, Errno::EACCES, Errno::EOPNOTSUPP, Errno::EINVAL, Errno::ENOLCK];

fn hint(errno: Errno, about_file: bool) -> Option<&'static str> {
    Some(match errno {
        Errno::EROFS => "the file system is read-only",
        // Elsewhere these are limits on something else: namespaces, elements of a set, uses of a
        // chain.
        Errno::ENOSPC if about_file => "is the disk full (df, df -i)?",
        Errno::EMFILE if about_file => "this process has too many open files (ulimit -n)",
        Errno::ENFILE if about_file => "this machine has too many open files (sysctl fs.file-max)",
        Errno::EACCES if about_file && !nix::unistd::geteuid().is_root() => "this process does not run as root",
        _ => return None,
    })
}

impl From<Errno> for Error {
    /// The text is the one C libraries and Go print, with a lower-case first letter: `file exists`.
    fn from(errno: Errno) -> Self {
        let text = match errno {
            // nix has other words for these.
            Errno::EIO => "input/output error",
            Errno::EAGAIN => "resource temporarily unavailable",
            Errno::EXDEV => "invalid cross-device link",
            Errno::ERANGE => "numerical result out of range",
            Errno::ELOOP => "too many levels of symbolic links",
            Errno::EOPNOTSUPP => "operation not supported",
            Errno::EDQUOT => "disk quota exceeded",
            other => other.desc(),
        };
        let mut msg = String::with_capacity(text.len());
        let mut letters = text.chars();
        msg.extend(letters.next().map(|first| first.to_ascii_lowercase()));
        msg.push_str(letters.as_str());
        Error::internal(msg).with_errno(errno)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => {
                let mut error = Error::from(Errno::from_raw(number));
                error.about_file = true;
                error
            }
            None => Error::internal(error.to_string()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(out, "; {}", self.details) }
    }
}

/// Adds context to the error of a result.
pub trait Context<T> {
    /// See [`Error::context`].
    fn context(self, what: &str) -> Result<T>;
    /// See [`Error::context`]; the text is only made when there is an error.
    fn with_context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: &str) -> Result<T> {
        self.map_err(|error| error.into().context(what))
    }

    fn with_context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.into().context(&what()))
    }
}

/// The failures of a sequence of steps that goes on past each of them (DEL, GC).
#[derive(Debug, Default)]
pub struct Failures(Vec<Error>);

impl Failures {
    /// Remembers the failure of a step, if it failed, and gives its value otherwise.
    pub fn note<T>(&mut self, step: Result<T>) -> Option<T> {
        step.map_err(|error| self.0.push(error)).ok()
    }

    /// Success if nothing failed; otherwise one error with all texts joined by `; `. Its code is that of the first
    /// failure which has one of its own.
    pub fn finish(self) -> Result<()> {
        self.finish_joined("; ")
    }

    /// The same with another separator.
    pub fn finish_joined(self, separator: &str) -> Result<()> {
        let mut errors = self.0;
        if errors.len() < 2 {
            return errors.pop().map_or(Ok(()), Err);
        }
        let code = errors.iter().map(|error| error.code).find(|code| *code != code::INTERNAL);
        let texts: Vec<String> = errors.iter().map(Error::to_string).collect();
        Err(Error::new(code.unwrap_or(code::INTERNAL), texts.join(separator)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_text_starts_lower_case() {
        assert_eq!(Error::from(Errno::EEXIST).msg, "file exists");
        assert_eq!(Error::from(Errno::ERANGE).msg, "numerical result out of range");
    }

    #[test]
    fn context_leaves_errors_with_a_code_alone() {
        assert_eq!(Error::internal("b").context("a").msg, "a: b");
        assert_eq!(Error::new(code::INVALID_CONFIG, "b").context("a").msg, "b");
    }

    #[test]
    fn a_hint_is_given_when_nobody_has_said_more() {
        assert_eq!(Error::from(Errno::EROFS).with_hint().details, "the file system is read-only");
        assert_eq!(Error::from(Errno::EROFS).with_details("own").with_hint().details, "own");
        assert_eq!(Error::from(Errno::EEXIST).with_hint().details, "");
    }

    #[test]
    fn a_number_that_means_several_things_is_no_hint() {
        for (errno, word) in [(Errno::ENOSPC, "disk"), (Errno::EMFILE, "process"), (Errno::ENFILE, "machine")] {
            let of_file = Error::from(std::io::Error::from(errno)).context("x").with_hint();
            assert!(of_file.details.contains(word), "{}", of_file.details);
            assert_eq!(Error::from(errno).with_hint().details, "", "{errno}");
        }
        for errno in [Errno::EPERM, Errno::EACCES, Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT, Errno::EDQUOT, Errno::EXFULL]
        {
            assert_eq!(Error::from(errno).with_hint().details, "", "{errno}");
        }
        assert_eq!(Error::from(std::io::Error::from(Errno::EPERM)).with_hint().details, "", "chattr +i");
    }

    #[test]
    fn a_refused_call_is_told_from_one_that_failed() {
        for errno in [Errno::ENOSYS, Errno::EPERM, Errno::EACCES, Errno::EOPNOTSUPP, Errno::EINVAL, Errno::ENOLCK] {
            assert!(Error::from(errno).context("x").is_refusal(), "{errno}");
        }
        for errno in [Errno::EEXIST, Errno::ENOENT, Errno::EISDIR, Errno::ENOSPC, Errno::EROFS, Errno::EIO] {
            assert!(!Error::from(errno).is_refusal(), "{errno}");
        }
        assert!(!Error::internal("x").is_refusal());
        assert_eq!(unless_refused(Err(Errno::ENOSYS.into())), Ok(()));
        assert!(unless_refused(Err(Errno::EIO.into())).is_err());
    }

    #[test]
    fn failures_are_reported_together() {
        let mut failures = Failures::default();
        assert_eq!(failures.note(Ok(1)), Some(1));
        assert_eq!(failures.note::<()>(Err(Error::internal("x"))), None);
        failures.note::<()>(Err(Error::new(8, "y").with_details("z")));
        let error = failures.finish().unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (8, "x; y; z"));
        assert!(Failures::default().finish().is_ok());
    }
}
