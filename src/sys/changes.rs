//! Which files of some directories are new or changed since the first look, with inotify(7).

use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::error::{Errno, Result};

/// What a new file, or a new version of one, does to the directory that it is in.
const NEW: AddWatchFlags = AddWatchFlags::IN_CREATE.union(AddWatchFlags::IN_MOVED_TO).union(AddWatchFlags::IN_MODIFY);
/// After these the kernel no longer tells of everything.
const LOST: AddWatchFlags = AddWatchFlags::IN_Q_OVERFLOW
    .union(AddWatchFlags::IN_IGNORED)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_UNMOUNT);

/// The directories that are watched.
#[derive(Debug)]
pub struct Changes {
    queue: Inotify,
    directories: Vec<(WatchDescriptor, PathBuf)>,
}

impl Changes {
    /// Watches nothing yet. `None` where the user's number of watches is used up.
    pub fn start() -> Option<Self> {
        let queue = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        Some(Changes { queue, directories: Vec::new() })
    }

    /// Watches this directory, too. `ENOENT` where there is none.
    pub fn watch(&mut self, directory: &Path) -> Result<()> {
        let flags = NEW | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_ONLYDIR;
        let watch = self.queue.add_watch(directory, flags)?;
        self.directories.push((watch, directory.to_path_buf()));
        Ok(())
    }

    /// The files that are new or changed since the last call. `None` if some may be missing.
    pub fn files(&self) -> Option<Vec<PathBuf>> {
        let mut files = Vec::new();
        loop {
            let events = match self.queue.read_events() {
                Err(Errno::EAGAIN) => return Some(files),
                events => events.ok()?,
            };
            for event in events {
                if event.mask.intersects(LOST) {
                    return None;
                }
                let directories = self.directories.iter().filter(|(watch, _)| *watch == event.wd);
                files.extend(directories.filter_map(|(_, directory)| Some(directory.join(event.name.as_ref()?))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn new_and_changed_files_are_told_and_a_directory_that_goes() {
        let suffix = u64::from_ne_bytes(crate::sys::random::bytes().unwrap());
        let top = std::env::temp_dir().join(format!("cni-box-changes-{suffix:016x}"));
        let mut changes = Changes::start().unwrap();
        assert!(changes.watch(&top).unwrap_err().is(Errno::ENOENT));
        fs::create_dir(&top).unwrap();
        fs::write(top.join("old"), "").unwrap();
        changes.watch(&top).unwrap();
        fs::remove_file(top.join("old")).unwrap();
        assert_eq!(changes.files(), Some(vec![]));
        fs::write(top.join("new"), "").unwrap();
        fs::rename(top.join("new"), top.join("moved")).unwrap();
        assert_eq!(changes.files(), Some(vec![top.join("new"), top.join("moved")]));
        fs::write(top.join("moved"), "text").unwrap();
        assert_eq!(changes.files(), Some(vec![top.join("moved")]));
        fs::remove_dir_all(&top).unwrap();
        assert_eq!(changes.files(), None);
    }
}
