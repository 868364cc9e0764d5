//! Waiting until a file may have changed, with inotify(7).

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::events::pause;

/// What a new file, or a new version of one, does to the directory that it is in.
const EVENTS: u32 = libc::IN_CREATE
    | libc::IN_MOVED_TO
    | libc::IN_CLOSE_WRITE
    | libc::IN_MODIFY
    | libc::IN_DELETE_SELF
    | libc::IN_MOVE_SELF
    | libc::IN_ONLYDIR;

/// Watches the directory of a file, or the nearest one above it that exists.
#[derive(Debug)]
pub struct Watch(Option<OwnedFd>);

impl Watch {
    /// Starts to watch: whatever happens to the file from now on ends [`Watch::wait`].
    pub fn start(path: &Path) -> Self {
        let watched = path.ancestors().skip(1).find_map(|directory| watch(directory).map(|fd| (directory, fd)));
        // A directory that came meanwhile, below the one watched, would go unnoticed.
        let settled = watched.filter(|(directory, _)| {
            let below = path.ancestors().skip(1).take_while(|above| above != directory).last();
            below.is_none_or(|below| !below.exists())
        });
        Watch(settled.map(|(_, fd)| fd))
    }

    /// Waits until something has happened in the directory, at most `limit`; true if it has. May also
    /// return early, for nothing.
    pub fn wait(self, limit: Duration) -> bool {
        /// For what is not seen: a link to elsewhere, a network file system.
        const AT_MOST: Duration = Duration::from_secs(1);
        /// Where the user's number of watches is used up.
        const UNWATCHED: Duration = Duration::from_millis(20);
        match self.0 {
            None => {
                pause(limit.min(UNWATCHED));
                false
            }
            Some(fd) => {
                let limit = PollTimeout::try_from(limit.min(AT_MOST)).unwrap_or(PollTimeout::ZERO);
                poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], limit).is_ok_and(|ready| ready > 0)
            }
        }
    }
}

fn watch(directory: &Path) -> Option<OwnedFd> {
    let name = std::ffi::CString::new(directory.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: no memory is involved; a descriptor that is not negative is new and ours alone.
    let fd = unsafe {
        let fd = libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }?;
    // SAFETY: the descriptor is open, and the name is a NUL-terminated string that lives through the call.
    let watch = unsafe { libc::inotify_add_watch(fd.as_raw_fd(), name.as_ptr(), EVENTS) };
    (watch >= 0).then_some(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const LONG: Duration = Duration::from_secs(60);

    fn directory() -> std::path::PathBuf {
        let suffix = u64::from_ne_bytes(crate::sys::random::bytes().unwrap());
        let path = std::env::temp_dir().join(format!("cni-box-watch-{suffix:016x}"));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_new_file_and_a_new_directory_above_it_are_seen() {
        let top = directory();
        let file = top.join("a/b/file");
        let watch = Watch::start(&file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        assert!(watch.wait(LONG));
        let watch = Watch::start(&file);
        fs::write(&file, "").unwrap();
        assert!(watch.wait(LONG));
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn waiting_is_bounded() {
        let short = Duration::from_millis(1);
        assert!(!Watch::start(Path::new("/proc/nothing/here")).wait(short));
        assert!(!Watch::start(Path::new("relative")).wait(short));
        assert!(!Watch(None).wait(short));
    }
}
