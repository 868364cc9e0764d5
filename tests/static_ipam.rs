//! static: where its addresses come from, and every text of `ipam.md` part B.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, merged, static_config};

fn call<'a>(lab: &'a Lab, ipam: &Value) -> Call<'a> {
    lab.plugin("static").config(&static_config(ipam))
}

/// A call with more than the `ipam` key.
fn call_with<'a>(lab: &'a Lab, changes: &Value) -> Call<'a> {
    let base = static_config(&json!({"addresses": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}]}));
    lab.plugin("static").config(&merged(base, changes))
}

#[test]
fn addresses_routes_and_dns_are_handed_on() {
    let lab = Lab::new();
    let ipam = json!({"addresses": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}, {"address": "3ffe:FFFF::9/64"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.254"}, {"dst": "::/0"}],
        "dns": {"nameservers": ["8.8.8.8"], "domain": "example", "search": ["s"], "options": ["o"]}});
    let result = call(&lab, &ipam).run().result();
    let ips = json!([{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}, {"address": "3ffe:ffff::9/64"}]);
    assert_eq!(result["ips"], ips);
    assert_eq!(result["routes"], ipam["routes"]);
    assert_eq!(result["dns"], ipam["dns"]);
}

#[test]
fn host_bits_and_foreign_gateways_are_kept_and_mapped_addresses_become_v4() {
    let lab = Lab::new();
    let ipam =
        json!({"addresses": [{"address": "10.1.2.3/8", "gateway": "192.0.2.1"}, {"address": "::ffff:10.0.0.1/120"}]});
    let result = call(&lab, &ipam).run().result();
    assert_eq!(result["ips"], json!([{"address": "10.1.2.3/8", "gateway": "192.0.2.1"}, {"address": "10.0.0.1/24"}]));
}

#[test]
fn cni_args_append_addresses_and_give_gateways_only_to_those() {
    let lab = Lab::new();
    let ipam = json!({"addresses": [{"address": "10.1.2.3/24"}]});
    let args = "IP=10.1.2.4/24, 10.3.0.4/24;GATEWAY=10.1.2.1,10.3.0.1";
    let result = call(&lab, &ipam).args(args).run().result();
    let ips = json!([{"address": "10.1.2.3/24"}, {"address": "10.1.2.4/24", "gateway": "10.1.2.1"},
        {"address": "10.3.0.4/24", "gateway": "10.3.0.1"}]);
    assert_eq!(result["ips"], ips);
}

#[test]
fn runtime_addresses_win_over_args_and_args_over_the_configuration() {
    let lab = Lab::new();
    let args = json!({"args": {"cni": {"ips": ["10.5.0.1/24"]}}});
    let result = call_with(&lab, &args).args("IP=10.6.0.1/24").run().result();
    assert_eq!(result["ips"], json!([{"address": "10.5.0.1/24"}]));
    let both = merged(args, &json!({"runtimeConfig": {"ips": ["10.7.0.1/24", "2001:db8::7/64"]}}));
    let result = call_with(&lab, &both).args("IP=10.6.0.1/24").run().result();
    assert_eq!(result["ips"], json!([{"address": "10.7.0.1/24"}, {"address": "2001:db8::7/64"}]));
}

#[test]
fn what_is_no_address_is_refused_with_the_references_words() {
    let lab = Lab::new();
    let address = |text: &str| json!({"ipam": {"addresses": [{"address": text}]}});
    let cases = [
        (address("10.1.2.3"), "", "the 'address' field is expected to be in CIDR notation, got: '10.1.2.3'"),
        (address("nonsense"), "", "the 'address' field is expected to be in CIDR notation, got: 'nonsense'"),
        (json!({}), "IP=10.1.2.3", "the 'ip' field is expected to be in CIDR notation, got: '10.1.2.3'"),
        (json!({}), "IP=10.1.2.3/24;GATEWAY=zz", "invalid gateway address: zz"),
        (
            json!({"args": {"cni": {"ips": ["1.2.3.4"]}}}),
            "",
            "an entry in the 'ips' field is NOT in CIDR notation, got: '1.2.3.4'",
        ),
        (
            json!({"runtimeConfig": {"ips": ["1.2.3.4"]}}),
            "",
            "an entry in the 'ips' field is NOT in CIDR notation, got: '1.2.3.4'",
        ),
        (json!({"ipam": null}), "", "IPAM config missing 'ipam' key"),
    ];
    for (changes, args, text) in cases {
        call_with(&lab, &changes).args(args).run().fails(999, text);
    }
}

#[test]
fn a_bad_address_is_not_reported_when_it_is_replaced() {
    let lab = Lab::new();
    let changes = json!({"ipam": {"addresses": [{"address": "zz"}]}, "runtimeConfig": {"ips": ["10.7.0.1/24"]}});
    assert_eq!(call_with(&lab, &changes).run().result()["ips"], json!([{"address": "10.7.0.1/24"}]));
}

#[test]
fn old_versions_carry_one_address_per_family() {
    let lab = Lab::new();
    let two =
        json!({"cniVersion": "0.2.0", "ipam": {"addresses": [{"address": "10.1.2.3/24"}, {"address": "10.1.2.4/24"}]}});
    let text = "CNI version 0.2.0 does not support more than 1 address per family";
    call_with(&lab, &two).run().fails(999, text);
    let none = json!({"cniVersion": "0.2.0", "ipam": {"addresses": []}});
    call_with(&lab, &none).run().fails(999, "cannot convert: no valid IP addresses");
}

#[test]
fn no_addresses_are_no_error_since_0_3_0() {
    let lab = Lab::new();
    let result = call(&lab, &json!({})).run().result();
    assert_eq!(result.get("ips"), None);
}

#[test]
fn del_looks_at_nothing() {
    let lab = Lab::new();
    let broken = json!({"ipam": {"addresses": "zz"}});
    call_with(&lab, &broken).verb("DEL").args("nonsense").run().silent();
}

/// CHECK with a previous result of these addresses.
fn check<'a>(lab: &'a Lab, ips: &Value) -> Call<'a> {
    call_with(lab, &json!({"prevResult": {"cniVersion": "1.0.0", "ips": ips}})).verb("CHECK")
}

#[test]
fn check_compares_gateways_of_the_previous_result() {
    let lab = Lab::new();
    call_with(&lab, &json!({})).verb("CHECK").run().fails(999, "Required prevResult missing");
    check(&lab, &json!([{"address": "10.1.2.3/16", "gateway": "10.1.2.1"}])).run().silent();
    let text = "static: Failed to match addr 10.1.2.3 on interface eth0";
    check(&lab, &json!([{"address": "10.1.2.3/24", "gateway": "10.1.2.9"}])).run().fails(999, text);
}

#[test]
fn better_check_misses_an_address_that_is_not_in_the_previous_result() {
    let lab = Lab::new();
    let text = "static: Failed to match addr 10.1.2.3 on interface eth0";
    check(&lab, &json!([{"address": "10.1.2.4/24", "gateway": "10.1.2.1"}])).run().fails(999, text);
}
