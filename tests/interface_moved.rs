//! A container hands its interface on to another namespace, and its own namespace ends without a DEL. The interface works on
//! with its address, which must not be given to another container.

use serde_json::{Value, json};

use crate::gc_command::all_in_sight;
use crate::gc_safety::keeps;
use crate::lab::{Lab, bridge_config, host_local_config, merged};

/// A plugin, and a configuration with room for one container.
fn configurations() -> Vec<(&'static str, Value)> {
    let v4 = json!({"type": "host-local", "subnet": "10.70.0.0/30"});
    let v6 = json!({"type": "host-local", "ranges": [[{"subnet": "fd00:70::/126", "rangeEnd": "fd00:70::2"}]]});
    let with = |kind: &str, ipam: &Value| json!({"cniVersion": "1.1.0", "name": "net", "type": kind, "ipam": ipam});
    let gateway = json!({"ipam": null, "isGateway": true, "cniVersion": "1.1.0"});
    vec![
        ("bridge", merged(bridge_config(&gateway), &json!({"ipam": v4}))),
        ("bridge", merged(bridge_config(&gateway), &json!({"ipam": v6}))),
        ("ptp", with("ptp", &v4)),
        ("ptp", with("ptp", &v6)),
        ("macvlan", merged(with("macvlan", &v4), &json!({"master": "up0"}))),
        ("tap", with("tap", &v6)),
    ]
}

/// A host whose only address is with a container that has moved its interface to the namespace `inner`.
fn with_moved_interface(plugin: &str, config: &Value) -> Lab {
    let lab = Lab::new();
    if !["bridge", "ptp"].contains(&plugin) {
        // An interface without a host's end is looked for in the namespaces of all processes.
        all_in_sight(&lab);
    }
    lab.sh("ip link add up0 type veth peer name up1; ip link set up0 up; ip netns add outer; ip netns add inner")
        .success();
    add(&lab, plugin, config, "first", "outer").result();
    lab.sh("ip -n outer link set eth0 netns inner; ip -n inner link set eth0 name moved; ip netns del outer").success();
    lab
}

fn add(lab: &Lab, plugin: &str, config: &Value, container: &str, netns: &str) -> crate::lab::Outcome {
    lab.plugin(plugin).config(config).container(container).netns(&format!("/run/netns/{netns}")).run()
}

fn is_full(outcome: crate::lab::Outcome, what: &str) {
    let (code, text, _) = outcome.error();
    assert!(code == 999 && text.contains("no IP addresses available in range set"), "{what}: {text}");
}

#[test]
fn better_an_address_is_kept_while_its_interface_lives_in_another_namespace() {
    for (plugin, config) in configurations() {
        let what = format!("{plugin} {}", config["ipam"]);
        let lab = with_moved_interface(plugin, &config);
        let reserved = lab.reserved("net");
        lab.netns("b");
        is_full(add(&lab, plugin, &config, "b", "b"), &what);
        assert_eq!(lab.reserved("net"), reserved, "{what}");
        lab.ok("ip -n inner link del moved");
        add(&lab, plugin, &config, "b", "b").result();
        assert_eq!(lab.reserved("net"), reserved, "{what}: the interface is gone");
    }
}

#[test]
fn better_status_gc_and_a_requested_address_know_the_interface_that_moved_on() {
    let (plugin, config) = configurations().swap_remove(0);
    let lab = with_moved_interface(plugin, &config);
    let reserved = lab.reserved("net");
    let ipam = merged(host_local_config(&config["ipam"]), &json!({"cniVersion": "1.1.0"}));
    lab.plugin("host-local").verb("STATUS").config(&ipam).run().fails_with(50, &["no IP addresses available"]);
    lab.plugin("host-local").verb("GC").config(&ipam).run().silent();
    assert_eq!(lab.reserved("net"), reserved);
    lab.netns("b");
    let wanted =
        lab.plugin(plugin).config(&config).container("b").netns("/run/netns/b").args("IgnoreUnknown=1;IP=10.70.0.2");
    wanted.run().fails_with(999, &["requested IP address 10.70.0.2 is not available"]);
    keeps(&lab, &[], "no record proves that its interface is gone (addresses: 10.70.0.2)");
    assert_eq!(lab.reserved("net"), reserved);
    lab.ok("ip -n inner link del moved");
    assert_eq!(wanted.run().result()["ips"][0]["address"], "10.70.0.2/30");
}

/// The container comes back under its id while the interface that it had works on elsewhere.
#[test]
fn a_restarted_container_does_not_get_the_address_that_its_first_interface_has() {
    let (plugin, config) = configurations().swap_remove(0);
    let lab = with_moved_interface(plugin, &config);
    lab.netns("outer");
    let again = || add(&lab, plugin, &config, "first", "outer");
    again().fails_with(999, &["10.70.0.2 has been allocated to first, duplicate allocation is not allowed"]);
    lab.ok("ip -n inner link del moved");
    again().result();
}

#[test]
fn a_renamed_hosts_end_still_shows_the_interface() {
    let (plugin, config) = configurations().swap_remove(0);
    let lab = with_moved_interface(plugin, &config);
    let veth = lab.veths().into_iter().find(|name| name.starts_with("veth")).unwrap();
    lab.sh(&format!("ip link set {veth} down; ip link set {veth} name other; ip link set other up; ip netns add b"))
        .success();
    is_full(add(&lab, plugin, &config, "b", "b"), "renamed");
}

#[test]
fn the_record_of_the_interface_goes_with_del_gc_and_a_failed_add() {
    let (plugin, config) = configurations().swap_remove(0);
    let lab = Lab::new();
    let records = || lab.list("/run/cni-box/interfaces");
    for netns in ["a", "b"] {
        lab.netns(netns);
    }
    add(&lab, plugin, &config, "a", "a").result();
    assert_eq!(records().len(), 1);
    is_full(add(&lab, plugin, &config, "b", "b"), "second");
    assert_eq!(records().len(), 1, "the failed ADD took its record back");
    lab.plugin(plugin).verb("DEL").config(&config).container("a").netns("/run/netns/a").run().silent();
    assert_eq!(records(), [""; 0]);
    add(&lab, plugin, &config, "b", "b").result();
    let valid = |ids: Value| merged(config.clone(), &json!({"cni.dev/valid-attachments": ids}));
    let gc = |ids: Value| lab.plugin(plugin).verb("GC").config(&valid(ids)).run().silent();
    gc(json!([{"containerID": "b", "ifname": "eth0"}]));
    assert_eq!(records().len(), 1);
    gc(json!([]));
    assert_eq!(records(), [""; 0]);
}

/// Neither a directory that cannot be made nor a file that cannot be understood stops an ADD or a DEL.
#[test]
fn without_a_place_for_records_everything_works_as_before() {
    let (plugin, config) = configurations().swap_remove(0);
    for obstacle in
        ["touch /run/cni-box", "mkdir -p /run/cni-box/interfaces; mount -t tmpfs -o ro none /run/cni-box/interfaces"]
    {
        let lab = Lab::new();
        lab.sh(&format!("{obstacle}; ip netns add a")).success();
        add(&lab, plugin, &config, "a", "a").result();
        lab.plugin(plugin).verb("DEL").config(&config).container("a").netns("/run/netns/a").run().silent();
        assert_eq!(lab.reserved("net"), [""; 0], "{obstacle}");
    }
}

/// DEL with the result of ADD, or without.
fn del(lab: &Lab, plugin: &str, config: &Value, (container, netns): (&str, &str), result: Option<&Value>) {
    let config = merged(config.clone(), &json!({"prevResult": result}));
    lab.plugin(plugin)
        .verb("DEL")
        .config(&config)
        .container(container)
        .netns(&format!("/run/netns/{netns}"))
        .run()
        .silent();
}

/// The container has given its interface another name, and may have put another one in its place.
#[test]
fn better_del_ends_a_renamed_interface_and_leaves_the_one_in_its_place() {
    for (plugin, config) in configurations() {
        for (decoy, with_result) in [("", true), ("ip link add eth0 type bridge", false)] {
            let what = format!("{plugin} {} {decoy}", config["ipam"]);
            let lab = Lab::new();
            lab.sh("ip link add up0 type veth peer name up1; ip link set up0 up; ip netns add a; ip netns add b")
                .success();
            let result = add(&lab, plugin, &config, "a", "a").result();
            let rename = format!("ip link set eth0 down; ip link set eth0 name lan; ip link set lan up; {decoy}");
            lab.sh(&format!("ip netns exec a sh -ec '{rename}'")).success();
            del(&lab, plugin, &config, ("a", "a"), Some(&result).filter(|_| with_result));
            let left = lab.ok("ip -n a -br link");
            assert!(!left.contains("lan"), "{what}: {left}");
            assert_eq!(left.contains("eth0"), !decoy.is_empty(), "{what}: {left}");
            assert_eq!(lab.reserved("net"), [""; 0], "{what}");
            del(&lab, plugin, &config, ("a", "a"), None);
            add(&lab, plugin, &config, "b", "b").result();
        }
    }
}

/// The path of a dead container's namespace leads to a living one by now.
#[test]
fn better_a_late_del_leaves_the_container_alone_that_is_at_the_path_now() {
    for (plugin, config) in configurations() {
        let config = merged(config, &json!({"ipam": {"type": "host-local", "subnet": "10.71.0.0/24", "ranges": null}}));
        for with_result in [true, false] {
            let lab = Lab::new();
            lab.sh("ip link add up0 type veth peer name up1; ip link set up0 up; ip netns add slot").success();
            let dead = add(&lab, plugin, &config, "dead", "slot").result();
            lab.sh("ip netns del slot; ip netns add slot").success();
            let alive = add(&lab, plugin, &config, "alive", "slot").result();
            del(&lab, plugin, &config, ("dead", "slot"), Some(&dead).filter(|_| with_result));
            let address = alive["ips"][0]["address"].as_str().unwrap();
            assert!(lab.addresses("slot", "eth0").contains(&address.to_string()), "{plugin}");
            assert_eq!(lab.reserved("net"), [address.split('/').next().unwrap()], "{plugin}");
            del(&lab, plugin, &config, ("alive", "slot"), Some(&alive).filter(|_| with_result));
            assert!(!lab.ok("ip -n slot -br link").contains("eth0"), "{plugin}");
            assert_eq!((lab.reserved("net"), lab.list("/run/cni-box/interfaces")), (vec![], vec![]), "{plugin}");
        }
    }
}

/// A host with room for every plugin's attachments, and their configurations in one subnet: for two containers.
fn with_room_for_two() -> (Lab, Vec<(&'static str, [Value; 2])>) {
    let lab = Lab::new();
    lab.sh("ip link add up0 type veth peer name up1; ip link set up0 up; ip link add nic1 type veth peer name p1")
        .success();
    lab.sh("ip link add nic2 type veth peer name p2; ip netns add slot").success();
    let ipam = json!({"cniVersion": "1.0.0", "ipam": {"type": "host-local", "subnet": "10.71.0.0/24", "ranges": null}});
    let twice = |config: Value| [(); 2].map(|()| merged(config.clone(), &ipam));
    let mut all: Vec<_> = configurations().into_iter().map(|(plugin, config)| (plugin, twice(config))).collect();
    let card = |device: &str| json!({"name": "net", "type": "host-device", "device": device});
    all.push(("host-device", ["nic1", "nic2"].map(|device| merged(card(device), &ipam))));
    (lab, all)
}

/// The interface of the container that is at the path now was made by another program, which writes no record.
#[test]
fn better_a_late_del_leaves_the_interface_of_another_program_alone() {
    for number in 0..with_room_for_two().1.len() {
        let (lab, mut all) = with_room_for_two();
        let (plugin, [config, _]) = all.swap_remove(number);
        let dead = add(&lab, plugin, &config, "dead", "slot").result();
        lab.sh("ip netns del slot; ip netns add slot; ip -n slot link add eth0 type veth peer name other").success();
        del(&lab, plugin, &config, ("dead", "slot"), Some(&dead));
        assert!(lab.ok("ip -n slot -br link").contains("eth0@other"), "{plugin}");
        assert_eq!((lab.reserved("net"), lab.list("/run/cni-box/interfaces")), (vec![], vec![]), "{plugin}");
    }
}

/// DEL of an attachment without a record, because it was ended before or the Go plugin has made it, and a container at its path
/// whose attachment has one.
#[test]
fn better_a_del_without_a_record_leaves_the_interface_that_has_one() {
    let cases = [(true, true), (true, false), (false, true), (false, false)];
    for (number, (is_ended, with_result)) in
        (0..with_room_for_two().1.len()).flat_map(|one| cases.map(|case| (one, case)))
    {
        let (lab, mut all) = with_room_for_two();
        let (plugin, [first, second]) = all.swap_remove(number);
        let what = format!("{plugin}, ended: {is_ended}, with its result: {with_result}");
        let dead = add(&lab, plugin, &first, "dead", "slot").result();
        let dead = Some(&dead).filter(|_| with_result);
        if is_ended {
            del(&lab, plugin, &first, ("dead", "slot"), dead);
        } else {
            lab.ok("rm -r /run/cni-box/interfaces");
        }
        lab.sh("ip netns del slot; ip netns add slot").success();
        let alive = add(&lab, plugin, &second, "alive", "slot").result();
        // As `tuning` does.
        lab.sh("ip -n slot link set eth0 address 02:00:00:00:00:07").success();
        del(&lab, plugin, &first, ("dead", "slot"), dead);
        let address = alive["ips"][0]["address"].as_str().unwrap();
        assert!(lab.addresses("slot", "eth0").contains(&address.to_string()), "{what}");
        del(&lab, plugin, &second, ("alive", "slot"), Some(&alive));
        assert!(!lab.ok("ip -n slot -br link").contains("eth0"), "{what}");
        assert_eq!((lab.reserved("net"), lab.list("/run/cni-box/interfaces")), (vec![], vec![]), "{what}");
    }
}

/// Attachments of the Go plugins have no record: prevResult's host end tells, and without one DEL acts as theirs.
#[test]
fn better_a_late_del_of_an_attachment_of_the_go_plugin_goes_by_its_hosts_end() {
    for plugin in ["bridge", "ptp"] {
        let config = json!({"cniVersion": "1.0.0", "name": "net", "type": plugin, "bridge": "cni7",
            "ipam": {"type": "host-local", "subnet": "10.71.0.0/24"}});
        let lab = Lab::new();
        goes_by_the_hosts_end(&lab, plugin, &config, &|container| {
            let call = lab.reference(plugin).config(&config).container(container).netns("/run/netns/slot");
            call.run().result()
        });
    }
}

/// udev may give the host's end another name or hardware address, and `tuning` may write an address in capitals. Where nothing is
/// left that tells of the interface but its address, that stays reserved.
#[test]
fn a_changed_pair_of_the_go_plugin_is_ended_or_keeps_its_address() {
    let changes = ["address 02:00:00:00:00:77", "name lan7", "name lan7 address 02:00:00:00:00:77"];
    for (plugin, (number, change)) in
        ["bridge", "ptp"].into_iter().flat_map(|plugin| changes.iter().enumerate().map(move |change| (plugin, change)))
    {
        let what = format!("{plugin} {change}");
        let config = json!({"cniVersion": "1.0.0", "name": "net", "type": plugin, "bridge": "cni7",
            "ipam": {"type": "host-local", "subnet": "10.71.0.0/24"}});
        let tuning = json!({"cniVersion": "1.0.0", "name": "net", "type": "tuning", "mac": "C2:11:22:33:44:5A"});
        let lab = Lab::new();
        lab.netns("slot");
        let call = |ours: bool, kind: &str, verb: &str, config: &Value| {
            let call = if ours { lab.plugin(kind) } else { lab.reference(kind) };
            call.verb(verb).config(config).netns("/run/netns/slot").run()
        };
        let made = call(false, plugin, "ADD", &config).result();
        let mac = lab.link_in("slot", "eth0")["address"].clone();
        let tuned = call(true, "tuning", "ADD", &merged(tuning.clone(), &json!({"prevResult": made}))).result();
        let veth = lab.veths().into_iter().find(|name| name.starts_with("veth")).unwrap();
        lab.sh(&format!("ip link set {veth} down; ip link set {veth} {change}")).success();
        let tuning = merged(tuning, &json!({"prevResult": tuned}));
        call(true, "tuning", "CHECK", &tuning).silent();
        let is_left = number == 2;
        if is_left {
            lab.ok("ip -n slot link set eth0 address 02:00:00:00:00:99");
        } else {
            call(true, "tuning", "DEL", &tuning).silent();
            assert_eq!(lab.link_in("slot", "eth0")["address"], mac, "{what}");
        }
        call(true, plugin, "DEL", &merged(config, &json!({"prevResult": tuned}))).silent();
        let left = (lab.ok("ip -n slot -br link").contains("eth0"), lab.reserved("net").len() == 1);
        assert_eq!(left, (is_left, is_left), "{what}");
    }
}

/// `attach` makes an attachment without a record in the namespace `slot`.
pub fn goes_by_the_hosts_end(lab: &Lab, plugin: &str, config: &Value, attach: &dyn Fn(&str) -> Value) {
    let links = || lab.ok("ip -n slot -br link");
    lab.netns("slot");
    let dead = attach("dead");
    lab.sh("ip netns del slot; ip netns add slot").success();
    let alive = attach("alive");
    del(lab, plugin, config, ("dead", "slot"), Some(&dead));
    assert!(links().contains("eth0"), "{plugin}");
    // As KubeVirt's binding for virtual machines does.
    let mac = lab.link_in("slot", "eth0")["address"].as_str().unwrap().to_string();
    let bind = format!(
        "ip link set eth0 down; ip link set eth0 name lan address 02:00:00:00:00:07
         ip link add eth0 type bridge; ip link set eth0 address {mac}"
    );
    lab.sh(&format!("ip netns exec slot sh -ec '{bind}'")).success();
    del(lab, plugin, config, ("alive", "slot"), Some(&alive));
    assert!(!links().contains("lan") && links().contains("eth0"), "{plugin}: {}", links());
    assert_eq!(lab.reserved("net"), [""; 0], "{plugin}");
    lab.ok("ip -n slot link del eth0");
    attach("third");
    del(lab, plugin, config, ("third", "slot"), None);
    assert!(!links().contains("eth0"), "{plugin}: no evidence");
    assert_eq!(lab.reserved("net"), [""; 0], "{plugin}");
}

/// KubeVirt's binding: the interface has another name and hardware address, and a link of any kind has those that it had.
#[test]
fn better_del_ends_the_interface_that_a_virtual_machine_is_bound_to() {
    for (plugin, config) in configurations() {
        for decoy in ["bridge", "veth", "macvlan link lan"] {
            let lab = Lab::new();
            lab.sh("ip link add up0 type veth peer name up1; ip link set up0 up; ip netns add a").success();
            let result = add(&lab, plugin, &config, "a", "a").result();
            let mac = lab.link_in("a", "eth0")["address"].as_str().unwrap().to_string();
            let (kind, link) = decoy.split_once(' ').unwrap_or((decoy, ""));
            let bind = format!(
                "ip link set eth0 down; ip link set eth0 name lan address 02:00:00:00:00:07
                 ip link add {link} name eth0 type {kind}; ip link set eth0 address {mac}"
            );
            lab.sh(&format!("ip netns exec a sh -ec '{bind}'")).success();
            del(&lab, plugin, &config, ("a", "a"), Some(&result));
            let left = lab.ok("ip -n a -br link");
            // A macvlan goes with the device that it lies on.
            let stays = kind != "macvlan" || plugin == "macvlan";
            assert_eq!((left.contains("lan"), left.contains("eth0")), (false, stays), "{plugin} {decoy}: {left}");
            assert_eq!(lab.reserved("net"), [""; 0], "{plugin} {decoy}");
        }
    }
}

/// The container has moved its end on, and put a pair in its place that has the same numbers.
#[test]
fn better_del_ends_the_pair_and_not_one_that_looks_like_it() {
    for plugin in ["bridge", "ptp"] {
        let (_, config) = configurations().into_iter().find(|(name, _)| *name == plugin).unwrap();
        let lab = Lab::new();
        lab.sh("ip link add up0 type veth peer name up1; ip netns add a; ip netns add inner").success();
        let result = add(&lab, plugin, &config, "a", "a").result();
        let eth0 = lab.link_in("a", "eth0");
        let (own, peer) = (eth0["ifindex"].clone(), eth0["link_index"].clone());
        lab.ok("ip -n a link set eth0 netns inner");
        lab.ok(&format!("ip -n a link add eth0 index {own} type veth peer name x index {peer}"));
        del(&lab, plugin, &config, ("a", "a"), Some(&result));
        assert!(!lab.ok("ip -n inner -br link").contains("eth0"), "{plugin}");
        assert!(lab.ok("ip -n a -br link").contains("eth0"), "{plugin}");
        assert_eq!(lab.reserved("net"), [""; 0], "{plugin}");
    }
}

/// A DEL that finds the interface in no place of its own, while it works on elsewhere.
#[test]
fn better_del_gives_no_address_back_while_the_interface_is_in_another_namespace() {
    for (plugin, config) in configurations() {
        let lab = with_moved_interface(plugin, &config);
        let reserved = lab.reserved("net");
        del(&lab, plugin, &config, ("first", "outer"), None);
        let blind = lab.plugin(plugin).verb("DEL").config(&config).container("first").without("CNI_NETNS");
        blind.run().silent();
        let lives = lab.ok("ip -n inner -br link").contains("moved");
        assert_eq!(lives, !["bridge", "ptp"].contains(&plugin), "{plugin}: the host's end takes the other one with it");
        assert_eq!(lab.reserved("net"), if lives { reserved } else { Vec::new() }, "{plugin}");
        if lives {
            lab.ok("ip -n inner link del moved");
            del(&lab, plugin, &config, ("first", "outer"), None);
        }
        assert_eq!((lab.reserved("net"), lab.list("/run/cni-box/interfaces")), (vec![], vec![]), "{plugin}");
    }
}

/// A card of the host: the late DEL of the dead container, and a card that was renamed in the container.
#[test]
fn better_host_device_brings_home_the_card_that_it_moved_and_no_other() {
    let conf = |device: &str| json!({"cniVersion": "1.0.0", "name": "hd", "type": "host-device", "device": device});
    let lab = Lab::new();
    lab.sh("ip link add nic1 type veth peer name p1; ip link add nic2 type veth peer name p2; ip netns add slot")
        .success();
    let dead = add(&lab, "host-device", &conf("nic1"), "dead", "slot").result();
    lab.sh("ip -n slot link del eth0; ip netns del slot; ip netns add slot").success();
    let alive = add(&lab, "host-device", &conf("nic2"), "alive", "slot").result();
    del(&lab, "host-device", &conf("nic1"), ("dead", "slot"), Some(&dead));
    assert_eq!(lab.link_in("slot", "eth0")["ifalias"], "nic2");
    lab.sh("ip -n slot link set eth0 down; ip -n slot link set eth0 name uplink").success();
    del(&lab, "host-device", &conf("nic2"), ("alive", "slot"), Some(&alive));
    assert_eq!(lab.link("nic2")["ifname"], "nic2");
}

#[test]
fn better_a_late_del_of_sbr_leaves_the_routes_of_the_container_that_is_at_the_path_now() {
    let config = bridge_config(&json!({"isDefaultGateway": true, "cniVersion": "1.0.0"}));
    let sbr = |result: &Value| json!({"cniVersion": "1.0.0", "name": "net", "type": "sbr", "prevResult": result});
    let lab = Lab::new();
    let mut results = Vec::new();
    for container in ["dead", "alive"] {
        lab.sh("ip netns del slot 2>/dev/null || true; ip netns add slot").success();
        let result = add(&lab, "bridge", &config, container, "slot").result();
        add(&lab, "sbr", &sbr(&result), container, "slot").result();
        results.push(result);
    }
    let rules = || lab.ok("ip -n slot rule");
    let before = rules();
    assert!(before.contains("lookup 100"), "{before}");
    let end = |container: &str, result: &Value| {
        lab.plugin("sbr").verb("DEL").config(&sbr(result)).container(container).netns("/run/netns/slot").run().silent()
    };
    end("dead", &results[0]);
    assert_eq!(rules(), before);
    end("alive", &results[1]);
    assert!(!rules().contains("lookup 100"));
}

/// Ours has made an attachment, the Go plugin has ended it and made it again in a new namespace: the record of the first one
/// is left, and says nothing about the second.
#[test]
fn a_record_that_the_go_plugin_has_made_untrue_keeps_no_interface() {
    let config = bridge_config(&json!({"cniVersion": "1.0.0"}));
    for with_result in [true, false] {
        let lab = Lab::new();
        lab.netns("slot");
        let reference = |verb: &str, config: &Value| {
            lab.reference("bridge").verb(verb).config(config).container("c").netns("/run/netns/slot").run()
        };
        let first = add(&lab, "bridge", &config, "c", "slot").result();
        reference("DEL", &merged(config.clone(), &json!({"prevResult": first}))).silent();
        assert_eq!(lab.list("/run/cni-box/interfaces").len(), 1);
        lab.sh("ip netns del slot; ip netns add slot").success();
        let second = reference("ADD", &config).result();
        del(&lab, "bridge", &config, ("c", "slot"), Some(&second).filter(|_| with_result));
        assert!(!lab.ok("ip -n slot -br link").contains("eth0"));
        assert_eq!((lab.reserved("net"), lab.list("/run/cni-box/interfaces")), (vec![], vec![]));
    }
}
