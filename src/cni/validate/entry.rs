//! One plugin of a network: which tables tell its keys, and what it says about other plugins and runtimes.

use serde_json::{Map, Value};

use crate::cni::config::Object;
use crate::cni::delegate;
use crate::cni::json::{self, join};
use crate::cni::keys::{COMMON, Keys};
use crate::cni::names::own_name;
use crate::cni::plugin::{Dependents, Host, Plugin};
use crate::cni::plugin_config::PluginConfig;
use crate::cni::report::{Level, Report};

/// For a plugin that is not ours, which may have what keys it likes.
const FOREIGN: &str = "ipam.type: string\nipam.*: any\n*: any\n";
/// In front of an address management plugin stands, usually, another one that says this.
const IPAM: &str = "ipam.type: string\n";
/// An address management plugin that is not ours.
const FOREIGN_IPAM: &str = "ipam.*: any\n";

/// One plugin of a network.
pub(super) struct Entry<'d> {
    pub(super) file: &'d String,
    /// In the file.
    pub(super) path: String,
    pub(super) map: &'d Map<String, Value>,
    /// `type`; empty when it is missing.
    pub(super) kind: &'d str,
    /// Ours of this type.
    pub(super) plugin: Option<&'static dyn Plugin>,
    pub(super) ipam: Ipam<'d>,
}

/// `ipam.type` of a plugin.
pub(super) enum Ipam<'d> {
    None,
    Ours(&'static dyn Plugin),
    Foreign(&'d str),
}

impl<'d> Entry<'d> {
    pub(super) fn of(file: &'d String, path: String, map: &'d Map<String, Value>, host: &Host) -> Self {
        let top = Object::top(map);
        let kind = top.string("type").unwrap_or_default();
        let plugin = (host.plugins)(kind);
        let ipam = top.object("ipam").ok().flatten().map_or("", |ipam| ipam.string("type").unwrap_or_default());
        let takes_ipam = plugin.is_none_or(|plugin| !Keys::of(&[plugin.keys()]).below("ipam").is_empty());
        let ipam = match (host.plugins)(ipam) {
            _ if ipam.is_empty() || !takes_ipam => Ipam::None,
            Some(found) => Ipam::Ours(found),
            None => Ipam::Foreign(ipam),
        };
        Entry { file, path, map, kind, plugin, ipam }
    }

    /// The plugin's own name.
    pub(super) fn name(&self) -> &'d str {
        own_name(self.kind)
    }

    /// True if each ADD makes the container's interface, or fails.
    pub(super) fn makes_interface(&self) -> bool {
        self.plugin.is_some_and(|plugin| plugin.makes_interface(&Object::top(self.map)))
    }

    /// True for loopback, which only sets `lo` up.
    pub(super) fn is_loopback(&self) -> bool {
        self.name() == "loopback"
    }

    /// Without what all have.
    pub(super) fn own_tables(&self) -> Vec<&'static str> {
        let ipam = match self.ipam {
            Ipam::Ours(ipam) if ipam.is_ipam() => ipam.keys(),
            _ => "",
        };
        vec![self.plugin.map_or("", |plugin| plugin.keys()), ipam]
    }

    /// With what all have, and what has to be let pass.
    pub(super) fn tables(&self) -> Vec<&'static str> {
        let mut tables = self.own_tables();
        tables.push(COMMON);
        if self.plugin.is_some_and(|plugin| plugin.is_ipam()) {
            tables.push(IPAM);
        }
        match self.ipam {
            Ipam::Ours(ipam) if ipam.is_ipam() => {}
            Ipam::None => {}
            _ => tables.push(FOREIGN_IPAM),
        }
        if self.plugin.is_none() {
            tables.push(FOREIGN);
        }
        tables
    }

    /// True, and reported, if the name of a plugin is a path.
    pub(super) fn is_path(&self, report: &mut Report) -> bool {
        let before = report.errors;
        let ipam = if let Ipam::Foreign(kind) = self.ipam { kind } else { "" };
        for (kind, place) in [(self.kind, "type"), (ipam, "ipam.type")] {
            if let Err(why) = delegate::verify_name(kind) {
                report.say(Level::Error, &join(&self.path, place), &[&why.to_string()]);
            }
        }
        report.errors > before
    }

    /// Keys that need another one, which is missing.
    pub(super) fn find_dependents(&self, report: &mut Report) {
        let ipam = if let Ipam::Ours(ipam) = self.ipam { Some(ipam) } else { None };
        for Dependents { object, keys, needed, instead } in
            self.plugin.into_iter().chain(ipam).flat_map(Plugin::dependents)
        {
            let Ok(Some(found)) = Object::top(self.map).object(object) else { continue };
            for key in keys.iter().filter(|key| found.has(key) && !found.has(needed)) {
                let place = join(&self.path, object);
                let text = format!("has no effect without \"{needed}\"; it belongs at {place}.{instead}.{key}");
                report.say(Level::Warning, &join(&place, key), &[&text]);
            }
        }
    }

    /// Plugins that are not ours, or not for this.
    pub(super) fn find_strangers(&self, report: &mut Report) {
        const STRANGE: &str = " is no plugin of cni-box: ";
        if self.plugin.is_none() && !self.kind.is_empty() {
            let text = [&json::shown(self.kind), STRANGE, "only the keys that all plugins have were checked"];
            report.say(Level::Note, &join(&self.path, "type"), &text);
        }
        let path = join(&self.path, "ipam.type");
        match self.ipam {
            Ipam::Foreign(kind) => {
                let text = [&json::shown(kind), STRANGE, "the keys of \"ipam\" were not checked"];
                report.say(Level::Note, &path, &text);
            }
            Ipam::Ours(ipam) if !ipam.is_ipam() => {
                let text = [ipam.name(), " does not manage addresses; allowed: host-local, static, dhcp"];
                report.say(Level::Error, &path, &text);
            }
            _ => {}
        }
    }

    /// Capabilities are a promise to runtimes that the plugin does something with what they supply.
    pub(super) fn find_capabilities(&self, config: &PluginConfig, report: &mut Report) {
        let path = join(&self.path, "capabilities");
        let known = Keys::of(&self.own_tables()).below("runtimeConfig");
        let is_known = |key: &str| known.iter().any(|name| *name == "*" || name.eq_ignore_ascii_case(key));
        for key in config.capabilities.iter().filter(|key| !is_known(key)) {
            let hint = match (Keys::of(&self.own_tables()).path_to(key), known.as_slice()) {
                (Some(elsewhere), _) => format!("it belongs at {}", join(&self.path, &elsewhere)),
                (None, []) => "allowed: none".to_string(),
                (None, known) => format!("allowed: {}", known.join(", ")),
            };
            let text = [self.kind, " does nothing with this capability; ", &hint];
            report.say(Level::Warning, &join(&path, &json::shown(key)), &text);
        }
        // The plugin that does nothing without its capability.
        const NEEDED: &str = "portMappings";
        let supplied = Object::top(self.map).object("runtimeConfig").ok().flatten().is_some_and(|all| all.has(NEEDED));
        if self.name() == "portmap" && !supplied && !config.capabilities.iter().any(|key| key == NEEDED) {
            let text = "portmap does nothing without \"portMappings\": true, because runtimes then tell it no ports";
            report.say(Level::Warning, &path, &[text]);
        }
    }
}
