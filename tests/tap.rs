//! tap: every key, seen in the kernel, by traffic, and in what it leaves when things go wrong. Debian's reference has no
//! tap: see tests/read_back.rs for what 1.9.1 leaves.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::accidents::{MANY, Storm, assert_untouched};
use crate::bridge::{reaches, sysctl};
use crate::kills::{self, Accident};
use crate::lab::{Call, Lab, Outcome, merged};

/// A tap without addresses: `net`, version 1.0.0.
fn config(changes: &Value) -> Value {
    merged(json!({"cniVersion": "1.0.0", "name": "net", "type": "tap"}), changes)
}

/// Addresses of both families.
fn dual() -> Value {
    let ranges = json!([[{"subnet": "10.9.2.0/24"}], [{"subnet": "fd00:9:2::/64"}]]);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.50.0.0/16", "gw": "10.9.2.9"}]);
    json!({"ipam": {"type": "host-local", "ranges": ranges, "routes": routes}})
}

fn lab() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab
}

fn call<'a>(lab: &'a Lab, changes: &Value) -> Call<'a> {
    lab.plugin("tap").config(&config(changes))
}

/// The kernel's word on the device: `tun_flags` (`linux/if_tun.h`), owner and group.
fn kernel_says(lab: &Lab) -> (String, String, String) {
    let read = |file: &str| lab.ok(&format!("ip netns exec ns1 cat /sys/class/net/eth0/{file}")).trim().to_string();
    (read("tun_flags"), read("owner"), read("group"))
}

#[test]
pub fn the_device_is_what_the_reference_makes() {
    let lab = lab();
    let table = [
        // 0x1: tun, 0x2: tap, 0x100: several queues, 0x800: persistent, 0x1000: no packet information, 0x4000: virtio header.
        (json!({}), ("0x1802", "-1", "-1")),
        (json!({"multiQueue": true}), ("0x1902", "-1", "-1")),
        (json!({"owner": 5}), ("0x1802", "5", "-1")),
        (json!({"group": 6}), ("0x1802", "-1", "6")),
        (json!({"owner": 0, "group": 0}), ("0x4802", "0", "0")),
        (json!({"owner": 5, "group": 6, "multiQueue": true}), ("0x5902", "5", "6")),
    ];
    for (changes, (flags, owner, group)) in table {
        let result = call(&lab, &changes).run().result();
        assert_eq!(kernel_says(&lab), (flags.to_string(), owner.to_string(), group.to_string()), "{changes}");
        let link = lab.link_in("ns1", "eth0");
        assert_eq!(link["linkinfo"]["info_data"]["type"], "tap");
        assert_eq!(link["linkinfo"]["info_data"]["persist"], true);
        assert!(link["flags"].as_array().unwrap().contains(&json!("UP")));
        let interfaces = json!([{"name": "eth0", "mac": link["address"], "sandbox": "/var/run/netns/ns1"}]);
        assert_eq!(result["interfaces"], interfaces);
        assert_eq!((result.get("ips"), result.get("routes")), (None, None));
        call(&lab, &changes).verb("DEL").run().silent();
        assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
    }
}

/// With owner and group the reference ignores both.
#[test]
fn better_mtu_and_mac_are_applied_in_every_case() {
    let lab = lab();
    for ids in [json!({}), json!({"owner": 5, "group": 6})] {
        let changes = merged(ids, &json!({"mtu": 1400, "mac": "02:00:00:00:00:01"}));
        let result = call(&lab, &changes).run().result();
        let link = lab.link_in("ns1", "eth0");
        assert_eq!((&link["mtu"], &link["address"]), (&json!(1400), &json!("02:00:00:00:00:01")));
        assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:01");
        call(&lab, &changes).verb("DEL").run().silent();
    }
}

#[test]
fn the_mac_comes_from_runtime_then_cni_args_then_the_configuration() {
    let lab = lab();
    let own = json!({"mac": "02:00:00:00:00:01"});
    let runtime = merged(own.clone(), &json!({"runtimeConfig": {"mac": "02:00:00:00:00:03"}}));
    for (changes, args, mac) in [
        (&own, "", "02:00:00:00:00:01"),
        (&own, "MAC=02:00:00:00:00:02", "02:00:00:00:00:02"),
        (&runtime, "MAC=02:00:00:00:00:02", "02:00:00:00:00:03"),
    ] {
        let call = call(&lab, changes).args(args);
        assert_eq!(call.run().result()["interfaces"][0]["mac"], mac);
        assert_eq!(lab.link_in("ns1", "eth0")["address"], mac);
        call.verb("DEL").run().silent();
    }
    call(&lab, &own).args("FOO=1").run().fails_with(999, &["ARGS: unknown args [\"FOO=1\"]"]);
}

#[test]
fn addresses_and_routes_are_those_of_ipam_and_dns_is_the_configurations() {
    let lab = lab();
    let dns = json!({"domain": "example"});
    let mut config = config(&merged(dual(), &json!({"dns": dns})));
    let result = lab.plugin("tap").config(&config).run().result();
    let ips = json!([{"address": "10.9.2.2/24", "gateway": "10.9.2.1", "interface": 0},
        {"address": "fd00:9:2::2/64", "gateway": "fd00:9:2::1", "interface": 0}]);
    assert_eq!((&result["ips"], &result["dns"]), (&ips, &dns));
    assert_eq!(lab.addresses("ns1", "eth0"), ["10.9.2.2/24", "fd00:9:2::2/64"]);
    let routes: Vec<_> = lab.routes("ns1", "-4").iter().map(|line| line.replace(" linkdown", "")).collect();
    let subnet = "10.9.2.0/24 dev eth0 proto kernel scope link src 10.9.2.2";
    assert_eq!(routes, ["default via 10.9.2.1 dev eth0", subnet, "10.50.0.0/16 via 10.9.2.9 dev eth0"]);
    assert_eq!(sysctl(&lab, "ns1", "net/ipv4/conf/eth0/arp_notify"), "1");
    config["prevResult"] = result;
    lab.plugin("tap").verb("CHECK").config(&config).run().silent();
    lab.plugin("tap").verb("DEL").config(&config).run().silent();
    assert_eq!(lab.reserved("net"), [""; 0]);
}

#[test]
fn it_becomes_a_port_of_a_bridge_in_the_container() {
    let lab = lab();
    let changes = json!({"bridge": "br0"});
    let before = lab.snapshot();
    call(&lab, &changes).run().fails(999, "failed to get bridge br0: Link not found");
    assert_untouched(&lab, &before);
    lab.ok("ip link add br0 type bridge");
    call(&lab, &changes).run().fails(999, "failed to get bridge br0: Link not found");
    lab.ok("ip -n ns1 link add br0 type bridge");
    let mut config = config(&changes);
    config["prevResult"] = call(&lab, &changes).run().result();
    assert_eq!(lab.link_in("ns1", "eth0")["master"], "br0");
    lab.plugin("tap").verb("CHECK").config(&config).run().silent();
    lab.ok("ip -n ns1 link set eth0 nomaster");
    lab.plugin("tap").verb("CHECK").config(&config).run().fails(999, "tap: Interface eth0 is no port of bridge br0");
}

/// Holds the device `eth0` of a namespace, as a virtual machine would; `netns` empty is the host.
fn hold(lab: &Lab, netns: &str, flags: i32) -> File {
    let space = match netns {
        "" => format!("/proc/{}/ns/net", lab.pid()).into(),
        netns => lab.path(&format!("/run/netns/{netns}")),
    };
    let space = File::open(space).unwrap();
    let work = move || {
        // SAFETY: the descriptor is open; only this thread, which ends soon, changes its namespace.
        assert_eq!(unsafe { libc::setns(space.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
        let tun = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: zeros are a valid `ifreq`, and TUNSETIFF takes one.
        let attached = unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            for (place, byte) in request.ifr_name.iter_mut().zip(b"eth0") {
                *place = *byte as libc::c_char;
            }
            request.ifr_ifru.ifru_flags = (flags | libc::IFF_TAP) as i16;
            libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &mut request)
        };
        assert_eq!(attached, 0, "{}", std::io::Error::last_os_error());
        tun
    };
    std::thread::spawn(work).join().unwrap()
}

/// Carries frames from one to the other until told to stop.
fn carry(mut from: &File, mut to: &File, stop: &AtomicBool) {
    let mut frame = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which lives until the call returns.
        if unsafe { libc::poll(&mut ready, 1, 50) } == 1 {
            let length = from.read(&mut frame).unwrap();
            to.write_all(&frame[..length]).unwrap();
        }
    }
}

#[test]
pub fn frames_pass_between_two_containers_whose_taps_somebody_holds() {
    let lab = lab();
    let ns2 = lab.netns("ns2");
    let direct = json!({"owner": 0, "group": 0, "multiQueue": true});
    for (changes, flags) in
        [(json!({}), libc::IFF_NO_PI), (direct, libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR)]
    {
        let one = call(&lab, &merged(dual(), &changes));
        let two = one.clone().container("c2").netns(&ns2);
        let mine = one.run().result()["ips"].clone();
        let theirs = two.run().result()["ips"].clone();
        let address =
            |ips: &Value, at: usize| ips[at]["address"].as_str().unwrap().split('/').next().unwrap().to_string();
        // Held until after they are deleted.
        let (left, right) = (hold(&lab, "ns1", flags), hold(&lab, "ns2", flags));
        connected(&left, &right, || {
            for family in 0..2 {
                reaches(&lab, "ns1", &address(&theirs, family));
                reaches(&lab, "ns2", &address(&mine, family));
            }
        });
        // A device that is held can be deleted all the same.
        one.verb("DEL").run().silent();
        two.verb("DEL").run().silent();
        assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
    }
}

/// Frames pass both ways while `work` is done.
fn connected(left: &File, right: &File, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| carry(left, right, &stop));
        scope.spawn(|| carry(right, left, &stop));
        // Whatever happens, those two must end, or the test never would.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        done.unwrap();
    });
}

#[test]
pub fn frames_pass_between_a_container_and_the_host() {
    let lab = lab();
    call(&lab, &dual()).run().result();
    lab.ok("ip tuntap add dev eth0 mode tap");
    lab.ok("ip addr add 10.9.2.1/24 dev eth0");
    lab.ok("ip addr add fd00:9:2::1/64 dev eth0 nodad");
    lab.ok("ip link set eth0 up");
    connected(&hold(&lab, "ns1", libc::IFF_NO_PI), &hold(&lab, "", libc::IFF_NO_PI), || {
        for (netns, address) in [("ns1", "10.9.2.1"), ("ns1", "fd00:9:2::1"), ("", "10.9.2.2"), ("", "fd00:9:2::2")] {
            reaches(&lab, netns, address);
        }
    });
}

/// The reference reports success and leaves a second device, which nobody ever deletes.
#[test]
fn better_a_second_add_fails_and_leaves_the_first_alone() {
    let lab = lab();
    for ids in [json!({}), json!({"owner": 5, "group": 6})] {
        let changes = merged(dual(), &ids);
        let add = call(&lab, &changes);
        add.run().result();
        let (before, links) = (lab.snapshot(), lab.ip("-n ns1 addr show"));
        add.run().fails(999, "failed to create tap \"eth0\": file exists");
        before.assert_same(&lab.snapshot());
        assert_eq!(lab.ip("-n ns1 addr show"), links);
        add.verb("DEL").run().silent();
    }
    lab.ok("ip -n ns1 link add eth0 type bridge");
    call(&lab, &json!({})).run().fails(999, "failed to create tap \"eth0\": file exists");
    assert_eq!(lab.link_in("ns1", "eth0")["linkinfo"]["info_kind"], "bridge");
}

#[test]
fn better_a_failed_add_leaves_everything_as_it_was() {
    let lab = lab();
    call(&lab, &dual()).run().result();
    call(&lab, &dual()).verb("DEL").run().silent();
    let before = lab.snapshot();
    let unreachable = json!([{"dst": "10.8.0.0/16", "gw": "192.0.2.1"}]);
    for (changes, parts) in [
        (json!({"mtu": -1}), vec!["failed to load netconf: invalid mtu -1"]),
        (json!({"mtu": 10}), vec!["failed to set mac or mtu of tap \"eth0\"", "invalid argument"]),
        (json!({"mac": "zz"}), vec!["invalid args zz for MAC addr: address zz: invalid MAC address"]),
        (json!({"mac": "01:00:00:00:00:01"}), vec!["failed to set mac or mtu of tap \"eth0\""]),
        (
            json!({"owner": -1}),
            vec!["failed to load netconf", "cannot unmarshal number -1", "\"owner\" of type uint32"],
        ),
        (json!({"group": "x"}), vec!["failed to load netconf", "cannot unmarshal string", "\"group\""]),
        (json!({"owner": 4_294_967_295_u32}), vec!["failed to create tap \"eth0\": invalid argument"]),
        (json!({"bridge": "lo"}), vec!["failed to set tap eth0 as a port of bridge lo"]),
        (json!({"ipam": {"type": "nope"}}), vec!["failed to find plugin \"nope\" in path"]),
        (json!({"ipam": {"type": "static"}}), vec!["IPAM plugin returned missing IP config"]),
        (json!({"ipam": {"routes": unreachable}}), vec!["10.8.0.0", "unreachable"]),
        (json!({"cniVersion": "0.2.0", "ipam": null}), vec!["cannot convert: no valid IP addresses"]),
    ] {
        lab.plugin("tap").config(&merged(config(&dual()), &changes)).run().fails_with(999, &parts);
        eprintln!("{changes}");
        assert_untouched(&lab, &before);
    }
    let pattern = call(&lab, &json!({})).ifname("eth%d").run();
    pattern.fails_with(999, &["failed to create tap \"eth%d\"", "invalid argument"]);
    let gone = call(&lab, &json!({})).netns("/var/run/netns/gone").run();
    gone.fails_with(999, &["failed to open netns", "no such file or directory"]);
    assert_untouched(&lab, &before);
}

#[test]
fn better_no_other_program_is_started() {
    let lab = lab();
    let strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", "/run/lab/trace"];
    call(&lab, &json!({"mtu": 1400})).under(&strace).run().result();
    assert_eq!(lab.read("/run/lab/trace").lines().count(), 1, "{}", lab.read("/run/lab/trace"));
}

#[test]
fn a_context_without_selinux_is_an_error_that_says_so() {
    let lab = lab();
    let before = lab.snapshot();
    let error = call(&lab, &json!({"selinuxContext": "system_u:system_r:container_t:s0"})).run().error();
    assert!(error.1.contains("failed set socket label: write /proc/thread-self/attr/exec"), "{error:?}");
    assert!(error.2.contains("without SELinux"), "{error:?}");
    assert_untouched(&lab, &before);
}

/// This kernel has no SELinux, so strace answers in its place the two writes that set the label and take it back.
#[test]
fn better_with_a_context_the_device_is_made_by_ourselves_run_once_more() {
    let lab = lab();
    let strace = |inject: &str| {
        let changes = json!({"selinuxContext": "a:b:c", "owner": 5, "group": 6, "multiQueue": true});
        let words = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=write,execve", "-e", inject];
        call(&lab, &changes).under(&words).run()
    };
    // A first time to learn which write it is.
    strace("inject=write:when=99:error=EIO").error();
    let trace = lab.read("/run/lab/trace");
    let mut writes = trace.lines().filter(|line| line.contains(" write("));
    let label = writes.position(|line| line.contains("a:b:c")).unwrap() + 1;
    let result = strace(&format!("inject=write:retval=5:when={label}..{}", label + 1)).result();
    let trace = lab.read("/run/lab/trace");
    let programs: Vec<_> = trace.lines().filter(|line| line.contains("execve(")).collect();
    assert_eq!(programs.len(), 2, "{trace}");
    assert!(programs[1].contains(r#"["cni-box", "--create-tap", "eth0", "4352", "5", "6"]"#), "{trace}");
    assert_eq!(kernel_says(&lab), ("0x1902".to_string(), "5".to_string(), "6".to_string()));
    assert_eq!(result["interfaces"][0]["mac"], lab.link_in("ns1", "eth0")["address"]);
    let second = strace(&format!("inject=write:retval=5:when={label}..{}", label + 1));
    second.fails(999, "failed to create tap \"eth0\": file exists");
}

fn attached(changes: &Value) -> (Lab, Value) {
    let lab = lab();
    let mut config = config(changes);
    config["prevResult"] = lab.plugin("tap").config(&config).run().result();
    (lab, config)
}

fn run(lab: &Lab, verb: &str, config: &Value) -> Outcome {
    lab.plugin("tap").verb(verb).config(config).run()
}

/// The reference looks at addresses and routes only.
#[test]
fn better_check_looks_at_the_device() {
    let table = [
        ("ip -n ns1 link del eth0", "Cannot find container link eth0"),
        ("ip -n ns1 link del eth0; ip -n ns1 link add eth0 type bridge", "tap: Interface eth0 is of kind \"bridge\""),
        ("ip -n ns1 link set eth0 address 02:00:00:00:00:09", "doesn't match container Mac: 02:00:00:00:00:09"),
    ];
    for (accident, part) in table {
        let (lab, config) = attached(&json!({}));
        run(&lab, "CHECK", &config).silent();
        lab.sh(accident).success();
        run(&lab, "CHECK", &config).fails_with(999, &[part]);
    }
}

#[test]
fn check_looks_at_addresses_routes_and_reservation() {
    let table = [
        ("ip -n ns1 addr del 10.9.2.2/24 dev eth0", "Failed to match addr 10.9.2.2/24 on interface eth0"),
        ("ip -n ns1 route del default", "Expected Route"),
        ("rm /var/lib/cni/networks/net/10.9.2.2", "host-local: Failed to find address 10.9.2.2 added by container c1"),
    ];
    for (accident, part) in table {
        let (lab, config) = attached(&dual());
        lab.sh(accident).success();
        run(&lab, "CHECK", &config).fails_with(999, &[part]);
        run(&lab, "CHECK", &merged(config, &json!({"prevResult": null}))).error();
    }
}

#[test]
fn better_del_cleans_up_whatever_became_of_the_namespace() {
    let path = Some("/var/run/netns/ns1");
    for (what, script, netns) in [
        ("all is well", "true", path),
        ("the namespace is gone", "ip netns del ns1", path),
        ("the path names no namespace", "umount /run/netns/ns1", path),
        ("the path is a plain file", "echo x > /run/lab/file; ip netns del ns1", Some("/run/lab/file")),
        ("no namespace is given", "ip netns del ns1", None),
        ("the link is gone", "ip -n ns1 link del eth0", path),
        ("the reservation is gone", "rm -rf /var/lib/cni/networks", path),
    ] {
        let (lab, config) = attached(&dual());
        lab.sh(script).success();
        let call = lab.plugin("tap").verb("DEL").config(&config).args("nonsense");
        let call = netns.map_or_else(|| call.clone().without("CNI_NETNS"), |path| call.clone().netns(path));
        for _ in 0..2 {
            call.run().silent();
            assert_eq!(lab.reserved("net"), [""; 0], "{what}");
        }
        if what == "all is well" {
            assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
        }
    }
}

#[test]
fn newer_gc_and_status_are_passed_on_and_status_wants_the_driver() {
    let lab = lab();
    lab.executable("/run/lab/bin/my-ipam", "#!/bin/sh\ncat >/dev/null; echo $CNI_COMMAND >> /run/lab/calls\n");
    let good = config(&json!({"cniVersion": "1.1.0", "ipam": {"type": "my-ipam"}}));
    let call = |verb: &str| lab.plugin("tap").env("CNI_PATH", "/run/lab/bin").verb(verb).config(&good).run();
    call("GC").silent();
    call("STATUS").silent();
    assert_eq!(lab.read("/run/lab/calls"), "GC\nSTATUS\n");
    lab.ok("mount -t tmpfs tmpfs /dev/net");
    call("STATUS").fails(50, "tap devices cannot be created: failed to open /dev/net/tun: no such file or directory");
    call("ADD").fails(999, "failed to create tap \"eth0\": failed to open /dev/net/tun: no such file or directory");
}

fn accidents(accident: Accident) {
    let lab = lab();
    kills::suffers(&lab, call(&lab, &merged(dual(), &json!({"mtu": 1400, "owner": 5}))), 4, accident);
}

#[test]
fn better_an_add_that_is_refused_any_of_its_changes_leaves_everything_as_it_was() {
    accidents(Accident::Refused);
}

#[test]
fn better_del_cleans_up_after_an_add_killed_before_any_of_its_changes() {
    accidents(Accident::Killed);
}

#[test]
fn two_hundred_containers_at_once() {
    let lab = Lab::new();
    let config = config(&dual());
    let storm = Storm::new(&lab, MANY, |_| lab.plugin("tap").config(&config));
    let devices = || {
        let script = format!("for i in $(seq 0 {}); do ip -n many$i -o link show type tun; done | wc -l", MANY - 1);
        lab.sh(&script).success().stdout.trim().parse().unwrap_or(0)
    };
    storm.all("ADD");
    assert_eq!((lab.reserved("net").len(), devices()), (2 * MANY, MANY));
    storm.all("DEL");
    assert_eq!((lab.reserved("net").len(), devices()), (0, 0));
}
