//! Looking at the configuration of a network without doing anything: the kernel is not asked, and no file read but it. What the keys
//! may be, the plugins' tables say (`keys`); what they mean together, the plugins' own decoding.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Map, Value};

use crate::cni::config::{NetworkConfig, Object};
use crate::cni::conflist::NetworkList;
use crate::cni::conflist_files::{self, LISTS, SINGLES};
use crate::cni::environment::{Verb, validate_network_name};
use crate::cni::json::{self, join};
use crate::cni::keys::{COMMON, Finding, Keys, LIST, Level, Look};
use crate::cni::plugin::{Host, Plugin, Position, Request};
use crate::cni::plugin_config::PluginConfig;
use crate::cni::version;
use crate::error::{Error, Result};

/// For a plugin that is not ours, which may have what keys it likes.
const FOREIGN: &str = "ipam.type: string\nipam.*: any\n*: any\n";
/// An address management plugin that is not ours.
const FOREIGN_IPAM: &str = "ipam.*: any\n";

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
}

/// A file's name and something about it.
pub type Report = Vec<(String, Finding)>;

/// Looks at the network of `main`; `folder` are the files in the network's folder, whose plugins follow those of the list.
pub fn look(main: &Document, folder: &[Document], host: &Host) -> Report {
    let network = Network::of(main, folder, host);
    let mut report = Report::new();
    for document in [main].into_iter().chain(folder) {
        report.extend(repeated(document).into_iter().map(|finding| (document.file.clone(), finding)));
    }
    report.extend(network.itself().into_iter().map(|finding| (main.file.clone(), finding)));
    for (number, entry) in network.entries.iter().enumerate() {
        let findings = network.entry(number, entry);
        report.extend(findings.into_iter().map(|finding| (entry.file.clone(), finding)));
    }
    // Whatever has escaped all others.
    if let (false, Err(error)) = (report.iter().any(|(_, finding)| finding.level == Level::Error), network.parsed()) {
        report.push((main.file.clone(), Finding { level: Level::Error, path: String::new(), text: error.to_string() }));
    }
    report
}

/// Keys that are there twice, of which decoding has kept the last one.
fn repeated(document: &Document) -> Vec<Finding> {
    let mut keys = json::keys_in_order(&document.text);
    keys.sort_unstable();
    let mut twice: Vec<_> = keys
        .windows(2)
        .filter_map(|pair| if let [one, other] = pair { (one == other).then_some(one) } else { None })
        .collect();
    twice.dedup();
    let finding = |(path, key): &(String, String)| {
        finding(Level::Warning, &join(path, &json::shown(key)), "this key is there twice; only the last one counts")
    };
    twice.into_iter().map(finding).collect()
}

fn finding(level: Level, path: &str, text: impl Into<String>) -> Finding {
    Finding { level, path: path.to_string(), text: text.into() }
}

/// One plugin of a network.
struct Entry<'d> {
    file: String,
    /// In the file.
    path: String,
    map: &'d Map<String, Value>,
    /// `type`; empty when it is missing.
    kind: &'d str,
    /// Ours of this type.
    plugin: Option<&'static dyn Plugin>,
    ipam: Ipam<'d>,
}

/// `ipam.type` of a plugin.
enum Ipam<'d> {
    None,
    Ours(&'static dyn Plugin),
    Foreign(&'d str),
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
        let listed = main.map.get("plugins").and_then(Value::as_array).filter(|_| main.is_list).into_iter().flatten();
        let listed =
            listed.enumerate().filter_map(|(index, value)| Some((format!("plugins[{index}]"), value.as_object()?)));
        let single = (!main.is_list).then(|| (String::new(), &main.map));
        let inlined = listed.chain(single).map(|(path, map)| Entry::of(&main.file, path, map, host));
        let further = folder.iter().map(|document| Entry::of(&document.file, String::new(), &document.map, host));
        let written = own.string("cniVersion").unwrap_or_default();
        let negotiated = NetworkList::parse(main.text.as_bytes()).ok().filter(|_| main.is_list);
        Network {
            main,
            name: own.string("name").unwrap_or_default(),
            version: negotiated.map_or(written.to_string(), |list| list.cni_version),
            entries: inlined.chain(further).collect(),
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
    fn itself(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.main.is_list {
            let keys = Keys::of(&[LIST]);
            let elsewhere = |key: &str| self.in_plugins(key, usize::MAX);
            let mut look = Look {
                keys: &keys,
                exact: true,
                elsewhere: &elsewhere,
                plugin: &|_, _, _| (),
                findings: &mut findings,
            };
            look.members(&self.main.map, "", "");
            let plugins = self.main.map.get("plugins").and_then(Value::as_array).into_iter().flatten().enumerate();
            let others = plugins.filter(|(_, value)| !value.is_object());
            findings.extend(others.map(|(index, _)| {
                finding(Level::Error, &format!("plugins[{index}]"), "not a plugin's configuration; allowed: an object")
            }));
        }
        if let (Some(Value::String(_)), Err(why)) =
            (Object::top(&self.main.map).get("name"), validate_network_name(self.name))
        {
            let allowed = "allowed: a letter or digit, then letters, digits, \"_\", \".\" and \"-\"";
            findings.push(finding(Level::Error, "name", format!("{}; {allowed}", why.msg)));
        }
        findings.extend(self.own_version());
        findings
    }

    fn own_version(&self) -> Option<Finding> {
        if self.version.is_empty() {
            return Some(finding(Level::Note, "cniVersion", "missing, which means \"0.1.0\""));
        }
        if version::family(&self.version).is_some() {
            return None;
        }
        let allowed = version::ALL.join(", ");
        Some(finding(
            Level::Error,
            "cniVersion",
            format!("no plugin knows version {:?}; allowed: {allowed}", self.version),
        ))
    }

    /// Where in another plugin than number `except` a key belongs.
    fn in_plugins(&self, key: &str, except: usize) -> Option<String> {
        let mut others = self.entries.iter().enumerate().filter(|(number, _)| *number != except);
        others.find_map(|(_, entry)| {
            let path = Keys::of(&entry.own_tables()).path_to(key)?;
            Some(format!("in the {} plugin: {}", entry.kind, join(&entry.path, &path)))
        })
    }

    fn entry(&self, number: usize, entry: &Entry<'_>) -> Vec<Finding> {
        let mut findings = self.keys_of(number, entry);
        let decoded = PluginConfig::decode(entry.map.clone());
        if let (false, Err(why)) = (has_error(&findings), &decoded) {
            findings.push(finding(Level::Error, &entry.path, why.to_string()));
        }
        entry.find_strangers(&mut findings);
        if let (Ok(config), Some(plugin)) = (&decoded, entry.plugin) {
            findings.extend(self.order(number, entry, plugin));
            findings.extend(self.version_of(entry, plugin));
            entry.find_capabilities(config, plugin, &mut findings);
            if !has_error(&findings) {
                findings.extend(self.meaning(entry, config, plugin));
            }
        }
        findings
    }

    /// Each key by itself.
    fn keys_of(&self, number: usize, entry: &Entry<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let keys = Keys::of(&entry.tables());
        let elsewhere = |key: &str| match keys.path_to(key) {
            Some(path) => Some(format!("at {}", join(&entry.path, &path))),
            None => self.in_plugins(key, number),
        };
        let plugin = |map: &Map<String, Value>, path: &str, findings: &mut Vec<Finding>| {
            self.delegate(map, path, findings);
        };
        let mut look =
            Look { keys: &keys, exact: false, elsewhere: &elsewhere, plugin: &plugin, findings: &mut findings };
        look.members(entry.map, "", &entry.path);
        findings
    }

    /// A configuration inside another one, as flannel has it: a bridge's if it does not say.
    fn delegate(&self, map: &Map<String, Value>, path: &str, findings: &mut Vec<Finding>) {
        let kind = map.get("type").and_then(Value::as_str).unwrap_or("bridge");
        let Some(plugin) = (self.host.plugins)(kind) else { return };
        let keys = Keys::of(&[COMMON, plugin.keys()]);
        let elsewhere = |key: &str| Some(format!("at {}", join(path, &keys.path_to(key)?)));
        Look { keys: &keys, exact: false, elsewhere: &elsewhere, plugin: &|_, _, _| (), findings }
            .members(map, "", path);
    }

    /// The plugin is where plugins of its kind usually are.
    fn order(&self, number: usize, entry: &Entry<'_>, plugin: &dyn Plugin) -> Option<Finding> {
        let kind = entry.kind;
        match (plugin.position(), number) {
            _ if plugin.is_ipam() => {
                let text = format!(
                    "{kind} manages addresses: it belongs in the \"ipam\" of the plugin that makes the interface"
                );
                Some(finding(Level::Warning, &entry.path, text))
            }
            (Position::Behind, 0) => {
                let text = format!("{kind} works on the result of a plugin in front of it, and there is none");
                Some(finding(Level::Error, &entry.path, text))
            }
            (Position::First, 1..) => {
                let text = format!("{kind} makes an interface: usually it is the first plugin");
                Some(finding(Level::Warning, &entry.path, text))
            }
            _ => None,
        }
    }

    fn version_of(&self, entry: &Entry<'_>, plugin: &dyn Plugin) -> Option<Finding> {
        let wanted = version::or_default(&self.version);
        let known = version::family(wanted).is_some() && !plugin.versions().contains(&wanted);
        let text =
            || format!("{} does not know cniVersion {wanted:?}; allowed: {}", entry.kind, plugin.versions().join(", "));
        known.then(|| finding(Level::Error, &entry.path, text()))
    }

    /// What plugin and address management would refuse.
    fn meaning(&self, entry: &Entry<'_>, config: &PluginConfig, plugin: &dyn Plugin) -> Vec<Finding> {
        let stdin = config.stdin(self.name, &self.version, None, &Map::new());
        let Ok(config) = NetworkConfig::parse(stdin) else { return Vec::new() };
        let request = Request {
            verb: Verb::Add,
            container_id: "validate".to_string(),
            netns: String::new(),
            ifname: "eth0".to_string(),
            args: String::new(),
            path: String::new(),
            config,
            host: self.host,
        };
        let mut findings = Vec::new();
        let mut judge = |plugin: &dyn Plugin, path: &str| {
            let refused = plugin.validate(&request).err();
            findings.extend(refused.map(|why| finding(Level::Error, path, why.to_string())));
        };
        judge(plugin, &entry.path);
        match entry.ipam {
            // Other plugins than flannel, which completes it, leave it as it is.
            Ipam::Ours(ipam)
                if !plugin.is_ipam() && !Keys::of(&[plugin.keys()]).below("ipam").any(|name| name == "*") =>
            {
                judge(ipam, &join(&entry.path, "ipam"));
            }
            _ => {}
        }
        findings
    }
}

fn has_error(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level == Level::Error)
}

impl<'d> Entry<'d> {
    fn of(file: &str, path: String, map: &'d Map<String, Value>, host: &Host) -> Self {
        let top = Object::top(map);
        let kind = top.string("type").unwrap_or_default();
        let plugin = (host.plugins)(kind);
        let ipam = top.object("ipam").ok().flatten().map_or("", |ipam| ipam.string("type").unwrap_or_default());
        let takes_ipam = plugin.is_none_or(|plugin| Keys::of(&[plugin.keys()]).below("ipam").next().is_some());
        let ipam = match (host.plugins)(ipam) {
            _ if ipam.is_empty() || !takes_ipam => Ipam::None,
            Some(found) => Ipam::Ours(found),
            None => Ipam::Foreign(ipam),
        };
        Entry { file: file.to_string(), path, map, kind, plugin, ipam }
    }

    /// Without what all have.
    fn own_tables(&self) -> Vec<&'static str> {
        let ipam = match self.ipam {
            Ipam::Ours(ipam) => ipam.keys(),
            Ipam::None | Ipam::Foreign(_) => "",
        };
        vec![self.plugin.map_or("", |plugin| plugin.keys()), ipam]
    }

    fn tables(&self) -> Vec<&'static str> {
        let mut tables = self.own_tables();
        tables.push(COMMON);
        tables.extend(matches!(self.ipam, Ipam::Foreign(_)).then_some(FOREIGN_IPAM));
        tables.extend(self.plugin.is_none().then_some(FOREIGN));
        tables
    }

    /// Plugins that are not ours, or not for this.
    fn find_strangers(&self, findings: &mut Vec<Finding>) {
        if self.plugin.is_none() && !self.kind.is_empty() {
            let text =
                format!("{:?} is no plugin of cni-box: only the keys that all plugins have were checked", self.kind);
            findings.push(finding(Level::Note, &join(&self.path, "type"), text));
        }
        let path = join(&self.path, "ipam.type");
        match self.ipam {
            Ipam::Foreign(kind) => {
                let text = format!("{kind:?} is no plugin of cni-box: the keys of \"ipam\" were not checked");
                findings.push(finding(Level::Note, &path, text));
            }
            Ipam::Ours(ipam) if !ipam.is_ipam() => {
                let text = format!("{} does not manage addresses; allowed: host-local, static, dhcp", ipam.name());
                findings.push(finding(Level::Error, &path, text));
            }
            _ => {}
        }
    }

    /// Capabilities are a promise to runtimes that the plugin does something with what they supply.
    fn find_capabilities(&self, config: &PluginConfig, plugin: &dyn Plugin, findings: &mut Vec<Finding>) {
        /// The plugin that does nothing without its capability.
        const NEEDS: (&str, &str) = ("portmap", "portMappings");
        let path = join(&self.path, "capabilities");
        let keys = Keys::of(&self.own_tables());
        let mut known: Vec<&str> = keys.below("runtimeConfig").collect();
        let is_known = |key: &&String| known.iter().any(|name| *name == "*" || name.eq_ignore_ascii_case(key));
        let unknown: Vec<&String> = config.capabilities.iter().filter(|key| !is_known(key)).collect();
        let (kind, needed) = NEEDS;
        let supplied = Object::top(self.map).object("runtimeConfig").ok().flatten().is_some_and(|all| all.has(needed));
        if plugin.name() == kind && !supplied && !config.capabilities.iter().any(|key| key == needed) {
            let text =
                format!("{kind} does nothing without \"{needed}\": true, because runtimes then tell it no ports");
            findings.push(finding(Level::Warning, &path, text));
        }
        known.dedup();
        let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
        findings.extend(unknown.iter().map(|key| {
            let text = format!("{} does nothing with this capability; allowed: {known}", self.kind);
            finding(Level::Warning, &join(&path, &json::shown(key)), text)
        }));
    }
}
