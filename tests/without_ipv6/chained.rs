//! Plugins that run behind the one that made the interface.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use super::life;
use crate::bandwidth::{both, inside, traffic_control};
use crate::lab::{Lab, bridge_config, merged, wait_for};
use crate::masquerade::lab;
use crate::tuning::sysctl;

/// Attaches `ns1` to a bridge; gives the configuration of a plugin behind that.
pub fn behind_bridge(lab: &Lab, plugin: &str, changes: &Value) -> Value {
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.50.0.0/16", "gw": "10.1.2.9"}]);
    let bridge = bridge_config(&json!({"isGateway": true, "ipam": {"routes": routes}}));
    let result = lab.plugin("bridge").config(&bridge).run().result();
    merged(json!({"cniVersion": "1.0.0", "name": "net", "type": plugin, "prevResult": result}), changes)
}

/// `outside` is 192.0.2.2, a neighbour of the host.
fn neighbour(lab: &Lab) {
    lab.netns("outside");
    lab.sh("ip link add out0 up type veth peer name eth0 netns outside; ip addr add 192.0.2.1/24 dev out0
        ip -n outside addr add 192.0.2.2/24 dev eth0; ip -n outside link set eth0 up
        ip -n outside route add default via 192.0.2.1")
        .success();
}

/// A client outside reaches TCP port 80 and UDP port 81 of the container by the host's ports.
fn ports_are_mapped(lab: &Lab) {
    let server = inside(lab, "ns1", || TcpListener::bind("10.1.2.2:80").unwrap());
    let connect = || TcpStream::connect_timeout(&"192.0.2.1:8080".parse().unwrap(), Duration::from_secs(20)).unwrap();
    let mut client = inside(lab, "outside", connect);
    server.accept().unwrap().0.write_all(b"web").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "web");
    let server = inside(lab, "ns1", || UdpSocket::bind("10.1.2.2:81").unwrap());
    let client = inside(lab, "outside", || UdpSocket::bind("192.0.2.2:0").unwrap());
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    wait_for("a packet", || {
        client.send_to(b"?", "192.0.2.1:8081").unwrap();
        server.recv_from(&mut [0; 10]).is_ok()
    });
}

/// A mapping for `hostIP` of a family that the container lacks is passed over.
#[test]
fn portmap() {
    let mappings = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 81, "protocol": "udp"},
        {"hostPort": 8082, "containerPort": 80, "protocol": "tcp", "hostIP": "::1"}]);
    for (flavour, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("legacy", ""), ("nft", "nftables")] {
        let lab = lab(flavour);
        neighbour(&lab);
        let backend = if backend.is_empty() { Value::Null } else { json!(backend) };
        let changes = json!({"backend": backend, "runtimeConfig": {"portMappings": mappings}});
        life(&lab, &behind_bridge(&lab, "portmap", &changes), || ports_are_mapped(&lab));
    }
}

#[test]
fn firewall() {
    for (flavour, backend, policy) in
        [("nft", "iptables", "same-bridge"), ("legacy", "iptables", "open"), ("nft", "nftables", "same-bridge")]
    {
        let lab = lab(flavour);
        let config = behind_bridge(&lab, "firewall", &json!({"backend": backend, "ingressPolicy": policy}));
        life(&lab, &config, || {
            let rules = match backend {
                "nftables" => lab.ok("nft list chain ip cni_firewall CNI-FORWARD"),
                _ => lab.ok(&format!("iptables-{flavour} -S CNI-FORWARD")),
            };
            assert!(rules.contains("10.1.2.2"), "{rules}");
        });
    }
}

fn routes(lab: &Lab, table: &str) -> Vec<String> {
    let text = lab.ok(&format!("ip -n ns1 route show table {table}"));
    let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_string()).collect();
    lines.sort();
    lines
}

const ROUTES: [&str; 3] = [
    "10.1.2.0/24 dev eth0 proto kernel scope link src 10.1.2.2",
    "10.50.0.0/16 via 10.1.2.9 dev eth0",
    "default via 10.1.2.1 dev eth0",
];

/// The subnet in the main table, with the address to send from.
const HINT: &str = "10.1.2.0/24 dev eth0 scope link src 10.1.2.2";

/// Routes leave the main table for good. A `table` in the configuration gets a rule and no routes.
#[test]
fn sbr() {
    for (changes, number, table, main) in [
        (json!({}), 100, &ROUTES[..], &[][..]),
        (json!({"addSourceHints": true, "gateways": ["10.1.2.1"]}), 100, &ROUTES, &[HINT]),
        (json!({"table": 77}), 77, &[], &ROUTES),
    ] {
        let lab = lab("nft");
        lab.ok("ip -n ns1 route add unreachable 192.0.2.0/24 table 77");
        let config = behind_bridge(&lab, "sbr", &changes);
        lab.plugin("sbr").config(&config).run().result();
        assert_eq!(routes(&lab, &format!("{number} type unicast")), table, "{changes}");
        assert_eq!(routes(&lab, "main"), main, "{changes}");
        life(&lab, &config, || {
            assert!(lab.ok("ip -n ns1 rule").contains(&format!("from 10.1.2.2 lookup {number}")), "{changes}");
        });
    }
}

/// Routes of the main table move to the VRF and back.
#[test]
fn vrf() {
    for changes in [json!({}), json!({"table": 1000})] {
        let lab = lab("nft");
        let config = behind_bridge(&lab, "vrf", &merged(changes.clone(), &json!({"vrfname": "blue"})));
        lab.ok("ip -n ns1 rule add from 192.0.2.7 lookup 1");
        lab.ok("ip -n ns1 route add unreachable 192.0.2.0/24 table 2");
        life(&lab, &config, || {
            let table = lab.link_in("ns1", "blue")["linkinfo"]["info_data"]["table"].clone();
            assert_eq!(table, if changes["table"].is_null() { json!(3) } else { json!(1000) });
            assert_eq!(routes(&lab, &format!("{table} type unicast")), ROUTES);
            lab.ok("ip netns exec ns1 ping -n -c 1 -W 5 -I blue 10.1.2.1");
        });
        assert_eq!(routes(&lab, "main"), ROUTES);
    }
}

#[test]
fn tuning_and_bandwidth() {
    let lab = lab("nft");
    let setting = json!({"net.ipv4.conf.IFNAME.arp_filter": "1"});
    let changes = json!({"sysctl": setting, "mtu": 1400, "mac": "02:00:00:00:00:77", "promisc": true});
    let config = behind_bridge(&lab, "tuning", &changes);
    life(&lab, &config, || {
        assert_eq!(sysctl(&lab, "ipv4/conf/eth0/arp_filter"), "1");
        assert_eq!(lab.link_in("ns1", "eth0")["mtu"], 1400);
    });
    let limits = merged(both(), &json!({"unshapedSubnets": ["10.9.0.0/16", "fd00:9::/48"]}));
    for changes in [both(), limits] {
        life(&lab, &merged(merged(config.clone(), &json!({"type": "bandwidth"})), &changes), || {
            let discipline = if changes["unshapedSubnets"].is_null() { "qdisc tbf" } else { "qdisc htb" };
            assert!(traffic_control(&lab).iter().any(|line| line.contains(discipline)), "{changes}");
        });
    }
}
