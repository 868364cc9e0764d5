//! IPv6 disabled by sysctl (`net.ipv6.conf.*.disable_ipv6`), in the container's namespace or on the
//! host. Kernels that have no IPv6 at all: tests/without_ipv6.

use serde_json::{Value, json};

use crate::bridge::sysctl;
use crate::devices::{Device, host};
use crate::lab::{Lab, bridge_config};

/// Disables IPv6 for all interfaces, present and future; `netns` empty is the host.
fn disable(lab: &Lab, netns: &str) {
    let place = if netns.is_empty() { String::new() } else { format!("ip netns exec {netns} ") };
    lab.ok(&format!("{place}sysctl -q net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"));
}

fn ranges() -> Value {
    json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]])
}

/// Plugins with addresses of both families, on the host of `devices`.
fn plugins() -> Vec<Device> {
    let of = |plugin, changes: Value| Device::new(plugin, &changes).dual();
    vec![
        of("bridge", json!({"master": null, "bridge": "cni0"})),
        of("ptp", json!({"master": null})),
        of("macvlan", json!({})),
        of("host-device", json!({"master": null, "device": "hd0"})),
    ]
}

#[test]
fn a_container_that_has_it_disabled_gets_it_for_the_interface_as_with_the_reference() {
    for device in plugins() {
        for is_ours in [true, false] {
            let lab = host();
            lab.ok("ip link add hd0 type veth peer name hd1");
            lab.ok("ip link set hd1 up");
            disable(&lab, "ns1");
            let call = if is_ours { lab.plugin(device.plugin) } else { lab.reference(device.plugin) };
            let call = call.config(&device.config);
            call.run().result();
            assert_eq!(lab.addresses("ns1", "eth0"), ["10.1.2.2/24", "fd00:1:2::2/64"], "{}", device.plugin);
            let settings =
                ["all", "lo", "eth0"].map(|name| sysctl(&lab, "ns1", &format!("net/ipv6/conf/{name}/disable_ipv6")));
            assert_eq!(settings, ["1", "0", "0"], "{}", device.plugin);
            call.verb("DEL").run().silent();
        }
    }
}

/// The host's interfaces are its administrator's.
#[test]
fn better_a_host_that_has_it_disabled_refuses_a_gateway_and_says_why() {
    let gateway = bridge_config(&json!({"isGateway": true, "ipam": {"subnet": null, "ranges": ranges()}}));
    let ptp = Device::new("ptp", &json!({"master": null})).dual().config;
    for (plugin, config, words) in [
        ("bridge", gateway, "failed to set bridge addr: could not add IP address fd00:1:2::1/64 to \"cni0\": "),
        ("ptp", ptp, "failed to add IP addr (fd00:1:2::1/128) to veth: "),
    ] {
        let lab = host();
        disable(&lab, "");
        let before = lab.snapshot();
        let call = lab.plugin(plugin).config(&config);
        let (code, message, details) = call.run().error();
        assert!(code == 999 && message.starts_with(words), "{message}");
        assert!(message.contains("permission denied") && details.contains("disable_ipv6"), "{message}: {details}");
        call.verb("DEL").run().silent();
        before.assert_same(&lab.snapshot());
        let theirs = lab.reference(plugin).config(&config).run().error();
        assert!(theirs.1.ends_with("permission denied") && theirs.2.is_empty(), "{theirs:?}");
    }
}
