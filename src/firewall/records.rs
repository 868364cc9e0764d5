//! A directory of small files below /run, locked against our other calls. The files vanish with a
//! reboot, as rules and sysctls do. They are a help, not a condition: where /run cannot be written
//! there are none.

use std::fs::{self, File};
use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Context, Errno, Error, Result};
use crate::sys::file;
use crate::sys::lock::{Lock, Mode};

/// How long others may hold the lock before we go on without.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// The directory, locked until this is dropped.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    lock: Option<Lock>,
}

impl Records {
    /// Locks the directory. A missing directory is not made, and holds no records.
    pub fn open(directory: impl AsRef<Path>) -> Self {
        let mut records = Records::unlocked(directory);
        records.lock();
        records
    }

    /// The same without the lock, for a verb that only reads.
    pub fn unlocked(directory: impl AsRef<Path>) -> Self {
        Records { directory: directory.as_ref().to_path_buf(), lock: None }
    }

    /// Locks the directory. A missing directory is made.
    pub fn create(directory: impl AsRef<Path>) -> Result<Self> {
        let mut records = Records::unlocked(directory);
        records.make()?;
        Ok(records)
    }

    /// Makes the directory if it is missing, and locks it unless that was done.
    pub fn make(&mut self) -> Result<()> {
        if !self.directory.is_dir() {
            where_possible(file::create_directories(&self.directory, 0o700))?;
        }
        if self.lock.is_none() {
            self.lock();
        }
        Ok(())
    }

    fn lock(&mut self) {
        let file = File::open(&self.directory);
        self.lock = file.ok().and_then(|file| Lock::acquire_within(file, Mode::Exclusive, LOCK_LIMIT).ok());
    }

    /// The text of a record, if there is one that can be read.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.directory.join(name)).ok()
    }

    /// Makes a record, in the place of an earlier one.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        // Not written aside and renamed: killed in between, that would leave a file that nothing
        // removes.
        let write = || file::create_new(&self.directory, name, 0o600, text.as_bytes());
        let written = match write() {
            Err(error) if error.is(Errno::EEXIST) => self.remove(name).and_then(|()| write()),
            // The directory could not be made, then.
            Err(error) if error.is(Errno::ENOENT) => Ok(()),
            written => written,
        };
        where_possible(written)
    }

    /// Removes a record. A missing one is no failure.
    pub fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.directory.join(name)) {
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(()),
            removed => where_possible(removed.map_err(Error::from)),
        }
    }

    /// Removes the trace of an ADD that was killed where files cannot be made whole (see
    /// [`file::create_new`]).
    pub fn remove_if_empty(&self, name: &str) {
        let path = self.directory.join(name);
        // Without the lock another call may be writing the file just now.
        if self.lock.is_some() && fs::metadata(&path).is_ok_and(|found| found.len() == 0) {
            let _ = fs::remove_file(path);
        }
    }

    /// The names of all records, sorted. None where the directory is missing, is no directory, or
    /// may not be read: a DEL or GC that failed for that would fail for ever.
    pub fn names(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("failed to list {:?}", self.directory))?,
        };
        let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }
}

/// Nothing is remembered where /run belongs to others or cannot be written, and that is no failure.
fn where_possible(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if matches!(error.errno, Some(Errno::EROFS | Errno::EACCES | Errno::EPERM)) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
pub(super) fn scratch_directory() -> PathBuf {
    let suffix = u64::from_ne_bytes(crate::sys::random::bytes().unwrap());
    std::env::temp_dir().join(format!("cni-box-records-{suffix:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_kept_until_they_are_removed() {
        let path = scratch_directory();
        let mut records = Records::open(&path);
        assert_eq!((records.names(), records.read("a"), records.remove("a")), (Ok(Vec::new()), None, Ok(())));
        assert!(!path.exists(), "looking makes nothing");
        records.make().unwrap();
        for text in ["one", "two"] {
            records.write("b", text).unwrap();
            records.write("a", text).unwrap();
            assert_eq!(records.read("a").as_deref(), Some(text));
        }
        assert_eq!(records.names().unwrap(), ["a", "b"]);
        records.remove("a").unwrap();
        records.remove("a").unwrap();
        assert_eq!(records.names().unwrap(), ["b"]);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn what_is_no_directory_holds_no_records() {
        let path = scratch_directory();
        fs::write(&path, "").unwrap();
        for path in [path.clone(), path.join("below")] {
            let records = Records::open(&path);
            assert_eq!((records.names(), records.read("a"), records.remove("a")), (Ok(Vec::new()), None, Ok(())));
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_no_failure() {
        // Not even root makes directories in /proc; it says ENOENT, though, which is a failure.
        assert!(Records::create("/proc/cni-box").is_err());
        for errno in [Errno::EROFS, Errno::EACCES, Errno::EPERM] {
            assert_eq!(where_possible(Err(errno.into())), Ok(()));
        }
        assert!(where_possible(Err(Errno::ENOSPC.into())).is_err());
    }
}
