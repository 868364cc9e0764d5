//! Real connections over mapped ports: who may come from where, in both families, with every backend.

use std::cell::RefCell;

use serde_json::{Value, json};

use crate::lab::{Background, Call, Lab, bridge_config, merged, wait_for};
use crate::masquerade::lab;
use crate::portmap;

/// Flavour of iptables, and backend of portmap.
pub const BACKENDS: [(&str, &str); 3] = [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")];

/// Answers everybody on TCP port 80 and UDP port 81 with its name and the client's address.
pub const SERVER: &str = r#"
import socket, select, sys
name, address, ready = sys.argv[1:4]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
tcp, udp = socket.socket(family, socket.SOCK_STREAM), socket.socket(family, socket.SOCK_DGRAM)
tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if family == socket.AF_INET6:
    for one in (tcp, udp): one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
tcp.bind((address, 80)); udp.bind((address, 81)); tcp.listen()
open(ready, "w").close()
text = lambda peer: (name + " " + peer[0].replace("::ffff:", "")).encode()
while True:
    for one in select.select([tcp, udp], [], [])[0]:
        if one is tcp:
            connection, peer = tcp.accept()
            connection.sendall(text(peer)); connection.close()
        else:
            _, peer = udp.recvfrom(100)
            udp.sendto(text(peer), peer)
"#;

/// Prints the answer; fails after a second without one.
pub const CLIENT: &str = r#"
import socket, sys
kind, address, port, own = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
one = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
one.settimeout(1)
if own: one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); one.bind(("", own))
one.connect((address, port)); one.send(b"?") if kind == "udp" else None
print(one.recv(100).decode(), end="")
"#;

/// What a masqueraded client is to the server. An address of the bridge that is still being checked is not used.
const HOST_V6: [&str; 2] = ["web fd00:1:2::1", "web fd00:2::1"];

/// Gives the host a neighbour: `outside` is 192.0.2.2 and fd00:2::2, the host is 192.0.2.1 and fd00:2::1.
pub fn neighbour(lab: &Lab) {
    lab.netns("outside");
    lab.sh("ip link add out0 type veth peer name eth0 netns outside
        ip addr add 192.0.2.1/24 dev out0; ip addr add fd00:2::1/64 dev out0 nodad; ip link set out0 up
        ip -n outside addr add 192.0.2.2/24 dev eth0; ip -n outside addr add fd00:2::2/64 dev eth0 nodad
        ip -n outside link set eth0 up; ip -n outside link set lo up")
        .success();
    lab.write("/opt/server", SERVER);
    lab.write("/opt/client", CLIENT);
}

/// Starts a server on an address of a namespace (the host's if empty) and waits until it listens.
pub fn serve(lab: &Lab, netns: &str, name: &str, address: &str) -> Background {
    let ready = format!("/run/lab/{name}-ready");
    let words = ["python3", "/opt/server", name, address, &ready];
    let words = if netns.is_empty() { words.to_vec() } else { [&["netns", "exec", netns][..], &words].concat() };
    let (program, words) = if netns.is_empty() { ("python3", &words[1..]) } else { ("ip", &words[..]) };
    let server = Call::new(lab, program).args_list(words).env("PATH", "/usr/sbin:/usr/bin").spawn();
    wait_for(&format!("the server {name}"), || lab.exists(&ready));
    server
}

/// What a client in a namespace gets; `own` is the port it asks from, or 0.
pub fn ask_from(lab: &Lab, netns: &str, kind: &str, address: &str, port: u16, own: u16) -> Option<String> {
    let (port, own) = (port.to_string(), own.to_string());
    let client = ["python3", "/opt/client", kind, address, &port, &own];
    let words =
        if netns.is_empty() { client.to_vec() } else { [&["ip", "netns", "exec", netns][..], &client].concat() };
    let outcome = lab.run(&words);
    (outcome.code == Some(0)).then_some(outcome.stdout)
}

/// A host with containers on a bridge, and a neighbour outside.
pub struct Site {
    pub lab: Lab,
    backend: &'static str,
    servers: RefCell<Vec<Background>>,
}

impl Site {
    pub fn new(flavour: &str, backend: &'static str) -> Site {
        let lab = lab(flavour);
        lab.netns("ns2");
        // A container's answer to another one must not come back through the host by accident.
        lab.sh("for name in iptables ip6tables; do echo 0 > /proc/sys/net/bridge/bridge-nf-call-$name; done
            for name in ns1 ns2; do ip -n $name link set lo up; done")
            .success();
        neighbour(&lab);
        Site { lab, backend, servers: RefCell::default() }
    }

    pub fn bridge(&self, container: &str, netns: &str) -> Call<'_> {
        let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
        let config = bridge_config(&json!({
            "name": "mynet", "isDefaultGateway": true, "hairpinMode": true, "ipam": {"subnet": null, "ranges": ranges},
        }));
        self.lab.plugin("bridge").container(container).netns(&format!("/var/run/netns/{netns}")).config(&config)
    }

    pub fn portmap(&self, container: &str, netns: &str, previous: &Value, changes: &Value) -> Call<'_> {
        let list = json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8081, "containerPort": 81, "protocol": "udp"},
        ]);
        let base = json!({"cniVersion": "1.0.0", "name": "mynet", "type": "portmap", "backend": self.backend,
            "runtimeConfig": {"portMappings": list}, "prevResult": previous});
        let call = self.lab.plugin("portmap").container(container).netns(&format!("/var/run/netns/{netns}"));
        call.config(&merged(base, changes))
    }

    /// Attaches a container with mapped ports, and a server in it.
    pub fn attach(&self, container: &str, netns: &str, changes: &Value) -> Value {
        let result = self.bridge(container, netns).run().result();
        self.portmap(container, netns, &result, changes).run().result();
        self.serve(netns, container, "::");
        result
    }

    /// Starts a server on an address of a namespace and waits until it listens.
    pub fn serve(&self, netns: &str, name: &str, address: &str) {
        self.servers.borrow_mut().push(serve(&self.lab, netns, name, address));
    }

    pub fn ask_from(&self, netns: &str, kind: &str, address: &str, port: u16, own: u16) -> Option<String> {
        ask_from(&self.lab, netns, kind, address, port, own)
    }

    /// What the client gets; the network may need a moment.
    pub fn ask(&self, netns: &str, kind: &str, address: &str) -> String {
        let port = if kind == "tcp" { 8080 } else { 8081 };
        let mut answer = None;
        let what = format!("{} {netns} {kind} {address} {}", self.backend, self.lab.ok("nft list ruleset"));
        wait_for(&what, || {
            answer = self.ask_from(netns, kind, address, port, 0);
            answer.is_some()
        });
        answer.unwrap()
    }
}

#[test]
fn mapped_ports_are_reached_from_outside_from_the_host_and_from_containers() {
    for (flavour, backend) in BACKENDS {
        let site = Site::new(flavour, backend);
        site.attach("web", "ns1", &json!({}));
        site.bridge("other", "ns2").run().result();
        for kind in ["tcp", "udp"] {
            assert_eq!(site.ask("outside", kind, "192.0.2.1"), "web 192.0.2.2", "{flavour} {backend}");
            assert_eq!(site.ask("outside", kind, "fd00:2::1"), "web fd00:2::2", "{flavour} {backend}");
            assert_eq!(site.ask("", kind, "127.0.0.1"), "web 10.1.2.1", "{flavour} {backend}");
            for own in ["192.0.2.1", "10.1.2.1", "fd00:2::1", "fd00:1:2::1"] {
                assert!(site.ask("", kind, own).starts_with("web "), "{flavour} {backend} {own}");
                for container in ["ns1", "ns2"] {
                    // Who sees the server's answers on the bridge would not know them for answers of the host.
                    let answer = site.ask(container, kind, own);
                    let host = answer == "web 10.1.2.1" || HOST_V6.contains(&answer.as_str());
                    assert!(host, "{flavour} {backend} {container} {own}: {answer}");
                }
            }
        }
    }
}

#[test]
fn better_udp_goes_to_a_restarted_container_on_the_same_port() {
    for (flavour, backend) in BACKENDS {
        let site = Site::new(flavour, backend);
        let first = site.attach("web", "ns1", &json!({}));
        let ask = |site: &Site, address: &str| site.ask_from("outside", "udp", address, 8081, 5000);
        for address in ["192.0.2.1", "fd00:2::1"] {
            wait_for("the first container", || ask(&site, address).is_some_and(|answer| answer.starts_with("web ")));
        }
        // The client does not stop, neither while the container is there nor while none is.
        site.portmap("web", "ns1", &first, &json!({})).verb("DEL").run().silent();
        for address in ["192.0.2.1", "fd00:2::1"] {
            assert_eq!(ask(&site, address), None, "{flavour} {backend}: a released port still leads somewhere");
        }
        let second = site.attach("again", "ns2", &json!({}));
        assert_ne!(first["ips"], second["ips"]);
        for address in ["192.0.2.1", "fd00:2::1"] {
            let answer = ask(&site, address);
            assert!(
                answer.as_ref().is_some_and(|answer| answer.starts_with("again ")),
                "{flavour} {backend}: {answer:?}"
            );
        }
    }
}

#[test]
fn better_flows_of_others_to_the_same_port_are_not_forgotten() {
    let site = Site::new("nft", "iptables");
    // A container's flow through the host to a server outside, on the port that is about to be mapped.
    site.bridge("other", "ns2").run().result();
    site.lab.ok("ip -n outside route add 10.1.2.0/24 via 192.0.2.1");
    let track = "iptables -t filter -A FORWARD -m conntrack --ctstate NEW -j ACCEPT; iptables -A INPUT -m conntrack --ctstate NEW";
    site.lab.sh(track).success();
    site.ask_from("ns2", "udp", "192.0.2.2", 8081, 5000);
    site.ask_from("outside", "udp", "192.0.2.1", 8081, 5001);
    let flows = |site: &Site| -> Vec<String> {
        let text = site.lab.ok("conntrack -L -p udp --dport 8081");
        text.lines()
            .map(|line| line.split_whitespace().find(|word| word.starts_with("dst=")).unwrap().to_string())
            .collect()
    };
    let mut before = flows(&site);
    before.sort();
    assert_eq!(before, ["dst=192.0.2.1", "dst=192.0.2.2"]);
    let elsewhere = json!([{"hostPort": 8081, "containerPort": 81, "protocol": "udp", "hostIP": "10.1.2.1"}]);
    site.attach("web", "ns1", &json!({"runtimeConfig": {"portMappings": elsewhere}}));
    assert_eq!(flows(&site).len(), 2, "hostIP");
    let result = site.bridge("more", "ns1").ifname("eth1").run().result();
    site.portmap("more", "ns1", &result, &json!({})).ifname("eth1").run().result();
    assert_eq!(flows(&site), ["dst=192.0.2.2"]);
}

#[test]
fn better_flows_of_the_other_family_are_not_forgotten() {
    let lab = lab("nft");
    for (host, other, flow) in [("0.0.0.0", "ipv6", "-s fd00::9 -d ::1"), ("::", "ipv4", "-s 10.9.9.9 -d 127.0.0.1")] {
        lab.ok(&format!("conntrack -I -p udp {flow} --sport 5000 --dport 8081 -t 600"));
        let list = json!([{"hostPort": 8081, "containerPort": 81, "protocol": "udp", "hostIP": host}]);
        let config = portmap::config(&portmap::mappings(&list));
        portmap::call(&lab, &config).run().result();
        portmap::call(&lab, &config).verb("DEL").run().silent();
        let flows = lab.ok(&format!("conntrack -L -f {other} -p udp --dport 8081"));
        assert_eq!(flows.lines().count(), 1, "{host}: {flows:?}");
    }
}

#[test]
fn a_mapping_with_a_host_address_is_for_that_address_only() {
    for (flavour, backend) in BACKENDS {
        let site = Site::new(flavour, backend);
        let list = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}]);
        site.attach("web", "ns1", &json!({"runtimeConfig": {"portMappings": list}}));
        assert_eq!(site.ask("outside", "tcp", "192.0.2.1"), "web 192.0.2.2");
        assert_eq!(site.ask_from("", "tcp", "10.1.2.1", 8080, 0), None, "{flavour} {backend}");
        assert_eq!(site.ask_from("", "tcp", "127.0.0.1", 8080, 0), None, "{flavour} {backend}");
    }
}

#[test]
fn newer_conditions_shut_others_out() {
    for (flavour, backend) in BACKENDS {
        let site = Site::new(flavour, backend);
        let words = if backend == "iptables" {
            json!(["!", "-s", "192.0.2.2"])
        } else {
            json!(["ip", "saddr", "!=", "192.0.2.2"])
        };
        site.attach("web", "ns1", &json!({"conditionsV4": words}));
        assert_eq!(site.ask("", "tcp", "127.0.0.1"), "web 10.1.2.1");
        assert_eq!(site.ask_from("outside", "tcp", "192.0.2.1", 8080, 0), None, "{flavour} {backend}");
        assert_eq!(site.ask("outside", "tcp", "fd00:2::1"), "web fd00:2::2");
    }
}

#[test]
fn newer_masq_all_hides_every_client() {
    for (flavour, backend) in BACKENDS {
        let site = Site::new(flavour, backend);
        site.attach("web", "ns1", &json!({"masqAll": true}));
        assert_eq!(site.ask("outside", "tcp", "192.0.2.1"), "web 10.1.2.1", "{flavour} {backend}");
        let answer = site.ask("outside", "tcp", "fd00:2::1");
        assert!(HOST_V6.contains(&answer.as_str()), "{flavour} {backend} {answer}");
    }
}

#[test]
fn better_a_packet_to_somebody_elses_same_port_is_left_alone() {
    // CVE-2025-67499: a translation that does not look at the destination.
    for (flavour, backend) in BACKENDS {
        let site = Site::new(flavour, backend);
        site.attach("web", "ns1", &json!({}));
        site.bridge("other", "ns2").run().result();
        site.lab.ok("ip -n outside route add 10.1.2.0/24 via 192.0.2.1");
        assert_eq!(site.ask("outside", "tcp", "192.0.2.1"), "web 192.0.2.2");
        assert_eq!(site.ask_from("ns2", "tcp", "192.0.2.2", 8080, 0), None, "{flavour} {backend}");
        assert_eq!(site.ask_from("ns2", "tcp", "10.1.2.2", 8080, 0), None, "{flavour} {backend}");
    }
}

#[test]
fn better_containers_do_not_reach_services_on_127_0_0_1_of_the_host() {
    for (flavour, backend) in BACKENDS {
        let site = Site::new(flavour, backend);
        site.serve("", "private", "127.0.0.1");
        site.attach("web", "ns1", &json!({}));
        assert_eq!(site.lab.ok("sysctl -n net.ipv4.conf.cni0.route_localnet").trim(), "1");
        // The container turns what it has for 127.0.0.1 to the host.
        site.lab
            .sh("ip netns exec ns1 sh -ec 'echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
                ip addr flush dev lo
                ip route add 127.0.0.1/32 via 10.1.2.1 src 10.1.2.2'")
            .success();
        assert_eq!(site.ask_from("ns1", "tcp", "127.0.0.1", 80, 0), None, "{flavour} {backend}");
        assert_eq!(site.ask("", "tcp", "127.0.0.1"), "web 10.1.2.1", "{flavour} {backend}");
        // It is the rule that keeps it out.
        let opening = match backend {
            "iptables" => format!("iptables-{flavour} -t raw -F PREROUTING"),
            _ => "nft flush chain ip cni_hostport localnet".to_string(),
        };
        site.lab.ok(&opening);
        let open = || site.ask_from("ns1", "tcp", "127.0.0.1", 80, 0).as_deref() == Some("private 10.1.2.2");
        wait_for(&format!("{flavour} {backend}: the attack itself"), open);
        // The next container shuts the door again.
        let result = site.bridge("other", "ns2").run().result();
        let ports =
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "tcp"}]}});
        site.portmap("other", "ns2", &result, &ports).run().result();
        assert_eq!(site.ask_from("ns1", "tcp", "127.0.0.1", 80, 0), None, "{flavour} {backend}");
    }
}

#[test]
fn better_no_program_of_iptables_or_nft_is_needed() {
    for backend in ["iptables", "nftables"] {
        let site = Site::new("nft", backend);
        let result = site.bridge("web", "ns1").run().result();
        let strace =
            ["/usr/bin/strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=execve,fork,vfork,clone,clone3"];
        let call = site.portmap("web", "ns1", &result, &json!({})).env("PATH", "/nowhere");
        call.clone().under(&strace).run().result();
        site.serve("ns1", "web", "::");
        assert_eq!(site.ask("outside", "tcp", "192.0.2.1"), "web 192.0.2.2", "{backend}");
        for verb in ["CHECK", "DEL"] {
            assert_eq!(site.lab.read("/run/lab/trace").lines().count(), 1, "{verb}");
            call.clone().verb(verb).under(&strace).run().silent();
        }
        assert_eq!(site.lab.read("/run/lab/trace").lines().count(), 1);
        assert_eq!(site.ask_from("outside", "tcp", "192.0.2.1", 8080, 0), None, "{backend}");
    }
}
