//! The hardware address of a bridge: whether it stays, through ADD and DEL, and through an ADD that fails.

use serde_json::{Value, json};

use crate::accidents::assert_untouched;
use crate::kills::{changing_calls, kill_at, refuse_at};
use crate::lab::{Call, Lab, bridge_config, merged, reference_dir};

/// The bridge of an administrator, without a port and without a hardware address that was set.
const NEW: &str = "ip link add cni0 type bridge; ip link set cni0 up";

/// A host with the namespaces `ns1` to `ns3`, and /sys of its own.
pub fn prepared(lab: Lab, commands: &str) -> Lab {
    (1..=3).for_each(|number| drop(lab.netns(&format!("ns{number}"))));
    lab.sh("mkdir /run/lab/sys; mount -t sysfs sysfs /run/lab/sys").success();
    lab.sh(commands).success();
    lab
}

fn call<'a>(lab: &'a Lab, number: usize, config: &Value) -> Call<'a> {
    let plugin = lab.plugin("bridge").container(&format!("c{number}"));
    plugin.netns(&format!("/var/run/netns/ns{number}")).config(config)
}

fn mac(lab: &Lab, link: &str) -> String {
    lab.link(link)["address"].as_str().unwrap().to_string()
}

/// True if the kernel leaves the address of the bridge as it is, whatever its ports: `NET_ADDR_SET`.
fn is_pinned(lab: &Lab) -> bool {
    lab.ok("cat /run/lab/sys/class/net/cni0/addr_assign_type").trim() == "3"
}

/// What became of the bridge's address, and whether it will stay.
fn state(lab: &Lab, first: &str) -> (&'static str, bool) {
    let now = mac(lab, "cni0");
    let what = match now.as_str() {
        now if now == first => "kept",
        "00:00:00:00:00:00" => "zero",
        now if lab.veths().iter().any(|port| mac(lab, port) == now) => "a port's",
        _ => "another",
    };
    (what, is_pinned(lab))
}

/// Two containers come and go. The results must tell the address that the bridge has after each ADD.
pub fn life(lab: &Lab, config: &Value) -> Vec<(&'static str, bool)> {
    let first = mac(lab, "cni0");
    let mut states = Vec::new();
    for number in [1, 2] {
        let result = call(lab, number, config).run().result();
        assert_eq!(result["interfaces"][0]["mac"], mac(lab, "cni0"), "{config}");
        states.push(state(lab, &first));
    }
    for number in [1, 2] {
        call(lab, number, config).verb("DEL").run().silent();
        states.push(state(lab, &first));
    }
    states
}

/// What there was before the first ADD, by name.
fn before() -> Vec<(&'static str, String)> {
    let with_port = |mac: &str| {
        let port = format!("ip link add foreign address {mac} type veth peer name other; ip link set other up");
        format!("{NEW}; {port}; ip link set foreign master cni0 up")
    };
    vec![
        ("up", NEW.to_string()),
        ("down", "ip link add cni0 type bridge".to_string()),
        ("set at creation", "ip link add cni0 address fe:ff:ff:ff:ff:fe type bridge".to_string()),
        ("set later", format!("{NEW}; ip link set cni0 address 02:00:00:00:00:07")),
        ("set to what it was", format!("{NEW}; ip link set cni0 address $(cat /run/lab/sys/class/net/cni0/address)")),
        ("with a foreign port", with_port("02:00:00:00:00:08")),
        ("with a foreign port whose address is higher", with_port("fe:ff:ff:ff:ff:ff")),
    ]
}

#[test]
fn a_bridge_that_was_there_keeps_its_address_where_it_does_with_the_reference() {
    let gateway = json!({"isDefaultGateway": true});
    let forced = json!({"isGateway": true, "promiscMode": true, "forceAddress": true, "ipMasq": true});
    let cable = json!({"isGateway": true, "ipam": null});
    for (changes, keeps) in [(gateway, true), (forced, true), (json!({}), false), (cable, false)] {
        for (name, commands) in before() {
            let config = bridge_config(&changes);
            let sides = [Lab::new(), Lab::with_plugins_of(&reference_dir())];
            let [ours, theirs] = sides.map(|lab| life(&prepared(lab, &commands), &config));
            assert_eq!(ours, theirs, "{name}, {changes}");
            assert!(!keeps || ours.iter().all(|state| *state == ("kept", true)), "{name}, {changes}: {ours:?}");
        }
    }
}

#[test]
pub fn better_a_bridge_that_has_its_gateways_address_already_keeps_its_hardware_address() {
    let lab = prepared(Lab::new(), &format!("{NEW}; ip addr add 10.1.2.1/24 dev cni0"));
    let states = life(&lab, &bridge_config(&json!({"isGateway": true})));
    assert!(states.iter().all(|state| *state == ("kept", true)), "{states:?}");
}

#[test]
pub fn better_containers_that_come_at_once_leave_the_address_of_the_bridge_alone() {
    let lab = prepared(Lab::new(), NEW);
    let first = mac(&lab, "cni0");
    let dual = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    let config = bridge_config(&json!({"isDefaultGateway": true, "ipam": {"subnet": null, "ranges": dual}}));
    std::thread::scope(|scope| {
        let calls = [1, 2, 3].map(|number| call(&lab, number, &config));
        let calls = calls.map(|call| scope.spawn(move || call.run().result()));
        for result in calls.map(|call| call.join().unwrap()) {
            assert_eq!(result["interfaces"][0]["mac"], first, "{result}");
        }
    });
    assert_eq!(state(&lab, &first), ("kept", true));
    for (address, family) in [("10.1.2.1", "-4"), ("fd00:1:2::1", "-6")] {
        lab.ok(&format!("ip netns exec ns2 ping {family} -n -c 1 -W 2 {address}"));
    }
}

#[test]
fn better_an_add_that_fails_leaves_the_bridge_with_its_address_and_free_to_follow_its_ports() {
    let full = json!([[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.1", "rangeEnd": "10.1.2.1"}]]);
    let exhausted = json!({"ipam": {"subnet": null, "ranges": full}});
    let lost_route = json!({"ipam": {"routes": [{"dst": "10.7.0.0/16", "gw": "10.8.0.1"}]}});
    let name_taken = "ip -n ns1 link add eth0 type veth peer name other";
    let gateway = |changes: &Value| merged(changes.clone(), &json!({"isGateway": true}));
    for (commands, changes) in [
        ("true", gateway(&exhausted)),
        ("true", exhausted),
        ("true", gateway(&lost_route)),
        ("true", lost_route),
        ("ip addr add 10.9.0.1/16 dev cni0", gateway(&json!({}))),
        (name_taken, gateway(&json!({}))),
        (name_taken, json!({"ipam": null})),
    ] {
        let lab = prepared(Lab::new(), &format!("{NEW}; {commands}"));
        let before = lab.snapshot();
        let outcome = call(&lab, 1, &bridge_config(&changes)).run();
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        before.assert_same(&lab.snapshot());
        assert!(!is_pinned(&lab), "{outcome:?}");
    }
}

#[test]
fn better_an_add_whose_result_is_not_read_leaves_a_gateway_its_address() {
    let lab = prepared(Lab::new(), NEW);
    let before = lab.snapshot();
    lab.write("/run/lab/config", bridge_config(&json!({"isGateway": true})).to_string());
    let script = "CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/var/run/netns/ns1 CNI_IFNAME=eth0 \
        CNI_PATH=/opt/cni/bin /opt/cni/bin/bridge </run/lab/config >/dev/full";
    assert_eq!(lab.sh(script).code, Some(1));
    assert_untouched(&lab, &before);
}

#[test]
fn better_a_gateway_keeps_its_address_whatever_accident_its_first_add_has() {
    let lab = prepared(Lab::new(), "true");
    let config = bridge_config(&json!({"isGateway": true, "ipMasq": true}));
    let (add, delete) = (call(&lab, 1, &config), call(&lab, 1, &config).verb("DEL"));
    lab.sh(NEW).success();
    let points = changing_calls(&lab, &add);
    for accident in [kill_at, refuse_at] {
        let mut failed = 0;
        for point in &points {
            delete.run().silent();
            lab.sh(&format!("ip link del cni0; {NEW}")).success();
            let first = mac(&lab, "cni0");
            failed += usize::from(accident(&add, point));
            assert_eq!(mac(&lab, "cni0"), first, "{point:?}");
        }
        assert!(failed > 10, "only {failed} of {} failed", points.len());
    }
}

#[test]
fn ours_and_the_reference_take_turns_on_one_bridge() {
    for commands in [NEW, "true"] {
        for ours_is_first in [true, false] {
            let lab = prepared(Lab::with_ours(), commands);
            let config = bridge_config(&json!({"isDefaultGateway": true}));
            let turn = |number: usize, is_ours: bool| {
                let plugin = if is_ours { lab.plugin("bridge") } else { lab.reference("bridge") };
                plugin.container(&format!("c{number}")).netns(&format!("/var/run/netns/ns{number}")).config(&config)
            };
            let there = lab.link("cni0")["address"].clone();
            let result = turn(1, ours_is_first).run().result();
            let first = mac(&lab, "cni0");
            assert_eq!(result["interfaces"][0]["mac"], first);
            assert!(there.is_null() || there == first, "{there} became {first}");
            turn(2, !ours_is_first).run().result();
            turn(1, !ours_is_first).verb("DEL").run().silent();
            turn(2, ours_is_first).verb("DEL").run().silent();
            assert_eq!(state(&lab, &first), ("kept", true), "{commands}, ours is first: {ours_is_first}");
        }
    }
}

/// `dhcp` asks servers beyond the bridge.
#[test]
fn a_program_that_manages_addresses_finds_the_interface_in_the_bridge() {
    let lab = prepared(Lab::new(), NEW);
    let first = mac(&lab, "cni0");
    let result = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.9/24"}]});
    let script = format!("#!/bin/sh\ncat >/dev/null\nip -br link show master cni0 >>/run/lab/ports\necho '{result}'\n");
    lab.executable("/run/lab/bin/my-ipam", &script);
    let config = bridge_config(&json!({"isGateway": true, "ipam": {"type": "my-ipam", "subnet": null}}));
    let result = call(&lab, 1, &config).env("CNI_PATH", "/run/lab/bin").run().result();
    let ports = lab.read("/run/lab/ports");
    assert!(ports.starts_with(result["interfaces"][1]["name"].as_str().unwrap()), "{ports}");
    assert_eq!((&result["interfaces"][0]["mac"], state(&lab, &first)), (&json!(first), ("kept", true)));
}
