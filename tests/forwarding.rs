//! The host forwards IPv6 for a gateway, and keeps the IPv6 default routes that the kernel made
//! from router advertisements.

use serde_json::{Value, json};

use crate::bridge::sysctl;
use crate::lab::{Call, Lab, bridge_config, merged, router, wait_for};

/// A host that forwards nothing, with a container and a router on `up0` that has advertised itself.
pub fn host() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.sh("ip netns exec ns1 sh -c 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'").success();
    router::beside(&lab, "router", "up0");
    advertise(&lab, "up0");
    assert_eq!((forwarding(&lab), defaults(&lab, "up0")), ("0".to_string(), 1));
    lab
}

pub fn advertise(lab: &Lab, link: &str) {
    router::advertise(lab, ("router", "r0"), ("", link));
}

fn forwarding(lab: &Lab) -> String {
    sysctl(lab, "", "net/ipv6/conf/all/forwarding")
}

pub fn accept_ra(lab: &Lab, link: &str) -> String {
    sysctl(lab, "", &format!("net/ipv6/conf/{link}/accept_ra"))
}

pub fn set_accept_ra(lab: &Lab, link: &str, value: u8) {
    lab.sh(&format!("echo {value} > /proc/sys/net/ipv6/conf/{link}/accept_ra")).success();
}

/// How many IPv6 default routes the host has over a link.
pub fn defaults(lab: &Lab, link: &str) -> usize {
    let routes = lab.routes("", "-6").into_iter().filter(|route| route.starts_with("default"));
    routes.filter(|route| route.contains(&format!(" dev {link} "))).count()
}

/// Networks whose gateway is the host.
fn networks() -> Vec<(&'static str, Value)> {
    let six = json!([[{"subnet": "fd00:71::/64"}]]);
    let dual = json!([[{"subnet": "10.7.1.0/24"}], [{"subnet": "fd00:71::/64"}]]);
    let ipam = |ranges: &Value| json!({"ipam": {"type": "host-local", "subnet": null, "ranges": ranges}});
    let bridge = |ranges| merged(bridge_config(&json!({"isGateway": true})), &ipam(ranges));
    let ptp = |ranges| merged(bridge_config(&json!({"type": "ptp", "bridge": null})), &ipam(ranges));
    vec![("bridge", bridge(&six)), ("bridge", bridge(&dual)), ("ptp", ptp(&six)), ("ptp", ptp(&dual))]
}

fn call<'a>(lab: &'a Lab, (plugin, config): &(&str, Value)) -> Call<'a> {
    lab.plugin(plugin).config(config)
}

#[test]
fn better_the_hosts_advertised_default_route_outlives_the_first_ipv6_gateway() {
    for network in networks() {
        let lab = host();
        let result = call(&lab, &network).run().result();
        assert_eq!((forwarding(&lab), defaults(&lab, "up0"), accept_ra(&lab, "up0")), ("1".into(), 1, "2".into()));
        lab.ok("ip -6 route del default");
        advertise(&lab, "up0");
        assert_eq!(defaults(&lab, "up0"), 1, "{network:?}");
        // A container is no router of the host's (CVE-2020-10749).
        let own = result["interfaces"][0]["name"].as_str().unwrap();
        router::advertise(&lab, ("ns1", "eth0"), ("", own));
        assert_eq!((accept_ra(&lab, own), defaults(&lab, own)), ("0".into(), 0), "{network:?}");
        set_accept_ra(&lab, own, 2);
        router::advertise(&lab, ("ns1", "eth0"), ("", own));
        assert_eq!(defaults(&lab, own), 1, "the attack itself");
        // DEL keeps forwarding on, and the setting that goes with it.
        call(&lab, &network).verb("DEL").run().silent();
        assert_eq!((forwarding(&lab), accept_ra(&lab, "up0")), ("1".into(), "2".into()));
    }
}

#[test]
fn better_each_link_with_an_advertised_default_route_keeps_it() {
    let lab = host();
    router::beside(&lab, "second", "up.5");
    router::advertise(&lab, ("second", "r0"), ("", "up.5"));
    // Two routers on one link, and a bridge of the host's own with a virtual machine.
    lab.sh("ip -n router link add r1 type veth peer name r2
        ip -n router link add sw type bridge
        for port in r0 r1; do ip -n router link set $port master sw up; done; ip -n router link set sw up
        ip netns add third; ip -n router link set r2 netns third; ip -n third link set r2 up
        ip link add br0 type bridge; ip tuntap add vm mode tap
        ip link add up1 type veth peer name r0 netns third
        ip link set vm master br0; ip link set up1 master br0; ip link set up1 up; ip link set br0 up")
        .success();
    let first = lab.routes("", "-6");
    router::advertise(&lab, ("third", "r2"), ("", "up0"));
    assert_ne!(lab.routes("", "-6"), first);
    lab.ok("ip -n third link set r0 up");
    router::advertise(&lab, ("third", "r0"), ("", "br0"));
    let routes = || lab.ok("ip -6 -o route show default proto ra").matches("via").count();
    assert_eq!(routes(), 4, "{}", lab.ok("ip -6 route"));
    call(&lab, &networks()[0]).run().result();
    assert_eq!(routes(), 4, "{}", lab.ok("ip -6 route"));
    assert_eq!(["up0", "up.5", "br0"].map(|link| accept_ra(&lab, link)), ["2", "2", "2"]);
}

#[test]
fn better_a_failed_add_leaves_the_default_route_as_long_as_the_host_forwards() {
    for network in networks() {
        let lab = host();
        // The result is printed last.
        let outcome = call(&lab, &network).under(&["sh", "-c", "exec \"$0\" > /dev/full"]).run();
        assert_eq!((outcome.code, lab.link_in("ns1", "eth0")), (Some(1), Value::Null), "{outcome:?}");
        assert_eq!((forwarding(&lab), accept_ra(&lab, "up0"), defaults(&lab, "up0")), ("1".into(), "2".into(), 1));
    }
}

#[test]
fn a_host_that_cannot_be_made_to_forward_is_as_it_was() {
    for network in networks() {
        let lab = host();
        lab.sh("f=/proc/sys/net/ipv6/conf/all/forwarding; mount --bind $f $f; mount -o remount,bind,ro $f").success();
        let outcome = call(&lab, &network).run();
        outcome.fails_with(999, &["net/ipv6/conf/all/forwarding", "read-only file system"]);
        assert_eq!((forwarding(&lab), accept_ra(&lab, "up0"), defaults(&lab, "up0")), ("0".into(), "1".into(), 1));
    }
}

#[test]
fn better_the_log_names_the_link_that_keeps_its_default_route() {
    let lab = host();
    call(&lab, &networks()[0]).env("CNI_BOX_LOG", "/run/log").run().result();
    let text = lab.read("/run/log");
    assert_eq!(text.matches("keep the advertised IPv6 default route of \\\"up0\\\": accept_ra=2").count(), 1, "{text}");
    assert_eq!(text.matches("accept_ra=2\"").count(), 2, "{text}");
}

#[test]
fn better_no_other_link_takes_advertisements_while_the_host_forwards() {
    let lab = host();
    let config = networks()[0].clone();
    lab.sh("i=5; for link in daemon byhand plain always port; do
            ip link add $link type veth peer name p$i netns router; ip link set $link up; i=$((i+1))
            case $link in daemon | byhand)
                ip -6 route add default via fe80::1 dev $link proto ra expires 1800 metric $i;;
            esac
        done
        ip link add br1 type bridge; ip link set br1 up; ip link set port master br1
        echo 0 > /proc/sys/net/ipv6/conf/daemon/accept_ra
        echo 2 > /proc/sys/net/ipv6/conf/always/accept_ra")
        .success();
    let links = ["daemon", "byhand", "plain", "always", "port", "br1", "lo", "default", "all"];
    let before = links.map(|link| accept_ra(&lab, link));
    assert_eq!(before[..4], ["0", "1", "1", "2"]);
    call(&lab, &config).run().result();
    assert_eq!(links.map(|link| accept_ra(&lab, link)), before);
    assert_eq!((accept_ra(&lab, "up0"), defaults(&lab, "daemon")), ("2".into(), 1));
}

#[test]
fn better_a_link_behind_which_there_are_containers_takes_no_advertisements_while_the_host_forwards() {
    // Containers have given the host default routes: over a bridge that others made, a bridge of
    // ours and a host's end that were set to take advertisements, and a port that had its route
    // before.
    let lab = host();
    let plain = |name: &str, plugin: &str| {
        json!({"cniVersion": "1.0.0", "name": name, "type": plugin, "bridge": "cni9", "ipam": {"type": "static",
            "addresses": [{"address": "10.9.9.9/24", "gateway": "10.9.9.1"}]}})
    };
    let mut links = vec!["docker0".to_string(), "wasup".to_string()];
    for (netns, plugin) in [("ns2", "bridge"), ("ns3", "ptp")] {
        let path = lab.netns(netns);
        lab.sh(&format!("ip netns exec {netns} sh -c 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'")).success();
        let result = lab.plugin(plugin).netns(&path).container(netns).config(&plain(netns, plugin)).run().result();
        let own = result["interfaces"][0]["name"].as_str().unwrap();
        set_accept_ra(&lab, own, 1);
        router::advertise(&lab, (netns, "eth0"), ("", own));
        links.push(own.to_string());
    }
    router::beside(&lab, "ns4", "veth9f1c2ab");
    lab.sh("ip link add docker0 type bridge; ip link set docker0 up; ip link set veth9f1c2ab master docker0").success();
    router::advertise(&lab, ("ns4", "r0"), ("", "docker0"));
    router::beside(&lab, "ns5", "wasup");
    router::advertise(&lab, ("ns5", "r0"), ("", "wasup"));
    lab.ok("ip link set wasup master docker0");
    for link in &links {
        assert_eq!((accept_ra(&lab, link), defaults(&lab, link)), ("1".into(), 1), "{link}");
    }
    call(&lab, &networks()[2]).run().result();
    for link in &links {
        assert_eq!((accept_ra(&lab, link), defaults(&lab, link)), ("1".into(), 0), "{link}");
    }
    assert_eq!((accept_ra(&lab, "up0"), defaults(&lab, "up0")), ("2".into(), 1));
}

#[test]
fn better_a_host_that_forwards_already_or_ipv4_only_changes_no_link() {
    for forwards in [true, false] {
        let lab = host();
        let mut config = networks()[1].clone();
        if forwards {
            // This link alone does not forward, so it takes advertisements.
            lab.sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; echo 0 > /proc/sys/net/ipv6/conf/up0/forwarding")
                .success();
            advertise(&lab, "up0");
        } else {
            config.1 = bridge_config(&json!({"isGateway": true}));
        }
        let log = "/run/log";
        call(&lab, &config).env("CNI_BOX_LOG", log).run().result();
        assert_eq!((accept_ra(&lab, "up0"), defaults(&lab, "up0")), ("1".into(), 1));
        assert!(!lab.read(log).contains("ipv6_route"), "routes were read");
    }
}

#[test]
fn better_a_second_gateway_reads_no_routes() {
    let lab = host();
    call(&lab, &networks()[0]).run().result();
    lab.netns("ns2");
    let second = call(&lab, &networks()[0]).container("c2").netns("/var/run/netns/ns2").env("CNI_BOX_LOG", "/run/log");
    second.run().result();
    wait_for("the log", || lab.exists("/run/log"));
    assert!(!lab.read("/run/log").contains("ipv6_route"));
}
