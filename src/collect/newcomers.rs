//! Attachments made, or made again, since the first look. A living one of them shares chains, ifbs or saved settings with a dead
//! one of the same container, so that one stays.
//!
//! The kernel tells which files are new (`sys::changes`): only those are read. Where that cannot be had, everything is
//! gathered once more for each attachment.

use std::fs;
use std::mem::take;
use std::path::{Path, PathBuf};

use super::Command;
use super::gather::Attachments;
use crate::error::{Errno, Result};
use crate::ipam::evidence::{Found, Key};
use crate::ipam::store::survey::holder;
use crate::sys::changes::Changes;

/// What a directory holds.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// The files of the result cache.
    Cache,
    /// A directory for each network of host-local.
    Networks,
    /// The reservations of this network.
    Store(String),
}

/// What is known of changes.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    /// `None` if not everything can be watched.
    changes: Option<Changes>,
    places: Vec<(PathBuf, Place)>,
    /// Directories that may come yet.
    missing: Vec<PathBuf>,
    /// The new files by the names that their attachments have, see [`Key::shared_names`].
    files: Vec<((bool, String), PathBuf)>,
}

impl Newcomers {
    /// Notes all that is new from now on in the directories that [`Newcomers::watch`] is told.
    pub(super) fn start() -> Self {
        Newcomers { changes: Changes::start(), ..Newcomers::default() }
    }

    pub(super) fn watch(&mut self, directory: &Path, place: Place) {
        self.places.push((directory.to_path_buf(), place));
        self.begin(directory);
    }

    /// True if the directory is there.
    fn begin(&mut self, directory: &Path) -> bool {
        let begun = self.changes.as_mut().map_or(Ok(()), |changes| changes.watch(directory));
        match begun {
            Err(error) if error.is(Errno::ENOENT) || error.is(Errno::ENOTDIR) => {
                self.missing.push(directory.to_path_buf());
                return false;
            }
            Err(_) => self.changes = None,
            Ok(()) => {}
        }
        true
    }

    /// An attachment that is new, or was made again, and may have something of the same name.
    pub(super) fn find(&mut self, command: &Command<'_>, first: &Attachments, key: &Key) -> Result<Option<Key>> {
        self.read(command);
        let names = key.shared_names();
        if self.changes.is_none() {
            let now = command.gather(&mut Newcomers::default())?;
            let new =
                now.into_vec().into_iter().filter(|found| first.get(&found.key).is_none_or(|old| is_new(found, old)));
            return Ok(new.map(|found| found.key).find(|new| shares(new, &names)));
        }
        let mut files = self.files.iter().filter(|(name, _)| names.contains(name));
        // An attachment may be over by now that was new a moment ago.
        Ok(files.find_map(|(_, file)| self.key_of(command, file).filter(|new| shares(new, &names))))
    }

    fn read(&mut self, command: &Command<'_>) {
        let mut fresh = Vec::new();
        for directory in take(&mut self.missing) {
            if self.begin(&directory) {
                fresh.extend(files_in(&directory));
            }
        }
        match self.changes.as_ref().and_then(Changes::files) {
            Some(files) => fresh.extend(files),
            None => self.changes = None,
        }
        while let Some(path) = fresh.pop() {
            fresh.extend(self.note(command, path));
        }
    }

    /// Notes a new file. Gives the files in it if it is the directory of a network.
    fn note(&mut self, command: &Command<'_>, path: PathBuf) -> Vec<PathBuf> {
        if let (Some(Place::Networks), Some(network)) = (self.place_of(&path), name_of(&path)) {
            let is_new = path.is_dir() && self.place(&path).is_none();
            if is_new {
                self.watch(&path, Place::Store(network.to_string()));
            }
            return if is_new { files_in(&path) } else { Vec::new() };
        }
        // A file that is not whole yet changes once more.
        for name in self.key_of(command, &path).iter().flat_map(Key::shared_names) {
            let file = (name, path.clone());
            if !self.files.contains(&file) {
                self.files.push(file);
            }
        }
        Vec::new()
    }

    fn place_of(&self, path: &Path) -> Option<&Place> {
        self.place(path.parent()?)
    }

    fn place(&self, directory: &Path) -> Option<&Place> {
        self.places.iter().find(|(known, _)| known == directory).map(|(_, place)| place)
    }

    /// The attachment that a file tells of by now.
    fn key_of(&self, command: &Command<'_>, path: &Path) -> Option<Key> {
        match self.place_of(path)? {
            Place::Networks => None,
            Place::Cache => {
                let (network, cached) = command.cache.read_named(name_of(path)?)?;
                let (container, ifname) = (cached.attachment.container_id, cached.attachment.ifname);
                Some(Key { network, container, ifname })
            }
            Place::Store(network) => {
                let (container, ifname) = holder(path)?;
                Some(Key { network: network.clone(), container, ifname })
            }
        }
    }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn shares(key: &Key, names: &[(bool, String)]) -> bool {
    key.shared_names().iter().any(|name| names.contains(name))
}

/// Something tells of the attachment that did not at the first look.
fn is_new(now: &Found, first: &Found) -> bool {
    let is_known = |(_, one): &(PathBuf, _)| first.reservations.iter().any(|(_, old)| old.is_same_file(one));
    now.cached.is_some() && now.cached != first.cached || !now.reservations.iter().all(is_known)
}
