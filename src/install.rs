//! `--install` and `--uninstall`: the applets' names in a plugin directory. Every name is replaced in one step, so a
//! runtime that calls a plugin meanwhile finds the old one or the new one. The directory keeps its owner and mode.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Failures, Result};

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

/// Creates or replaces every name; a line for each.
pub(crate) fn install(directory: &str, link: Link, names: impl Iterator<Item = &'static str>) -> Result<String> {
    let own = own_path()?;
    let directory = existing(directory)?;
    let mut report = String::new();
    for name in names {
        let place = directory.join(name);
        put(&own, &place, link).with_context(|| format!("failed to install {}", place.display()))?;
        report.push_str(&format!("installed {}\n", place.display()));
    }
    Ok(report)
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

fn own_path() -> Result<PathBuf> {
    fs::read_link("/proc/self/exe").context("failed to find this program's own file")
}

fn existing(directory: &str) -> Result<PathBuf> {
    let path = fs::canonicalize(directory).with_context(|| format!("failed to open directory {directory:?}"))?;
    if path.is_dir() { Ok(path) } else { Err(Error::internal(format!("{directory:?} is not a directory"))) }
}

/// Makes the new file aside and renames it over the old one.
fn put(own: &Path, place: &Path, link: Link) -> Result<()> {
    if link != Link::Copy && fs::canonicalize(place).is_ok_and(|target| target == own) && place == own {
        return Err(Error::internal("this is the program itself"));
    }
    let mut aside = place.as_os_str().to_owned();
    aside.push(format!(".{}.tmp", std::process::id()));
    let aside = PathBuf::from(aside);
    let made = match link {
        Link::Symbolic => std::os::unix::fs::symlink(own, &aside),
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
    let (Ok(own_file), Ok(file)) = (fs::metadata(own), fs::metadata(place)) else { return false };
    if (own_file.dev(), own_file.ino()) == (file.dev(), file.ino()) {
        return place != own;
    }
    file.len() == own_file.len() && matches!((fs::read(own), fs::read(place)), (Ok(a), Ok(b)) if a == b)
}
