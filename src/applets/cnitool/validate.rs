//! `cnitool validate`: looks at configurations and says what is wrong with them, without calling a plugin.
//!
//! A word is a network, a file, a directory, or `-` for standard input. A document may also be a NetworkAttachmentDefinition, or
//! a list of them.
//!
//! A line of the report is `FILE: PATH: error|warning|note: TEXT`, or `FILE: ok` for a file without errors and warnings; behind
//! the file stands the definition, `NAMESPACE/NAME`. The last line counts them. It fails if there is an error.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Call;
use crate::cni::Host;
use crate::cni::conflist_files::{self, LISTS, SINGLES};
use crate::cni::environment::validate_network_name;
use crate::cni::report::{Level, Report};
use crate::cni::validate::{Definition, Document, Item, definitions, look};
use crate::error::{Error, Result};

/// What follows the verb.
pub(super) const WORDS: &str = "[network|file|directory|-]...";
/// See the module's description.
pub(super) const ABOUT: &str = "Look for mistakes in network configurations (all, or these) without doing anything";

/// The word for standard input.
const STDIN: &str = "-";

/// Reports on what the words name, or on all networks.
pub(super) fn run(call: &mut Call<'_>) -> Result<()> {
    let directory = call.configuration_directory();
    let words = &call.command.words;
    let mut paths = if words.is_empty() { all(&directory)? } else { Vec::new() };
    for word in words {
        paths.extend(named(&directory, word)?);
    }
    let mut examiner = Examiner { directory: &directory, host: call.host, seen: Vec::new(), report: Report::default() };
    paths.iter().for_each(|path| examiner.file(path));
    let report = examiner.report;
    let (errors, warnings) = (counted(report.errors, "error"), counted(report.warnings, "warning"));
    call.stdout = format!("{}{errors}, {warnings}\n", report.text);
    if report.errors > 0 { Err(Error::internal("the configuration has errors")) } else { Ok(()) }
}

/// A file, the first one that has the network of this name, or all files of a directory.
fn named(directory: &str, word: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(word);
    let is_path = word.contains('/') || word == STDIN || path.is_file();
    if is_path && !path.is_dir() {
        return Ok(vec![word.into()]);
    }
    let found = if is_path { None } else { network(directory, word)? };
    match found {
        Some(found) => Ok(vec![found]),
        None if path.is_dir() => all(word),
        None => {
            let error = Error::internal(format!("no net configuration with name {word:?} in {directory}"));
            Err(error.with_details("and no file of this name"))
        }
    }
}

/// The first file of a directory that has the network of this name.
fn network(directory: &str, name: &str) -> Result<Option<PathBuf>> {
    let has_name = |path: &PathBuf| Document::read(path).is_ok_and(|document| document.name() == name);
    Ok(files(directory)?.into_iter().find(has_name))
}

/// The files in which networks are looked for, in that order.
fn all(directory: &str) -> Result<Vec<PathBuf>> {
    let paths = files(directory)?;
    match paths.is_empty() {
        true => Err(Error::internal(format!("no net configurations found in {directory}"))),
        false => Ok(paths),
    }
}

fn files(directory: &str) -> Result<Vec<PathBuf>> {
    let mut paths = conflist_files::files(Path::new(directory), &LISTS)?;
    paths.extend(conflist_files::files(Path::new(directory), &SINGLES)?);
    Ok(paths)
}

/// One run over several files.
struct Examiner<'a> {
    /// Where networks are found by name.
    directory: &'a str,
    host: &'a Host,
    /// The names of networks so far, with their files.
    seen: Vec<(String, String)>,
    report: Report,
}

impl Examiner<'_> {
    /// Says what there is to say about a file, or standard input.
    fn file(&mut self, path: &Path) {
        let file = path.display().to_string();
        self.report.file.clone_from(&file);
        let before = self.findings();
        let document = if file == STDIN { read_stdin(&mut self.report) } else { read(path, &mut self.report) };
        match document.as_ref().and_then(|document| definitions(&document.map)) {
            Some(items) => items.into_iter().for_each(|item| self.item(&file, item)),
            None => {
                let folder = document.as_ref().map_or(Vec::new(), |main| self.folder(path, main));
                if let Some(main) = document {
                    look(&main, &folder, self.host, &mut self.report);
                    is_second(main.name(), &mut self.seen, &mut self.report);
                }
                self.say_if_ok(before);
            }
        }
    }

    /// The documents with further plugins of a list.
    fn folder(&mut self, path: &Path, main: &Document) -> Vec<Document> {
        let mut folder = Vec::new();
        for path in folder_of(path, main) {
            self.report.file = path.display().to_string();
            folder.extend(read(&path, &mut self.report).map(|document| Document { is_list: false, ..document }));
        }
        folder
    }

    /// Passes over objects of other kinds.
    fn item(&mut self, file: &str, item: Result<Item>) {
        self.report.file = file.to_string();
        let definition = match item {
            Ok(Item::Other(kind)) => {
                let kind = format!("{kind:?}");
                return self.report.say(Level::Note, "", &[&kind, " is passed over: no NetworkAttachmentDefinition"]);
            }
            Ok(Item::Definition(definition)) => Ok(definition),
            Err(why) => Err(why),
        };
        self.definition(file, &definition);
    }

    /// The same for a definition in a file. Networks of several definitions may have one name.
    fn definition(&mut self, file: &str, definition: &Result<Definition>) {
        let before = self.findings();
        let made = definition.as_ref().map_err(Error::clone).and_then(|definition| {
            self.report.file = format!("{file}: {}", definition.label);
            definition.document(self.report.file.clone()).map(|document| (document, &definition.name))
        });
        match made {
            Ok((Some(document), _)) => look(&document, &[], self.host, &mut self.report),
            Ok((None, name)) => return self.configured_elsewhere(name),
            Err(why) => self.report.say(Level::Error, "", &[&why.to_string()]),
        }
        self.say_if_ok(before);
    }

    /// A definition without a configuration names a network of this host.
    fn configured_elsewhere(&mut self, name: &str) {
        match network(self.directory, name) {
            Ok(Some(path)) => {
                let path = path.display().to_string();
                self.report.say(Level::Note, "spec.config", &["missing, which means the network of ", &path]);
                self.file(Path::new(&path));
            }
            Ok(None) => {
                let text = ["missing, and there is no net configuration with name \"", name, "\" in ", self.directory];
                self.report.say(Level::Error, "spec.config", &text);
            }
            Err(why) => self.report.say(Level::Error, "spec.config", &["missing, and ", &why.to_string()]),
        }
    }

    fn findings(&self) -> usize {
        self.report.errors + self.report.warnings
    }

    fn say_if_ok(&mut self, before: usize) {
        if self.findings() == before {
            self.report.text.push_str(&format!("{}: ok\n", self.report.file));
        }
    }
}

fn read(path: &Path, report: &mut Report) -> Option<Document> {
    Document::read(path).map_err(|why| report.say(Level::Error, "", &[&why.to_string()])).ok()
}

/// A network without a name, as `spec.config` of a NetworkAttachmentDefinition mostly has none, gets one.
fn read_stdin(report: &mut Report) -> Option<Document> {
    let parsed = conflist_files::read_all(io::stdin().lock())
        .map_err(|why| why.behind("error reading standard input"))
        .and_then(|bytes| Document::parse_file(STDIN.to_string(), &bytes));
    let mut document = parsed.map_err(|why| report.say(Level::Error, "", &[&why.to_string()])).ok()?;
    if document.name().is_empty() && definitions(&document.map).is_none() {
        report.say(
            Level::Warning,
            "name",
            &["missing; Multus gives the network that of its NetworkAttachmentDefinition"],
        );
        document.name_if_missing("unnamed");
    }
    Some(document)
}

/// Of several networks with one name the first is found.
fn is_second(network: &str, seen: &mut Vec<(String, String)>, report: &mut Report) {
    match seen.iter().find(|(name, _)| *name == network) {
        _ if network.is_empty() => {}
        Some((_, first)) => {
            report.say(Level::Warning, "name", &[first, " has this network too, which is the one that is found"]);
        }
        None => seen.push((network.to_string(), report.file.clone())),
    }
}

/// The files with further plugins of a list.
fn folder_of(path: &Path, main: &Document) -> Vec<PathBuf> {
    let name = main.name();
    let only_inlined = main.map.get("loadOnlyInlinedPlugins").is_some_and(|value| match value {
        Value::String(text) => text.eq_ignore_ascii_case("true"),
        value => *value == Value::Bool(true),
    });
    if path == Path::new(STDIN) || !main.is_list || only_inlined || validate_network_name(name).is_err() {
        return Vec::new();
    }
    // One that cannot be read is what the call would fail with too, but it is no part of this file.
    conflist_files::files(&path.with_file_name(name), &["conf"]).unwrap_or_default()
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
