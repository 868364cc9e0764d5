//! The guard of 127.0.0.0/8 against real packets, and on kernels that lack tables.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, merged, wait_for};
use crate::masquerade::lab;
use crate::portmap::{call, config, mappings};
use crate::portmap_life::bridge;
use crate::portmap_localnet::{COMMENT, assert_nothing_left, guard, guarded, set, setting};
use crate::portmap_traffic::{BACKENDS, Site};

/// The container (or neighbour) sends what it has for 127.0.0.1 to the host.
fn turn_127_0_0_1_to_the_host(site: &Site, netns: &str, gateway: &str, own: &str) {
    site.lab
        .sh(&format!(
            "ip netns exec {netns} sh -ec 'echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
             ip addr flush dev lo
             ip route add 127.0.0.1/32 via {gateway} src {own}'"
        ))
        .success();
}

#[test]
fn better_neither_containers_nor_neighbours_reach_services_on_127_0_0_1() {
    for (flavour, backend) in BACKENDS {
        for changes in [json!({}), json!({"masqAll": true})] {
            let site = Site::new(flavour, backend);
            site.serve("", "private", "127.0.0.1");
            let result = site.attach("web", "ns1", &changes);
            // A container beside the neighbour, as macvlan makes them: the host's way to it is the
            // way to the neighbour.
            let beside = json!({"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.9/24"}], "interfaces": null});
            let lan = mappings(&json!([{"hostPort": 9090, "containerPort": 90, "protocol": "tcp"}]));
            let lan = |verb| site.portmap("lan", "ns1", &beside, &lan).ifname("net1").verb(verb).run().success();
            turn_127_0_0_1_to_the_host(&site, "ns1", "10.1.2.1", "10.1.2.2");
            turn_127_0_0_1_to_the_host(&site, "outside", "192.0.2.1", "192.0.2.2");
            let reached = |netns: &str| {
                let ask = |kind, port| site.ask_from(netns, kind, "127.0.0.1", port, 0);
                ask("tcp", 80).or_else(|| ask("udp", 81))
            };
            let assert_shut = |what: &str| {
                assert_eq!((reached("ns1"), reached("outside")), (None, None), "{flavour} {backend} {what}");
            };
            assert_eq!(guarded(&site.lab), ["cni0"]);
            assert_shut("one mapping");
            // What an administrator opens elsewhere is the administrator's.
            set(&site.lab, "out0", "1");
            wait_for("the way that was opened", || reached("outside").as_deref() == Some("private 192.0.2.2"));
            set(&site.lab, "out0", "0");
            lan("ADD");
            assert_eq!(guarded(&site.lab), ["cni0", "out0"]);
            assert_shut("two mappings");
            assert_eq!(site.ask("", "tcp", "127.0.0.1"), "web 10.1.2.1", "{flavour} {backend}");
            assert_eq!(site.ask("", "udp", "127.0.0.1"), "web 10.1.2.1", "{flavour} {backend}");
            site.portmap("web", "ns1", &result, &changes).verb("DEL").run().silent();
            assert_eq!(guarded(&site.lab), ["out0"]);
            assert_shut("one mapping less");
            lan("DEL");
            assert_nothing_left(&site.lab, backend);
            assert_shut("no mapping");
            // It was route_localnet, and nothing else.
            set(&site.lab, "cni0", "1");
            wait_for("the attack itself", || reached("ns1").as_deref() == Some("private 10.1.2.2"));
        }
    }
}

/// The ordinals, among the calls of this name that an ADD makes, of those about what `is_wanted`
/// says.
fn ordinals(add: &Call<'_>, lab: &Lab, name: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<usize> {
    let trace = format!("trace={name}");
    add.clone().under(&["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", &trace]).run().success();
    let text = lab.read("/run/lab/trace");
    (1..).zip(text.lines()).filter(|(_, line)| is_wanted(line)).map(|(ordinal, _)| ordinal).collect()
}

/// A host with a kernel that has no more of x_tables than `nat` and these: an ADD of `web` has been
/// made there.
fn attached_without(missing: usize) -> (Site, Value) {
    let twin = Site::new("legacy", "iptables");
    let result = twin.bridge("web", "ns1").run().result();
    let add = twin.portmap("web", "ns1", &result, &json!({}));
    let first = ordinals(&add, &twin.lab, "getsockopt", |line| line.contains("\"raw\\0"))[0];
    let site = Site::new("legacy", "iptables");
    let result = site.bridge("web", "ns1").run().result();
    // Each table that is asked for in vain costs one call.
    let inject = format!("inject=getsockopt:error=ENOENT:when={first}..{}", first + missing - 1);
    let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=getsockopt", "-e", &inject];
    site.portmap("web", "ns1", &result, &json!({})).under(&strace).run().result();
    (site, result)
}

#[test]
fn better_a_kernel_without_the_legacy_table_raw_guards_in_another() {
    let tables = ["raw", "mangle", "filter"];
    for (missing, place) in [(1, "-t mangle"), (2, "-t filter"), (3, "")] {
        let (site, result) = attached_without(missing);
        let table = if place.is_empty() {
            site.lab.ok("nft list table ip cni_hostport")
        } else {
            site.lab.ok(&format!("iptables-legacy-save {place}"))
        };
        assert!(table.contains(COMMENT), "{missing}: {table}");
        let trace = site.lab.read("/run/lab/trace");
        assert_eq!(trace.matches("(INJECTED)").count(), missing, "{trace}");
        let asked = tables[..missing].iter().filter(|table| trace.contains(&format!("\"{table}\\0"))).count();
        assert_eq!(asked, 0, "{trace}");
        site.serve("", "private", "127.0.0.1");
        site.serve("ns1", "web", "::");
        turn_127_0_0_1_to_the_host(&site, "ns1", "10.1.2.1", "10.1.2.2");
        for kind in ["tcp", "udp"] {
            assert_eq!(site.ask("", kind, "127.0.0.1"), "web 10.1.2.1", "{missing}");
            assert_eq!(site.ask("outside", kind, "192.0.2.1"), "web 192.0.2.2", "{missing}");
        }
        assert_eq!(site.ask_from("ns1", "tcp", "127.0.0.1", 80, 0), None, "{missing}");
        // One guard is enough, wherever it is.
        let call = |verb| site.portmap("web", "ns1", &result, &json!({})).verb(verb).run().success();
        call("ADD");
        call("CHECK");
        assert_eq!(guarded(&site.lab), ["cni0"], "{missing}");
        assert_eq!(site.lab.ok("iptables-legacy-save -t nat").matches(COMMENT).count(), 0);
        call("DEL");
        assert_eq!(
            (setting(&site.lab, "cni0"), site.ask_from("ns1", "tcp", "127.0.0.1", 80, 0)),
            ("0".to_string(), None)
        );
        assert_nothing_left(&site.lab, place);
    }
}

#[test]
fn a_redirection_to_127_0_0_1_that_an_administrator_made_passes_every_guard() {
    for missing in [0, 2] {
        let (site, _) = match missing {
            0 => {
                let site = Site::new("legacy", "iptables");
                let result = site.attach("web", "ns1", &json!({}));
                (site, result)
            }
            _ => attached_without(missing),
        };
        site.serve("", "private", "127.0.0.1");
        site.lab.ok("iptables-legacy -t nat -I PREROUTING -d 10.1.2.1 -p tcp --dport 7000 -j DNAT --to 127.0.0.1:80");
        wait_for("the redirection", || {
            site.ask_from("ns1", "tcp", "10.1.2.1", 7000, 0).as_deref() == Some("private 10.1.2.2")
        });
    }
}

#[test]
fn better_check_says_that_the_kernel_has_no_table_for_a_guard() {
    let one = mappings(&json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]));
    let v4 = json!({"prevResult": {"ips": [{"interface": 1, "address": "10.0.0.2/24"}]}});
    let one = merged(one, &v4);
    let (twin, lab) = (lab("legacy"), lab("legacy"));
    let add = |lab| call(lab, &config(&one)).env("CNI_BOX_IPTABLES", "legacy").env("PATH", "/usr/bin");
    [&twin, &lab].into_iter().for_each(bridge);
    // After its rules in `nat` the ADD asks for nf_tables; neither that nor any table of x_tables
    // is to be had from then on.
    let first = ordinals(&add(&twin), &twin, "socket", |line| line.contains("NETLINK_NETFILTER"))[0];
    let inject = format!("inject=socket:error=EPROTONOSUPPORT:when={first}+");
    let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=socket", "-e", &inject];
    add(&lab).under(&strace).run().result();
    assert_eq!((guard(&lab), setting(&lab, "br0").as_str()), (Vec::new(), "1"), "{}", lab.read("/run/lab/trace"));
    let text = "no rule drops packets to 127.0.0.0/8 that come in by \"br0\"";
    call(&lab, &config(&one)).verb("CHECK").run().fails_with(999, &[text]);
    call(&lab, &config(&one)).verb("DEL").run().silent();
    assert_eq!(setting(&lab, "br0"), "0");
    assert_nothing_left(&lab, "no table");
}
