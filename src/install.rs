//! `--install` and `--uninstall`: the applets' names in a plugin directory. Every name is replaced in one step, so a
//! runtime that calls a plugin meanwhile finds the old one or the new one. The directory keeps its owner and mode.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Errno, Error, Failures, Result};

/// What a name in the plugin directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// A symbolic link to this program.
    Symbolic,
    /// Another name of this program's file.
    Hard,
    /// A file of its own.
    Copy,
}

/// Creates or replaces every name, past failures; a line for each.
pub(crate) fn install(directory: &str, link: Link, names: impl Iterator<Item = &'static str>) -> Result<String> {
    let own = own_path()?;
    let directory = existing(directory)?;
    let mut failures = Failures::default();
    let mut report = String::new();
    for place in names.map(|name| directory.join(name)) {
        let installed = put(&own, &place, link).map_err(|error| explain(error, &place));
        if failures.note(installed).is_some() {
            report.push_str(&format!("installed {}\n", place.display()));
        }
    }
    failures.finish().map(|()| report)
}

fn explain(error: Error, place: &Path) -> Error {
    let hint = if error.is(Errno::EXDEV) {
        "; another file system has no hard links here: use --symlink or --copy"
    } else {
        ""
    };
    let mut error = error.context(&format!("failed to install {}", place.display()));
    error.msg += hint;
    error
}

/// Removes every name that leads to this program or equals it; a line for each. Other files stay.
pub(crate) fn uninstall(directory: &str, names: impl Iterator<Item = &'static str>) -> Result<String> {
    let own = own_path()?;
    let directory = existing(directory)?;
    let mut failures = Failures::default();
    let mut report = String::new();
    for place in names.map(|name| directory.join(name)).filter(|place| is_own(&own, place)) {
        let removed = fs::remove_file(&place).with_context(|| format!("failed to remove {}", place.display()));
        if failures.note(removed).is_some() {
            report.push_str(&format!("removed {}\n", place.display()));
        }
    }
    failures.finish().map(|()| report)
}

/// This program's file by a path that leads to it: it may have been replaced or removed since the program was started.
fn own_path() -> Result<PathBuf> {
    let own = fs::read_link("/proc/self/exe").context("failed to find this program's own file")?;
    if is_same(Path::new("/proc/self/exe"), &own) {
        return Ok(own);
    }
    Err(Error::internal(format!(
        "this program's own file is not at {} any more: run it from where it is",
        own.display()
    )))
}

fn is_same(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((identity(a), identity(b)), (Ok(a), Ok(b)) if a == b)
}

fn existing(directory: &str) -> Result<PathBuf> {
    let path = fs::canonicalize(directory).with_context(|| format!("failed to open directory {directory:?}"))?;
    if path.is_dir() { Ok(path) } else { Err(Error::internal(format!("{directory:?} is not a directory"))) }
}

/// Makes the new file aside and renames it over the old one.
fn put(own: &Path, place: &Path, link: Link) -> Result<()> {
    if place == own {
        return Err(Error::internal("this is the program itself"));
    }
    // Next to the program a link by name alone stays right wherever the directory is mounted.
    let target = if own.parent() == place.parent() { own.file_name().map_or(own, Path::new) } else { own };
    let mut aside = place.as_os_str().to_owned();
    aside.push(format!(".{}.tmp", std::process::id()));
    let aside = PathBuf::from(aside);
    let made = match link {
        Link::Symbolic => std::os::unix::fs::symlink(target, &aside),
        Link::Hard => fs::hard_link(own, &aside),
        Link::Copy => fs::copy(own, &aside).map(drop),
    };
    let placed = made.and_then(|()| fs::rename(&aside, place));
    // Renaming one hard link over another of the same file does nothing, and leaves both.
    let _ = fs::remove_file(&aside);
    Ok(placed?)
}

/// True for a link to this program, symbolic or hard, and for a copy of it.
fn is_own(own: &Path, place: &Path) -> bool {
    if is_same(own, place) {
        return place != own;
    }
    let length = |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|file| file.len());
    length(own) == length(place) && matches!((fs::read(own), fs::read(place)), (Ok(a), Ok(b)) if a == b)
}
