//! What the unit tests of this layer share: directories that vanish, and plugins that are shell scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::sys::random;

/// A directory of its own, removed at the end.
pub(crate) struct TempDir(String);

impl TempDir {
    pub(crate) fn new() -> Self {
        let suffix = u64::from_ne_bytes(random::bytes().unwrap());
        let path = std::env::temp_dir().join(format!("cni-box-{suffix:016x}"));
        fs::create_dir(&path).unwrap();
        TempDir(path.to_str().unwrap().to_string())
    }

    pub(crate) fn path(&self) -> &str {
        &self.0
    }

    /// The path of a file below it.
    pub(crate) fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    /// Writes a file, with the directories above it.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.file(name);
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes a plugin for `sh`.
    pub(crate) fn script(&self, name: &str, text: &str) {
        self.write(name, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        Path::new(&self.file(name)).exists()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
