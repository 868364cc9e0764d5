//! Router advertisements on the container's interface, beside IPAM's addresses and default route.

use std::thread;

use serde_json::{Value, json};

use crate::bridge::sysctl;
use crate::lab::{Lab, PLUGINS, merged, router};

/// A way in which a container gets an interface on which it hears the router.
pub struct Way {
    plugin: &'static str,
    keys: Value,
    /// What the router's side needs, for the shell.
    setup: &'static str,
    /// The router's link; empty for the host's end of the container's pair.
    router: &'static str,
}

impl Way {
    pub fn new(plugin: &'static str, keys: Value, setup: &'static str, router: &'static str) -> Way {
        Way { plugin, keys, setup, router }
    }

    fn config(&self, changes: &Value) -> Value {
        let base = json!({"cniVersion": "1.0.0", "name": "net", "type": self.plugin});
        merged(merged(base, &self.keys), changes)
    }

    fn host(&self) -> Lab {
        let lab = Lab::new();
        lab.netns("ns1");
        lab.sh("ip netns exec ns1 sh -c 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'").success();
        router::beside(&lab, "router", "up0");
        lab.sh(self.setup).success();
        lab
    }

    /// Makes the attachment, lets the router advertise itself, and says what has become of the
    /// interface.
    fn taken(&self, lab: &Lab, changes: &Value) -> [String; 4] {
        let result = lab.plugin(self.plugin).config(&self.config(changes)).run().result();
        let host_end = result["interfaces"][0]["name"].as_str().unwrap();
        let router = if self.router.is_empty() { ("", host_end) } else { ("router", self.router) };
        router::advertise(lab, router, ("ns1", "eth0"));
        taken(lab)
    }
}

/// `autoconf` and `accept_ra` of the interface, and how many addresses and default routes it has
/// from advertisements.
fn taken(lab: &Lab) -> [String; 4] {
    let setting = |name: &str| sysctl(lab, "ns1", &format!("net/ipv6/conf/eth0/{name}"));
    let addresses = lab.addresses("ns1", "eth0").iter().filter(|address| address.starts_with(router::PREFIX)).count();
    let routes = lab.routes("ns1", "-6").iter().filter(|route| route.starts_with("default")).count();
    let ours = lab.routes("ns1", "-6").iter().filter(|route| route.starts_with("default via fd00:71::1 ")).count();
    [setting("autoconf"), setting("accept_ra"), addresses.to_string(), (routes - ours).to_string()]
}

/// What the kernel does on its own, where routes are what it says in their place.
const ALL: [&str; 4] = ["1", "1", "1", "1"];
const ROUTE: [&str; 4] = ["0", "1", "0", "1"];
const NOTHING: [&str; 4] = ["0", "0", "0", "0"];

fn ways() -> Vec<Way> {
    vec![
        Way::new(
            "bridge",
            json!({"bridge": "br7"}),
            "ip link add br7 type bridge; ip link set br7 up; ip link set up0 master br7",
            "r0",
        ),
        Way::new("macvlan", json!({"master": "up0"}), "", "r0"),
        Way::new("host-device", json!({"device": "up0"}), "", "r0"),
        Way::new("ptp", json!({}), "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad", ""),
    ]
}

fn fixed(addresses: &[(&str, &str)], routes: &Value) -> Value {
    let list: Vec<_> = addresses.iter().map(|(ip, gateway)| json!({"address": ip, "gateway": gateway})).collect();
    json!({"ipam": {"type": "static", "addresses": list, "routes": routes}})
}

const FOUR: (&str, &str) = ("10.7.1.5/24", "10.7.1.1");
const SIX: (&str, &str) = ("fd00:71::5/64", "fd00:71::1");

/// What a default route, no default route, `acceptRA` and IPv4 alone lead to.
pub fn is_limited_by_ipam(ways: &[Way]) {
    for way in ways {
        let default = fixed(&[SIX], &json!([{"dst": "::/0"}]));
        for (changes, expected) in [
            (default.clone(), NOTHING),
            (fixed(&[FOUR, SIX], &json!([{"dst": "0.0.0.0/0"}, {"dst": "0:0::0/0"}])), NOTHING),
            (fixed(&[FOUR, SIX], &json!([{"dst": "0.0.0.0/0"}, {"dst": "fd00:72::/64"}])), ROUTE),
            (merged(default.clone(), &json!({"acceptRA": false})), NOTHING),
        ] {
            assert_eq!(way.taken(&way.host(), &changes), expected, "{} {changes}", way.plugin);
        }
    }
}

/// The namespace decides, where IPAM gives no IPv6 address or the configuration says so.
pub fn is_left_to_the_kernel(ways: &[Way]) {
    for way in ways {
        for changes in [
            merged(fixed(&[SIX], &json!([{"dst": "::/0"}])), &json!({"acceptRA": true})),
            fixed(&[FOUR], &json!([{"dst": "0.0.0.0/0"}])),
        ] {
            assert_eq!(way.taken(&way.host(), &changes), ALL, "{} {changes}", way.plugin);
        }
    }
}

#[test]
fn better_a_container_takes_nothing_beside_what_ipam_gives() {
    is_limited_by_ipam(&ways());
}

#[test]
fn better_a_default_route_in_another_table_leaves_the_main_one_to_the_router() {
    for way in ways() {
        for (table, expected) in [(100, ROUTE), (300, ROUTE), (254, NOTHING), (0, NOTHING)] {
            let changes = fixed(&[FOUR, SIX], &json!([{"dst": "::/0", "table": table}]));
            assert_eq!(way.taken(&way.host(), &changes), expected, "{} {changes}", way.plugin);
        }
    }
}

#[test]
fn without_ipv6_addresses_of_ipam_or_where_it_is_asked_for_advertisements_are_taken() {
    is_left_to_the_kernel(&ways());
}

#[test]
fn an_interface_without_ipam_takes_advertisements() {
    for way in ways().iter().take(3) {
        assert_eq!(way.taken(&way.host(), &json!({})), ALL, "{}", way.plugin);
    }
}

#[test]
fn better_addresses_by_capability_arguments_and_ranges_count() {
    let way = &ways()[1];
    let default = json!([{"dst": "::/0", "gw": "fd00:71::1"}]);
    let none = json!({"type": "static", "routes": default});
    let ranges = json!([[{"subnet": "10.7.1.0/24"}], [{"subnet": "fd00:71::/64"}]]);
    for changes in [
        json!({"ipam": none, "capabilities": {"ips": true}, "runtimeConfig": {"ips": ["fd00:71::5/64"]}}),
        json!({"ipam": none, "args": {"cni": {"ips": ["10.7.1.5/24", "fd00:71::5/64"]}}}),
        json!({"ipam": {"type": "host-local", "ranges": ranges, "routes": default}}),
    ] {
        assert_eq!(way.taken(&way.host(), &changes), NOTHING, "{changes}");
    }
    // A gateway without a route is no default route.
    let changes = json!({"ipam": {"type": "host-local", "ranges": ranges}});
    assert_eq!(way.taken(&way.host(), &changes), ROUTE);
}

#[test]
fn better_the_default_route_that_a_bridge_adds_counts() {
    let way = &ways()[0];
    for (key, expected) in [("isDefaultGateway", NOTHING), ("isGateway", ROUTE)] {
        let changes = merged(fixed(&[SIX], &json!([])), &json!({key: true, "forceAddress": true}));
        assert_eq!(way.taken(&way.host(), &changes), expected, "{key}");
    }
}

#[test]
fn better_a_container_that_forwards_or_always_takes_advertisements_takes_nothing_either() {
    for way in ways() {
        let lab = way.host();
        lab.sh("ip netns exec ns1 sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            echo 2 > /proc/sys/net/ipv6/conf/default/accept_ra'")
            .success();
        assert_eq!(way.taken(&lab, &fixed(&[SIX], &json!([{"dst": "::/0"}]))), NOTHING, "{}", way.plugin);
    }
}

#[test]
fn a_read_only_proc_sys_fails_no_add() {
    for way in ways() {
        let lab = way.host();
        // Forwarding is ptp's.
        lab.sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys")
            .success();
        let config = way.config(&fixed(&[SIX], &json!([{"dst": "::/0"}])));
        lab.plugin(way.plugin).config(&config).env("CNI_BOX_LOG", "/run/log").run().result();
        if !crate::lab::reference_mode() {
            let log = lab.read("/run/log");
            for setting in ["autoconf", "accept_ra"] {
                let told = log.lines().any(|line| {
                    line.contains(&format!("sysctl net/ipv6/conf/eth0/{setting}=0\"")) && line.contains("Read-only")
                });
                assert!(told, "{} {setting}: {log}", way.plugin);
            }
        }
    }
}

#[test]
fn better_a_device_that_is_up_while_another_program_looks_for_an_address_forgets_what_it_has_taken() {
    const IPAM: &str = r#"#!/bin/sh
        [ "$CNI_COMMAND" = ADD ] || exit 0
        until ip -n ns1 -6 address show dev eth0 | grep -q 2001:db8:77: && ip -n ns1 -6 route | grep -q ^default; do :; done
        echo '{"cniVersion": "1.0.0", "ips": [{"address": "fd00:71::5/64", "gateway": "fd00:71::1"}],
            "routes": [ROUTES]}'
    "#;
    let way = &ways()[2];
    for (routes, accept_ra, expected) in
        [(r#"{"dst": "::/0"}"#, false, NOTHING), ("", false, ROUTE), (r#"{"dst": "::/0"}"#, true, ALL)]
    {
        let lab = way.host();
        lab.executable(&format!("{PLUGINS}/slow"), &IPAM.replace("ROUTES", routes));
        let config = way.config(&json!({"acceptRA": accept_ra, "ipam": {"type": "slow"}}));
        let call = lab.plugin("host-device").config(&config);
        thread::scope(|scope| {
            let add = scope.spawn(|| call.run().result());
            router::advertise(&lab, ("router", "r0"), ("ns1", "eth0"));
            add.join().unwrap();
        });
        assert_eq!(taken(&lab), expected, "{routes} {accept_ra}");
        assert!(lab.addresses("ns1", "eth0").contains(&"fd00:71::5/64".to_string()));
    }
}

/// The address with a lifetime is like one from DHCPv6.
#[test]
fn better_a_device_that_forgets_what_it_has_taken_keeps_what_the_other_program_has_put_on_it() {
    const IPAM: &str = r#"#!/bin/sh
        [ "$CNI_COMMAND" = ADD ] || exit 0
        until ip -n ns1 -6 address show dev eth0 | grep -q 2001:db8:77: && ip -n ns1 -6 route | grep -q ^default; do :; done
        exec 3>&1 >&2
        ip -n ns1 address add 10.77.0.1/24 dev eth0
        ip -n ns1 address add fd00:77::1/64 dev eth0 valid_lft 600 preferred_lft 600
        ip -n ns1 route add 10.88.0.0/16 via 10.77.0.2
        ip -n ns1 -6 route add default via fd00:77::2 dev eth0 metric 2000
        ip -n ns1 -6 route add fd00:88::/64 via fd00:77::2
    "#;
    const ANSWER: &str = r#"printf '{"cniVersion": "1.0.0", "ips": [{"address": "fd00:71::5/64", "gateway": "fd00:71::1"}],
        "routes": [{"dst": "::/0"}]}' >&3"#;
    let way = &ways()[2];
    let lab = way.host();
    lab.executable(&format!("{PLUGINS}/busy"), &format!("{IPAM}{ANSWER}\n"));
    let config = way.config(&json!({"ipam": {"type": "busy"}}));
    let call = lab.plugin("host-device").config(&config);
    thread::scope(|scope| {
        let add = scope.spawn(|| call.run().result());
        router::advertise(&lab, ("router", "r0"), ("ns1", "eth0"));
        add.join().unwrap();
    });
    let addresses = lab.addresses("ns1", "eth0");
    for address in ["10.77.0.1/24", "fd00:77::1/64", "fd00:71::5/64"] {
        assert!(addresses.contains(&address.to_string()), "{address}: {addresses:?}");
    }
    let routes = [lab.routes("ns1", "-4"), lab.routes("ns1", "-6")].concat();
    for route in ["10.88.0.0/16 via 10.77.0.2 ", "fd00:88::/64 via fd00:77::2 ", "default via fd00:77::2 "] {
        assert!(routes.iter().any(|line| line.starts_with(route)), "{route}: {routes:?}");
    }
    // The program's default route is the only one beside the result's.
    assert_eq!(taken(&lab), ["0", "0", "0", "1"]);
}

#[test]
fn better_a_wrong_type_is_refused_alike_by_add_and_validate() {
    let ipam = json!({"type": "static", "addresses": [{"address": "10.7.1.5/24", "gateway": "10.7.1.1"}]});
    let own = |plugin: &str| match plugin {
        "macvlan" | "ipvlan" | "vlan" => json!({"master": "m0"}),
        "host-device" => json!({"device": "m0"}),
        _ => json!({}),
    };
    for plugin in ["bridge", "ptp", "macvlan", "ipvlan", "vlan", "dummy", "tap", "host-device"] {
        let lab = Lab::new();
        lab.netns("ns1");
        let base = json!({"cniVersion": "1.0.0", "name": "net", "type": plugin, "acceptRA": "yes", "ipam": ipam});
        let config = merged(base, &own(plugin));
        lab.ok("ip link add m0 type bridge");
        let before = lab.snapshot();
        let text = "json: cannot unmarshal string into key \"acceptRA\" of type bool";
        lab.plugin(plugin).config(&config).run().fails_with(999, &[text]);
        before.assert_same(&lab.snapshot());
        lab.write("/etc/cni/net.d/net.conf", config.to_string());
        let report = lab.cnitool(&["validate", "/etc/cni/net.d/net.conf"]).run();
        assert!(
            report.code == Some(1) && report.stdout.contains("acceptRA: error: \"yes\" is not allowed here"),
            "{report:?}"
        );
        lab.plugin(plugin).verb("DEL").config(&config).run().silent();
        lab.write("/etc/cni/net.d/net.conf", merged(config, &json!({"acceptRA": true})).to_string());
        let report = lab.cnitool(&["validate", "/etc/cni/net.d/net.conf"]).run().success();
        assert!(report.stdout.contains("0 errors, 0 warnings"), "{report:?}");
    }
}

/// The settings of an interface that no advertisement reaches.
pub fn is_limited_unheard(lab: &Lab, plugin: &str, keys: &Value) {
    let default = json!([{"dst": "::/0"}]);
    for (changes, autoconf, accept_ra) in [
        (fixed(&[SIX], &default), "0", "0"),
        (fixed(&[SIX], &json!([])), "0", "1"),
        (merged(fixed(&[SIX], &default), &json!({"acceptRA": true})), "1", "1"),
        (fixed(&[FOUR], &json!([])), "1", "1"),
    ] {
        let base = merged(json!({"cniVersion": "1.0.0", "name": "net", "type": plugin}), keys);
        let config = merged(base, &changes);
        lab.plugin(plugin).config(&config).run().result();
        assert_eq!(taken(lab), [autoconf, accept_ra, "0", "0"], "{plugin} {changes}");
        lab.plugin(plugin).verb("DEL").config(&config).run().silent();
    }
}

#[test]
fn better_a_tap_is_limited_too() {
    let lab = Lab::new();
    lab.netns("ns1");
    is_limited_unheard(&lab, "tap", &json!({}));
}
