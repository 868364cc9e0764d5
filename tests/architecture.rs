//! The layers of the house, held by reading its `use crate::` lines. See `ARCHITECTURE.md`, "The house".

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Height of a top-level module: a file imports only from lower ones or its own.
const RANKS: [(&str, u32); 15] = [
    ("digest", 0),
    ("sorted", 0),
    ("sys", 0),
    ("netlink", 1),
    ("net", 2),
    ("cni", 2),
    ("dhcp", 3),
    ("firewall", 3),
    ("ipam", 3),
    ("ip_masq", 4),
    ("applets", 5),
    ("collect", 5),
    ("install", 6),
    ("dispatch", 7),
    ("main", 8),
];
/// What a module must not see although it is lower: cni knows no kernel, applets only the floors made for them.
const FORBIDDEN: [(&str, &[&str]); 8] = [
    ("cni", &["netlink", "net", "firewall", "ipam"]),
    ("net", &["cni"]),
    ("firewall", &["cni", "ipam"]),
    ("ipam", &["firewall"]),
    ("dhcp", &["netlink"]),
    ("ip_masq", &["netlink", "sys"]),
    ("applets", &["netlink", "sys"]),
    ("collect", &["netlink"]),
];
const LONGEST_FILE: usize = 500;

fn source_files() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &root, &mut files);
    assert!(files.len() > 10, "the sources are not where this test looks");
    files
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            files.push((path.strip_prefix(root).unwrap().to_path_buf(), text));
        }
    }
}

/// `src/net/link.rs` and `src/net.rs` both belong to `net`.
fn module_of(file: &Path) -> String {
    let first = file.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_string()
}

fn rank(module: &str) -> Option<u32> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

/// Code without comments and without the unit tests at the end of the file.
fn code(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]").next().unwrap();
    let lines = before_tests.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// First two path segments of everything after `crate::`, `cni_box::` included, groups opened.
fn imports(text: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let code = code(text);
    for prefix in ["crate::", "cni_box::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            let group = rest.strip_prefix('{').map(|inner| inner.split('}').next().unwrap());
            for path in group.map_or(vec![rest], |inner| inner.split(',').collect()) {
                let mut words = path.trim().split(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
                let first = words.next().unwrap_or_default().to_string();
                let second = words.find(|word| !word.is_empty()).unwrap_or_default().to_string();
                found.insert((first, second));
            }
        }
    }
    found
}

#[test]
fn dependencies_point_down_only() {
    let mut wrong = Vec::new();
    for (file, text) in source_files() {
        let own = module_of(&file);
        if own == "lib" || own == "error" {
            continue;
        }
        let height = rank(&own).unwrap_or_else(|| panic!("{}: give the module {own} a rank here", file.display()));
        for (module, _) in imports(&text) {
            let Some(other) = rank(&module) else { continue };
            let barred = FORBIDDEN.iter().any(|(name, list)| *name == own && list.contains(&module.as_str()));
            if module != own && (other >= height || barred) {
                wrong.push(format!("{} imports {module}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_error_type_knows_nobody() {
    let (_, text) = source_files().into_iter().find(|(file, _)| module_of(file) == "error").unwrap();
    let seen: Vec<_> = imports(&text).into_iter().filter(|(module, _)| rank(module).is_some()).collect();
    assert!(seen.is_empty(), "{seen:?}");
}

#[test]
fn applets_speak_neither_to_the_kernel_nor_to_one_another() {
    let mut wrong = Vec::new();
    for (file, text) in source_files() {
        if module_of(&file) != "applets" || file == Path::new("applets/mod.rs") {
            continue;
        }
        let own = file.iter().nth(1).unwrap().to_str().unwrap().trim_end_matches(".rs").to_string();
        let code = code(&text);
        let words: BTreeSet<_> = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        for word in ["libc", "nix"] {
            if words.contains(word) {
                wrong.push(format!("{} says {word}", file.display()));
            }
        }
        for (module, second) in imports(&text) {
            let shared = second.is_empty() || second.chars().next().unwrap().is_uppercase();
            if module == "applets" && !shared && second != own {
                wrong.push(format!("{} imports applets::{second}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_is_in_sys_only() {
    for (file, text) in source_files() {
        let unsafe_word = code(&text).split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe");
        assert!(!unsafe_word || module_of(&file) == "sys", "{} says unsafe", file.display());
    }
}

#[test]
fn every_file_of_applets_is_in_the_table() {
    let files = source_files();
    let (_, table) = files.iter().find(|(file, _)| file == Path::new("applets/mod.rs")).expect("src/applets/mod.rs");
    let mut names = BTreeSet::new();
    for (file, _) in &files {
        if module_of(file) == "applets" && file != Path::new("applets/mod.rs") {
            names.insert(file.iter().nth(1).unwrap().to_str().unwrap().trim_end_matches(".rs").to_string());
        }
    }
    assert!(!names.is_empty());
    for name in names {
        let plugin = name.trim_end_matches("_ipam").replace('_', "-");
        let named = table.contains(&format!("\"{plugin}\"")) && table.contains(&format!("{name}::"));
        assert!(named, "src/applets/{name} is not in the table of src/applets/mod.rs");
    }
}

#[test]
fn no_file_is_longer_than_a_reader_takes() {
    for (file, text) in source_files() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines", file.display());
    }
}

/// Names of functions in the tests and in the unit tests of the source.
fn function_names() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = source_files();
    collect(&root.join("tests"), &root.join("tests"), &mut files);
    let functions = files.iter().flat_map(|(_, text)| text.split("fn ").skip(1));
    functions.map(|rest| rest.split('(').next().unwrap().to_string()).collect()
}

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Names of tests in a document, or in a line of it.
fn named_tests(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2).map(|text| text.rsplit("::").next().unwrap());
    quoted.filter(|text| text.matches('_').count() > 2 && !text.contains(['/', '.', ' '])).collect()
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let functions = function_names();
    for (name, least) in [("COMPAT.md", 31), ("SECURITY.md", 8)] {
        let text = document(name);
        let named = named_tests(&text);
        assert!(named.len() >= least, "only {named:?} in {name}");
        let missing: Vec<&&str> = named.iter().filter(|name| !functions.contains(**name)).collect();
        assert!(missing.is_empty(), "{name} names tests that do not exist: {missing:?}");
    }
}

#[test]
fn every_advisory_has_a_test() {
    let text = document("SECURITY.md");
    let rows = text.lines().filter(|line| line.starts_with('|')).skip(2);
    let bare: Vec<&str> = rows.filter(|row| named_tests(row).is_empty()).collect();
    assert!(bare.is_empty(), "rows of SECURITY.md without a test: {bare:#?}");
}
