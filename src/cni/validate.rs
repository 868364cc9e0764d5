//! Looking at the configuration of a network without doing anything: the kernel is not asked, and no file read but it. What the keys
//! may be, the plugins' tables say (`keys`); what they mean together, the plugins' own decoding.

mod definitions;
mod entry;
mod order;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use entry::{Entry, Ipam};
use order::Front;
use serde_json::{Map, Value};

use crate::cni::config::{NetworkConfig, Object};
use crate::cni::conflist::NetworkList;
use crate::cni::conflist_files::{self, LISTS, SINGLES};
use crate::cni::environment::{Verb, validate_network_name};
use crate::cni::json::{self, join};
use crate::cni::keys::{COMMON, Keys, LIST, Look};
use crate::cni::plugin::{Host, Plugin, Request};
use crate::cni::plugin_config::PluginConfig;
use crate::cni::report::{Level, Report};
use crate::cni::version;
use crate::error::{Error, Result};

/// What a file holds.
#[derive(Debug)]
pub struct Document {
    /// Its name, for the report.
    pub file: String,
    /// The bytes.
    pub text: String,
    /// What they say.
    pub map: Map<String, Value>,
    /// It is a list of plugins, not a plugin's configuration.
    pub is_list: bool,
}

pub use definitions::{Definition, Item, definitions};

impl Document {
    /// Reads and parses a file. It is a list if its name ends so, or tells nothing and the contents are one.
    pub fn read(path: &Path) -> Result<Document> {
        let document = Document::parse_file(path.display().to_string(), &conflist_files::read(path)?)?;
        let has = |endings: &[&str]| conflist_files::has_extension(path.as_os_str().as_bytes(), endings);
        let is_list = has(&LISTS) || (!has(&SINGLES) && document.is_list);
        Ok(Document { is_list, ..document })
    }

    /// Parses the contents of a file, or of standard input. Several objects of Kubernetes become a
    /// `List`.
    pub fn parse_file(file: String, bytes: &[u8]) -> Result<Document> {
        Document::parse(file.clone(), bytes).or_else(|why| {
            let map = definitions::list_of(bytes).ok_or(why)?;
            Ok(Document { file, text: String::new(), map, is_list: false })
        })
    }

    /// Parses a document of this name in the report. It is a list if its contents are one.
    pub fn parse(file: String, bytes: &[u8]) -> Result<Document> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        // The place, which other texts for this leave out, is what helps here.
        let value = serde_json::from_str(&text).map_err(|error| unreadable(&text, &error))?;
        let Value::Object(map) = value else {
            return Err(Error::internal(format!(
                "{} is no configuration; allowed: an object",
                json::type_name(&value)
            )));
        };
        let is_list = map.contains_key("plugins");
        Ok(Document { file, text, map, is_list })
    }

    /// The network's name; empty when it is missing, or no string.
    pub fn name(&self) -> &str {
        Object::top(&self.map).string("name").unwrap_or_default()
    }

    /// Names the network unless it has a name.
    pub fn name_if_missing(&mut self, name: &str) {
        if self.map.get("name").is_none_or(|name| name == "") {
            self.map.insert("name".to_string(), name.into());
        }
    }

    /// The network as runtimes decode it.
    fn parsed(&self) -> Result<NetworkList> {
        let text = json::compact(&Value::Object(self.map.clone()).into());
        if self.is_list { NetworkList::parse(text.as_bytes()) } else { NetworkList::from_single(text.as_bytes()) }
    }

    /// The elements of a list's `plugins`.
    fn listed(&self) -> &[Value] {
        match self.map.get("plugins") {
            Some(Value::Array(plugins)) if self.is_list => plugins,
            _ => &[],
        }
    }
}

/// Why a text is no JSON, with what people often take for JSON.
fn unreadable(text: &str, error: &serde_json::Error) -> Error {
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let here = line.get(error.column().saturating_sub(1)..).unwrap_or_default();
    let hint = match text.trim_start() {
        _ if here.starts_with(['/', '#']) => "JSON has no comments",
        start if start.starts_with('\u{feff}') => "it begins with a byte order mark, which JSON does not have",
        start if start.starts_with("apiVersion:") || start.starts_with("---") => {
            "YAML is not read; kubectl get -o json prints JSON"
        }
        _ => "",
    };
    Error::internal(error.to_string()).with_details(hint)
}

/// Looks at the network of `main`; `folder` are the files in the network's folder, whose plugins follow those of the list.
pub fn look(main: &Document, folder: &[Document], host: &Host, report: &mut Report) {
    let network = Network::of(main, folder, host);
    let before = report.errors;
    for document in folder.iter().chain([main]) {
        report.file.clone_from(&document.file);
        find_repeated(document, report);
    }
    network.itself(report);
    for (number, entry) in network.entries.iter().enumerate() {
        report.file.clone_from(entry.file);
        network.entry(number, entry, report);
    }
    report.file.clone_from(&main.file);
    // Whatever has escaped all others.
    if let (true, Err(why)) = (report.errors == before, main.parsed()) {
        report.say(Level::Error, "", &[&why.to_string()]);
    }
}

/// Keys that are there twice, of which decoding has kept the last one.
fn find_repeated(document: &Document, report: &mut Report) {
    let mut seen = Map::new();
    for (path, key) in json::keys_in_order(&document.text) {
        let path = join(&path, &json::shown(&key));
        if seen.insert(path.clone(), Value::Null).is_some() {
            report.say(Level::Warning, &path, &["this key is there twice; only the last one counts"]);
        }
    }
}

struct Network<'d> {
    main: &'d Document,
    name: &'d str,
    version: String,
    entries: Vec<Entry<'d>>,
    /// What is in front of each entry.
    fronts: Vec<Front>,
    /// The first two entries, if there are two, of each combination of plugin and address management.
    kinds: Vec<(usize, Option<usize>)>,
    host: &'d Host,
}

impl<'d> Network<'d> {
    fn of(main: &'d Document, folder: &'d [Document], host: &'d Host) -> Self {
        let own = Object::top(&main.map);
        let mut entries = Vec::new();
        for (index, value) in main.listed().iter().enumerate() {
            if let Value::Object(map) = value {
                entries.push(Entry::of(&main.file, format!("plugins[{index}]"), map, host));
            }
        }
        for single in folder.iter().chain([main]).filter(|document| !document.is_list) {
            entries.push(Entry::of(&single.file, String::new(), &single.map, host));
        }
        let written = own.string("cniVersion").unwrap_or_default();
        let negotiated = main.parsed().ok().filter(|_| main.is_list);
        Network {
            main,
            name: main.name(),
            version: negotiated.map_or(written.to_string(), |list| list.cni_version),
            fronts: Front::of_all(&entries),
            kinds: kinds(&entries),
            entries,
            host,
        }
    }

    /// Name, version, and the keys of the list.
    fn itself(&self, report: &mut Report) {
        if self.main.is_list {
            let keys = Keys::of(&[LIST]);
            let elsewhere = |key: &str| self.in_plugins(key, usize::MAX);
            let mut look = Look {
                keys: &keys,
                owner: "",
                exact: true,
                foreign: false,
                elsewhere: &elsewhere,
                plugin: &|_, _, _| (),
                report: &mut *report,
            };
            look.members(&self.main.map, "", "");
        }
        for (index, value) in self.main.listed().iter().enumerate() {
            if !value.is_object() {
                let path = format!("plugins[{index}]");
                report.say(Level::Error, &path, &["not a plugin's configuration; allowed: an object"]);
            }
        }
        self.own_name(report);
        self.own_version(report);
        if self.main.is_list && self.entries.is_empty() && !self.main.map.contains_key("plugins") {
            let single = self.main.map.contains_key("type");
            let hint = if single {
                "; a single plugin's configuration belongs in a file whose name ends in .conf"
            } else {
                ""
            };
            report.say(Level::Error, "", &["no plugin configs found", hint]);
        }
    }

    fn own_name(&self, report: &mut Report) {
        let written = match self.main.is_list {
            true => self.main.map.get("name"),
            false => Object::top(&self.main.map).get("name"),
        };
        // Of any other type it has been told already.
        let is_text = written.is_none_or(|value| value.is_string() || value.is_null());
        if let (true, Err(why)) = (is_text, validate_network_name(self.name)) {
            let allowed = "allowed: a letter or digit, then letters, digits, \"_\", \".\" and \"-\"";
            report.say(Level::Error, "name", &[&why.msg, "; ", allowed]);
        }
    }

    fn own_version(&self, report: &mut Report) {
        const KEY: &str = "cniVersion";
        if self.version.is_empty() {
            report.say(Level::Note, KEY, &["missing, which means \"0.1.0\""]);
        } else if version::family(&self.version).is_none() {
            let allowed = version::ALL.join(", ");
            report.say(
                Level::Error,
                KEY,
                &["no plugin knows version ", &json::shown(&self.version), "; allowed: ", &allowed],
            );
        }
    }

    /// Where in another plugin than number `except` a key belongs.
    fn in_plugins(&self, key: &str, except: usize) -> Option<String> {
        self.kinds.iter().find_map(|(first, second)| {
            let number = if *first == except { (*second)? } else { *first };
            let entry = self.entries.get(number)?;
            let path = Keys::of(&entry.own_tables()).path_to(key)?;
            Some(format!("in the {} plugin: {}", entry.kind, join(&entry.path, &path)))
        })
    }

    fn entry(&self, number: usize, entry: &Entry<'_>, report: &mut Report) {
        let before = report.errors;
        self.keys_of(number, entry, report);
        let config = match PluginConfig::decode(entry.map.clone()) {
            Ok(config) => config,
            // Mostly it has been told already.
            Err(_) if report.errors > before => return,
            Err(why) => return report.say(Level::Error, &entry.path, &[&why.to_string()]),
        };
        if entry.is_path(report) {
            return;
        }
        entry.find_strangers(report);
        entry.find_dependents(report);
        let Some(plugin) = entry.plugin else { return };
        self.order(number, entry, plugin, report);
        self.version_of(entry, plugin, report);
        entry.find_capabilities(&config, report);
        if report.errors == before {
            self.meaning(number, entry, &config, plugin, report);
        }
    }

    /// Each key by itself.
    fn keys_of(&self, number: usize, entry: &Entry<'_>, report: &mut Report) {
        let keys = Keys::of(&entry.tables());
        let elsewhere = |key: &str| match keys.path_to(key) {
            Some(path) => Some(format!("at {}", join(&entry.path, &path))),
            None => self.in_plugins(key, number),
        };
        let plugin = |map: &Map<String, Value>, path: &str, report: &mut Report| self.delegate(map, path, report);
        let foreign = entry.plugin.is_none() && !entry.kind.is_empty();
        let owner = entry.name();
        let mut look =
            Look { keys: &keys, owner, exact: false, foreign, elsewhere: &elsewhere, plugin: &plugin, report };
        look.members(entry.map, "", &entry.path);
    }

    /// A configuration inside another one, as flannel has it: a bridge's if it does not say.
    fn delegate(&self, map: &Map<String, Value>, path: &str, report: &mut Report) {
        let kind = map.get("type").and_then(Value::as_str).unwrap_or("bridge");
        let Some(plugin) = (self.host.plugins)(kind) else { return };
        let keys = Keys::of(&[COMMON, plugin.keys()]);
        let elsewhere = |key: &str| Some(format!("at {}", join(path, &keys.path_to(key)?)));
        let mut look = Look {
            keys: &keys,
            owner: plugin.name(),
            exact: false,
            foreign: false,
            elsewhere: &elsewhere,
            plugin: &|_, _, _| (),
            report,
        };
        look.members(map, "", path);
    }

    fn version_of(&self, entry: &Entry<'_>, plugin: &dyn Plugin, report: &mut Report) {
        let wanted = version::or_default(&self.version);
        if version::family(wanted).is_some() && !plugin.versions().contains(&wanted) {
            let known = plugin.versions().join(", ");
            let text = [entry.kind, " does not know cniVersion ", wanted, "; allowed: ", &known];
            report.say(Level::Error, &entry.path, &text);
        }
    }

    /// What plugin and address management would refuse.
    fn meaning(
        &self,
        number: usize,
        entry: &Entry<'_>,
        config: &PluginConfig,
        plugin: &dyn Plugin,
        report: &mut Report,
    ) {
        // Only that there will be one is known of the result of the plugin in front.
        let told = if number > 0 { &[("prevResult", Value::Object(Map::new()))][..] } else { &[] };
        let stdin = config.stdin(self.name, &self.version, told, &Map::new());
        let Ok(config) = NetworkConfig::parse(stdin) else { return };
        let request = Request {
            verb: Verb::Add,
            container_id: "validate".to_string(),
            netns: String::new(),
            ifname: "eth0".to_string(),
            args: String::new(),
            path: String::new(),
            config,
            spares_links: false,
            host: self.host,
        };
        // Other plugins than flannel, which completes it, leave it as it is.
        let is_complete = !Keys::of(&[plugin.keys()]).below("ipam").contains(&"*") && !plugin.is_ipam();
        let judged = match entry.ipam {
            Ipam::Ours(ipam) if is_complete => ipam.validate(&request),
            _ => Ok(()),
        };
        let refused = judged.err().map(|why| why.to_string());
        if let Some(why) = &refused {
            report.say(Level::Error, &join(&entry.path, "ipam"), &[why]);
        }
        if let Err(why) = plugin.validate(&request) {
            let why = why.to_string();
            // The plugin asks address management, and hands on what that refuses.
            if !refused.is_some_and(|refused| why.ends_with(&refused)) {
                report.say(Level::Error, &entry.path, &[&why]);
            }
        }
    }
}

/// See [`Network::kinds`].
fn kinds(entries: &[Entry<'_>]) -> Vec<(usize, Option<usize>)> {
    let mut kinds: Vec<(&str, &str, usize, Option<usize>)> = Vec::new();
    for (number, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.plugin.is_some()) {
        let ipam = if let Ipam::Ours(ipam) = entry.ipam { ipam.name() } else { "" };
        match kinds.iter_mut().find(|(name, other, ..)| *name == entry.name() && *other == ipam) {
            Some((_, _, _, second)) => *second = second.or(Some(number)),
            None => kinds.push((entry.name(), ipam, number, None)),
        }
    }
    kinds.into_iter().map(|(_, _, first, second)| (first, second)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cni::keys::read;
    use crate::cni::testing::fake_plugins;

    /// The lines of tables that are read for so many plugins, each with a key that no plugin has.
    fn lines_for(plugins: usize) -> usize {
        let mut entries = vec![json!({"type": "fake", "none": 1}); plugins];
        entries.extend([json!({"type": "other"}), json!({"type": "strange", "none": 1})]);
        let text = json!({"cniVersion": "1.0.0", "name": "n", "plugins": entries}).to_string();
        let document = Document::parse("n.conflist".to_string(), text.as_bytes()).unwrap();
        let host = Host { environment: Vec::new(), plugins: fake_plugins };
        let mut report = Report::default();
        read::take();
        look(&document, &[], &host, &mut report);
        assert!(report.text.lines().count() > plugins, "{}", report.text);
        read::take()
    }

    #[test]
    fn a_look_costs_in_proportion_to_the_number_of_plugins() {
        let (few, many) = (lines_for(100), lines_for(1000));
        assert!(few > 100 && many < 11 * few, "{few} lines for 100 plugins, {many} for 1000");
    }
}
