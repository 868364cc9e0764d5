//! What an ADD changes on a bridge that others use too, and how it is taken back.

use serde_json::{Value, json};

use crate::accidents::assert_untouched;
use crate::lab::{Lab, bridge_config, merged};

/// A configuration that changes the bridge in every way.
fn failing(changes: &Value) -> Value {
    bridge_config(&merged(json!({"isDefaultGateway": true, "ipMasq": true}), changes))
}

/// A bridge of the administrator's with a port that is no container's.
fn lab_with_foreign_port() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.ok("ip link add cni0 type bridge");
    lab.ok("ip link add foreign type veth peer name other");
    lab.ok("ip link set foreign master cni0 up");
    lab
}

/// Every ADD fails when its answer cannot be printed, after everything else was done.
fn add_without_reader(lab: &Lab, config: &Value, number: usize) -> String {
    lab.write(&format!("/run/lab/config{number}"), config.to_string());
    format!(
        "CNI_COMMAND=ADD CNI_CONTAINERID=c{number} CNI_NETNS=/var/run/netns/ns{number} CNI_IFNAME=eth0 \
         CNI_PATH=/opt/cni/bin /opt/cni/bin/bridge </run/lab/config{number} >/dev/full"
    )
}

#[test]
fn better_adds_that_fail_at_once_leave_neither_bridge_nor_address() {
    let lab = Lab::new();
    let numbers = 1..=8;
    numbers.clone().for_each(|number| drop(lab.netns(&format!("ns{number}"))));
    let before = lab.snapshot();
    for _ in 0..6 {
        let calls = numbers.clone().map(|number| add_without_reader(&lab, &failing(&json!({})), number) + " &");
        let script = calls.collect::<Vec<_>>().join("\n") + "\nwait";
        lab.sh(&script).success();
        before.assert_same(&lab.snapshot());
    }
}

#[test]
fn better_a_bridge_with_foreign_ports_is_as_it_was_after_a_failed_add() {
    for changes in [json!({}), json!({"promiscMode": true})] {
        let lab = lab_with_foreign_port();
        let before = lab.snapshot();
        let failed = lab.sh(&add_without_reader(&lab, &failing(&changes), 1));
        assert_eq!(failed.code, Some(1));
        assert_untouched(&lab, &before);
    }
}

#[test]
fn better_an_address_that_was_forced_away_comes_back_after_a_failed_add() {
    let lab = lab_with_foreign_port();
    lab.ok("ip link set cni0 up");
    lab.ok("ip addr add 10.7.0.9/24 dev cni0");
    let before = lab.snapshot();
    let failed = lab.sh(&add_without_reader(&lab, &failing(&json!({"forceAddress": true})), 1));
    assert_eq!(failed.code, Some(1));
    assert_untouched(&lab, &before);
}

#[test]
fn better_a_failed_add_does_not_take_the_bridge_from_others() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.netns("ns2");
    let living = lab.plugin("bridge").container("c2").netns("/var/run/netns/ns2");
    living.config(&failing(&json!({}))).run().result();
    let before = lab.snapshot();
    assert_eq!(lab.sh(&add_without_reader(&lab, &failing(&json!({})), 1)).code, Some(1));
    assert_untouched(&lab, &before);
    lab.ok("ip netns exec ns2 ping -c 1 -W 2 10.1.2.1");
}

#[test]
fn better_a_plugin_that_manages_no_addresses_is_refused_as_ipam() {
    let lab = Lab::new();
    lab.netns("ns1");
    let before = lab.snapshot();
    let text = "ipam type \"bridge\" is no address management plugin";
    for verb in ["ADD", "CHECK", "DEL"] {
        let config = bridge_config(&json!({"ipam": {"type": "bridge"}}));
        lab.plugin("bridge").verb(verb).config(&config).run().fails(7, text);
        assert_untouched(&lab, &before);
    }
}

#[test]
fn better_bridge_names_that_the_kernel_would_change_or_refuse_are_refused_first() {
    let lab = Lab::new();
    lab.netns("ns1");
    let before = lab.snapshot();
    for name in ["br%d", "a b", "a/b", "", "sixteen-letters-"] {
        let text = format!("failed to create bridge {name:?}: invalid interface name");
        lab.plugin("bridge").config(&failing(&json!({"bridge": name}))).run().fails(999, &text);
        assert_untouched(&lab, &before);
    }
}

#[test]
fn better_del_in_the_plugins_own_namespace_leaves_the_hosts_end_alone() {
    let lab = Lab::new();
    lab.netns("ns1");
    let config = bridge_config(&json!({}));
    let result = lab.plugin("bridge").config(&config).run().result();
    let veths = lab.veths();
    let with_result = merged(config, &json!({"prevResult": result}));
    let own = lab.plugin("bridge").verb("DEL").netns("/proc/self/ns/net").config(&with_result);
    own.run().fails(8, "plugin's netns and netns from CNI_NETNS should not be the same");
    assert_eq!(lab.veths(), veths);
    assert!(lab.reserved("net").is_empty(), "the address is given back");
}

#[test]
fn better_a_new_port_does_not_change_the_hardware_address_of_an_unpinned_bridge() {
    let lab = lab_with_foreign_port();
    lab.ok("ip link set cni0 up");
    lab.ok("ip link set foreign address fc:ff:ff:ff:ff:ff");
    lab.ok("ip link set other up");
    let address = |name: &str| lab.link(name)["address"].as_str().unwrap().to_string();
    let before = address("cni0");
    let result = lab.plugin("bridge").config(&bridge_config(&json!({"isGateway": false, "ipam": null}))).run().result();
    assert!(address(result["interfaces"][1]["name"].as_str().unwrap()).starts_with("fe:"), "{result}");
    assert_eq!((address("cni0"), result["interfaces"][0]["mac"].as_str()), (before.clone(), Some(before.as_str())));
}
