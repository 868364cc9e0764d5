//! `cnitool validate`: looks at configurations and says what is wrong with them, without calling a plugin.
//!
//! A line of the report is `FILE: PATH: error|warning|note: TEXT`, or `FILE: ok` for a file without errors and warnings; the last
//! line counts them. It fails if there is an error.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Call;
use crate::cni::conflist_files::{self, LISTS, SINGLES};
use crate::cni::environment::validate_network_name;
use crate::cni::keys::{Finding, Level};
use crate::cni::validate::{Document, Report, look};
use crate::error::{Error, Result};

/// What follows the verb.
pub(super) const WORDS: &str = "[network|file]...";
/// See the module's description.
pub(super) const ABOUT: &str = "Look for mistakes in network configurations (all, or these) without doing anything";

/// Reports on the files that the words name, or on all.
pub(super) fn run(call: &mut Call<'_>) -> Result<()> {
    let directory = call.configuration_directory();
    let words = &call.command.words;
    let named = words.iter().map(|word| named(&directory, word)).collect::<Result<Vec<_>>>()?;
    let paths = if words.is_empty() { all(&directory)? } else { named };
    let mut seen: Vec<(String, String)> = Vec::new();
    let (mut errors, mut warnings) = (0_usize, 0_usize);
    for path in &paths {
        let (network, mut report) = examine(path, call);
        let file = path.display().to_string();
        match seen.iter().find(|(name, _)| !network.is_empty() && *name == network) {
            Some((_, first)) => report.push((file.clone(), second(&network, first))),
            None => seen.push((network, file.clone())),
        }
        let count = |level| report.iter().filter(|(_, finding)| finding.level == level).count();
        let (bad, doubtful) = (count(Level::Error), count(Level::Warning));
        (errors, warnings) = (errors + bad, warnings + doubtful);
        report.iter().for_each(|(file, finding)| call.stdout.push_str(&line(file, finding)));
        if bad + doubtful == 0 {
            call.stdout.push_str(&format!("{file}: ok\n"));
        }
    }
    call.stdout.push_str(&format!("{}, {}\n", counted(errors, "error"), counted(warnings, "warning")));
    if errors > 0 { Err(Error::internal("the configuration has errors")) } else { Ok(()) }
}

/// A file, or the first one that has the network of this name.
fn named(directory: &str, word: &str) -> Result<PathBuf> {
    if word.contains('/') || Path::new(word).is_file() {
        return Ok(word.into());
    }
    let has_name = |path: &PathBuf| {
        let document = Document::read(path);
        document.is_ok_and(|document| document.map.get("name").and_then(Value::as_str) == Some(word))
    };
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

/// The network's name, and what there is to say about its files.
fn examine(path: &Path, call: &Call<'_>) -> (String, Report) {
    let main = match Document::read(path) {
        Ok(main) => main,
        Err(why) => return (String::new(), vec![(path.display().to_string(), unreadable(&why))]),
    };
    let (mut folder, mut report) = (Vec::new(), Report::new());
    for path in folder_of(path, &main) {
        match Document::read(&path) {
            Ok(document) => folder.push(Document { is_list: false, ..document }),
            Err(why) => report.push((path.display().to_string(), unreadable(&why))),
        }
    }
    report.extend(look(&main, &folder, call.host));
    (name_of(&main).to_string(), report)
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

fn unreadable(why: &Error) -> Finding {
    Finding { level: Level::Error, path: String::new(), text: why.to_string() }
}

fn second(network: &str, first: &str) -> Finding {
    let text = format!("{first} has a network {network:?} too, which is the one that is found");
    Finding { level: Level::Warning, path: "name".to_string(), text }
}

fn line(file: &str, finding: &Finding) -> String {
    let level = match finding.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "note",
    };
    let path = if finding.path.is_empty() { String::new() } else { format!("{}: ", finding.path) };
    format!("{file}: {path}{level}: {}\n", finding.text)
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
