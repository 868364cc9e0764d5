//! Every plugin, verb and version, with good input and bad, beside the reference 1.9.1: exit status, standard output to the
//! byte, and whether something was said on standard error. A difference must be a row of COMPAT.md, section "Differences
//! that the table test sees"; a row must be a difference that was seen, of each plugin that it names.

mod cases;
mod report;
mod rows;

use serde_json::{Value, json};

use crate::lab::{Call, Lab, Outcome, PLUGINS, new_reference_dir};
pub use cases::good;
use cases::{refused_by_the_plugin, refused_first, setup, version_name, versions};
use report::Report;
use rows::Place;

/// Those that make links of a kind that not every kernel has: what they make is asked in the guest.
const MAKE_RARE_LINKS: [&str; 4] = ["dummy", "ipvlan", "vlan", "vrf"];
/// No verb, and one that is none, are verbs too.
const NONE: &str = "none";
const VERBS: [&str; 8] = ["ADD", "CHECK", "STATUS", "GC", "VERSION", "FOO", NONE, "DEL"];

/// The same host twice, with the reference's plugins and with ours in the same place, and what was seen on them.
struct Pair {
    plugin: &'static str,
    hosts: [Lab; 2],
    report: Report,
    /// Whether something may be left of the calls before.
    touched: bool,
}

/// A call on one of the hosts, complete but for its input.
type Vary<'v> = &'v dyn for<'a> Fn(Call<'a>, usize) -> Call<'a>;

impl Pair {
    fn new(plugin: &'static str) -> Pair {
        let hosts = [Lab::with_plugins_of(&new_reference_dir()), Lab::with_ours()];
        Pair { plugin, hosts, report: Report::new(plugin), touched: true }
    }

    /// Both hosts as they were, and with what the plugin needs, if something was done on them.
    fn reset(&mut self) {
        if !std::mem::take(&mut self.touched) {
            return;
        }
        let (outside, inside) = setup(self.plugin);
        // Links that are named go at once, those that a namespace holds go late.
        let script = format!(
            "{{ sed -n 's/^ *\\([^:]*\\):.*/link delete \\1/p' /proc/net/dev; echo netns delete ns1; }} |
                ip -force -batch - 2>/dev/null || true
            printf '%s\n' 'netns add ns1' {outside} | ip -batch -
            printf '%s\n' {inside} | ip -n ns1 -batch -
            case {} in firewall|portmap) nft flush ruleset ;; esac
            rm -rf /var/lib/cni /run/cni /run/cni-box",
            self.plugin
        );
        for host in &self.hosts {
            host.sh(&script).success();
        }
    }

    /// One call on both hosts; what it left goes into the report.
    fn ask(&mut self, verb: &str, version: &Value, case: &str, vary: Vary<'_>) -> [Outcome; 2] {
        let answers = [0, 1].map(|side| {
            let call = Call::plugin(&self.hosts[side], PLUGINS, self.plugin).verb(verb);
            let call = if verb == NONE { call.without("CNI_COMMAND") } else { call };
            vary(call, side).run()
        });
        self.touched |= verb == "ADD" && answers.iter().any(|answer| !refused(answer));
        let version = version_name(version);
        let place = Place { plugin: self.plugin, version: &version, verb, case };
        self.report.compare(place, &answers);
        answers
    }

    /// A container from ADD to DEL, and all other verbs in between, with good input.
    fn life(&mut self, version: &Value) {
        self.reset();
        let config = good(self.plugin, version);
        let added = self.ask("ADD", version, "good", &|call, _| call.config(&config));
        let later = added.map(|outcome| with_result(config.clone(), &outcome));
        for verb in &VERBS[1..] {
            self.ask(verb, version, "good", &|call, side| call.config(&later[side]));
        }
        self.ask("DEL", version, "again", &|call, side| call.config(&later[side]));
    }

    /// What can be asked of a plugin that has made nothing.
    fn without_a_link(&mut self, version: &Value) {
        self.reset();
        let config = with_attachments(good(self.plugin, version));
        for verb in verbs_of_bad_input(self.plugin, false).chain(["VERSION", NONE]) {
            self.ask(verb, version, "nothing added", &|call, _| call.config(&config));
        }
    }

    fn bad_input(&mut self) {
        let newest = json!(cases::NEWEST);
        let config = with_attachments(good(self.plugin, &newest));
        let (first, later) = (refused_first(), refused_by_the_plugin(self.plugin));
        let bad = first.iter().map(|bad| (bad, verbs_of_bad_input(self.plugin, true)));
        let bad = bad.chain(later.iter().map(|bad| (bad, verbs_of_bad_input(self.plugin, false))));
        for (bad, verbs) in bad {
            self.reset();
            for verb in verbs {
                self.ask(verb, &newest, bad.name, &|call, _| bad.apply(call, &config));
            }
        }
    }
}

/// Those that read what they are given. Of a plugin with rare links, what it does with links is asked in the guest; vrf's
/// STATUS makes one.
fn verbs_of_bad_input(plugin: &str, refused_first: bool) -> impl Iterator<Item = &'static str> {
    let rare = MAKE_RARE_LINKS.contains(&plugin) && !refused_first;
    let without = match plugin {
        "vrf" if rare => &["ADD", "CHECK", "STATUS"][..],
        "vrf" => &["STATUS"],
        _ if rare => &["ADD", "CHECK"],
        _ => &[],
    };
    VERBS.into_iter().filter(move |verb| !["VERSION", NONE].contains(verb) && !without.contains(verb))
}

/// Whether nothing was done, as the code says.
fn refused(answer: &Outcome) -> bool {
    let object: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
    answer.code == Some(1) && [1, 4, 6, 7].map(Value::from).contains(&object["code"])
}

/// What a runtime hands to the verbs after ADD.
fn with_result(mut config: Value, added: &Outcome) -> Value {
    if let (Some(0), Ok(result)) = (added.code, serde_json::from_str(&added.stdout)) {
        config["prevResult"] = result;
    }
    with_attachments(config)
}

/// Nothing is garbage.
fn with_attachments(mut config: Value) -> Value {
    config["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
    config
}

fn compare_here(plugin: &'static str) {
    let mut pair = Pair::new(plugin);
    for version in versions() {
        if MAKE_RARE_LINKS.contains(&plugin) { pair.without_a_link(&version) } else { pair.life(&version) }
    }
    pair.bad_input();
    pair.report.judge();
}

/// For the guest, whose kernel has all links.
pub fn compare_what_is_made(plugin: &'static str, versions: &[&str]) {
    let mut pair = Pair::new(plugin);
    for version in versions {
        pair.life(&json!(version));
    }
    pair.report.judge();
}

macro_rules! tests {
    ($($name:ident: $plugin:literal)*) => {
        /// All that the reference has.
        pub const ALL: [&str; 18] = [$($plugin),*];
        $(
            #[test]
            fn $name() {
                compare_here($plugin);
            }
        )*
    };
}

tests! {
    newer_bandwidth: "bandwidth"
    newer_bridge: "bridge"
    newer_dhcp: "dhcp"
    newer_dummy: "dummy"
    newer_firewall: "firewall"
    newer_host_device: "host-device"
    newer_host_local: "host-local"
    newer_ipvlan: "ipvlan"
    newer_loopback: "loopback"
    newer_macvlan: "macvlan"
    newer_portmap: "portmap"
    newer_ptp: "ptp"
    newer_sbr: "sbr"
    newer_static: "static"
    newer_tap: "tap"
    newer_tuning: "tuning"
    newer_vlan: "vlan"
    newer_vrf: "vrf"
}
