//! Finding the configuration of a network in a directory (`libcni/conf.go` `LoadNetworkConf` of the reference library):
//! `*.conflist` files first, then the old single configurations `*.conf` and `*.json`, each in order of name. Further
//! plugins of a list may lie in a folder that bears the network's name (specification 1.1.0, `loadOnlyInlinedPlugins`).
//!
//! A file that cannot be read or parsed does not stand in the way of another network, as it does in the reference.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cni::config::Object;
use crate::cni::conflist::NetworkList;
use crate::cni::environment::validate_network_name;
use crate::cni::json;
use crate::cni::plugin_config::PluginConfig;
use crate::error::{Error, Result};

/// How the names of lists of plugins end.
pub const LISTS: [&str; 1] = ["conflist"];
/// How the names of single plugins' configurations end.
pub const SINGLES: [&str; 2] = ["conf", "json"];

/// A configuration that was found.
#[derive(Debug)]
pub struct Loaded {
    /// The network.
    pub list: NetworkList,
    /// The files that were passed over on the way, each with the reason.
    pub skipped: Vec<String>,
    /// What is to be said of files that bear the same name and are not used.
    pub shadowed: Vec<String>,
}

/// Finds the network `name` in `directory`. If it is not there, the error tells which files could not be looked into.
pub fn load(directory: &str, name: &str) -> Result<Loaded> {
    let mut search = Search { name, skipped: Vec::new() };
    let lists = files(Path::new(directory), &LISTS)?;
    let singles = files(Path::new(directory), &SINGLES)?;
    let all = || lists.iter().chain(&singles);
    if let Some((path, mut list)) = search.first(&lists, NetworkList::parse)? {
        complete(&mut list, &path)?;
        return Ok(Loaded { list, shadowed: search.shadowed(&path, all()), skipped: search.skipped });
    }
    if let Some((path, list)) = search.first(&singles, NetworkList::from_single)? {
        validate_network_name(&list.name).map_err(|error| in_file(&path, error))?;
        return Ok(Loaded { list, shadowed: search.shadowed(&path, all()), skipped: search.skipped });
    }
    Err(search.not_found(directory, &all().cloned().collect::<Vec<_>>()))
}

/// The names of the networks in `directory`, sorted, also of those whose configuration has
/// mistakes.
fn names(directory: &str) -> Result<Vec<String>> {
    let mut paths = files(Path::new(directory), &LISTS)?;
    paths.extend(files(Path::new(directory), &SINGLES)?);
    Ok(names_in(&paths))
}

fn names_in(paths: &[PathBuf]) -> Vec<String> {
    let mut names: Vec<String> = paths.iter().filter_map(|path| name_in(&read(path).ok()?)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn name_in(bytes: &[u8]) -> Option<String> {
    let map = json::parse_object(bytes).ok()?;
    let name = Object::top(&map).string("name").ok()?;
    (!name.is_empty()).then(|| name.to_string())
}

/// Fails unless a configuration in `directory` has this name, be it one with mistakes. The error is
/// that of [`load`].
pub fn require(directory: &str, name: &str) -> Result<()> {
    match names(directory)?.iter().any(|known| known == name) {
        true => Ok(()),
        false => load(directory, name).map(drop),
    }
}

/// The first names, in a form that is no command to a terminal.
fn listed(names: &[String]) -> String {
    const MOST: usize = 20;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| name.escape_debug().to_string()).collect();
    let rest = names.len().saturating_sub(MOST);
    shown.join(", ") + &if rest > 0 { format!(" and {rest} more") } else { String::new() }
}

/// All networks of `directory`, in the order of their files. Files that cannot be used are passed over; only the directory
/// itself must be readable, if it is there.
pub fn all(directory: &str) -> Result<Vec<NetworkList>> {
    let mut lists: Vec<NetworkList> = Vec::new();
    for (extensions, is_whole) in [(&LISTS[..], true), (&SINGLES, false)] {
        for path in files(Path::new(directory), extensions)? {
            let Ok(list) = read_list(&path, is_whole) else { continue };
            if lists.iter().all(|known| known.name != list.name) {
                lists.push(list);
            }
        }
    }
    Ok(lists)
}

fn read_list(path: &Path, is_whole: bool) -> Result<NetworkList> {
    let bytes = read(path)?;
    if !is_whole {
        let list = NetworkList::from_single(&bytes)?;
        return validate_network_name(&list.name).map(|()| list);
    }
    let mut list = NetworkList::parse(&bytes)?;
    complete(&mut list, path)?;
    Ok(list)
}

struct Search<'a> {
    name: &'a str,
    skipped: Vec<String>,
}

impl Search<'_> {
    /// The first file that holds the wanted network. A mistake counts only in a file that bears the wanted name.
    fn first(
        &mut self,
        paths: &[PathBuf],
        parse: fn(&[u8]) -> Result<NetworkList>,
    ) -> Result<Option<(PathBuf, NetworkList)>> {
        for path in paths {
            let bytes = match read(path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.skipped.push(error.to_string());
                    continue;
                }
            };
            match parse(&bytes).map_err(|error| in_file(path, error)) {
                Ok(list) if list.name == self.name => return Ok(Some((path.clone(), list))),
                Err(error) if self.is_wanted(&bytes) => return Err(error),
                Err(error) => self.skipped.push(error.to_string()),
                Ok(_) => {}
            }
        }
        Ok(None)
    }

    /// The other files of the wanted name: mostly an old version, or a copy that an editor has left.
    fn shadowed<'p>(&self, used: &Path, paths: impl Iterator<Item = &'p PathBuf>) -> Vec<String> {
        let same = paths.filter(|path| *path != used && read(path).is_ok_and(|bytes| self.is_wanted(&bytes)));
        let (name, used) = (self.name, used.display());
        same.map(|path| format!("network {name:?} is taken from {used}, not from {}", path.display())).collect()
    }

    /// The details say which networks there are, and which files were skipped.
    fn not_found(self, directory: &str, paths: &[PathBuf]) -> Error {
        if paths.is_empty() {
            let error = Error::internal(format!("no net configurations found in {directory}"));
            let hint = "there is no such directory; NETCONFPATH names the directory of configurations";
            return if Path::new(directory).exists() { error } else { error.with_details(hint) };
        }
        let (names, mut details) = (names_in(paths), Vec::new());
        if !names.is_empty() {
            details.push(format!("there are: {}", listed(&names)));
        }
        if !self.skipped.is_empty() {
            details.push(format!("skipped: {}", self.skipped.join("; ")));
        }
        let error = Error::internal(format!("no net configuration with name {:?} in {directory}", self.name));
        error.with_details(details.join("; "))
    }

    fn is_wanted(&self, bytes: &[u8]) -> bool {
        name_in(bytes).as_deref() == Some(self.name)
    }
}

/// Appends the plugins of the network's folder, unless the list says that it has none.
fn complete(list: &mut NetworkList, path: &Path) -> Result<()> {
    // The name becomes part of a path.
    validate_network_name(&list.name).map_err(|error| in_file(path, error))?;
    if !list.only_inlined {
        let folder = path.with_file_name(&list.name);
        list.plugins.extend(folder_plugins(&folder)?);
    }
    if list.plugins.is_empty() {
        return Err(in_file(path, Error::internal("no plugin configs found")));
    }
    Ok(())
}

fn folder_plugins(folder: &Path) -> Result<Vec<PluginConfig>> {
    let unreadable =
        |error| Error::internal(format!("failed to read plugin config files in {}: {error}", folder.display()));
    let paths = files(folder, &["conf"]).map_err(unreadable)?;
    let plugin = |path: &PathBuf| PluginConfig::parse(&read(path)?).map_err(|error| in_file(path, error));
    paths.iter().map(plugin).collect()
}

/// The files of a directory that have one of these extensions, in bytewise order of name. A link counts as a file; a FIFO
/// does not, whose reading might never end. A missing directory has no files.
pub fn files(directory: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let unreadable =
        |error: std::io::Error| Error::internal(format!("open {}: {}", directory.display(), Error::from(error)));
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let may_be_read = entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_symlink());
        if may_be_read && has_extension(entry.file_name().as_bytes(), extensions) {
            found.push(entry.path());
        }
    }
    found.sort_by(|one, other| one.as_os_str().as_bytes().cmp(other.as_os_str().as_bytes()));
    Ok(found)
}

/// The extension is what follows the last dot, even if nothing precedes it.
pub fn has_extension(name: &[u8], extensions: &[&str]) -> bool {
    let dot = name.iter().rposition(|byte| *byte == b'.');
    let extension = dot.and_then(|dot| name.get(dot + 1..));
    extension.is_some_and(|extension| extensions.iter().any(|wanted| wanted.as_bytes() == extension))
}

/// The bytes of a file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path).map_err(Error::from);
    file.and_then(|file| read_all(&file))
        .map_err(|error| Error::internal(format!("error reading {}: {error}", path.display())))
}

/// The bytes of a configuration, which are not more than any network has: the source may be a device without an end.
pub fn read_all(source: impl Read) -> Result<Vec<u8>> {
    const MOST: u64 = 64 << 20;
    let mut bytes = Vec::new();
    source.take(MOST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MOST {
        true => Err(Error::internal(format!("it has more than {MOST} bytes"))),
        false => Ok(bytes),
    }
}

fn in_file(path: &Path, error: Error) -> Error {
    error.behind(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::testing::TempDir;

    fn directory(files: &[(&str, &str)]) -> TempDir {
        let directory = TempDir::new();
        for (name, text) in files {
            directory.write(name, text);
        }
        directory
    }

    fn found(directory: &TempDir, name: &str) -> Vec<String> {
        load(directory.path(), name).unwrap().list.plugins.into_iter().map(|plugin| plugin.kind).collect()
    }

    fn error(directory: &TempDir, name: &str) -> String {
        load(directory.path(), name).unwrap_err().to_string().replace(directory.path(), "DIR")
    }

    #[test]
    fn lists_come_before_single_files_and_names_in_order() {
        let directory = directory(&[
            ("10.conf", r#"{"name":"n","type":"single"}"#),
            ("20.conflist", r#"{"name":"n","plugins":[{"type":"second"}]}"#),
            ("15.conflist", r#"{"name":"n","plugins":[{"type":"first"}]}"#),
            ("05.json", r#"{"name":"j","type":"json"}"#),
            ("01.txt", "no configuration"),
        ]);
        fs::create_dir(format!("{}/00.conflist", directory.path())).unwrap();
        assert_eq!(found(&directory, "n"), ["first"]);
        assert_eq!(found(&directory, "j"), ["json"]);
        let shadowed = load(directory.path(), "n").unwrap().shadowed.join("\n").replace(directory.path(), "DIR");
        let used = "network \"n\" is taken from DIR/15.conflist, not from DIR";
        assert_eq!(shadowed, format!("{used}/20.conflist\n{used}/10.conf"));
        assert_eq!(load(directory.path(), "j").unwrap().shadowed, [""; 0]);
        assert_eq!(error(&directory, "x"), "no net configuration with name \"x\" in DIR; there are: j, n");
    }

    #[test]
    fn an_empty_or_missing_directory_has_no_configurations() {
        let directory = directory(&[]);
        assert_eq!(error(&directory, "n"), "no net configurations found in DIR");
        assert_eq!(load("/nonexistent", "n").unwrap_err().msg, "no net configurations found in /nonexistent");
        directory.write("file", "");
        let unreadable = load(&directory.file("file"), "n").unwrap_err().to_string();
        assert_eq!(unreadable, format!("open {}: not a directory", directory.file("file")));
        directory.write("a.conflist", r#"{"name":"a","plugins":[{"type":"x"}]}"#);
        assert_eq!(error(&directory, "n"), "no net configuration with name \"n\" in DIR; there are: a");
    }

    #[test]
    fn many_names_are_cut_and_none_is_a_command_to_the_terminal() {
        let many: Vec<String> = (10..40).map(|number| format!("n{number}")).collect();
        assert!(listed(&many).ends_with("n28, n29 and 10 more"), "{}", listed(&many));
        assert_eq!(listed(&["\u{1b}[2J".to_string()]), "\\u{1b}[2J");
    }

    #[test]
    fn a_broken_file_is_skipped_unless_it_is_the_wanted_one() {
        let directory = directory(&[
            ("1.conflist", "{"),
            ("2.conflist", r#"{"name":"bad","plugins":[]}"#),
            ("3.conf", r#"{"name":"list","plugins":[]}"#),
            ("4.conf", r#"{"name":"good","type":"x"}"#),
        ]);
        let loaded = load(directory.path(), "good").unwrap();
        assert_eq!((loaded.skipped.len(), loaded.list.name.as_str()), (3, "good"));
        let text = error(&directory, "bad");
        assert_eq!(text, "DIR/2.conflist: error parsing configuration list: no plugins in list");
        assert!(error(&directory, "list").starts_with("DIR/3.conf: error parsing configuration: missing 'type'"));
        let text = error(&directory, "other");
        let skipped =
            "; skipped: DIR/1.conflist: error parsing configuration list: unexpected end of JSON input; DIR/2";
        assert!(text.contains(skipped), "{text}");
    }

    #[test]
    fn the_networks_folder_adds_plugins() {
        let directory = directory(&[
            ("a.conflist", r#"{"name":"a","plugins":[{"type":"inline"}]}"#),
            ("b.conflist", r#"{"name":"b","loadOnlyInlinedPlugins":true,"plugins":[{"type":"inline"}]}"#),
            ("c.conflist", r#"{"name":"c"}"#),
            ("a/2.conf", r#"{"type":"two"}"#),
            ("a/1.conf", r#"{"type":"one"}"#),
            ("a/0.json", "ignored"),
            ("b/1.conf", r#"{"type":"one"}"#),
        ]);
        assert_eq!(found(&directory, "a"), ["inline", "one", "two"]);
        assert_eq!(found(&directory, "b"), ["inline"]);
        assert_eq!(error(&directory, "c"), "DIR/c.conflist: no plugin configs found");
        directory.write("a/3.conf", "{}");
        assert_eq!(error(&directory, "a"), "DIR/a/3.conf: error parsing configuration: missing 'type'");
        assert_eq!(found(&directory, "b"), ["inline"], "another network's folder is not read");
    }

    #[test]
    fn a_name_that_would_leave_the_directory_is_refused() {
        let directory = directory(&[("a.conflist", r#"{"name":"../x","plugins":[{"type":"t"}]}"#)]);
        assert_eq!(error(&directory, "../x"), "DIR/a.conflist: invalid characters found in network name; ../x");
    }

    #[test]
    fn the_extension_follows_the_last_dot() {
        assert!(has_extension(b".conf", &["conf"]));
        assert!(has_extension(b"a.b.conf", &["conf"]));
        assert!(!has_extension(b"conf", &["conf"]));
        assert!(!has_extension(b"a.conflist", &["conf"]));
    }
}
