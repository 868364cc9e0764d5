//! `cni-box gc`: what it takes for dead, what it removes, and what it never touches.
//!
//! Namespaces have names that no other test's have: the command looks at the mounts of all processes of the machine.

use serde_json::{Value, json};

use crate::bridge::reaches;
use crate::gc_safety::keeps;
use crate::host_local_life::reboot;
use crate::kills::{changing_calls, kill_at};
use crate::lab::{Background, Call, Lab, Outcome, binary, bridge_config, host_local_config, merged, wait_for};

pub const PORTS: &str = r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
    "bandwidth": {"ingressRate": 1000000, "ingressBurst": 1000000, "egressRate": 1000000, "egressBurst": 1000000}}"#;

pub fn gc<'a>(lab: &'a Lab, words: &[&str]) -> Call<'a> {
    let words: Vec<&str> = ["gc"].iter().chain(words).copied().collect();
    Call::new(lab, &binary()).args_list(&words)
}

/// Runs it; what it has printed.
pub fn collect(lab: &Lab, words: &[&str]) -> String {
    let outcome = gc(lab, words).run().success();
    assert_eq!(outcome.stderr, "", "{outcome:?}");
    outcome.stdout
}

/// Runs it and sees so many attachments removed, as soon as the kernel has let go of their namespaces.
pub fn removes(lab: &Lab, words: &[&str], count: usize) -> String {
    let words_of = |verb: &str| format!("\n{count} attachment{} {verb}\n", if count == 1 { "" } else { "s" });
    let dry: Vec<&str> = ["--dry-run"].iter().chain(words).copied().collect();
    wait_for("the namespaces are gone", || {
        gc(lab, &dry).run().success().stdout.ends_with(&words_of("would be removed"))
    });
    let told = collect(lab, words);
    assert!(told.ends_with(&words_of("removed")), "{told}");
    told
}

/// A namespace whose name is used nowhere else on this machine; its path as runtimes write it.
pub fn netns(lab: &Lab, name: &str) -> String {
    lab.netns(&format!("gc{}-{name}", lab.pid()))
}

pub fn leave(lab: &Lab, path: &str) {
    lab.ok(&format!("ip netns del {}", name_of(path)));
}

/// Makes all processes of the machine ones that can be looked at: where the tests are root without all capabilities, the
/// first one is not.
pub fn all_in_sight(lab: &Lab) {
    lab.ok("mount -t tmpfs none /proc/1");
}

/// Everything there is, with the times and inodes of files.
fn everything(lab: &Lab) -> (crate::lab::Snapshot, String) {
    let files =
        "find /var/lib/cni /run/cni /run/cni-box /run/lab -printf '%p %i %s %T@ %C@ %m\\n' 2>/dev/null | sort || true
        find /var/lib/cni /run/cni-box -type f -exec sha256sum {} + 2>/dev/null | sort || true
        cat /proc/net/ip_tables_names /proc/net/ip6_tables_names";
    (lab.snapshot(), lab.sh(files).stdout)
}

pub fn write_list(lab: &Lab, name: &str, plugins: &Value) {
    let list = json!({"cniVersion": "1.0.0", "name": name, "plugins": plugins});
    lab.write(&format!("/etc/cni/net.d/{name}.conflist"), list.to_string());
}

/// A network on a bridge of its own with all that leaves something on the host.
pub fn full(number: u8) -> Value {
    let subnet = format!("10.1.{number}.0/24");
    json!([{"type": "bridge", "bridge": format!("cni{number}"), "isGateway": true, "ipMasq": true,
            "ipam": {"type": "host-local", "subnet": subnet, "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "tuning", "mtu": 1400},
        {"type": "firewall"}])
}

pub fn simple(number: u8) -> Value {
    json!([{"type": "bridge", "bridge": format!("cni{number}"), "isGateway": true, "ipMasq": true,
            "ipam": {"type": "host-local", "subnet": format!("10.1.{number}.0/24")}}])
}

pub fn add(lab: &Lab, network: &str, path: &str, capabilities: &str) -> Value {
    lab.cnitool(&["add", network, path]).env("CAP_ARGS", capabilities).run().result()
}

pub fn pings(lab: &Lab, path: &str, address: &str) {
    reaches(lab, name_of(path), address);
}

pub fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

pub fn cached(lab: &Lab) -> Vec<String> {
    lab.list("/var/lib/cni/results")
}

pub fn container(lab: &Lab, path: &str) -> String {
    let sum = lab.sh(&format!("printf %s {path} | sha512sum")).success().stdout;
    format!("cnitool-{}", &sum[..20])
}

#[test]
pub fn what_a_namespace_has_left_is_told_and_removed_and_others_live_on() {
    for flavour in ["nft", "legacy"] {
        let lab = Lab::new();
        lab.install_iptables(flavour);
        write_list(&lab, "net", &full(2));
        let stays = netns(&lab, "stays");
        add(&lab, "net", &stays, "{}");
        let goes = netns(&lab, "goes");
        // What all port mappings share stays.
        add(&lab, "net", &goes, PORTS);
        lab.cnitool(&["del", "net", &goes]).run().success();
        let before = lab.snapshot();
        add(&lab, "net", &goes, PORTS);
        let id = container(&lab, &goes);
        assert_eq!(collect(&lab, &[]), "nothing to do\n");
        leave(&lab, &goes);
        wait_for("the namespace is gone", || {
            lab.veths().len() == 1 && collect(&lab, &["--dry-run"]) != "nothing to do\n"
        });
        let there = everything(&lab);
        let told = collect(&lab, &["--dry-run"]);
        assert!(everything(&lab).1 == there.1, "a dry run changes nothing: {}\n{}", there.1, everything(&lab).1);
        there.0.assert_same(&everything(&lab).0);
        let (first, rest) = told.split_once('\n').unwrap();
        assert_eq!(first, format!("would remove net {id} eth0: namespace {goes} is gone"));
        for line in [
            format!("  result cache /var/lib/cni/results/net-{id}-eth0\n"),
            "  address 10.1.2.4 (/var/lib/cni/networks/net/10.1.2.4)\n".to_string(),
            "  masquerade rules\n".to_string(),
            "  port mappings CNI-DN-".to_string(),
            "  ifb bwp".to_string(),
            "  firewall rules of 10.1.2.4\n".to_string(),
            format!("  saved settings /run/cni/tuning/{id}_eth0.json\n"),
        ] {
            assert!(rest.contains(&line), "{line} is not in {rest}");
        }
        assert!(rest.ends_with("\n1 attachment would be removed\n"), "{rest}");
        let pinging = Pinging::begin(&lab, &stays);
        let done = collect(&lab, &[]);
        let as_told = told.replace("would remove ", "").replace("would be removed", "removed");
        assert_eq!(done, as_told, "it does what it has told");
        pinging.has_lost_nothing();
        before.assert_same(&lab.snapshot());
        assert_eq!(lab.list("/run/cni/tuning"), [".cni-box", &format!("{}_eth0.json", container(&lab, &stays))]);
        assert_eq!(lab.list("/run/cni-box/firewall"), ["10.1.2.2"]);
        let after = everything(&lab);
        assert_eq!(collect(&lab, &[]), "nothing to do\n");
        after.0.assert_same(&everything(&lab).0);
    }
}

/// A container that sends a packet to its gateway every 20 ms.
struct Pinging<'a> {
    lab: &'a Lab,
    process: Background,
}

impl<'a> Pinging<'a> {
    fn begin(lab: &'a Lab, path: &str) -> Self {
        let script = format!("exec ip netns exec {} ping -n -i 0.02 10.1.2.1 > /run/lab/pings", name_of(path));
        let pinging = Pinging { lab, process: Call::new(lab, "sh").args_list(&["-c", &script]).spawn() };
        wait_for("the first answer", || !pinging.answers().is_empty());
        pinging
    }

    fn answers(&self) -> Vec<usize> {
        let text = if self.lab.exists("/run/lab/pings") { self.lab.read("/run/lab/pings") } else { String::new() };
        let numbers = text.split("icmp_seq=").skip(1).filter(|rest| rest.contains(" ms"));
        numbers.map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect()
    }

    fn has_lost_nothing(self) {
        let before = self.answers().len();
        wait_for("an answer after all", || self.answers().len() > before + 1);
        let answers = self.answers();
        assert_eq!(answers, (1..=answers.len()).collect::<Vec<_>>());
        self.process.kill();
    }
}

#[test]
pub fn of_thirty_containers_the_ten_that_died_are_removed() {
    let lab = Lab::new();
    write_list(&lab, "net", &simple(2));
    let paths: Vec<String> = (0..30).map(|number| netns(&lab, &format!("c{number}"))).collect();
    for path in &paths {
        add(&lab, "net", path, "{}");
    }
    let (dead, alive): (Vec<_>, Vec<_>) = paths.iter().enumerate().partition(|(number, _)| number % 3 == 0);
    for (_, path) in &dead {
        leave(&lab, path);
    }
    let told = removes(&lab, &[], 10);
    for (_, path) in dead {
        assert!(told.contains(&format!("net {} eth0: namespace {path} is gone\n", container(&lab, path))), "{told}");
    }
    assert_eq!((cached(&lab).len(), lab.reserved("net").len(), lab.veths().len()), (20, 20, 20));
    for (_, path) in alive {
        pings(&lab, path, "10.1.2.1");
        lab.cnitool(&["check", "net", path]).run().success();
    }
    assert_eq!(collect(&lab, &[]), "nothing to do\n");
}

#[test]
pub fn another_networks_attachments_stay_when_one_is_named() {
    let lab = Lab::new();
    for (number, name) in [(2, "a"), (3, "a-b")] {
        write_list(&lab, name, &simple(number));
        let path = netns(&lab, name);
        add(&lab, name, &path, "{}");
        leave(&lab, &path);
    }
    wait_for("the pairs have gone", || lab.veths().is_empty());
    let before = (cached(&lab), lab.reserved("a"), lab.rules());
    removes(&lab, &["a-b"], 1);
    assert_eq!(lab.reserved("a-b"), [""; 0]);
    assert_eq!(lab.reserved("a"), before.1);
    assert_eq!(cached(&lab).len(), 1);
    assert_eq!(collect(&lab, &["a-b"]), "nothing to do\n");
    removes(&lab, &["a"], 1);
    assert_eq!((cached(&lab).len(), lab.reserved("a").len()), (0, 0));
}

/// The kernel's state outlives the boot that is played here, which makes the path lead to another namespace, as it were.
#[test]
fn an_attachment_of_an_earlier_boot_goes_and_whoever_is_at_its_path_by_now_stays() {
    let lab = Lab::new();
    write_list(&lab, "net", &simple(2));
    let path = netns(&lab, "x");
    add(&lab, "net", &path, "{}");
    lab.sh(&format!("ip netns del {0}; ip netns add {0}", name_of(&path))).success();
    let own = Call::new(&lab, "ip").args_list(&["-n", name_of(&path), "link", "add", "eth0", "type", "veth"]);
    own.run().success();
    reboot(&lab, 2);
    let told = removes(&lab, &[], 1);
    assert!(told.starts_with(&format!("net {} eth0: its boot has ended\n", container(&lab, &path))), "{told}");
    assert_eq!((cached(&lab).len(), lab.reserved("net").len()), (0, 0));
    assert_eq!(lab.link_in(name_of(&path), "eth0")["ifname"], "eth0");
    add(&lab, "net", &netns(&lab, "y"), "{}");
    assert_eq!(collect(&lab, &[]), "nothing to do\n");
}

#[test]
fn reservations_are_released_without_a_configuration_and_wherever_one_leads() {
    let lab = Lab::new();
    let elsewhere = json!([{"type": "bridge", "bridge": "cni3",
        "ipam": {"type": "host-local", "subnet": "10.1.3.0/24", "dataDir": "/var/lib/other"}}]);
    write_list(&lab, "there", &elsewhere);
    let path = netns(&lab, "x");
    let direct = |config: &Value, id: &str| {
        lab.plugin("bridge").config(config).container(id).netns(&path).ifname(id).run().result();
    };
    direct(&bridge_config(&json!({})), "c1");
    let there = json!({"name": "there", "bridge": "cni3",
        "ipam": {"subnet": "10.1.3.0/24", "dataDir": "/var/lib/other"}});
    direct(&bridge_config(&there), "c2");
    assert_eq!(collect(&lab, &[]), "nothing to do\n");
    leave(&lab, &path);
    let told = removes(&lab, &[], 2);
    assert_eq!(
        told,
        "net c1 c1: namespace is gone\n  address 10.1.2.2 (/var/lib/cni/networks/net/10.1.2.2)\n\
         there c2 c2: namespace is gone\n  address 10.1.3.2 (/var/lib/other/there/10.1.3.2)\n  \
         whatever else DEL of bridge finds\n2 attachments removed\n"
    );
    assert_eq!((lab.reserved("net").len(), lab.exists("/var/lib/other/there/10.1.3.2")), (0, false));
}

#[test]
fn foreign_objects_stay() {
    let lab = Lab::new();
    write_list(&lab, "net", &full(2));
    let path = netns(&lab, "x");
    add(&lab, "net", &path, PORTS);
    leave(&lab, &path);
    wait_for("the pair has gone", || lab.veths().is_empty());
    lab.sh("cd /var/lib/cni/results; echo {} > net-foreign; echo not json > net-x-eth0; mkdir folder
        cd ../networks; echo x > net/notes; echo printer > net/10.1.2.77; mkdir -p backup/deep; echo y > backup/10.9.9.9
        echo z > file; mkdir -p .hidden /run/cni-box/firewall; echo torn > /run/cni-box/firewall/10.7.7.7
        ip link add bwp000000000000 type ifb; ip link add ifb7 type ifb
        nft 'add table ip own; add chain ip own CNI-DN-own; add rule ip own CNI-DN-own counter'
        iptables-nft -t nat -N CNI-DN-foreign; iptables-nft -t nat -N CNI-foreign
        iptables-nft -t nat -A POSTROUTING -m comment --comment 'name: \"net\" id: \"other\"' -s 10.1.2.99 -j CNI-foreign")
    .success();
    let foreign = "ls -R /var/lib/cni/networks/backup /var/lib/cni/networks/file /var/lib/cni/networks/.hidden
        cat /var/lib/cni/results/net-foreign /var/lib/cni/results/net-x-eth0 /var/lib/cni/networks/net/notes
        cat /var/lib/cni/networks/net/10.1.2.77 /var/lib/cni/networks/backup/10.9.9.9 /run/cni-box/firewall/10.7.7.7
        ls -d /var/lib/cni/results/folder; ip -br link show type ifb | grep -E '^(bwp0000|ifb7)'
        nft list table ip own; iptables-nft -t nat -S | grep foreign";
    let before = lab.sh(foreign).success().stdout;
    assert!(gc(&lab, &[]).run().success().stdout.ends_with("\n1 attachment removed\n"));
    assert_eq!(lab.sh(foreign).success().stdout, before);
    // Both may be reservations of an old release.
    let kept = gc(&lab, &[]).run().success();
    let why = "no result is in the cache, and its reservation names no interface";
    let lines = format!("kept backup y: {why} (addresses: 10.9.9.9)\nkept net printer: {why} (addresses: 10.1.2.77)\n");
    assert_eq!((kept.stdout.as_str(), kept.stderr), ("nothing to do\n", lines));
}

#[test]
pub fn attachments_of_the_go_plugins_are_found_by_their_path() {
    let lab = Lab::new();
    all_in_sight(&lab);
    write_list(&lab, "net", &simple(2));
    lab.reference("bridge");
    let by_go = |path: &str| lab.cnitool(&["add", "net", path]).env("CNI_PATH", crate::lab::REFERENCE).run().result();
    let (goes, stays) = (netns(&lab, "goes"), netns(&lab, "stays"));
    by_go(&goes);
    by_go(&stays);
    assert_eq!(collect(&lab, &[]), "nothing to do\n");
    leave(&lab, &goes);
    wait_for("the pair has gone", || lab.veths().len() == 1);
    for path in [crate::lab::REFERENCE, crate::lab::PLUGINS] {
        let told = gc(&lab, &["--dry-run"]).env("CNI_PATH", path).run().success().stdout;
        assert!(told.contains(&format!("eth0: namespace {goes} is gone\n")), "{told}");
    }
    let told = gc(&lab, &[]).env("CNI_PATH", crate::lab::REFERENCE).run().success().stdout;
    assert!(told.ends_with("\n1 attachment removed\n"), "{told}");
    assert_eq!((cached(&lab).len(), lab.reserved("net")), (1, vec!["10.1.2.3".to_string()]));
    assert_eq!(lab.rules().iter().filter(|rule| rule.contains(":CNI-")).count(), 1);
    pings(&lab, &stays, "10.1.2.1");
}

#[test]
fn reservations_of_the_go_plugin_go_once_they_were_seen_in_a_boot_that_has_ended() {
    let lab = Lab::new();
    let path = netns(&lab, "x");
    let config = host_local_config(&json!({"subnet": "10.1.2.0/24"}));
    lab.reference("host-local").config(&config).netns(&path).run().result();
    reboot(&lab, 2);
    let why = "kept net c1 eth0: no result is in the cache, and no record proves that its interface is gone";
    keeps(&lab, &["--dry-run"], why);
    assert!(!lab.exists("/var/lib/cni/networks/.cni-box"), "a dry run notes nothing");
    keeps(&lab, &[], why);
    reboot(&lab, 3);
    assert!(removes(&lab, &[], 1).starts_with("net c1 eth0: its boot has ended\n"));
    assert_eq!(lab.reserved("net"), [""; 0]);
}

#[test]
pub fn an_interface_without_an_end_on_the_host_is_looked_for_everywhere() {
    let lab = Lab::new();
    all_in_sight(&lab);
    lab.ok("ip link add up0 type veth peer name up1");
    let plugins = json!([{"type": "macvlan", "master": "up0", "ipam": {"type": "static",
        "addresses": [{"address": "10.1.2.9/24"}]}}]);
    write_list(&lab, "net", &plugins);
    let path = netns(&lab, "x");
    let name = name_of(&path).to_string();
    add(&lab, "net", &path, "{}");
    let pin = lab.hold(&name);
    leave(&lab, &path);
    let kept = gc(&lab, &[]).run().success();
    assert_eq!(kept.stdout, "nothing to do\n");
    assert!(kept.stderr.ends_with("but an interface eth0 like its own is somewhere\n"), "{kept:?}");
    pin.kill();
    removes(&lab, &[], 1);
    assert_eq!(cached(&lab).len(), 0);
}

#[test]
fn what_may_be_alive_stays() {
    let lab = Lab::new();
    all_in_sight(&lab);
    let plugins = json!([{"type": "bridge", "bridge": "cni2", "ipam": {"type": "static",
        "addresses": [{"address": "10.1.2.9/24"}]}}]);
    write_list(&lab, "net", &plugins);
    let path = netns(&lab, "x");
    let name = name_of(&path).to_string();
    add(&lab, "net", &path, "{}");
    let pin = lab.hold(&name);
    leave(&lab, &path);
    let before = everything(&lab);
    let is_kept = |call: Call<'_>, why: &str| {
        let kept = call.run().success();
        assert_eq!(kept.stdout, "nothing to do\n");
        let line = format!("kept net {} eth0: namespace {path} is not to be found, but ", container(&lab, &path));
        assert!(kept.stderr.starts_with(&line) && kept.stderr.contains(why), "{kept:?}");
        before.0.assert_same(&everything(&lab).0);
    };
    is_kept(gc(&lab, &[]), "the host's end veth");
    pin.kill();
    wait_for("the pair has gone", || lab.veths().is_empty());
    let node = ["unshare", "--pid", "--fork", "--mount-proc"];
    let before = everything(&lab);
    let kept = gc(&lab, &[]).under(&node).run().success();
    assert!(kept.stderr.contains("not all processes of this machine can be looked at"), "{kept:?}");
    before.0.assert_same(&everything(&lab).0);
    // A namespace at the same path is no proof: clocks lie.
    lab.ok(&format!("ip netns add {name}"));
    keeps(&lab, &[], &format!("namespace {path} is there without its interface eth0, and no record proves"));
    leave(&lab, &path);
    removes(&lab, &[], 1);
}

#[test]
fn a_namespace_that_only_another_mount_namespace_shows_is_there() {
    let lab = Lab::new();
    all_in_sight(&lab);
    write_list(&lab, "net", &json!([{"type": "bridge", "bridge": "cni2"}]));
    let path = netns(&lab, "x");
    add(&lab, "net", &path, "{}");
    lab.ok(&format!("ip link set {} name renamed", lab.veths()[0]));
    let name = name_of(&path).to_string();
    let blind = ["unshare", "-m", "sh", "-ec", "umount /run/netns/*; exec \"$@\"", "sh"];
    let kept = gc(&lab, &[]).under(&blind).run().success();
    assert_eq!(kept.stdout, "nothing to do\n", "{kept:?}");
    assert!(kept.stderr.ends_with("but one with its name is\n"), "{kept:?}");
    assert_eq!(lab.link_in(&name, "eth0")["ifname"], "eth0");
    assert_eq!(cached(&lab).len(), 1);
}

#[test]
pub fn another_interface_of_the_same_container_loses_nothing() {
    let lab = Lab::new();
    lab.netns("ns1");
    let (one, two) = (netns(&lab, "one"), netns(&lab, "two"));
    let bridge = bridge_config(&json!({"ipMasq": true, "isGateway": true}));
    let add = |path: &str, ifname: &str, config: &Value| {
        lab.plugin("bridge").config(config).container("c").netns(path).ifname(ifname).run().result();
    };
    add(&one, "eth0", &bridge);
    add(&two, "eth1", &bridge);
    let other = merged(bridge.clone(), &json!({"name": "other", "bridge": "cni3", "ipam": {"subnet": "10.1.3.0/24"}}));
    add(&one, "eth2", &other);
    leave(&lab, &one);
    wait_for("the pairs have gone", || lab.veths().len() == 1);
    wait_for("it is gone", || gc(&lab, &["--dry-run"]).run().stdout.contains("other c eth2"));
    let outcome = gc(&lab, &[]).run().success();
    assert_eq!(outcome.stderr, "kept net c eth0: its container may live, see net c eth1\n");
    assert!(outcome.stdout.starts_with("other c eth2: namespace is gone\n"), "{outcome:?}");
    assert_eq!((lab.reserved("net").len(), lab.reserved("other").len()), (2, 0));
    assert_eq!(lab.rules().iter().filter(|rule| rule.contains(":CNI-")).count(), 1);
    pings(&lab, &two, "10.1.2.1");
    leave(&lab, &two);
    removes(&lab, &[], 2);
    assert_eq!(lab.rules().iter().filter(|rule| rule.contains("CNI-")).count(), 0, "without a configuration");
}

#[test]
fn port_mappings_of_both_interfaces_of_a_dead_container_go_and_the_guard_with_them() {
    for flavour in ["nft", "legacy"] {
        let lab = Lab::new();
        lab.install_iptables(flavour);
        let mut plugins = simple(2);
        plugins.as_array_mut().unwrap().push(json!({"type": "portmap", "capabilities": {"portMappings": true}}));
        write_list(&lab, "net", &plugins);
        let dead = netns(&lab, "dead");
        for (ifname, port) in [("eth0", 8080), ("eth1", 8081)] {
            let ports = json!({"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]});
            let call =
                lab.cnitool(&["add", "net", &dead]).env("CNI_IFNAME", ifname).env("CAP_ARGS", &ports.to_string());
            call.run().result();
        }
        let mappings = || lab.rules().iter().filter(|rule| rule.contains("-j DNAT")).count();
        assert_eq!((mappings(), crate::portmap_localnet::guarded(&lab)), (2, vec!["cni2".to_string()]), "{flavour}");
        leave(&lab, &dead);
        let told = removes(&lab, &[], 2);
        assert!(told.contains("  port mappings CNI-DN-"), "{told}");
        assert_eq!((mappings(), crate::portmap_localnet::guard(&lab)), (0, Vec::new()), "{flavour}");
        assert_eq!(crate::portmap_localnet::setting(&lab, "cni2"), "0", "{flavour}");
        assert_eq!(lab.list("/run/cni-box/portmap"), [""; 0], "{flavour}");
    }
}

#[test]
fn a_failed_del_is_reported_and_the_others_go_on() {
    let lab = Lab::new();
    all_in_sight(&lab);
    write_list(
        &lab,
        "bad",
        &json!([{"type": "bridge", "bridge": "cni2",
        "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}}, {"type": "calico"}]),
    );
    write_list(&lab, "net", &simple(3));
    let calico = |script: &str| lab.executable("/opt/cni/bin/calico", &format!("#!/bin/sh\n{script}\n"));
    calico("echo $CNI_COMMAND $CNI_NETNS >> /run/lab/calico; [ $CNI_COMMAND = DEL ] || exec jq -c .prevResult");
    lab.executable(
        "/opt/cni/bin/calico",
        "#!/usr/bin/python3
import json, os, sys
config = json.load(sys.stdin)
open('/run/lab/calico', 'a').write(os.environ['CNI_COMMAND'] + '|' + os.environ['CNI_NETNS'] + '\\n')
if os.environ['CNI_COMMAND'] == 'ADD': print(json.dumps(config['prevResult']))
",
    );
    let paths = [netns(&lab, "bad"), netns(&lab, "net")];
    add(&lab, "bad", &paths[0], "{}");
    add(&lab, "net", &paths[1], "{}");
    lab.sh("mv /opt/cni/bin/calico /run/lab/kept").success();
    for path in &paths {
        leave(&lab, path);
    }
    wait_for("the pairs have gone", || lab.veths().is_empty());
    let id = container(&lab, &paths[0]);
    let fails = |why: &str, removed: &str| {
        let outcome = gc(&lab, &[]).run();
        assert_eq!(outcome.code, Some(1));
        assert!(
            outcome.stderr.contains(&format!("cni-box gc: bad {id} eth0: ")) && outcome.stderr.contains(why),
            "{outcome:?}"
        );
        assert!(outcome.stdout.ends_with(removed), "{outcome:?}");
        assert_eq!(cached(&lab), [format!("bad-{id}-eth0")]);
    };
    fails("failed to find plugin \"calico\" in path [/opt/cni/bin]", "\n1 attachment removed\n");
    assert_eq!(lab.reserved("bad"), ["10.1.2.2"], "nothing is begun that cannot be finished");
    calico("echo '{\"code\": 100, \"msg\": \"no datastore\"}'; exit 1");
    fails("no datastore", "0 attachments removed\n");
    lab.sh("mv /run/lab/kept /opt/cni/bin/calico").success();
    removes(&lab, &[], 1);
    assert!(lab.read("/run/lab/calico").ends_with("\nDEL|\n"), "{}", lab.read("/run/lab/calico"));
    assert_eq!((cached(&lab).len(), lab.reserved("bad").len()), (0, 0));
}

#[test]
fn nothing_goes_when_the_evidence_cannot_be_read() {
    for (hide, path) in [
        ("mv results kept; echo > results", "/var/lib/cni/results"),
        ("mv networks kept; echo > networks", "/var/lib/cni/networks"),
        ("mv /etc/cni/net.d kept; echo > /etc/cni/net.d", "/etc/cni/net.d"),
    ] {
        let lab = Lab::new();
        write_list(&lab, "net", &simple(2));
        let ns = netns(&lab, "x");
        add(&lab, "net", &ns, "{}");
        leave(&lab, &ns);
        lab.sh(&format!("cd /var/lib/cni; {hide}")).success();
        let before = lab.rules();
        gc(&lab, &[]).run().dies_with(&[path]);
        assert_eq!(lab.rules(), before);
        assert!(!before.is_empty());
    }
}

#[test]
fn a_killed_run_is_finished_by_the_next() {
    let lab = Lab::new();
    // Killed between the last address and the file of the cache, that alone is left, and only its path tells.
    all_in_sight(&lab);
    lab.install_iptables("nft");
    write_list(&lab, "net", &full(2));
    let attach = || {
        let path = netns(&lab, "x");
        add(&lab, "net", &path, PORTS);
        leave(&lab, &path);
        wait_for("the pair has gone", || lab.veths().is_empty());
    };
    attach();
    let call = gc(&lab, &[]);
    let points = changing_calls(&lab, &call);
    let before = lab.snapshot();
    for point in points.iter().filter(|(name, _)| name != "exit_group").step_by(3) {
        attach();
        assert!(kill_at(&call, point), "not killed at {point:?}");
        eprintln!("killed before {point:?}");
        gc(&lab, &[]).run().success();
        before.assert_same(&lab.snapshot());
        assert_eq!((cached(&lab).len(), lab.list("/run/cni-box/firewall").len()), (0, 0), "{point:?}");
        assert_eq!(lab.list("/run/cni/tuning"), [".cni-box"], "{point:?}");
        assert_eq!(collect(&lab, &[]), "nothing to do\n");
    }
}

#[test]
fn the_command_line() {
    let lab = Lab::bare();
    let help = gc(&lab, &["--help"]).run().success().stdout;
    for word in ["[--dry-run] [NETWORK]", "NETCONFPATH", "CNI_PATH"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert_eq!(collect(&lab, &[]), "nothing to do\n");
    gc(&lab, &["--dry-run", "net"]).run().dies("cni-box gc: no net configurations found in /etc/cni/net.d");
    assert!(!lab.exists("/var/lib/cni"), "it makes nothing");
    for words in [&["--force"][..], &["a", "b"]] {
        gc(&lab, words).run().dies("cni-box gc: this is not understood; see `cni-box gc --help`");
    }
    gc(&lab, &["../x"]).run().dies_with(&["invalid characters"]);
    let outcome: Outcome = lab.run(&[&binary(), "--help"]).success();
    assert!(outcome.stdout.contains("cni-box gc"), "{outcome:?}");
}

#[test]
fn the_daemons_lease_is_given_back() {
    let mut network = crate::dhcp::Network::with_dnsmasq(&[]);
    let lab = &network.lab;
    all_in_sight(lab);
    write_list(lab, "net", &json!([{"type": "bridge", "bridge": "cni0", "ipam": {"type": "dhcp"}}]));
    let path = netns(lab, "x");
    add(lab, "net", &path, "{}");
    leave(lab, &path);
    wait_for("the pair has gone", || lab.veths().is_empty());
    let told = removes(lab, &[], 1);
    assert!(told.contains("\n  lease, if the dhcp daemon has it still\n"), "{told}");
    assert_eq!((cached(lab).len(), lab.list(crate::dhcp::RECORDS).len()), (0, 0));
    network.stop_server();
}

#[test]
fn what_flannel_has_kept_goes() {
    let lab = crate::flannel::lab(crate::flannel::DUAL);
    write_list(&lab, "cbr0", &json!([{"type": "flannel", "delegate": {"isDefaultGateway": true}}]));
    let path = netns(&lab, "x");
    add(&lab, "cbr0", &path, "{}");
    let id = container(&lab, &path);
    leave(&lab, &path);
    lab.ok("rm /run/flannel/subnet.env");
    let told = removes(&lab, &[], 1);
    assert!(told.contains(&format!("\n  saved settings /var/lib/cni/flannel/{id}\n")), "{told}");
    assert_eq!(lab.list("/var/lib/cni/flannel"), [""; 0]);
    assert_eq!((cached(&lab).len(), lab.reserved("cbr0").len()), (0, 0));
}
