//! Looking at the configuration of a network without doing anything: the kernel is not asked, and no file read but it. What the keys
//! may be, the plugins' tables say (`keys`); what they mean together, the plugins' own decoding.

mod entry;
mod order;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use entry::{Entry, Ipam};
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

impl Document {
    /// Reads and parses a file. It is a list if its name ends so, or tells nothing and the contents are one.
    pub fn read(path: &Path) -> Result<Document> {
        let text = String::from_utf8_lossy(&conflist_files::read(path)?).into_owned();
        let has = |endings: &[&str]| conflist_files::has_extension(path.as_os_str().as_bytes(), endings);
        // The place, which other texts for this leave out, is what helps here.
        let value = serde_json::from_str(&text).map_err(|error| Error::internal(error.to_string()))?;
        let Value::Object(map) = value else {
            return Err(Error::internal(format!(
                "{} is no configuration; allowed: an object",
                json::type_name(&value)
            )));
        };
        let is_list = has(&LISTS) || (!has(&SINGLES) && map.contains_key("plugins"));
        Ok(Document { file: path.display().to_string(), text, map, is_list })
    }

    /// The elements of a list's `plugins`.
    fn listed(&self) -> &[Value] {
        match self.map.get("plugins") {
            Some(Value::Array(plugins)) if self.is_list => plugins,
            _ => &[],
        }
    }
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
    if let (true, Err(why)) = (report.errors == before, network.parsed()) {
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
        let negotiated = NetworkList::parse(main.text.as_bytes()).ok().filter(|_| main.is_list);
        Network {
            main,
            name: own.string("name").unwrap_or_default(),
            version: negotiated.map_or(written.to_string(), |list| list.cni_version),
            entries,
            host,
        }
    }

    /// What runtimes do with the whole of it.
    fn parsed(&self) -> Result<()> {
        let text = self.main.text.as_bytes();
        let list = if self.main.is_list { NetworkList::parse(text) } else { NetworkList::from_single(text) };
        list.map(drop)
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
        for (number, entry) in self.entries.iter().enumerate() {
            if let (true, Some(path)) = (number != except, Keys::of(&entry.own_tables()).path_to(key)) {
                return Some(format!("in the {} plugin: {}", entry.kind, join(&entry.path, &path)));
            }
        }
        None
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
        entry.find_strangers(report);
        let Some(plugin) = entry.plugin else { return };
        self.order(number, entry, plugin, report);
        self.version_of(entry, plugin, report);
        entry.find_capabilities(&config, report);
        if report.errors == before {
            self.meaning(entry, &config, plugin, report);
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
    fn meaning(&self, entry: &Entry<'_>, config: &PluginConfig, plugin: &dyn Plugin, report: &mut Report) {
        let stdin = config.stdin(self.name, &self.version, &[], &Map::new());
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
        let mut judge = |plugin: &dyn Plugin, path: &str| {
            if let Err(why) = plugin.validate(&request) {
                report.say(Level::Error, path, &[&why.to_string()]);
            }
        };
        judge(plugin, &entry.path);
        // Other plugins than flannel, which completes it, leave it as it is.
        let is_complete = !Keys::of(&[plugin.keys()]).below("ipam").contains(&"*") && !plugin.is_ipam();
        match entry.ipam {
            Ipam::Ours(ipam) if is_complete => judge(ipam, &join(&entry.path, "ipam")),
            _ => {}
        }
    }
}
