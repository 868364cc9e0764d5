//! Connections through the rules that ours makes, on the older kernel.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, bridge_config, wait_for};
use crate::masquerade::{lab, outside};

/// A container behind a dual-stack bridge whose port 80 is the host's port 8080. Returns the configuration of the
/// mapping.
fn mapped(lab: &Lab, backend: &str) -> Value {
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    let bridge = bridge_config(&json!({"isDefaultGateway": true, "ipam": {"subnet": null, "ranges": ranges}}));
    let result = lab.plugin("bridge").config(&bridge).run().result();
    let portmap = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap", "backend": backend,
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
        "prevResult": result});
    lab.plugin("portmap").config(&portmap).run().result();
    portmap
}

/// What a client outside reads from the host's port.
fn answer(lab: &Lab, address: &str) -> String {
    let words = ["ip", "netns", "exec", "outside", "busybox", "nc", "-w", "2", address, "8080"];
    lab.run(&words).stdout.trim().to_string()
}

#[test]
fn mapped_ports_are_reached_from_outside_until_del() {
    for (flavour, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")] {
        let lab = lab(flavour);
        outside(&lab);
        let portmap = mapped(&lab, backend);
        let server = ["netns", "exec", "ns1", "busybox", "nc", "-ll", "-p", "80", "-e", "echo", "web"];
        let _server = Call::new(&lab, "ip").args_list(&server).env("PATH", "/usr/sbin:/usr/bin").spawn();
        for address in ["192.0.2.1", "fd00:2::1"] {
            wait_for(&format!("{flavour} {backend} {address}"), || answer(&lab, address) == "web");
        }
        lab.plugin("portmap").config(&portmap).verb("DEL").run().silent();
        for address in ["192.0.2.1", "fd00:2::1"] {
            assert_eq!(answer(&lab, address), "", "{flavour} {backend} {address}");
        }
    }
}
