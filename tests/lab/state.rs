//! Reading what the kernel and the disk hold, through Debian's tools.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::Lab;

/// Text of the whole host, one line a fact, for "before == after".
#[derive(PartialEq, Eq, Clone)]
pub struct Snapshot(Vec<String>);

impl Snapshot {
    /// Panics with the lines that differ.
    pub fn assert_same(&self, after: &Snapshot) {
        let only = |these: &[String], those: &[String]| {
            these.iter().filter(|line| !those.contains(line)).fold(String::new(), |mut text, line| {
                writeln!(text, "    {line}").unwrap();
                text
            })
        };
        assert!(self == after, "gone:\n{}new:\n{}", only(&self.0, &after.0), only(&after.0, &self.0));
    }

    /// The facts, sorted.
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// Drops the lines that are noise.
    pub fn without(mut self, is_noise: impl Fn(&str) -> bool) -> Snapshot {
        self.0.retain(|line| !is_noise(line));
        self
    }

    /// The same facts after a change of every line, sorted again.
    pub fn map(self, change: impl Fn(&str) -> String) -> Snapshot {
        let mut lines: Vec<_> = self.0.iter().map(|line| change(line)).collect();
        lines.sort();
        Snapshot(lines)
    }
}

impl Lab {
    /// Output of `ip -j …` on the host.
    pub fn ip(&self, words: &str) -> Value {
        let text = self.ok(&format!("ip -d -j {words}"));
        if text.trim().is_empty() { Value::Array(Vec::new()) } else { serde_json::from_str(&text).unwrap() }
    }

    /// The one link of this name on the host; null when there is none.
    pub fn link(&self, name: &str) -> Value {
        let links = self.ip("link show");
        links.as_array().unwrap().iter().find(|link| link["ifname"] == name).cloned().unwrap_or(Value::Null)
    }

    /// The one link of this name in a namespace; null when there is none.
    pub fn link_in(&self, netns: &str, name: &str) -> Value {
        let links = self.ip(&format!("-n {netns} link show"));
        links.as_array().unwrap().iter().find(|link| link["ifname"] == name).cloned().unwrap_or(Value::Null)
    }

    /// Names of the links on the host whose name starts with `veth`.
    pub fn veths(&self) -> Vec<String> {
        let links = self.ip("link show");
        let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_string());
        names.filter(|name| name.starts_with("veth")).collect()
    }

    /// `address/length` of a link, without link-local ones; `netns` empty is the host.
    pub fn addresses(&self, netns: &str, link: &str) -> Vec<String> {
        let place = if netns.is_empty() { String::new() } else { format!("-n {netns} ") };
        let links = self.ip(&format!("{place}addr show"));
        let link = links.as_array().unwrap().iter().find(|one| one["ifname"] == link).cloned().unwrap_or_default();
        addresses_of(&link)
    }

    /// Routes of a table as `ip` prints them, one a line and trimmed; `netns` empty is the host.
    pub fn routes(&self, netns: &str, family: &str) -> Vec<String> {
        let place = if netns.is_empty() { String::new() } else { format!("-n {netns} ") };
        let text = self.ok(&format!("ip {place}{family} route show"));
        text.lines().map(|line| line.trim().to_string()).filter(|line| !line.starts_with("fe80::")).collect()
    }

    /// Addresses reserved by host-local for a network, sorted.
    pub fn reserved(&self, network: &str) -> Vec<String> {
        let names = self.list(&format!("/var/lib/cni/networks/{network}"));
        names.into_iter().filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
    }

    /// Lists the files that our plugins keep below /run until DEL or GC, sorted.
    pub fn kept_files(&self) -> Vec<String> {
        let found = self.sh("find /run/cni /run/cni-box -type f 2>/dev/null | sort").stdout;
        found.lines().map(str::to_string).collect()
    }

    /// Lines of `iptables-save` and its sisters that are rules or chains of ours.
    pub fn rules(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for reader in ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"] {
            let text = self.ok(reader);
            let rules = text.lines().filter(|line| line.starts_with("-A ") || line.starts_with(":CNI-"));
            lines.extend(rules.map(|line| format!("{reader} {line}")));
        }
        lines
    }

    /// Makes `iptables` and `ip6tables` the flavour `nft` or `legacy`, as update-alternatives would.
    pub fn install_iptables(&self, flavour: &str) {
        for name in ["iptables", "ip6tables"] {
            self.ok(&format!("ln -sf /usr/sbin/{name}-{flavour} /etc/alternatives/{name}"));
        }
    }

    /// Everything a plugin could leave: links, addresses, routes, rules, kernel switches, files.
    pub fn snapshot(&self) -> Snapshot {
        let links = self.ip("addr show");
        let mut lines: Vec<String> = links.as_array().unwrap().iter().flat_map(link_lines).collect();
        for family in ["-4", "-6"] {
            let routes = self.ok(&format!("ip {family} route show table all"));
            // IPv6 gets its local routes only when duplicate address detection is done; the addresses are listed anyway.
            let late = |line: &str| family == "-6" && line.contains("table local");
            let noise = |line: &str| line.contains("fe80::") || line.starts_with("multicast") || late(line);
            let own = routes.lines().filter(|line| !noise(line));
            lines.extend(own.map(|line| format!("route {}", line.replace(" linkdown", "").trim())));
        }
        lines.extend(self.rules());
        lines.extend(self.nft_lines());
        self.file_lines(&self.path("/var/lib/cni"), "", &mut lines);
        lines.sort();
        Snapshot(lines)
    }

    /// Rules of nf_tables that no iptables reader shows. Empty base chains are no trace: the reference leaves them.
    fn nft_lines(&self) -> Vec<String> {
        let text = self.ok("nft list ruleset");
        let scaffold = |line: &str| {
            line.is_empty() || line == "}" || line.starts_with("type ") || line.starts_with('#') || line.ends_with('{')
        };
        let lines = text.lines().map(str::trim).filter(|line| !scaffold(line));
        lines.map(|line| format!("nft {}", without_counters(line))).collect()
    }

    /// Files below a folder with their content. The lock, the round-robin pointer and our index of a folder stay by
    /// design.
    fn file_lines(&self, folder: &Path, name: &str, lines: &mut Vec<String>) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries.map(Result::unwrap) {
            let file = entry.file_name().into_string().unwrap();
            let full = format!("{name}/{file}");
            if entry.file_type().unwrap().is_dir() {
                self.file_lines(&entry.path(), &full, lines);
            } else if !is_bookkeeping(&full) {
                let content = String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned();
                lines.push(format!("file {full} {content:?}"));
            }
        }
    }
}

/// `address/length` of those that are not link-local; `link` is what `ip -j addr show` says of one.
fn addresses_of(link: &Value) -> Vec<String> {
    let addresses = link["addr_info"].as_array().cloned().unwrap_or_default();
    let global = addresses.iter().filter(|address| address["scope"] != "link");
    global.map(|address| format!("{}/{}", address["local"].as_str().unwrap(), address["prefixlen"])).collect()
}

fn link_lines(link: &Value) -> Vec<String> {
    let text = |key: &str| link[key].as_str().unwrap_or("-").to_string();
    let up = link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP");
    let (name, mac, master) = (text("ifname"), text("address"), text("master"));
    let own = format!("link {name} mac {mac} mtu {} master {master} up {up}", link["mtu"]);
    let addresses = addresses_of(link).into_iter().map(|address| format!("address {name} {address}"));
    std::iter::once(own).chain(addresses).collect()
}

/// Files that outlive every reservation.
fn is_bookkeeping(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap();
    let index = name.contains("/.cni-box/") && file.ends_with(".index");
    file == "lock" || file.starts_with("last_reserved_ip.") || index
}

/// An nft rule with the figures of its counter taken out: traffic is no change.
fn without_counters(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let figure = |at: usize| at > 0 && matches!(words[at - 1], "packets" | "bytes");
    words.iter().enumerate().filter(|(at, _)| !figure(*at)).map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
}

/// Replaces MAC addresses and random veth names by fixed words, so that two runs can be compared.
pub fn without_random_names(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = mac_length(rest).or_else(|| veth_length(rest));
        out.push_str(match length {
            Some(17) => "MAC",
            Some(_) => "VETH",
            None => &rest[..first.len_utf8()],
        });
        rest = &rest[length.unwrap_or(first.len_utf8())..];
    }
    out
}

/// Replaces MAC addresses and random veth names by numbered ones, in the order in which they
/// appear; `met` keeps them from one text to the next.
pub fn number_random_names(text: &str, met: &mut Vec<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let random = mac_length(rest).or_else(|| veth_length(rest));
        let (name, after) = rest.split_at(random.unwrap_or(first.len_utf8()));
        if random.is_some() && !met.iter().any(|known| known == name) {
            met.push(name.to_string());
        }
        let number = met.iter().position(|known| known == name).unwrap_or_default();
        match random {
            Some(17) => write!(out, "02:00:00:00:00:{number:02x}").unwrap(),
            Some(_) => write!(out, "veth{number:08x}").unwrap(),
            None => out.push(first),
        }
        rest = after;
    }
    out
}

fn mac_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes().get(..17)?;
    let fits = |(index, byte): (usize, &u8)| if index % 3 == 2 { *byte == b':' } else { byte.is_ascii_hexdigit() };
    (bytes.iter().enumerate().all(fits)).then_some(17)
}

fn veth_length(text: &str) -> Option<usize> {
    let digits = text.strip_prefix("veth")?.as_bytes().get(..8)?;
    digits.iter().all(u8::is_ascii_hexdigit).then_some(12)
}
