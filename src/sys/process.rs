//! Running another program to its end: the only exec there is, of plugins that are not ours, and of ourselves where only an
//! exec changes the SELinux context.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::error::{Context, Errno, Error, Result};
use crate::sys::child::Child;
use crate::sys::ending::Ending;
use crate::sys::events::{pause, set_nonblocking};
use crate::sys::log::Step;
use crate::sys::output;

/// How a program ended and what it printed.
#[derive(Debug)]
pub struct Finished {
    /// `None` for exit status 0, otherwise Go's wording: `exit status 1`, `signal: killed`.
    pub failure: Option<String>,
    /// Standard output. A program that prints more than 16 MiB finds it closed.
    pub stdout: Vec<u8>,
    /// Standard error, the first 16 MiB; it has also been passed on to our own.
    pub stderr: Vec<u8>,
    /// A signal came that wanted this process to end. The program got it too, and if that did not help was killed.
    pub interrupted: bool,
}

/// Times a program is started when its file is still open for writing (`ETXTBSY`), one second apart, as libcni does.
const BUSY_TRIES: u32 = 6;

/// Bytes that are kept of what a program prints: far more than any result has, far less than all memory.
const MOST: usize = 16 << 20;

/// The running program.
const OWN_FILE: &str = "/proc/self/exe";

/// Where SELinux is told the context of the next program.
const EXEC_LABEL: &str = "/proc/thread-self/attr/exec";

/// There if SELinux is.
const SELINUX: &str = "/sys/fs/selinux";

/// Runs `path` with exactly this environment, feeds it `stdin` and collects what it prints.
pub fn run(path: &str, environment: &[(OsString, OsString)], stdin: &[u8]) -> Result<Finished> {
    let step = Step::begin(format_args!("program {path}"));
    let finished = run_to_its_end(path, environment, stdin);
    let failure = finished.as_ref().map(|finished| finished.failure.as_ref());
    step.end_with(failure.map_or_else(|error| Some(error as _), |failure| failure.map(|status| status as _)));
    finished
}

fn run_to_its_end(path: &str, environment: &[(OsString, OsString)], stdin: &[u8]) -> Result<Finished> {
    let mut ending = Ending::watch();
    let spawned = spawn(path, environment, &mut ending).with_context(|| format!("fork/exec {path}"));
    let (mut child, pipes) = spawned.map_err(|error| explain(path, error))?;
    let (stdout, stderr) = converse(&mut child, pipes, stdin, &mut ending);
    let status = child.wait().with_context(|| format!("failed to wait for {path}"))?;
    Ok(Finished { failure: describe(status), stdout, stderr, interrupted: ending.finish() })
}

/// Adds why a file that is there could not be executed, where its mode, its mount or its presence
/// tells.
fn explain(path: &str, error: Error) -> Error {
    let Ok(file) = fs::metadata(path) else { return error };
    let is_noexec = || statvfs(path).is_ok_and(|mount| mount.flags().contains(FsFlags::ST_NOEXEC));
    match error.errno {
        Some(Errno::EACCES) if file.mode() & 0o111 == 0 => error.with_details("is it executable (chmod +x)?"),
        Some(Errno::EACCES) if is_noexec() => error.with_details("its file system is mounted noexec"),
        Some(Errno::ENOENT) => error
            .with_details("the file is there: the interpreter in its first line, or its dynamic loader, is missing"),
        _ => error,
    }
}

/// Runs this program once more, with these arguments and in an SELinux context, to its end. Gives its exit code; `None` when
/// a signal ended it. The child is in the network namespace of the calling thread.
pub fn run_self_as(context: &str, arguments: &[&str]) -> Result<Option<i32>> {
    label_next_exec(context)?;
    let arguments: Vec<&str> = std::iter::once(env!("CARGO_PKG_NAME")).chain(arguments.iter().copied()).collect();
    let status = Child::start(OWN_FILE, &arguments, &[], &[]).and_then(|mut child| child.wait());
    // Plugins that are executed later have nothing to do with it. Who may set a label may take it back.
    let _ = label_next_exec("");
    Ok(status.with_context(|| format!("failed to run {OWN_FILE} in SELinux context {context:?}"))?.code())
}

/// Sets the SELinux context that the next program of this thread or its children starts in; an empty one means the
/// policy's choice.
fn label_next_exec(context: &str) -> Result<()> {
    // One write, even of nothing: that is what takes the label back.
    let written = File::options().write(true).open(EXEC_LABEL).and_then(|mut file| file.write(context.as_bytes()));
    let written = written.with_context(|| format!("failed set socket label: write {EXEC_LABEL}"));
    match written {
        Err(error) if !Path::new(SELINUX).exists() => {
            Err(error.with_details("this kernel runs without SELinux: leave selinuxContext out of the configuration"))
        }
        written => written.map(drop),
    }
}

/// Our ends of a program's standard input, output and error.
type Pipes = [OwnedFd; 3];

fn spawn(path: &str, environment: &[(OsString, OsString)], ending: &mut Ending) -> Result<(Child, Pipes)> {
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) = (pipe()?, pipe()?, pipe()?);
    let mut tries = 1;
    loop {
        match Child::start(path, &[path], environment, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]) {
            Ok(child) => return Ok((child, [to_stdin.into(), from_stdout.into(), from_stderr.into()])),
            Err(error) if error.is(Errno::ETXTBSY) && tries < BUSY_TRIES && !ending.is_wanted() => {
                tries += 1;
                pause(Duration::from_secs(1));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Feeds and reads all three pipes as they become ready, so that no side can block the other.
fn converse(child: &mut Child, pipes: Pipes, input: &[u8], ending: &mut Ending) -> (Vec<u8>, Vec<u8>) {
    let [mut stdin, mut stdout, mut stderr] = pipes.map(pipe_file);
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut rest = input;
    while ending.goes_on(stdin.is_some() || stdout.is_some() || stderr.is_some()) {
        wait_for_any(&stdin, &[&stdout, &stderr, ending.signals()], ending.patience());
        ending.hand_on(child);
        feed(&mut stdin, &mut rest);
        drain(&mut stdout, &mut output);
        if output.len() > MOST {
            // SIGPIPE ends a program that has run wild.
            stdout = None;
        }
        let before = errors.len();
        drain(&mut stderr, &mut errors);
        // Nobody can be told when standard error does not take it.
        let _ = output::print_error(errors.get(before..).unwrap_or_default());
        errors.truncate(MOST);
    }
    (output, errors)
}

fn pipe_file(pipe: OwnedFd) -> Option<File> {
    set_nonblocking(&pipe).ok()?;
    Some(File::from(pipe))
}

fn wait_for_any(write: &Option<File>, read: &[&Option<File>], limit: PollTimeout) {
    let writes = write.iter().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLOUT));
    let reads = read.iter().filter_map(|file| file.as_ref()).map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN));
    let mut polled: Vec<PollFd<'_>> = writes.chain(reads).collect();
    // Interrupted or not, the pipes are tried afterwards.
    let _ = poll(&mut polled, limit);
}

/// Writes what the pipe takes; closes it at the end of the input or when nobody reads it.
fn feed(pipe: &mut Option<File>, rest: &mut &[u8]) {
    let Some(file) = pipe else { return };
    let written = if rest.is_empty() { Ok(0) } else { file.write(rest) };
    match written {
        Ok(length) => *rest = rest.get(length..).unwrap_or_default(),
        Err(error) if is_temporary(&error) => return,
        Err(_) => *rest = &[],
    }
    if rest.is_empty() {
        *pipe = None;
    }
}

/// Reads what the pipe holds, of an endless stream a part, so that signals are heard; closes it at its end.
fn drain(pipe: &mut Option<File>, into: &mut Vec<u8>) {
    const PART: u64 = 1 << 20;
    let Some(file) = pipe else { return };
    match file.take(PART).read_to_end(into) {
        Ok(1..) => {}
        Err(error) if is_temporary(&error) => {}
        _ => *pipe = None,
    }
}

fn is_temporary(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn describe(status: ExitStatus) -> Option<String> {
    /// Go's words, from signal 1 on.
    const SIGNALS: &str = "hangup|interrupt|quit|illegal instruction|trace/breakpoint trap|aborted|bus error|\
        floating point exception|killed|user defined signal 1|segmentation fault|user defined signal 2|broken pipe|\
        alarm clock|terminated";
    let Some(signal) = status.signal() else {
        return status.code().filter(|code| *code != 0).map(|code| format!("exit status {code}"));
    };
    let known = usize::try_from(signal - 1).ok().and_then(|index| SIGNALS.split('|').nth(index));
    let dumped = if status.core_dumped() { " (core dumped)" } else { "" };
    Some(format!("signal: {}{dumped}", known.map_or(signal.to_string(), str::to_string)))
}
