//! Files that earlier releases have left (`tests/golden/state-VERSION`): this release reads them
//! whole, damaged, and as a later release may write them. In doubt an attachment lives, so no
//! address is given twice.

mod damaged;
pub mod index;
mod later;
pub mod state;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::dhcp::{LEASES, Network, RECORDS, config};
use crate::gc_command::{all_in_sight, removes};
use crate::lab::{Call, Lab, merged, wait_for};
use state::{Facts, State, netns_of};

const FULL: &str = "no IP addresses available in range set";

fn each(test: impl Fn(&State)) {
    for state in state::all() {
        eprintln!("{}", state.name);
        test(&state);
    }
}

/// Builds a call of cnitool for an attachment.
fn tool<'a>(lab: &'a Lab, verb: &str, cached: &Value) -> Call<'a> {
    let [network, netns] = ["networkName", "netns"].map(|key| cached[key].as_str().unwrap());
    lab.cnitool(&[verb, network, netns]).env("CAP_ARGS", &cached["capabilityArgs"].to_string())
}

/// The configurations of the plugins of the network net, with these keys.
fn plugins(lab: &Lab, told: &Value) -> Vec<(String, Value)> {
    let list: Value = serde_json::from_str(&lab.read("/etc/cni/net.d/net.conflist")).unwrap();
    let told = merged(json!({"cniVersion": "1.0.0", "name": "net"}), told);
    let plugins = list["plugins"].as_array().unwrap().iter();
    plugins.map(|plugin| (plugin["type"].as_str().unwrap().to_string(), merged(plugin.clone(), &told))).collect()
}

/// Builds a call of host-local as the bridge of the network net makes it.
fn host_local<'a>(lab: &'a Lab, verb: &str, container: &str, netns: &str) -> Call<'a> {
    let (_, config) = plugins(lab, &json!({})).swap_remove(0);
    lab.plugin("host-local").verb(verb).container(container).netns(&format!("/run/netns/{netns}")).config(&config)
}

/// Container, namespace and address of each attachment to the network net.
fn on_net(state: &State) -> Vec<(String, String, String)> {
    let cached = state.cached().into_iter().filter(|cached| cached["networkName"] == "net");
    let facts = |cached: &Value| {
        let address = cached["result"]["ips"][0]["address"].as_str().unwrap().to_string();
        (cached["containerId"].as_str().unwrap().to_string(), netns_of(cached).to_string(), address)
    };
    cached.map(|cached| facts(&cached)).collect()
}

/// Attaches new containers until no address is left, and returns their addresses.
fn all_others(lab: &Lab) -> BTreeSet<String> {
    let mut given = BTreeSet::new();
    loop {
        let name = format!("new{}", given.len());
        lab.netns(&name);
        let outcome = host_local(lab, "ADD", &name, &name).run();
        if outcome.code != Some(0) {
            outcome.fails_with(999, &[FULL]);
            return given;
        }
        assert!(given.insert(outcome.result()["ips"][0]["address"].as_str().unwrap().to_string()), "{given:?}");
    }
}

/// Fails if a rule, link or file of an attachment is left.
fn assert_gone(lab: &Lab) {
    let rules: Vec<_> = lab.rules();
    let of_containers = |line: &&String| ["cnitool-", "CNI-DN-", "10.1.2."].iter().any(|word| line.contains(word));
    assert_eq!(rules.iter().filter(of_containers).collect::<Vec<_>>(), [""; 0]);
    assert_eq!((lab.veths(), lab.kept_files()), (vec![], vec![]));
    for folder in ["results", "flannel"] {
        assert_eq!(lab.list(&format!("/var/lib/cni/{folder}")), [""; 0]);
    }
}

#[test]
fn attachments_are_listed_checked_and_detached() {
    each(|state| {
        let lab = state.host();
        let listed = lab.cnitool(&["list"]).run().success().stdout;
        for cached in state.cached() {
            assert!(listed.contains(cached["containerId"].as_str().unwrap()), "{cached} is not in {listed}");
            tool(&lab, "check", &cached).run().silent();
        }
        // DEL has only the configuration that flannel has kept.
        lab.ok("rm -r /run/flannel");
        state.cached().iter().for_each(|cached| drop(tool(&lab, "del", cached).run().success()));
        assert_gone(&lab);
        assert_eq!((lab.reserved("net"), lab.reserved("flan")), (vec![], vec![]));
    });
}

#[test]
fn no_address_is_given_twice_and_records_tell_what_is_over() {
    each(|state| {
        let lab = state.host();
        let held = on_net(state);
        let others = all_others(&lab);
        assert_eq!(others.len(), 5 - held.len(), "{others:?}");
        assert!(held.iter().all(|(.., address)| !others.contains(address)), "{others:?}");
        let [(first, netns, _), (second, gone, address)] = &held[..] else { panic!("{held:?}") };
        lab.ok(&format!("ip netns del {gone}"));
        let next = || host_local(&lab, "ADD", "last", "new0").run();
        wait_for("the address of the namespace that is gone", || next().code == Some(0));
        let reserved = format!("/var/lib/cni/networks/net/{}", address.split_once('/').unwrap().0);
        assert_eq!(lab.read(&reserved), "last\r\neth0", "{second}'s");
        host_local(&lab, "CHECK", first, netns).run().silent();
        lab.netns("none");
        host_local(&lab, "ADD", "one too many", "none").container("many").run().fails_with(999, &[FULL]);
    });
}

#[test]
fn gc_goes_by_the_records() {
    each(|state| {
        let lab = state.host();
        let [stays, goes] = &on_net(state)[..] else { panic!("two containers") };
        let valid = json!([{"containerID": stays.0, "ifname": "eth0"}]);
        for (kind, config) in plugins(&lab, &json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid})) {
            lab.plugin(&kind).verb("GC").config(&config).run().silent();
        }
        let address = |(.., address): &(String, String, String)| address.split_once('/').unwrap().0.to_string();
        assert_eq!(lab.reserved("net"), [address(stays)]);
        let rules = lab.rules();
        let about = |word: &str| rules.iter().any(|line| line.contains(word));
        assert!(!about(&goes.0) && !about(&format!("{}/32", address(goes))), "{rules:#?}");
        assert!(lab.kept_files().iter().all(|file| !file.contains(&goes.0)), "{:?}", lab.kept_files());
        let stays = state.cached().into_iter().find(|cached| cached["containerId"] == stays.0).unwrap();
        tool(&lab, "check", &stays).run().silent();
    });
}

#[test]
fn the_command_gc_goes_by_the_records() {
    each(|state| {
        let lab = state.host();
        all_in_sight(&lab);
        let [stays, goes] = &on_net(state)[..] else { panic!("two containers") };
        lab.ok(&format!("ip netns del {}", goes.1));
        let told = removes(&lab, &[], 1);
        assert!(told.contains(&goes.0) && !told.contains(&stays.0), "{told}");
        assert_eq!((lab.reserved("net").len(), lab.reserved("flan").len()), (1, 2));
    });
}

/// Without a result DEL has only the files that the plugins have kept.
#[test]
fn what_plugins_have_kept_is_enough_for_del() {
    each(|state| {
        let lab = state.host();
        for (container, netns, address) in on_net(state) {
            for (kind, config) in plugins(&lab, &json!({})).into_iter().rev().filter(|(kind, _)| kind != "bridge") {
                let call = lab.plugin(&kind).verb("DEL").container(&container).netns(&format!("/run/netns/{netns}"));
                call.config(&config).run().silent();
            }
            let link = lab.link_in(&netns, "eth0");
            assert_eq!((&link["mtu"], &link["promiscuity"]), (&json!(1500), &json!(0)), "{container}");
            let plain = format!("{}/32", address.split_once('/').unwrap().0);
            let rules = lab.rules();
            let left = |line: &&String| line.contains(&plain) && !line.contains("POSTROUTING");
            assert_eq!(rules.iter().filter(left).collect::<Vec<_>>(), [""; 0]);
        }
        assert_eq!(lab.kept_files(), [""; 0]);
    });
}

/// Makes a host whose container 1 has the recorded lease, and a server that knows the lease.
fn leasing(state: &State) -> Network {
    let mut network = Network::new();
    let client: Vec<_> = b"\0c1/net/eth0".iter().map(|byte| format!("{byte:02x}")).collect();
    network.lab.write(LEASES, format!("1999999999 02:00:00:00:00:01 10.1.2.7 * {}\n", client.join(":")));
    network.start_dnsmasq("10.1.2.7,10.1.2.7", &[]);
    network.containers(1..2);
    let attach = "ip -n lan link set lan0 address 02:00:00:00:00:fe
        ip -n ns1 link set eth0 address 02:00:00:00:00:01 up; ip -n ns1 addr add 10.1.2.7/16 dev eth0";
    network.lab.sh(attach).success();
    state.lay(&network.lab, &Facts::of(&network.lab, &["ns1"]), &[state::LEASES]);
    network
}

#[test]
fn leases_are_resumed_and_given_back() {
    each(|state| {
        let mut network = leasing(state);
        assert_eq!(network.records(), 1);
        network.start_daemon(&[]);
        wait_for("the server to confirm the lease", || network.said("DHCPACK(") > 0);
        network.call(1).verb("CHECK").run().silent();
        assert_eq!(network.call(1).run().result()["ips"][0]["address"], "10.1.2.7/16");
        assert_eq!((network.said("DHCPDISCOVER("), network.leases()), (0, 1));
        network.call(1).verb("DEL").run().silent();
        wait_for("the server to hear of the release", || network.leases() == 0);
        assert_eq!(network.lab.list(RECORDS), [""; 0]);
    });
}

/// A record of another boot says nothing about the containers of this boot.
#[test]
fn leases_of_an_earlier_boot_are_dropped() {
    each(|state| {
        let mut network = leasing(state);
        crate::host_local_life::reboot(&network.lab, 2);
        network.start_daemon(&[]);
        network.call(1).verb("CHECK").config(&config(&json!({}))).run().fails_with(999, &["there is no lease"]);
        assert_eq!(network.records(), 0);
    });
}
