//! `"mtu": "auto"`, which the reference does not have.

use serde_json::{Value, json};

use crate::lab::{Call, Lab};

/// A host whose way to the world has a small MTU.
fn host() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.ok("ip link add up0 mtu 1390 type veth peer name far0");
    for words in [
        "addr add 192.0.2.1/24 dev up0",
        "addr add 2001:db8::1/64 dev up0 nodad",
        "link set up0 up",
        "link set far0 up",
    ] {
        lab.ok(&format!("ip {words}"));
    }
    lab
}

/// Only macvlan looks at `master`.
fn config(kind: &str, mtu: &Value) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": kind, "mtu": mtu, "master": "up0",
        "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}})
}

fn call<'a>(lab: &'a Lab, kind: &str, mtu: &Value) -> Call<'a> {
    lab.plugin(kind).config(&config(kind, mtu))
}

fn mtu_of(lab: &Lab) -> Value {
    lab.link_in("ns1", "eth0")["mtu"].clone()
}

/// ADD with `"auto"` gives this MTU, CHECK is content, DEL removes it.
fn auto_is(lab: &Lab, kind: &str, mtu: u32) {
    let mut config = config(kind, &json!("auto"));
    config["prevResult"] = lab.plugin(kind).config(&config).run().result();
    assert_eq!(mtu_of(lab), mtu, "{kind}");
    for verb in ["CHECK", "DEL"] {
        lab.plugin(kind).config(&config).verb(verb).run().silent();
    }
}

#[test]
fn better_auto_is_the_mtu_of_the_hosts_default_route() {
    let lab = host();
    for kind in ["bridge", "ptp", "tap"] {
        lab.ok("ip route replace default via 192.0.2.254");
        auto_is(&lab, kind, 1390);
        // The route's own counts more than its link's, and the lower of the families.
        lab.ok("ip route replace default via 192.0.2.254 mtu 1300");
        auto_is(&lab, kind, 1300);
        lab.ok("ip -6 route add default via 2001:db8::2 mtu 1280");
        auto_is(&lab, kind, 1280);
        lab.ok("ip -6 route del default");
    }
}

#[test]
fn better_auto_is_the_masters_mtu_where_there_is_a_master() {
    auto_is(&host(), "macvlan", 1390);
}

#[test]
fn better_auto_without_a_default_route_says_so_and_changes_nothing() {
    let lab = host();
    let before = lab.snapshot();
    for kind in ["bridge", "ptp", "tap"] {
        call(&lab, kind, &json!("auto")).run().fails(999, "mtu \"auto\": the host has no default route");
        let mistyped = call(&lab, kind, &json!("big")).run();
        mistyped.fails_with(999, &["cannot unmarshal string into key \"mtu\" of type int"]);
    }
    before.assert_same(&lab.snapshot());
}

#[test]
fn the_default_is_the_kernels() {
    let lab = host();
    lab.ok("ip route add default via 192.0.2.254");
    for kind in ["bridge", "ptp", "tap"] {
        let add = call(&lab, kind, &json!(0));
        add.run().result();
        assert_eq!(mtu_of(&lab), 1500, "{kind}");
        add.clone().verb("DEL").run().silent();
    }
}
