//! `ingressPolicy: isolated` of the firewall plugin: containers of one bridge are kept apart with
//! and without br_netfilter.

use serde_json::{Value, json};

use crate::firewall_policy::{NAMES, Net, STORES};
use crate::lab::{Outcome, merged};

/// Where ADD remembers the ports that it has isolated.
const RECORDS: &str = "/run/cni-box/isolated-ports";

impl Net {
    /// Whether frames that a bridge passes on are shown to rules.
    fn br_netfilter(&self, on: bool) {
        for program in ["iptables", "ip6tables"] {
            self.set(&format!("bridge/bridge-nf-call-{program}"), if on { "1" } else { "0" });
        }
    }

    fn firewall(&self, verb: &str, container: &str, config: &Value) -> Outcome {
        self.lab.plugin("firewall").verb(verb).container(container).config(config).run()
    }

    fn is_isolated(&self, config: &Value) -> bool {
        self.link_is_isolated(host_end(config))
    }

    fn link_is_isolated(&self, link: &str) -> bool {
        self.lab.ip(&format!("link show dev {link}"))[0]["linkinfo"]["info_slave_data"]["isolated"] == true
    }

    fn rename(&self, link: &str, name: &str) -> String {
        self.lab
            .sh(&format!("ip link set {link} down; ip link set {link} name {name}; ip link set {name} up"))
            .success();
        name.to_string()
    }
}

fn host_end(config: &Value) -> &str {
    config["prevResult"]["interfaces"][1]["name"].as_str().unwrap()
}

/// Neighbour on the bridge, container on another bridge, host beyond, the bridge itself, and `ns1`.
const ADDRESSES: [[&str; 5]; 2] = [
    ["10.1.1.3", "10.1.2.2", "192.0.2.2", "10.1.1.1", "10.1.1.2"],
    ["fd00:1::3", "fd00:2::2", "fd00:9::2", "fd00:1::1", "fd00:1::2"],
];

#[test]
fn better_isolated_containers_of_one_bridge_are_kept_apart_with_and_without_br_netfilter() {
    for (flavour, backend) in STORES {
        let net = Net::new(flavour, backend);
        net.br_netfilter(false);
        let [config, ..] = NAMES.map(|(name, _, _)| net.attach(name, "isolated"));
        for on in [false, true] {
            net.br_netfilter(on);
            for [neighbour, other, outside, gateway, own] in ADDRESSES {
                net.comes_to_reach("ns1", gateway);
                net.comes_to_reach("ns1", outside);
                net.comes_to_reach("outside", own);
                for address in [neighbour, other] {
                    assert!(!net.reaches("ns1", address), "{flavour} {backend} {address}, br_netfilter {on}");
                }
            }
            net.firewall("CHECK", "ns1", &config).silent();
        }
        // The control: nothing else keeps them apart.
        net.br_netfilter(false);
        net.lab.ok(&format!("bridge link set dev {} isolated off", host_end(&config)));
        for [neighbour, ..] in ADDRESSES {
            net.comes_to_reach("ns1", neighbour);
        }
        for on in [false, true] {
            net.br_netfilter(on);
            let words = format!("Interface {} is not isolated", host_end(&config));
            net.firewall("CHECK", "ns1", &config).fails(999, &words);
        }
        net.firewall("ADD", "ns1", &config).result();
        net.firewall("CHECK", "ns1", &config).silent();
    }
}

#[test]
fn other_policies_isolate_no_ports() {
    let net = Net::new("nft", "iptables");
    net.br_netfilter(false);
    for policy in ["same-bridge", "open"] {
        let config = net.attach("ns1", policy);
        assert!(!net.is_isolated(&config), "{policy}");
        net.firewall("CHECK", "ns1", &config).silent();
        let bridge = json!({"cniVersion": "1.0.0", "name": "cni0", "type": "bridge", "bridge": "cni0",
            "ipam": {"type": "host-local", "subnet": "10.1.1.0/24"}});
        net.lab.plugin("bridge").verb("DEL").container("ns1").config(&bridge).run().silent();
    }
    assert!(!net.lab.exists(RECORDS));
}

/// Whatever the host's end is called by then, or whichever hardware address it has.
#[test]
fn better_another_policy_and_gc_leave_the_port_as_it_was_before() {
    let net = Net::new("nft", "nftables");
    let config = net.attach("ns1", "isolated");
    let end = net.rename(host_end(&config), "renamed");
    let gc =
        merged(config.clone(), &json!({"cniVersion": "1.1.0", "prevResult": null, "cni.dev/valid-attachments": []}));
    let open = merged(config.clone(), &json!({"ingressPolicy": "open"}));
    for (verb, ending) in [("GC", &gc), ("ADD", &open), ("ADD", &merged(open.clone(), &json!({"backend": "iptables"})))]
    {
        assert!(net.link_is_isolated(&end) && net.lab.list(RECORDS).len() == 1, "{verb} {ending}");
        net.firewall(verb, "ns1", ending).success();
        assert!(!net.link_is_isolated(&end) && net.lab.list(RECORDS).is_empty(), "{verb} {ending}");
        net.firewall("ADD", "ns1", &config).result();
        net.lab.ok(&format!("ip link set {end} address 02:00:00:00:00:01"));
    }
    net.rename(&end, host_end(&config));
    net.lab.ok("rm -r /run/cni-box/isolated-ports");
    // As if the bridge had isolated this one (`portIsolation`).
    for (verb, config) in [("ADD", &config), ("CHECK", &config), ("ADD", &open), ("GC", &gc)] {
        net.firewall(verb, "ns1", config).success();
        assert!(net.is_isolated(&open), "{verb}");
    }
}

/// The container runs on until `bridge` takes its interface away, which may fail.
#[test]
fn better_a_container_stays_isolated_after_del_of_firewall() {
    for (flavour, backend) in STORES {
        let net = Net::new(flavour, backend);
        net.br_netfilter(false);
        let [config, ..] = NAMES.map(|(name, _, _)| net.attach(name, "isolated"));
        for ending in [&config, &merged(config.clone(), &json!({"prevResult": null}))] {
            net.firewall("DEL", "ns1", ending).silent();
            assert!(net.is_isolated(&config), "{flavour} {backend} {ending}");
            assert_eq!(net.lab.list(RECORDS).len(), 2, "the record of ns1 is gone");
            net.comes_to_reach("ns1", ADDRESSES[0][3]);
            assert!(!net.reaches("ns1", ADDRESSES[0][0]), "{flavour} {backend} {ending}");
            net.firewall("ADD", "ns1", &config).result();
        }
        net.lab.ok(&format!("ip link del {}", host_end(&config)));
        net.firewall("DEL", "ns1", &config).silent();
        assert_eq!(net.lab.list(RECORDS).len(), 2);
    }
}

/// The host's end has another name than prevResult knows, and another hardware address.
#[test]
fn better_check_and_add_find_a_renamed_port() {
    for record in [true, false] {
        let net = Net::new("nft", "iptables");
        net.br_netfilter(false);
        let config = net.attach("ns1", "isolated");
        let end = net.rename(host_end(&config), "renamed");
        net.lab.ok(&format!("ip link set {end} address 02:00:00:00:00:01"));
        net.firewall("CHECK", "ns1", &config).silent();
        net.lab.ok(&format!("bridge link set dev {end} isolated off"));
        if !record {
            net.lab.ok("rm -r /run/cni-box");
        }
        net.firewall("CHECK", "ns1", &config).fails(999, "Interface renamed is not isolated");
        net.firewall("ADD", "ns1", &config).result();
        assert!(net.link_is_isolated(&end), "record {record}");
        net.firewall("CHECK", "ns1", &config).silent();
    }
}

/// The reference isolates no port: what it has attached is kept apart by rules, where these see the
/// frames.
#[test]
fn better_check_of_an_attachment_of_the_reference_fails_without_br_netfilter() {
    let net = Net::new("nft", "iptables");
    let config = net.attach("ns1", "isolated");
    net.lab.ok(&format!("bridge link set dev {} isolated off", host_end(&config)));
    net.lab.ok("rm -r /run/cni-box");
    net.br_netfilter(true);
    net.firewall("CHECK", "ns1", &config).silent();
    net.set("bridge/bridge-nf-call-ip6tables", "0");
    net.firewall("CHECK", "ns1", &config).fails_with(999, &[" is not isolated"]);
}

/// A bridge may hand its frames to the rules although the host's setting does not say so.
#[test]
fn check_of_an_attachment_of_the_reference_heeds_the_setting_of_the_bridge() {
    let net = Net::new("nft", "iptables");
    let config = net.attach("ns1", "isolated");
    net.attach("ns2", "isolated");
    net.lab.ok(&format!("bridge link set dev {} isolated off", host_end(&config)));
    net.lab.ok("rm -r /run/cni-box");
    // Of the host and of the bridge, for IPv4 and for IPv6.
    for settings in [[0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0]] {
        let [host4, host6, bridge4, bridge6] = settings;
        net.set("bridge/bridge-nf-call-iptables", &host4.to_string());
        net.set("bridge/bridge-nf-call-ip6tables", &host6.to_string());
        net.lab.ok(&format!("ip link set cni0 type bridge nf_call_iptables {bridge4} nf_call_ip6tables {bridge6}"));
        let sees = [host4 | bridge4 == 1, host6 | bridge6 == 1];
        for (sees, [neighbour, ..]) in sees.into_iter().zip(ADDRESSES) {
            match sees {
                true => assert!(!net.reaches("ns1", neighbour), "{neighbour} {settings:?}"),
                false => net.comes_to_reach("ns1", neighbour),
            }
        }
        let checked = net.firewall("CHECK", "ns1", &config);
        match sees {
            [true, true] => drop(checked.silent()),
            _ => drop(checked.fails_with(999, &[" is not isolated"])),
        }
    }
}

/// A kernel that refuses the isolation of ports fails CHECK, not ADD.
#[test]
fn better_add_succeeds_and_check_fails_where_the_kernel_isolates_no_ports() {
    let net = Net::new("nft", "iptables");
    let config = net.attach("ns1", "isolated");
    let end = || {
        net.firewall("DEL", "ns1", &config).silent();
        net.lab.ok(&format!("bridge link set dev {} isolated off", host_end(&config)));
    };
    end();
    let add = || net.lab.plugin("firewall").container("ns1").config(&config);
    add().traced(&["-o", "/run/lab/trace"], "sendto").run().result();
    end();
    // The request to isolate is the last one of all.
    let last = net.lab.read("/run/lab/trace").matches("sendto(").count();
    add().refused("sendto", &format!("EOPNOTSUPP:when={last}")).run().result();
    assert!(!net.is_isolated(&config));
    net.firewall("CHECK", "ns1", &config).fails_with(999, &[" is not isolated"]);
    net.firewall("DEL", "ns1", &config).silent();
    assert_eq!(net.lab.list(RECORDS), [""; 0]);
}

#[test]
fn newer_status_tells_the_log_where_the_kernel_isolates_no_ports() {
    let net = Net::new("nft", "iptables");
    net.lab.write("/run/lab/osrelease", "4.9.0-13-amd64\n");
    for (policy, is_told) in [("isolated", true), ("same-bridge", false)] {
        for old in [false, true] {
            let config = json!({"cniVersion": "1.1.0", "name": "net", "type": "firewall", "ingressPolicy": policy});
            let call = net.lab.plugin("firewall").verb("STATUS").config(&config).env("CNI_BOX_LOG", "/run/lab/log");
            let call = if old {
                call.under(&[
                    "sh",
                    "-c",
                    "mount --bind /run/lab/osrelease /proc/sys/kernel/osrelease && exec \"$0\" \"$@\"",
                ])
            } else {
                call
            };
            net.lab.sh("rm -f /run/lab/log").success();
            call.without("CNI_CONTAINERID").without("CNI_NETNS").without("CNI_IFNAME").run().silent();
            let told = net.lab.read("/run/lab/log").contains("Linux 4.9.0-13-amd64 isolates no ports");
            assert_eq!(told, is_told && old, "{policy}");
            net.lab.sh("umount /proc/sys/kernel/osrelease || true").success();
        }
    }
}
