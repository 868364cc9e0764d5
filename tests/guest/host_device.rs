//! host-device with devices that not every host has: dummies, and a network card that belongs to no other namespace.

use serde_json::{Value, json};

use crate::cross::Side::Ours;
use crate::host_device::{both_make_the_same, call, config, round_trips};
use crate::host_device_after;
use crate::lab::{Lab, merged, wait_for};

const DUMMY: [(&str, &str); 1] = [("dummy", "ip link add hd0 type dummy")];

#[test]
fn both_make_the_same_of_a_dummy() {
    both_make_the_same(&DUMMY);
}

#[test]
fn what_one_adds_the_other_checks_and_deletes() {
    round_trips(&DUMMY);
}

#[test]
fn names_of_one_namespace_do_not_matter_in_the_other() {
    host_device_after::names_of_one_namespace_do_not_matter_in_the_other();
}

#[test]
fn a_failed_add_leaves_everything_as_it_was() {
    host_device_after::better_a_failed_add_leaves_everything_as_it_was();
}

#[test]
fn a_taken_name_on_the_host_leaves_the_device_in_the_container() {
    host_device_after::better_a_taken_name_on_the_host_leaves_the_device_in_the_container();
}

/// The network card that scripts/test-vm.sh gives the guest; nobody else's is touched.
const CARD: &str = "02:c0:1b:0c:00:01";

/// The card, as a link of the guest's first namespace.
fn card(lab: &Lab) -> Value {
    // By its path: busybox has an `ip` of its own.
    let text = lab.ok("nsenter --net=/proc/1/ns/net /usr/sbin/ip -d -j link show");
    let links: Value = serde_json::from_str(&text).unwrap();
    let is_card = |link: &&Value| link["address"] == CARD || link["permaddr"] == CARD;
    links.as_array().unwrap().iter().find(is_card).cloned().unwrap_or(Value::Null)
}

/// A card is virtio's, found by its PCI address; its namespace ends and the kernel gives it to the first namespace.
#[test]
fn better_a_card_whose_namespace_ended_gets_its_name_back() {
    let lab = Lab::new();
    let name = card(&lab)["ifname"].as_str().expect("a network card, as in the guest only").to_string();
    let found = lab.ok(&format!("readlink -f /sys/class/net/{name}/device/.."));
    let id = found.trim().rsplit('/').next().unwrap();
    for (keys, how) in [
        (json!({"device": null, "pciBusID": id}), "gone"),
        (json!({"device": null, "runtimeConfig": {"deviceID": id}}), "gone"),
        (json!({"device": name}), "gone"),
        (json!({"device": null, "pciBusID": id}), "alive"),
        (json!({"device": null, "pciBusID": id}), "disguised"),
        (json!({"device": null, "pciBusID": id}), "disguised, gone"),
        (json!({"device": null, "pciBusID": id}), "disguised, moved on"),
    ] {
        lab.netns("ns1");
        let mut config = config(&keys);
        let run = |verb: &str, config: &Value| {
            call(&lab, Ours, verb, config).under(&["nsenter", "--net=/proc/1/ns/net"]).run()
        };
        config["prevResult"] = run("ADD", &config).result();
        assert_eq!(lab.link_in("ns1", "net1")["address"], CARD, "{keys}");
        run("CHECK", &config).silent();
        if how.starts_with("disguised") {
            lab.ok("ip -n ns1 link set net1 down");
            lab.ok("ip -n ns1 link set net1 name uplink alias cni0 address 02:00:00:00:00:77");
        }
        match how {
            "gone" => {
                lab.ok("ip netns del ns1");
                wait_for("the card", || card(&lab)["ifname"] == "net1");
            }
            "disguised, gone" => {
                lab.ok("ip netns del ns1");
                wait_for("the card", || card(&lab)["ifname"] == "uplink");
            }
            "disguised, moved on" => {
                lab.sh("ip netns add inner; ip -n ns1 link set uplink netns inner").success();
            }
            _ => {}
        }
        run("DEL", &merged(config, &json!({}))).silent();
        assert_eq!((&card(&lab)["ifname"], &card(&lab)["ifalias"]), (&json!(name), &Value::Null), "{keys}");
        // The card keeps the address that the container gave it.
        lab.ok(&format!("nsenter --net=/proc/1/ns/net /usr/sbin/ip link set {name} address {CARD}"));
        lab.run(&["ip", "netns", "del", "ns1"]);
        lab.run(&["ip", "netns", "del", "inner"]);
    }
}
