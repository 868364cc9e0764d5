//! Compares the golden state of the previous release with the files that its program writes. With
//! `CNI_TEST_WRITE_GOLDEN` set, writes the golden state first: see CONTRIBUTING.md, "A release".

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;

use super::{Previous, install, lab_with};
use crate::dhcp::Network;
use crate::flannel::{DUAL, SUBNET_FILE};
use crate::gc_command::write_list;
use crate::golden_state::index::text_of;
use crate::golden_state::state::{Facts, INDEX_TEXT, RULES, State, folder};
use crate::lab::{Lab, number_random_names};

/// Folders to capture.
const FOLDERS: &str = "/etc/cni/net.d /run/flannel /var/lib/cni /run/cni /run/cni-box";

/// Configures a network of all plugins that keep files, and one of flannel. The tests of
/// `golden_state` count on these networks and on the containers of [`attach`].
fn write_lists(lab: &Lab) {
    write_list(
        lab,
        "net",
        &json!([
            {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/29"}]]}},
            {"type": "portmap", "backend": "iptables", "capabilities": {"portMappings": true}},
            {"type": "firewall"},
            {"type": "tuning", "mtu": 1400, "promisc": true}]),
    );
    let flannel =
        json!({"type": "flannel", "delegate": {"bridge": "cni1", "isDefaultGateway": true, "hairpinMode": true}});
    write_list(lab, "flan", &json!([flannel]));
    lab.write(SUBNET_FILE, DUAL);
}

/// Attaches c1 and c2 to net and c4 to flan, and c3 to net for a while.
fn attach(lab: &Lab) {
    lab.sh("for name in c1 c2 c3 c4; do ip netns add $name; done").success();
    for (number, (network, netns)) in [("net", "c1"), ("net", "c2"), ("net", "c3"), ("flan", "c4")].iter().enumerate() {
        let ports = json!({"portMappings": [{"hostPort": 8001 + number, "containerPort": 80, "protocol": "tcp"}]});
        let path = format!("/var/run/netns/{netns}");
        lab.cnitool(&["add", network, &path]).env("CAP_ARGS", &ports.to_string()).run().result();
    }
    lab.cnitool(&["del", "net", "/var/run/netns/c3"]).run().success();
}

/// Reads the files, with placeholders for the facts of the lab.
fn captured(lab: &Lab, facts: &Facts, names: &mut Vec<String>) -> BTreeMap<String, String> {
    let found = lab.sh(&format!("find {FOLDERS} -type f 2>/dev/null | sort || true")).success().stdout;
    let mut files = BTreeMap::new();
    for path in found.lines().filter(|path| !path.ends_with(".sock")) {
        match path.strip_suffix(".index") {
            Some(stem) => {
                let directory = lab.path(&stem.replace("/.cni-box", ""));
                files.insert(format!("{stem}{INDEX_TEXT}"), text_of(&lab.path(path), &directory, facts));
            }
            None => {
                let text = facts.take_out(&lab.read(path));
                files.insert(path.to_string(), without_the_time(&number_random_names(&text, names)));
            }
        }
    }
    files
}

/// Replaces the time at which a lease was obtained.
fn without_the_time(text: &str) -> String {
    const KEY: &str = "\"dhcpObtained\":";
    let Some((before, after)) = text.split_once(KEY) else { return text.to_string() };
    format!("{before}{KEY}{{now}}{}", after.trim_start_matches(|letter: char| letter.is_ascii_digit()))
}

/// Saves the rules without dates and counters.
fn rules(lab: &Lab, tool: &str) -> String {
    let text = lab.ok(tool);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let plain = lines.map(|line| if line.starts_with(':') { line.split(" [").next().unwrap() } else { line });
    plain.map(|line| format!("{line}\n")).collect()
}

fn made_by_the_previous_release() -> BTreeMap<String, String> {
    let lab = lab_with(Previous);
    lab.install_iptables("nft");
    write_lists(&lab);
    attach(&lab);
    let mut files = captured(&lab, &Facts::of(&lab, &["c1", "c2", "c4"]), &mut Vec::new());
    assert!(!rules(&lab, "ip6tables-nft-save").contains("-A "), "there is a place for IPv4 rules only");
    files.insert(RULES.to_string(), rules(&lab, "iptables-nft-save"));
    files.append(&mut lease());
    files
}

/// Makes the record of a lease, on a host of its own.
fn lease() -> BTreeMap<String, String> {
    let mut network = Network::new();
    network.start_dnsmasq("10.1.2.7,10.1.2.7", &[]);
    network.lab.ok("ip -n lan link set lan0 address 02:00:00:00:00:fe");
    install(&network.lab, Previous);
    network.start_daemon(&[]);
    network.containers(1..2);
    network.lab.ok("ip -n ns1 link set eth0 address 02:00:00:00:00:01");
    network.call(1).run().result();
    captured(&network.lab, &Facts::of(&network.lab, &["ns1"]), &mut Vec::new())
}

/// Name of the state, with the version in scripts/previous-release.txt.
fn name() -> String {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/previous-release.txt");
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
    format!("state-{}", line.split_whitespace().next().unwrap())
}

fn write(files: &BTreeMap<String, String>) {
    for (path, text) in files {
        let file = folder().join(name()).join(&path[1..]);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn the_golden_state_is_what_that_release_writes() {
    let files = made_by_the_previous_release();
    if std::env::var_os("CNI_TEST_WRITE_GOLDEN").is_some() {
        write(&files);
    }
    let golden = State::read(&name());
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&files), names(golden.files()));
    for (path, text) in &files {
        // Versions of iptables differ in the order of tables.
        let lines = |text: &str| if path == RULES { sorted(text) } else { text.to_string() };
        assert_eq!(lines(text), lines(&golden.files()[path]), "{path}");
    }
}
