//! Configurations that work on no kernel: ADD, STATUS and `cnitool validate` refuse them alike, before anything is done. DEL and
//! GC still clean up after them, and what works today is not refused.

use serde_json::{Value, json};

use crate::lab::{Lab, merged};

/// An ipam of host-local with one range, which `range` makes.
pub fn ranged(range: Value) -> Value {
    json!({"type": "host-local", "ranges": [[range]]})
}

/// A network of 1.1.0, which has STATUS, with this ipam.
pub fn network(plugin: &str, ipam: Value, changes: &Value) -> Value {
    let base = json!({"cniVersion": "1.1.0", "name": "net", "type": plugin, "ipam": ipam});
    merged(base, changes)
}

pub fn lab() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.ok("ip link add m0 up type veth peer name m1");
    lab
}

/// ADD, STATUS and validate say this of the configuration, and ADD has not even begun.
fn refused(lab: &Lab, config: &Value, expected: &[&str]) {
    refused_by_verbs(lab, &["ADD", "STATUS"], config, expected);
}

/// The same of addresses that the next ADD can replace: STATUS is not told them.
fn refused_but_for_status(lab: &Lab, config: &Value, expected: &[&str]) {
    lab.plugin(config["type"].as_str().unwrap()).verb("STATUS").config(config).run().silent();
    refused_by_verbs(lab, &["ADD"], config, expected);
}

fn refused_by_verbs(lab: &Lab, verbs: &[&str], config: &Value, expected: &[&str]) {
    let before = lab.snapshot();
    let plugin = config["type"].as_str().unwrap();
    for verb in verbs {
        let (_, msg, details) = lab.plugin(plugin).verb(verb).config(config).run().error();
        let text = format!("{msg}; {details}");
        for part in expected {
            assert!(text.contains(part), "{part:?} is not in {text:?} of {verb} with {config}");
        }
    }
    validate_refuses(lab, config, expected);
    before.assert_same(&lab.snapshot());
    // Had host-local been asked, the network's directory would be left.
    assert!(!lab.exists("/var/lib/cni/networks/net"), "{config}");
}

pub fn validate_refuses(lab: &Lab, config: &Value, expected: &[&str]) {
    lab.write("/run/lab/n.conf", config.to_string());
    let outcome = lab.cnitool(&["validate", "/run/lab/n.conf"]).run();
    assert_eq!(outcome.code, Some(1), "{config}: {outcome:#?}");
    assert!(outcome.stdout.ends_with("1 error, 0 warnings\n"), "{config}: {outcome:#?}");
    for part in expected {
        assert!(outcome.stdout.contains(part), "{part:?} in {outcome:#?}");
    }
}

#[test]
fn better_ranges_that_lead_nowhere_are_refused() {
    let lab = lab();
    for (range, expected) in [
        (
            json!({"subnet": "10.70.0.0/24", "rangeStart": "10.70.0.255"}),
            &["RangeStart 10.70.0.255 not in network 10.70.0.0/24", "rangeEnd, which is missing, would be 10.70.0.254"]
                [..],
        ),
        (
            json!({"subnet": "255.255.255.252/30", "rangeStart": "255.255.255.255"}),
            &["RangeStart 255.255.255.255 not in network 255.255.255.252/30"],
        ),
        (
            json!({"subnet": "0.0.0.0/0", "rangeStart": "0.0.0.0", "gateway": "0.0.0.1"}),
            &["RangeStart 0.0.0.0 is no address of an interface"],
        ),
        (json!({"subnet": "::/64", "rangeStart": "::", "gateway": "::1"}), &["RangeStart :: is no address"]),
        (json!({"subnet": "ff05::/64"}), &["RangeStart ff05::1 is no address of an interface"]),
        (
            json!({"subnet": "10.70.0.0/24", "rangeStart": "10.70.0.1", "rangeEnd": "10.70.0.1"}),
            &["failed to allocate for range 0: no IP addresses available in range set: 10.70.0.1-10.70.0.1"],
        ),
        (json!({"subnet": "10.70.0.0/24", "rangeEnd": "10.70.0.0"}), &["RangeEnd 10.70.0.0 not in network"]),
        (json!({"subnet": "10.70.0.0/31"}), &["Network 10.70.0.0/31 too small to allocate from"]),
    ] {
        for plugin in ["host-local", "bridge", "ptp"] {
            refused_by(&lab, plugin, &range, expected);
        }
    }
}

/// As one set, and as the second one behind a good one.
fn refused_by(lab: &Lab, plugin: &str, range: &Value, expected: &[&str]) {
    let config = network(plugin, ranged(range.clone()), &json!({}));
    // By itself it stands in no list, of which validate warns.
    match plugin {
        "host-local" => {
            let (_, msg, details) = lab.plugin(plugin).config(&config).run().error();
            let text = format!("{msg}; {details}");
            assert!(expected.iter().all(|part| text.contains(part)), "{text:?} and {expected:?}");
        }
        _ => refused(lab, &config, expected),
    }
    let second = merged(config, &json!({"ipam": {"ranges": [[{"subnet": "10.99.0.0/24"}], [range]]}}));
    assert!(!lab.plugin(plugin).config(&second).run().error().1.is_empty());
    assert!(!lab.exists("/var/lib/cni/networks/net"), "{second}");
}

#[test]
fn better_a_gateway_that_cannot_be_one_is_refused() {
    let lab = lab();
    let gateway = json!({"isGateway": true});
    let default_gateway = json!({"isDefaultGateway": true});
    let plain_route = json!({"isGateway": true, "ipam": {"routes": [{"dst": "10.9.0.0/16"}]}});
    let range = |subnet: &str, gateway: &str| ranged(json!({"subnet": subnet, "gateway": gateway}));
    let address = |address: &str, gateway: &str| json!({"type": "static", "addresses": [{"address": address, "gateway": gateway}]});
    let invalid = |ip: &str| format!("invalid gateway {ip}: the container cannot reach it from ");
    for (ipam, changes, ip) in [
        (range("fd00:70::/64", "10.70.0.1"), &gateway, "10.70.0.1"),
        (range("fd00:70::/64", "::"), &gateway, "::"),
        (range("10.70.0.0/24", "fd00:70::1"), &default_gateway, "fd00:70::1"),
        (range("10.70.0.0/24", "fe80::1"), &default_gateway, "fe80::1"),
        (range("10.70.0.0/24", "10.71.0.1"), &default_gateway, "10.71.0.1"),
        (range("10.70.0.0/24", "10.71.0.1"), &plain_route, "10.71.0.1"),
        (range("fd00:70::/64", "fd00:71::1"), &default_gateway, "fd00:71::1"),
        (range("10.70.0.0/24", "0.0.0.0"), &default_gateway, "0.0.0.0"),
        (range("10.70.0.0/24", "0.0.0.0"), &plain_route, "0.0.0.0"),
    ] {
        refused(&lab, &network("bridge", ipam, changes), &[&invalid(ip)]);
    }
    for (ipam, changes, ip) in [
        (address("10.70.0.2/24", "fd00:70::1"), &default_gateway, "fd00:70::1"),
        (address("10.70.0.2/24", "0.0.0.0"), &default_gateway, "0.0.0.0"),
        (address("fd00:70::2/64", "10.70.0.1"), &default_gateway, "10.70.0.1"),
    ] {
        refused_but_for_status(&lab, &network("bridge", ipam, changes), &[&invalid(ip)]);
    }
    for ipam in [range("10.70.0.0/24", "fd00:70::1"), range("10.70.0.0/24", "0.0.0.0")] {
        refused(&lab, &network("ptp", ipam, &json!({})), &["gave 10.70.0.", " no IPv4 gateway"]);
    }
    let static_gateway = network("ptp", address("10.70.0.2/24", "fd00:70::1"), &json!({}));
    refused_but_for_status(&lab, &static_gateway, &["gave 10.70.0.", " no IPv4 gateway"]);
}

/// Where only the IPAM plugin knows the addresses, the bridge does not succeed either.
#[test]
fn better_a_gateway_of_the_other_family_is_refused_from_any_ipam_plugin() {
    let lab = lab();
    let result = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.70.0.2/24","gateway":"fd00::1"}],"routes":[{"dst":"0.0.0.0/0"}]}"#;
    lab.executable(
        "/run/lab/bin/mine",
        &format!("#!/bin/sh\ncat >/dev/null; [ $CNI_COMMAND = ADD ] && echo '{result}'; exit 0"),
    );
    let before = lab.snapshot();
    let config = network("bridge", json!({"type": "mine"}), &json!({"isGateway": true}));
    let outcome = lab.plugin("bridge").env("CNI_PATH", "/opt/cni/bin:/run/lab/bin").config(&config).run();
    outcome.fails_with(999, &["invalid gateway fd00::1"]);
    before.assert_same(&lab.snapshot());
}

/// A route that takes its gateway from addresses has none if they only have one of the other family.
#[test]
fn better_a_default_route_without_a_gateway_of_its_family_is_refused() {
    let lab = lab();
    for (subnet, gateway, dst) in [
        ("10.70.0.0/24", "fd00:70::1", "0.0.0.0/0"),
        ("fd00:70::/64", "10.70.0.1", "::/0"),
        ("10.70.0.0/24", "fd00:70::1", "10.9.0.0/16"),
    ] {
        let ipam = merged(ranged(json!({"subnet": subnet, "gateway": gateway})), &json!({"routes": [{"dst": dst}]}));
        for (plugin, changes) in [
            ("bridge", json!({})),
            ("macvlan", json!({"master": "m0"})),
            ("tap", json!({})),
            ("host-device", json!({"device": "m1"})),
        ] {
            let expected = [&format!("invalid gateway {gateway}"), "would have none"];
            refused(&lab, &network(plugin, ipam.clone(), &changes), &expected.map(|part| part));
        }
    }
}

#[test]
fn better_routes_that_no_kernel_takes_are_refused_before_anything_is_done() {
    let lab = lab();
    let gateway = json!({"isGateway": true});
    let routes = |routes: Value| merged(ranged(json!({"subnet": "10.70.0.0/24"})), &json!({"routes": routes}));
    for (list, expected) in [
        (json!([{"dst": "10.9.1.1/16"}]), &["failed to add route '10.9.1.1/16", "dst has host bits set"][..]),
        (json!([{"dst": "0.0.0.0/0"}, {"dst": "0.0.0.0/0", "gw": "10.70.0.1"}]), &["file exists", "the same route"]),
        (json!([{"dst": "0.0.0.0/0", "gw": "fd00::1"}]), &["gw is not of the address family of dst"]),
        (json!([{"dst": "::/0", "gw": "10.70.0.1"}]), &["gw is not of the address family of dst"]),
        (
            json!([{"dst": "10.9.0.0/16", "gw": "10.200.0.1"}]),
            &["network is unreachable", "10.200.0.1 is in no subnet"],
        ),
        (json!([{"dst": "fd09::/64", "gw": "fd00::1"}]), &["no route to host", "fd00::1 is in no subnet"]),
        (
            json!([{"dst": "10.9.0.0/16", "gw": "10.70.0.255"}]),
            &["10.70.0.255 is the broadcast address of 10.70.0.0/24"],
        ),
        (json!([{"dst": "10.9.0.0/16", "priority": -1}]), &["bad metric"]),
        (json!([{"gw": "10.70.0.1"}]), &["has no destination"]),
    ] {
        for (plugin, changes) in [("bridge", &gateway), ("ptp", &json!({})), ("macvlan", &json!({"master": "m0"}))] {
            refused_with(&lab, &network(plugin, routes(list.clone()), changes), expected);
        }
    }
}

/// Words about numbers differ from plugin to plugin, and validate has its own.
fn refused_with(lab: &Lab, config: &Value, expected: &[&str]) {
    let special = expected.first().is_some_and(|part| ["bad metric", "has no destination"].contains(part));
    refused(lab, config, if special { &[] } else { expected });
}

#[test]
fn better_numbers_and_names_that_no_kernel_takes_are_refused() {
    let lab = lab();
    let v4 = || ranged(json!({"subnet": "10.70.0.0/24"}));
    let v6 = || ranged(json!({"subnet": "fd00:70::/64"}));
    for mtu in [60, 67, 65536, 100_000] {
        let expected = format!("mtu {mtu} is not between 68 and 65535");
        for plugin in ["bridge", "ptp", "tap"] {
            refused(&lab, &network(plugin, v4(), &json!({"mtu": mtu})), &["invalid argument", &expected]);
        }
    }
    refused(&lab, &network("macvlan", v4(), &json!({"master": "m0", "mtu": 65536})), &["invalid MTU 65536"]);
    for (plugin, changes) in [("bridge", json!({})), ("ptp", json!({})), ("macvlan", json!({"master": "m0"}))] {
        let config = network(plugin, v6(), &merged(changes, &json!({"mtu": 1279})));
        refused(&lab, &config, &["invalid mtu 1279: IPv6 needs at least 1280"]);
    }
    for mac in ["01:00:5e:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"] {
        for (plugin, changes) in [
            ("bridge", json!({"args": {"cni": {"mac": mac}}})),
            ("macvlan", json!({"master": "m0", "mac": mac})),
            ("tap", json!({"mac": mac})),
        ] {
            let expected = ["cannot assign requested address", &format!("mac {mac} is ")];
            refused(&lab, &network(plugin, v4(), &changes), &expected);
        }
    }
    for name in [".", "..", "a b", "a/b", "sixteen-letters-"] {
        let config = network("bridge", v4(), &json!({"bridge": name}));
        refused(&lab, &config, &["failed to create bridge", "invalid interface name"]);
    }
    let long = "m".repeat(128);
    refused(&lab, &network("macvlan", v4(), &json!({"master": long})), &["failed to lookup master"]);
}

/// 0.1.0 and 0.2.0 have no result without an address.
#[test]
fn better_a_result_without_addresses_is_refused_first_where_the_version_has_none() {
    let lab = lab();
    for version in ["0.2.0", "0.1.0", ""] {
        for (plugin, changes) in [("bridge", json!({})), ("tap", json!({})), ("host-device", json!({"device": "m1"}))] {
            let config = json!({"name": "net", "type": plugin, "cniVersion": version});
            let config = merged(config, &changes);
            let before = lab.snapshot();
            lab.plugin(plugin).config(&config).run().fails_with(999, &["cannot convert: no valid IP addresses"]);
            before.assert_same(&lab.snapshot());
            validate_refuses(&lab, &config, &["cannot convert: no valid IP addresses"]);
        }
    }
}

/// Plugin, changes to its configuration, and an ipam.
type Case = (&'static str, Value, Value);

/// What a kernel makes, with addresses and gateways of host-local.
fn ranges_that_work() -> Vec<Case> {
    let range = |range: Value, routes: Value| merged(ranged(range), &json!({"routes": routes}));
    vec![
        ("bridge", json!({}), range(json!({"subnet": "fd00:70::/64", "gateway": "fe80::1"}), json!([{"dst": "::/0"}]))),
        ("macvlan", json!({"master": "m0"}), range(json!({"subnet": "10.70.0.0/24", "gateway": "fd00::1"}), json!([]))),
        (
            "macvlan",
            json!({"master": "m0"}),
            range(json!({"subnet": "10.70.0.0/24", "gateway": "10.71.0.1"}), json!([])),
        ),
        (
            "bridge",
            json!({}),
            range(json!({"subnet": "10.70.0.0/24", "gateway": "10.70.0.254"}), json!([{"dst": "0.0.0.0/0"}])),
        ),
        (
            "bridge",
            json!({"isGateway": true}),
            range(json!({"subnet": "10.70.0.0/24", "rangeStart": "10.70.0.0", "rangeEnd": "10.70.0.255"}), json!([])),
        ),
        (
            "bridge",
            json!({"isGateway": true}),
            range(
                json!({"subnet": "10.70.0.0/30"}),
                json!([{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.70.0.1"}]),
            ),
        ),
        (
            "bridge",
            json!({"mtu": 68}),
            range(
                json!({"subnet": "10.70.0.0/24"}),
                json!([{"dst": "10.9.0.0/16"}, {"dst": "10.9.0.0/16", "gw": "10.70.0.3"}]),
            ),
        ),
    ]
}

/// Gateways outside the subnet that no route needs, or to which a route leads over the link.
fn gateways_that_work() -> Vec<Case> {
    let range = |range: Value, routes: Value| merged(ranged(range), &json!({"routes": routes}));
    [
        range(
            json!({"subnet": "10.70.0.0/24", "gateway": "10.71.0.1"}),
            json!([{"dst": "10.9.0.0/16", "gw": "10.70.0.3"}]),
        ),
        range(json!({"subnet": "10.70.0.0/24", "gateway": "fd00:70::1"}), json!([])),
        range(json!({"subnet": "fd00:70::/64", "gateway": "fd00:71::1"}), json!([])),
        range(
            json!({"subnet": "10.70.0.0/24", "gateway": "169.254.1.1"}),
            json!([
                {"dst": "169.254.1.1/32", "gw": "0.0.0.0", "scope": 253},
                {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
            ]),
        ),
        range(
            json!({"subnet": "fd00:70::/64", "gateway": "fd77::1"}),
            json!([{"dst": "fd77::1/128", "gw": "::"}, {"dst": "::/0"}]),
        ),
    ]
    .map(|ipam| ("bridge", json!({"isGateway": true}), ipam))
    .into()
}

/// The same with addresses that the configuration names.
fn addresses_that_work() -> Vec<Case> {
    let on_link = json!([{"dst": "169.254.1.1/32", "scope": 253}, {"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]);
    let full =
        |gateway: &str| json!({"type": "static", "addresses": [{"address": "10.70.0.9/32", "gateway": gateway}]});
    vec![
        (
            "macvlan",
            json!({"master": "m0"}),
            json!({"type": "static", "addresses": [{"address": "10.70.0.9/32"}], "routes": on_link}),
        ),
        ("bridge", json!({"isGateway": true}), full("169.254.1.1")),
        ("bridge", json!({"isGateway": true}), full("0.0.0.0")),
        ("bridge", json!({}), json!({"type": "static", "addresses": [{"address": "10.70.0.9/32"}], "routes": on_link})),
        ("macvlan", json!({"master": "m0"}), full("169.254.1.1")),
        (
            "bridge",
            json!({"isGateway": true}),
            json!({"type": "static", "addresses": [{"address": "10.70.0.9/24", "gateway": "10.71.0.1"}]}),
        ),
    ]
}

/// A kernel makes all of this, and the reference 1.9.1 does too.
#[test]
fn newer_what_works_is_not_refused() {
    let lab = lab();
    let cases = [ranges_that_work(), gateways_that_work(), addresses_that_work()].concat();
    for (plugin, changes, ipam) in cases {
        let config = merged(network(plugin, ipam, &changes), &json!({"cniVersion": "1.0.0"}));
        let added = lab.plugin(plugin).config(&config).run().result();
        assert_eq!(added["ips"].as_array().unwrap().len(), 1, "{config}");
        lab.plugin(plugin).verb("DEL").config(&merged(config.clone(), &json!({"prevResult": added}))).run().silent();
        lab.sh("ip link del cni0; rm -rf /var/lib/cni/networks");
        if !crate::lab::reference_mode() {
            lab.write("/run/lab/n.conf", config.to_string());
            lab.cnitool(&["validate", "/run/lab/n.conf"]).run().success();
        }
    }
}

#[test]
fn better_a_ptp_reaches_a_gateway_outside_the_subnet() {
    let lab = lab();
    let elsewhere = network(
        "ptp",
        ranged(json!({"subnet": "10.70.0.0/24", "gateway": "169.254.1.1"})),
        &json!({"ipam": {"routes": [{"dst": "0.0.0.0/0"}]}}),
    );
    lab.plugin("ptp").config(&merged(elsewhere, &json!({"cniVersion": "1.0.0"}))).run().result();
}

/// An attachment from before the configuration was refused ends as ever.
#[test]
fn better_del_and_gc_need_no_configuration_that_works() {
    let lab = lab();
    let good = network("bridge", ranged(json!({"subnet": "10.70.0.0/24"})), &json!({"isGateway": true}));
    let bad = [
        json!({"ipam": ranged(json!({"subnet": "10.70.0.0/24", "rangeStart": "10.70.0.255"}))}),
        json!({"ipam": ranged(json!({"subnet": "10.70.0.0/24", "gateway": "fd00::1"}))}),
        json!({"ipam": {"routes": [{"dst": "10.9.1.1/16"}]}}),
        json!({"mtu": 60}),
    ];
    for changes in &bad {
        let bad = merged(good.clone(), changes);
        for verb in ["DEL", "GC"] {
            let added = lab.plugin("bridge").config(&good).run().result();
            assert_eq!(lab.reserved("net").len(), 1);
            let told = match verb {
                "DEL" => json!({"prevResult": added}),
                _ => json!({"cni.dev/valid-attachments": []}),
            };
            lab.plugin("bridge").verb(verb).config(&merged(bad.clone(), &told)).run().silent();
            assert_eq!(lab.reserved("net"), [""; 0], "{verb} with {bad}");
            lab.ok("ip netns del ns1");
            lab.netns("ns1");
        }
    }
}
