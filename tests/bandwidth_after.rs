//! `bandwidth` afterwards: a second ADD, CHECK, DEL, GC, STATUS, and what is refused.

use serde_json::{Value, json};

use crate::accidents::Storm;
use crate::bandwidth::{IFB, attached, both, call, host_end, limits, run, traffic_control};
use crate::cross::Side::{Ours, Theirs};
use crate::kills::{Accident, Trial, every};
use crate::lab::{Lab, bridge_config, merged};

#[test]
fn better_a_second_add_replaces_the_first() {
    for first in [Ours, Theirs] {
        let (lab, config) = attached(
            &json!({"ingressRate": 1_000_000, "ingressBurst": 80_000, "egressRate": 8_000_000, "egressBurst": 80_000}),
        );
        run(&lab, first, "ADD", &config).result();
        let second = merged(config, &both());
        let result = run(&lab, Ours, "ADD", &second).result();
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 4);
        let (fresh, config) = attached(&both());
        run(&fresh, Ours, "ADD", &config).result();
        assert_eq!(traffic_control(&lab), traffic_control(&fresh));
        run(&lab, Ours, "CHECK", &second).silent();
    }
}

#[test]
fn better_an_add_after_the_references_del_works() {
    let (lab, config) = attached(&both());
    for _ in 0..2 {
        run(&lab, Ours, "ADD", &config).result();
        run(&lab, Ours, "CHECK", &config).silent();
        run(&lab, Theirs, "DEL", &config).silent();
    }
}

#[test]
pub fn better_del_leaves_nothing_on_the_hosts_end() {
    let (lab, config) = attached(&both());
    let (before, links) = (traffic_control(&lab), lab.snapshot());
    run(&lab, Ours, "ADD", &config).result();
    run(&lab, Ours, "DEL", &config).silent();
    assert_eq!(traffic_control(&lab), before);
    links.assert_same(&lab.snapshot());
    run(&lab, Ours, "DEL", &config).silent();
}

#[test]
fn del_succeeds_in_every_state() {
    let states: [(&str, Value, &str); 6] = [
        ("the namespace is gone", json!({}), "ip netns del ns1"),
        ("it is no namespace", json!({}), "umount -l /run/netns/ns1"),
        ("the interface is gone", json!({}), "ip -n ns1 link del eth0"),
        ("the ifb is gone", json!({}), &format!("ip link del {IFB}")),
        ("no prevResult", json!({"prevResult": null}), "true"),
        ("a configuration that is none", json!({"ingressRate": "x", "egressBurst": 5, "egressRate": null}), "true"),
    ];
    for (what, changes, command) in states {
        let (lab, config) = attached(&both());
        run(&lab, Ours, "ADD", &config).result();
        lab.ok(command);
        let config = merged(config, &changes);
        eprintln!("{what}");
        run(&lab, Ours, "DEL", &config).silent();
        assert_eq!(lab.link(IFB), Value::Null, "{what}");
        run(&lab, Ours, "DEL", &config).silent();
        call(&lab, Ours, "DEL", &config).netns("").run().silent();
    }
}

#[test]
fn del_succeeds_while_its_namespace_goes() {
    const COUNT: usize = 20;
    let lab = Lab::new();
    for one in 0..COUNT {
        lab.netns(&format!("many{one}"));
    }
    let configs: Vec<Value> =
        (0..COUNT).map(|one| limits(&lab, &format!("c{one}"), &format!("many{one}"), "eth0", &both())).collect();
    let call_of = |one: usize, verb| {
        let call = call(&lab, Ours, verb, &configs[one]).container(&format!("c{one}"));
        call.netns(&format!("/var/run/netns/many{one}"))
    };
    (0..COUNT).for_each(|one| drop(call_of(one, "ADD").run().result()));
    // The kernel takes its time with what is in them.
    lab.sh("for one in $(seq 0 19); do umount -l /run/netns/many$one; done").success();
    (0..COUNT).for_each(|one| drop(call_of(one, "DEL").run().silent()));
    assert_eq!(lab.ok("ip -o link show type ifb"), "");
}

#[test]
fn better_a_device_that_is_no_ifb_is_left_alone() {
    let (lab, config) = attached(&both());
    lab.ok(&format!("ip link add {IFB} type bridge"));
    let before = (lab.snapshot(), traffic_control(&lab));
    run(&lab, Ours, "ADD", &config).fails(999, "adding link: file exists");
    run(&lab, Ours, "DEL", &config).silent();
    before.0.assert_same(&lab.snapshot());
    assert_eq!(before.1, traffic_control(&lab));
}

#[test]
fn better_a_failed_add_is_undone() {
    let (lab, config) = attached(&both());
    let veth = host_end(&config);
    for (obstacle, text) in [
        (format!("tc qdisc add dev {veth} ingress_block 7 ingress"), "add filter: "),
        (
            format!("tc qdisc add dev {veth} root handle 7: tbf rate 1mbit burst 2000 limit 2000"),
            "create qdisc: file exists",
        ),
    ] {
        lab.ok(&obstacle);
        let before = (lab.snapshot(), traffic_control(&lab));
        run(&lab, Ours, "ADD", &config).fails_with(999, &[text]);
        before.0.assert_same(&lab.snapshot());
        assert_eq!(before.1, traffic_control(&lab));
    }
}

#[test]
fn better_a_failed_second_add_brings_the_first_back() {
    let (lab, config) = attached(&both());
    run(&lab, Ours, "ADD", &config).result();
    let before = traffic_control(&lab);
    lab.ok(&format!("tc qdisc replace dev {IFB} root handle 9: htb"));
    let other = merged(config.clone(), &json!({"ingressRate": 1_000_000, "ingressBurst": 80_000}));
    run(&lab, Ours, "ADD", &other).fails_with(999, &["create ifb qdisc: create qdisc: file exists"]);
    lab.ok(&format!("tc qdisc del dev {IFB} root"));
    lab.ok(&format!("tc qdisc add dev {IFB} root handle 1: tbf rate 10mbit burst 25000 limit 56250"));
    let unspecific = |lines: Vec<String>| -> Vec<String> {
        lines.iter().map(|line| line.replace(" linklayer unspec", "").replace(" linklayer ethernet", "")).collect()
    };
    assert_eq!(unspecific(traffic_control(&lab)), unspecific(before));
}

#[test]
pub fn better_two_interfaces_of_one_container_are_limited_apart() {
    let (lab, first) = attached(&both());
    let second = limits(&lab, "c1", "ns1", "net1", &both());
    run(&lab, Ours, "ADD", &first).result();
    let result = call(&lab, Ours, "ADD", &second).ifname("net1").run().result();
    let other = result["interfaces"].as_array().unwrap().last().unwrap()["name"].as_str().unwrap().to_string();
    assert_ne!(other, IFB);
    for _ in 0..2 {
        run(&lab, Ours, "CHECK", &first).silent();
        call(&lab, Ours, "CHECK", &second).ifname("net1").run().silent();
        call(&lab, Ours, "ADD", &second).ifname("net1").run().result();
    }
    for _ in 0..2 {
        call(&lab, Ours, "DEL", &second).ifname("net1").run().silent();
        assert_eq!(lab.link(&other), Value::Null);
        run(&lab, Ours, "CHECK", &first).silent();
    }
    run(&lab, Ours, "DEL", &first).silent();
    assert_eq!(lab.link(IFB), Value::Null);
}

#[test]
pub fn better_check_names_what_is_wrong() {
    let (lab, config) = attached(&both());
    run(&lab, Ours, "ADD", &config).result();
    let veth = host_end(&config);
    let add = || drop(run(&lab, Ours, "ADD", &config).result());
    for (change, text) in [
        (json!({"ingressRate": 21_000_000}), "Rate doesn't match"),
        (json!({"ingressBurst": 410_000}), "Limit doesn't match"),
        (json!({"egressRate": 11_000_000}), "Rate doesn't match"),
        (json!({"prevResult": null}), "must be called as a chained plugin"),
    ] {
        run(&lab, Ours, "CHECK", &merged(config.clone(), &change)).fails(999, text);
    }
    for (change, parts) in [
        (
            format!("tc qdisc replace dev {veth} root handle 1: tbf rate 20mbit burst 50001 limit 112500"),
            vec!["Buffer doesn't match"],
        ),
        (format!("tc qdisc del dev {veth} root"), vec!["Failed to find qdisc", &veth]),
        (format!("tc qdisc del dev {veth} ingress"), vec!["get ifb device: Link not found"]),
        (format!("tc qdisc del dev {IFB} root"), vec!["Failed to find qdisc", IFB]),
        (format!("ip link del {IFB}"), vec!["get ifb device: Link not found"]),
    ] {
        lab.ok(&change);
        run(&lab, Ours, "CHECK", &config).fails_with(999, &parts);
        add();
        run(&lab, Ours, "CHECK", &config).silent();
    }
}

#[test]
fn newer_gc_removes_ifbs_that_nobody_uses() {
    let (lab, config) = attached(&both());
    run(&lab, Ours, "ADD", &config).result();
    for orphan in ["bwp000000000001", "bwp000000000002", "other"] {
        lab.ok(&format!("ip link add {orphan} type ifb"));
    }
    lab.ok("ip link add bwpbridge type bridge");
    let gc = |valid: &Value| {
        let gc = merged(
            config.clone(),
            &json!({"cniVersion": "1.1.0", "prevResult": null, "cni.dev/valid-attachments": valid}),
        );
        run(&lab, Ours, "GC", &gc).silent();
    };
    gc(&Value::Null);
    assert_ne!(lab.link("bwp000000000001"), Value::Null, "a GC that names no attachments");
    gc(&json!([]));
    for (name, stays) in
        [(IFB, true), ("other", true), ("bwpbridge", true), ("bwp000000000001", false), ("bwp000000000002", false)]
    {
        assert_eq!(lab.link(name) != Value::Null, stays, "{name}");
    }
    lab.ok(&format!("ip link del {}", host_end(&config)));
    gc(&json!([{"containerID": "c1", "ifname": "eth0"}]));
    assert_ne!(lab.link(IFB), Value::Null, "a valid attachment");
    gc(&json!([{"containerID": "c2", "ifname": "eth0"}]));
    assert_eq!(lab.link(IFB), Value::Null);
}

#[test]
fn newer_status_tries_it_and_changes_nothing() {
    let (lab, config) = attached(&both());
    let before = (lab.snapshot(), traffic_control(&lab));
    let status = |changes: &Value| {
        run(&lab, Ours, "STATUS", &merged(config.clone(), &merged(json!({"cniVersion": "1.1.0"}), changes)))
    };
    status(&json!({})).silent();
    status(&json!({"ingressRate": null, "ingressBurst": null, "egressRate": null, "egressBurst": null})).silent();
    status(&json!({"ingressRate": 0})).fails(999, "if burst is set, rate must also be set");
    before.0.assert_same(&lab.snapshot());
    assert_eq!(before.1, traffic_control(&lab));
}

/// An ifb is only needed for what comes from the container.
#[test]
fn newer_status_tries_the_limits_that_are_configured_and_no_others() {
    let (lab, config) = attached(&json!({"cniVersion": "1.1.0"}));
    for (limits, makes_ifb, makes_limit) in [
        (both(), true, true),
        (json!({"ingressRate": 8000}), false, true),
        (json!({"egressRate": 8000}), true, true),
        (json!({}), false, false),
    ] {
        let status = call(&lab, Ours, "STATUS", &merged(config.clone(), &limits));
        let log = status.env("CNI_BOX_LOG", "stderr").run().silent().stderr;
        let made = ["netlink NEWLINK ifb", "netlink NEWQDISC"].map(|step| log.contains(step));
        assert_eq!(made, [makes_ifb, makes_limit], "{limits}: {log}");
    }
}

#[test]
fn bad_input_is_refused_in_the_references_words_and_nothing_changes() {
    let (lab, config) = attached(&both());
    let before = (lab.snapshot(), traffic_control(&lab));
    for (changes, text) in [
        (json!({"ingressRate": null}), "if burst is set, rate must also be set"),
        (json!({"egressRate": 0}), "if burst is set, rate must also be set"),
        (json!({"egressBurst": 34_359_738_360_u64}), "burst cannot be more than 4GB"),
        (json!({"prevResult": null}), "must be called as chained plugin"),
        (json!({"prevResult": {"interfaces": []}}), "no interfaces provided"),
        (
            json!({"prevResult": {"interfaces": [{"name": "eth0", "sandbox": "/var/run/netns/ns1"}]}}),
            "no veth peer of container interface found in host ns",
        ),
    ] {
        let config = merged(config.clone(), &changes);
        run(&lab, Ours, "ADD", &config).fails(999, text);
        run(&lab, Theirs, "ADD", &config).fails(999, text);
        let of_runtime =
            ["ingressRate", "ingressBurst", "egressRate", "egressBurst"].map(|key| (key, config[key].clone()));
        let limits: Value = of_runtime.iter().cloned().collect();
        let nothing: Value = of_runtime.iter().map(|(key, _)| (*key, Value::Null)).collect();
        let mut moved = merged(config, &nothing);
        moved.as_object_mut().unwrap().retain(|key, _| limits.get(key).is_none());
        run(&lab, Ours, "ADD", &merged(moved, &json!({"runtimeConfig": {"bandwidth": limits}}))).fails(999, text);
    }
    for (changes, parts) in [
        (
            json!({"ingressRate": -1}),
            vec!["failed to parse network configuration: json: cannot unmarshal number -1", "uint64"],
        ),
        (json!({"ingressRate": 1.5}), vec!["failed to parse network configuration: json: cannot unmarshal number 1.5"]),
        (json!({"egressBurst": "1"}), vec!["failed to parse network configuration: json: cannot unmarshal string"]),
    ] {
        let config = merged(config.clone(), &changes);
        run(&lab, Ours, "ADD", &config).fails_with(999, &parts);
        run(&lab, Theirs, "ADD", &config).fails_with(999, &parts);
    }
    let wide = config.to_string().replace("20000000", "18446744073709551616");
    let part = "failed to parse network configuration: json: cannot unmarshal number 18446744073709551616";
    call(&lab, Ours, "ADD", &config).stdin(wide).run().fails_with(999, &[part, "uint64"]);
    before.0.assert_same(&lab.snapshot());
    assert_eq!(before.1, traffic_control(&lab));
}

#[test]
fn an_interface_that_is_no_veth_is_refused_and_nothing_changes() {
    let (lab, config) = attached(&both());
    lab.ok("ip -n ns1 link add other type bridge");
    let before = (lab.snapshot(), traffic_control(&lab));
    for (ifname, part) in
        [("other", "\"other\" was not a veth interface"), ("nope", "could not look up \"nope\": Link not found")]
    {
        for side in [Ours, Theirs] {
            let text = [&format!("container interface {ifname} has no veth peer: "), part];
            call(&lab, side, "ADD", &config).ifname(ifname).run().fails_with(999, &text[..1]);
        }
        call(&lab, Ours, "ADD", &config).ifname(ifname).run().fails_with(999, &[part]);
    }
    for side in [Ours, Theirs] {
        call(&lab, side, "ADD", &config).netns("/run/netns/none").run().fails_with(999, &["failed to open netns"]);
    }
    // The other end is elsewhere.
    lab.netns("ns2");
    lab.ok("ip -n ns2 link add near index 12345 type veth peer name far netns ns1");
    for side in [Ours, Theirs] {
        let text = "veth peer with index 12345 is not in host ns";
        call(&lab, side, "ADD", &config).ifname("far").run().fails(999, text);
    }
    before.0.assert_same(&lab.snapshot());
    assert_eq!(before.1, traffic_control(&lab));
}

#[test]
fn better_less_than_a_byte_a_second_is_refused() {
    let (lab, config) = attached(&json!({"ingressRate": 7, "ingressBurst": 800}));
    let before = (lab.snapshot(), traffic_control(&lab));
    run(&lab, Ours, "ADD", &config).fails(999, "invalid rate: 7");
    let burst = merged(both(), &json!({"egressBurst": 7, "prevResult": config["prevResult"]}));
    run(&lab, Ours, "ADD", &merged(config.clone(), &burst)).fails(999, "invalid burst: less than a byte");
    before.0.assert_same(&lab.snapshot());
    assert_eq!(before.1, traffic_control(&lab));
    let none = merged(config, &json!({"ingressRate": null, "ingressBurst": null, "prevResult": null}));
    run(&lab, Ours, "ADD", &none).fails(999, "must be called as chained plugin");
}

#[test]
fn many_containers_are_limited_at_once() {
    const COUNT: usize = 20;
    let lab = Lab::new();
    let names: Vec<usize> = (0..COUNT).collect();
    let configs = std::sync::OnceLock::new();
    let storm = Storm::new(&lab, COUNT, |one| {
        let configs: &Vec<Value> = configs.get().unwrap();
        lab.plugin("bandwidth").config(&configs[one])
    });
    let made = names.iter().map(|one| limits(&lab, &format!("c{one}"), &format!("many{one}"), "eth0", &both()));
    configs.set(made.collect()).unwrap();
    storm.all("ADD");
    assert_eq!(lab.ok("tc qdisc show").matches("qdisc tbf").count(), 2 * COUNT);
    storm.all("CHECK");
    storm.all("DEL");
    assert_eq!(lab.ok("ip link show type ifb"), "");
}

fn accidents(accident: Accident, changes: &Value) {
    let (lab, config) = attached(&merged(both(), changes));
    let before = (lab.snapshot(), traffic_control(&lab));
    let untouched = || {
        before.0.assert_same(&lab.snapshot());
        assert_eq!(before.1, traffic_control(&lab));
    };
    let add = call(&lab, Ours, "ADD", &config);
    let delete = add.clone().verb("DEL");
    Trial { lab: &lab, add, delete, ioctls: 0, which: every, untouched: &untouched }.suffers(accident);
}

#[test]
fn better_del_cleans_up_after_an_add_killed_before_any_of_its_changes() {
    accidents(Accident::Killed, &json!({}));
    accidents(Accident::Killed, &json!({"unshapedSubnets": ["10.0.0.0/8", "fd00::/16"]}));
}

#[test]
fn better_an_add_that_is_refused_any_of_its_changes_leaves_everything_as_it_was() {
    accidents(Accident::Refused, &json!({}));
    accidents(Accident::Refused, &json!({"unshapedSubnets": ["10.0.0.0/8", "fd00::/16"]}));
}

#[test]
fn better_a_chain_in_one_process_waits_for_no_lock_of_its_own() {
    let lab = Lab::new();
    let netns = lab.netns("ns1");
    let bridge = bridge_config(&json!({"isGateway": true}));
    let plugins = json!([bridge, merged(both(), &json!({"type": "bandwidth"}))]);
    let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins});
    lab.write("/etc/cni/net.d/net.conflist", list.to_string());
    let start = std::time::Instant::now();
    let result = lab.cnitool(&["add", "net", &netns]).run().result();
    assert!(start.elapsed() < std::time::Duration::from_secs(4), "waited for a lock");
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 4);
    lab.cnitool(&["check", "net", &netns]).run().success();
    lab.cnitool(&["del", "net", &netns]).run().success();
    assert_eq!(lab.ok("ip link show type ifb"), "");
}
