//! Network namespaces: opening, telling apart, and doing something inside one.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, OnceLock};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::fstatfs;

use crate::error::{Context, Errno, Error, Result};
use crate::sys::lock::{Lock, Mode};
use crate::sys::rights::{self, Capability};

/// Namespace of the process.
pub(super) const OWN: &str = "/proc/self/ns/net";

/// `NS_GET_NSTYPE` of `linux/nsfs.h`: which kind of namespace a descriptor is.
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// `NSFS_MAGIC` of `linux/magic.h`: the file system that all kinds of namespaces are on.
const NSFS: u64 = 0x6e73_6673;

/// An open network namespace. The descriptor keeps the namespace alive; clones share the descriptor.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    path: String,
}

/// Device and inode: two descriptors with the same identity are the same namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The inode number. The kernel gives that of a namespace which has gone to a new one.
    pub fn inode(self) -> u64 {
        self.inode
    }
}

impl std::fmt::Display for Identity {
    /// `DEVICE:INODE`
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}:{}", self.device, self.inode)
    }
}

impl Netns {
    /// Opens the namespace at `path`. The texts are the reference's (`pkg/ns/ns_linux.go`, `GetNS`): a missing path is
    /// `ENOENT`; a file that is no network namespace has no errno and names the magic number of its file system.
    pub fn open(path: &str) -> Result<Self> {
        // Whatever the path leads to: opening a FIFO would otherwise wait for somebody who writes to it.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(|error| Error::from(error).context(&format!("failed to Statfs {path:?}")))?;
        let kind = nstype(&file);
        let netns = Netns { file: Arc::new(file), path: path.to_string() };
        if kind == Some(libc::CLONE_NEWNET) {
            return Ok(netns);
        }
        let magic = fstatfs(&netns).map_or(0, |stat| stat.filesystem_type().0);
        match kind {
            // Linux before 4.11 and gVisor cannot tell the kind. The reference goes by the file system alone; setns(2) refuses
            // a namespace of another kind.
            None if magic as u64 == NSFS => Ok(netns),
            _ => Err(Error::internal(format!("unknown FS magic on {path:?}: {magic:x}"))),
        }
    }

    /// Opens the namespace for DEL: `None` when there is none left. An empty path, a missing file, and a file that is no
    /// namespace (a mount point whose namespace a reboot took away) all mean that it is gone.
    pub fn open_if_left(path: &str) -> Result<Option<Self>> {
        if path.is_empty() {
            return Ok(None);
        }
        match Netns::open(path) {
            Ok(netns) => Ok(Some(netns)),
            Err(error) if matches!(error.errno, None | Some(Errno::ENOENT | Errno::ENOTDIR)) => Ok(None),
            Err(error) => Err(error.context(&format!("failed to open netns {path:?}"))),
        }
    }

    /// The namespace this process was started in, opened once. [`Netns::run`] always comes back to it.
    pub fn home() -> Result<&'static Netns> {
        static HOME: OnceLock<Netns> = OnceLock::new();
        match HOME.get() {
            Some(home) => Ok(home),
            None => {
                let home = Netns::open(OWN)?;
                Ok(HOME.get_or_init(|| home))
            }
        }
    }

    /// A new namespace, which is gone when the value is dropped. `None` if there are as many as may be
    /// (`user.max_net_namespaces`) or a policy refuses unshare(2), which only STATUS needs. If the way back is barred the
    /// process aborts.
    pub fn scratch() -> Result<Option<Self>> {
        let home = Netns::home()?;
        match unshare(CloneFlags::CLONE_NEWNET).map_err(Error::from) {
            Err(error) if error.is(Errno::ENOSPC) || error.is_refusal() => return Ok(None),
            unshared => unshared.context("failed to create a network namespace")?,
        }
        let opened = Netns::open("/proc/thread-self/ns/net");
        if home.enter().is_err() {
            std::process::abort();
        }
        opened.map(Some)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Device and inode of the namespace.
    pub fn identity(&self) -> Result<Identity> {
        Ok(identity_of(&self.file.metadata()?))
    }

    /// A number that the kernel gives no second namespace before the next boot (Linux 5.14).
    pub fn cookie(&self) -> Result<u64> {
        match Handle::of(&self.file) {
            Some(handle) => Ok(handle.id),
            None => self.run(cookie_of_current)?,
        }
    }

    /// Runs `work` inside the namespace and comes back. If the way back is barred the process aborts: going on would
    /// change the wrong namespace.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let home = Netns::home()?;
        self.enter()?;
        let result = work();
        if home.enter().is_err() {
            std::process::abort();
        }
        Ok(result)
    }

    /// Waits until nobody else holds the namespace's lock, which we share with the reference's `sbr`, and holds it until
    /// the lock is dropped.
    pub fn lock(&self) -> Result<Lock> {
        let locked = Lock::acquire(Arc::clone(&self.file), Mode::Exclusive);
        locked.with_context(|| format!("failed to lock netns {:?}", self.path))
    }

    fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| {
            let error = Error::from(errno).context(&format!("Error switching to ns {}", self.path));
            rights::explain_in(error, Capability::SysAdmin, Some(&self.file))
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Device and inode behind `path`, whatever it is; `None` when it cannot be looked at.
pub fn identity_at(path: &str) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|metadata| identity_of(&metadata))
}

fn identity_of(metadata: &std::fs::Metadata) -> Identity {
    Identity { device: metadata.dev(), inode: metadata.ino() }
}

/// `struct file_handle` with what nsfs has in it since Linux 6.18 (`linux/nsfs.h`, `struct nsfs_file_handle`). The number in it
/// is the cookie.
#[repr(C)]
pub(super) struct Handle {
    bytes: u32,
    kind: libc::c_int,
    id: u64,
    namespace: u32,
    inode: u32,
}

impl Handle {
    const NSFS: libc::c_int = 0xf1;
    const BYTES: u32 = 16;

    /// The handle of the network namespace with this inode and cookie.
    pub(super) fn new(inode: u32, cookie: u64) -> Handle {
        let namespace = libc::CLONE_NEWNET.cast_unsigned();
        Handle { bytes: Handle::BYTES, kind: Handle::NSFS, id: cookie, namespace, inode }
    }

    /// What the kernel calls this namespace, if it can.
    fn of(file: &File) -> Option<Handle> {
        let (mut handle, mut mount, flags) = (Handle::new(0, 0), 0_i32, libc::AT_EMPTY_PATH);
        // SAFETY: the handle has room for as many bytes as it says; it, the path and `mount` live through the call.
        let named = unsafe {
            let place = &raw mut handle;
            libc::syscall(libc::SYS_name_to_handle_at, file.as_raw_fd(), c"".as_ptr(), place, &raw mut mount, flags)
        };
        Some(handle).filter(|handle| named == 0 && (handle.bytes, handle.kind) == (Handle::BYTES, Handle::NSFS))
    }
}

/// See [`Netns::cookie`].
pub(super) fn cookie_of_current() -> Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut length = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: `cookie` has `length` bytes, and both outlive the call.
    let got = unsafe {
        let place = std::ptr::from_mut(&mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, place, &raw mut length)
    };
    Ok(Errno::result(got).map(|_| cookie)?)
}

/// The `CLONE_NEW…` flag of a namespace descriptor; `None` for any other file.
fn nstype(file: &File) -> Option<libc::c_int> {
    // SAFETY: NS_GET_NSTYPE takes no argument and returns a number; on any other file it fails with ENOTTY.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) };
    (kind >= 0).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_the_same_however_it_is_asked_for() {
        let own = Netns::open(OWN).unwrap();
        assert_eq!(own.cookie().unwrap(), cookie_of_current().unwrap());
        assert!(Handle::of(&File::open("/dev/null").unwrap()).is_none());
    }

    #[test]
    fn a_pipe_is_no_namespace_and_nobody_waits_for_it() {
        let path = std::env::temp_dir().join(format!("cni-box-fifo-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let opened = Netns::open(path.to_str().unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(opened.unwrap_err().msg.starts_with("unknown FS magic on "));
    }
}
