//! `cnitool validate`: looks at configurations and says what is wrong with them, without calling a plugin.
//!
//! A line of the report is `FILE: PATH: error|warning|note: TEXT`, or `FILE: ok` for a file without errors and warnings; the last
//! line counts them. It fails if there is an error.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Call;
use crate::cni::Host;
use crate::cni::conflist_files::{self, LISTS, SINGLES};
use crate::cni::environment::validate_network_name;
use crate::cni::report::{Level, Report};
use crate::cni::validate::{Document, look};
use crate::error::{Error, Result};

/// What follows the verb.
pub(super) const WORDS: &str = "[network|file]...";
/// See the module's description.
pub(super) const ABOUT: &str = "Look for mistakes in network configurations (all, or these) without doing anything";

/// Reports on the files that the words name, or on all.
pub(super) fn run(call: &mut Call<'_>) -> Result<()> {
    let directory = call.configuration_directory();
    let words = &call.command.words;
    let mut paths = if words.is_empty() { all(&directory)? } else { Vec::new() };
    for word in words {
        paths.push(named(&directory, word)?);
    }
    let (mut seen, mut report) = (Vec::new(), Report::default());
    for path in &paths {
        let before = report.errors + report.warnings;
        report.file = path.display().to_string();
        let network = examine(path, call.host, &mut report);
        is_second(network, &mut seen, &mut report);
        if report.errors + report.warnings == before {
            report.text.push_str(&format!("{}: ok\n", report.file));
        }
    }
    let (errors, warnings) = (counted(report.errors, "error"), counted(report.warnings, "warning"));
    call.stdout = format!("{}{errors}, {warnings}\n", report.text);
    if report.errors > 0 { Err(Error::internal("the configuration has errors")) } else { Ok(()) }
}

/// A file, or the first one that has the network of this name.
fn named(directory: &str, word: &str) -> Result<PathBuf> {
    if word.contains('/') || Path::new(word).is_file() {
        return Ok(word.into());
    }
    let has_name = |path: &PathBuf| Document::read(path).is_ok_and(|document| name_of(&document) == word);
    let none = || Error::internal(format!("no net configuration with name {word:?} in {directory}"));
    let found = all(directory)?.into_iter().find(has_name);
    found.ok_or_else(|| none().with_details("and no file of this name"))
}

/// The files in which networks are looked for, in that order.
fn all(directory: &str) -> Result<Vec<PathBuf>> {
    let mut paths = conflist_files::files(Path::new(directory), &LISTS)?;
    paths.extend(conflist_files::files(Path::new(directory), &SINGLES)?);
    match paths.is_empty() {
        true => Err(Error::internal(format!("no net configurations found in {directory}"))),
        false => Ok(paths),
    }
}

/// Says what there is to say about a network's files, and gives its name.
fn examine(path: &Path, host: &Host, report: &mut Report) -> Option<String> {
    let main = read(path, report)?;
    let mut folder = Vec::new();
    for path in folder_of(path, &main) {
        report.file = path.display().to_string();
        folder.extend(read(&path, report).map(|document| Document { is_list: false, ..document }));
    }
    look(&main, &folder, host, report);
    Some(name_of(&main).to_string())
}

fn read(path: &Path, report: &mut Report) -> Option<Document> {
    Document::read(path).map_err(|why| report.say(Level::Error, "", &[&why.to_string()])).ok()
}

/// Of several networks with one name the first is found.
fn is_second(network: Option<String>, seen: &mut Vec<(String, String)>, report: &mut Report) {
    let Some(network) = network.filter(|network| !network.is_empty()) else { return };
    match seen.iter().find(|(name, _)| *name == network) {
        Some((_, first)) => {
            report.say(Level::Warning, "name", &[first, " has this network too, which is the one that is found"]);
        }
        None => seen.push((network, report.file.clone())),
    }
}

fn name_of(document: &Document) -> &str {
    document.map.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// The files with further plugins of a list.
fn folder_of(path: &Path, main: &Document) -> Vec<PathBuf> {
    let name = name_of(main);
    let only_inlined = main.map.get("loadOnlyInlinedPlugins").is_some_and(|value| match value {
        Value::String(text) => text.eq_ignore_ascii_case("true"),
        value => *value == Value::Bool(true),
    });
    if !main.is_list || only_inlined || validate_network_name(name).is_err() {
        return Vec::new();
    }
    // One that cannot be read is what the call would fail with too, but it is no part of this file.
    conflist_files::files(&path.with_file_name(name), &["conf"]).unwrap_or_default()
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
