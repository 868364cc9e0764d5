//! Plugins that make or change an interface: all whose devices this machine's kernel has.

use serde_json::{Value, json};

use super::Release::{Previous, This};
use super::{WAYS, collect_after, install, lab_with, traces};
use crate::flannel::{DUAL, SUBNET_FILE};
use crate::lab::{Call, Lab, merged};
use crate::{host_device, interface_moved, tuning};

/// `ipam` of host-local with a range in each subnet.
fn local(subnets: &[&str]) -> Value {
    let ranges: Vec<_> = subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    json!({"type": "host-local", "ranges": ranges, "routes": [{"dst": "10.50.0.0/16"}]})
}

/// Prepares the host for the configurations.
fn prepare(lab: &Lab) {
    lab.write(SUBNET_FILE, DUAL);
    lab.netns("ns1");
    lab.sh("ip link add low0 type veth peer name low1; ip link set low0 up; ip link set low1 up
        ip link add hd0 type veth peer name peer0; ip link set hd0 mtu 1400")
        .success();
}

fn configurations() -> [(&'static str, Value); 9] {
    let (v4, dual) = (local(&["10.1.2.0/24"]), local(&["10.1.2.0/24", "fd00:1:2::/64"]));
    let fixed = json!({"type": "static", "addresses": [{"address": "10.1.2.7/24", "gateway": "10.1.2.1"}]});
    [
        ("bridge", json!({"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true, "ipam": dual})),
        ("spoof check", json!({"type": "bridge", "bridge": "cni0", "macspoofchk": true, "ipam": v4})),
        ("ptp", json!({"type": "ptp", "ipMasq": true, "ipam": dual})),
        ("ptp, nftables", json!({"type": "ptp", "ipMasq": true, "ipMasqBackend": "nftables", "ipam": dual})),
        ("macvlan", json!({"type": "macvlan", "master": "low0", "ipam": v4})),
        ("tap", json!({"type": "tap", "ipam": v4})),
        ("host-device", json!({"type": "host-device", "device": "hd0", "ipam": v4})),
        ("flannel", json!({"type": "flannel", "delegate": {"isDefaultGateway": true}})),
        ("static", json!({"type": "macvlan", "master": "low0", "ipam": fixed})),
    ]
}

/// Builds the call of a configuration's plugin.
fn call<'a>(lab: &'a Lab, config: &Value) -> Call<'a> {
    lab.plugin(config["type"].as_str().unwrap()).config(config)
}

#[test]
fn what_one_has_attached_the_other_checks_and_detaches() {
    for (name, config) in configurations() {
        for (first, second) in WAYS {
            eprintln!("{name}: {first:?} attaches, {second:?} detaches");
            let lab = lab_with(first);
            prepare(&lab);
            let config = merged(config.clone(), &json!({"cniVersion": "1.0.0", "name": "net"}));
            call(&lab, &config).run().result();
            call(&lab, &config).verb("DEL").run().silent();
            let before = traces(&lab);
            let attached = merged(config.clone(), &json!({"prevResult": call(&lab, &config).run().result()}));
            install(&lab, second);
            call(&lab, &attached).verb("CHECK").run().silent();
            // Each release sees that the other has taken the name.
            assert_eq!(call(&lab, &config).run().code, Some(1));
            call(&lab, &attached).verb("CHECK").run().silent();
            call(&lab, &attached).verb("DEL").run().silent();
            before.assert_same(&traces(&lab));
            assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
            collect_after(second, &lab, &config);
            assert_eq!(lab.kept_files(), [""; 0]);
        }
    }
}

#[test]
fn a_device_that_one_has_moved_the_other_brings_home() {
    for (first, second) in WAYS {
        let lab = lab_with(first);
        prepare(&lab);
        let config = host_device::config(&json!({}));
        let before = host_device::state(lab.link("hd0"));
        call(&lab, &config).ifname("net1").run().result();
        assert_eq!(lab.link("hd0"), Value::Null);
        install(&lab, second);
        // Without prevResult, and a record only if this release has attached it.
        call(&lab, &config).ifname("net1").verb("DEL").run().silent();
        assert_eq!(host_device::state(lab.link("hd0")), before);
    }
}

/// The previous release has written no record.
#[test]
fn a_late_del_of_what_the_previous_release_attached_goes_by_its_hosts_end() {
    for plugin in ["bridge", "ptp"] {
        let ipam = json!({"type": "host-local", "subnet": "10.71.0.0/24"});
        let config = json!({"cniVersion": "1.0.0", "name": "net", "type": plugin, "bridge": "cni7", "ipam": ipam});
        let lab = lab_with(Previous);
        interface_moved::goes_by_the_hosts_end(&lab, plugin, &config, &|container| {
            install(&lab, Previous);
            let result =
                lab.plugin(plugin).config(&config).container(container).netns("/run/netns/slot").run().result();
            install(&lab, This);
            result
        });
    }
}

#[test]
fn what_one_has_tuned_the_other_puts_back() {
    for (first, second) in WAYS {
        for verb in ["DEL", "GC"] {
            let lab = lab_with(first);
            lab.netns("ns1");
            tuning::interface(&lab);
            let link = || {
                let link = lab.link_in("ns1", "eth0");
                ["address", "mtu", "promiscuity", "allmulti"].map(|key| link[key].clone())
            };
            let before = link();
            let full = merged(tuning::full(), &json!({"cniVersion": "1.0.0"}));
            tuning::ours(&lab, "ADD", &full).result();
            let changed = link();
            install(&lab, second);
            // A repeated ADD must not take the changed properties for the originals.
            tuning::ours(&lab, "ADD", &full).result();
            assert_eq!(link(), changed);
            tuning::ours(&lab, "CHECK", &full).silent();
            let none = json!({"cniVersion": "1.1.0", "prevResult": null, "cni.dev/valid-attachments": []});
            tuning::ours(&lab, verb, &if verb == "GC" { none } else { full }).silent();
            assert_eq!(link(), before, "{verb}");
            assert_eq!(lab.kept_files(), [""; 0], "{verb}");
        }
    }
}
