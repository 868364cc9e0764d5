//! The keys that a plugin's configuration may have, and a look at a document with them.
//!
//! A table is text, one key a line: `PATH: TYPE`. It is text because that takes the fewest bytes. In a path `.` leads to a
//! key of an object, `[]` to the elements of a list, and `*` stands for every other key. A type is one of these, or several
//! with `|` in between:
//!
//! | type | value |
//! |---|---|
//! | `string`, `bool`, `any` | |
//! | `1..4094`, `1..` | a whole number from 1 to 4094, or on |
//! | `ip`, `cidr`, `mac` | a string: an address, one with the length of its prefix, a hardware address |
//! | `@NAME` | what the lines that begin with `@NAME` say |
//! | `plugin` | another plugin's configuration, see [`crate::cni::validate`] |
//! | anything else | this string |
//!
//! Behind a `?` other values are taken too, but hardly meant. An empty string mostly counts as missing, so only the plugins'
//! decoding refuses it.

use serde_json::{Map, Value};

use crate::cni::json::{self, join, shown};
use crate::cni::other_programs;
use crate::cni::report::{Level, Report};
use crate::cni::result::{parse_cidr, parse_ip};

/// What every plugin's configuration may have. Runtimes, and the conventions, own `args` and `runtimeConfig`.
pub const COMMON: &str = "\
cniVersion: string
name: string
type: string
capabilities.*: bool
dns: @dns
args.cni.*: any
args.*: any
prevResult.*: any
runtimeConfig.*: any
@dns.nameservers[]: string
@dns.domain: string
@dns.search[]: string
@dns.options[]: string
@route.dst: cidr
@route.gw: ip
@route.mtu: 0..
@route.advmss: 0..
@route.priority: 0..
@route.table: 0..4294967295
@route.scope: 0..255
@range.subnet: cidr
@range.rangeStart: ip
@range.rangeEnd: ip
@range.gateway: ip
";

/// What a list of plugins may have. Unlike all others these keys are matched exactly.
pub const LIST: &str = "\
cniVersion: string
cniVersions[]: string
name: string
disableCheck: bool|string
disableGC: bool|string
loadOnlyInlinedPlugins: bool|string
plugins[]: any
args.*: any
";

/// The lines of some tables. Of several lines for one path the first counts.
#[derive(Debug, Clone, Default)]
pub struct Keys<'t>(Vec<(&'t str, &'t str)>);

impl<'t> Keys<'t> {
    /// Reads tables.
    pub fn of(tables: &[&'t str]) -> Self {
        let mut lines = Vec::new();
        for table in tables {
            lines.extend(table.split('\n').filter_map(|line| line.split_once(": ")));
        }
        #[cfg(test)]
        read::note(lines.len());
        Keys(lines)
    }

    fn kinds(&self, place: &str) -> &'t str {
        self.0.iter().find(|(path, _)| *path == place).map_or("", |(_, kinds)| kinds)
    }

    /// The names of the keys below a place, each once.
    pub fn below(&self, place: &str) -> Vec<&'t str> {
        let mut names = Vec::new();
        for (path, _) in &self.0 {
            let Some(rest) = path.strip_prefix(place) else { continue };
            let rest = if place.is_empty() { Some(rest) } else { rest.strip_prefix('.') };
            let name = rest.and_then(|rest| rest.split(['.', '[']).next()).unwrap_or("@");
            if !name.starts_with('@') && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    fn has_elements(&self, place: &str) -> bool {
        self.0.iter().any(|(path, _)| path.strip_prefix(place).is_some_and(|rest| rest.starts_with("[]")))
    }

    /// The first path that ends with this key, as a document would have it. Those in groups come last.
    pub fn path_to(&self, key: &str) -> Option<String> {
        for in_group in [false, true] {
            for (path, _) in &self.0 {
                let path = path.trim_end_matches("[]");
                let last = path.rsplit('.').next().unwrap_or_default();
                if path.starts_with('@') == in_group && last.eq_ignore_ascii_case(key) {
                    return Some(self.whole(path)?.trim_end_matches("[]").replace("[]", "[0]"));
                }
            }
        }
        None
    }

    /// A path with the place of its group, the first one.
    fn whole(&self, path: &str) -> Option<String> {
        if !path.starts_with('@') {
            return Some(path.to_string());
        }
        let (group, rest) = path.split_once('.')?;
        let (place, _) = self.0.iter().find(|(_, kinds)| *kinds == group)?;
        Some(join(place, rest))
    }
}

/// Looks at an object with this path, as at a document of its own.
pub type Inside<'l> = dyn Fn(&Map<String, Value>, &str, &mut Report) + 'l;

/// A look at one document.
pub struct Look<'l> {
    /// What it may have.
    pub keys: &'l Keys<'l>,
    /// The plugin whose document it is; empty for a list.
    pub owner: &'l str,
    /// Letter case counts, and runtimes keep notes of their own beside these keys.
    pub exact: bool,
    /// The plugin is not ours: it may make something else of a value before anybody reads it.
    pub foreign: bool,
    /// Says where a key belongs that is unknown where it is.
    pub elsewhere: &'l dyn Fn(&str) -> Option<String>,
    /// Looks at a value of the type `plugin`, whose path is given.
    pub plugin: &'l Inside<'l>,
    /// Where to say what was found.
    pub report: &'l mut Report,
}

impl Look<'_> {
    /// Looks at an object. `place` is its path in the tables, `path` that in the document.
    pub fn members(&mut self, map: &Map<String, Value>, place: &str, path: &str) {
        let names = self.keys.below(place);
        let mut seen: Vec<&str> = Vec::new();
        for (key, value) in map {
            // Comments, and what other programs write for themselves.
            let is_others = place.is_empty() && other_programs::have_key(self.owner, key);
            if is_others || key.starts_with('_') || key.starts_with("cni.dev/") {
                continue;
            }
            let here = join(path, &shown(key));
            let exact = self.exact;
            let matches = |name: &&&str| if exact { *name == key } else { name.eq_ignore_ascii_case(key) };
            let Some(name) = names.iter().find(matches) else {
                match names.contains(&"*") {
                    true => self.value(value, &join(place, "*"), &here),
                    false => self.unknown(key, &names, &here),
                }
                continue;
            };
            if seen.contains(name) {
                self.report.say(Level::Warning, &here, &["\"", name, "\" is there twice, and only one counts"]);
            } else if name != key {
                self.report.say(Level::Note, &here, &["this key is usually written \"", name, "\""]);
            }
            seen.push(name);
            self.value(value, &join(place, name), &here);
        }
    }

    fn value(&mut self, value: &Value, place: &str, path: &str) {
        let kinds = self.keys.kinds(place);
        let place = if kinds.starts_with('@') { kinds } else { place };
        match value {
            // Go takes it for "missing".
            Value::Null => {}
            _ if kinds == "any" => {}
            Value::String(text) if self.foreign && other_programs::replace(text) => {}
            Value::Object(map) if kinds == "plugin" => (self.plugin)(map, path, self.report),
            Value::Object(map) if !self.keys.below(place).is_empty() => self.members(map, place, path),
            Value::Array(items) if self.keys.has_elements(place) => {
                let place = format!("{place}[]");
                for (index, item) in items.iter().enumerate() {
                    self.value(item, &place, &format!("{path}[{index}]"));
                }
            }
            _ if kinds.trim_start_matches('?').split('|').any(|kind| fits(value, kind)) => {}
            _ => {
                let level = if self.foreign || is_taken(value, kinds) { Level::Warning } else { Level::Error };
                let allowed = self.allowed(place, kinds);
                self.report.say(level, path, &[&brief(value), " is not allowed here; allowed: ", &allowed]);
            }
        }
    }

    fn unknown(&mut self, key: &str, names: &[&str], path: &str) {
        let (level, what, names) = match ((self.elsewhere)(key), nearest(key, names)) {
            (Some(elsewhere), _) => (Level::Warning, "it belongs ", elsewhere),
            (None, Some(near)) => (Level::Warning, "did you mean ", near.to_string()),
            (None, None) if self.exact => (Level::Note, "allowed: ", names.join(", ")),
            (None, None) => (Level::Warning, "allowed: ", names.join(", ")),
        };
        self.report.say(level, path, &["unknown key, which has no effect; ", what, &names]);
    }

    fn allowed(&self, place: &str, kinds: &str) -> String {
        let mut allowed = String::new();
        let mut or = |what: &[&str]| {
            if !allowed.is_empty() {
                allowed.push_str(" or ");
            }
            what.iter().for_each(|part| allowed.push_str(part));
        };
        for kind in kinds.trim_start_matches('?').split('|') {
            match said(kind) {
                "" if kind.contains("..") => {
                    let (least, most) = kind.split_once("..").unwrap_or_default();
                    or(&["a whole number from ", least, if most.is_empty() { " on" } else { " to " }, most]);
                }
                "" if is_word(kind) => or(&["\"", kind, "\""]),
                "" => {}
                words => or(&[words]),
            }
        }
        if self.keys.has_elements(place) {
            or(&["a list"]);
        } else if kinds == "plugin" || !self.keys.below(place).is_empty() {
            or(&["an object"]);
        }
        allowed
    }
}

/// A value in an error text.
fn brief(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_string(),
        Value::Array(_) => "a list".to_string(),
        Value::String(text) => format!("{text:?}"),
        other => json::compact(&other.clone().into()),
    }
}

fn fits(value: &Value, kind: &str) -> bool {
    match (value, kind) {
        (Value::Bool(_), "bool") | (Value::String(_), "string") => true,
        (Value::String(text), "cidr") => parse_cidr(text).is_ok(),
        (Value::String(text), "ip") => text.is_empty() || parse_ip(text).is_ok(),
        (Value::String(text), "mac") => text.is_empty() || may_be_mac(text),
        (Value::String(text), kind) => is_word(kind) && (text.is_empty() || text == kind),
        (Value::Number(number), _) => {
            let text = json::shortest(number);
            let whole = text.parse::<i64>().ok().or(text.parse::<u64>().ok().map(|_| i64::MAX));
            bounds(kind).zip(whole).is_some_and(|((least, most), whole)| (least..=most).contains(&whole))
        }
        _ => false,
    }
}

/// Other numbers in the place of numbers, and other strings in that of strings, may be taken.
fn is_taken(value: &Value, kinds: &str) -> bool {
    let of_kind = if kinds.contains("..") { value.is_number() } else { value.is_string() };
    kinds.starts_with('?') && of_kind
}

/// True for a type that is a string of its own.
fn is_word(kind: &str) -> bool {
    !matches!(kind, "" | "bool" | "plugin") && !kind.starts_with('@') && !kind.contains("..")
}

fn bounds(kind: &str) -> Option<(i64, i64)> {
    let (least, most) = kind.split_once("..")?;
    Some((least.parse().ok()?, most.parse().unwrap_or(i64::MAX)))
}

/// What the plugins' own decoding says exactly: pairs of digits, or groups of four.
fn may_be_mac(text: &str) -> bool {
    const SHORTEST: usize = 14;
    text.len() >= SHORTEST && text.bytes().all(|byte| byte.is_ascii_hexdigit() || b":-.".contains(&byte))
}

/// A type in words; empty for what is not one of these.
fn said(kind: &str) -> &'static str {
    match kind {
        "string" => "a string",
        "bool" => "true or false",
        "ip" => "an address like \"10.1.2.3\"",
        "cidr" => "an address with prefix length like \"10.1.2.0/24\"",
        "mac" => "a hardware address like \"02:00:00:00:00:01\"",
        _ => "",
    }
}

/// The name that is hardly another one: one or two letters are wrong, too many or too few; in short words one.
fn nearest<'n>(key: &str, names: &[&'n str]) -> Option<&'n str> {
    const LONG: usize = 6;
    let allowed = if key.len() < LONG { 1 } else { 2 };
    let mut nearest = (allowed + 1, None);
    for name in names {
        let distance = distance(key.as_bytes(), name.as_bytes());
        if distance < nearest.0 {
            nearest = (distance, Some(*name));
        }
    }
    nearest.1
}

/// Levenshtein's, whatever the letter case. Of a long text only that it is far away.
fn distance(one: &[u8], other: &[u8]) -> usize {
    const LONGEST: usize = 40;
    if one.len() > LONGEST {
        return one.len();
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, letter) in one.iter().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        let mut next = vec![left];
        for (place, theirs) in row.iter().skip(1).zip(other) {
            let replaced = diagonal + usize::from(!letter.eq_ignore_ascii_case(theirs));
            left = replaced.min(left + 1).min(place + 1);
            diagonal = *place;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// For the test that holds the cost of a look against the size of the document: the lines of tables that this thread has read.
#[cfg(test)]
pub(crate) mod read {
    use std::cell::Cell;

    thread_local! {
        static LINES: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn note(lines: usize) {
        LINES.set(LINES.get() + lines);
    }

    /// Their number; forgets them.
    pub(crate) fn take() -> usize {
        LINES.take()
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
