//! Files that other programs read at any moment: made whole or not at all.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::sys::statfs::fstatfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{AccessFlags, access};

use crate::error::{Context, Errno, Error, Result, unless_refused};
use crate::sys::random;

/// Creates a directory and its parents, like `mkdir -p -m MODE`. The mode is cut by the umask.
pub fn create_directories(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| Error::from(error).context(&format!("failed to create directory {path:?}")))
}

/// Opens a file for reading and writing, creating it empty with `mode` when it is missing.
pub fn open_or_create(path: &Path, mode: u32) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(mode).open(path);
    file.map_err(|error| Error::from(error).context(&format!("failed to open {path:?}")))
}

/// Writes these bytes over a file, which is created with `mode` when it is missing. Follows no link.
pub fn write_over(path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    let file = open_over(path, mode, false)?;
    // Cut only afterwards: ext4 flushes files that were emptied first.
    let written = file.write_all_at(bytes, 0).and_then(|()| file.set_len(bytes.len() as u64)).map_err(Error::from);
    match written {
        // As the reference does it: seccomp profiles made for the reference know neither pwrite64 nor ftruncate.
        Err(error) if error.is_refusal() => Ok(open_over(path, mode, true)?.write_all(bytes)?),
        written => written,
    }
}

fn open_over(path: &Path, mode: u32, truncate: bool) -> std::io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().write(true).create(true).truncate(truncate).mode(mode).custom_flags(flags).open(path)
}

/// Opens `directory/name` like [`open_or_create`]. The directory is only created, with its parents, when it turns out to
/// be missing.
pub fn open_or_create_in(directory: &Path, directory_mode: u32, name: &str, mode: u32) -> Result<File> {
    let path = directory.join(name);
    match open_or_create(&path, mode) {
        Err(error) if error.is(Errno::ENOENT) => {
            create_directories(directory, directory_mode)?;
            open_or_create(&path, mode)
        }
        opened => opened,
    }
}

/// The file that was `opened`, or, where it may only be read (a read-only file system, a policy), the same for reading: that is
/// enough for a lock, and all that the reference and iptables ask for. (NFS takes no exclusive lock on such a file.)
pub fn or_for_reading(opened: Result<File>, path: &Path) -> Result<File> {
    match opened {
        Err(error) if error.is_refusal() || error.is(Errno::EROFS) => open_plain(path).map_err(|_| error),
        opened => opened,
    }
}

/// Creates `directory/name` with these bytes, never over an existing file: `EEXIST` then. The bytes go to a file without a
/// name that is linked into place, so that a crash leaves nothing half-written and readers see all of the file or none.
///
/// Where that is refused, the file is created as the reference does it, empty, and then written. Readers that hold the
/// writer's lock see no difference; a process killed in between leaves an empty file.
pub fn create_new(directory: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let target = directory.join(name);
    let created = match open_unnamed(directory, mode) {
        Ok(mut file) => {
            file.write_all(bytes).with_context(|| format!("failed to write {target:?}"))?;
            match link_descriptor(&file, &target) {
                // vfat, exFAT, 9p and FUSE servers without link(2); AppArmor without `l`, seccomp; a limit on links; no
                // /proc. If anything else is wrong, creating the file fails for that.
                Err(error) if !error.is(Errno::EEXIST) => create_in_place(&target, mode, bytes),
                linked => linked,
            }
        }
        // NFS, vfat, exFAT, 9p, FUSE and older overlays have no O_TMPFILE.
        Err(error) if error.is_refusal() => create_in_place(&target, mode, bytes),
        Err(error) => Err(error),
    };
    created.with_context(|| format!("failed to create {target:?}"))
}

fn create_in_place(target: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(target)?;
    file.write_all(bytes).map_err(|error| {
        let _ = fs::remove_file(target);
        error.into()
    })
}

/// Opens a file in a directory that is gone with its descriptor, unless it is linked to a name before. `EOPNOTSUPP` where there
/// are no such files.
fn open_unnamed(directory: &Path, mode: u32) -> Result<File> {
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(mode).open(directory);
    opened.map_err(|error| match Error::from(error) {
        // Linux before 3.11 sees the flag's other half only, O_DIRECTORY.
        error if error.is(Errno::EISDIR) => Errno::EOPNOTSUPP.into(),
        error => error,
    })
}

/// Puts these bytes at `directory/name`, replacing what is there in one step.
pub fn replace(directory: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    // Killed in between, what replaces a file leaves one that nobody removes; so only where there is a file.
    match create_new(directory, name, mode, bytes) {
        Err(error) if error.is(Errno::EEXIST) => replace_existing(directory, name, mode, bytes),
        created => created,
    }
}

fn replace_existing(directory: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let aside = write_aside(directory, mode, bytes)?;
    let target = directory.join(name);
    let renamed = fs::rename(&aside, &target).map_err(|error| {
        let _ = fs::remove_file(&aside);
        Error::from(error)
    });
    let replaced = match renamed {
        // As the reference does it: seccomp profiles made for the reference do not know rename, and some FUSE servers do
        // not rename over a file.
        Err(error) if error.is_refusal() || error.is(Errno::EEXIST) => write_over(&target, mode, bytes),
        renamed => renamed,
    };
    replaced.with_context(|| format!("failed to replace {target:?}"))
}

/// Opens a file of ours that nobody else reads yet, empty; what an earlier call has left there goes.
pub fn start_over(path: &Path, mode: u32) -> Result<File> {
    let _ = fs::remove_file(path);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path);
    file.with_context(|| format!("failed to create {path:?}"))
}

/// Opens an existing file for reading, without following a link and without waiting for who writes to a FIFO.
pub fn open_plain(path: &Path) -> Result<File> {
    Ok(OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?)
}

/// Reads a whole regular file of at most `limit` bytes, without waiting for who writes to a FIFO. Follows links. `EINVAL`
/// for anything but a regular file, `EFBIG` for one with more bytes.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let named = |what: &str| format!("{what} {}", path.display());
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.with_context(|| named("open"))?;
    if !file.metadata().with_context(|| named("stat"))?.is_file() {
        let msg = format!("{} is not a regular file", path.display());
        return Err(Error::internal(msg).with_errno(Errno::EINVAL));
    }
    let mut bytes = Vec::new();
    // The size that the kernel tells can be wrong (/proc) and can change.
    file.take(limit + 1).read_to_end(&mut bytes).with_context(|| named("read"))?;
    if bytes.len() as u64 > limit {
        let msg = format!("{} has more than {limit} bytes", path.display());
        return Err(Error::internal(msg).with_errno(Errno::EFBIG));
    }
    Ok(bytes)
}

/// Fails if no file with these bytes could be made in a directory or, where it is missing, in the nearest one above it.
/// Leaves nothing. Where files without a name are unknown, only the permission is looked at.
pub fn probe(directory: &Path, bytes: &[u8]) -> Result<()> {
    let mut place = directory;
    while let (Err(error), Some(above)) = (fs::metadata(place), place.parent())
        && error.kind() == ErrorKind::NotFound
    {
        place = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    }
    let probed = match open_unnamed(place, 0o600).and_then(|mut file| Ok(file.write_all(bytes)?)) {
        Err(error) if error.is_refusal() && place.is_dir() => access(place, AccessFlags::W_OK).map_err(Error::from),
        written => written,
    };
    probed.with_context(|| format!("failed to create a file in {place:?}"))
}

/// True for a file on a file system that no other host uses at the same time, and that keeps inode numbers and change times
/// on disk; false when that is not known. (exFAT, as FAT, has neither: both begin anew with each mount.)
pub fn is_local(file: &File) -> bool {
    // Of linux/magic.h: ext2 to ext4, xfs, btrfs, tmpfs, ramfs, overlayfs, f2fs, zfs, bcachefs, ubifs, jffs2, nilfs2, jfs,
    // reiserfs.
    const LOCAL: [u32; 14] = [
        0xef53,
        0x5846_5342,
        0x9123_683e,
        0x0102_1994,
        0x8584_58f6,
        0x794c_7630,
        0xf2f5_2010,
        0x2fc1_2fc1,
        0xca45_1a4e,
        0x2405_1905,
        0x72b6,
        0x3434,
        0x3153_464a,
        0x5265_4973,
    ];
    fstatfs(file).is_ok_and(|found| LOCAL.contains(&(found.filesystem_type().0 as u32)))
}

fn write_aside(directory: &Path, mode: u32, bytes: &[u8]) -> Result<std::path::PathBuf> {
    let suffix = u64::from_ne_bytes(random::bytes()?);
    let aside = directory.join(format!(".{suffix:016x}.tmp"));
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside);
    let written = file.and_then(|mut file| file.write_all(bytes));
    match written {
        Ok(()) => Ok(aside),
        Err(error) => {
            let _ = fs::remove_file(&aside);
            Err(Error::from(error).context(&format!("failed to write {aside:?}")))
        }
    }
}

fn link_descriptor(file: &File, target: &Path) -> Result<()> {
    let source = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let target = CString::new(target.as_os_str().as_encoded_bytes());
    let (Ok(source), Ok(target)) = (source, target) else { return Err(Errno::EINVAL.into()) };
    // SAFETY: both pointers are NUL-terminated strings that live through the call.
    let result = unsafe {
        libc::linkat(libc::AT_FDCWD, source.as_ptr(), libc::AT_FDCWD, target.as_ptr(), libc::AT_SYMLINK_FOLLOW)
    };
    Ok(Errno::result(result).map(drop)?)
}

/// Has a file written to the disk, if its file system can.
pub fn flush(path: &Path) -> Result<()> {
    // The reference does not ask for it at all.
    unless_refused(File::open(path)?.sync_all().map_err(Error::from))
}

/// Sets the modification time of an open file or directory, given as time since 1970. Access time stays.
pub fn set_modified(file: &File, time: Duration) -> Result<()> {
    let keep = TimeSpec::new(0, libc::UTIME_OMIT as _);
    Ok(nix::sys::stat::futimens(file, &keep, &TimeSpec::from_duration(time))?)
}
