//! Waiting until a file may have changed, with inotify(7).

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::sys::events::pause;

/// What a new file, or a new version of one, does to the directory that it is in.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Watches the directory of a file, or the nearest one above it that exists.
#[derive(Debug)]
pub struct Watch(Option<Inotify>);

impl Watch {
    /// Starts to watch: whatever happens to the file from now on ends [`Watch::wait`].
    pub fn start(path: &Path) -> Self {
        let watched = path.ancestors().skip(1).find_map(|directory| watch(directory).map(|queue| (directory, queue)));
        // A directory that came meanwhile, below the one watched, would go unnoticed.
        let settled = watched.filter(|(directory, _)| {
            let below = path.ancestors().skip(1).take_while(|above| above != directory).last();
            below.is_none_or(|below| !below.exists())
        });
        Watch(settled.map(|(_, queue)| queue))
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
            Some(queue) => {
                let limit = PollTimeout::try_from(limit.min(AT_MOST)).unwrap_or(PollTimeout::ZERO);
                poll(&mut [PollFd::new(queue.as_fd(), PollFlags::POLLIN)], limit).is_ok_and(|ready| ready > 0)
            }
        }
    }
}

fn watch(directory: &Path) -> Option<Inotify> {
    let queue = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
    queue.add_watch(directory, EVENTS).ok().map(|_| queue)
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
