//! host-device: what must not go wrong when things go wrong, and giving the device back whatever has happened.

use serde_json::{Value, json};

use crate::cross::Side::{Ours, Theirs};
use crate::host_device::{MAC, call, config, dual, lab, lab_with_sysfs, run, state};
use crate::kills::{assert_nearly_all, changing_calls, kill_at};
use crate::lab::{Call, Lab, Snapshot, merged, wait_for};

/// With addresses from host-local, which remembers them.
fn remembered() -> Value {
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    config(&json!({"ipam": {"type": "host-local", "ranges": ranges}}))
}

/// The device is up, a port of a bridge, and has an alias of its administrator's.
fn busy_lab() -> (Lab, Snapshot, Value) {
    let lab = lab();
    lab.sh("ip link add br0 type bridge; ip link set br0 up; ip link set peer0 up
        ip link set hd0 up alias uplink master br0")
        .success();
    wait_for("br0", || lab.link("br0")["operstate"] == "UP");
    let (before, was) = (lab.snapshot(), lab.link("hd0")["ifalias"].clone());
    (lab, before, was)
}

#[test]
pub fn better_a_failed_add_leaves_everything_as_it_was() {
    let routes = json!([{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]);
    for (changes, part) in [
        (json!({"ipam": {"routes": routes}}), "unreachable"),
        (json!({"ipam": {"type": "nope"}}), "failed to find plugin \"nope\" in path"),
        (json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/31"}]]}}), "too small"),
        (json!({"ipam": null, "cniVersion": "0.2.0"}), "cannot convert: no valid IP addresses"),
        (json!({"ipam": {"addresses": [{"address": "10.1.2.7/24"}, {"address": "10.1.2.7/24"}]}}), "file exists"),
    ] {
        let (lab, before, alias) = busy_lab();
        run(&lab, Ours, "ADD", &config(&merged(dual(), &changes))).fails_with(999, &[part]);
        before.assert_same(&lab.snapshot());
        assert_eq!(lab.link("hd0")["ifalias"], alias, "{part}");
        assert_eq!(lab.ip("-n ns1 link show").as_array().unwrap().len(), 1);
    }
}

/// Makes one of the call's system calls fail: whether it succeeded nevertheless, `None` if there are not so many of them.
fn succeeds_without(lab: &Lab, call: &Call<'_>, name: &str, ordinal: usize) -> Option<bool> {
    let (trace, inject) = (format!("trace={name}"), format!("inject={name}:error=EIO:when={ordinal}"));
    let strace = ["strace", "-qq", "-o", "/run/lab/trace", "-e", &trace, "-e", &inject];
    let success = call.clone().under(&strace).run().code == Some(0);
    eprintln!("{name} {ordinal}: {success}");
    lab.read("/run/lab/trace").contains("(INJECTED)").then_some(success)
}

/// What talks to the kernel, or leads where that can be done.
const TALKING: [&str; 4] = ["sendto", "recvfrom", "setns", "socket"];

#[test]
fn better_any_refusal_of_the_kernels_is_taken_back() {
    let (lab, before, alias) = busy_lab();
    let add = call(&lab, Ours, "ADD", &remembered());
    for name in TALKING {
        let mut failed = 0;
        for ordinal in 1.. {
            let outcome = succeeds_without(&lab, &add, name, ordinal);
            if lab.link("hd0") == Value::Null {
                // Not being able to come home to the host's namespace ends the process: nobody can undo anything then.
                assert!(outcome != Some(false) || name == "setns", "{name} {ordinal}");
                run(&lab, Ours, "DEL", &remembered()).silent();
                lab.sh("ip link set hd0 master br0 up alias uplink").success();
            }
            wait_for("br0", || lab.link("br0")["operstate"] == "UP");
            before.assert_same(&lab.snapshot());
            assert_eq!(lab.link("hd0")["ifalias"], alias);
            if outcome.is_none() {
                break;
            }
            failed += 1;
        }
        assert!(failed >= 3, "{name}");
    }
}

#[test]
fn better_a_del_that_the_kernel_refuses_leaves_the_device_whole_on_one_side() {
    let lab = lab();
    let (before, was) = (lab.snapshot(), state(lab.link("hd0")));
    let delete = call(&lab, Ours, "DEL", &remembered());
    for name in TALKING {
        for ordinal in 1.. {
            run(&lab, Ours, "ADD", &remembered()).result();
            let inside = state(lab.link_in("ns1", "net1"));
            let outcome = succeeds_without(&lab, &delete, name, ordinal);
            if lab.link("hd0") == Value::Null {
                assert_eq!((outcome, state(lab.link_in("ns1", "net1"))), (Some(false), inside));
                assert_eq!(lab.reserved("net").len(), 2);
            } else {
                assert_eq!(state(lab.link("hd0")), was);
            }
            delete.run().silent();
            before.assert_same(&lab.snapshot());
            if outcome.is_none() {
                assert!(ordinal > 2, "{name}");
                break;
            }
        }
    }
}

#[test]
fn better_del_cleans_up_after_an_add_killed_before_any_of_its_changes() {
    let lab = lab();
    let (before, add, delete) =
        (lab.snapshot(), call(&lab, Ours, "ADD", &remembered()), call(&lab, Ours, "DEL", &remembered()));
    // The first ADD of a host makes folders that the next ones find.
    add.run().result();
    delete.run().silent();
    let points = changing_calls(&lab, &add);
    delete.run().silent();
    let mut killed = 0;
    for point in &points {
        killed += usize::from(kill_at(&add, point));
        delete.run().silent();
        eprintln!("killed before {point:?}");
        before.assert_same(&lab.snapshot());
    }
    assert_nearly_all(killed, points.len());
}

#[test]
fn better_a_killed_del_is_finished_by_the_next() {
    let lab = lab();
    let (before, add, delete) =
        (lab.snapshot(), call(&lab, Ours, "ADD", &remembered()), call(&lab, Ours, "DEL", &remembered()));
    add.run().result();
    let points = changing_calls(&lab, &delete);
    for point in &points {
        add.run().result();
        assert!(kill_at(&delete, point), "not killed at {point:?}");
        delete.run().silent();
        eprintln!("killed before {point:?}");
        before.assert_same(&lab.snapshot());
    }
}

#[test]
fn a_second_add_finds_no_device_and_takes_no_address() {
    let lab = lab();
    run(&lab, Ours, "ADD", &remembered()).result();
    let reserved = lab.reserved("net");
    for side in [Ours, Theirs] {
        run(&lab, side, "ADD", &remembered()).fails(999, "failed to find host device: Link not found");
    }
    lab.netns("ns2");
    let other = call(&lab, Ours, "ADD", &remembered()).container("c2").netns("/var/run/netns/ns2");
    other.run().fails(999, "failed to find host device: Link not found");
    assert_eq!(lab.reserved("net"), reserved);
    assert_eq!(lab.link_in("ns1", "net1")["ifalias"], "hd0");
}

#[test]
fn a_taken_name_in_the_container_leaves_the_device_alone() {
    let (lab, before, alias) = busy_lab();
    lab.ok("ip -n ns1 link add net1 type bridge");
    let text = "failed to move link failed to move \"net1\" (host: \"hd0\") to container NS: file exists";
    run(&lab, Ours, "ADD", &remembered()).fails(999, text);
    before.assert_same(&lab.snapshot());
    assert_eq!(lab.link("hd0")["ifalias"], alias);
    lab.ok("ip -n ns1 link del net1");
    run(&lab, Ours, "ADD", &remembered()).result();
}

#[test]
fn better_addresses_are_announced() {
    let lab = lab();
    lab.sh("ip link set peer0 up; ip addr add 10.1.2.1/24 dev peer0
        ip neigh add 10.1.2.7 lladdr 02:00:00:00:00:11 nud stale dev peer0")
        .success();
    run(&lab, Ours, "ADD", &config(&dual())).result();
    wait_for("the new neighbour", || lab.ip("neigh show to 10.1.2.7")[0]["lladdr"] == MAC);
}

#[test]
fn better_names_that_the_kernel_would_change_are_refused() {
    let lab = lab();
    let before = lab.snapshot();
    call(&lab, Ours, "ADD", &config(&json!({}))).ifname("net%d").run().fails_with(999, &["invalid argument"]);
    before.assert_same(&lab.snapshot());
}

#[test]
fn better_what_cannot_be_moved_stays_as_it_is() {
    let lab = lab();
    lab.sh("ip link add br0 type bridge; ip link set br0 up").success();
    let before = lab.snapshot();
    for name in ["br0", "lo"] {
        run(&lab, Ours, "ADD", &config(&json!({"device": name})))
            .fails_with(999, &["failed to move link failed to move \"net1\"", "invalid argument"]);
        before.assert_same(&lab.snapshot());
    }
}

/// The same name may be in use in the other namespace, and names may be exchanged.
#[test]
pub fn names_of_one_namespace_do_not_matter_in_the_other() {
    let lab = lab();
    lab.sh("ip -n ns1 link add hd0 type bridge; ip link add net1 type bridge").success();
    let before = lab.snapshot();
    run(&lab, Ours, "ADD", &config(&json!({}))).result();
    assert_eq!(lab.link_in("ns1", "net1")["address"], MAC);
    run(&lab, Ours, "DEL", &config(&json!({}))).silent();
    before.assert_same(&lab.snapshot());
    assert_eq!(lab.link_in("ns1", "hd0")["linkinfo"]["info_kind"], "bridge");
    let same = |verb: &str| call(&lab, Ours, verb, &config(&json!({}))).ifname("hd0").run();
    same("ADD").fails_with(999, &["file exists"]);
    lab.ok("ip -n ns1 link del hd0");
    same("ADD").result();
    assert_eq!(lab.link_in("ns1", "hd0")["ifalias"], "hd0");
    same("DEL").silent();
    before.assert_same(&lab.snapshot());
}

#[test]
pub fn better_a_taken_name_on_the_host_leaves_the_device_in_the_container() {
    let lab = lab();
    lab.sh("ip link set peer0 up").success();
    run(&lab, Ours, "ADD", &remembered()).result();
    wait_for("net1", || lab.link_in("ns1", "net1")["operstate"] == "UP");
    let all = || (state(lab.link_in("ns1", "net1")), lab.addresses("ns1", "net1"), lab.routes("ns1", "-4"));
    lab.ok("ip link add hd0 type bridge");
    let (before, inside) = (lab.snapshot(), all());
    run(&lab, Ours, "DEL", &remembered()).fails(999, "failed to move \"hd0\" to hostNS: file exists");
    before.assert_same(&lab.snapshot());
    assert_eq!(all(), inside);
    lab.ok("ip link del hd0");
    run(&lab, Ours, "DEL", &remembered()).silent();
    assert_eq!((lab.link("hd0")["address"].as_str(), lab.reserved("net").len()), (Some(MAC), 0));
}

/// Stops the call behind one of its answers from the kernel, does something, and lets it go on. True if it succeeded.
fn interrupted(lab: &Lab, verb: &str, answer: u32, deed: &str) -> bool {
    let inject = format!("inject=recvfrom:signal=STOP:when={answer}");
    let strace = ["strace", "-qq", "-o", "/run/lab/strace", "-e", "trace=recvfrom", "-e", &inject];
    lab.write("/run/lab/strace", "");
    let running = call(lab, Ours, verb, &config(&json!({}))).under(&strace).spawn();
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    let child = || std::fs::read_to_string(&children).unwrap_or_default().trim().to_string();
    // Not by the state in /proc: a traced program also stops, for a moment, at each call that is traced.
    wait_for("the call to stop", || lab.read("/run/lab/strace").contains("stopped by SIGSTOP"));
    lab.sh(deed).success();
    lab.sh(&format!("kill -CONT {}", child())).success();
    running.wait().success()
}

#[test]
fn better_a_name_taken_at_the_last_moment_is_found_out() {
    let (lab, before, alias) = busy_lab();
    // The second answer is that the name is free in the container; the move follows.
    assert!(!interrupted(&lab, "ADD", 2, "ip -n ns1 link add net1 type bridge"));
    before.assert_same(&lab.snapshot());
    assert_eq!(lab.link("hd0")["ifalias"], alias);
    assert_eq!(lab.ip("-n ns1 link show").as_array().unwrap().len(), 2);
    lab.ok("ip -n ns1 link del net1");
    run(&lab, Ours, "ADD", &config(&json!({}))).result();
    // As is the second that the name is free on the host.
    let inside = state(lab.link_in("ns1", "net1"));
    assert!(!interrupted(&lab, "DEL", 2, "ip link add hd0 type bridge"));
    wait_for("net1", || state(lab.link_in("ns1", "net1")) == inside);
    lab.ok("ip link del hd0");
    assert!(interrupted(&lab, "DEL", 2, "ip -n ns1 link add hd0 type bridge"));
    assert_eq!((lab.link("hd0")["address"].as_str(), &lab.link("hd0")["ifalias"]), (Some(MAC), &Value::Null));
}

#[test]
fn better_del_succeeds_when_nothing_is_left() {
    let lab = lab();
    run(&lab, Ours, "DEL", &remembered()).silent();
    run(&lab, Ours, "ADD", &remembered()).result();
    run(&lab, Ours, "DEL", &remembered()).silent();
    run(&lab, Ours, "DEL", &remembered()).silent();
    lab.write("/run/lab/file", "no namespace");
    for netns in ["/var/run/netns/gone", "/run/lab/file", ""] {
        lab.plugin("host-local").container("c1").ifname("net1").config(&remembered()).run().result();
        assert_eq!(lab.reserved("net").len(), 2);
        call(&lab, Ours, "DEL", &remembered()).netns(netns).run().silent();
        assert_eq!(lab.reserved("net").len(), 0, "{netns}");
    }
}

#[test]
fn better_a_device_without_alias_comes_home() {
    for side in [Ours, Theirs] {
        let lab = lab();
        run(&lab, side, "ADD", &remembered()).result();
        lab.run(&["ip", "-n", "ns1", "link", "set", "net1", "alias", ""]).success();
        run(&lab, Ours, "DEL", &remembered()).silent();
        assert_eq!((lab.link("hd0")["address"].as_str(), lab.reserved("net").len()), (Some(MAC), 0));
    }
}

/// The kernel gives physical devices to the host's first namespace when theirs ends; here `ip` does what it would do.
#[test]
fn better_a_device_that_the_kernel_gave_back_gets_its_name_back() {
    let by_address = json!({"device": null, "hwaddr": MAC});
    for (name, changes, netns) in [
        ("net1", json!({}), "/var/run/netns/gone"),
        ("dev7", json!({}), ""),
        ("net1", by_address.clone(), ""),
        ("dev7", by_address, "/var/run/netns/ns1"),
    ] {
        let lab = lab();
        let before = lab.snapshot();
        let mut config = config(&changes);
        config["prevResult"] = run(&lab, Ours, "ADD", &config).result();
        let give = format!("ip -n ns1 link set net1 name {name} netns {}", lab.pid());
        lab.sh(&format!("ip -n ns1 link set net1 down; {give}")).success();
        assert_eq!(lab.link(name)["ifalias"], "hd0");
        lab.ok(&format!("ip link set {name} up"));
        call(&lab, Ours, "DEL", &config).netns(netns).run().silent();
        assert_eq!(lab.link(name)["ifalias"], "hd0", "one that is up is somebody's");
        lab.ok(&format!("ip link set {name} down"));
        lab.ok("ip link add hd0 type bridge");
        call(&lab, Ours, "DEL", &config).netns(netns).run().silent();
        assert_eq!(lab.link(name)["ifalias"], "hd0", "its own name is taken");
        lab.ok("ip link del hd0");
        call(&lab, Ours, "DEL", &config).netns(netns).run().silent();
        before.assert_same(&lab.snapshot());
        assert_eq!(lab.link("hd0")["ifalias"], Value::Null);
    }
}

#[test]
fn better_del_needs_nothing_of_sysfs() {
    let lab = lab_with_sysfs();
    let config = merged(remembered(), &json!({"device": null, "runtimeConfig": {"deviceID": "0000:00:01.0"}}));
    run(&lab, Ours, "ADD", &config).result();
    lab.sh("rm -r /sys/bus/pci /sys/devices/*").success();
    run(&lab, Ours, "DEL", &config).silent();
    assert_eq!((lab.link("hd0")["address"].as_str(), lab.reserved("net").len()), (Some(MAC), 0));
    run(&lab, Ours, "DEL", &merged(config, &json!({"runtimeConfig": null}))).silent();
}

#[test]
fn check_says_what_differs() {
    let lab = lab();
    let mut config = remembered();
    config["prevResult"] = run(&lab, Ours, "ADD", &config).result();
    let check = || run(&lab, Ours, "CHECK", &config);
    check().silent();
    lab.ok("ip -n ns1 addr del 10.1.2.2/24 dev net1");
    check().fails(999, "Failed to match addr 10.1.2.2/24 on interface net1");
    lab.ok("ip -n ns1 addr add 10.1.2.2/24 dev net1");
    check().silent();
    lab.ok("ip -n ns1 link set net1 address 02:00:00:00:00:77");
    let text = format!("Interface net1 Mac {MAC} doesn't match container Mac: 02:00:00:00:00:77");
    check().fails(999, &text);
    lab.ok(&format!("ip -n ns1 link set net1 address {MAC}"));
    let without = merged(config.clone(), &json!({"prevResult": null}));
    run(&lab, Ours, "CHECK", &without).fails(999, "Required prevResult missing");
    lab.sh("ip -n ns1 link set net1 down; ip -n ns1 link set net1 name net2").success();
    check().fails(999, "Container Interface name in prevResult: net1 not found");
}

#[test]
fn better_check_misses_the_alias() {
    let lab = lab();
    let mut config = config(&json!({}));
    config["prevResult"] = run(&lab, Ours, "ADD", &config).result();
    lab.run(&["ip", "-n", "ns1", "link", "set", "net1", "alias", ""]).success();
    run(&lab, Ours, "CHECK", &config).fails_with(999, &["net1 has no alias"]);
}

#[test]
fn newer_gc_is_passed_on_to_ipam() {
    let lab = lab();
    lab.executable("/run/lab/bin/my-ipam", "#!/bin/sh\ncat >/dev/null; echo $CNI_COMMAND >> /run/lab/calls\n");
    let gc = config(&json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": [], "ipam": {"type": "my-ipam"}}));
    let before = lab.snapshot();
    for verb in ["GC", "STATUS"] {
        lab.plugin("host-device").env("CNI_PATH", "/run/lab/bin").verb(verb).config(&gc).run().silent();
    }
    assert_eq!(lab.read("/run/lab/calls"), "GC\nSTATUS\n");
    before.assert_same(&lab.snapshot());
}

/// Ten for each of twenty containers, half of them veth ends, half macvlan.
#[test]
fn two_hundred_devices_at_once() {
    let lab = Lab::new();
    lab.sh("for i in $(seq 20); do ip netns add ns$i; done
        ip link add low0 type veth peer name low1
        for i in $(seq 100); do echo link add hd$i type veth peer name peer$i; done | ip -batch -
        for i in $(seq 101 200); do echo link add hd$i link low0 type macvlan mode bridge; done | ip -batch -")
        .success();
    let before = lab.snapshot();
    let storm = |verb: &str| {
        std::thread::scope(|scope| {
            for index in 1..=200 {
                let (container, device) = (index % 20 + 1, json!({"device": format!("hd{index}")}));
                let call = call(&lab, Ours, verb, &merged(remembered(), &device)).ifname(&format!("net{}", index / 20));
                let call = call.container(&format!("c{container}")).netns(&format!("/var/run/netns/ns{container}"));
                scope.spawn(move || drop(call.run().success()));
            }
        });
    };
    storm("ADD");
    assert_eq!(lab.reserved("net").len(), 400);
    assert_eq!(lab.ip("link show").as_array().unwrap().len(), 103, "lo, low0, low1 and the peers");
    storm("DEL");
    before.assert_same(&lab.snapshot());
}

#[test]
fn one_device_wanted_by_many_at_once_goes_to_one() {
    let lab = lab();
    lab.sh("for i in $(seq 2 10); do ip netns add ns$i; done").success();
    let before = lab.snapshot();
    let call = |verb: &str, index: u32| {
        // Two calls for each container.
        let half = index.div_ceil(2);
        let call = call(&lab, Ours, verb, &remembered()).container(&format!("c{half}"));
        call.netns(&format!("/var/run/netns/ns{half}")).run()
    };
    let codes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=20).map(|index| scope.spawn(move || call("ADD", index).code)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(lab.reserved("net").len(), 2);
    for index in 1..=20 {
        call("DEL", index).silent();
    }
    before.assert_same(&lab.snapshot());
}
