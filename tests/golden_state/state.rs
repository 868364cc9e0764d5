//! Reads the files that a release has left (`tests/golden/state-VERSION`) and lays them into a lab.
//!
//! Placeholders stand for the facts of a lab: `{boot}` for the boot id, `{c1}` for device and inode
//! of the namespace c1, `{c1 cookie}` for these and the cookie, `{now}` for the milliseconds since
//! the boot. Random link names and hardware addresses are numbered. An index is a text, see
//! `index`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::index;
use crate::lab::{Call, Lab};

/// The facts of a lab that placeholders stand for.
pub struct Facts {
    boot_id: String,
    view: u64,
    /// Name, device with inode, inode, cookie.
    namespaces: Vec<(String, String, u64, u64)>,
}

/// Prints the SO_NETNS_COOKIE of the namespace in which it runs.
const COOKIE: &str = "
import socket
print(int.from_bytes(socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8), 'little'))";

impl Facts {
    /// Asks a lab, and these of its namespaces.
    pub fn of(lab: &Lab, names: &[&str]) -> Facts {
        let view = fs::read_link("/proc/1/ns/pid").map_or(0, |link| {
            let link = link.to_string_lossy().into_owned();
            link.trim_start_matches("pid:[").trim_end_matches(']').parse().unwrap()
        });
        let namespace = |name: &&str| {
            let identity = lab.ok(&format!("stat -L -c %d:%i /run/netns/{name}")).trim().to_string();
            let inode = identity.split_once(':').unwrap().1.parse().unwrap();
            let cookie = lab.run(&["ip", "netns", "exec", name, "python3", "-c", COOKIE]).success().stdout;
            (name.to_string(), identity, inode, cookie.trim().parse().unwrap())
        };
        let boot_id = lab.read("/proc/sys/kernel/random/boot_id");
        Facts { boot_id, view, namespaces: names.iter().map(namespace).collect() }
    }

    /// The boot id with its newline.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Inode of the PID namespace of process 1; 0 if that cannot be read.
    pub fn view(&self) -> u64 {
        self.view
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.namespaces.iter().map(|(name, ..)| name.as_str())
    }

    /// Inode and cookie of a namespace.
    pub fn namespace(&self, name: &str) -> (u64, u64) {
        let found = self.namespaces.iter().find(|(known, ..)| known == name);
        found.map(|(_, _, inode, cookie)| (*inode, *cookie)).unwrap_or_else(|| panic!("no namespace {name}"))
    }

    /// Placeholders with their values. A value that contains another one comes first.
    fn words(&self) -> Vec<(String, String)> {
        let mut words = vec![("{boot}".to_string(), self.boot_id.trim().to_string())];
        for (name, identity, _, cookie) in &self.namespaces {
            words.push((format!("{{{name} cookie}}"), format!("{identity} {cookie}")));
            words.push((format!("{{{name}}}"), identity.clone()));
        }
        words
    }

    /// Replaces placeholders by values.
    fn fill_in(&self, text: &str) -> String {
        let text = text.replace("{now}", &since_boot().to_string());
        self.words().iter().fold(text, |text, (word, value)| text.replace(word, value))
    }

    /// Replaces values by placeholders.
    pub fn take_out(&self, text: &str) -> String {
        self.words().iter().fold(text.to_string(), |text, (word, value)| text.replace(value, word))
    }
}

/// Milliseconds since the boot.
fn since_boot() -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    (uptime.split(' ').next().unwrap().parse::<f64>().unwrap() * 1000.0) as u64
}

/// A golden state.
pub struct State {
    /// Name of its folder.
    pub name: String,
    /// Paths on the host with the texts; indexes have `.txt` behind their names.
    files: BTreeMap<String, String>,
}

/// Folder of the states.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// File with the rules of the IPv4 tables, for iptables-nft-restore.
pub const RULES: &str = "/rules-v4.txt";
/// Folder of the daemon's records, which are of another host.
pub const LEASES: &str = "/run/cni-box/dhcp/";
/// Suffix of the text of an index.
pub const INDEX_TEXT: &str = ".index.txt";

/// Reads all states.
pub fn all() -> Vec<State> {
    let names = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("state-")).collect();
    names.sort();
    assert!(!names.is_empty());
    names.into_iter().map(|name| State::read(&name)).collect()
}

impl State {
    pub fn read(name: &str) -> State {
        let mut files = BTreeMap::new();
        read_below(&folder().join(name), "", &mut files);
        files.remove("/README.md");
        State { name: name.to_string(), files }
    }

    pub fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }

    /// Paths on the host of the files that plugins and cnitool have written.
    pub fn written(&self) -> Vec<String> {
        let inputs = ["/etc/", "/run/flannel/", RULES, LEASES];
        let own = self.files.keys().filter(|path| !inputs.iter().any(|input| path.starts_with(input)));
        own.map(|path| path.strip_suffix(".txt").unwrap_or(path).to_string()).collect()
    }

    /// The cached results.
    pub fn cached(&self) -> Vec<Value> {
        let cached = self.files.iter().filter(|(path, _)| path.starts_with("/var/lib/cni/results/"));
        cached.map(|(_, text)| serde_json::from_str(text).unwrap()).collect()
    }

    /// Writes the files below these paths; the indexes last, because records identify the files of
    /// reservations.
    pub fn lay(&self, lab: &Lab, facts: &Facts, below: &[&str]) {
        let wanted = |path: &str| below.iter().any(|folder| path.starts_with(folder));
        for (path, text) in self.files.iter().filter(|(path, _)| wanted(path) && !path.ends_with(INDEX_TEXT)) {
            lab.write(path, facts.fill_in(text));
        }
        for (path, text) in self.files.iter().filter(|(path, _)| wanted(path) && path.ends_with(INDEX_TEXT)) {
            let path = path.strip_suffix(".txt").unwrap();
            let network = Path::new(path).file_stem().unwrap().to_str().unwrap();
            let directory = lab.path(&format!("/var/lib/cni/networks/{network}"));
            lab.write(path, index::render(text, &directory, facts));
        }
    }

    /// Makes a host with our plugins as that release has left it: namespaces, links, rules, files.
    pub fn host(&self) -> Lab {
        const BELOW: [&str; 5] = ["/etc/", "/var/", "/run/cni/", "/run/cni-box/firewall", "/run/flannel/"];
        let lab = Lab::with_ours();
        lab.install_iptables("nft");
        let cached = self.cached();
        let names: Vec<&str> = cached.iter().map(netns_of).collect();
        names.iter().for_each(|name| drop(lab.netns(name)));
        cached.iter().for_each(|cached| connect(&lab, cached));
        Call::new(&lab, "iptables-nft-restore").stdin(&self.files[RULES]).run().success();
        self.lay(&lab, &Facts::of(&lab, &names), &BELOW);
        lab
    }
}

fn read_below(folder: &Path, name: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let entry = entry.unwrap();
        let path = format!("{name}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            read_below(&entry.path(), &path, files);
        } else {
            files.insert(path, fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// Name of the namespace of an attachment.
pub fn netns_of(cached: &Value) -> &str {
    cached["netns"].as_str().unwrap().rsplit('/').next().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// Makes the links, addresses and routes in the result of an attachment to a bridge.
fn connect(lab: &Lab, cached: &Value) {
    let (result, netns) = (&cached["result"], netns_of(cached));
    let script = [links(cached, netns), addresses(result, netns), routes(result, netns)].concat();
    lab.sh(&script).success();
}

/// Commands for the bridge and the veth pair. On the network net, tuning has set the MTU and the
/// promiscuous mode, and portmap has set route_localnet.
fn links(cached: &Value, netns: &str) -> String {
    let of_flannel = cached["networkName"] == "flan";
    let mtu = if of_flannel { 1450 } else { 1500 };
    let [(bridge, bridge_mac), (host, host_mac), (inside, inside_mac)] = [0, 1, 2].map(|place| {
        let link = &cached["result"]["interfaces"][place];
        (text(&link["name"]), text(&link["mac"]))
    });
    let (tuned, localnet) = if of_flannel { ("", 0) } else { ("mtu 1400 promisc on", 1) };
    format!(
        "ip link show {bridge} >/dev/null 2>&1 || ip link add {bridge} address {bridge_mac} mtu {mtu} type bridge
        ip link set {bridge} up; sysctl -qw net.ipv4.conf.{bridge}.route_localnet={localnet}
        ip link add {host} address {host_mac} mtu {mtu} type veth \
            peer name {inside} address {inside_mac} mtu {mtu} netns {netns}
        ip link set {host} master {bridge} up; bridge link set dev {host} hairpin on
        ip -n {netns} link set {inside} {tuned} up\n"
    )
}

/// Commands for the addresses of the container and of the bridge.
fn addresses(result: &Value, netns: &str) -> String {
    let bridge = text(&result["interfaces"][0]["name"]);
    let ips = result["ips"].as_array().unwrap().iter();
    let both = ips.map(|ip| {
        let (address, gateway) = (text(&ip["address"]), text(&ip["gateway"]));
        let length = address.split_once('/').unwrap().1;
        format!(
            "ip addr replace {gateway}/{length} dev {bridge} nodad; ip -n {netns} addr add {address} dev eth0 nodad\n"
        )
    });
    both.collect()
}

/// Commands for the routes of the container, over the gateway of the same family.
fn routes(result: &Value, netns: &str) -> String {
    let gateways: Vec<&str> = result["ips"].as_array().unwrap().iter().map(|ip| text(&ip["gateway"])).collect();
    let routes = result["routes"].as_array().unwrap().iter().map(|route| text(&route["dst"]));
    let with_gateway = routes.map(|to| {
        let gateway = gateways.iter().find(|gateway| gateway.contains(':') == to.contains(':')).unwrap();
        format!("ip -n {netns} route add {to} via {gateway}\n")
    });
    with_gateway.collect()
}
