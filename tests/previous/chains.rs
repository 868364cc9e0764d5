//! Chains of plugins, with a connection that goes on while the plugins are replaced.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Previous, Release, This, WAYS, install, lab_with, traces};
use crate::gc_command::{add, container, name_of, netns, write_list};
use crate::lab::{Background, Call, Lab, Snapshot, merged, previous_dir, wait_for};
use crate::portmap_traffic::{CLIENT, SERVER, ask_from, serve};
use crate::upgrade::{Other, Site, capabilities, leave_what_is_shared, plugins, under_load};

/// Flavour of iptables, and the backend of masquerading, port mappings and the firewall.
const BACKENDS: [(&str, &str); 3] = [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")];

/// The chain of `upgrade`, with sbr behind it.
fn chain(backend: &str) -> Value {
    let mut chain = plugins();
    chain[0]["ipMasqBackend"] = backend.into();
    for place in [1, 2] {
        chain[place]["backend"] = backend.into();
    }
    chain.as_array_mut().unwrap().push(json!({"type": "sbr"}));
    chain
}

fn site((flavour, backend): (&str, &str)) -> Site {
    let site = Site::new(Other::Box(previous_dir()), &chain(backend));
    site.lab.install_iptables(flavour);
    leave_what_is_shared(&site);
    site
}

/// Ends the connection of [`Site::talk`], and fails unless it has lasted until now.
fn has_lasted(site: &Site, [server, client]: [Background; 2]) {
    site.lab.write("/run/stop", "");
    assert!(client.wait().success(), "the connection broke");
    server.kill();
}

/// Lists the changes that are no rules for all containers.
fn of_containers(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let is_rule = |line: &str| ["iptables-", "ip6tables-", "nft "].iter().any(|start| line.starts_with(start));
    let names_one = |line: &str| ["cnitool-", "CNI-DN-", "10.1.2."].iter().any(|word| line.contains(word));
    let new = after.lines().iter().filter(|line| !before.lines().contains(line));
    let gone = before.lines().iter().filter(|line| !after.lines().contains(line));
    new.chain(gone).filter(|line| !is_rule(line) || names_one(line)).cloned().collect()
}

/// Fails if something is left of the containers. The previous release may not know all files and
/// rules of this one: DEL of that release may leave files below /run and rules that name no
/// container, and the next GC of this release removes them.
fn assert_gone(site: &Site, backend: &str, detached_by: Release, before: &Snapshot) {
    if detached_by == Previous {
        assert_eq!(of_containers(before, &traces(&site.lab)), [""; 0]);
        site.install_ours();
        collect(site, backend, &[]);
    }
    before.assert_same(&traces(&site.lab));
    assert_eq!(site.lab.kept_files(), [""; 0]);
}

/// Builds the calls of the chain's plugins for an attached container, as its runtime makes them.
fn calls<'a>(site: &'a Site, backend: &str, verb: &str, number: usize) -> Vec<(String, Call<'a>)> {
    let netns = format!("/var/run/netns/c{number}");
    let id = container(&site.lab, &netns);
    let cached: Value = serde_json::from_str(&site.lab.read(&format!("/var/lib/cni/results/net-{id}-eth0"))).unwrap();
    let told = json!({"cniVersion": "1.0.0", "name": "net", "runtimeConfig": capabilities(number),
        "prevResult": cached["result"]});
    let call = |plugin: &Value| {
        let kind = plugin["type"].as_str().unwrap();
        let config = merged(plugin.clone(), &told);
        (kind.to_string(), site.lab.plugin(kind).verb(verb).container(&id).netns(&netns).config(&config))
    };
    chain(backend).as_array().unwrap().iter().map(call).collect()
}

/// Runs GC of every plugin of the chain; these containers are valid.
fn collect(site: &Site, backend: &str, valid: &[usize]) {
    let id = |number: &usize| container(&site.lab, &format!("/var/run/netns/c{number}"));
    let valid: Value = valid.iter().map(|number| json!({"containerID": id(number), "ifname": "eth0"})).collect();
    let told = json!({"cniVersion": "1.1.0", "name": "net", "cni.dev/valid-attachments": valid});
    for plugin in chain(backend).as_array().unwrap() {
        let call = site.lab.plugin(plugin["type"].as_str().unwrap()).verb("GC");
        call.config(&merged(plugin.clone(), &told)).run().silent();
    }
}

#[test]
fn what_one_has_attached_the_other_checks_and_detaches() {
    for backends in BACKENDS {
        for (first, second) in WAYS {
            eprintln!("{backends:?}: {first:?} attaches, {second:?} detaches");
            let site = site(backends);
            let before = traces(&site.lab);
            install(&site.lab, first);
            (0..3).for_each(|number| site.add(number));
            let talk = site.talk();
            install(&site.lab, second);
            site.check();
            (1..3).for_each(|number| site.del(number));
            site.check();
            has_lasted(&site, talk);
            site.del(0);
            assert_gone(&site, backends.1, second, &before);
        }
    }
}

#[test]
fn adds_and_gc_of_the_other_in_between_leave_living_containers_alone() {
    for backends in BACKENDS {
        for (first, second) in WAYS {
            eprintln!("{backends:?}: {second:?} between two times of {first:?}");
            let site = site(backends);
            let before = traces(&site.lab);
            install(&site.lab, first);
            (0..3).for_each(|number| site.add(number));
            let talk = site.talk();
            install(&site.lab, second);
            in_between(&site, backends.1);
            site.check();
            install(&site.lab, first);
            site.check();
            has_lasted(&site, talk);
            [0, 1, 3].into_iter().for_each(|number| site.del(number));
            // Both releases have detached containers.
            assert_gone(&site, backends.1, Previous, &before);
        }
    }
}

/// Repeats the ADD of container 0, as a runtime does that has lost the answer; attaches container
/// 3; runs GC with all valid, and again after container 2 has lost its namespace.
fn in_between(site: &Site, backend: &str) {
    let repeated = calls(site, backend, "ADD", 0);
    for (kind, call) in repeated {
        let outcome = call.run();
        // The interface is there already.
        assert_eq!(outcome.code, Some(i32::from(kind == "bridge")), "{kind}: {outcome:#?}");
    }
    site.add(3);
    let whole = traces(&site.lab);
    collect(site, backend, &[0, 1, 2, 3]);
    whole.assert_same(&traces(&site.lab));
    let valid = [0, 1, 3].map(|number| format!("{}/eth0", container(&site.lab, &format!("/var/run/netns/c{number}"))));
    site.lose(2);
    let words = ["gc", "net", "--valid", &valid[0], "--valid", &valid[1], "--valid", &valid[2]];
    site.runtime("gc", 0).args_list(&words).run().success();
    collect(site, backend, &[0, 1, 3]);
}

#[test]
fn upgrade_and_downgrade_under_load() {
    let site = site(BACKENDS[0]);
    let before = traces(&site.lab);
    under_load(&site);
    assert_gone(&site, BACKENDS[0].1, Previous, &before);
}

/// Configures two networks with a bridge and a mapped port each.
fn two_networks(lab: &Lab, backend: &str) {
    for number in [1, 2] {
        let bridge = json!({"type": "bridge", "bridge": format!("cni{number}"), "isDefaultGateway": true,
            "ipam": {"type": "host-local", "subnet": format!("10.1.{number}.0/24")}});
        let portmap = json!({"type": "portmap", "backend": backend, "capabilities": {"portMappings": true}});
        write_list(lab, &format!("net{number}"), &json!([bridge, portmap]));
    }
}

/// Attaches, detaches and collects a container on the bridge of the living one and on another
/// bridge.
fn visitors(lab: &Lab, backend: &str, living: &str) {
    for network in ["net1", "net2"] {
        let path = netns(lab, &format!("visits-{network}"));
        add(lab, network, &path, &capabilities(1).to_string());
        lab.cnitool(&["del", network, &path]).run().success();
        let valid = json!([{"containerID": container(lab, living), "ifname": "eth0"}]);
        let config = json!({"cniVersion": "1.1.0", "name": network, "type": "portmap", "backend": backend,
            "cni.dev/valid-attachments": valid});
        lab.plugin("portmap").verb("GC").config(&config).run().silent();
    }
}

/// Behind port mappings the kernel accepts packets of containers to 127.0.0.0/8 unless a rule drops
/// them.
#[test]
fn the_other_does_not_open_127_0_0_1_to_living_containers() {
    for (flavour, backend) in BACKENDS {
        for (first, second) in WAYS {
            let lab = lab_with(first);
            lab.install_iptables(flavour);
            lab.write("/opt/server", SERVER);
            lab.write("/opt/client", CLIENT);
            two_networks(&lab, backend);
            let path = netns(&lab, "attacks");
            let attacker = name_of(&path);
            add(&lab, "net1", &path, &capabilities(0).to_string());
            let _server = serve(&lab, "", "private", "127.0.0.1");
            // The container routes its packets to 127.0.0.1 to the host.
            lab.sh(&format!(
                "ip netns exec {attacker} sh -ec 'echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
                ip link set lo up; ip addr flush dev lo; ip route add 127.0.0.1/32 via 10.1.1.1 src 10.1.1.2'"
            ))
            .success();
            let attack = || ask_from(&lab, attacker, "tcp", "127.0.0.1", 80, 0);
            assert_eq!(attack(), None, "{flavour} {backend} {first:?}");
            install(&lab, second);
            visitors(&lab, backend, &path);
            assert_eq!(attack(), None, "{flavour} {backend} {first:?}, then {second:?}");
            // Shows that the rule was what kept the container out.
            lab.sh("nft flush ruleset; iptables-legacy -t raw -F").success();
            wait_for("the attack itself", || attack().as_deref() == Some("private 10.1.1.2"));
        }
    }
}

/// Replaces cnitool, which calls the plugins of its release in process, between two calls.
#[test]
fn the_tool_of_one_takes_the_results_of_the_other() {
    for (first, second) in WAYS {
        let lab = lab_with(first);
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": chain("iptables")});
        lab.write("/etc/cni/net.d/net.conflist", list.to_string());
        let path = lab.netns("c0");
        let tool = |verb: &str| lab.cnitool(&[verb, "net", &path]).env("CAP_ARGS", &capabilities(0).to_string());
        tool("add").run().result();
        let list = |release: Release| {
            install(&lab, release);
            lab.cnitool(&["list", "net"]).run().success().stdout
        };
        assert_eq!(list(first), list(second));
        tool("check").run().silent();
        tool("del").run().success();
        assert_eq!((lab.list("/var/lib/cni/results"), lab.reserved("net")), (vec![], vec![]));
        assert!(second == Previous || lab.kept_files().is_empty(), "{:?}", lab.kept_files());
    }
}

/// Lists the locks below /run that the ADD of a chain has made.
fn locks(release: Release) -> BTreeSet<String> {
    let lab = lab_with(release);
    lab.install_iptables("legacy");
    let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": chain("iptables")});
    lab.write("/etc/cni/net.d/net.conflist", list.to_string());
    // Limits in this direction need an ifb.
    let limits = json!({"bandwidth": {"egressRate": 80_000_000, "egressBurst": 8_000_000}});
    let told = merged(capabilities(0), &limits).to_string();
    lab.cnitool(&["add", "net", &lab.netns("c0")]).env("CAP_ARGS", &told).run().result();
    lab.list("/run").into_iter().filter(|name| name.ends_with(".lock")).collect()
}

/// During an upgrade calls of both releases run at the same time, and must wait for each other.
#[test]
fn locks_of_the_previous_release_are_still_locks() {
    let (previous, this) = (locks(Previous), locks(This));
    assert!(previous.len() > 2 && previous.is_subset(&this), "{previous:?} {this:?}");
}
