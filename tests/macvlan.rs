//! macvlan: every key and mode, seen in the kernel and by traffic.

use serde_json::{Value, json};

use crate::bridge::reaches;
use crate::devices::{self, Device, host, second};
use crate::kills::every;
use crate::lab::{Call, Lab};

fn macvlan(changes: &Value) -> Device {
    Device::new("macvlan", changes)
}

fn pings(lab: &Lab, netns: &str, address: &str) -> bool {
    lab.run(&["ip", "netns", "exec", netns, "ping", "-n", "-c", "1", "-W", "1", address]).code == Some(0)
}

fn info(lab: &Lab, key: &str) -> Value {
    lab.link_in("ns1", "eth0")["linkinfo"]["info_data"][key].clone()
}

/// `ns1` and `ns2` attached.
fn two(changes: &Value) -> Lab {
    let lab = host();
    let device = macvlan(changes).dual();
    device.add(&lab).result();
    second(device.call(&lab)).run().result();
    lab
}

#[test]
fn the_device_is_made_as_told() {
    devices::is_made_as_told(&macvlan(&json!({})));
    devices::announces(&macvlan(&json!({})));
}

/// The network's addresses on what is at the master's other end.
fn give_outside_addresses(lab: &Lab) {
    let addresses = "addr add 10.1.2.1/24 dev m1\naddr add fd00:1:2::1/64 dev m1 nodad\n";
    Call::new(lab, "ip").args_list(&["-n", "outside", "-batch", "-"]).stdin(addresses).run().success();
}

#[test]
fn containers_on_one_master_reach_each_other_and_what_is_outside_in_bridge_mode() {
    let lab = two(&json!({"mode": "bridge"}));
    give_outside_addresses(&lab);
    for address in ["10.1.2.3", "fd00:1:2::3", "10.1.2.1", "fd00:1:2::1"] {
        reaches(&lab, "ns1", address);
    }
}

/// The kernel does not let a master talk to what lies on it: people give the host a macvlan too.
#[test]
fn the_host_is_reached_by_a_device_of_its_own_on_the_master() {
    let lab = host();
    macvlan(&json!({})).dual().add(&lab).result();
    lab.ok("ip link add link m0 name h0 type macvlan mode bridge");
    lab.ok("ip addr add 10.1.2.254/24 dev h0");
    lab.ok("ip addr add fd00:1:2::fe/64 dev h0 nodad");
    lab.ok("ip link set h0 up");
    for (netns, address) in [("ns1", "10.1.2.254"), ("ns1", "fd00:1:2::fe"), ("", "10.1.2.2"), ("", "fd00:1:2::2")] {
        reaches(&lab, netns, address);
    }
}

#[test]
fn private_mode_isolates_containers_from_each_other_only() {
    let lab = two(&json!({"mode": "private"}));
    give_outside_addresses(&lab);
    for netns in ["ns1", "ns2"] {
        reaches(&lab, netns, "10.1.2.1");
        reaches(&lab, netns, "fd00:1:2::1");
    }
    assert!(!pings(&lab, "ns1", "10.1.2.3") && !pings(&lab, "ns1", "fd00:1:2::3"));
}

#[test]
fn vepa_mode_goes_by_way_of_a_switch_that_sends_back() {
    let lab = two(&json!({"mode": "vepa"}));
    assert!(!pings(&lab, "ns1", "10.1.2.3") && !pings(&lab, "ns1", "fd00:1:2::3"));
    lab.ok("ip -n outside link add sw0 up type bridge");
    lab.ok("ip -n outside link set m1 master sw0");
    lab.ok("ip -n outside link set m1 type bridge_slave hairpin on");
    reaches(&lab, "ns1", "10.1.2.3");
    reaches(&lab, "ns1", "fd00:1:2::3");
}

#[test]
fn passthru_takes_the_master_over_and_there_is_only_one() {
    let lab = host();
    let passthru = macvlan(&json!({"mode": "passthru"})).dual();
    let result = passthru.add(&lab).result();
    assert_eq!(result["interfaces"][0]["mac"], lab.link("m0")["address"]);
    assert_eq!(lab.link_in("ns1", "eth0")["address"], lab.link("m0")["address"]);
    give_outside_addresses(&lab);
    reaches(&lab, "ns1", "10.1.2.1");
    reaches(&lab, "ns1", "fd00:1:2::1");
    let before = lab.snapshot();
    second(passthru.call(&lab)).run().fails_with(999, &["failed to create macvlan: invalid argument"]);
    before.assert_same(&lab.snapshot());
}

#[test]
fn mode_mtu_and_queue_reach_the_kernel() {
    for (mode, found) in [("", "bridge"), ("bridge", "bridge"), ("private", "private"), ("vepa", "vepa")] {
        let lab = host();
        macvlan(&json!({"mode": mode, "mtu": 1400, "bcqueuelen": 2000})).add(&lab).result();
        assert_eq!((info(&lab, "mode"), lab.link_in("ns1", "eth0")["mtu"].clone()), (json!(found), json!(1400)));
        assert!(lab.ok("ip -n ns1 -d link show eth0").contains("bcqueuelen 2000"), "{mode}");
    }
    let lab = host();
    macvlan(&json!({})).add(&lab).result();
    assert_eq!(lab.link_in("ns1", "eth0")["mtu"], 1450, "the master's");
}

#[test]
fn the_hardware_address_comes_from_the_most_specific_wish() {
    let one = |number: u8| format!("02:00:00:00:00:0{number}");
    let config = json!({"mac": one(1)});
    let runtime = json!({"mac": one(1), "runtimeConfig": {"mac": one(3)}});
    let args = format!("IgnoreUnknown=1;MAC={}", one(2));
    for (changes, args, wanted) in [(&config, "", 1), (&config, &*args, 2), (&runtime, &*args, 3)] {
        let lab = host();
        let result = macvlan(changes).call(&lab).args(args).run().result();
        assert_eq!(result["interfaces"][0]["mac"], one(wanted));
        assert_eq!(lab.link_in("ns1", "eth0")["address"], one(wanted));
    }
}

/// Duplicate address detection cannot end there; the reference waits five seconds for it.
#[test]
fn better_nothing_is_waited_for_on_a_master_without_carrier() {
    let lab = host();
    lab.ok("ip -n outside link set m1 down");
    let begun = std::time::Instant::now();
    macvlan(&json!({})).dual().add(&lab).result();
    assert!(begun.elapsed().as_secs() < 4, "took {:?}", begun.elapsed());
    assert_eq!(lab.addresses("ns1", "eth0"), ["10.1.2.2/24", "fd00:1:2::2/64"]);
}

#[test]
fn without_ipam_the_device_is_only_set_up() {
    let lab = host();
    let cable = macvlan(&json!({"ipam": null, "dns": {"domain": "example"}}));
    let attached = cable.attached(&lab);
    assert_eq!(attached.config["prevResult"]["dns"], json!({"domain": "example"}));
    assert_eq!(attached.config["prevResult"]["ips"], Value::Null);
    assert!(lab.link_in("ns1", "eth0")["flags"].as_array().unwrap().contains(&json!("UP")));
    attached.call(&lab).verb("CHECK").run().silent();
    attached.call(&lab).verb("DEL").run().silent();
    assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
}

/// How the host's default routes are, and the master that follows.
#[test]
fn newer_without_a_master_it_is_the_interface_of_the_default_route() {
    for (script, wanted) in [
        ("ip route add default via 192.0.2.2", "m0"),
        ("ip -6 addr add fd00::1/64 dev m0 nodad; ip -6 route add default via fd00::2", "m0"),
        ("ip route add unreachable default; ip -6 route add unreachable default", ""),
        ("ip route add 192.0.2.128/25 dev m0", ""),
    ] {
        let lab = host();
        lab.ok("ip addr add 192.0.2.1/24 dev m0");
        lab.sh(script).success();
        let outcome = macvlan(&json!({"master": null})).add(&lab);
        match wanted {
            "" => drop(outcome.fails(999, "no default route interface found")),
            _ => assert_eq!(lab.link_in("ns1", "eth0")["link_index"], lab.link(wanted)["ifindex"], "{script}"),
        }
    }
}

#[test]
fn better_the_default_route_is_the_one_with_the_lowest_metric_that_leads_anywhere() {
    for script in [
        "ip route add default via 198.51.100.2 metric 50; ip route add default via 192.0.2.2 metric 10",
        "ip route add unreachable default metric 1; ip route add default via 192.0.2.2 metric 10",
        "ip -6 route add unreachable default metric 1; ip route add default via 192.0.2.2 metric 10",
        "ip route add default nexthop via 192.0.2.2 nexthop via 198.51.100.2",
    ] {
        let lab = host();
        lab.sh("ip link add other type bridge; ip link set other up; ip addr add 198.51.100.1/24 dev other").success();
        lab.ok("ip addr add 192.0.2.1/24 dev m0");
        lab.sh(script).success();
        let attached = macvlan(&json!({"master": null})).attached(&lab);
        assert_eq!(lab.link_in("ns1", "eth0")["link_index"], lab.link("m0")["ifindex"], "{script}");
        // What has become of the default route does not matter to what is there.
        lab.ok("ip route flush table main");
        attached.call(&lab).verb("CHECK").run().silent();
    }
}

#[test]
fn newer_the_master_may_be_in_the_container() {
    let lab = host();
    lab.ok("ip link set m0 netns ns1");
    lab.ok("ip -n ns1 link set m0 up");
    let inside = macvlan(&json!({"linkInContainer": true}));
    let attached = inside.attached(&lab);
    assert_eq!(lab.link_in("ns1", "eth0")["link"], "m0");
    lab.ok("ip -n outside addr add 10.1.2.1/24 dev m1");
    reaches(&lab, "ns1", "10.1.2.1");
    attached.call(&lab).verb("CHECK").run().silent();
    let text = "failed to rename macvlan to \"eth0\": file exists";
    inside.add(&lab).fails(999, text);
    attached.call(&lab).verb("DEL").run().silent();
    assert_eq!(lab.ip("-n ns1 link show").as_array().unwrap().len(), 2, "lo and m0 stay");
    // Its default route counts, not the host's.
    lab.ok("ip -n ns1 addr add 192.0.2.1/24 dev m0");
    inside.with(&json!({"master": null})).add(&lab).fails(999, "no default route interface found");
    lab.ok("ip -n ns1 route add default via 192.0.2.2");
    inside.with(&json!({"master": null})).add(&lab).result();
}

#[test]
fn a_second_add_fails_and_takes_no_address() {
    devices::second_add_fails(&macvlan(&json!({})), "failed to rename macvlan to \"eth0\": file exists");
}

#[test]
fn a_link_of_the_host_may_have_the_same_name() {
    devices::a_link_of_the_host_may_have_the_same_name(&macvlan(&json!({})));
}

#[test]
fn better_failures_leave_nothing_and_say_why() {
    let own = [
        (json!({"master": "nope"}), "Link not found"),
        (json!({"master": "lo"}), "failed to create macvlan: invalid argument (\"lo\" is a loopback device)"),
        (json!({"mtu": 1451}), "invalid MTU 1451, must be [0, master MTU(1450)]"),
        (json!({"mtu": -1}), "invalid MTU -1, must be [0, master MTU(1450)]"),
        (json!({"mtu": 10}), "failed to create macvlan: invalid argument"),
        (json!({"mtu": "1400"}), "failed to load netconf: json: cannot unmarshal string into key \"mtu\" of type int"),
        (json!({"mode": "x"}), "unknown macvlan mode: \"x\""),
        (json!({"mac": "zz"}), "invalid args zz for MAC addr: address zz: invalid MAC address"),
        (json!({"mac": "01:00:00:00:00:00"}), "failed to create macvlan: "),
        (
            json!({"bcqueuelen": -1}),
            "failed to load netconf: json: cannot unmarshal number -1 into key \"bcqueuelen\" of type uint32",
        ),
        (json!({"linkInContainer": true}), "Link not found"),
        (json!({"cniVersion": "0.2.0", "ipam": null}), "cannot convert: no valid IP addresses"),
    ];
    devices::failures_leave_nothing(&macvlan(&json!({})), &own);
    let lab = host();
    macvlan(&json!({})).call(&lab).args("X=1").run().fails(999, "ARGS: unknown args [\"X=1\"]");
}

#[test]
fn failures_have_the_references_words() {
    let cases = [
        (json!({"master": "nope"}), ""),
        (json!({"master": null}), ""),
        (json!({"master": "lo"}), ""),
        (json!({"mode": "x"}), ""),
        (json!({"mtu": 1451}), ""),
        (json!({"mtu": 10}), ""),
        (json!({"mac": "zz"}), ""),
        (json!({"mac": "01:00:00:00:00:01"}), ""),
        (json!({"mode": "passthru"}), "ip link add link m0 name x type macvlan mode passthru"),
        (json!({}), "ip -n ns1 link add eth0 type bridge"),
        (json!({}), "ip link add br0 type bridge; ip link set m0 master br0"),
    ];
    devices::failures_have_the_references_words(&macvlan(&json!({})), &cases);
}

/// The kernel puts it on what that one lies on.
#[test]
fn a_macvlan_on_a_macvlan_is_as_it_should_be() {
    devices::check_knows_a_master_of_the_same_kind(&macvlan(&json!({})), "macvlan mode bridge");
}

#[test]
fn better_del_cleans_up_in_every_state() {
    devices::del_cleans_up_in_every_state(&macvlan(&json!({})));
}

#[test]
fn better_del_removes_the_link_before_its_addresses_are_given_back() {
    devices::del_removes_the_link_first(&macvlan(&json!({})));
}

#[test]
fn better_del_cleans_up_after_an_add_killed_before_any_of_its_changes() {
    devices::killed_adds_are_cleaned_up(&macvlan(&json!({})).dual(), "true", every);
}

#[test]
fn better_an_add_whose_steps_fail_is_undone() {
    devices::failed_steps_are_undone(&macvlan(&json!({})), every);
}

#[test]
fn two_hundred_at_once() {
    devices::many_at_once(|_| macvlan(&json!({})));
}

#[test]
fn better_check_names_what_is_wrong() {
    let replace = "ip -n ns1 link del eth0; ip -n ns1 link add eth0 type";
    let own = [
        ("ip -n ns1 link set eth0 address 02:00:00:00:00:09", "doesn't match container Mac: 02:00:00:00:00:09"),
        (
            "ip -n ns1 link set eth0 type macvlan mode private",
            "container macvlan mode private does not match expected value: bridge",
        ),
        ("ip -n ns1 link set eth0 mtu 1300", "Interface eth0 MTU doesn't match: 1400, found 1300"),
        (&format!("{replace} bridge"), "Error: Container interface eth0 not of type macvlan"),
        ("ip link set m0 down; ip link set m0 name m2", "failed to lookup master \"m0\": Link not found"),
        (
            "ip link set m0 down; ip link set m0 name m2; ip link add m0 type bridge",
            "Interface eth0 does not lie on master \"m0\"",
        ),
    ];
    devices::check_names_what_is_wrong(&macvlan(&json!({"mtu": 1400})), &own);
}

#[test]
fn newer_gc_and_status_reach_ipam_and_look_at_the_master() {
    devices::gc_reaches_ipam(&macvlan(&json!({})));
    let accidents = [
        ("ip link del m0", 50, "failed to lookup master \"m0\": Link not found"),
        ("ip link set m0 mtu 1300", 50, "invalid MTU 1400, must be [0, master MTU(1300)]"),
    ];
    devices::status_tells(&macvlan(&json!({"mtu": 1400})), &accidents);
}

#[test]
fn the_reference_makes_the_same_and_both_clean_up_after_each_other() {
    for changes in
        [json!({}), json!({"mode": "private", "mtu": 1400}), json!({"mode": "passthru", "cniVersion": "0.4.0"})]
    {
        devices::agrees_with_the_reference(&macvlan(&changes));
    }
}
