//! Results: their bytes in every version, conversion, and what a previous result becomes (`protocol.md` 10 to 13).

use serde_json::{Value, json};

use crate::lab::{Lab, bridge_config, merged, static_config};
use crate::protocol::{PLUGINS, config, versions};

#[test]
fn every_version_adds_checks_and_deletes() {
    let lab = Lab::new();
    lab.netns("ns1");
    for plugin in PLUGINS {
        for version in versions() {
            let mut config = config(plugin, version);
            let call = lab.plugin(plugin).config(&config);
            let result = call.run().result();
            assert_eq!(result["cniVersion"], *version, "{plugin}");
            config["prevResult"] = result;
            if *version >= "0.4.0" {
                call.clone().verb("CHECK").config(&config).run().silent();
            }
            call.verb("DEL").config(&config).run().silent();
        }
    }
}

#[test]
fn a_missing_version_answers_in_the_shape_of_0_1_0() {
    let lab = Lab::new();
    for version in [json!(null), json!("")] {
        let mut config = config("static", "1.0.0");
        config["cniVersion"] = version;
        let result = lab.plugin("static").config(&config).run().result();
        assert_eq!(result, json!({"cniVersion": "0.1.0", "ip4": {"ip": "10.1.2.3/24"}, "dns": {}}));
    }
}

#[test]
fn output_escapes_what_html_would_read() {
    let lab = Lab::new();
    for version in ["0.2.0", "0.4.0", "1.0.0"] {
        let mut config = config("static", version);
        config["ipam"]["dns"] = json!({"domain": "<a>&\u{2028}\u{2029}\"\\\n\u{1}é"});
        let outcome = lab.plugin("static").config(&config).run().success();
        let text = r#""domain": "\u003ca\u003e\u0026\u2028\u2029\"\\\n\u0001é""#;
        assert!(outcome.stdout.contains(text), "{outcome:#?}");
    }
}

/// A loopback ADD with a previous result, in a configuration of `version`.
fn with_previous(lab: &Lab, version: &str, previous: &Value) -> crate::lab::Outcome {
    let mut config = config("loopback", version);
    config["prevResult"] = previous.clone();
    lab.plugin("loopback").config(&config).run()
}

#[test]
fn a_previous_result_inherits_the_version_of_the_configuration() {
    let lab = Lab::new();
    lab.netns("ns1");
    let previous = json!({"ips": [{"version": "4", "address": "10.1.2.3/24"}]});
    let result = with_previous(&lab, "0.4.0", &previous).result();
    assert_eq!(result, json!({"cniVersion": "0.4.0", "ips": previous["ips"], "dns": {}}));
}

#[test]
fn a_previous_result_of_the_same_family_is_brought_to_the_version_of_the_configuration() {
    let lab = Lab::new();
    lab.netns("ns1");
    let previous = json!({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.1.2.3/24"}]});
    assert_eq!(with_previous(&lab, "0.4.0", &previous).result()["cniVersion"], "0.4.0");
}

#[test]
fn better_a_previous_result_of_another_family_is_converted() {
    let lab = Lab::new();
    lab.netns("ns1");
    let previous = json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.2.3/24"}], "dns": {}});
    let result = with_previous(&lab, "1.0.0", &previous).result();
    assert_eq!(result, json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24"}]}));
    let new = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "e", "mtu": 9}],
        "ips": [{"address": "10.1.2.3/24"}, {"address": "::1/128"}], "routes": [{"dst": "::/0", "mtu": 7}]});
    let result = with_previous(&lab, "0.2.0", &new).result();
    let ip6 = json!({"ip": "::1/128", "routes": [{"dst": "::/0"}]});
    assert_eq!(result, json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.2.3/24"}, "ip6": ip6, "dns": {}}));
}

#[test]
fn better_an_empty_version_in_a_previous_result_counts_as_absent() {
    let lab = Lab::new();
    lab.netns("ns1");
    let previous = json!({"cniVersion": "", "ips": [{"address": "10.1.2.3/24"}]});
    assert_eq!(with_previous(&lab, "1.0.0", &previous).result()["cniVersion"], "1.0.0");
}

/// static with everything that a result can carry in every family.
fn full_static(version: &str) -> Value {
    let ipam = json!({"addresses": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}, {"address": "2001:db8::3/64"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.2.9"}, {"dst": "::/0", "gw": "2001:db8::1"}],
        "dns": {"nameservers": ["192.0.2.53"], "domain": "d", "search": ["s"], "options": ["o"]}});
    merged(static_config(&ipam), &json!({"cniVersion": version}))
}

#[test]
fn newer_results_of_static_have_the_exact_bytes_of_their_family() {
    let lab = Lab::new();
    for (version, golden) in [
        ("0.1.0", include_str!("golden/static-02x.json")),
        ("0.2.0", include_str!("golden/static-02x.json")),
        ("0.3.0", include_str!("golden/static-04x.json")),
        ("0.3.1", include_str!("golden/static-04x.json")),
        ("0.4.0", include_str!("golden/static-04x.json")),
        ("1.0.0", include_str!("golden/static-1xx.json")),
        ("1.1.0", include_str!("golden/static-1xx.json")),
    ] {
        let outcome = lab.plugin("static").config(&full_static(version)).run().success();
        assert_eq!(outcome.stdout, golden.trim_end().replace("VERSION", version), "{version}");
    }
}

#[test]
fn newer_results_of_bridge_have_the_exact_bytes_of_their_family() {
    let lab = Lab::new();
    lab.netns("ns1");
    for (version, golden) in [
        ("0.2.0", include_str!("golden/bridge-02x.json")),
        ("0.3.1", include_str!("golden/bridge-04x.json")),
        ("0.4.0", include_str!("golden/bridge-04x.json")),
        ("1.0.0", include_str!("golden/bridge-1xx.json")),
        ("1.1.0", include_str!("golden/bridge-1xx.json")),
    ] {
        let ipam = json!({"subnet": "10.1.2.0/24", "dataDir": format!("/run/lab/{version}")});
        let config = bridge_config(&json!({"cniVersion": version, "isDefaultGateway": true, "ipam": ipam}));
        let outcome = lab.plugin("bridge").config(&config).run().success();
        let text = crate::lab::without_random_names(&outcome.stdout);
        assert_eq!(text, golden.trim_end().replace("VERSION", version), "{version}");
        lab.plugin("bridge").config(&config).verb("DEL").run().silent();
    }
}

#[test]
fn newer_routes_carry_all_their_fields_in_every_family_since_0_3_0() {
    let lab = Lab::new();
    let route = json!({"dst": "10.9.0.0/16", "gw": "10.1.2.9", "mtu": 1400, "advmss": 1300, "priority": 5, "table": 0,
        "scope": 0});
    for version in ["0.3.0", "0.4.0", "1.0.0", "1.1.0"] {
        let ipam = json!({"addresses": [{"address": "10.1.2.3/24"}], "routes": [route]});
        let config = merged(static_config(&ipam), &json!({"cniVersion": version}));
        assert_eq!(lab.plugin("static").config(&config).run().result()["routes"], json!([route]), "{version}");
    }
}
