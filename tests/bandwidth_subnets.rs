//! `bandwidth` with `shapedSubnets` and `unshapedSubnets`: limits that depend on the remote address.

use serde_json::{Value, json};

use crate::bandwidth::{IFB, assert_limited, attached, host_end, run, settle, throughput, traffic_control};
use crate::cross::Side::{Ours, Theirs};
use crate::lab::{Lab, merged};

const RATE: f64 = 20_000_000.0;

fn limited(changes: &Value) -> Value {
    merged(json!({"ingressRate": 20_000_000, "egressRate": 20_000_000, "cniVersion": "1.1.0"}), changes)
}

/// Addresses of the host that are in no list.
fn second_addresses(lab: &Lab) {
    lab.ok("ip addr add 10.1.2.200/24 dev cni0");
    // Not for what the host begins by itself.
    lab.ok("ip addr add fd00:1:2::200/64 dev cni0 nodad preferred_lft 0");
}

#[test]
fn newer_only_listed_networks_are_limited_in_both_directions() {
    let (lab, config) = attached(&limited(&json!({"shapedSubnets": ["10.1.2.1/32", "fd00:1:2::1/128"]})));
    second_addresses(&lab);
    run(&lab, Ours, "ADD", &config).result();
    run(&lab, Ours, "CHECK", &config).silent();
    run(&lab, Ours, "STATUS", &config).silent();
    settle(&lab);
    for (from, to, address) in
        [("", "ns1", "10.1.2.2"), ("", "ns1", "fd00:1:2::2"), ("ns1", "", "10.1.2.1"), ("ns1", "", "fd00:1:2::1")]
    {
        assert_limited(&lab, from, to, address);
    }
    for address in ["10.1.2.200", "fd00:1:2::200"] {
        assert!(throughput(&lab, "ns1", "", address) > 2.0 * RATE);
    }
}

#[test]
fn newer_listed_networks_are_not_limited_in_either_direction() {
    let (lab, config) = attached(&limited(&json!({"unshapedSubnets": ["10.1.2.1/32", "fd00:1:2::1/128"]})));
    second_addresses(&lab);
    run(&lab, Ours, "ADD", &config).result();
    run(&lab, Ours, "CHECK", &config).silent();
    settle(&lab);
    for address in ["10.1.2.200", "fd00:1:2::200"] {
        assert_limited(&lab, "ns1", "", address);
    }
    for (from, to, address) in
        [("", "ns1", "10.1.2.2"), ("", "ns1", "fd00:1:2::2"), ("ns1", "", "10.1.2.1"), ("ns1", "", "fd00:1:2::1")]
    {
        assert!(throughput(&lab, from, to, address) > 2.0 * RATE, "{from} {to} {address}");
    }
}

#[test]
fn newer_what_it_is_made_of() {
    let subnets = json!(["10.0.0.0/8", "fd00:1::/48"]);
    for (key, default, class) in [("shapedSubnets", "default 0", "1:30"), ("unshapedSubnets", "default 0x30", "1:")] {
        let (lab, config) = attached(&limited(&json!({key: subnets})));
        run(&lab, Ours, "ADD", &config).result();
        for (link, v4, v6) in [(host_end(&config).as_str(), 12, [8, 12]), (IFB, 16, [24, 28])] {
            let qdiscs = lab.ok(&format!("tc qdisc show dev {link}"));
            assert!(qdiscs.contains("htb 1: root") && qdiscs.contains(default) && qdiscs.contains("bfifo"), "{qdiscs}");
            let class_line = lab.ok(&format!("tc class show dev {link}"));
            assert!(
                class_line.contains("htb 1:30 root") && class_line.contains("rate 20Mbit ceil 40Mbit"),
                "{class_line}"
            );
            let filters = lab.ok(&format!("tc filter show dev {link} parent 1:"));
            for part in [
                format!("flowid {class}"),
                format!("match 0a000000/ff000000 at {v4}"),
                format!("match fd000001/ffffffff at {}", v6[0]),
                format!("match 00000000/ffff0000 at {}", v6[1]),
            ] {
                assert!(filters.contains(&part), "{part} in {filters}");
            }
        }
        let older = json!({"cniVersion": "1.0.0", "prevResult": null, "ingressRate": null, "egressRate": null});
        run(&lab, Theirs, "DEL", &merged(config.clone(), &older)).silent();
        run(&lab, Ours, "DEL", &config).silent();
        assert!(!traffic_control(&lab).iter().any(|line| line.contains("htb") || line.contains("ingress")));
    }
}

#[test]
pub fn newer_a_second_add_changes_between_the_kinds() {
    let plain = limited(&json!({}));
    let (lab, config) = attached(&plain);
    let subnets = merged(config.clone(), &json!({"unshapedSubnets": ["10.0.0.0/8"]}));
    let other = merged(config.clone(), &json!({"shapedSubnets": ["0.0.0.0/0"], "egressRate": 5_000_000}));
    for config in [&config, &subnets, &other, &config] {
        run(&lab, Ours, "ADD", config).result();
        run(&lab, Ours, "CHECK", config).silent();
    }
    run(&lab, Ours, "CHECK", &subnets).fails_with(999, &["Failed to find qdisc"]);
    run(&lab, Ours, "ADD", &subnets).result();
    run(&lab, Ours, "CHECK", &other).fails_with(999, &["the filters of subnets differ"]);
    run(&lab, Ours, "CHECK", &merged(subnets.clone(), &json!({"ingressRate": 1_000_000})))
        .fails(999, "Rate doesn't match");
    let (fresh, config) = attached(&plain);
    run(&lab, Ours, "ADD", &merged(subnets, &json!({"unshapedSubnets": null}))).result();
    run(&fresh, Ours, "ADD", &config).result();
    assert_eq!(traffic_control(&lab), traffic_control(&fresh));
}

#[test]
fn newer_networks_that_are_none_are_refused() {
    let (lab, config) = attached(&limited(&json!({})));
    let before = (lab.snapshot(), traffic_control(&lab));
    for (changes, text) in [
        (
            json!({"shapedSubnets": ["10.0.0.0/8"], "unshapedSubnets": ["10.1.0.0/16"]}),
            "unshapedSubnets and shapedSubnets cannot be both specified, one of them should be discarded",
        ),
        (
            json!({"shapedSubnets": ["10.0.0.0"]}),
            "bad subnet \"10.0.0.0\" provided, details invalid CIDR address: 10.0.0.0",
        ),
        (
            json!({"unshapedSubnets": [7]}),
            "failed to parse network configuration: json: cannot unmarshal number 7 into key \"unshapedSubnets\" of type string",
        ),
    ] {
        run(&lab, Ours, "ADD", &merged(config.clone(), &changes)).fails(999, text);
    }
    before.0.assert_same(&lab.snapshot());
    assert_eq!(traffic_control(&lab), before.1);
}
