//! The lists of plugins that runtimes write, through cnitool with our plugins only, and traffic over a mapped port.

use serde_json::{Value, json};

use crate::chains::{Network, State};
use crate::flannel::{DUAL, SUBNET_FILE, only};
use crate::lab::{Lab, wait_for};
use crate::portmap_traffic::{ask_from, neighbour, serve};

const V4: &str = "192.0.2.1";
const V6: &str = "fd00:2::1";

/// A host with a neighbour and `ns1`, and flanneld's file.
fn host(file: &str) -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    neighbour(&lab);
    lab.write(SUBNET_FILE, file);
    lab
}

/// What a runtime says of a container with one mapped port; containerd gives a burst that is as great as possible.
fn wishes() -> Value {
    json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
        "bandwidth": {"ingressRate": 100_000_000, "ingressBurst": 4_294_967_295_u32,
            "egressRate": 100_000_000, "egressBurst": 4_294_967_295_u32},
    })
}

fn portmap() -> Value {
    json!({"type": "portmap", "capabilities": {"portMappings": true}})
}

/// The list of kube-flannel.yml.
fn kube_flannel(version: &str) -> Value {
    let flannel = json!({"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}});
    json!({"cniVersion": version, "name": "cbr0", "plugins": [flannel, portmap()]})
}

fn k3s(version: &str) -> Value {
    let delegate = json!({"hairpinMode": true, "forceAddress": true, "isDefaultGateway": true});
    let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
    json!({"name": "cbr0", "cniVersion": version, "plugins": [
        {"type": "flannel", "delegate": delegate}, portmap(), bandwidth]})
}

/// What `podman network create` of version 4 writes, for a network with both families.
fn podman() -> Value {
    let ipam = json!({"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        "ranges": [[{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}], [{"subnet": "fd00:88::/64", "gateway": "fd00:88::1"}]]});
    json!({"cniVersion": "0.4.0", "name": "podman", "args": {"podman_labels": {"a": "b"}}, "plugins": [
        {"type": "bridge", "bridge": "cni-podman0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam,
            "capabilities": {"ips": true}},
        portmap(), {"type": "firewall", "backend": ""}, {"type": "tuning", "capabilities": {"mac": true}}]})
}

/// nerdctl's default network; the policy is `same-bridge` today, and `isolated` without inter-container communication.
fn nerdctl(policy: &Value) -> Value {
    let ipam = json!({"ranges": [[{"gateway": "10.4.0.1", "subnet": "10.4.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}], "type": "host-local"});
    let mut firewall = json!({"type": "firewall"});
    firewall.as_object_mut().unwrap().extend(policy.as_object().unwrap().clone());
    json!({"cniVersion": "1.0.0", "name": "bridge", "nerdctlID": "17f29b073143d8cd97b5bbe492bdeffec1c5fee55cc1fe2112c8b9335f8b6121",
        "nerdctlLabels": {"nerdctl/default-network": "true"}, "plugins": [
        {"type": "bridge", "bridge": "nerdctl0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam},
        portmap(), firewall, {"type": "tuning"}]})
}

/// A container comes and goes: its port is reached at these addresses of the host while it is there, and DEL leaves
/// nothing, also when the namespace goes first.
fn comes_and_goes(lab: Lab, list: &Value, addresses: &[&str]) {
    let network = Network::new(lab, list, &wishes()).settled();
    let lab = &network.lab;
    let before = State::of(lab);
    network.call("add").run().result();
    let server = serve(lab, "ns1", "web", "::");
    let ask = |address: &str| ask_from(lab, "outside", "tcp", address, 8080, 0);
    for address in addresses {
        wait_for(&format!("an answer of {address}"), || ask(address).is_some());
    }
    if list["cniVersion"] != "0.3.1" {
        network.call("check").run().silent();
        lab.ok("ip -n ns1 addr flush dev eth0");
        network.call("check").run().dies_with(&["eth0"]);
    }
    server.kill();
    for _ in 0..2 {
        network.call("del").run().silent();
        before.assert_same(&State::of(lab));
    }
    network.call("add").run().result();
    lab.ok("ip netns del ns1");
    network.call("del").run().silent();
    wait_for("the end of the pair", || lab.veths().is_empty());
    before.assert_host(&State::of(lab));
}

#[test]
fn kubernetes_with_flannel() {
    for (file, addresses) in [(only("v4"), &[V4][..]), (only("v6"), &[V6]), (DUAL.to_string(), &[V4, V6])] {
        for version in ["0.3.1", "1.0.0", "1.1.0"] {
            comes_and_goes(host(&file), &kube_flannel(version), addresses);
        }
    }
}

#[test]
fn k3s_with_flannel_and_bandwidth() {
    for version in ["0.3.1", "1.0.0"] {
        comes_and_goes(host(DUAL), &k3s(version), &[V4, V6]);
    }
}

#[test]
fn podman_4() {
    comes_and_goes(host(""), &podman(), &[V4, V6]);
}

#[test]
fn nerdctl_with_each_policy() {
    for policy in [json!({}), json!({"ingressPolicy": "same-bridge"}), json!({"ingressPolicy": "isolated"})] {
        comes_and_goes(host(""), &nerdctl(&policy), &[V4]);
    }
}
