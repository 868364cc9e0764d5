//! Files that other programs read at any moment: made whole or not at all.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::sys::time::TimeSpec;

use crate::error::{Context, Errno, Error, Result};
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

/// Creates `directory/name` with these bytes, whole or not at all, never over an existing file: `EEXIST` then. The bytes
/// go to a file without a name that is linked into place, so that a crash leaves nothing half-written.
pub fn create_new(directory: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let target = directory.join(name);
    let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(mode).open(directory);
    let mut file = match unnamed.map_err(Error::from) {
        Ok(file) => file,
        Err(error) if error.is(Errno::EOPNOTSUPP) || error.is(Errno::EISDIR) => {
            return create_new_by_name(directory, &target, mode, bytes);
        }
        Err(error) => return Err(error).with_context(|| format!("failed to create {target:?}")),
    };
    file.write_all(bytes).with_context(|| format!("failed to write {target:?}"))?;
    link_descriptor(&file, &target).with_context(|| format!("failed to create {target:?}"))
}

/// For file systems without `O_TMPFILE`: the unnamed file gets a name that no reader looks at.
fn create_new_by_name(directory: &Path, target: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    let aside = write_aside(directory, mode, bytes)?;
    let linked = fs::hard_link(&aside, target);
    let removed = fs::remove_file(&aside);
    linked.and(removed).with_context(|| format!("failed to create {target:?}"))
}

/// Puts these bytes at `directory/name`, replacing what is there in one step.
pub fn replace(directory: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let aside = write_aside(directory, mode, bytes)?;
    let target = directory.join(name);
    fs::rename(&aside, &target).map_err(|error| {
        let _ = fs::remove_file(&aside);
        Error::from(error).context(&format!("failed to replace {target:?}"))
    })
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

/// Sets the modification time of an open file or directory, given as time since 1970. Access time stays.
pub fn set_modified(file: &File, time: Duration) -> Result<()> {
    let keep = TimeSpec::new(0, libc::UTIME_OMIT as _);
    Ok(nix::sys::stat::futimens(file, &keep, &TimeSpec::from_duration(time))?)
}
