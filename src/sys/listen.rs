//! Listening on a socket of the unix family: one that the service manager passes on, or one of our own.

use std::fs::{self, File};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::stat::{Mode, umask};

use crate::error::{Context, Errno, Error, Result};
use crate::sys::lock::{self, Lock};
use crate::sys::{file, unix};

/// The first descriptor that a service manager passes (`SD_LISTEN_FDS_START`).
const FIRST_PASSED: i32 = 3;
/// Nobody holds the lock for longer than it takes to try a socket.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// The listener that the service manager has passed to this process, by the values of LISTEN_PID and LISTEN_FDS
/// (sd_listen_fds(3)); `None` when it has not passed any. To be called once, before anything else is opened. The texts
/// are the reference's.
pub fn passed(pid: &str, count: &str) -> Result<Option<UnixListener>> {
    let numbers: (std::result::Result<u32, _>, std::result::Result<u32, _>) = (pid.parse(), count.parse());
    let count = match numbers {
        (Ok(pid), Ok(count)) if std::process::id() == pid && count > 0 => count,
        _ => return Ok(None),
    };
    if count > 1 {
        return Err(Error::internal(format!("Too many ({count}) FDs passed through socket activation")));
    }
    // SAFETY: only asks whether the number is open; it is not used if it is not.
    let borrowed = unsafe { BorrowedFd::borrow_raw(FIRST_PASSED) };
    if fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_err() {
        return Err(Error::internal("LISTEN_FDS=1 but no FD found"));
    }
    // SAFETY: it is open, and the service manager says that it is for us; nothing else here uses this number.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(FIRST_PASSED) });
    Ok(Some(listener))
}

/// Listens at `path`; the directory is created. Only the socket's owner and group may connect, even
/// if the umask would let others. To be called while the process has one thread. A socket that
/// no process listens at any more is replaced, a live one is not (`EADDRINUSE`).
pub fn bind(path: &Path) -> Result<UnixListener> {
    let mut lock = None;
    if let Some(directory) = path.parent() {
        file::create_directories(directory, 0o700).map_err(|error| as_go_says(directory, error))?;
        // Of two that find a stale socket the later would remove the earlier one's. Without a lock that may happen.
        let locked = File::open(directory).map_err(Error::from);
        lock = locked.and_then(|directory| Lock::acquire_within(directory, lock::Mode::Exclusive, LOCK_LIMIT)).ok();
    }
    let bound = match create(path).map_err(Error::from) {
        Err(error) if error.is(Errno::EADDRINUSE) && is_stale(path) => {
            fs::remove_file(path).with_context(|| format!("failed to remove the stale socket {path:?}"))?;
            create(path).map_err(Error::from)
        }
        // std refuses a path that is too long without asking the kernel.
        Err(error) if error.errno.is_none() => Err(Error::from(Errno::EINVAL).with_details(error.msg.clone())),
        bound => bound,
    };
    drop(lock);
    bound.with_context(|| format!("listen unix {}: bind", path.display()))
}

/// Creates the socket. Permission to write to a socket is permission to connect.
fn create(path: &Path) -> std::io::Result<UnixListener> {
    let old = umask(Mode::S_IWOTH);
    umask(old | Mode::S_IWOTH);
    let bound = UnixListener::bind(path);
    umask(old);
    bound
}

/// The failure to create a directory in the words of Go's `os.MkdirAll`, which names the part of the path that it is about.
fn as_go_says(directory: &Path, error: Error) -> Error {
    let Some(errno) = error.errno else { return error };
    let part = directory.ancestors().filter(|part| !part.is_dir()).last().unwrap_or(directory);
    Error::from(errno).context(&format!("mkdir {}", part.display()))
}

/// True for a socket that nobody listens at, as SIGKILL leaves it.
fn is_stale(path: &Path) -> bool {
    // A live one may have a full queue.
    let connected = unix::connect_within(path.as_os_str().as_bytes(), false, Duration::from_secs(1));
    connected.is_err_and(|error| error.is(Errno::ECONNREFUSED)) && is_socket(path)
}

/// A path that leads to a file of another kind refuses connections too.
fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// The path that a listener is bound to.
pub fn path_of(listener: &UnixListener) -> Option<String> {
    let address = listener.local_addr().ok()?;
    address.as_pathname()?.to_str().map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_another_process_mean_nothing() {
        let own = std::process::id().to_string();
        for (pid, count) in [("", ""), ("1", "1"), (&own, "0"), (&own, "x"), (&own, "")] {
            assert!(passed(pid, count).unwrap().is_none(), "{pid} {count}");
        }
        let error = passed(&own, "2").unwrap_err();
        assert_eq!(error.msg, "Too many (2) FDs passed through socket activation");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = std::env::temp_dir().join(format!("cni-box-listen-{}", std::process::id()));
        let path = directory.join("a/dhcp.sock");
        let first = bind(&path).unwrap();
        assert_eq!(path_of(&first).as_deref(), path.to_str());
        let taken = bind(&path).unwrap_err();
        assert_eq!(taken.msg, format!("listen unix {}: bind: address already in use", path.display()));
        drop(first);
        assert!(bind(&path).is_ok());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(bind(&path).is_err(), "no socket of ours");
        fs::remove_dir_all(&directory).unwrap();
    }
}
