//! host-device: which device it takes, what it makes of it, beside the reference.

use serde_json::{Value, json};

use crate::cross::Side::{self, Ours, Theirs};
use crate::lab::{Call, Lab, Outcome, merged};

/// Devices of the host called `hd0`, and how to make them. `guest` adds what this kernel may lack.
pub const KINDS: [(&str, &str); 3] = [
    ("veth", "ip link add hd0 type veth peer name peer0"),
    (
        "macvlan",
        "ip link add low0 type veth peer name low1; ip link set low0 up; ip link add hd0 link low0 type macvlan",
    ),
    ("tap", "ip tuntap add hd0 mode tap"),
];

/// The device's hardware address.
pub const MAC: &str = "02:00:00:00:00:99";

/// A host with `ns1` and a device `hd0` that is down.
pub fn lab_with(make: &str) -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.sh(&format!("{make}; ip link set hd0 address {MAC} mtu 1400")).success();
    lab
}

/// A host with a veth end as its device.
pub fn lab() -> Lab {
    lab_with(KINDS[0].1)
}

/// `device` is `hd0`, without IPAM.
pub fn config(changes: &Value) -> Value {
    let base = json!({"cniVersion": "1.0.0", "name": "net", "type": "host-device", "device": "hd0"});
    merged(base, changes)
}

/// With addresses of both families, a route, and name resolution.
pub fn dual() -> Value {
    let addresses = json!([{"address": "10.1.2.7/24", "gateway": "10.1.2.1"}, {"address": "fd00:1:2::7/64"}]);
    json!({"ipam": {"type": "static", "addresses": addresses, "routes": [{"dst": "10.9.0.0/16", "gw": "10.1.2.1"}],
        "dns": {"nameservers": ["192.0.2.1"]}}, "dns": {"domain": "example.org"}})
}

pub fn call<'a>(lab: &'a Lab, side: Side, verb: &str, config: &Value) -> Call<'a> {
    let call = if side == Ours { lab.plugin("host-device") } else { lab.reference("host-device") };
    call.ifname("net1").verb(verb).config(config)
}

pub fn run(lab: &Lab, side: Side, verb: &str, config: &Value) -> Outcome {
    call(lab, side, verb, config).run()
}

/// The link, less what differs from one namespace or boot to the next.
pub fn state(mut link: Value) -> Value {
    if let Some(link) = link.as_object_mut() {
        link.retain(|key, _| !matches!(key.as_str(), "ifindex" | "link_index" | "link_netnsid" | "link"));
    }
    link
}

/// What one side makes of a configuration: result, link, addresses and routes.
fn made_by(side: Side, make: &str, changes: &Value) -> [Value; 4] {
    let lab = lab_with(make);
    let mut result = run(&lab, side, "ADD", &config(changes)).result();
    // Debian's 1.1.1 prints an empty dns in every version, HEAD only below 1.0.0.
    result.as_object_mut().unwrap().retain(|key, value| key != "dns" || *value != json!({}));
    let routes = [lab.routes("ns1", "-4"), lab.routes("ns1", "-6")];
    assert_eq!(lab.link("hd0"), Value::Null);
    [result, state(lab.link_in("ns1", "net1")), json!(lab.addresses("ns1", "net1")), json!(routes)]
}

pub fn both_make_the_same(kinds: &[(&str, &str)]) {
    for (kind, make) in kinds {
        for changes in [json!({}), dual(), json!({"cniVersion": "0.3.1", "dns": {"domain": "x"}})] {
            assert_eq!(made_by(Ours, make, &changes), made_by(Theirs, make, &changes), "{kind} {changes}");
        }
    }
}

#[test]
fn both_make_the_same_of_a_device() {
    both_make_the_same(&KINDS);
}

/// ADD by one side, CHECK and DEL by the other; the host must be as before.
pub fn round_trips(kinds: &[(&str, &str)]) {
    for (kind, make) in kinds {
        for (adds, removes) in [(Ours, Ours), (Ours, Theirs), (Theirs, Ours)] {
            let lab = lab_with(make);
            let (before, was) = (lab.snapshot(), state(lab.link("hd0")));
            let mut config = config(&dual());
            config["prevResult"] = run(&lab, adds, "ADD", &config).result();
            let inside = lab.link_in("ns1", "net1");
            assert_eq!((&inside["ifalias"], &inside["address"]), (&json!("hd0"), &json!(MAC)), "{kind}");
            run(&lab, removes, "CHECK", &config).silent();
            run(&lab, removes, "DEL", &config).silent();
            eprintln!("{kind}: {adds:?} added, {removes:?} removed");
            if removes == Theirs {
                // 1.1.1 leaves the alias.
                lab.run(&["ip", "link", "set", "hd0", "alias", ""]).success();
            }
            before.assert_same(&lab.snapshot());
            assert_eq!(state(lab.link("hd0")), was);
            assert_eq!(lab.link_in("ns1", "net1"), Value::Null);
            run(&lab, Ours, "DEL", &config).silent();
        }
    }
}

#[test]
fn what_one_adds_the_other_checks_and_deletes() {
    round_trips(&KINDS);
}

#[test]
fn the_result_names_the_device_and_dns_only_comes_with_addresses() {
    let lab = lab();
    let named = json!([{"name": "net1", "mac": MAC, "sandbox": "/var/run/netns/ns1"}]);
    let plain = config(&json!({"dns": {"domain": "example.org"}}));
    let result = run(&lab, Ours, "ADD", &plain).result();
    assert_eq!(result, json!({"cniVersion": "1.0.0", "interfaces": named}));
    run(&lab, Ours, "DEL", &plain).silent();
    let result = run(&lab, Ours, "ADD", &config(&dual())).result();
    assert_eq!((&result["interfaces"], &result["dns"]), (&named, &json!({"domain": "example.org"})));
    assert_eq!(result["ips"][0], json!({"address": "10.1.2.7/24", "gateway": "10.1.2.1", "interface": 0}));
}

#[test]
fn addresses_carry_traffic() {
    let lab = lab();
    lab.sh("ip link set peer0 up; ip addr add 10.1.2.1/24 dev peer0; ip addr add fd00:1:2::1/64 dev peer0 nodad")
        .success();
    run(&lab, Ours, "ADD", &config(&dual())).result();
    lab.ok("ip netns exec ns1 ping -n -c 1 -W 2 10.1.2.1");
    crate::lab::wait_for("IPv6", || {
        lab.run(&["ip", "netns", "exec", "ns1", "ping", "-n", "-c", "1", "-W", "1", "fd00:1:2::1"]).code == Some(0)
    });
}

/// A host whose sysfs knows `hd0` as a PCI device, a virtio device and one of the auxiliary bus, and a PCI device that a
/// program in user space has.
pub fn lab_with_sysfs() -> Lab {
    let lab = lab();
    lab.sh("mount -t tmpfs tmpfs /sys/bus; mount -t tmpfs tmpfs /sys/devices
        dev=/sys/devices/pci0000:00
        mkdir -p $dev/one/net/hd0 $dev/two/virtio3/net/hd0 $dev/three $dev/four/net $dev/aux.1/net/hd0
        mkdir -p /sys/bus/pci/devices /sys/bus/auxiliary/devices
        mkdir -p /sys/bus/pci/drivers/e1000 /sys/bus/pci/drivers/vfio-pci
        for name in one two four; do ln -s /sys/bus/pci/drivers/e1000 $dev/$name/driver; done
        ln -s /sys/bus/pci/drivers/vfio-pci $dev/three/driver
        mkdir $dev/five
        ln -s $dev/one /sys/bus/pci/devices/0000:00:01.0
        ln -s $dev/two /sys/bus/pci/devices/0000:00:02.0
        ln -s $dev/three /sys/bus/pci/devices/0000:00:03.0
        ln -s $dev/four /sys/bus/pci/devices/0000:00:04.0
        ln -s $dev/five /sys/bus/pci/devices/0000:00:05.0
        ln -s $dev/aux.1 /sys/bus/auxiliary/devices/mlx5_core.sf.1")
        .success();
    lab
}

#[test]
fn every_key_finds_the_device() {
    let lab = lab_with_sysfs();
    lab.ok("ip link property add dev hd0 altname a-name-of-more-than-fifteen-letters");
    let id = |id: &str| json!({"device": null, "runtimeConfig": {"deviceID": id}});
    for (changes, shared) in [
        (json!({"device": "a-name-of-more-than-fifteen-letters"}), false),
        (json!({"device": null, "hwaddr": MAC}), true),
        (json!({"device": null, "hwaddr": "02-00-00-00-00-99"}), true),
        (json!({"device": null, "kernelpath": "/sys/devices/pci0000:00/one"}), true),
        (json!({"device": null, "pciBusID": "0000:00:01.0"}), true),
        (json!({"device": null, "pciBusID": "0000:00:02.0"}), true),
        (json!({"hwaddr": "02:00:00:00:00:11"}), true),
        (json!({"device": null, "hwaddr": MAC, "pciBusID": "0000:00:04.0"}), true),
        (id("0000:00:01.0"), true),
        (id("mlx5_core.sf.1"), false),
        (merged(id("0000:00:01.0"), &json!({"pciBusID": "0000:00:09.0"})), true),
    ] {
        let config = config(&changes);
        // 1.1.1 knows neither the auxiliary bus nor long names.
        for side in [Ours, Theirs].into_iter().take(if shared { 2 } else { 1 }) {
            run(&lab, side, "ADD", &config).result();
            assert_eq!(lab.link_in("ns1", "net1")["address"], MAC, "{side:?} {changes}");
            run(&lab, side, "DEL", &config).silent();
            assert_eq!(lab.link("hd0")["address"], MAC, "{side:?} {changes}");
        }
    }
}

#[test]
fn what_is_not_found_is_told_in_the_references_words() {
    let lab = lab_with_sysfs();
    let before = lab.snapshot();
    let none = "specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"";
    let found = |what: &str| format!("failed to find host device: {what}");
    let unreadable =
        "failed to read directory /sys/devices/x/net: \"open /sys/devices/x/net: no such file or directory\"";
    let id = |id: &str| json!({"runtimeConfig": {"deviceID": id}});
    for (changes, text) in [
        (json!({}), none.to_string()),
        (json!({"device": "hd9"}), found("Link not found")),
        (json!({"hwaddr": "02:00:00:00:00:11"}), found("failed to find physical interface")),
        (json!({"hwaddr": "zz"}), found("failed to parse MAC address \"zz\": address zz: invalid MAC address")),
        (
            json!({"kernelpath": "/foo"}),
            found("kernel device path \"/foo\" must be absolute and begin with /sys/devices/"),
        ),
        (json!({"kernelpath": "/sys/devices/x"}), found(unreadable)),
        (
            json!({"pciBusID": "0000:00:04.0"}),
            found("failed to find network device in path /sys/bus/pci/devices/0000:00:04.0/net"),
        ),
        (
            json!({"pciBusID": "0000:00:05.0"}),
            "error with host device: lstat /sys/devices/pci0000:00/five/driver: no such file or directory".into(),
        ),
        (
            json!({"pciBusID": "0000:00:09.0"}),
            "error with host device: lstat /sys/bus/pci/devices/0000:00:09.0: no such file or directory".into(),
        ),
        (id("0000:00:09.0"), "runtime config DeviceID 0000:00:09.0 not found or unsupported".to_string()),
    ] {
        let config = config(&merged(json!({"device": null}), &changes));
        run(&lab, Ours, "ADD", &config).fails(999, &text);
        if changes.get("runtimeConfig").is_none() {
            let (_, theirs, _) = run(&lab, Theirs, "ADD", &config).error();
            let other_words_in_1_1_1 = text.contains("read directory") || text.contains("in path");
            assert!(theirs == text || other_words_in_1_1_1, "{theirs}");
        }
        before.assert_same(&lab.snapshot());
    }
}

#[test]
fn a_device_of_a_program_in_user_space_only_gets_addresses() {
    let lab = lab_with_sysfs();
    for changes in [
        json!({"device": null, "pciBusID": "0000:00:03.0"}),
        json!({"device": null, "runtimeConfig": {"deviceID": "0000:00:03.0"}}),
        json!({"DPDKMode": true}),
    ] {
        let before = lab.snapshot();
        let mut config = config(&merged(changes, &dual()));
        let result = run(&lab, Ours, "ADD", &config).result();
        assert_eq!(result["interfaces"], json!([{"name": "net1", "sandbox": "/var/run/netns/ns1"}]));
        assert_eq!((&result["ips"][1]["interface"], &result["dns"]["domain"]), (&json!(0), &json!("example.org")));
        assert_eq!(lab.link_in("ns1", "net1"), Value::Null);
        config["prevResult"] = result;
        run(&lab, Ours, "CHECK", &config).silent();
        run(&lab, Ours, "DEL", &config).silent();
        before.assert_same(&lab.snapshot());
    }
}

#[test]
fn newer_status_asks_sysfs_and_ipam() {
    let lab = lab_with_sysfs();
    let status = |changes: Value| {
        let config = merged(config(&json!({"cniVersion": "1.1.0", "device": null})), &changes);
        lab.plugin("host-device").verb("STATUS").config(&config).run()
    };
    // A container may have the device; a runtime tells the id only with an ADD.
    for fine in [json!({}), json!({"device": "hd9"}), json!({"pciBusID": "0000:00:01.0"}), json!({"hwaddr": MAC})] {
        status(fine).silent();
    }
    let missing = "failed to find host device: /sys/bus/pci/devices/0000:00:09.0: no such file or directory";
    status(json!({"pciBusID": "0000:00:09.0"})).fails(50, missing);
    let replaced = json!({"pciBusID": "0000:00:09.0", "capabilities": {"deviceID": true}});
    status(replaced.clone()).silent();
    let named = merged(replaced, &json!({"device": null, "runtimeConfig": {"deviceID": "0000:00:01.0"}}));
    lab.plugin("host-device").config(&config(&named)).run().result();
    status(json!({"kernelpath": "/sys/devices/x"})).fails_with(50, &["failed to find host device: /sys/devices/x: "]);
    status(json!({"ipam": {"type": "nope"}})).fails_with(999, &["failed to find plugin \"nope\" in path"]);
}
