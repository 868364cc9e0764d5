//! Hints in errors: where the kernel's answer has one cause only, and none where the same error
//! number has another.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, bridge_config, host_local_config, merged};

/// Message and details of a failed call.
fn error(call: Call<'_>) -> (String, String) {
    let (_, msg, details) = call.run().error();
    (msg, details)
}

fn without(capability: &str) -> Vec<String> {
    ["setpriv".to_string(), format!("--bounding-set=-{capability}"), format!("--inh-caps=-{capability}")].to_vec()
}

/// The call of a process that lacks a capability.
fn powerless<'a>(call: Call<'a>, capability: &str) -> Call<'a> {
    let words = without(capability);
    call.under(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn lab() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab
}

#[test]
fn better_rights_are_asked_for_where_the_process_lacks_them() {
    let lab = lab();
    let bridge = || lab.plugin("bridge").config(&bridge_config(&json!({})));
    let (msg, details) = error(powerless(bridge(), "net_admin"));
    assert!(msg.ends_with("operation not permitted"), "{msg}");
    assert_eq!(details, "this requires root or CAP_NET_ADMIN, which this process lacks");
    let place = "the network namespace belongs to a user namespace in which this process has no";
    let (_, details) = error(bridge().under(&["unshare", "-Ur"]));
    assert_eq!(details, format!("{place} CAP_NET_ADMIN"));
    let loopback = || lab.plugin("loopback").config(&json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}));
    let (msg, details) = error(powerless(loopback(), "sys_admin"));
    assert!(msg.contains("switching to ns"), "{msg}");
    assert_eq!(details, "this requires root or CAP_SYS_ADMIN, which this process lacks");
    let (msg, details) = error(loopback().under(&["unshare", "-Ur"]));
    assert!(msg.contains("switching to ns"), "{msg}");
    assert_eq!(details, format!("{place} CAP_SYS_ADMIN"));
}

/// A policy (seccomp), a file that may not be changed (chattr +i).
#[test]
fn better_rights_are_not_asked_for_where_something_else_is_refused() {
    let lab = lab();
    let bridge = || lab.plugin("bridge").config(&bridge_config(&json!({})));
    for (calls, answer) in [("setns", "EPERM"), ("sendto", "EPERM"), ("sendto", "EACCES"), ("mkdir,mkdirat", "EPERM")] {
        let (msg, details) = error(bridge().refused(calls, answer));
        assert!(!msg.is_empty() && !details.contains("requires"), "{calls}: {msg}; {details}");
    }
    let alone = lab.plugin("host-local").config(&host_local_config(&json!({"subnet": "10.1.0.0/24"})));
    let (msg, details) = error(powerless(alone.clone(), "net_admin").refused("mkdir,mkdirat", "EPERM"));
    assert!(msg.contains("failed to create directory"), "{msg}");
    assert_eq!(details, "", "{msg}");
    let (_, details) = error(alone.clone().refused("mkdir,mkdirat", "EACCES"));
    assert_eq!(details, "", "root is refused by a security module");
    let other_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let (msg, details) = error(alone.under(&other_user));
    assert!(msg.ends_with("permission denied"), "{msg}");
    assert_eq!(details, "this process does not run as root");
}

fn of_kind(kind: &str, changes: &Value) -> Value {
    let ipam = json!({"type": "host-local", "subnet": "10.1.2.0/24"});
    merged(json!({"cniVersion": "1.0.0", "name": "net", "type": kind, "ipam": ipam}), changes)
}

/// Kernels differ in the kinds of links that they have.
#[test]
fn better_a_missing_kind_of_link_is_told_by_the_kernels_own_text() {
    let lab = lab();
    lab.ok("ip link add m0 type veth peer name m1");
    lab.ok("ip link set m0 up");
    for (kind, changes) in [
        ("ipvlan", json!({"master": "m0"})),
        ("vlan", json!({"master": "m0", "vlanId": 7})),
        ("macvlan", json!({"master": "m0"})),
        ("dummy", json!({})),
        // Not its kind is missing but a feature, or nothing.
        ("bridge", json!({"bridge": "b0", "vlan": 5})),
    ] {
        let outcome = lab.plugin(kind).ifname(kind).config(&of_kind(kind, &changes)).run();
        if outcome.code == Some(0) {
            continue;
        }
        let (_, msg, details) = outcome.error();
        assert_eq!(details.contains("modprobe"), msg.contains("(Unknown device type)"), "{kind}: {msg}; {details}");
        assert!(!details.contains("IPv6"), "{kind}: {msg}; {details}");
        assert!(msg.contains("operation not supported"), "{kind}: {msg}");
    }
}

#[test]
fn better_no_more_space_is_a_full_disk_only_for_files() {
    let lab = lab();
    lab.ok("mkdir -p /run/small");
    lab.ok("mount -t tmpfs -o size=4k,nr_inodes=3 tmpfs /run/small");
    lab.sh("head -c 4096 /dev/zero > /run/small/full").success();
    let config = merged(bridge_config(&json!({})), &json!({"ipam": {"dataDir": "/run/small"}}));
    let (msg, details) = error(lab.plugin("bridge").config(&config));
    assert!(msg.contains("no space left on device"), "{msg}");
    assert_eq!(details, "is the disk full (df, df -i)?");
    for answer in ["ENOSPC", "EMFILE", "ENFILE", "EOPNOTSUPP", "EAFNOSUPPORT", "EXFULL"] {
        let (msg, details) = error(lab.plugin("bridge").config(&bridge_config(&json!({}))).refused("sendto", answer));
        assert_eq!(details, "", "{answer}: {msg}");
    }
}

#[test]
fn better_a_program_that_cannot_be_executed_is_told_why() {
    let lab = lab();
    lab.ok("mkdir /opt/noexec");
    lab.ok("mount -t tmpfs -o noexec tmpfs /opt/noexec");
    lab.executable("/opt/noexec/mine", "#!/bin/sh\n");
    lab.executable("/opt/cni/bin/plain", "#!/bin/sh\n");
    lab.ok("chmod 644 /opt/cni/bin/plain");
    lab.write("/opt/cni/not-executable", "");
    lab.executable("/opt/cni/bin/stopped", "#!/opt/cni/not-executable\n");
    lab.executable("/opt/cni/bin/orphan", "#!/nowhere/python3\n");
    let interpreter = "the file is there: the interpreter in its first line, or its dynamic loader, is missing";
    for (path, kind, msg, wanted) in [
        ("/opt/noexec", "mine", "permission denied", "its file system is mounted noexec"),
        ("/opt/cni/bin", "plain", "permission denied", "is it executable (chmod +x)?"),
        ("/opt/cni/bin", "stopped", "permission denied", ""),
        ("/opt/cni/bin", "orphan", "no such file or directory", interpreter),
    ] {
        let config = merged(bridge_config(&json!({})), &json!({"ipam": {"type": kind}}));
        let (found, details) = error(lab.plugin("bridge").config(&config).env("CNI_PATH", path));
        assert!(found.ends_with(&format!("fork/exec {path}/{kind}: {msg}")), "{found}");
        assert_eq!(details, wanted, "{kind}");
    }
}

/// More refusals than fit into the buffer of a socket.
#[test]
fn better_the_first_of_many_refused_routes_is_named() {
    let lab = lab();
    let route = |number: usize| json!({"dst": format!("20.{}.{}.0/24", number >> 8, number & 255), "gw": "99.9.9.9"});
    let routes: Vec<Value> = (0..2000).map(route).collect();
    let config = merged(bridge_config(&json!({})), &json!({"ipam": {"routes": routes}}));
    let (msg, _) = error(lab.plugin("bridge").config(&config));
    assert!(msg.contains("20.0.0.0/24 via 99.9.9.9") && msg.contains("network is unreachable"), "{msg}");
    assert_eq!((lab.veths().len(), lab.reserved("net").len()), (0, 0));
}
