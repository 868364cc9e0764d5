//! What the unit tests of this layer share: directories that vanish, plugins that are shell scripts, and plugins that are
//! linked in.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::cni::plugin::{Plugin, Request};
use crate::cni::result::CniResult;
use crate::cni::undo::Undo;
use crate::cni::version;
use crate::error::{Error, Result};
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

/// A built-in plugin that notes its calls. Its configuration says where (`log`, a file) and which verb `fails`.
struct Fake(&'static str);

impl Fake {
    fn call(&self, request: &Request<'_>) -> Result<()> {
        let verb = request.verb.name();
        note(request.config.top().string("log")?, &format!("{} {verb} netns={:?}", self.0, request.netns));
        match request.config.top().string("fails")? == verb {
            true => Err(Error::new(7, "out of order")),
            false => Ok(()),
        }
    }
}

impl Plugin for Fake {
    fn name(&self) -> &'static str {
        self.0
    }

    fn versions(&self) -> &'static [&'static str] {
        if self.0 == "modern" { &["1.1.0"] } else { version::ALL }
    }

    fn keys(&self) -> &'static str {
        "log: string\nfails: string\n"
    }

    fn validate(&self, _request: &Request<'_>) -> Result<()> {
        Ok(())
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let (log, name) = (request.config.top().string("log")?.to_string(), self.0);
        undo.push(move || {
            note(&log, &format!("{name} undone"));
            Ok(())
        });
        self.call(request)?;
        let mut result = request.config.prev_result()?.unwrap_or_default();
        result.dns.search.push(self.0.to_string());
        Ok(result)
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        self.call(request)
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        self.call(request)
    }
}

fn note(log: &str, line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(log).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// The plugins that are linked in.
pub(crate) fn fake_plugins(name: &str) -> Option<&'static dyn Plugin> {
    match name {
        "fake" => Some(&Fake("fake")),
        "other" => Some(&Fake("other")),
        "modern" => Some(&Fake("modern")),
        _ => None,
    }
}
