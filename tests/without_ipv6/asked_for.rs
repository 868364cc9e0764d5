//! IPv6 asked for on a kernel that has none: the error names what was asked for and the reason, and
//! nothing is left. Where the reference succeeds, so do we.

use serde_json::{Value, json};

use super::State;
use super::chained::behind_bridge;
use crate::devices::{Device, host};
use crate::flannel;
use crate::lab::{Call, Lab, bridge_config, merged};
use crate::masquerade::lab;

/// An ADD fails with this message and the reason, and leaves nothing.
fn refuses(lab: &Lab, call: &Call<'_>, words: &str) {
    let before = State::of(lab);
    let (code, message, details) = call.run().error();
    assert_eq!(code, 999);
    assert!(message.starts_with(words), "{message}");
    assert!(details.starts_with("this kernel has no IPv6: "), "{message}; {details}");
    before.assert_same(&State::of(lab));
    call.clone().verb("DEL").run().silent();
    before.assert_same(&State::of(lab));
}

#[test]
fn better_the_address_is_named_by_each_plugin_that_makes_an_interface() {
    let lab = host();
    lab.ok("ip link add hd0 type dummy");
    let devices = [
        ("macvlan", json!({})),
        ("ipvlan", json!({})),
        ("vlan", json!({"vlanId": 5})),
        ("dummy", json!({"master": null})),
        ("tap", json!({"master": null})),
        ("host-device", json!({"master": null, "device": "hd0"})),
        ("bridge", json!({"master": null, "bridge": "cni0", "isGateway": true, "ipMasq": true})),
    ];
    for (plugin, changes) in devices {
        let device = Device::new(plugin, &changes).dual();
        refuses(&lab, &device.call(&lab), "failed to add IP addr fd00:1:2::");
    }
    let addresses = json!([{"address": "10.1.2.9/24", "gateway": "10.1.2.1"},
        {"address": "fd00:1:2::9/64", "gateway": "fd00:1:2::1"}]);
    let ipam = json!({"type": "static", "addresses": addresses});
    let ptp = json!({"cniVersion": "1.0.0", "name": "net", "type": "ptp", "ipMasq": true, "ipam": ipam});
    let words = "Could not enable IP forwarding for 10.1.2.9/24, fd00:1:2::9/64: ";
    refuses(&lab, &lab.plugin("ptp").config(&ptp), words);
}

#[test]
fn better_the_route_or_the_gateway_is_named() {
    let lab = lab("nft");
    let fixed = json!({"type": "static", "subnet": null, "addresses": [{"address": "10.1.2.2/24"}]});
    let of = |changes: &Value| lab.plugin("bridge").config(&bridge_config(&merged(json!({"ipam": fixed}), changes)));
    let route = of(&json!({"ipam": {"routes": [{"dst": "fd00:50::/48"}]}}));
    refuses(&lab, &route, "failed to add route 'fd00:50::/48 ");
    let gateway = json!([{"address": "10.1.2.2/24", "gateway": "fd00:1:2::1"}]);
    let gateway = of(&json!({"isGateway": true, "ipam": {"addresses": gateway}}));
    refuses(&lab, &gateway, "failed to set bridge addr: could not add IP address fd00:1:2::1/24 to \"cni0\"");
}

#[test]
fn better_flannel_names_the_address() {
    let lab = flannel::lab(flannel::DUAL);
    refuses(&lab, &flannel::call(&lab, "ADD", &json!({})), "failed to add IP addr 2001:cafe:42:1::2/64");
}

const MAPPINGS: &str = r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}"#;

/// A configuration behind a bridge, with mappings for portmap and an IPv6 address in the result.
fn with_ipv6(lab: &Lab) -> Value {
    let mappings: Value = serde_json::from_str(MAPPINGS).unwrap();
    let mut config = behind_bridge(lab, "portmap", &json!({"runtimeConfig": mappings}));
    // Rules that all mappings share stay.
    for verb in ["ADD", "DEL"] {
        lab.plugin("portmap").verb(verb).config(&config).run().success();
    }
    let address = json!({"address": "fd00:1:2::2/64", "gateway": "fd00:1:2::1", "interface": 2});
    config["prevResult"]["ips"].as_array_mut().unwrap().push(address);
    config
}

#[test]
fn better_chained_plugins_name_the_address_or_the_setting() {
    let lab = lab("legacy");
    let base = with_ipv6(&lab);
    let setting = json!({"mtu": 1400, "sysctl": {"net.ipv6.conf.IFNAME.accept_ra": "0"}});
    for (plugin, changes, words) in [
        ("sbr", json!({}), "Failed to add rule from fd00:1:2::2: "),
        ("sbr", json!({"table": 77}), "Failed to add rule from fd00:1:2::2: "),
        ("tuning", setting, "failed to set sysctl: open /proc/sys/net/ipv6/conf/eth0/accept_ra: "),
        ("portmap", json!({}), "unable to setup DNAT to fd00:1:2::2: "),
        ("firewall", json!({"backend": "iptables"}), "failed to add firewall rules for 10.1.2.2, fd00:1:2::2: "),
    ] {
        let config = merged(merged(base.clone(), &json!({"type": plugin})), &changes);
        refuses(&lab, &lab.plugin(plugin).config(&config), words);
    }
}

/// nf_tables has tables for IPv6 all the same, and a VRF needs no address.
#[test]
fn what_the_kernel_takes_without_ipv6_is_done() {
    let lab = lab("nft");
    let base = with_ipv6(&lab);
    for (plugin, changes) in [
        ("portmap", json!({"backend": "iptables"})),
        ("portmap", json!({"backend": "nftables"})),
        ("firewall", json!({"backend": "iptables"})),
        ("firewall", json!({"backend": "nftables"})),
        ("vrf", json!({"vrfname": "blue"})),
    ] {
        let config = merged(merged(base.clone(), &json!({"type": plugin})), &changes);
        let call = |verb: &str| lab.plugin(plugin).verb(verb).config(&config).run();
        call("ADD").result();
        match plugin {
            "vrf" => drop(call("CHECK").fails_with(999, &["Failed to match addr fd00:1:2::2/64"])),
            _ => drop(call("CHECK").silent()),
        }
        call("DEL").silent();
        assert!(!lab.ok("nft list ruleset").contains("fd00:1:2::2"));
    }
}
