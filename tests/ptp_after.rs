//! ptp after ADD: CHECK, DEL in every state that a host can be in, GC, STATUS, and ADDs that fail, are killed or many.

use serde_json::{Value, json};

use crate::accidents::{MANY, Storm, assert_untouched};
use crate::devices::{self, Device};
use crate::kills::{self, Accident};
use crate::lab::{Lab, Outcome, Snapshot, merged, wait_for};
use crate::ptp::{config, dual, lab};

/// A host where one attachment came and went, what it looks like, and the configuration with another one's result.
fn attached(flavour: &str, changes: &Value) -> (Lab, Value, Snapshot) {
    let lab = lab(flavour);
    let mut config = config(changes);
    // The second time host-local gives 10.7.2.3.
    lab.plugin("ptp").config(&config).run().result();
    lab.plugin("ptp").verb("DEL").config(&config).run().silent();
    let before = lab.snapshot();
    config["prevResult"] = lab.plugin("ptp").config(&config).run().result();
    (lab, config, before)
}

fn run(lab: &Lab, verb: &str, config: &Value) -> Outcome {
    lab.plugin("ptp").verb(verb).config(config).run()
}

fn masqueraded() -> Value {
    json!({"ipMasq": true})
}

#[test]
fn better_del_does_not_mind_a_backend_of_a_wrong_type() {
    let (lab, config, before) = attached("nft", &masqueraded());
    let wrong = merged(config, &json!({"ipMasqBackend": 5}));
    run(&lab, "ADD", &wrong).fails_with(999, &["failed to load netconf", "ipMasqBackend"]);
    run(&lab, "DEL", &wrong).silent();
    before.assert_same(&lab.snapshot());
}

#[test]
fn check_is_silent_when_all_is_well() {
    for changes in [json!({}), dual(), json!({"ipMasq": true, "ipMasqBackend": "nftables"})] {
        let (lab, config, _) = attached("nft", &changes);
        run(&lab, "CHECK", &config).silent();
    }
}

/// What happens on the host, and what CHECK has to say about it.
#[test]
fn check_names_what_is_wrong() {
    let table: [(&str, &[&str]); 7] = [
        ("ip -n ns1 link del eth0", &["ptp: Container Interface name in prevResult: eth0 not found"]),
        (
            "ip -n ns1 link del eth0; ip -n ns1 link add eth0 type bridge",
            &["Error: Container interface eth0 not of type veth/p2p"],
        ),
        (
            "ip -n ns1 link set eth0 address 02:00:00:00:00:09",
            &["ptp: Interface eth0 Mac", "doesn't match container Mac"],
        ),
        ("ip -n ns1 addr add 10.7.2.9/24 dev eth0; ip -n ns1 addr del 10.7.2.3/24 dev eth0", &["10.7.2.3/24"]),
        ("ip -n ns1 route del default", &["Expected Route", "not found in routing table"]),
        ("ip -n ns1 route del 10.7.2.0/24", &["Failed to find Gateway 10.7.2.1 for interface eth0"]),
        ("rm /var/lib/cni/networks/net/10.7.2.3", &["host-local: Failed to find address added by container c1"]),
    ];
    let (lab, good, _) = attached("nft", &json!({}));
    let without = merged(good, &json!({"prevResult": null}));
    run(&lab, "CHECK", &without).fails(999, "ptp: Required prevResult missing");
    for (accident, parts) in table {
        let (lab, config, _) = attached("nft", &json!({}));
        lab.sh(accident).success();
        run(&lab, "CHECK", &config).fails_with(999, parts);
    }
}

/// The reference looks at none of this.
#[test]
fn better_check_looks_at_the_hosts_side_and_the_masquerading() {
    let table = [
        ("ip link set VETH name other", "host interface that is the peer of container interface eth0 was not found"),
        ("ip link set VETH down", "is down"),
        ("ip addr flush dev VETH", "Failed to match gateway 10.7.2.1 on host interface VETH"),
        ("ip route del 10.7.2.3/32", "the host's route to 10.7.2.3 does not lead to interface VETH"),
        ("iptables-nft -t nat -F POSTROUTING", "masquerade"),
    ];
    for (accident, part) in table {
        let (lab, config, _) = attached("nft", &masqueraded());
        let name = config["prevResult"]["interfaces"][0]["name"].as_str().unwrap();
        lab.sh(&accident.replace("VETH", name)).success();
        run(&lab, "CHECK", &config).fails_with(999, &[&part.replace("VETH", name)]);
    }
}

#[test]
fn del_leaves_the_host_as_it_was_and_succeeds_again() {
    for flavour in ["nft", "legacy"] {
        for (changes, keeps_result) in [(dual(), true), (masqueraded(), false)] {
            let (lab, config, before) = attached(flavour, &changes);
            let config = if keeps_result { config } else { merged(config, &json!({"prevResult": null})) };
            for _ in 0..3 {
                run(&lab, "DEL", &config).silent();
                assert_untouched(&lab, &before);
            }
        }
    }
}

/// States of the host in which the reference leaves rules, links or addresses behind.
#[test]
fn better_del_cleans_up_whatever_became_of_the_namespace() {
    let path = Some("/var/run/netns/ns1");
    for (what, script, netns) in [
        ("the namespace is gone", "ip netns del ns1", path),
        ("the path names no namespace", "umount /run/netns/ns1", path),
        ("the path is a plain file", "echo x > /run/lab/file; ip netns del ns1", Some("/run/lab/file")),
        ("no namespace is given", "true", None),
        ("the link is gone", "ip -n ns1 link del eth0", path),
        ("the address is gone", "ip -n ns1 addr flush dev eth0", path),
        ("the reservation is gone", "rm -rf /var/lib/cni/networks", path),
    ] {
        for (backend, has_result) in [("iptables", true), ("iptables", false), ("nftables", true), ("nftables", false)]
        {
            let changes = merged(masqueraded(), &json!({"ipMasqBackend": backend}));
            let (lab, config, before) = attached("nft", &changes);
            lab.sh(script).success();
            let config = if has_result { config } else { merged(config, &json!({"prevResult": null})) };
            let call = lab.plugin("ptp").verb("DEL").config(&config);
            let call = netns.map_or_else(|| call.clone().without("CNI_NETNS"), |path| call.clone().netns(path));
            call.run().silent();
            call.run().silent();
            eprintln!("{what}, {backend}, with a result: {has_result}");
            assert_eq!((lab.reserved("net").len(), lab.rules().len()), (0, 0));
            // Without a namespace and without a result nobody can know the link.
            if has_result || netns.is_some() {
                // The kernel takes a dead namespace's links down in its own time.
                wait_for("no link left", || lab.veths().is_empty());
                before.assert_same(&lab.snapshot());
            }
        }
    }
}

#[test]
fn better_del_carries_on_past_a_failed_step_and_reports_it() {
    let (lab, config, _) = attached("nft", &masqueraded());
    let broken = merged(config, &json!({"ipam": {"type": "no-such-plugin"}}));
    run(&lab, "DEL", &broken).fails_with(999, &["no-such-plugin"]);
    assert_eq!((lab.veths().len(), lab.rules().len()), (0, 0));
    assert_eq!(lab.reserved("net"), ["10.7.2.3"]);
    run(&lab, "DEL", &config_again(&broken)).silent();
    assert_eq!(lab.reserved("net"), [""; 0]);
}

fn config_again(broken: &Value) -> Value {
    merged(broken.clone(), &json!({"ipam": {"type": "host-local"}}))
}

#[test]
fn newer_gc_removes_what_belongs_to_nobody_and_status_tests_what_add_needs() {
    for backend in ["iptables", "nftables"] {
        let changes = json!({"cniVersion": "1.1.0", "ipMasq": true, "ipMasqBackend": backend});
        let (lab, good, before) = attached("nft", &changes);
        let one = json!([{"containerID": "c1", "ifname": "eth0"}]);
        let attachments = lab.snapshot();
        run(&lab, "GC", &merged(good.clone(), &json!({"cni.dev/valid-attachments": one}))).silent();
        attachments.assert_same(&lab.snapshot());
        // The reservation is host-local's to look after.
        lab.sh("ip -n ns1 link del eth0; rm /var/lib/cni/networks/net/10.7.2.3").success();
        run(&lab, "GC", &merged(good.clone(), &json!({"cni.dev/valid-attachments": []}))).silent();
        before.assert_same(&lab.snapshot());
        let good = merged(good, &json!({"prevResult": null}));
        run(&lab, "STATUS", &good).silent();
        run(&lab, "STATUS", &merged(good.clone(), &json!({"ipam": null}))).fails(999, "no plugin name provided");
        let powerless = lab.plugin("ptp").verb("STATUS").config(&good).under(&["unshare", "-U"]).run();
        powerless.fails_with(50, &["masquerading is not possible"]);
    }
}

#[test]
fn every_verb_is_passed_on_to_the_ipam_plugin() {
    let lab = lab("nft");
    let script = r#"#!/bin/sh
        cat >/dev/null; echo $CNI_COMMAND >> /run/lab/calls
        [ $CNI_COMMAND = ADD ] || exit 0
        echo '{"cniVersion":"1.1.0","ips":[{"address":"10.7.2.9/24","gateway":"10.7.2.1"}]}'"#;
    lab.executable("/run/lab/bin/my-ipam", script);
    let good = config(&json!({"cniVersion": "1.1.0", "ipam": {"type": "my-ipam"}}));
    let call = |verb: &str, config: &Value| {
        lab.plugin("ptp").env("CNI_PATH", "/run/lab/bin").verb(verb).config(config).run().success()
    };
    let good = merged(good.clone(), &json!({"prevResult": call("ADD", &good).json()}));
    for verb in ["CHECK", "DEL", "GC", "STATUS"] {
        call(verb, &good);
    }
    assert_eq!(lab.read("/run/lab/calls"), "ADD\nCHECK\nDEL\nGC\nSTATUS\n");
    let late = merged(good, &json!({"prevResult": null}));
    lab.plugin("ptp").env("CNI_PATH", "/run/lab/bin").env("CNI_IFNAME", "lo").config(&late).run().error();
    assert!(lab.read("/run/lab/calls").ends_with("ADD\nDEL\n"), "what a failed ADD was given is given back");
}

/// A configuration that fails, and what its error must say.
fn failures() -> Vec<(Value, Vec<&'static str>)> {
    let routes = |routes: Value| json!({"ipam": {"routes": routes}});
    vec![
        (routes(json!([{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}])), vec!["10.9.0.0", "unreachable"]),
        (routes(json!([{"dst": "10.9.0.0/16"}, {"dst": "10.9.0.0/16"}])), vec!["failed to add route", "file exists"]),
        (json!({"ipam": {"type": "nope"}}), vec!["failed to find plugin \"nope\" in path"]),
        (json!({"ipam": null}), vec!["no plugin name provided"]),
        (json!({"ipam": {"type": "static"}}), vec!["IPAM plugin returned missing IP config"]),
        (json!({"ipMasqBackend": "zz"}), vec!["unknown ipmasq backend \"zz\""]),
        (json!({"mtu": 10}), vec!["failed to make veth pair", "invalid argument"]),
        (json!({"mtu": "9"}), vec!["failed to load netconf", "cannot unmarshal string"]),
        (
            json!({"cniVersion": "0.2.0", "ipam": {"ranges": [[{"subnet": "10.7.2.0/24"}], [{"subnet": "10.8.2.0/24"}]]}}),
            vec!["CNI version 0.2.0 does not support more than 1 address per family"],
        ),
    ]
}

#[test]
fn failures_have_the_references_words() {
    let cases = [(json!({"mtu": 10}), ""), (json!({"mtu": 70000}), ""), (json!({"ipam": null}), "")];
    let ptp = Device::new("ptp", &json!({}));
    devices::failures_have_the_references_words(&ptp, &cases);
}

#[test]
fn better_a_failed_add_leaves_everything_as_it_was() {
    let (lab, good, before) = attached("nft", &masqueraded());
    run(&lab, "DEL", &good).silent();
    for (changes, parts) in failures() {
        run(&lab, "ADD", &merged(config(&masqueraded()), &changes)).fails_with(999, &parts);
        eprintln!("{changes}");
        assert_untouched(&lab, &before);
    }
    lab.ok("ip -n ns1 link add eth0 type bridge");
    // The words of 1.9.1; 1.1.1 has others.
    let parts = ["container veth name (\"eth0\") peer provided (\"veth", "\") already exists"];
    run(&lab, "ADD", &config(&masqueraded())).fails_with(999, &parts);
    before.assert_same(&lab.snapshot());
    let gone = lab.plugin("ptp").config(&config(&masqueraded())).netns("/var/run/netns/gone").run();
    gone.fails_with(999, &["failed to open netns", "no such file or directory"]);
    before.assert_same(&lab.snapshot());
}

#[test]
fn a_second_add_of_the_same_interface_fails_and_leaves_the_first_alone() {
    let (lab, good, _) = attached("nft", &masqueraded());
    let before = lab.snapshot();
    run(&lab, "ADD", &config(&masqueraded()))
        .fails_with(999, &["10.7.2.3", "c1", "duplicate allocation is not allowed"]);
    before.assert_same(&lab.snapshot());
    run(&lab, "CHECK", &good).silent();
}

fn accidents(accident: Accident) {
    for (flavour, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")] {
        let changes = merged(masqueraded(), &json!({"ipMasqBackend": backend}));
        let lab = lab(flavour);
        eprintln!("{flavour} {backend}");
        kills::suffers(&lab, lab.plugin("ptp").config(&config(&changes)), 0, accident);
    }
}

#[test]
fn better_an_add_that_is_refused_any_of_its_changes_leaves_everything_as_it_was() {
    accidents(Accident::Refused);
}

#[test]
fn better_del_cleans_up_after_an_add_killed_before_any_of_its_changes() {
    accidents(Accident::Killed);
}

#[test]
fn two_hundred_containers_at_once() {
    for (flavour, changes, families) in [("nft", masqueraded(), 1), ("legacy", masqueraded(), 1), ("nft", dual(), 2)] {
        let lab = lab(flavour);
        let config = config(&changes);
        let storm = Storm::new(&lab, MANY, |_| lab.plugin("ptp").config(&config));
        storm.all("ADD");
        assert_eq!((lab.reserved("net").len(), lab.veths().len()), (MANY * families, MANY), "{flavour}");
        assert_eq!(lab.rules().iter().filter(|line| line.contains("POSTROUTING")).count(), MANY * families);
        storm.all("DEL");
        assert_eq!((lab.reserved("net").len(), lab.veths().len()), (0, 0));
        assert_eq!(lab.rules(), [""; 0], "{flavour}");
    }
}
