//! loopback: `lo` up and down, and nothing else.

use serde_json::{Value, json};

use crate::lab::{Call, Lab};

fn call<'a>(lab: &'a Lab, verb: &str) -> Call<'a> {
    lab.plugin("loopback").verb(verb).config(&json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}))
}

/// Whether `lo` of the namespace is up.
fn is_up(lab: &Lab) -> bool {
    let link = lab.link_in("ns1", "lo");
    link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP")
}

#[test]
fn add_raises_lo_and_names_its_addresses() {
    let lab = Lab::new();
    lab.netns("ns1");
    assert!(!is_up(&lab));
    let result = call(&lab, "ADD").run().result();
    assert!(is_up(&lab));
    let interface = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/var/run/netns/ns1"});
    assert_eq!(result["interfaces"], json!([interface]));
    let ips = json!([{"address": "127.0.0.1/8", "interface": 0}, {"address": "::1/128", "interface": 0}]);
    assert_eq!(result["ips"], ips);
    call(&lab, "ADD").run().result();
}

#[test]
fn the_interface_name_is_always_lo() {
    let lab = Lab::new();
    lab.netns("ns1");
    let result = call(&lab, "ADD").ifname("eth7").run().result();
    assert_eq!(result["interfaces"][0]["name"], "lo");
    assert_eq!(lab.ip("-n ns1 link show").as_array().unwrap().len(), 1);
}

#[test]
fn del_lowers_lo_and_succeeds_when_nothing_is_there() {
    let lab = Lab::new();
    lab.netns("ns1");
    call(&lab, "ADD").run().result();
    call(&lab, "DEL").run().silent();
    assert!(!is_up(&lab));
    call(&lab, "DEL").run().silent();
    call(&lab, "DEL").netns("/var/run/netns/gone").run().silent();
    call(&lab, "DEL").without("CNI_NETNS").run().silent();
}

#[test]
fn check_asks_whether_lo_is_up() {
    let lab = Lab::new();
    lab.netns("ns1");
    call(&lab, "CHECK").run().fails(999, "loopback interface is down");
    call(&lab, "ADD").run().result();
    call(&lab, "CHECK").run().silent();
    call(&lab, "DEL").run().silent();
    call(&lab, "CHECK").run().fails(999, "loopback interface is down");
}

#[test]
fn a_previous_result_is_printed_unchanged() {
    let lab = Lab::new();
    lab.netns("ns1");
    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01"}],
        "ips": [{"address": "10.1.2.3/24", "interface": 0}], "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["192.0.2.1"]}});
    let config = json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback", "prevResult": previous});
    assert_eq!(call(&lab, "ADD").config(&config).run().result(), previous);
    assert!(is_up(&lab));
}

#[test]
fn a_missing_namespace_is_named() {
    let lab = Lab::new();
    let text = "failed to Statfs \"/var/run/netns/ns1\": no such file or directory";
    call(&lab, "ADD").run().fails(999, text);
    call(&lab, "CHECK").run().fails(999, text);
}

#[test]
fn a_foreign_address_on_lo_is_refused() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.ok("ip -n ns1 addr add 192.0.2.1/32 dev lo");
    lab.ok("ip -n ns1 link set lo up");
    let error = call(&lab, "ADD").run().error();
    assert!(error.1.contains("loopback interface found with non-loopback address"), "{error:?}");
    assert!(error.1.contains("192.0.2.1"), "{error:?}");
}

#[test]
fn an_add_without_ipv6_in_the_namespace_names_the_ipv4_address_only() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.sh("ip netns exec ns1 sh -c 'echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6'").success();
    let result: Value = call(&lab, "ADD").run().result();
    assert_eq!(result["ips"], json!([{"address": "127.0.0.1/8", "interface": 0}]));
}
