//! containerd as a kubelet uses it, by the Container Runtime Interface (runtime.v1: kubernetes/cri-api).

use serde_json::json;

use super::grpc::{self, Message, fields, numbers};
use super::machine::{Machine, REDIS};

const CONFIG: &str = r#"
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.k8s.io/pause:lab"
restrict_oom_score_adj = true
"#;

/// What a cluster's network may look like: a bridge for both families, with everything that can be chained to it.
fn network(version: &str) -> String {
    let ranges = json!([[{"subnet": "10.22.0.0/16"}], [{"subnet": "fd00:22::/64"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam});
    let plugins = json!([
        bridge,
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall"},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
    ]);
    json!({"cniVersion": version, "name": "lab", "plugins": plugins}).to_string()
}

/// A machine with a containerd that pods can be run by.
fn machine(release: &str, version: &str) -> Machine {
    let machine = Machine::with_containerd(release);
    machine.write("/etc/containerd/config.toml", CONFIG);
    machine.write("/etc/cni/net.d/10-lab.conflist", network(version));
    machine.start("containerd", "containerd.log");
    machine.wait_until("ctr version");
    machine.ok("ctr --namespace k8s.io image import /tmp/images.tar");
    // The kubelet's part of containerd takes note of images by a second name for each.
    machine.wait_until("ctr --namespace k8s.io image ls --quiet | grep -c ^sha256: | grep -x 3");
    machine
}

/// Calls a method of the runtime.
fn call(machine: &Machine, method: &str, request: &Message) -> Vec<u8> {
    let socket = machine.path("/run/containerd/containerd.sock");
    let answer = grpc::call(&socket, &format!("/runtime.v1.RuntimeService/{method}"), request);
    answer.unwrap_or_else(|| panic!("{method} failed:\n{}", machine.ok("tail -n 20 /tmp/containerd.log")))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A `PodSandboxConfig`: a port of the host, and limits as `kubectl annotate` sets them.
fn pod(name: &str, port: u64) -> Message {
    let message = Message::default;
    message()
        .message(1, &message().text(1, name).text(2, &format!("uid-{name}")).text(3, "default"))
        .text(2, name)
        .message(5, &message().number(2, 6379).number(3, port))
        .entry(7, "kubernetes.io/ingress-bandwidth", "20M")
        .entry(7, "kubernetes.io/egress-bandwidth", "10M")
        .message(8, &message().text(1, "/kubepods"))
}

/// Starts a pod with a redis server; returns its id and its addresses.
fn run_pod(machine: &Machine, name: &str, port: u64) -> (String, Vec<String>) {
    let message = Message::default;
    let answer = call(machine, "RunPodSandbox", &message().message(1, &pod(name, port)));
    let id = text(&fields(&answer, 1)[0]);
    let container = message().message(1, &message().text(1, "redis")).message(2, &message().text(1, REDIS));
    let request = message().text(1, &id).message(2, &container).message(3, &pod(name, port));
    let answer = call(machine, "CreateContainer", &request);
    call(machine, "StartContainer", &message().text(1, &text(&fields(&answer, 1)[0])));

    let answer = call(machine, "PodSandboxStatus", &message().text(1, &id));
    let network = &fields(&fields(&answer, 1)[0], 5)[0];
    let further = fields(network, 2).into_iter().flat_map(|ip| fields(&ip, 1));
    (id, fields(network, 1).into_iter().chain(further).map(|ip| text(&ip)).collect())
}

fn remove_pod(machine: &Machine, id: &str) {
    call(machine, "StopPodSandbox", &Message::default().text(1, id));
    call(machine, "RemovePodSandbox", &Message::default().text(1, id));
}

/// The rates in bit/s of all token buckets on the host.
fn limits(machine: &Machine) -> Vec<String> {
    let text = machine.lab.ok("tc qdisc show");
    let buckets = text.lines().filter(|line| line.starts_with("qdisc tbf "));
    let rate = |line: &str| line.split_whitespace().skip_while(|word| *word != "rate").nth(1).unwrap().to_string();
    let mut rates: Vec<_> = buckets.map(rate).collect();
    rates.sort();
    rates
}

/// Has the bridge plugin's calls written down, as containerd makes them.
fn record_calls(machine: &Machine) {
    machine.ok("rm /opt/cni/bin/bridge");
    let script = "#!/bin/sh\necho \"$CNI_COMMAND\" >>/tmp/calls\nexec /usr/local/bin/cni-box bridge\n";
    machine.write("/opt/cni/bin/bridge", script);
    machine.ok("chmod 755 /opt/cni/bin/bridge");
}

/// What the kubelet asks every few seconds, and makes the node's state.
fn network_is_ready(machine: &Machine) -> bool {
    let answer = call(machine, "Status", &Message::default());
    let conditions = fields(&fields(&answer, 1)[0], 1);
    let network = conditions.iter().find(|one| text(&fields(one, 1)[0]) == "NetworkReady").unwrap();
    // Protocol Buffers leave out what is false.
    numbers(network, 2) == [1]
}

/// A pod's life.
fn a_pod_comes_and_goes(machine: &Machine) {
    assert!(network_is_ready(machine));
    let (id, addresses) = run_pod(machine, "first", 8080);
    assert_eq!(addresses, ["10.22.0.2", "fd00:22::2"]);
    for address in &addresses {
        machine.redis_answers(address, 6379);
    }
    for address in ["127.0.0.1", "10.22.0.1", "fd00:22::1"] {
        machine.redis_answers(address, 8080);
    }
    assert_eq!(limits(machine), ["10Mbit", "20Mbit"]);
    let (other, addresses) = run_pod(machine, "second", 8081);
    assert_eq!(addresses, ["10.22.0.3", "fd00:22::3"]);
    remove_pod(machine, &other);
    machine.redis_answers("10.22.0.2", 6379);
    remove_pod(machine, &id);
    machine.assert_nothing_left(&["10.22.0.", "fd00:22::", "8080", "link bwp"]);
}

#[test]
fn a_pod_of_containerd_1_6() {
    let machine = machine("1.6", "1.0.0");
    record_calls(&machine);
    a_pod_comes_and_goes(&machine);
    assert_eq!(machine.ok("uniq /tmp/calls"), "ADD\nDEL\n");
}

#[test]
fn a_pod_of_containerd_2_1() {
    let machine = machine("2.1", "1.1.0");
    record_calls(&machine);
    a_pod_comes_and_goes(&machine);
    assert_eq!(machine.ok("uniq /tmp/calls"), "STATUS\nADD\nDEL\n", "the status is what the network plugin says");
}
