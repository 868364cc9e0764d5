//! What the table test asks every plugin: good configurations, what they need on the host, and bad inputs.

use serde_json::{Value, json};

use crate::lab::{Call, merged};

/// The versions of the configuration; null: none is named.
pub fn versions() -> Vec<Value> {
    let named = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "0.5.0", "9.9.9"];
    std::iter::once(Value::Null).chain(named.map(Value::from)).collect()
}

/// The configuration of bad calls has this version: all verbs are known to it.
pub const NEWEST: &str = "1.1.0";

/// A version as COMPAT.md calls it.
pub fn version_name(version: &Value) -> String {
    version.as_str().unwrap_or("absent").to_string()
}

/// Where plugins find links, and what they find on them: quoted lines for `ip -batch`, on the host and in the container.
pub fn setup(plugin: &str) -> (&'static str, &'static str) {
    match plugin {
        "bandwidth" | "firewall" | "portmap" | "sbr" | "tuning" | "vrf" => (
            "'link add host0 address 02:00:00:00:00:01 type veth peer name eth0 netns ns1 address 02:00:00:00:00:02' \
            'link set host0 up'",
            "'link set eth0 up' 'address add 10.1.2.3/24 dev eth0'",
        ),
        "host-device" | "ipvlan" | "macvlan" | "vlan" => (
            "'link add m0 address 02:00:00:00:00:03 type veth peer name m1 address 02:00:00:00:00:04' \
            'link set m0 up' 'link set m1 up'",
            "''",
        ),
        _ => ("''", "''"),
    }
}

fn fixed_ipam() -> Value {
    json!({"type": "static", "addresses": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}]})
}

/// What every plugin accepts: the least that makes it do its work.
pub fn good(plugin: &str, version: &Value) -> Value {
    let own = match plugin {
        "bandwidth" => json!({"ingressRate": 1_000_000, "ingressBurst": 1_000_000}),
        "bridge" => json!({"bridge": "cni0", "ipam": fixed_ipam()}),
        "dhcp" => json!({"ipam": {"type": "dhcp"}}),
        "host-device" => json!({"device": "m0", "ipam": fixed_ipam()}),
        "host-local" => json!({"ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}}),
        "ipvlan" | "macvlan" => json!({"master": "m0", "ipam": fixed_ipam()}),
        "vlan" => json!({"master": "m0", "vlanId": 5, "ipam": fixed_ipam()}),
        "portmap" => {
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}})
        }
        "tuning" => json!({"mtu": 1400}),
        "vrf" => json!({"vrfname": "blue"}),
        "firewall" | "loopback" | "sbr" => json!({}),
        _ => json!({"ipam": fixed_ipam()}),
    };
    let mut config = merged(json!({"name": "net", "type": plugin, "cniVersion": version}), &own);
    if is_chained(plugin) {
        config["prevResult"] = previous(version);
    }
    config
}

pub fn is_chained(plugin: &str) -> bool {
    ["bandwidth", "firewall", "portmap", "sbr", "tuning", "vrf"].contains(&plugin)
}

/// The result of an interface plugin before a chained one, in the words of the version.
fn previous(version: &Value) -> Value {
    if matches!(version.as_str(), None | Some("0.1.0" | "0.2.0")) {
        return json!({"ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1"}});
    }
    let interfaces = json!([{"name": "host0", "mac": "02:00:00:00:00:01"},
        {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/var/run/netns/ns1"}]);
    let mut address = json!({"address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 1});
    if !matches!(version.as_str(), Some("1.0.0" | "1.1.0")) {
        address["version"] = json!("4");
    }
    json!({"interfaces": interfaces, "ips": [address], "cniVersion": version})
}

/// One bad input: its name, and what becomes of a good call and its configuration.
pub struct Bad {
    pub name: &'static str,
    change: Change,
}

enum Change {
    Stdin(&'static str),
    Config(Value),
    Without(&'static str),
    Variable(&'static str, &'static str),
}

impl Bad {
    pub fn apply<'a>(&self, call: Call<'a>, config: &Value) -> Call<'a> {
        match &self.change {
            Change::Stdin(text) => call.stdin(text),
            Change::Config(changes) => call.config(&merged(config.clone(), changes)),
            Change::Without(name) => call.config(config).without(name),
            Change::Variable(name, value) => call.config(config).env(name, value),
        }
    }
}

/// What is refused before a plugin sees it.
pub fn refused_first() -> Vec<Bad> {
    let table = [
        ("empty stdin", Change::Stdin("")),
        ("half a document", Change::Stdin(r#"{"cniVersion": "1.1.0", "name": "#)),
        ("no JSON", Change::Stdin("name = net")),
        ("a list", Change::Stdin("[]")),
        ("null", Change::Stdin("null")),
        ("two documents", Change::Stdin(r#"{"cniVersion": "1.1.0", "name": "net"} {}"#)),
        ("no name", Change::Config(json!({"name": null}))),
        ("bad name", Change::Config(json!({"name": "a b"}))),
        ("name of a wrong type", Change::Config(json!({"name": 5}))),
        ("version of a wrong type", Change::Config(json!({"cniVersion": 5}))),
        ("bad version", Change::Config(json!({"cniVersion": "x"}))),
        ("no container", Change::Without("CNI_CONTAINERID")),
        ("bad container", Change::Variable("CNI_CONTAINERID", "a/b")),
        ("no namespace", Change::Without("CNI_NETNS")),
        ("no interface", Change::Without("CNI_IFNAME")),
        ("bad interface", Change::Variable("CNI_IFNAME", "a/b")),
        ("long interface", Change::Variable("CNI_IFNAME", "0123456789abcdef")),
        ("no path", Change::Without("CNI_PATH")),
    ];
    table.into_iter().map(|(name, change)| Bad { name, change }).collect()
}

/// What the plugins themselves have to judge, where it can be bad for this one.
pub fn refused_by_the_plugin(plugin: &str) -> Vec<Bad> {
    let table = [
        ("namespace that is gone", Change::Variable("CNI_NETNS", "/var/run/netns/gone")),
        ("bad arguments", Change::Variable("CNI_ARGS", "nonsense")),
        ("dns of a wrong type", Change::Config(json!({"dns": 5}))),
        ("prevResult of a wrong type", Change::Config(json!({"prevResult": 5}))),
    ];
    let chained = [
        ("no prevResult", Change::Config(json!({"prevResult": null}))),
        ("prevResult without addresses", Change::Config(json!({"prevResult": {"interfaces": null, "ips": null}}))),
    ];
    let delegating = [
        ("no ipam", Change::Config(json!({"ipam": null}))),
        ("ipam of a wrong type", Change::Config(json!({"ipam": 5}))),
        ("ipam without a type", Change::Config(json!({"ipam": {"type": null}}))),
        ("unknown ipam", Change::Config(json!({"ipam": {"type": "nosuch"}}))),
    ];
    let mut found: Vec<_> = table.into();
    if is_chained(plugin) {
        found.extend(chained);
    } else if plugin != "loopback" {
        found.extend(delegating);
    }
    found.into_iter().map(|(name, change)| Bad { name, change }).collect()
}

/// Names of all cases.
pub fn names() -> Vec<String> {
    let good = ["good", "again", "nothing added"];
    let bad = [refused_first(), refused_by_the_plugin("bridge"), refused_by_the_plugin("sbr")];
    good.into_iter().chain(bad.iter().flatten().map(|bad| bad.name)).map(str::to_string).collect()
}
