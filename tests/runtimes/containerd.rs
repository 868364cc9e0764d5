//! containerd by its command line, `ctr`, as in the walk-throughs.

use serde_json::json;

use super::machine::{Machine, REDIS};
use crate::walkthroughs::REDISNET;

/// A machine with a containerd that has the images.
fn machine(release: &str) -> Machine {
    let machine = Machine::with_containerd(release);
    machine.start("containerd", "containerd.log");
    machine.wait_until("ctr version");
    machine.ok("ctr image import /tmp/images.tar");
    machine
}

#[test]
fn w1_and_w5_a_redis_container_by_hand() {
    let machine = machine("1.6");
    machine.write("/etc/cni/net.d/redisnet.conf", REDISNET);
    let before = machine.lab.snapshot();
    machine.ok("ip netns add redisnet");
    let result = machine.typed("cnitool add redisnet /var/run/netns/redisnet").result();
    assert_eq!(result["ips"][0]["address"], "10.88.0.2/16");
    machine.typed("cnitool check redisnet /var/run/netns/redisnet").silent();
    let addresses = machine.ok("ip -n redisnet addr");
    assert!(addresses.contains("inet 10.88.0.2/16") && addresses.contains("eth0"), "{addresses}");
    machine.ok("ping -c 1 10.88.0.2");
    machine.ok(&format!("ctr run --with-ns=network:/var/run/netns/redisnet -d {REDIS} redis"));
    machine.redis_answers("10.88.0.2", 6379);
    let typed = machine.on_a_terminal("ctr task exec -t --exec-id redis-sh redis sh", "ip addr\nexit\n").success();
    assert!(typed.stdout.contains("inet 10.88.0.2/16") && typed.stdout.contains("eth0"), "{typed:#?}");

    machine.ok("ctr task kill -s SIGKILL redis");
    machine.wait_until("ctr container rm redis");
    machine.typed("cnitool del redisnet /var/run/netns/redisnet").silent();
    machine.ok("ip netns del redisnet");
    machine.assert_nothing_left(&["10.88.0.2"]);
    machine.ok("ip link del cni0");
    before.assert_same(&machine.lab.snapshot());
    machine.ok("rm -rf /var/lib/cni/networks/* /var/lib/cni/results/*");
}

/// A network list as people have it for `ctr run --cni`.
fn dual_stack(version: &str) -> String {
    let ranges = json!([[{"subnet": "10.22.0.0/16"}], [{"subnet": "fd00:22::/64"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam});
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let plugins = json!([bridge, portmap, {"type": "firewall"}, {"type": "tuning"}]);
    json!({"cniVersion": version, "name": "lab", "plugins": plugins}).to_string()
}

/// `ctr run --cni` in the foreground: with `-d` it would never do DEL.
fn run(machine: &Machine, id: &str) {
    machine.start(&format!("ctr run --rm --cni {REDIS} {id}"), id);
}

/// Ends a container; then `ctr run --rm` does DEL, and deletes the container last.
fn end(machine: &Machine, id: &str) {
    machine.ok(&format!("ctr task kill -s SIGKILL {id}"));
    machine.wait_until(&format!("! ctr container info {id}"));
}

fn containers_come_and_go(release: &str, version: &str) {
    let machine = machine(release);
    let told = machine.ok("containerd --version");
    assert!(told.contains(&format!(" {release}.")), "{told}");
    machine.write("/etc/cni/net.d/10-lab.conflist", dual_stack(version));
    run(&machine, "first");
    for address in ["10.22.0.2", "fd00:22::2"] {
        machine.redis_answers(address, 6379);
    }
    run(&machine, "second");
    machine.redis_answers("10.22.0.3", 6379);
    let ask = "ctr task exec --exec-id ask first sh -c 'echo PING | nc -w 5 10.22.0.3 6379'";
    assert_eq!(machine.ok(ask).trim(), "+PONG");
    let rules = machine.lab.rules().join("\n");
    assert!(rules.contains("-s 10.22.0.2/32 ") && rules.contains("MASQUERADE"), "{rules}");

    end(&machine, "first");
    end(&machine, "second");
    machine.assert_nothing_left(&["10.22.0.", "fd00:22::"]);
}

#[test]
fn containers_of_containerd_1_6() {
    containers_come_and_go("1.6", "1.0.0");
}

#[test]
fn containers_of_containerd_2_1() {
    containers_come_and_go("2.1", "1.1.0");
}
