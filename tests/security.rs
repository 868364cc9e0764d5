//! Tries the known attacks on the original plugins, a row of SECURITY.md each. Those on port
//! mappings are in `portmap_traffic` and `portmap_foreign`.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, PLUGINS, bridge_config, merged, router, wait_for};

/// A host that takes router advertisements wherever nothing forbids it, also while it forwards.
fn credulous() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    // The container may use its link-local address at once.
    lab.sh("for name in all default; do echo 2 > /proc/sys/net/ipv6/conf/$name/accept_ra; done
        ip netns exec ns1 sh -c 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'")
        .success();
    lab
}

/// The container advertises itself, until the link of the host has heard it.
fn advertise(lab: &Lab, link: &str) {
    router::advertise(lab, ("ns1", "eth0"), ("", link));
}

fn taken(lab: &Lab) -> String {
    lab.ok("ip -6 route show proto ra") + &lab.ok("ip -6 address show dynamic")
}

#[test]
fn the_host_takes_no_route_and_no_address_from_a_container() {
    // CVE-2020-10749: a container that calls itself a router.
    let ipam = json!({"type": "static", "addresses": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}]});
    for (plugin, is_gateway) in [("bridge", true), ("bridge", false), ("ptp", true)] {
        let lab = credulous();
        let config =
            json!({"cniVersion": "1.0.0", "name": "net", "type": plugin, "isGateway": is_gateway, "ipam": ipam});
        let result = lab.plugin(plugin).config(&config).run().result();
        let link = result["interfaces"][0]["name"].as_str().unwrap();
        advertise(&lab, link);
        assert_eq!(taken(&lab), "", "{plugin} {is_gateway}");
        // The setting of the link is what keeps the host from taking them.
        lab.sh(&format!("echo 2 > /proc/sys/net/ipv6/conf/{link}/accept_ra")).success();
        wait_for(&format!("{plugin}: the attack itself"), || {
            advertise(&lab, link);
            taken(&lab).contains(router::PREFIX)
        });
    }
}

#[test]
fn a_type_that_leads_elsewhere_starts_nothing() {
    // CVE-2021-20206: a type with a path in it.
    let lab = Lab::new();
    lab.netns("ns1");
    lab.executable("/opt/cni/owned", "#!/bin/sh\ntouch /run/lab/owned\necho '{\"cniVersion\": \"1.0.0\"}'\n");
    let refused = |call: Call<'_>, kind: &str| {
        let outcome = call.run();
        let text = outcome.stdout.clone() + &outcome.stderr;
        assert!(outcome.code == Some(1) && text.contains("invalid plugin name: "), "{kind} {outcome:?}");
        assert!(!lab.exists("/run/lab/owned"), "{kind}");
    };
    for kind in ["../owned", "/opt/cni/owned", "./../owned", "buildkit-cni-/../../owned", "bridge/../../owned"] {
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": kind}]});
        lab.write("/etc/cni/net.d/net.conflist", list.to_string());
        for verb in ["add", "check", "del"] {
            refused(lab.cnitool(&[verb, "net", "/var/run/netns/ns1"]), kind);
        }
        let ipam = bridge_config(&json!({"ipam": {"type": kind}}));
        refused(lab.plugin("bridge").config(&ipam), kind);
        lab.write(crate::flannel::SUBNET_FILE, crate::flannel::DUAL);
        refused(crate::flannel::call(&lab, "ADD", &json!({"delegate": {"type": kind}})), kind);
        refused(crate::flannel::call(&lab, "ADD", &json!({"ipam": {"type": kind}})), kind);
    }
    // The file is there and would start.
    lab.ok("/opt/cni/owned");
    assert!(lab.exists("/run/lab/owned"));
}

#[test]
fn nothing_in_flannels_subnet_file_is_executed() {
    // CVE-2026-32241: flanneld hands to a shell what others may write.
    let lab = crate::flannel::lab("");
    let hostile = [
        "$(touch /run/lab/owned)",
        "`touch /run/lab/owned`",
        "; touch /run/lab/owned",
        "10.42.1.1/24;touch /run/lab/owned",
    ];
    let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=execve"];
    for key in ["FLANNEL_NETWORK", "FLANNEL_SUBNET", "FLANNEL_MTU", "FLANNEL_IPMASQ"] {
        for value in hostile {
            let line = crate::flannel::DUAL.lines().find(|line| line.starts_with(&format!("{key}="))).unwrap();
            lab.write(crate::flannel::SUBNET_FILE, crate::flannel::DUAL.replace(line, &format!("{key}={value}")));
            for verb in ["ADD", "DEL"] {
                let outcome = crate::flannel::call(&lab, verb, &json!({})).under(&strace).run();
                assert!(outcome.code == Some(0) || outcome.error().1.contains(key), "{outcome:?}");
                assert_eq!(lab.read("/run/lab/trace").lines().count(), 1, "{key} {value}");
                assert!(!lab.exists("/run/lab/owned"), "{key} {value}");
            }
        }
    }
}

/// Names that lead elsewhere, wherever a file or a folder is called by them.
#[test]
fn names_that_lead_elsewhere_are_refused_first() {
    let lab = Lab::new();
    lab.netns("ns1");
    let before = lab.snapshot();
    let config = bridge_config(&json!({}));
    let with_name = |name: &str| merged(config.clone(), &json!({"name": name}));
    for (variable, value, config, code) in [
        ("CNI_CONTAINERID", "../../run/lab/x", config.clone(), 4),
        ("CNI_IFNAME", "../x", config.clone(), 4),
        ("CNI_PATH", PLUGINS, with_name("../../../run/lab/x"), 7),
        ("CNI_PATH", PLUGINS, with_name(".."), 7),
    ] {
        for plugin in ["bridge", "host-local", "flannel", "tuning"] {
            let outcome = lab.plugin(plugin).config(&config).env(variable, value).run();
            assert_eq!(outcome.error().0, code, "{plugin} {variable} {value}");
        }
    }
    before.assert_same(&lab.snapshot());
    let left: Value = json!(lab.list("/run/lab"));
    assert!(!left.to_string().contains("\"x"), "{left}");
}
