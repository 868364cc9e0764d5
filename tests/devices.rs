//! What must be true of every plugin whose device lies on another one, or on nothing: macvlan (tests/macvlan.rs, here) and
//! vlan, ipvlan and dummy (tests/guest/devices.rs, where the kernel has them).

use serde_json::{Value, json};

use crate::accidents::{MANY, Storm, assert_untouched};
use crate::kills::{Accident, Trial};
use crate::lab::{Call, Lab, Outcome, Snapshot, merged, without_random_names};

/// A plugin and a configuration that it can carry out on [`host`].
#[derive(Clone)]
pub struct Device {
    pub plugin: &'static str,
    pub config: Value,
}

impl Device {
    /// `plugin` on `m0`, with host-local.
    pub fn new(plugin: &'static str, changes: &Value) -> Device {
        let ranges = json!([[{"subnet": "10.1.2.0/24"}]]);
        let base = json!({"cniVersion": "1.0.0", "name": "net", "type": plugin, "master": "m0",
            "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "10.9.0.0/16"}]}});
        Device { plugin, config: merged(base, changes) }
    }

    /// In both families. An address in the second takes a second or two: duplicate address detection.
    pub fn dual(&self) -> Device {
        let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
        self.with(&json!({"ipam": {"ranges": ranges}}))
    }

    pub fn with(&self, changes: &Value) -> Device {
        Device { config: merged(self.config.clone(), changes), ..self.clone() }
    }

    pub fn call<'a>(&self, lab: &'a Lab) -> Call<'a> {
        lab.plugin(self.plugin).config(&self.config)
    }

    pub fn add(&self, lab: &Lab) -> Outcome {
        self.call(lab).run()
    }

    /// The same with the result of an ADD.
    pub fn attached(&self, lab: &Lab) -> Device {
        self.with(&json!({"prevResult": self.add(lab).result()}))
    }

    /// What the kernel calls it.
    fn kind_of(&self, lab: &Lab) -> Value {
        lab.link_in("ns1", "eth0")["linkinfo"]["info_kind"].clone()
    }
}

/// A host with the namespaces `ns1` and `ns2`, and a cable of which `m0` is the end on the host and `m1` in `outside`.
pub fn host() -> Lab {
    let lab = Lab::new();
    let netns = "netns add ns1\nnetns add ns2\nnetns add outside\n";
    let links = "link add m0 mtu 1450 type veth peer name m1 netns outside\nlink set m0 up\n";
    Call::new(&lab, "ip").args_list(&["-batch", "-"]).stdin(format!("{netns}{links}")).run().success();
    lab.ok("ip -n outside link set m1 up");
    lab
}

pub fn second(call: Call<'_>) -> Call<'_> {
    call.container("c2").netns("/var/run/netns/ns2")
}

/// The result, the device and what is on it are as told.
pub fn is_made_as_told(device: &Device) {
    let lab = host();
    let result = device.dual().add(&lab).result();
    let link = lab.link_in("ns1", "eth0");
    let interfaces = json!([{"name": "eth0", "mac": link["address"], "sandbox": "/var/run/netns/ns1"}]);
    assert_eq!(result["interfaces"], interfaces);
    let ips = json!([{"address": "10.1.2.2/24", "gateway": "10.1.2.1", "interface": 0},
        {"address": "fd00:1:2::2/64", "gateway": "fd00:1:2::1", "interface": 0}]);
    assert_eq!((&result["ips"], &result["routes"]), (&ips, &json!([{"dst": "10.9.0.0/16"}])));
    assert_eq!(device.kind_of(&lab), device.plugin);
    assert!(link["flags"].as_array().unwrap().contains(&json!("UP")), "{link}");
    assert_eq!(lab.addresses("ns1", "eth0"), ["10.1.2.2/24", "fd00:1:2::2/64"]);
    assert!(lab.routes("ns1", "").contains(&"10.9.0.0/16 via 10.1.2.1 dev eth0".to_string()));
    assert_eq!(lab.ok("ip -n ns1 addr show eth0 scope global tentative"), "", "ADD waits until addresses can be used");
}

/// The device announces its addresses.
pub fn announces(device: &Device) {
    let lab = host();
    device.add(&lab).result();
    for (family, setting) in [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")] {
        let path = format!("net/{family}/conf/eth0/{setting}");
        assert_eq!(crate::bridge::sysctl(&lab, "ns1", &path), "1", "{path}");
    }
}

/// A second ADD fails, takes nothing and leaves the first alone.
pub fn second_add_fails(device: &Device, text: &str) {
    let lab = host();
    let attached = device.attached(&lab);
    let inside = || (lab.link_in("ns1", "eth0")["address"].clone(), lab.addresses("ns1", "eth0"));
    let before = (lab.snapshot(), inside());
    device.add(&lab).fails(999, text);
    before.0.assert_same(&lab.snapshot());
    assert_eq!(inside(), before.1);
    attached.call(&lab).verb("CHECK").run().silent();
}

/// A host that has a link with the name the container's is to have: kernels before 6.15 would not let the container.
pub fn a_link_of_the_host_may_have_the_same_name(device: &Device) {
    let lab = host();
    lab.ok("ip link add eth0 type bridge");
    let before = lab.snapshot();
    let attached = device.attached(&lab);
    assert_eq!(device.kind_of(&lab), device.plugin);
    attached.call(&lab).verb("CHECK").run().silent();
    attached.call(&lab).verb("DEL").run().silent();
    assert_untouched(&lab, &before);
    // The name is taken in both places.
    lab.ok("ip -n ns1 link add eth0 type bridge");
    device.add(&lab).fails_with(999, &["failed to ", "file exists"]);
    before.assert_same(&lab.snapshot());
    assert_eq!(lab.ip("-n ns1 link show").as_array().unwrap().len(), 2);
}

/// States of the host in which DEL removes what is left, and succeeds when it is repeated.
pub fn del_cleans_up_in_every_state(device: &Device) {
    for (what, script, netns) in [
        ("all is well", "true", "/var/run/netns/ns1"),
        ("the namespace is gone", "ip netns del ns1", "/var/run/netns/ns1"),
        ("the path names no namespace", "umount /run/netns/ns1", "/var/run/netns/ns1"),
        ("no namespace is given", "ip netns del ns1", ""),
        ("the link is gone", "ip -n ns1 link del eth0", "/var/run/netns/ns1"),
        ("the master is gone", "ip link del m0", "/var/run/netns/ns1"),
        ("the reservations are gone", "rm -rf /var/lib/cni/networks", "/var/run/netns/ns1"),
    ] {
        let lab = host();
        let attached = device.attached(&lab);
        lab.sh(script).success();
        for call in [attached.call(&lab), device.call(&lab), device.call(&lab)] {
            call.verb("DEL").netns(netns).run().silent();
            assert_eq!(lab.reserved("net"), [""; 0], "{what}");
        }
        if lab.exists("/run/netns/ns1") && !script.starts_with("umount") {
            assert_eq!(lab.link_in("ns1", "eth0"), Value::Null, "{what}");
        }
    }
}

/// DEL with an IPAM plugin that fails still removes the link, and says what failed.
pub fn del_removes_the_link_first(device: &Device) {
    let lab = host();
    device.add(&lab).result();
    let broken = device.with(&json!({"ipam": {"type": "no-such-plugin"}}));
    broken.call(&lab).verb("DEL").run().fails_with(999, &["no-such-plugin"]);
    assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
}

/// Names of the links on the host and in `ns1`, and the addresses that are reserved: what [`Lab::snapshot`] would tell first,
/// for where it would be asked too often.
fn brief(lab: &Lab) -> Vec<String> {
    let links = ["link show", "-n ns1 link show"].map(|words| lab.ip(words));
    let names = links.iter().flat_map(|links| links.as_array().unwrap().iter().map(|link| link["ifname"].to_string()));
    names.chain(lab.reserved("net")).collect()
}

/// Bad input, and a script that makes the host bad: code and words of the reference, to which ours may add, and nothing
/// changed.
pub fn failures_have_the_references_words(device: &Device, cases: &[(Value, &str)]) {
    for (changes, script) in cases {
        let lab = host();
        lab.sh(script).success();
        let (device, before) = (device.with(changes), brief(&lab));
        let ours = device.add(&lab).error();
        assert_eq!(brief(&lab), before, "{changes} {script}");
        let theirs = lab.reference(device.plugin).config(&device.config).run().error();
        assert_eq!(ours.0, theirs.0, "{changes} {script}");
        let (ours, theirs) = (without_random_names(&ours.1), without_random_names(&theirs.1));
        assert!(ours.contains(&theirs), "{changes} {script}: {ours:?} instead of {theirs:?}");
    }
}

/// Everything that fails, with its words, and leaves nothing.
pub fn failures_leave_nothing(device: &Device, own: &[(Value, &str)]) {
    let routes = |routes: Value| json!({"ipam": {"routes": routes}});
    let twice = json!({"ipam": {"type": "static", "ranges": null, "routes": null,
        "addresses": [{"address": "10.1.2.9/24"}, {"address": "10.1.2.9/24"}]}});
    let none = json!({"ipam": {"type": "static", "ranges": null}});
    let common = [
        (routes(json!([{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}])), "failed to add route '10.9.0.0/16 via 192.0.2.1"),
        (twice, "failed to add IP addr 10.1.2.9/24 to \"eth0\": file exists"),
        (none, "IPAM plugin returned missing IP config"),
        (json!({"ipam": {"type": "nope"}}), "failed to find plugin \"nope\" in path"),
        (json!({"ipam": {"ranges": [[{"subnet": "10.1.2.0/31"}]]}}), "too small to allocate from"),
        (
            json!({"cniVersion": "0.2.0", "ipam": {"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}]]}}),
            "does not support more than 1 address per family",
        ),
    ];
    let lab = host();
    let (all, before) = (lab.snapshot(), brief(&lab));
    for (changes, text) in common.iter().chain(own) {
        eprintln!("{changes}");
        device.with(changes).add(&lab).fails_with(999, &[text]);
        assert_eq!(brief(&lab), before);
    }
    for (netns, text) in [("/var/run/netns/gone", "no such file or directory"), ("/etc", "unknown FS magic")] {
        device.call(&lab).netns(netns).run().fails_with(999, &["failed to open netns", text]);
    }
    device.call(&lab).ifname("eth%d").run().fails_with(999, &["invalid interface name"]);
    assert_untouched(&lab, &all);
}

/// Accidents to an ADD on a host on which `prepare` was run first; ADD works again after them.
fn accidents(device: &Device, prepare: &str, accident: Accident, which: fn(&str) -> bool) {
    let lab = host();
    lab.sh(prepare).success();
    let (add, delete) = (device.call(&lab), device.call(&lab).verb("DEL"));
    add.run().result();
    delete.run().silent();
    let (all, before) = (lab.snapshot(), brief(&lab));
    let untouched = || assert_eq!(brief(&lab), before);
    // The ioctls find the device's index, after it has been made.
    Trial { lab: &lab, add: add.clone(), delete, ioctls: 3, which, untouched: &untouched }.suffers(accident);
    assert_untouched(&lab, &all);
    add.run().result();
}

/// Dies before each of its changes; DEL leaves nothing.
pub fn killed_adds_are_cleaned_up(device: &Device, prepare: &str, which: fn(&str) -> bool) {
    accidents(device, prepare, Accident::Killed, which);
}

/// Each of its system calls that matter fails once; a failed ADD leaves nothing that a DEL would have to remove.
pub fn failed_steps_are_undone(device: &Device, which: fn(&str) -> bool) {
    accidents(device, "true", Accident::Refused, which);
}

/// ADD and DEL of many containers at once.
pub fn many_at_once(device_of: impl Fn(usize) -> Device + Sync) {
    let lab = host();
    let storm = Storm::new(&lab, MANY, |one| device_of(one).call(&lab));
    storm.all("ADD");
    assert_eq!(lab.reserved("net").len(), MANY);
    storm.all("DEL");
    assert_eq!(lab.reserved("net"), [""; 0]);
}

/// Accidents, and what CHECK says of them.
pub fn check_names_what_is_wrong(device: &Device, own: &[(&str, &str)]) {
    let common = [
        ("ip -n ns1 link del eth0", "Container Interface name in prevResult: eth0 not found"),
        ("ip -n ns1 addr del 10.1.2.2/24 dev eth0", "Failed to match addr 10.1.2.2/24 on interface eth0"),
        ("ip -n ns1 route del 10.9.0.0/16", "Expected Route 10.9.0.0/16 not found"),
        ("rm /var/lib/cni/networks/net/10.1.2.2", "host-local: Failed to find address"),
    ];
    for (accident, text) in common.iter().chain(own) {
        let lab = host();
        let attached = device.attached(&lab);
        attached.call(&lab).verb("CHECK").run().silent();
        lab.sh(accident).success();
        attached.call(&lab).verb("CHECK").run().fails_with(999, &[text]);
    }
    let lab = host();
    let attached = device.attached(&lab);
    let other = attached.call(&lab).verb("CHECK").netns("/var/run/netns/ns2").run();
    other.fails_with(999, &["Sandbox in prevResult"]);
    device.call(&lab).verb("CHECK").run().fails_with(999, &["prevResult missing"]);
}

/// The kernel puts a device whose master is of its own kind beside it: that is no fault, but another master is.
pub fn check_knows_a_master_of_the_same_kind(device: &Device, words: &str) {
    let lab = host();
    lab.ok(&format!("ip link add link m0 name n0 type {words}"));
    lab.ok("ip link set n0 up");
    let attached = device.with(&json!({"master": "n0"})).attached(&lab);
    assert_eq!(lab.link_in("ns1", "eth0")["link_index"], lab.link("m0")["ifindex"]);
    attached.call(&lab).verb("CHECK").run().silent();
    lab.sh("ip link del n0; ip link add n0 type bridge").success();
    attached.call(&lab).verb("CHECK").run().fails_with(999, &["Interface eth0 does not lie on master \"n0\""]);
}

/// What either side makes: result, the host, and the container's link, addresses and routes.
fn made_by(theirs: bool, device: &Device) -> (Value, Snapshot, String) {
    let lab = host();
    let call = if theirs { lab.reference(device.plugin) } else { lab.plugin(device.plugin) };
    let result = without_random_names(&call.config(&device.config).run().success().stdout);
    let mut result: Value = serde_json::from_str(&result).unwrap();
    result.as_object_mut().unwrap().retain(|key, value| key != "dns" || *value != json!({}));
    let text = ["-d link show eth0", "addr show eth0 scope global", "route show", "-6 route show"]
        .map(|words| lab.ok(&format!("ip -n ns1 {words}")));
    // Old versions of the reference make a queue of no length; newer ones, and we, leave the kernel's.
    let text = without_random_names(&text.concat()).replace(" qlen 1000", "").replace("default \n", "default\n");
    let lines = text.lines().filter(|line| !line.contains("fe80::") && !line.contains("multicast"));
    (result, lab.snapshot().map(without_random_names), lines.collect::<Vec<_>>().join("\n"))
}

/// Both make the same; what one made the other checks and deletes.
pub fn agrees_with_the_reference(device: &Device) {
    // Old versions of the reference, which do not know where a route without a gateway leads, take it for missing.
    let device = &device.dual().with(&json!({"ipam": {"routes": [{"dst": "10.9.0.0/16", "gw": "10.1.2.1"}]}}));
    let (ours, theirs) = (made_by(false, device), made_by(true, device));
    assert_eq!(ours.0, theirs.0);
    theirs.1.assert_same(&ours.1);
    assert_eq!(ours.2, theirs.2);
    for theirs_first in [true, false] {
        let lab = host();
        let before = lab.snapshot();
        let call = |theirs: bool| if theirs { lab.reference(device.plugin) } else { lab.plugin(device.plugin) };
        let result = call(theirs_first).config(&device.config).run().result();
        let config = merged(device.config.clone(), &json!({"prevResult": result}));
        call(!theirs_first).verb("CHECK").config(&config).run().silent();
        call(!theirs_first).verb("DEL").config(&config).run().silent();
        assert_untouched(&lab, &before);
        call(theirs_first).verb("DEL").config(&config).run().silent();
    }
}

/// GC reaches the IPAM plugin.
pub fn gc_reaches_ipam(device: &Device) {
    let lab = host();
    lab.executable("/run/lab/bin/my-ipam", "#!/bin/sh\necho $CNI_COMMAND >> /run/lab/calls; cat >> /run/lab/calls\n");
    let valid = json!([{"containerID": "c2", "ifname": "eth0"}]);
    let changes = json!({"cniVersion": "1.1.0", "ipam": {"type": "my-ipam"}, "cni.dev/valid-attachments": valid});
    device.with(&changes).call(&lab).verb("GC").env("CNI_PATH", "/run/lab/bin").run().silent();
    let calls = lab.read("/run/lab/calls");
    assert!(calls.starts_with("GC\n") && calls.contains("\"containerID\":\"c2\""), "{calls}");
}

/// STATUS asks the master and the IPAM plugin, and fails where ADD fails.
pub fn status_tells(device: &Device, accidents: &[(&str, i64, &str)]) {
    let device = device.with(&json!({"cniVersion": "1.1.0"}));
    for (accident, code, text) in accidents {
        let lab = host();
        device.call(&lab).verb("STATUS").run().silent();
        lab.sh(accident).success();
        device.call(&lab).verb("STATUS").run().fails_with(*code, &[text]);
        device.add(&lab).error();
    }
    let lab = host();
    let broken = device.with(&json!({"ipam": {"type": "nope"}}));
    broken.call(&lab).verb("STATUS").run().fails_with(999, &["failed to find plugin \"nope\""]);
}
