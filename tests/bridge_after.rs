//! bridge after ADD: what CHECK finds, and DEL in every state that a host can be in.

use serde_json::{Value, json};

use crate::lab::{Lab, bridge_config, merged, wait_for};

/// A host with `ns1` attached, and the configuration with the result in it.
fn attached(changes: &Value) -> (Lab, Value) {
    let lab = Lab::new();
    lab.netns("ns1");
    let mut config = bridge_config(changes);
    config["prevResult"] = lab.plugin("bridge").config(&config).run().result();
    (lab, config)
}

fn check(lab: &Lab, config: &Value) -> crate::lab::Outcome {
    lab.plugin("bridge").verb("CHECK").config(config).run()
}

fn host_veth(config: &Value) -> &str {
    config["prevResult"]["interfaces"][1]["name"].as_str().unwrap()
}

#[test]
fn check_is_silent_when_all_is_well() {
    let plain = json!({});
    let gateway = json!({"isDefaultGateway": true, "ipMasq": true, "hairpinMode": true});
    let promiscuous = json!({"promiscMode": true, "mtu": 1400});
    for changes in [plain, gateway, promiscuous] {
        let (lab, config) = attached(&changes);
        check(&lab, &config).silent();
    }
}

#[test]
fn check_needs_the_previous_result_and_the_namespace_it_was_made_in() {
    let (lab, config) = attached(&json!({}));
    let without = merged(config.clone(), &json!({"prevResult": null}));
    check(&lab, &without).fails_with(999, &["prevResult missing"]);
    let other = lab.netns("ns2");
    let call = lab.plugin("bridge").verb("CHECK").config(&config);
    call.netns(&other).run().fails_with(999, &["Sandbox in prevResult", "doesn't match configured netns"]);
    call_gone(&lab, &config);
}

fn call_gone(lab: &Lab, config: &Value) {
    let call = lab.plugin("bridge").verb("CHECK").config(config).netns("/var/run/netns/gone");
    call.run().fails_with(999, &["failed to open netns", "no such file or directory"]);
}

/// What happens on the host, and what CHECK has to say about it.
#[test]
fn check_names_what_is_wrong() {
    let changes = json!({"isDefaultGateway": true});
    let table: [(&str, &[&str]); 9] = [
        ("ip -n ns1 link del eth0", &["eth0"]),
        ("ip -n ns1 addr del 10.1.2.2/24 dev eth0", &["Failed to match addr 10.1.2.2/24 on interface eth0"]),
        ("ip -n ns1 addr add 10.1.2.2/25 dev eth0; ip -n ns1 addr del 10.1.2.2/24 dev eth0", &["10.1.2.2/24"]),
        ("ip -n ns1 route del default", &["Expected Route", "not found in routing table"]),
        ("ip -n ns1 link set eth0 address 02:00:00:00:00:09", &["eth0", "doesn't match", "02:00:00:00:00:09"]),
        ("ip link set VETH nomaster", &["CNI veth created for bridge cni0 was not found"]),
        ("ip link set cni0 name other", &["Interface name cni0 not found"]),
        ("ip link set cni0 address 02:00:00:00:00:08", &["Bridge interface cni0 Mac doesn't match"]),
        ("rm /var/lib/cni/networks/net/10.1.2.2", &["host-local: Failed to find address added by container c1"]),
    ];
    for (accident, parts) in table {
        let (lab, config) = attached(&changes);
        lab.sh(&accident.replace("VETH", host_veth(&config))).success();
        check(&lab, &config).fails_with(999, parts);
    }
}

#[test]
fn check_compares_the_promiscuous_mode() {
    let (lab, config) = attached(&json!({"isGateway": true}));
    lab.ok("ip link set cni0 promisc on");
    let text = "Bridge interface cni0 configured Promisc Mode false doesn't match current state: true";
    check(&lab, &config).fails_with(999, &[text]);
}

#[test]
fn better_check_of_a_cable_asks_no_ipam() {
    let (lab, config) = attached(&json!({"ipam": null}));
    check(&lab, &config).silent();
}

#[test]
fn better_a_drifting_mac_of_a_bridge_without_gateway_is_no_fault() {
    let (lab, config) = attached(&json!({}));
    lab.ok("ip link set cni0 address 02:00:00:00:00:08");
    check(&lab, &config).silent();
}

#[test]
fn better_a_full_length_prefix_can_be_checked() {
    let ipam = json!({"type": "static", "subnet": null, "addresses": [{"address": "10.1.2.3/32"}]});
    let (lab, config) = attached(&json!({"ipam": ipam}));
    check(&lab, &config).silent();
}

#[test]
fn better_a_route_in_another_table_can_be_checked() {
    let ipam = json!({"routes": [{"dst": "10.9.0.0/16", "table": 77}]});
    let (lab, config) = attached(&json!({"cniVersion": "1.1.0", "ipam": ipam}));
    check(&lab, &config).silent();
    lab.ok("ip -n ns1 route flush table 77");
    check(&lab, &config).fails_with(999, &["Expected Route"]);
}

/// A host where one attachment came and went before, so that the bridge is there, and one is there now.
fn settled(changes: &Value) -> (Lab, Value, crate::lab::Snapshot) {
    let (lab, config) = attached(changes);
    lab.plugin("bridge").verb("DEL").config(&config).run().silent();
    let before = lab.snapshot();
    let mut config = bridge_config(changes);
    config["prevResult"] = lab.plugin("bridge").config(&config).run().result();
    (lab, config, before)
}

const GATEWAY: &str = r#"{"isDefaultGateway": true, "ipMasq": true}"#;

#[test]
fn del_leaves_the_host_as_it_was_and_succeeds_again() {
    let (lab, config, before) = settled(&serde_json::from_str(GATEWAY).unwrap());
    for _ in 0..3 {
        lab.plugin("bridge").verb("DEL").config(&config).run().silent();
        before.assert_same(&lab.snapshot());
    }
    assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
}

#[test]
fn del_needs_no_previous_result() {
    let (lab, config, before) = settled(&serde_json::from_str(GATEWAY).unwrap());
    let config = merged(config, &json!({"prevResult": null}));
    lab.plugin("bridge").verb("DEL").config(&config).run().silent();
    before.assert_same(&lab.snapshot());
}

/// States of the host in which the reference leaves rules, links or addresses behind.
#[test]
fn better_del_cleans_up_whatever_became_of_the_namespace() {
    for (what, script, netns) in [
        ("the namespace is gone", "ip netns del ns1", Some("/var/run/netns/ns1")),
        ("the path names no namespace", "umount /run/netns/ns1", Some("/var/run/netns/ns1")),
        ("the path is a plain file", "echo x > /run/lab/file; ip netns del ns1", Some("/run/lab/file")),
        ("no namespace is given", "true", None),
        ("the link is gone", "ip -n ns1 link del eth0", Some("/var/run/netns/ns1")),
        ("the address is gone", "ip -n ns1 addr flush dev eth0", Some("/var/run/netns/ns1")),
        ("the reservation is gone", "rm -rf /var/lib/cni/networks", Some("/var/run/netns/ns1")),
        ("the bridge is gone", "ip link del cni0", Some("/var/run/netns/ns1")),
    ] {
        for again in [false, true] {
            let (lab, config, before) = settled(&serde_json::from_str(GATEWAY).unwrap());
            lab.sh(script).success();
            let config = if again { merged(config, &json!({"prevResult": null})) } else { config };
            let call = lab.plugin("bridge").verb("DEL").config(&config);
            let call = netns.map_or_else(|| call.clone().without("CNI_NETNS"), |path| call.clone().netns(path));
            call.run().silent();
            call.run().silent();
            assert_nothing_of_it_is_left(&lab, what, again && netns.is_none());
            let comparable = !what.contains("bridge") && (!again || netns.is_some());
            if comparable {
                before.assert_same(&lab.snapshot());
            }
        }
    }
}

/// Without a namespace and without a result nobody can know the link.
fn assert_nothing_of_it_is_left(lab: &Lab, what: &str, link_is_unknown: bool) {
    assert_eq!(lab.reserved("net"), [""; 0], "{what}");
    assert_eq!(lab.rules(), [""; 0], "{what}");
    if !link_is_unknown {
        // The kernel takes a dead namespace's links down in its own time.
        wait_for(&format!("no link left where {what}"), || lab.veths().is_empty());
    }
}

#[test]
fn the_reference_agrees_where_del_finds_no_link_or_no_namespace() {
    for script in ["ip -n ns1 link del eth0", "ip netns del ns1"] {
        let (lab, config, _) = settled(&json!({"isGateway": true}));
        lab.sh(script).success();
        lab.plugin("bridge").verb("DEL").config(&config).run().silent();
        assert_eq!(lab.reserved("net"), [""; 0]);
        wait_for("no link left", || lab.veths().is_empty());
    }
}

#[test]
fn better_del_carries_on_past_a_failed_step_and_reports_it() {
    let (lab, config, _) = settled(&serde_json::from_str(GATEWAY).unwrap());
    let broken = merged(config, &json!({"ipam": {"type": "no-such-plugin"}}));
    lab.plugin("bridge").verb("DEL").config(&broken).run().fails_with(999, &["no-such-plugin"]);
    assert_eq!((lab.veths().len(), lab.rules().len()), (0, 0));
}

#[test]
fn better_del_needs_neither_arguments_nor_a_flavour_that_exist() {
    let (lab, config, before) = settled(&serde_json::from_str(GATEWAY).unwrap());
    let call = lab.plugin("bridge").verb("DEL").config(&config).args("nonsense").env("CNI_BOX_IPTABLES", "nonsense");
    call.run().silent();
    before.assert_same(&lab.snapshot());
}
