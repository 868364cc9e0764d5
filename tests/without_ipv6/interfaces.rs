//! Plugins that make interfaces, with each IPAM plugin.

use serde_json::{Value, json};

use super::life;
use crate::bridge::reaches;
use crate::devices::{Device, host};
use crate::dhcp::Network;
use crate::flannel;
use crate::lab::{Lab, bridge_config, static_config};
use crate::masquerade::{flavours_in_use, lab};

/// Flavour of iptables, and backend of `ipMasq`.
const BACKENDS: [(&str, &str); 3] = [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")];

/// `eth0` has this address, and packets reach another.
fn is_up(lab: &Lab, address: &str, other: &str) {
    assert_eq!(lab.addresses("ns1", "eth0"), [address]);
    reaches(lab, "ns1", other);
}

fn is_masqueraded(lab: &Lab, flavour: &str, backend: &str) {
    let expected: &[&str] = if backend == "iptables" { &[flavour] } else { &[] };
    assert_eq!(flavours_in_use(lab), expected);
    let rules = lab.ok("nft list ruleset");
    assert_eq!(rules.contains("net: net, if: eth0, id: c1"), backend == "nftables", "{rules}");
}

#[test]
fn bridge() {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        let ipam = json!({"routes": [{"dst": "0.0.0.0/0"}]});
        let changes = json!({"isGateway": true, "ipMasq": true, "ipMasqBackend": backend, "macspoofchk": true,
            "hairpinMode": true, "ipam": ipam});
        life(&lab, &bridge_config(&changes), || {
            is_up(&lab, "10.1.2.3/24", "10.1.2.1");
            is_masqueraded(&lab, flavour, backend);
            assert!(lab.ok("nft list table bridge nat").contains("cni-br-iface-c1-eth0"));
        });
    }
}

#[test]
fn bridge_with_a_vlan() {
    let lab = lab("nft");
    let changes = json!({"isDefaultGateway": true, "vlan": 100, "enabledad": true, "forceAddress": true});
    life(&lab, &bridge_config(&changes), || is_up(&lab, "10.1.2.3/24", "10.1.2.1"));
}

#[test]
fn ptp() {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        let config = json!({"name": "net", "type": "ptp", "ipMasq": true, "ipMasqBackend": backend,
            "ipam": {"type": "host-local", "subnet": "10.1.2.0/24", "routes": [{"dst": "0.0.0.0/0"}]}});
        life(&lab, &config, || {
            is_up(&lab, "10.1.2.3/24", "10.1.2.1");
            is_masqueraded(&lab, flavour, backend);
        });
    }
}

/// Those with a master are on `m0`; the other end of the cable has 10.1.2.1.
#[test]
fn macvlan_ipvlan_vlan_dummy_and_tap() {
    let lab = host();
    lab.sh("ip -n outside link add link m1 name m1.5 type vlan id 5; ip -n outside link set m1.5 up").success();
    for (plugin, changes, neighbour) in [
        ("macvlan", json!({}), "m1"),
        ("ipvlan", json!({}), "m1"),
        ("ipvlan", json!({"mode": "l3s"}), ""),
        ("vlan", json!({"vlanId": 5}), "m1.5"),
        ("dummy", json!({"master": null}), ""),
        ("tap", json!({"master": null}), ""),
    ] {
        let fixed =
            json!({"type": "static", "ranges": null, "addresses": [{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}]});
        let device = Device::new(plugin, &changes).with(&json!({"ipam": fixed}));
        if !neighbour.is_empty() {
            lab.ok(&format!("ip -n outside addr add 10.1.2.1/24 dev {neighbour}"));
        }
        life(&lab, &device.config, || {
            let routes = lab.routes("ns1", "");
            assert!(routes.iter().any(|route| route.starts_with("10.9.0.0/16 via 10.1.2.1 dev eth0")), "{routes:?}");
            match neighbour {
                "" => assert_eq!(lab.addresses("ns1", "eth0"), ["10.1.2.9/24"]),
                _ => is_up(&lab, "10.1.2.9/24", "10.1.2.1"),
            }
        });
        lab.ok("ip -n outside addr flush to 10.1.2.1");
    }
}

#[test]
fn host_device_and_loopback() {
    let lab = lab("nft");
    lab.ok("ip link add hd0 type dummy");
    let ipam = json!({"type": "host-local", "subnet": "10.1.2.0/24"});
    let config = json!({"name": "net", "type": "host-device", "device": "hd0", "ipam": ipam});
    life(&lab, &config, || assert_eq!(lab.addresses("ns1", "eth0"), ["10.1.2.3/24"]));
    life(&lab, &json!({"name": "net", "type": "loopback"}), || reaches(&lab, "ns1", "127.0.0.1"));
}

#[test]
fn flannel_delegates_to_bridge() {
    let lab = flannel::lab(&flannel::only("v4"));
    life(&lab, &flannel::config(&json!({})), || is_up(&lab, "10.42.1.3/24", "10.42.1.1"));
}

#[test]
fn dhcp() {
    let network = Network::with_dnsmasq(&[]);
    let lab = &network.lab;
    lab.netns("ns1");
    life(lab, &bridge_config(&json!({"ipam": {"type": "dhcp", "subnet": null}})), || reaches(lab, "ns1", "10.1.0.1"));
    assert_eq!((network.leases(), network.records()), (0, 0));
}

/// IPAM plugins do not ask the kernel: they give addresses of both families, as the reference's do.
#[test]
fn host_local_and_static_give_addresses_of_both_families() {
    let lab = lab("nft");
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    let local = bridge_config(&json!({"ipam": {"subnet": null, "ranges": ranges}}));
    let fixed = static_config(&json!({"addresses": [{"address": "10.1.2.2/24"}, {"address": "fd00:1:2::2/64"}]}));
    for (plugin, config) in [("host-local", local), ("static", fixed)] {
        let result = lab.plugin(plugin).config(&config).run().result();
        let addresses: Vec<&Value> = result["ips"].as_array().unwrap().iter().map(|ip| &ip["address"]).collect();
        assert_eq!(addresses, ["10.1.2.2/24", "fd00:1:2::2/64"]);
        lab.plugin(plugin).verb("DEL").config(&config).run().silent();
    }
    assert_eq!(lab.reserved("net"), [""; 0]);
}
