//! The applets, one file (or folder) each, and the table of them. An applet speaks to `cni`, `ipam`, `net` and `firewall`,
//! never to the layers below and never to another applet: it calls other plugins as any plugin does, by name.

pub mod bandwidth;
pub mod bridge;
pub mod cnitool;
pub mod dhcp;
pub mod dummy;
pub mod firewall;
pub mod flannel;
pub mod host_device;
pub mod host_local;
pub mod ipvlan;
pub mod loopback;
pub mod macvlan;
pub mod portmap;
pub mod ptp;
pub mod sbr;
pub mod static_ipam;
pub mod tap;
pub mod tuning;
pub mod vlan;
pub mod vrf;

use crate::cni::names::own_name;
use crate::cni::serve::Answer;
use crate::cni::{Host, Plugin};

/// A name that the binary answers to.
pub struct Applet {
    /// The name, as in CNI_PATH and on the command line.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
}

/// The two kinds of applet.
pub enum Kind {
    /// Called by runtimes, through environment and standard input.
    Plugin(&'static dyn Plugin),
    /// Called by people, with arguments (without the program's name).
    Tool(fn(&[String], &Host) -> Answer),
    /// A plugin that also runs as a daemon: with `daemon` as its first argument; the function gets the others and says
    /// what is left to print, and the exit status.
    Daemon(&'static dyn Plugin, fn(&[String], &Host) -> (Answer, u8)),
}

/// All applets, sorted by name.
pub const APPLETS: &[Applet] = &[
    plugin("bandwidth", &bandwidth::BANDWIDTH),
    plugin("bridge", &bridge::BRIDGE),
    Applet { name: "cnitool", kind: Kind::Tool(cnitool::run) },
    Applet { name: "dhcp", kind: Kind::Daemon(&dhcp::DHCP, dhcp::run) },
    plugin("dummy", &dummy::DUMMY),
    plugin("firewall", &firewall::FIREWALL),
    plugin("flannel", &flannel::FLANNEL),
    plugin("host-device", &host_device::HOST_DEVICE),
    plugin("host-local", &host_local::HOST_LOCAL),
    plugin("ipvlan", &ipvlan::IPVLAN),
    plugin("loopback", &loopback::LOOPBACK),
    plugin("macvlan", &macvlan::MACVLAN),
    plugin("portmap", &portmap::PORTMAP),
    plugin("ptp", &ptp::PTP),
    plugin("sbr", &sbr::SBR),
    plugin("static", &static_ipam::STATIC),
    plugin("tap", &tap::TAP),
    plugin("tuning", &tuning::TUNING),
    plugin("vlan", &vlan::VLAN),
    plugin("vrf", &vrf::VRF),
];

const fn plugin(name: &'static str, plugin: &'static dyn Plugin) -> Applet {
    Applet { name, kind: Kind::Plugin(plugin) }
}

/// The files in this folder, from build.rs.
const FILES: &[&str] = include!(concat!(env!("OUT_DIR"), "/applet_files.rs"));

/// File and table must agree, or the program does not compile.
const _: () = {
    assert!(FILES.len() == APPLETS.len(), "src/applets and the APPLETS table differ in number");
    let mut row = 0;
    while row < FILES.len() {
        #[allow(clippy::indexing_slicing)] // Evaluated by the compiler; `row` is in range of both.
        let same = same_text(FILES[row], APPLETS[row].name);
        assert!(same, "src/applets and the sorted APPLETS table differ");
        row += 1;
    }
};

const fn same_text(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    if a.len() != b.len() {
        return false;
    }
    while at < a.len() {
        #[allow(clippy::indexing_slicing)] // Evaluated by the compiler; `at` is in range of both.
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Finds the applet for a file name, a word of the command line or a `type`.
pub fn find(written: &str) -> Option<&'static Applet> {
    let name = own_name(written);
    APPLETS.iter().find(|applet| applet.name == name)
}

/// Finds the plugin for a file name or a `type`.
pub fn find_plugin(name: &str) -> Option<&'static dyn Plugin> {
    match find(name)?.kind {
        Kind::Plugin(plugin) | Kind::Daemon(plugin, _) => Some(plugin),
        Kind::Tool(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Map, Value, json};

    use super::*;
    use crate::cni::config::asked;
    use crate::cni::keys::COMMON;
    use crate::cni::{NetworkConfig, Request, Verb};

    #[test]
    fn plugins_call_themselves_what_the_table_calls_them() {
        assert!(APPLETS.is_sorted_by_key(|applet| applet.name));
        for applet in APPLETS {
            if let Some(plugin) = find_plugin(applet.name) {
                assert_eq!(plugin.name(), applet.name);
            }
        }
    }

    /// The lines of a plugin's table, groups written out.
    fn lines(table: &str) -> Vec<(String, String)> {
        let all: Vec<(&str, &str)> =
            [table, COMMON].iter().flat_map(|table| table.lines()).map(|line| line.split_once(": ").unwrap()).collect();
        let mut lines = Vec::new();
        for (path, kind) in table.lines().map(|line| line.split_once(": ").unwrap()) {
            match kind.starts_with('@') {
                true => {
                    let group = all.iter().filter_map(|(member, kinds)| Some((member.strip_prefix(kind)?, kinds)));
                    lines.extend(group.map(|(member, kinds)| (format!("{path}{member}"), kinds.to_string())));
                }
                false if !path.starts_with('@') => lines.push((path.to_string(), kind.to_string())),
                false => {}
            }
        }
        lines
    }

    fn example(kinds: &str) -> Value {
        match kinds.trim_start_matches('?').split('|').next().unwrap() {
            "string" | "any" => json!("x"),
            "bool" => json!(true),
            "ip" => json!("10.0.0.1"),
            "cidr" => json!("10.0.0.0/24"),
            "mac" => json!("02:00:00:00:00:01"),
            "plugin" => json!({}),
            kind => match kind.split_once("..") {
                Some((least, _)) => json!(least.parse::<i64>().unwrap() + 1),
                None => json!(kind),
            },
        }
    }

    /// Puts a value at a path of a table.
    fn put(document: &mut Value, path: &str, value: Value) {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let (name, lists) = first.split_once("[]").map_or((first, 0), |(name, more)| (name, 1 + more.len() / 2));
        let name = if name == "*" { "net.x" } else { name };
        let mut place = document.as_object_mut().unwrap().entry(name).or_insert(Value::Null);
        for _ in 0..lists {
            if place.is_null() {
                *place = json!([null]);
            }
            place = &mut place[0];
        }
        if rest.is_empty() {
            *place = value;
            return;
        }
        if place.is_null() {
            *place = json!({});
        }
        put(place, rest, value);
    }

    /// The keys that a plugin asks for in this configuration, in the spelling of tables.
    fn asked_in(plugin: &dyn Plugin, config: &Value) -> BTreeSet<String> {
        // Its delegate asks for keys of its own.
        let is_flannel = plugin.name() == "flannel";
        let plugins = if is_flannel { |_: &str| None } else { find_plugin };
        let host = Host { environment: Vec::new(), plugins };
        asked::take();
        let request = Request {
            verb: Verb::Add,
            container_id: "c".into(),
            netns: "/nonexistent".into(),
            ifname: "eth0".into(),
            args: String::new(),
            path: String::new(),
            config: NetworkConfig::parse(config.to_string().into_bytes()).unwrap(),
            spares_links: false,
            host: &host,
        };
        let _ = plugin.validate(&request);
        asked::take().iter().map(|path| path.replace("[0]", "[]")).collect()
    }

    /// Nearly: what stands for all of a list or an object is asked for as a whole.
    fn whole(path: &str) -> &str {
        path.trim_end_matches(".*").trim_end_matches("[]")
    }

    /// A plugin's decoding asks for each key of its table, and for no other. Some keys keep others from being asked for, so
    /// there is a configuration with each alone.
    #[test]
    fn the_tables_of_keys_are_what_is_decoded() {
        for plugin in APPLETS.iter().filter_map(|applet| find_plugin(applet.name)) {
            let (name, mut lines) = (plugin.name(), lines(plugin.keys()));
            let base = json!({"cniVersion": "1.0.0", "name": "n", "type": name});
            let mut configs = vec![base.clone(), base.clone()];
            put(&mut configs[1], "ipam", Value::Object(Map::new()));
            for (path, kinds) in &lines {
                put(&mut configs[0], path, example(kinds));
                let mut alone = base.clone();
                put(&mut alone, path, example(kinds));
                configs.push(alone);
            }
            let asked: BTreeSet<String> = configs.iter().flat_map(|config| asked_in(plugin, config)).collect();
            // It decodes a copy of `ipam`, whose type it only hands on.
            let is_flannels =
                |path: &str| name == "flannel" && (path.starts_with("ipam.") || path.starts_with("routes"));
            // It is asked for when the other plugin is looked for.
            lines.retain(|(path, _)| path != "ipam.type");
            let unasked: Vec<_> =
                lines.iter().filter(|(path, _)| !asked.contains(whole(path)) && !is_flannels(path)).collect();
            assert!(unasked.is_empty(), "{name} never asks for {unasked:?}");
            let common = super::tests::lines(COMMON);
            let is_known = |path: &&String| {
                let leads = |known: &str| {
                    known.strip_prefix(path.as_str()).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
                };
                let by_capability = path.starts_with("capabilities.");
                by_capability || is_flannels(path) || lines.iter().chain(&common).any(|(known, _)| leads(known))
            };
            let unknown: Vec<_> = asked
                .iter()
                .filter(|path| !is_known(path) && !["ipam", "ipam.type"].contains(&path.as_str()))
                .collect();
            assert!(unknown.is_empty(), "{name} asks for {unknown:?}, which its table lacks");
        }
    }
}
