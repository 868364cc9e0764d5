//! host-local over the lives of containers and hosts: reboots, namespaces that go without DEL, restarts, GC and STATUS.

use serde_json::{Value, json};

use crate::host_local::{add, call, del};
use crate::lab::{Call, Lab, host_local_config, merged, static_config, wait_for};

const NETWORK: &str = "/var/lib/cni/networks/net";

/// A range of two addresses.
pub fn two() -> Value {
    json!({"subnet": "10.1.2.0/29", "rangeStart": "10.1.2.2", "rangeEnd": "10.1.2.3"})
}

const FULL: &str = "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.2-10.1.2.3";

/// ADD of a container whose namespace has its name.
fn at<'a>(lab: &'a Lab, container: &str, ipam: &Value) -> Call<'a> {
    call(lab, ipam).container(container).netns(&format!("/run/netns/{container}"))
}

/// The address that a container with a namespace of its own gets.
pub fn up(lab: &Lab, container: &str, ipam: &Value) -> String {
    if !lab.exists(&format!("/run/netns/{container}")) {
        lab.netns(container);
    }
    let result = at(lab, container, ipam).run().result();
    result["ips"][0]["address"].as_str().unwrap().to_string()
}

/// Makes the kernel tell another boot id; what namespaces there are stays.
pub fn reboot(lab: &Lab, number: u32) {
    lab.write("/run/lab/boot_id", format!("00000000-0000-4000-8000-{number:012}\n"));
    lab.sh("umount /proc/sys/kernel/random/boot_id 2>/dev/null || true").success();
    lab.sh("mount --bind /run/lab/boot_id /proc/sys/kernel/random/boot_id").success();
}

fn gc<'a>(lab: &'a Lab, ipam: &Value, valid: Option<&[&str]>) -> Call<'a> {
    let mut config = merged(host_local_config(ipam), &json!({"cniVersion": "1.1.0"}));
    if let Some(valid) = valid {
        let names = valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"}));
        config["cni.dev/valid-attachments"] = names.collect();
    }
    lab.plugin("host-local").verb("GC").config(&config)
}

fn status<'a>(lab: &'a Lab, ipam: &Value) -> Call<'a> {
    let config = merged(host_local_config(ipam), &json!({"cniVersion": "1.1.0"}));
    lab.plugin("host-local").verb("STATUS").config(&config)
}

#[test]
fn better_addresses_of_an_earlier_boot_are_given_out_when_there_are_no_others() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/29", "rangeStart": "10.1.2.2", "rangeEnd": "10.1.2.4"});
    assert_eq!(up(&lab, "a", &ipam), "10.1.2.2/29");
    assert_eq!(up(&lab, "b", &ipam), "10.1.2.3/29");
    reboot(&lab, 2);
    assert_eq!(up(&lab, "c", &ipam), "10.1.2.4/29");
    assert_eq!(lab.reserved("net"), ["10.1.2.2", "10.1.2.3", "10.1.2.4"], "not before it is necessary");
    assert_eq!(up(&lab, "d", &ipam), "10.1.2.2/29");
    assert_eq!(lab.reserved("net"), ["10.1.2.2", "10.1.2.4"]);
    assert_eq!(up(&lab, "e", &ipam), "10.1.2.3/29");
    lab.netns("f");
    at(&lab, "f", &ipam).run().error();
}

#[test]
fn better_addresses_of_namespaces_that_are_gone_are_given_out_when_there_are_no_others() {
    let lab = Lab::new();
    up(&lab, "a", &two());
    up(&lab, "b", &two());
    lab.netns("c");
    at(&lab, "c", &two()).run().fails(999, FULL);
    lab.ok("ip netns del a");
    // The kernel gives its inode to the next.
    lab.netns("d");
    assert_eq!(up(&lab, "c", &two()), "10.1.2.2/29");
    at(&lab, "d", &two()).run().fails(999, FULL);
}

/// What keeps a namespace, and a script that does it.
pub const PINS: [(&str, &str); 4] = [
    ("a process in it", "exec ip netns exec a sleep 1000"),
    ("an open file", "exec 3</run/netns/a; exec sleep 1000"),
    (
        "a mount that others do not see",
        "exec unshare -m sh -ec 'touch /run/lab/x; mount --bind /run/netns/a /run/lab/x; exec sleep 1000'",
    ),
    (
        "a thread",
        "exec python3 -c '
import ctypes, threading, time
def enter():
    with open(\"/run/netns/a\") as file:
        ctypes.CDLL(None).setns(file.fileno(), 0x40000000)
    time.sleep(1000)
threading.Thread(target=enter, daemon=True).start()
time.sleep(1000)'",
    ),
];

#[test]
fn better_a_namespace_lives_as_long_as_anything_uses_it() {
    pinned_namespaces(&PINS);
}

pub fn pinned_namespaces(pins: &[(&str, &str)]) {
    for (what, script) in pins {
        let lab = Lab::new();
        up(&lab, "a", &two());
        up(&lab, "b", &two());
        let pin = Call::new(&lab, "sh").args_list(&["-c", script]).spawn();
        let inode = lab.ok("stat -L -c %i /run/netns/a");
        let places = format!("/proc/{0}/task/*/ns/net /proc/{0}/fd/3", pin.pid());
        wait_for(what, || {
            let seen = lab.run(&["sh", "-c", &format!("stat -L -c %i {places}")]).stdout;
            let of = |pid: &str| lab.ok(&format!("readlink /proc/{pid}/ns/mnt"));
            let comm = lab.read(&format!("/proc/{}/comm", pin.pid()));
            let ready = ["sleep", "python3"].contains(&comm.trim());
            ready && (seen.contains(&inode) || of(&pin.pid().to_string()) != of("self"))
        });
        lab.ok("ip netns del a");
        lab.netns("c");
        eprintln!("{what}");
        at(&lab, "c", &two()).run().fails(999, FULL);
        pin.kill();
        assert_eq!(up(&lab, "c", &two()), "10.1.2.2/29", "{what}");
    }
}

#[test]
pub fn better_a_restarted_container_gets_its_address_again() {
    let lab = Lab::new();
    let ipam = json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/64"}]]});
    let both = |container: &str| {
        let result = at(&lab, container, &ipam).run().result();
        (result["ips"][0]["address"].clone(), result["ips"][1]["address"].clone())
    };
    for container in ["a", "b"] {
        lab.netns(container);
    }
    let first = both("a");
    both("b");
    lab.sh("ip netns del a; ip netns add a").success();
    assert_eq!(both("a"), first, "another namespace, even if it has the inode of the first");
    let duplicate =
        "failed to allocate for range 0: 10.1.2.2 has been allocated to a, duplicate allocation is not allowed";
    at(&lab, "a", &ipam).run().fails(999, duplicate);
    reboot(&lab, 2);
    assert_eq!(both("a"), first, "the same namespace, but another boot");
    at(&lab, "a", &ipam).run().fails(999, duplicate);
    assert_eq!(lab.reserved("net").len(), 4);
}

#[test]
fn better_a_container_is_refused_while_it_lives_elsewhere() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    up(&lab, "a", &ipam);
    lab.netns("other");
    let again = call(&lab, &ipam).container("a").netns("/run/netns/other");
    let duplicate =
        "failed to allocate for range 0: 10.1.2.2 has been allocated to a, duplicate allocation is not allowed";
    again.run().fails(999, duplicate);
    let pin = lab.hold("a");
    lab.ok("ip netns del a");
    again.run().fails(999, duplicate);
    pin.kill();
    again.run().result();
    assert_eq!(lab.reserved("net"), ["10.1.2.2"]);
}

#[test]
fn better_a_requested_address_is_taken_back_from_who_is_gone() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    lab.netns("a");
    let ask = |container: &str| at(&lab, container, &ipam).args("IP=10.1.2.9").run();
    ask("a").result();
    lab.netns("b");
    let taken = "failed to allocate for range 0: requested IP address 10.1.2.9 is not available in range set 10.1.2.1-10.1.2.254";
    ask("b").fails(999, taken);
    ask("a").fails(999, taken);
    lab.sh("ip netns del a; ip netns add a").success();
    assert_eq!(ask("a").result()["ips"][0]["address"], "10.1.2.9/24");
    lab.ok("ip netns del a");
    assert_eq!(ask("b").result()["ips"][0]["address"], "10.1.2.9/24");
    assert_eq!(lab.reserved("net"), ["10.1.2.9"]);
}

#[test]
fn better_reservations_of_the_go_plugin_are_recognised_once_they_were_seen_in_a_boot_that_has_ended() {
    let lab = Lab::new();
    let config = host_local_config(&two());
    for container in ["a", "b"] {
        lab.netns(container);
        let call = lab.reference("host-local").config(&config).container(container);
        call.netns(&format!("/run/netns/{container}")).run().result();
    }
    lab.sh("ip netns del a; ip netns del b; ip netns add c").success();
    at(&lab, "c", &two()).run().fails(999, FULL);
    lab.sh("rm -r /var/lib/cni/networks/.cni-box").success();
    reboot(&lab, 2);
    at(&lab, "c", &two()).run().fails(999, FULL);
    lab.sh("cd /var/lib/cni/networks/net; cp -p 10.1.2.3 /run/lab; rm 10.1.2.3; cp -p /run/lab/10.1.2.3 .").success();
    reboot(&lab, 3);
    assert_eq!(up(&lab, "c", &two()), "10.1.2.2/29");
    lab.netns("d");
    at(&lab, "d", &two()).run().fails(999, FULL);
    reboot(&lab, 4);
    assert_eq!(up(&lab, "d", &two()), "10.1.2.3/29", "what came from a backup was seen in the boot before");
}

#[test]
fn better_what_a_backup_brings_back_counts_as_alive() {
    let lab = Lab::new();
    up(&lab, "a", &two());
    up(&lab, "b", &two());
    lab.sh("cd /var/lib/cni; cp -a networks backup; rm -r networks; cp -a backup networks; ip netns del a").success();
    lab.netns("c");
    at(&lab, "c", &two()).run().fails(999, FULL);
    gc(&lab, &two(), None).run().silent();
    assert_eq!(lab.reserved("net"), ["10.1.2.2", "10.1.2.3"]);
}

#[test]
fn better_what_an_administrator_has_blocked_stays_blocked() {
    let lab = Lab::new();
    for (address, text) in [("10.1.2.2", "printer"), ("10.1.2.3", "a\nb\r\n")] {
        lab.write(&format!("{NETWORK}/{address}"), text);
    }
    lab.netns("c");
    for boot in 2..5 {
        reboot(&lab, boot);
        at(&lab, "c", &two()).run().fails(999, FULL);
        gc(&lab, &two(), Some(&[])).run().silent();
        gc(&lab, &two(), None).run().silent();
    }
    assert_eq!(lab.reserved("net"), ["10.1.2.2", "10.1.2.3"]);
}

#[test]
fn better_without_a_boot_id_nothing_is_taken_back() {
    let lab = Lab::new();
    up(&lab, "a", &two());
    up(&lab, "b", &two());
    lab.sh("ip netns del a; ip netns add c; mount --bind /run/lab /proc/sys/kernel/random").success();
    at(&lab, "c", &two()).run().fails(999, FULL);
    lab.sh("umount /proc/sys/kernel/random").success();
    assert_eq!(up(&lab, "c", &two()), "10.1.2.2/29");
}

/// From 2026 on the kernel says to who is in another PID namespace (a node in a container) that every namespace but its own
/// is stale. That is played here: of the three calls for each look the first is for our own namespace.
#[test]
fn better_a_kernel_that_denies_namespaces_has_not_lost_them() {
    let lab = Lab::new();
    up(&lab, "a", &two());
    up(&lab, "b", &two());
    lab.netns("c");
    let node = ["unshare", "--pid", "--fork", "--mount-proc"];
    let denies = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=open_by_handle_at", "-e"];
    for stale in ["when=2+3", "when=2+2", "when=2+1"] {
        let inject = format!("inject=open_by_handle_at:error=ESTALE:{stale}");
        let words: Vec<&str> = node.iter().chain(&denies).copied().chain([inject.as_str()]).collect();
        at(&lab, "c", &two()).under(&words).run().fails(999, FULL);
    }
    assert_eq!(lab.reserved("net"), ["10.1.2.2", "10.1.2.3"]);
}

/// For kernels that do not say themselves whether a namespace is there.
pub fn other_processes_in_sight() {
    let lab = Lab::new();
    up(&lab, "a", &two());
    up(&lab, "b", &two());
    // Not the other way round: c's namespace with a's inode would be proof enough.
    lab.sh("ip netns add c; ip netns del a").success();
    let blind = at(&lab, "c", &two()).under(&["unshare", "--pid", "--fork", "--mount-proc"]);
    blind.run().fails(999, FULL);
    assert_eq!(up(&lab, "c", &two()), "10.1.2.2/29");
}

#[test]
fn newer_gc_frees_what_the_runtime_does_not_list_in_this_network_only() {
    let lab = Lab::new();
    let ipam = json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/64"}]]});
    for container in ["a", "b", "c"] {
        up(&lab, container, &ipam);
    }
    at(&lab, "b", &ipam).ifname("net1").run().result();
    let other = merged(host_local_config(&ipam), &json!({"name": "other"}));
    lab.plugin("host-local").config(&other).run().result();
    lab.write(&format!("{NETWORK}/10.1.2.77"), "");
    gc(&lab, &json!({}), Some(&["b", "c", "unknown"])).run().silent();
    let left = ["10.1.2.3", "10.1.2.4", "2001:db8::3", "2001:db8::4"];
    assert_eq!(lab.reserved("net"), left);
    assert_eq!(lab.reserved("other").len(), 2);
    assert_eq!(lab.read(&format!("{NETWORK}/10.1.2.3")), "b\r\neth0");
    gc(&lab, &ipam, Some(&[])).run().silent();
    gc(&lab, &ipam, Some(&[])).run().silent();
    assert_eq!(lab.reserved("net"), [""; 0]);
}

#[test]
fn newer_gc_without_a_list_frees_only_what_cannot_be_alive() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    gc(&lab, &ipam, None).run().silent();
    assert!(!lab.exists("/var/lib/cni/networks"), "GC makes nothing");
    for container in ["a", "b", "c"] {
        up(&lab, container, &ipam);
    }
    lab.write(&format!("{NETWORK}/10.1.2.77"), "");
    lab.ok("ip netns del b");
    gc(&lab, &ipam, None).run().silent();
    assert_eq!(lab.reserved("net"), ["10.1.2.2", "10.1.2.4"]);
    reboot(&lab, 2);
    gc(&lab, &ipam, Some(&["a", "c"])).run().silent();
    assert_eq!(lab.reserved("net"), ["10.1.2.2", "10.1.2.4"], "the runtime lists them");
    gc(&lab, &ipam, None).run().silent();
    assert_eq!(lab.reserved("net"), [""; 0]);
}

#[test]
fn newer_gc_of_nonsense_touches_nothing() {
    let lab = Lab::new();
    up(&lab, "a", &two());
    let bad = merged(
        host_local_config(&two()),
        &json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": [{"containerID": 5}]}),
    );
    lab.plugin("host-local").verb("GC").config(&bad).run().fails_with(999, &["containerID"]);
    assert_eq!(lab.reserved("net"), ["10.1.2.2"]);
}

#[test]
fn newer_status_says_when_no_address_is_left() {
    let lab = Lab::new();
    status(&lab, &two()).run().silent();
    assert!(!lab.exists("/var/lib/cni/networks"), "STATUS makes nothing");
    up(&lab, "a", &two());
    status(&lab, &two()).run().silent();
    up(&lab, "b", &two());
    status(&lab, &two()).run().fails(50, FULL);
    let second = json!({"ranges": [[{"subnet": "10.9.0.0/24"}], [two()]]});
    status(&lab, &second).run().fails(50, &FULL.replace("range 0", "range 1"));
    lab.ok("ip netns del b");
    status(&lab, &two()).run().silent();
    assert_eq!(lab.reserved("net"), ["10.1.2.2", "10.1.2.3"], "it only counts what could be taken back");
}

#[test]
fn newer_status_says_when_reservations_cannot_be_written() {
    let lab = Lab::new();
    lab.sh("mkdir /run/lab/data; mount -t tmpfs -o ro tmpfs /run/lab/data; touch /run/lab/file").success();
    let small = "mkdir /run/lab/small; mount -t tmpfs -o size=4k tmpfs /run/lab/small";
    lab.sh(&format!("{small}; head -c 4096 /dev/zero > /run/lab/small/filler")).success();
    let in_folder = |folder: &str| merged(two(), &json!({"dataDir": folder}));
    for (folder, why) in [
        ("/run/lab/data", "read-only file system"),
        ("/run/lab/data/sub", "read-only file system"),
        ("/run/lab/file", "not a directory"),
        ("/run/lab/small", "no space left on device"),
    ] {
        status(&lab, &in_folder(folder)).run().fails_with(51, &[why, folder.trim_end_matches("/sub")]);
    }
    lab.write(&format!("{NETWORK}/lock/x"), "");
    status(&lab, &two()).run().fails_with(51, &["lock"]);
}

#[test]
fn newer_status_takes_the_configurations_that_add_takes() {
    let lab = Lab::new();
    status(&lab, &json!({})).run().fails(999, "no IP ranges specified");
    status(&lab, &json!({"subnet": "10.0.0.0/31"})).run().fails_with(999, &["too small"]);
    let no_file = merged(two(), &json!({"resolvConf": "/nope"}));
    status(&lab, &no_file).run().fails(50, "open /nope: no such file or directory");
    let later = json!({"cniVersion": "1.1.0", "capabilities": {"ipRanges": true}});
    let config = merged(host_local_config(&json!({})), &later);
    lab.plugin("host-local").verb("STATUS").config(&config).run().silent();
}

#[test]
fn newer_static_has_nothing_to_collect_and_status_reads_the_configuration() {
    let lab = Lab::new();
    let call = |verb: &str, ipam: &Value| {
        let config = merged(static_config(ipam), &json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}));
        lab.plugin("static").verb(verb).config(&config).run()
    };
    let good = json!({"addresses": [{"address": "10.1.2.3/24"}]});
    let bad = json!({"addresses": [{"address": "10.1.2.3"}]});
    call("GC", &good).silent();
    call("GC", &bad).silent();
    call("STATUS", &good).silent();
    let text = "the 'address' field is expected to be in CIDR notation, got: '10.1.2.3'";
    call("STATUS", &bad).fails(999, text);
}

#[test]
fn better_hostile_entries_of_the_directory_harm_nobody() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/28"});
    lab.write("/run/lab/victim", "victim");
    lab.sh(&format!(
        "mkdir -p {NETWORK}; cd {NETWORK}; mkfifo 10.1.2.2 last_reserved_ip.0; mkdir 10.1.2.3; ln -s /run/lab/victim 10.1.2.4
        truncate -s 10G 10.1.2.5; head -c 100000 /dev/urandom > 10.1.2.6; mknod 10.1.2.7 c 1 5; ln -s nowhere 10.1.2.8
        : > 10.1.2.9"
    ))
    .success();
    assert_eq!(up(&lab, "a", &ipam), "10.1.2.9/28");
    assert_eq!(up(&lab, "b", &ipam), "10.1.2.10/28");
    call(&lab, &ipam).container("a").verb("CHECK").run().silent();
    status(&lab, &ipam).run().silent();
    gc(&lab, &ipam, Some(&["b"])).run().silent();
    del(&lab, "b", &ipam);
    assert_eq!(lab.list(NETWORK).len(), 7 + 2, "what is not ours stays: {:?}", lab.list(NETWORK));
    lab.sh(&format!("cd {NETWORK}; rm last_reserved_ip.0; ln -s /run/lab/victim last_reserved_ip.0")).success();
    assert_eq!(up(&lab, "c", &ipam), "10.1.2.9/28");
    assert_eq!(lab.read("/run/lab/victim"), "victim");
}

#[test]
fn better_a_full_disk_leaves_nothing_and_loses_nothing() {
    let lab = Lab::new();
    let ipam = merged(two(), &json!({"dataDir": "/run/lab/small"}));
    lab.sh("mkdir -p /run/lab/small; mount -t tmpfs -o size=64k tmpfs /run/lab/small").success();
    up(&lab, "a", &ipam);
    lab.sh("head -c 100000 /dev/zero > /run/lab/small/filler || true; ip netns add b").success();
    at(&lab, "b", &ipam).run().fails_with(999, &["no space left on device"]);
    let files = |lab: &Lab| lab.list("/run/lab/small/net").into_iter().filter(|name| name.starts_with("10.")).count();
    assert_eq!(files(&lab), 1);
    lab.sh("rm /run/lab/small/filler; ip netns del a").success();
    up(&lab, "b", &ipam);
    assert_eq!(up(&lab, "c", &ipam), "10.1.2.2/29");
    assert_eq!(files(&lab), 2);
}

#[test]
fn add_still_hands_out_in_order() {
    let lab = Lab::new();
    assert_eq!(add(&lab, "x", &two()), ["10.1.2.2/29"]);
    let again = call(&lab, &two()).container("x").run();
    again.fails_with(999, &["duplicate allocation is not allowed"]);
}
