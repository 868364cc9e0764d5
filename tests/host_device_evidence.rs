//! host-device: DEL brings home the device that ADD has moved, whatever the container's root has made of it, and nothing else
//! gets onto the host or chooses a name there.

use serde_json::{Value, json};

use crate::cross::Side::{Ours, Theirs};
use crate::host_device::{KINDS, MAC, call, config, lab, lab_with, lab_with_sysfs, run};
use crate::lab::{Lab, merged};

/// Runs commands as the container's root, in `ns1`.
fn inside(lab: &Lab, script: &str) {
    lab.sh(&format!("ip netns exec ns1 sh -ec '{script}'")).success();
}

/// The host's `hd0` is the veth end that was made with `peer0`.
fn is_home(lab: &Lab, what: &str) {
    let (device, peer) = (lab.link("hd0"), lab.link("peer0"));
    assert_eq!((&device["link"], &device["ifalias"]), (&json!("peer0"), &Value::Null), "{what}: {device}");
    assert_eq!(peer["link"], "hd0", "{what}");
}

/// A pair of the container's, one end of which looks like the device that ADD has moved. The device has another name, or is in
/// a namespace of the container's.
#[test]
fn better_no_link_of_the_containers_own_gets_onto_the_host() {
    let rename = "ip link set net1 down; ip link set net1 name kept";
    let fake = "ip link add net1 type veth peer name tap0; ip link set net1 alias hd0";
    let same_mac = format!("ip link set net1 address {MAC}");
    for (script, moved) in [
        (format!("{rename}; {fake}"), false),
        (format!("{rename}; ip link set kept address 02:00:00:00:00:11; {fake}; {same_mac}"), false),
        (format!("{rename}; {fake}; ip link set kept alias x; ip link set tap0 netns ns2; {same_mac}"), false),
        (format!("ip link set net1 netns ns2; {fake}; {same_mac}"), true),
        (
            format!(
                "INDEX=$(ip -o link show net1 | cut -d: -f1)
                 ip link set net1 netns ns2; ip link add net1 index $INDEX type veth peer name tap0 index 77
                 ip link set net1 alias hd0; ip link set tap0 netns ns2; {same_mac}"
            ),
            true,
        ),
    ] {
        let lab = lab();
        lab.netns("ns2");
        let config = config(&json!({}));
        run(&lab, Ours, "ADD", &config).result();
        inside(&lab, &script);
        run(&lab, Ours, "DEL", &config).silent();
        is_home(&lab, &script);
        assert!(lab.ok("ip -n ns1 -br link").contains("net1"), "{script}: the container keeps its own");
        if moved {
            assert!(!lab.ok("ip -n ns2 -br link").contains(MAC), "{script}");
        }
    }
}

/// The device itself is gone, and a link of the same kind, name, index, alias and hardware address is in its place.
#[test]
fn better_a_device_that_was_deleted_is_not_replaced_by_one_of_the_containers() {
    for peer in ["ns1", "ns2"] {
        let lab = lab();
        lab.netns("ns2");
        let config = config(&json!({}));
        run(&lab, Ours, "ADD", &config).result();
        let fake = "ip link add net1 index $INDEX type veth peer name tap0 index 77; ip link set net1 alias hd0";
        inside(&lab, &format!("INDEX=$(ip -o link show net1 | cut -d: -f1); ip link del net1; {fake} address {MAC}"));
        lab.run(&["ip", "-n", "ns1", "link", "set", "tap0", "netns", peer]);
        run(&lab, Ours, "DEL", &config).silent();
        assert_eq!(lab.link("hd0"), Value::Null, "{peer}");
        assert_eq!(lab.link_in("ns1", "net1")["address"], MAC, "{peer}");
    }
}

#[test]
fn better_the_name_on_the_host_is_that_of_the_record_whatever_key_finds_the_device() {
    let lab = lab_with_sysfs();
    lab.ok("ip link property add dev hd0 altname a-name-of-more-than-fifteen-letters");
    let id = |id: &str| json!({"device": null, "runtimeConfig": {"deviceID": id}});
    for changes in [
        json!({}),
        json!({"device": "a-name-of-more-than-fifteen-letters"}),
        json!({"device": null, "hwaddr": MAC}),
        json!({"device": null, "kernelpath": "/sys/devices/pci0000:00/one"}),
        json!({"device": null, "pciBusID": "0000:00:02.0"}),
        id("0000:00:01.0"),
        id("mlx5_core.sf.1"),
    ] {
        for alias in ["cni0", "lo", "../x", ""] {
            for rename in ["", "ip link set net1 down; ip link set net1 name uplink address 02:00:00:00:00:12"] {
                let config = config(&changes);
                run(&lab, Ours, "ADD", &config).result();
                inside(&lab, &format!("ip link set net1 alias \"{alias}\"; {rename}"));
                run(&lab, Ours, "DEL", &config).silent();
                is_home(&lab, &format!("{changes} {alias} {rename}"));
                lab.ok(&format!("ip link set hd0 address {MAC}"));
            }
        }
    }
}

/// The container's root makes each of two devices look like the other one.
#[test]
fn better_two_devices_that_were_exchanged_get_their_own_names_back() {
    let other = "02:00:00:00:00:88";
    let lab = lab();
    lab.sh(&format!("ip link add hd1 type veth peer name peer1; ip link set hd1 address {other}")).success();
    let second = config(&json!({"device": "hd1"}));
    run(&lab, Ours, "ADD", &config(&json!({}))).result();
    call(&lab, Ours, "ADD", &second).ifname("net2").run().result();
    let swap = format!(
        "ip link set net1 down; ip link set net2 down; ip link set net1 name x; ip link set net2 name net1
         ip link set x name net2; ip link set net2 address {other} alias hd1; ip link set net1 address {MAC} alias hd0"
    );
    inside(&lab, &swap);
    run(&lab, Ours, "DEL", &config(&json!({}))).silent();
    is_home(&lab, "first");
    assert_eq!(lab.link("hd1"), Value::Null);
    call(&lab, Ours, "DEL", &second).ifname("net2").run().silent();
    assert_eq!(lab.link("hd1")["link"], "peer1");
}

/// A builder, or a container that is a host itself, has handed the device on.
#[test]
fn better_a_device_comes_home_from_a_namespace_of_the_containers() {
    let ipam = json!({"ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}});
    for (kind, make) in KINDS {
        let lab = lab_with(make);
        let before = lab.snapshot();
        let config = config(&ipam);
        run(&lab, Ours, "ADD", &config).result();
        lab.sh("ip netns add inner; ip -n ns1 link set net1 netns inner; ip -n inner link set net1 name moved")
            .success();
        run(&lab, Ours, "DEL", &config).silent();
        // Nothing tells a tap from one that the container has made.
        let (moved, left) = (lab.ok("ip -n inner -br link").contains("moved"), lab.reserved("net"));
        assert_eq!((moved, left.is_empty()), (kind == "tap", kind != "tap"), "{kind}");
        if moved {
            lab.sh("ip -n inner link set moved netns ns1").success();
            run(&lab, Ours, "DEL", &config).silent();
        }
        lab.ok("ip netns del inner");
        before.assert_same(&lab.snapshot());
        assert_eq!((lab.reserved("net"), lab.list("/run/cni-box/interfaces")), (vec![], vec![]), "{kind}");
    }
}

/// The device has been given to another container since, which has moved it on.
#[test]
fn better_a_late_del_takes_the_device_from_no_other_container() {
    let lab = lab();
    let config = config(&json!({}));
    run(&lab, Ours, "ADD", &config).result();
    lab.sh(&format!("ip -n ns1 link set net1 down; ip -n ns1 link set net1 name hd0 netns {}", lab.pid())).success();
    lab.sh("ip netns add ns2; ip netns add inner").success();
    let second = |verb: &str| call(&lab, Ours, verb, &config).container("second").netns("/run/netns/ns2").run();
    second("ADD").result();
    for place in ["ns2", "inner"] {
        run(&lab, Ours, "DEL", &config).silent();
        assert_eq!(lab.link_in(place, "net1")["address"], MAC, "{place}");
        if place == "ns2" {
            lab.ok("ip -n ns2 link set net1 netns inner");
        }
    }
    second("DEL").silent();
    is_home(&lab, "second");
}

/// An attachment of the Go plugin has no record. The configuration says the name; without one the device gets a name as from
/// the kernel, when the namespace ends. The alias, which names it for the Go plugin, is the container's by then.
#[test]
fn better_without_a_record_the_name_on_the_host_is_that_of_the_configuration() {
    let by_address = json!({"device": null, "hwaddr": MAC});
    for (changes, taken, name) in [
        (json!({}), "", "hd0"),
        (json!({"device": "an-alternative-name-of-the-device"}), "", "net1"),
        (json!({"device": "other0"}), "", "net1"),
        (by_address.clone(), "", "net1"),
        (by_address, "ip link add net1 type bridge", "dev"),
    ] {
        for (alias, with_result) in [("cni0", true), ("", false)] {
            let lab = lab();
            let names = "ip link property add dev hd0 altname other0; ip link property add dev hd0 altname an-alternative-name-of-the-device";
            lab.sh(names).success();
            // 1.1.1 finds no device by such names.
            let by_name = changes["device"].as_str().map_or(changes.clone(), |_| json!({}));
            let result = run(&lab, Theirs, "ADD", &config(&by_name)).result();
            inside(&lab, &format!("ip link set net1 alias \"{alias}\""));
            lab.sh(taken).success();
            let result = if with_result { result } else { Value::Null };
            let config = config(&merged(changes.clone(), &json!({"prevResult": result})));
            run(&lab, Ours, "DEL", &config).silent();
            let home = lab.link("peer0")["link"].as_str().unwrap_or_default().to_string();
            assert!(home.starts_with(name), "{changes} {alias}: {home}");
            assert_eq!(lab.link("cni0"), Value::Null);
        }
    }
}

/// Without a record a link with the right name is the device only if its alias or hardware address fits.
#[test]
fn a_second_del_takes_no_link_of_another_program() {
    for (home, with_result, is_done) in [(true, false, true), (true, true, true), (false, true, false)] {
        let lab = lab();
        let result = run(&lab, Ours, "ADD", &config(&json!({}))).result();
        let config = config(&json!({"prevResult": Some(result).filter(|_| with_result)}));
        run(&lab, Ours, "DEL", &config).silent();
        if !home {
            lab.ok("ip link del hd0");
        }
        inside(&lab, "ip link add net1 type veth peer name other");
        let again = run(&lab, Ours, "DEL", &config);
        if is_done {
            again.silent();
        } else {
            again.fails(999, "failed to find original ifname for \"net1\" (alias is not set)");
        }
        assert!(lab.ok("ip -n ns1 -br link").contains("net1@other"), "{home} {with_result}");
    }
}

/// Without a record nothing tells that the link of another name is the device. It must not get lost, nor its address.
#[test]
fn a_renamed_device_without_a_record_is_not_lost_in_a_success() {
    for (side, with_result) in [(Ours, true), (Theirs, true), (Theirs, false)] {
        let lab = lab();
        let ipam = json!({"ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}});
        let result = run(&lab, side, "ADD", &config(&ipam)).result();
        let config = config(&merged(ipam, &json!({"prevResult": Some(result).filter(|_| with_result)})));
        lab.ok("rm -rf /run/cni-box/interfaces");
        inside(&lab, "ip link set net1 down; ip link set net1 name uplink");
        run(&lab, Ours, "DEL", &config).fails(999, "failed to find \"net1\" in containerNS");
        assert_eq!(lab.reserved("net").len(), 1, "{side:?} {with_result}");
        inside(&lab, "ip link set uplink name net1");
        run(&lab, Ours, "DEL", &config).silent();
        is_home(&lab, &format!("{side:?} {with_result}"));
        run(&lab, Ours, "DEL", &config).silent();
        assert_eq!(lab.reserved("net"), [""; 0], "{side:?} {with_result}");
    }
}

/// A killed ADD, too, has written which device it moved.
#[test]
fn better_an_add_killed_while_it_asks_for_an_address_has_a_record() {
    let lab = lab();
    lab.executable("/run/lab/plugins/slow", "#!/bin/sh\nkill -9 $PPID\n");
    let folders = format!("/run/lab/plugins:{}", crate::lab::PLUGINS);
    let config = config(&json!({"device": null, "hwaddr": MAC, "ipam": {"type": "slow"}}));
    let add = call(&lab, Ours, "ADD", &config).env("CNI_PATH", &folders).run();
    assert_ne!(add.code, Some(0));
    assert_eq!(lab.link_in("ns1", "net1")["address"], MAC);
    inside(&lab, "ip link set net1 alias cni0");
    let config = merged(config, &json!({"ipam": null}));
    run(&lab, Ours, "DEL", &config).silent();
    is_home(&lab, "killed");
}
