//! System calls that a kernel, a file system or a policy refuses, injected by strace: where the reference does without them,
//! so do we, and what is made is the same. Real file systems that refuse calls are in `file_systems`.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::dhcp::{Network, address};
use crate::lab::{Call, Lab, bridge_config, merged, static_config, wait_for, without_random_names};
use crate::{bandwidth, cnitool, firewall, flannel, host_device, masquerade, portmap, sbr, tuning};

/// What the reference makes no use of, or can do without; `?`: if there is a call of that name on this machine.
const DISPENSABLE: [&str; 22] = [
    "?link",
    "linkat",
    "flock",
    "ioctl",
    "getrandom",
    "fsync",
    "ftruncate",
    "pwrite64",
    "pread64",
    "?rename",
    "?renameat",
    "renameat2",
    "setsockopt",
    "getsockopt",
    "name_to_handle_at",
    "open_by_handle_at",
    "utimensat",
    "?readlink",
    "readlinkat",
    "socketpair",
    "sendmsg",
    "unshare",
];

/// What kernels, file systems and policies answer.
pub const ERRORS: [&str; 5] = ["ENOSYS", "EPERM", "EACCES", "EOPNOTSUPP", "EINVAL"];

/// x_tables is spoken to through socket options, under a lock; the link at `iptables` says that it is in use.
const OF_X_TABLES: &[&str] = &["flock", "setsockopt", "getsockopt", "?readlink", "readlinkat"];

const RESULTS: &str = "/var/lib/cni/results";

/// A way to use a plugin.
struct Case {
    plugin: &'static str,
    /// The host with `ns1`, and the configuration of an attachment whose addresses are the same each time.
    make: fn() -> (Lab, Value),
    /// Which of the dispensable calls it needs nevertheless, as the reference does.
    needed: &'static [&'static str],
}

fn case(plugin: &'static str, make: fn() -> (Lab, Value), needed: &'static [&'static str]) -> Case {
    Case { plugin, make, needed }
}

/// One address of each family.
pub fn ipam() -> Value {
    let only = |subnet: &str, one: &str| json!([{"subnet": subnet, "rangeStart": one, "rangeEnd": one}]);
    json!({"type": "host-local", "ranges": [only("10.1.2.0/24", "10.1.2.5"), only("fd00:1:2::/64", "fd00:1:2::5")]})
}

/// What flanneld writes for a host with one address to give.
pub const ONE: &str =
    "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/30\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

fn bridge(flavour: &str, changes: &Value) -> (Lab, Value) {
    let config = bridge_config(&json!({"isDefaultGateway": true, "ipMasq": true, "ipam": null}));
    (masquerade::lab(flavour), merged(merged(config, &json!({"ipam": ipam()})), changes))
}

fn alone(kind: &str, changes: &Value) -> (Lab, Value) {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.sh("ip link add m0 type veth peer name m1; ip link set m0 up; ip link set m1 up").success();
    (lab, merged(json!({"cniVersion": "1.0.0", "name": "net", "type": kind, "ipam": ipam()}), changes))
}

fn mapped_ports(flavour: &str, backend: &str) -> (Lab, Value) {
    (masquerade::lab(flavour), portmap::config(&json!({"snat": true, "backend": backend})))
}

pub fn filtered(flavour: &str, backend: &str) -> (Lab, Value) {
    let changes = json!({"backend": backend, "ingressPolicy": "same-bridge"});
    (firewall::lab(flavour), firewall::config(firewall::DUAL, &changes))
}

/// How many calls of each name the start of a program makes, until it reads its input: the dynamic loader's.
fn at_start(lab: &Lab, call: &Call<'_>) -> HashMap<String, usize> {
    call.clone().traced(&["-o", "/run/lab/trace"], "").run().success();
    let text = lab.read("/run/lab/trace");
    let calls = text.lines().map(|line| line.split_once(' ').unwrap().1.trim_start());
    let mut counts = HashMap::new();
    for call in calls.take_while(|call| !call.starts_with("read(0,")) {
        *counts.entry(call.split('(').next().unwrap().to_string()).or_insert(0) += 1;
    }
    counts
}

/// All verbs succeed and make, find and leave the same however these calls are refused.
fn survives(case: &Case, refusals: &[(Vec<&str>, &str)]) {
    let (lab, config) = (case.make)();
    let ifname = if case.plugin == "loopback" { "lo" } else { "eth0" };
    let add = lab.plugin(case.plugin).ifname(ifname).config(&config);
    let (delete, check) = (add.clone().verb("DEL"), add.clone().verb("CHECK"));
    let plain = |text: &str| without_random_names(text);
    let start = at_start(&lab, &add);
    delete.run().silent();
    let before = lab.snapshot().map(plain);
    let expected = add.run().result();
    let made = lab.snapshot().map(plain);
    delete.run().silent();
    for (names, error) in refusals {
        eprintln!("{} {}: {error} {names:?}", case.plugin, config["ipMasqBackend"]);
        let without = |call: &Call<'_>| {
            let mut call = call.clone();
            for name in names {
                let first = start.get(name.trim_start_matches('?')).unwrap_or(&0) + 1;
                call = call.refused(name, &format!("{error}:when={first}+"));
            }
            call.run()
        };
        let result = without(&add).result();
        assert_eq!(plain(&result.to_string()), plain(&expected.to_string()));
        made.assert_same(&lab.snapshot().map(plain));
        without(&check.clone().config(&merged(config.clone(), &json!({"prevResult": result})))).silent();
        without(&delete).silent();
        before.assert_same(&lab.snapshot().map(plain));
        for verb in ["GC", "STATUS"] {
            let newer = json!({"cniVersion": "1.1.0", "prevResult": null, "cni.dev/valid-attachments": []});
            without(&add.clone().verb(verb).config(&merged(config.clone(), &newer))).silent();
        }
        before.assert_same(&lab.snapshot().map(plain));
    }
}

/// All at once, as a policy that was made for the reference refuses them.
fn survives_all_at_once(case: &Case) {
    let names: Vec<_> = DISPENSABLE.iter().copied().filter(|name| !case.needed.contains(name)).collect();
    survives(case, &[(names.clone(), "ENOSYS"), (names.clone(), "EPERM"), (names, "EINVAL")]);
}

#[test]
fn better_interfaces_are_made_whatever_is_refused_that_the_reference_does_without() {
    let cases = [
        case("loopback", || (masquerade::lab("nft"), json!({"cniVersion": "1.0.0", "name": "net"})), &[]),
        case("bridge", || bridge("nft", &json!({})), &[]),
        case("bridge", || bridge("nft", &json!({"ipMasqBackend": "nftables", "macspoofchk": true})), &[]),
        case("bridge", || bridge("legacy", &json!({})), OF_X_TABLES),
        case("ptp", || alone("ptp", &json!({})), &[]),
        case("macvlan", || alone("macvlan", &json!({"master": "m0"})), &[]),
        // TUNSETIFF.
        case("tap", || alone("tap", &json!({})), &["ioctl"]),
        case("host-device", || (host_device::lab(), host_device::config(&host_device::dual())), &[]),
    ];
    cases.iter().for_each(survives_all_at_once);
}

#[test]
fn better_chained_plugins_work_whatever_is_refused_that_the_reference_does_without() {
    let cases = [
        case("portmap", || mapped_ports("nft", "iptables"), &[]),
        case("portmap", || mapped_ports("nft", "nftables"), &[]),
        case("portmap", || mapped_ports("legacy", "iptables"), OF_X_TABLES),
        case("firewall", || filtered("nft", "iptables"), &[]),
        case("firewall", || filtered("nft", "nftables"), &[]),
        case("firewall", || filtered("legacy", "iptables"), OF_X_TABLES),
        case("tuning", || (tuning::lab(), tuning::config(&json!({"mtu": 1400, "promisc": true}))), &[]),
        // The reference locks the namespace too.
        case("sbr", || (sbr::lab(), sbr::config(sbr::DUAL, &json!({}))), &["flock"]),
        case("bandwidth", || bandwidth::attached(&bandwidth::both()), &[]),
        case("flannel", || (flannel::lab(ONE), flannel::config(&json!({}))), &[]),
    ];
    cases.iter().for_each(survives_all_at_once);
}

#[test]
fn better_addresses_are_given_whatever_is_refused_that_the_reference_does_without() {
    let local = case("host-local", || alone("bridge", &json!({})), &[]);
    survives_all_at_once(&case("static", || alone("bridge", &static_config(&json!({}))), &[]));
    let mut refusals: Vec<_> = DISPENSABLE.iter().map(|name| (vec![*name], "EPERM")).collect();
    refusals.extend(ERRORS.iter().map(|error| (DISPENSABLE.to_vec(), *error)));
    // A limit on links, another mount, no /proc; no lock server.
    let more = ["EMLINK", "EXDEV", "ENOENT", "ENOTTY", "EROFS", "EIO"];
    refusals.extend(more.iter().map(|error| (vec!["?link", "linkat"], *error)));
    refusals.push((vec!["flock"], "ENOLCK"));
    // nsfs before Linux 4.11.
    refusals.push((vec!["ioctl"], "ENOTTY"));
    survives(&local, &refusals);
}

/// What cnitool prints and keeps of an attachment, with these calls refused.
fn attached_by_cnitool(lab: &Lab, refused: &str, error: &str) -> Vec<String> {
    let run = |words: &[&str]| {
        let call = lab.cnitool(words);
        let call = if refused.is_empty() { call } else { call.refused(refused, error) };
        call.run().success().stdout
    };
    let mut said = vec![run(&["status", "n"]), run(&["add", "n", cnitool::NETNS])];
    said.extend(lab.list(RESULTS).iter().map(|name| lab.read(&format!("{RESULTS}/{name}"))));
    for words in [&["check", "n", cnitool::NETNS][..], &["list"], &["gc", "n", cnitool::NETNS]] {
        said.push(run(words));
    }
    said.extend(lab.list(RESULTS));
    said.push(run(&["del", "n", cnitool::NETNS]));
    said.iter().map(|text| without_random_names(text)).collect()
}

#[test]
fn better_cnitool_works_whatever_is_refused_that_the_reference_does_without() {
    let (lab, config) = bridge("nft", &json!({"cniVersion": null, "name": null}));
    let plugins = json!([config, {"type": "tuning", "mtu": 1400}, {"type": "firewall", "backend": "nftables"}]);
    cnitool::network(&lab, "n.conflist", &json!({"cniVersion": "1.1.0", "name": "n", "plugins": plugins}));
    attached_by_cnitool(&lab, "", "");
    let expected = attached_by_cnitool(&lab, "", "");
    assert!(expected.len() == 7 && expected[2].contains("cniCacheV1"), "{expected:#?}");
    let names: Vec<_> = DISPENSABLE.into_iter().filter(|name| *name != "pread64").collect();
    for error in ERRORS {
        assert_eq!(attached_by_cnitool(&lab, &names.join(","), error), expected, "{error}");
    }
}

#[test]
fn better_a_refused_call_that_is_needed_is_named() {
    let lab = sbr::lab();
    let add = lab.plugin("sbr").ifname("net1").config(&sbr::config(sbr::V4, &json!({})));
    add.refused("flock", "EACCES").run().fails(999, "failed to lock netns \"/var/run/netns/ns1\": permission denied");
    let lab = Lab::new();
    lab.netns("ns1");
    lab.executable("/opt/cni/bin/my-ipam", "#!/bin/sh\nread -r all\necho '{}'\n");
    let bridge = lab.plugin("bridge").config(&bridge_config(&json!({"ipam": {"type": "my-ipam"}})));
    bridge.refused("wait4", "EPERM").run().fails_with(999, &["failed to wait for /opt/cni/bin/my-ipam"]);
}

#[test]
fn better_the_dhcp_daemon_does_without_what_the_reference_does_without() {
    let mut network = Network::new();
    network.start_dnsmasq("10.1.2.0,10.1.9.255", &[]);
    let calls = "?link,linkat,signalfd4,ioctl,getrandom,getsockopt,setsockopt,flock,ftruncate,pwrite64";
    let refused = format!("strace -f -qq -o /dev/null -e trace={calls} -e inject={calls}:error=EPERM");
    network.daemon = Some(network.spawn_daemon(&format!("{refused} {}/dhcp", crate::lab::PLUGINS), &[]));
    wait_for("the daemon", || network.status().run().code == Some(0));
    let add = network.container(1).refused("setsockopt,ioctl,getsockopt", "EPERM");
    let result = add.run().result();
    assert!(address(&result).starts_with("10.1."), "{result}");
    assert_eq!((network.records(), network.leases()), (1, 1));
    add.verb("DEL").run().silent();
    assert_eq!(network.records(), 0);
}
