//! podman with its CNI backend: it writes the configurations itself.

use super::machine::{Machine, REDIS};

const CONTAINERS: &str = r#"
[containers]
default_ulimits = []
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"#;
const STORAGE: &str = r#"
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"#;

/// A machine whose podman has the images; in the namespace `outside` is what a cable from its `up0` leads to.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("/etc/containers/containers.conf", CONTAINERS);
    machine.write("/etc/containers/storage.conf", STORAGE);
    machine.ok("podman load --quiet --input /tmp/images.tar");
    machine.lab.sh("ip netns add outside; ip link add up0 type veth peer name down0 netns outside").success();
    machine.lab.sh("ip link set up0 up; ip -n outside link set down0 up; ip -n outside link set lo up").success();
    machine
}

/// The address that podman knows of a container in a network.
fn address(machine: &Machine, container: &str, network: &str, family: &str) -> String {
    let field = format!(r#"{{{{(index .NetworkSettings.Networks "{network}").{family}}}}}"#);
    machine.ok(&format!("podman inspect --format '{field}' {container}")).trim().to_string()
}

#[test]
fn a_published_port_is_reachable_from_everywhere() {
    let machine = machine();
    machine.lab.ok("ip addr add 192.0.2.1/24 dev up0");
    machine.lab.ok("ip -n outside addr add 192.0.2.2/24 dev down0");
    let server = "redis-server --protected-mode no --port 80";
    machine.ok(&format!("podman run --detach --name web -p 8080:80 {REDIS} {server}"));
    let own = address(&machine, "web", "podman", "IPAddress");
    for place in [(own.as_str(), 80), ("127.0.0.1", 8080), ("10.88.0.1", 8080), ("192.0.2.1", 8080)] {
        machine.redis_answers(place.0, place.1);
    }
    machine.redis_answers_outside("192.0.2.1", 8080);
    // From another container, and from the same one, by way of the host.
    machine.ok(&format!("podman run --detach --name other {REDIS}"));
    for container in ["other", "web"] {
        let answer = machine.ok(&format!("podman exec {container} sh -c 'echo PING | nc -w 5 192.0.2.1 8080'"));
        assert_eq!(answer.trim(), "+PONG", "{container}");
    }
    machine.ok("podman rm --force --time 0 web other");
    machine.assert_nothing_left(&["10.88.0.", "8080"]);
}

#[test]
fn a_container_in_several_networks() {
    let machine = machine();
    machine.ok("podman network create --subnet 10.91.0.0/24 second");
    machine.ok("podman network create --ipv6 --subnet fd00:92::/64 six");
    machine.ok("podman network create --driver macvlan --opt parent=up0 --subnet 10.93.0.0/24 mac");
    machine.lab.ok("ip -n outside addr add 10.93.0.1/24 dev down0");
    machine.ok(&format!("podman run --detach --name server --network podman,second,six,mac {REDIS}"));
    for network in ["podman", "second", "six"] {
        machine.redis_answers(&address(&machine, "server", network, "IPAddress"), 6379);
    }
    machine.redis_answers(&address(&machine, "server", "six", "GlobalIPv6Address"), 6379);
    machine.redis_answers_outside(&address(&machine, "server", "mac", "IPAddress"), 6379);

    machine.ok("podman network disconnect second server");
    assert_eq!(machine.lab.reserved("second"), [""; 0]);
    machine.ok("podman network connect second server");
    machine.redis_answers(&address(&machine, "server", "second", "IPAddress"), 6379);

    machine.ok("podman rm --force --time 0 server");
    machine.assert_nothing_left(&["10.88.0.", "10.91.0.", "10.89.0.", "fd00:92::", "10.93.0."]);
    machine.ok("podman network rm second six mac");
    let links = machine.lab.ok("ip -brief link");
    assert!(!links.contains("cni-podman1") && !links.contains("cni-podman2"), "{links}");
}

#[test]
fn a_port_published_in_a_network_with_ipv6() {
    let machine = machine();
    machine.lab.ok("ip addr add 2001:db8::1/64 dev up0 nodad");
    machine.lab.ok("ip -n outside addr add 2001:db8::2/64 dev down0 nodad");
    machine.ok("podman network create --ipv6 --subnet fd00:92::/64 six");
    machine.ok(&format!("podman run --detach --name server --network six -p '[::]:8080:6379' {REDIS}"));
    machine.redis_answers(&address(&machine, "server", "six", "GlobalIPv6Address"), 6379);
    machine.redis_answers("2001:db8::1", 8080);
    machine.redis_answers_outside("2001:db8::1", 8080);
    machine.ok("podman rm --force --time 0 server");
    machine.assert_nothing_left(&["fd00:92::", "10.89.0.", "8080"]);
}
