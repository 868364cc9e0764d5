//! What a plugin keeps between ADD and DEL: a directory with a file for each container. And waiting for files of others.

use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cni::environment::validate_container_id;
use crate::error::{Context, Errno, Error, Result};
use crate::sys::file;
use crate::sys::watch::Watch;

/// More than any configuration has.
const LARGEST: u64 = 1024 * 1024;

/// What the kernel says where there is no file of ours, and cannot be one: a DEL must not fail for that.
const NOTHING_KEPT: [Errno; 7] =
    [Errno::ENOENT, Errno::ENOTDIR, Errno::ENAMETOOLONG, Errno::ELOOP, Errno::ENXIO, Errno::EINVAL, Errno::EFBIG];

/// The directory. It need not exist.
#[derive(Debug, Clone)]
pub struct Kept(PathBuf);

impl Kept {
    /// What is kept in this directory.
    pub fn new(directory: &str) -> Self {
        Kept(directory.into())
    }

    /// What is kept of a container; `None` when there is nothing, or what [`Kept::write`] cannot have made.
    pub fn read(&self, container: &str) -> Result<Option<Vec<u8>>> {
        match file::read_bounded(&self.0.join(container), LARGEST) {
            Err(error) if NOTHING_KEPT.iter().any(|errno| error.is(*errno)) => Ok(None),
            read => read.map(Some),
        }
    }

    /// Keeps this of a container, whole or not at all and on disk when this returns, instead of what was kept. Killed in
    /// between it leaves nothing, neither old nor new, and no stray file; but where
    /// [`file::create_new`] cannot make a file whole, an empty one.
    pub fn write(&self, container: &str, bytes: &[u8]) -> Result<()> {
        const TRIES: u32 = 4;
        let mut made = Ok(());
        for _ in 0..TRIES {
            made = file::create_new(&self.0, container, 0o600, bytes);
            match &made {
                Err(error) if error.is(Errno::EEXIST) => self.remove(container)?,
                Err(error) if error.is(Errno::ENOENT) => file::create_directories(&self.0, 0o700)?,
                _ => break,
            }
        }
        made?;
        let path = self.0.join(container);
        match file::flush(&path) {
            // Somebody else replaces it at this moment.
            Err(error) if error.is(Errno::ENOENT) => Ok(()),
            flushed => flushed.with_context(|| format!("failed to write {path:?}")),
        }
    }

    /// Keeps nothing of a container.
    pub fn remove(&self, container: &str) -> Result<()> {
        let path = self.0.join(container);
        match fs::remove_file(&path).map_err(Error::from) {
            Err(error) if NOTHING_KEPT.iter().any(|errno| error.is(*errno)) => Ok(()),
            removed => removed.with_context(|| format!("failed to remove {path:?}")),
        }
    }

    /// The containers of which something is kept, sorted.
    pub fn containers(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("failed to list {:?}", self.0))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| validate_container_id(name).is_ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Fails if nothing could be kept. Leaves nothing.
    pub fn probe(&self) -> Result<()> {
        file::probe(&self.0, b"x")
    }
}

/// Reads a file of somebody else, of at most `limit` bytes.
pub fn read_foreign(path: &str, limit: u64) -> Result<Vec<u8>> {
    file::read_bounded(Path::new(path), limit)
}

/// Calls `attempt` until it succeeds, again whenever something has happened where `path` is, and gives its last failure
/// after `limit`.
pub fn wait_for<T>(path: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let first = attempt();
        if first.is_ok() || Instant::now() >= deadline {
            return first;
        }
        // Once more, for what has happened before the watch.
        let watch = Watch::start(Path::new(path));
        if let Ok(value) = attempt() {
            return Ok(value);
        }
        watch.wait(deadline.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::testing::TempDir;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_written_is_read_listed_replaced_and_removed() {
        let top = TempDir::new();
        let kept = Kept::new(&top.file("a/b"));
        assert_eq!((kept.read("c1").unwrap(), kept.containers().unwrap()), (None, Vec::new()));
        kept.probe().unwrap();
        assert!(!top.exists("a"), "looking makes nothing");
        for text in ["one", "", "three"] {
            kept.write("c1", text.as_bytes()).unwrap();
            assert_eq!(kept.read("c1").unwrap().as_deref(), Some(text.as_bytes()));
        }
        top.write("a/b/.hidden", "");
        kept.write("b2", b"x").unwrap();
        assert_eq!(kept.containers().unwrap(), ["b2", "c1"]);
        let mode = |name: &str| fs::metadata(top.file(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("a/b"), mode("a/b/c1")), (0o700, 0o700, 0o600));
        kept.remove("c1").unwrap();
        kept.remove("c1").unwrap();
        assert_eq!(kept.containers().unwrap(), ["b2"]);
    }

    #[test]
    fn reading_is_bounded() {
        let top = TempDir::new();
        top.write("file", "12345");
        assert_eq!(read_foreign(&top.file("file"), 5).unwrap(), b"12345");
        let text = |path: &str| read_foreign(path, 4).unwrap_err().msg.clone();
        assert_eq!(text(&top.file("file")), format!("{} has more than 4 bytes", top.file("file")));
        assert_eq!(text("/dev/zero"), "/dev/zero is not a regular file");
        assert_eq!(text("/none"), "open /none: no such file or directory");
        nix::unistd::mkfifo(&*top.file("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(text(&top.file("fifo")).ends_with("fifo is not a regular file"));
    }

    #[test]
    fn waiting_ends_with_the_first_success_or_the_last_failure() {
        let top = TempDir::new();
        let path = top.file("late");
        let writer = {
            let path = path.clone();
            move || fs::write(path, "here")
        };
        let writer = std::thread::spawn(writer);
        let read = wait_for(&path, Duration::from_secs(60), || match read_foreign(&path, 9)?.as_slice() {
            b"here" => Ok(()),
            _ => Err(Error::internal("half")),
        });
        assert_eq!(read, Ok(()));
        writer.join().unwrap().unwrap();
        let mut calls = 0;
        let failed: Result<()> = wait_for(&top.file("never"), Duration::from_millis(1), || {
            calls += 1;
            Err(Error::internal(format!("{calls}")))
        });
        assert_eq!(failed.unwrap_err().msg, calls.to_string());
    }
}
