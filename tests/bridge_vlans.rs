//! bridge: port isolation, and what of the VLAN keys can be seen on every kernel. What filters is below tests/guest.

use serde_json::{Value, json};

use crate::accidents::assert_untouched;
use crate::lab::{Call, Lab, bridge_config, merged};

/// A call for container `cN` in `nsN`.
fn call<'a>(lab: &'a Lab, number: usize, config: &Value) -> Call<'a> {
    let netns = format!("/var/run/netns/ns{number}");
    lab.plugin("bridge").container(&format!("c{number}")).netns(&netns).config(config)
}

fn pings(lab: &Lab, number: usize, address: &str) -> bool {
    lab.run(&["ip", "netns", "exec", &format!("ns{number}"), "ping", "-n", "-c", "1", "-W", "1", address]).code
        == Some(0)
}

#[test]
fn newer_isolated_ports_hear_the_gateway_and_those_that_are_not_isolated() {
    let lab = Lab::new();
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    let config = bridge_config(&json!({"isDefaultGateway": true, "ipam": {"subnet": null, "ranges": ranges}}));
    for (number, isolated) in [(1, true), (2, true), (3, false)] {
        lab.netns(&format!("ns{number}"));
        let config = merged(config.clone(), &json!({"portIsolation": isolated}));
        let result = call(&lab, number, &config).run().result();
        let port = lab.link(result["interfaces"][1]["name"].as_str().unwrap());
        assert_eq!(port["linkinfo"]["info_slave_data"]["isolated"], isolated, "{port}");
        let checked = merged(config, &json!({"prevResult": result}));
        call(&lab, number, &checked).verb("CHECK").run().silent();
    }
    for prefix in ["10.1.2.", "fd00:1:2::"] {
        assert!(pings(&lab, 1, &format!("{prefix}1")), "the gateway");
        assert!(pings(&lab, 1, &format!("{prefix}4")) && pings(&lab, 3, &format!("{prefix}2")), "no isolated port");
        assert!(!pings(&lab, 1, &format!("{prefix}3")) && !pings(&lab, 2, &format!("{prefix}2")), "two isolated ports");
    }
    call(&lab, 1, &config).verb("DEL").run().silent();
    assert_eq!(lab.veths().len(), 2);
}

#[test]
fn newer_isolation_and_hairpin_mode_go_together() {
    let lab = Lab::new();
    lab.netns("ns1");
    let result = call(&lab, 1, &bridge_config(&json!({"portIsolation": true, "hairpinMode": true}))).run().result();
    let port = lab.link(result["interfaces"][1]["name"].as_str().unwrap());
    let data = &port["linkinfo"]["info_slave_data"];
    assert_eq!((&data["isolated"], &data["hairpin"]), (&json!(true), &json!(true)));
}

#[test]
fn better_check_sees_that_a_port_is_not_isolated_any_more() {
    let lab = Lab::new();
    lab.netns("ns1");
    let mut config = bridge_config(&json!({"portIsolation": true}));
    let result = call(&lab, 1, &config).run().result();
    let port = result["interfaces"][1]["name"].as_str().unwrap().to_string();
    config["prevResult"] = result;
    lab.ok(&format!("bridge link set dev {port} isolated off"));
    call(&lab, 1, &config).verb("CHECK").run().fails(999, &format!("Interface {port} is not isolated"));
}

/// Changes to the configuration, and the words of the refusal.
fn nonsense() -> Vec<(Value, String)> {
    let trunk = |trunk: Value, words: &str| (json!({"vlanTrunk": trunk}), words.to_string());
    let range = |id: i64| format!("invalid VLAN ID {id} (must be between 0 and 4094)");
    let both = "minID and maxID should be configured simultaneously,";
    vec![
        (json!({"vlan": -1}), range(-1)),
        (json!({"vlan": 4095}), range(4095)),
        trunk(json!([{"minID": 0, "maxID": 5}]), "incorrect trunk minID parameter"),
        trunk(json!([{"minID": 1, "maxID": 4095}]), "incorrect trunk maxID parameter"),
        trunk(json!([{"id": 5}, {"id": 0}]), "incorrect trunk id parameter"),
        trunk(json!([{"id": 4095}]), "incorrect trunk id parameter"),
        trunk(json!([{"minID": 6, "maxID": 5}]), "minID is greater than maxID in trunk parameter"),
        trunk(json!([{"maxID": 5}]), &format!("{both} minID is missing")),
        trunk(json!([{"minID": 5}]), &format!("{both} maxID is missing")),
    ]
}

#[test]
fn newer_nonsense_is_refused_in_the_references_words_before_anything_is_done() {
    let lab = Lab::new();
    lab.netns("ns1");
    let before = lab.snapshot();
    for (changes, words) in nonsense() {
        for verb in ["ADD", "CHECK"] {
            call(&lab, 1, &bridge_config(&changes)).verb(verb).run().fails(999, &words);
        }
    }
    assert_untouched(&lab, &before);
}

#[test]
fn better_nonsense_that_crashes_the_reference_or_fails_late_is_refused_first() {
    let lab = Lab::new();
    lab.netns("ns1");
    let before = lab.snapshot();
    let null = bridge_config(&json!({"vlanTrunk": [{"id": 5}, null]}));
    call(&lab, 1, &null).run().fails(999, "incorrect trunk id parameter");
    let long = bridge_config(&json!({"vlan": 1000, "isGateway": true, "bridge": "a-long-name"}));
    let words = "failed to create vlan interface: invalid interface name \"a-long-name.1000\"";
    call(&lab, 1, &long).run().fails(999, words);
    assert_untouched(&lab, &before);
}

#[test]
fn better_del_does_not_mind_nonsense() {
    let lab = Lab::new();
    lab.netns("ns1");
    call(&lab, 1, &bridge_config(&json!({}))).run().result();
    call(&lab, 1, &bridge_config(&json!({}))).verb("DEL").run().silent();
    let before = lab.snapshot();
    for (changes, _) in nonsense() {
        call(&lab, 1, &bridge_config(&json!({}))).run().result();
        call(&lab, 1, &bridge_config(&changes)).verb("DEL").run().silent();
        assert_untouched(&lab, &before);
    }
}

/// On a kernel that does filter, these are successes.
#[test]
fn better_a_kernel_without_vlan_filtering_is_named_and_nothing_stays() {
    let filters = Lab::bare().sh("ip link add br0 type bridge vlan_filtering 1").code == Some(0);
    for (exists, refused) in [(false, "failed to create bridge"), (true, "failed to setup vlan tag on interface")] {
        for changes in [json!({"vlan": 100, "isGateway": true}), json!({"vlanTrunk": [{"id": 5}]})] {
            let lab = Lab::new();
            lab.netns("ns1");
            if exists {
                lab.ok("ip link add cni0 address 02:00:00:00:00:07 type bridge");
            }
            let before = lab.snapshot();
            let outcome = call(&lab, 1, &bridge_config(&changes)).run();
            if filters {
                outcome.result();
                continue;
            }
            let words = [refused, "not supported", "the kernel has no VLAN filtering for bridges"];
            outcome.fails_with(999, &words);
            assert_untouched(&lab, &before);
        }
    }
}

#[test]
fn keys_that_ask_for_nothing_need_no_filtering() {
    let lab = Lab::new();
    lab.netns("ns1");
    let empty = json!({"vlan": 0, "vlanTrunk": null, "preserveDefaultVlan": true, "portIsolation": false});
    let mut config = bridge_config(&merged(json!({"isGateway": true}), &empty));
    config["vlanTrunk"] = Value::Null;
    config["prevResult"] = call(&lab, 1, &config).run().result();
    assert_eq!(lab.addresses("", "cni0"), ["10.1.2.1/24"]);
    call(&lab, 1, &config).verb("CHECK").run().silent();
}
