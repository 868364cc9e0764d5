//! Plugins behind the one that makes the interface: DEL takes back what their ADD has made, also when the interface was renamed or
//! moved on inside the container, and touches nothing of another container that is at the path now.

use serde_json::{Value, json};

use crate::bandwidth;
use crate::bandwidth::{IFB, both, host_end};
use crate::cross::Side::{self, Ours, Theirs};
use crate::lab::{Lab, bridge_config, merged, wait_for};

const NAMES: [&str; 2] = ["bandwidth", "tuning"];

/// What a container may do with its interface: KubeVirt's binding for a virtual machine, another name, another namespace.
const CHANGES: [&str; 4] = [
    "ip link set eth0 down; ip link set eth0 name eth0-nic address 02:00:00:00:00:07; ip link set eth0-nic up
     ip link add eth0 type veth peer name k6t; ip link set eth0 address $MAC",
    "ip link set eth0 down; ip link set eth0 name lan; ip link set lan up",
    "ip link set eth0 netns inner",
    "ip link set eth0 netns inner; ip link add eth0 type veth peer name other; ip link set eth0 address $MAC",
];

/// Configuration of a chained plugin behind this result.
fn chained(name: &str, result: &Value) -> Value {
    let own = match name {
        "bandwidth" => both(),
        _ => json!({"mtu": 1400, "promisc": true}),
    };
    merged(json!({"cniVersion": "1.0.0", "name": "net", "type": name, "prevResult": result}), &own)
}

fn call(lab: &Lab, side: Side, name: &str, verb: &str, config: &Value, container: &str) -> Value {
    let call = if side == Ours { lab.plugin(name) } else { lab.reference(name) };
    let outcome = call.verb(verb).config(config).container(container).netns("/run/netns/slot").run();
    if verb == "ADD" {
        return outcome.result();
    }
    outcome.silent();
    Value::Null
}

/// Attaches a container at `slot` with the plugins of both sides.
fn attach(lab: &Lab, [main, other]: [Side; 2], container: &str) -> Value {
    let config = bridge_config(&json!({"cniVersion": "1.0.0", "isGateway": true}));
    let result = call(lab, main, "bridge", "ADD", &config, container);
    NAMES.iter().fold(result, |result, name| call(lab, other, name, "ADD", &chained(name, &result), container))
}

fn detach(lab: &Lab, result: &Value, container: &str) {
    for name in NAMES.iter().rev() {
        call(lab, Ours, name, "DEL", &chained(name, result), container);
    }
}

fn limits(lab: &Lab, host: &str) -> String {
    lab.ok(&format!("tc qdisc show dev {host}")) + &lab.ok(&format!("tc filter show dev {host} ingress"))
}

#[test]
fn better_limits_go_with_del_whatever_the_container_has_done_with_its_interface() {
    for sides in [[Ours, Ours], [Theirs, Ours], [Ours, Theirs], [Theirs, Theirs]] {
        for change in CHANGES {
            let lab = Lab::new();
            lab.sh("ip netns add slot; ip netns add inner").success();
            let result = attach(&lab, sides, "c1");
            let host = host_end(&json!({"prevResult": result}));
            let mac = lab.link_in("slot", "eth0")["address"].as_str().unwrap().to_string();
            lab.sh(&format!("MAC={mac}; export MAC; ip netns exec slot sh -ec '{change}'")).success();
            let before = lab.ok("ip -n slot -d -o link show");
            detach(&lab, &result, "c1");
            let left = limits(&lab, &host);
            assert!(!left.contains("tbf") && !left.contains("mirred"), "{sides:?} {change}: {left}");
            assert!(!lab.ok("ip -br link").contains(IFB), "{sides:?} {change}");
            if change.contains("eth0 type veth") {
                let named = |text: &str| text.lines().find(|line| line.contains(" eth0@")).unwrap().to_string();
                assert_eq!(named(&lab.ok("ip -n slot -d -o link show")), named(&before), "the one in its place");
            }
        }
    }
}

#[test]
fn better_a_late_del_leaves_limits_and_properties_of_the_container_that_is_at_the_path_now() {
    for sides in [[Ours, Ours], [Theirs, Ours], [Ours, Theirs], [Theirs, Theirs]] {
        let lab = Lab::new();
        lab.netns("slot");
        let dead = attach(&lab, sides, "dead");
        lab.sh("ip netns del slot; ip netns add slot").success();
        let alive = attach(&lab, sides, "alive");
        let host = host_end(&json!({"prevResult": alive}));
        let state =
            || (limits(&lab, &host), lab.ok("ip -n slot -d -o link show eth0"), lab.ok("ip -d -o link show type ifb"));
        let ifb = |text: String| text.lines().filter(|line| !line.contains(IFB)).count();
        let before = state();
        detach(&lab, &dead, "dead");
        let after = state();
        assert_eq!((&after.0, &after.1, ifb(after.2)), (&before.0, &before.1, 1), "{sides:?}");
        assert!(after.0.contains("tbf") && after.1.contains("mtu 1400") && after.1.contains("promiscuity 1"));
        for name in NAMES {
            call(&lab, Ours, name, "CHECK", &chained(name, &alive), "alive");
        }
        detach(&lab, &alive, "alive");
        assert!(!limits(&lab, &host).contains("tbf") && !lab.ok("ip -br link").contains("bwp"), "{sides:?}");
        assert!(lab.ok("ip -n slot -d -o link show eth0").contains("mtu 1500"), "{sides:?}");
    }
}

/// udev may change the host's end after ADD; the container may change its own hardware address, too.
#[test]
fn limits_go_with_del_whatever_has_become_of_the_hosts_end() {
    let mac = "ip link set $H address 02:00:00:00:00:77";
    let name = "ip link set $H down; ip link set $H name lan0; ip link set lan0 up";
    let inside = "ip -n slot link set eth0 address 02:00:00:00:00:78";
    for sides in [[Ours, Ours], [Theirs, Ours], [Ours, Theirs], [Theirs, Theirs]] {
        for change in [mac.to_string(), name.to_string(), format!("{mac}; {name}"), format!("{inside}; {mac}; {name}")]
        {
            let lab = Lab::new();
            lab.sh("ip netns add slot").success();
            let result = attach(&lab, sides, "c1");
            let host = host_end(&json!({"prevResult": result}));
            lab.sh(&format!("H={host}; {change}")).success();
            let host = if change.contains("name") { "lan0" } else { &host };
            assert!(limits(&lab, host).contains("tbf") && limits(&lab, host).contains("mirred"));
            call(&lab, Ours, "bandwidth", "DEL", &chained("bandwidth", &result), "c1");
            let left = limits(&lab, host);
            assert!(!left.contains("tbf") && !left.contains("mirred"), "{sides:?} {change}: {left}");
            assert!(!lab.ok("ip -br link").contains(IFB), "{sides:?} {change}");
        }
    }
}

/// The ifb of an interface that is gone may be another one's by now.
#[test]
fn a_late_del_without_a_namespace_leaves_an_ifb_that_another_interface_uses() {
    for sides in [[Ours, Ours], [Theirs, Ours], [Ours, Theirs], [Theirs, Theirs]] {
        let lab = Lab::new();
        lab.netns("slot");
        let dead = attach(&lab, sides, "c1");
        lab.ok("ip netns del slot");
        wait_for("the pair has gone", || lab.veths().is_empty());
        lab.ok("ip netns add slot");
        let config = bridge_config(&json!({"cniVersion": "1.0.0", "isGateway": true}));
        let add = |name: &str, config: &Value| {
            lab.plugin(name).config(config).container("c1").netns("/run/netns/slot").ifname("eth1").run().result()
        };
        let alive = add("bridge", &config);
        let alive = add("bandwidth", &chained("bandwidth", &alive));
        let host = host_end(&json!({"prevResult": alive}));
        let before = (limits(&lab, &host), lab.ok("ip -d -o link show type ifb"));
        for config in [chained("bandwidth", &dead), merged(chained("bandwidth", &dead), &json!({"prevResult": null}))] {
            lab.plugin("bandwidth").verb("DEL").config(&config).container("c1").netns("").ifname("eth0").run().silent();
            assert_eq!((limits(&lab, &host), lab.ok("ip -d -o link show type ifb")), before, "{sides:?}");
        }
    }
}

/// The properties go back to the interface that had them, under its new name.
#[test]
fn better_tuning_restores_the_interface_that_it_has_changed() {
    for verb in ["DEL", "GC"] {
        let lab = Lab::new();
        lab.netns("slot");
        let result = attach(&lab, [Ours, Ours], "c1");
        let rename = "ip link set eth0 down; ip link set eth0 name lan; ip link set lan up; ip link add eth0 mtu 1300 type bridge";
        lab.sh(&format!("ip netns exec slot sh -ec '{rename}'")).success();
        let config = chained("tuning", &result);
        let gc = json!({"cniVersion": "1.1.0", "prevResult": null, "cni.dev/valid-attachments": []});
        call(&lab, Ours, "tuning", verb, &if verb == "GC" { merged(config, &gc) } else { config }, "c1");
        let (own, other) = (lab.link_in("slot", "lan"), lab.link_in("slot", "eth0"));
        assert_eq!(
            (&own["mtu"], &own["promiscuity"], &other["mtu"]),
            (&json!(1500), &json!(0), &json!(1300)),
            "{verb}"
        );
    }
}

#[test]
fn better_check_of_tuning_looks_at_no_other_interface() {
    let lab = Lab::new();
    lab.netns("slot");
    let result = attach(&lab, [Ours, Ours], "c1");
    let config = chained("tuning", &result);
    let decoy = "ip link set eth0 down; ip link set eth0 name lan; ip link add eth0 mtu 1400 type bridge; ip link set eth0 promisc on";
    lab.sh(&format!("ip netns exec slot sh -ec '{decoy}'")).success();
    let check = lab.plugin("tuning").verb("CHECK").config(&config).netns("/run/netns/slot");
    check.run().fails(999, "Cannot find container link eth0");
}

/// The container has made a pair whose ends have the numbers of another container's.
#[test]
fn better_a_pair_that_looks_like_another_containers_takes_no_limits_from_it() {
    let lab = Lab::new();
    lab.sh("ip netns add victim; ip netns add evil").success();
    let victim = bandwidth::limits(&lab, "victim", "victim", "eth0", &both());
    let evil = bandwidth::limits(&lab, "evil", "evil", "eth0", &both());
    let run = |verb: &str, name: &str, config: &Value| {
        lab.plugin("bandwidth").verb(verb).config(config).container(name).netns(&format!("/run/netns/{name}")).run()
    };
    run("ADD", "victim", &victim).result();
    run("ADD", "evil", &evil).result();
    let host = host_end(&victim);
    let (inside, outside) = (lab.link_in("victim", "eth0")["ifindex"].clone(), lab.link(&host)["ifindex"].clone());
    lab.ok("ip -n evil link del eth0");
    lab.ok(&format!("ip -n evil link add x1 index {outside} type veth peer name eth0 index {inside}"));
    let before = limits(&lab, &host);
    run("DEL", "evil", &evil).silent();
    assert_eq!(limits(&lab, &host), before);
    run("CHECK", "victim", &victim).silent();
}
