//! vlan, ipvlan and dummy: what tests/devices.rs asks of every plugin of their kind, and what is their own. macvlan here
//! only where the older kernel makes a difference.

use serde_json::{Value, json};

use crate::accidents::assert_untouched;
use crate::announce;
use crate::bridge::reaches;
use crate::devices::{self, Device, host, second};
use crate::kills::of_the_kernel;
use crate::lab::merged;
use crate::read_back;

fn vlan(changes: &Value) -> Device {
    Device::new("vlan", &json!({"vlanId": 5})).with(changes)
}

fn ipvlan(changes: &Value) -> Device {
    Device::new("ipvlan", changes)
}

fn dummy() -> Device {
    Device::new("dummy", &json!({}))
}

fn all() -> [Device; 3] {
    [vlan(&json!({})), ipvlan(&json!({})), dummy()]
}

#[test]
fn devices_are_made_as_told() {
    all().iter().for_each(devices::is_made_as_told);
}

#[test]
fn a_second_add_fails_and_takes_no_address() {
    devices::second_add_fails(&vlan(&json!({})), "failed to create vlan: file exists");
    devices::second_add_fails(&ipvlan(&json!({})), "failed to rename ipvlan to \"eth0\": file exists");
    devices::second_add_fails(&dummy(), "failed to create dummy: file exists");
}

#[test]
fn a_link_of_the_host_may_have_the_same_name() {
    all().iter().for_each(devices::a_link_of_the_host_may_have_the_same_name);
    devices::a_link_of_the_host_may_have_the_same_name(&Device::new("macvlan", &json!({})));
}

#[test]
fn better_del_of_vlan_cleans_up_in_every_state() {
    devices::del_cleans_up_in_every_state(&vlan(&json!({})));
}

#[test]
fn better_del_of_ipvlan_cleans_up_in_every_state() {
    devices::del_cleans_up_in_every_state(&ipvlan(&json!({})));
}

#[test]
fn better_del_of_dummy_cleans_up_in_every_state() {
    devices::del_cleans_up_in_every_state(&dummy());
}

#[test]
fn better_del_removes_the_link_before_its_addresses_are_given_back() {
    all().iter().for_each(devices::del_removes_the_link_first);
}

#[test]
fn better_del_needs_neither_master_nor_ipam_nor_a_valid_configuration() {
    let nonsense = json!({"master": null, "mtu": 99999, "vlanId": 9999, "mode": "x", "linkInContainer": true});
    for device in all() {
        let lab = host();
        let before = lab.snapshot();
        device.add(&lab).result();
        device.with(&nonsense).call(&lab).verb("DEL").run().silent();
        assert_untouched(&lab, &before);
        device.with(&json!({"ipam": null})).call(&lab).verb("DEL").run().silent();
    }
}

#[test]
fn better_failures_of_vlan_leave_nothing_and_say_why() {
    let own = [
        (json!({"master": "nope"}), "failed to lookup master \"nope\": Link not found"),
        (json!({"master": null}), "\"master\" field is required. It specifies the host interface name"),
        (json!({"master": "lo"}), "failed to create vlan: operation not supported"),
        (json!({"vlanId": 4095}), "invalid VLAN ID 4095 (must be between 0 and 4095 inclusive)"),
        (json!({"vlanId": -1}), "invalid VLAN ID -1 (must be between 0 and 4095 inclusive)"),
        (json!({"mtu": 1451}), "invalid MTU 1451, must be [0, master MTU(1450)]"),
        (json!({"ipam": null}), "failed to execute IPAM delegate: no plugin name provided"),
        (json!({"linkInContainer": true}), "failed to lookup master \"m0\": Link not found"),
    ];
    devices::failures_leave_nothing(&vlan(&json!({})), &own);
}

#[test]
fn better_failures_of_ipvlan_leave_nothing_and_say_why() {
    let nameless = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "a"}, {"name": "b"}], "ips": []});
    let own = [
        (json!({"master": "nope"}), "failed to lookup master \"nope\": Link not found"),
        (json!({"master": "lo"}), "failed to create ipvlan: invalid argument"),
        (json!({"mode": "x"}), "unknown ipvlan mode: \"x\""),
        (json!({"ipam": null}), "no plugin name provided"),
        (json!({"master": null}), "no default route interface found"),
        (
            json!({"master": null, "prevResult": nameless}),
            "chained master failure. PrevResult lacks a single named interface",
        ),
    ];
    devices::failures_leave_nothing(&ipvlan(&json!({})), &own);
}

#[test]
fn failures_have_the_references_words() {
    let name_taken = "ip -n ns1 link add eth0 type bridge";
    let id_taken = "ip link add link m0 name x type vlan id 5";
    let both_taken = "ip link add link m0 name eth0 netns ns1 type vlan id 5";
    let cases = [
        (json!({"master": "nope"}), ""),
        (json!({"master": "lo"}), ""),
        (json!({"vlanId": 4095}), ""),
        (json!({"mtu": 1451}), ""),
        (json!({}), name_taken),
        (json!({}), id_taken),
        (json!({}), both_taken),
    ];
    devices::failures_have_the_references_words(&vlan(&json!({})), &cases);
    let cases = [
        (json!({"master": "nope"}), ""),
        (json!({"master": null}), ""),
        (json!({"master": "lo"}), ""),
        (json!({"mode": "x"}), ""),
        (json!({"mtu": 10}), ""),
        (json!({}), name_taken),
        (json!({}), "ip link add link m0 name x type macvlan"),
    ];
    devices::failures_have_the_references_words(&ipvlan(&json!({})), &cases);
}

/// The kernel takes it, so it is no bad input.
#[test]
fn an_ipvlan_may_have_a_larger_mtu_than_its_master() {
    let lab = host();
    ipvlan(&json!({"mtu": 1451})).add(&lab).result();
    assert_eq!(lab.link_in("ns1", "eth0")["mtu"], 1451);
}

#[test]
fn better_failures_of_dummy_leave_nothing_and_say_why() {
    let own = [(json!({"ipam": null}), "dummy interface requires an IPAM configuration")];
    devices::failures_leave_nothing(&dummy(), &own);
}

/// Where the kernel looks for names on the host too, the device first has another one. It must not keep the VLAN id.
#[test]
fn better_del_cleans_up_after_an_add_killed_before_the_device_has_its_name() {
    devices::killed_adds_are_cleaned_up(&vlan(&json!({})), "ip link add eth0 type bridge", of_the_kernel);
}

#[test]
fn better_del_cleans_up_after_an_add_of_ipvlan_killed_before_any_of_its_changes() {
    devices::killed_adds_are_cleaned_up(&ipvlan(&json!({})), "true", of_the_kernel);
}

#[test]
fn better_del_cleans_up_after_an_add_of_dummy_killed_before_any_of_its_changes() {
    devices::killed_adds_are_cleaned_up(&dummy(), "true", of_the_kernel);
}

#[test]
fn better_an_add_of_vlan_whose_steps_fail_is_undone() {
    devices::failed_steps_are_undone(&vlan(&json!({})), of_the_kernel);
}

#[test]
fn better_an_add_of_ipvlan_whose_steps_fail_is_undone() {
    devices::failed_steps_are_undone(&ipvlan(&json!({})), of_the_kernel);
}

#[test]
fn better_an_add_of_dummy_whose_steps_fail_is_undone() {
    devices::failed_steps_are_undone(&dummy(), of_the_kernel);
}

#[test]
fn better_an_ipam_error_keeps_its_code() {
    let lab = host();
    let script = r#"#!/bin/sh
cat >/dev/null; echo '{"code": 11, "msg": "come back"}'; exit 1"#;
    lab.executable("/run/lab/bin/my-ipam", script);
    for device in all() {
        let call = device.with(&json!({"ipam": {"type": "my-ipam"}})).call(&lab).env("CNI_PATH", "/run/lab/bin");
        call.run().fails(11, "come back");
        assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
    }
}

#[test]
fn better_vlan_and_dummy_announce_their_addresses_too() {
    for device in [vlan(&json!({})), dummy()] {
        devices::announces(&device);
    }
}

#[test]
fn two_hundred_vlans_at_once() {
    devices::many_at_once(|one| vlan(&json!({"vlanId": one + 1})));
}

#[test]
fn two_hundred_ipvlans_at_once() {
    devices::many_at_once(|_| ipvlan(&json!({})));
}

#[test]
fn two_hundred_dummies_at_once() {
    devices::many_at_once(|_| dummy());
}

#[test]
fn better_check_of_vlan_names_what_is_wrong() {
    let other_id = "ip -n ns1 link del eth0; ip link add link m0 name eth0 netns ns1 type vlan id 6";
    let own = [
        (other_id, "Interface eth0 VLAN id doesn't match: 5, found 6"),
        ("ip -n ns1 link set eth0 mtu 1300", "Interface eth0 MTU doesn't match: 1400, found 1300"),
        ("ip -n ns1 link set eth0 address 02:00:00:00:00:09", "doesn't match container Mac: 02:00:00:00:00:09"),
        (
            "ip link set m0 down; ip link set m0 name m2; ip link add m0 type bridge",
            "Interface eth0 does not lie on master \"m0\"",
        ),
    ];
    devices::check_names_what_is_wrong(&vlan(&json!({"mtu": 1400})), &own);
}

#[test]
fn better_check_of_ipvlan_names_what_is_wrong() {
    let own = [
        ("ip -n ns1 link set eth0 type ipvlan mode l3", "Container IPVlan mode l3 does not match expected value: l2"),
        ("ip link set m0 down; ip link set m0 name m2", "failed to lookup master \"m0\": Link not found"),
        (
            "ip link set m0 down; ip link set m0 name m2; ip link add m0 type bridge",
            "Interface eth0 does not lie on master \"m0\"",
        ),
    ];
    devices::check_names_what_is_wrong(&ipvlan(&json!({})), &own);
}

#[test]
fn better_check_of_dummy_names_what_is_wrong() {
    let replaced = "ip -n ns1 link del eth0; ip -n ns1 link add eth0 type bridge";
    let own = [
        ("ip -n ns1 link set eth0 down", "Interface eth0 is down"),
        (replaced, "Error: Container interface eth0 not of type dummy"),
    ];
    devices::check_names_what_is_wrong(&dummy(), &own);
}

#[test]
fn newer_gc_and_status_reach_ipam_and_look_at_the_master() {
    all().iter().for_each(devices::gc_reaches_ipam);
    let missing = ("ip link del m0", 50, "failed to lookup master \"m0\": Link not found");
    let small = ("ip link set m0 mtu 1300", 50, "invalid MTU 1400, must be [0, master MTU(1300)]");
    let down = ("ip link set m0 down", 51, "master \"m0\" is down");
    devices::status_tells(&vlan(&json!({"mtu": 1400})), &[missing, small, down]);
    devices::status_tells(&ipvlan(&json!({})), &[missing]);
    devices::status_tells(&dummy(), &[]);
    let on_loopback = json!({"cniVersion": "1.1.0", "master": "lo"});
    for device in [vlan(&on_loopback), ipvlan(&on_loopback)] {
        let lab = host();
        device.call(&lab).verb("STATUS").run().fails(50, "master \"lo\" is a loopback device");
        device.add(&lab).error();
    }
}

/// The master of an ipvlan may be down, and may be another plugin's interface.
#[test]
fn newer_status_succeeds_where_the_next_add_does() {
    let newer = json!({"cniVersion": "1.1.0"});
    let previous = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "m0"}]});
    for (device, with_add, accident) in [
        (ipvlan(&newer), json!({}), "ip link set m0 down"),
        (ipvlan(&merged(newer.clone(), &json!({"master": null}))), json!({"prevResult": previous}), "true"),
        (vlan(&newer), json!({}), "ip -n outside link set m1 down"),
        (dummy().with(&newer), json!({}), "true"),
    ] {
        let lab = host();
        lab.sh(accident).success();
        device.call(&lab).verb("STATUS").run().silent();
        device.with(&with_add).add(&lab).result();
    }
}

#[test]
fn the_reference_makes_the_same_vlan_and_both_clean_up_after_each_other() {
    devices::agrees_with_the_reference(&vlan(&json!({"mtu": 1400})));
}

#[test]
fn the_reference_makes_the_same_ipvlan_and_both_clean_up_after_each_other() {
    devices::agrees_with_the_reference(&ipvlan(&json!({"mode": "l3", "cniVersion": "0.4.0"})));
}

#[test]
fn a_vlan_is_what_is_tagged_with_its_id_on_the_master() {
    for (id, tagged) in [(5, "vlan id 5"), (4094, "vlan id 4094"), (0, "vlan id 0")] {
        let lab = host();
        vlan(&json!({"vlanId": id, "mtu": 1400})).add(&lab).result();
        let link = lab.link_in("ns1", "eth0");
        assert_eq!((&link["linkinfo"]["info_data"]["id"], &link["mtu"]), (&json!(id), &json!(1400)));
        assert_eq!(link["address"], lab.link("m0")["address"]);
        lab.ok(&format!("ip -n outside link add link m1 name tagged type {tagged}"));
        lab.ok("ip -n outside addr add 10.1.2.1/24 dev tagged");
        lab.ok("ip -n outside link set tagged up");
        reaches(&lab, "ns1", "10.1.2.1");
    }
}

#[test]
fn a_vlan_that_somebody_has_is_refused() {
    let lab = host();
    lab.ok("ip link add link m0 name taken type vlan id 5");
    let before = lab.snapshot();
    vlan(&json!({})).add(&lab).fails_with(999, &["failed to create vlan: file exists"]);
    assert_untouched(&lab, &before);
    second(vlan(&json!({"vlanId": 6})).call(&lab)).run().result();
}

/// For traffic see tests/guest/modes.rs.
#[test]
fn mode_and_mtu_of_ipvlan_reach_the_kernel() {
    for mode in ["l2", "l3", "l3s"] {
        let lab = host();
        ipvlan(&json!({"mode": mode, "mtu": 1400})).add(&lab).result();
        let link = lab.link_in("ns1", "eth0");
        let data = &link["linkinfo"]["info_data"];
        assert_eq!((&data["mode"], &link["mtu"]), (&json!(mode), &json!(1400)), "{link}");
        assert!(lab.ok("ip -n ns1 -d link show eth0").contains(&format!("ipvlan  mode {mode} bridge")), "{link}");
        assert_eq!(link["address"], lab.link("m0")["address"]);
    }
}

#[test]
fn an_ipvlan_behind_another_plugin_takes_its_interface_and_addresses() {
    let lab = host();
    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "m0"}], "ips": [{"address": "10.7.0.9/24"}],
        "routes": [{"dst": "10.8.0.0/16", "gw": "10.7.0.1"}], "dns": {"domain": "other"}});
    let chained = ipvlan(&json!({"master": null, "ipam": null, "prevResult": previous}));
    let attached = chained.attached(&lab);
    assert_eq!(lab.link_in("ns1", "eth0")["link_index"], lab.link("m0")["ifindex"]);
    assert_eq!(lab.addresses("ns1", "eth0"), ["10.7.0.9/24"]);
    assert!(lab.routes("ns1", "").contains(&"10.8.0.0/16 via 10.7.0.1 dev eth0".to_string()));
    let result = &attached.config["prevResult"];
    assert_eq!(result["ips"], json!([{"address": "10.7.0.9/24", "interface": 0}]));
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 1);
    attached.call(&lab).verb("CHECK").run().silent();
    attached.call(&lab).verb("DEL").run().silent();
    assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
}

#[test]
fn newer_the_master_may_be_in_the_container() {
    for device in [vlan(&json!({"linkInContainer": true})), ipvlan(&json!({"linkInContainer": true}))] {
        let lab = host();
        lab.ok("ip link set m0 netns ns1");
        lab.ok("ip -n ns1 link set m0 up");
        let attached = device.attached(&lab);
        assert_eq!(lab.link_in("ns1", "eth0")["link"], "m0");
        attached.call(&lab).verb("CHECK").run().silent();
        device.add(&lab).fails_with(999, &["failed to ", "file exists"]);
        attached.call(&lab).verb("DEL").run().silent();
        assert_eq!(lab.ip("-n ns1 link show").as_array().unwrap().len(), 2, "lo and m0 stay");
    }
}

/// Behind the one that it lies on there may be more: the kernel puts it on what that one lies on.
#[test]
fn an_ipvlan_on_an_ipvlan_is_as_it_should_be() {
    devices::check_knows_a_master_of_the_same_kind(&ipvlan(&json!({})), "ipvlan mode l2");
}

#[test]
fn a_vlan_on_a_vlan_lies_on_it() {
    let lab = host();
    lab.ok("ip link add link m0 name n0 type vlan id 9");
    lab.ok("ip link set n0 up");
    let attached = vlan(&json!({"master": "n0"})).attached(&lab);
    assert_eq!(lab.link_in("ns1", "eth0")["link_index"], lab.link("n0")["ifindex"]);
    attached.call(&lab).verb("CHECK").run().silent();
    // Beside it is not on it.
    lab.sh(
        "ip -n ns1 link del eth0; ip link add link m0 name eth0 netns ns1 type vlan id 5; ip -n ns1 link set eth0 up",
    )
    .success();
    let changes = json!({"prevResult": {"interfaces": [{"name": "eth0", "sandbox": "/var/run/netns/ns1"}]}});
    attached.with(&changes).call(&lab).verb("CHECK").run().fails_with(999, &["does not lie on master \"n0\""]);
}

#[test]
fn better_routes_have_all_that_they_were_given() {
    for device in all() {
        read_back::better_routes_have_all_that_they_were_given(&device, false);
    }
}

#[test]
fn newer_scope_and_queue_are_those_of_the_reference_1_9_1() {
    for device in all() {
        read_back::newer_a_route_has_the_scope_it_was_given(&device);
        read_back::newer_the_queue_has_the_kernels_length(&device);
    }
}

#[test]
fn newer_dummy_is_what_the_reference_1_9_1_makes() {
    let dns = json!({"ipam": {"dns": {"domain": "x"}}, "dns": {"domain": "not of the configuration"}});
    let configurations = [
        ("both families", dummy().with(&read_back::dual())),
        ("dns", dummy().with(&read_back::dual()).with(&dns)),
        ("old version", dummy().with(&json!({"cniVersion": "0.4.0"}))),
    ];
    read_back::is_what_1_9_1_makes(include_str!("../golden/dummy-1.9.1.json"), &configurations);
}

#[test]
fn a_dummy_holds_addresses() {
    let lab = host();
    dummy().dual().add(&lab).result();
    lab.ok("ip -n ns1 link set lo up");
    reaches(&lab, "ns1", "10.1.2.2");
    reaches(&lab, "ns1", "fd00:1:2::2");
}

#[test]
fn a_reused_address_is_reached_at_once() {
    announce::on_another_master(&vlan(&json!({})), "link add link sw0 name peer type vlan id 5");
    announce::on_another_master(&ipvlan(&json!({})), "link set sw0 down\nlink set sw0 name peer");
}
