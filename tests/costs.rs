//! What is asked of the kernel does not grow with the number of mappings or addresses: each table
//! is read and changed in a few requests, however many rules are in them. Comparisons are counted
//! by unit tests beside the plans.

use serde_json::{Value, json};

use crate::lab::Lab;

/// The kinds of rules: what `CNI_BOX_IPTABLES` says, and the key `backend`.
const KINDS: [(&str, &str); 3] = [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")];

const VERBS: [&str; 4] = ["ADD", "CHECK", "ADD", "DEL"];

fn host() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.sh("ip link add br0 type bridge; ip addr add 10.0.0.1/16 dev br0; ip link set br0 up").success();
    lab
}

fn result(addresses: u16) -> Value {
    let address =
        |number: u16| json!({"interface": 1, "address": format!("10.0.{}.{}/16", number >> 8, number & 0xff)});
    let ips: Vec<Value> = (2..addresses + 2).map(address).collect();
    json!({"cniVersion": "1.0.0", "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/var/run/netns/ns1"}], "ips": ips})
}

/// How often each verb asks the kernel, for a configuration of this size.
fn requests(plugin: &str, flavour: &str, config: &Value) -> Vec<usize> {
    let lab = host();
    let log = "/run/lab/log";
    let count = |verb: &&str| {
        let call =
            lab.plugin(plugin).verb(verb).config(config).env("CNI_BOX_IPTABLES", flavour).env("CNI_BOX_LOG", log);
        call.run().success();
        let lines = lab.read(log).lines().filter(|line| line.contains("\"step\":\"netlink ")).count();
        lab.sh(&format!("rm {log}")).success();
        lines
    };
    VERBS.iter().map(count).collect()
}

#[test]
fn port_mappings_cost_the_same_requests_however_many_there_are() {
    for (flavour, backend) in KINDS {
        let of = |count: u16| {
            let protocol = |port: u16| if port.is_multiple_of(2) { "udp" } else { "tcp" };
            let mapping = |port| json!({"hostPort": port, "containerPort": port, "protocol": protocol(port)});
            let mappings: Vec<Value> = (1..=count).map(mapping).collect();
            let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap", "backend": backend,
                "runtimeConfig": {"portMappings": mappings}, "prevResult": result(1)});
            requests("portmap", flavour, &config)
        };
        assert_eq!(of(3), of(1000), "{flavour} {backend}");
    }
}

#[test]
fn addresses_cost_the_firewall_the_same_requests_however_many_there_are() {
    for (flavour, backend) in KINDS {
        let of = |count: u16| {
            let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "firewall", "backend": backend,
                "ingressPolicy": "same-bridge", "prevResult": result(count)});
            requests("firewall", flavour, &config)
        };
        assert_eq!(of(1), of(300), "{flavour} {backend}");
    }
}

/// Each address of a ptp costs requests for itself; the rules that masquerade them cost none more.
#[test]
fn addresses_cost_masquerading_no_further_requests() {
    for (flavour, backend) in KINDS {
        let of = |count: u16, masquerade: bool| {
            let addresses = (2..count + 2).map(|number| json!({"address": format!("10.9.0.{number}/16")}));
            let ipam = json!({"type": "static", "addresses": addresses.collect::<Vec<_>>()});
            let backend = if backend == "iptables" { json!("iptables") } else { json!("nftables") };
            let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0", "ipam": ipam,
                "ipMasq": masquerade, "ipMasqBackend": backend});
            let lab = host();
            // Each rule for a chain that exists must not cost a question about the chain.
            lab.ok("iptables-nft -t nat -A POSTROUTING -s 192.0.2.1 -j ACCEPT");
            let call = lab.plugin("bridge").config(&config).env("CNI_BOX_IPTABLES", flavour);
            call.env("CNI_BOX_LOG", "/run/lab/log").run().result();
            lab.read("/run/lab/log").lines().filter(|line| line.contains("\"step\":\"netlink ")).count()
        };
        let added_by_masquerading = |count| of(count, true) - of(count, false);
        assert_eq!(added_by_masquerading(2), added_by_masquerading(100), "{flavour} {backend}");
    }
}
