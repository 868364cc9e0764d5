//! The firewall plugin where several attachments have the same address: two networks with one
//! subnet.

use serde_json::{Value, json};

use crate::firewall::Side::{Ours, Theirs};
use crate::firewall::{DUAL, FLAVOURS, V4, config, lab, run, tables};
use crate::firewall_policy::{Net, STORES};
use crate::gc_command::all_in_sight;
use crate::lab::{Lab, Outcome, merged, wait_for};

const RECORDS: &str = "/run/cni-box/firewall";

/// An attachment: network, container and interface.
type Attachment<'a> = (&'a str, &'a str, &'a str);

/// Two networks, and two interfaces of one container.
const PAIRS: [[Attachment<'_>; 2]; 2] =
    [[("net", "c1", "eth0"), ("other", "c2", "eth0")], [("net", "c1", "eth0"), ("other", "c1", "net1")]];

fn call(lab: &Lab, verb: &str, (network, container, ifname): Attachment<'_>, changes: &Value) -> Outcome {
    let config = merged(config(DUAL, &json!({"name": network})), changes);
    lab.plugin("firewall").verb(verb).container(container).ifname(ifname).config(&config).run()
}

/// The rules that accept what comes from or goes to the containers' addresses, in all tables.
fn accepting(lab: &Lab) -> usize {
    let text =
        tables(lab).join("\n") + &lab.sh("nft list table ip cni_firewall; nft list table ip6 cni_firewall").stdout;
    let is_about = |line: &&str| line.contains("10.0.0.2") || line.contains("2001:db8::2");
    text.lines().filter(is_about).filter(|line| line.to_lowercase().contains("accept")).count()
}

/// Both containers have the address 10.1.1.2. The host's route leads to the first one's bridge.
#[test]
fn better_packets_of_an_address_pass_until_its_last_owner_ends() {
    for (flavour, backend) in STORES {
        let net = Net::new(flavour, backend);
        let configs = [("ns1", "cni0"), ("ns2", "cni2")].map(|(name, bridge)| net.attach_to(name, bridge, 1, "open"));
        for tool in ["iptables", "ip6tables"] {
            net.lab
                .ok(&format!("{tool}-{flavour} -P FORWARD {}", if backend == "iptables" { "DROP" } else { "ACCEPT" }));
        }
        let call = |verb: &str, name: &str, config: &Value| {
            net.lab.plugin("firewall").verb(verb).container(name).config(config).run()
        };
        call("DEL", "ns2", &configs[1]).silent();
        call("CHECK", "ns1", &configs[0]).silent();
        for there in ["192.0.2.2", "fd00:9::2"] {
            net.comes_to_reach("ns1", there);
        }
        call("DEL", "ns1", &configs[0]).silent();
        call("CHECK", "ns1", &configs[0]).fails_with(999, &["not found"]);
        for there in ["192.0.2.2", "fd00:9::2"] {
            assert_eq!(net.reaches("ns1", there), backend == "nftables", "{flavour} {backend} after the last DEL");
        }
    }
}

#[test]
fn better_each_owner_ends_by_itself_in_either_order() {
    for (flavour, backend) in STORES {
        for pair in PAIRS {
            for [first, last] in [pair, [pair[1], pair[0]]] {
                for changes in [json!({}), json!({"prevResult": null})] {
                    let lab = lab(flavour);
                    let with = json!({"backend": backend});
                    pair.iter().for_each(|owner| drop(call(&lab, "ADD", *owner, &with).result()));
                    assert_eq!(lab.list(RECORDS), ["10.0.0.2", "10.0.0.2+1", "2001:db8::2", "2001:db8::2+1"]);
                    let ending = merged(with.clone(), &changes);
                    for _ in 0..2 {
                        call(&lab, "DEL", first, &ending).silent();
                        call(&lab, "CHECK", last, &with).silent();
                        assert_eq!((accepting(&lab), lab.list(RECORDS).len()), (4, 2), "{flavour} {backend} {first:?}");
                    }
                    call(&lab, "DEL", last, &ending).silent();
                    assert_eq!((accepting(&lab), lab.list(RECORDS).len()), (0, 0), "{flavour} {backend} {last:?}");
                }
            }
        }
    }
}

#[test]
fn better_gc_of_one_network_leaves_the_rules_of_the_other() {
    for (flavour, backend) in STORES {
        let lab = lab(flavour);
        let with = json!({"backend": backend});
        PAIRS.concat().iter().for_each(|owner| drop(call(&lab, "ADD", *owner, &with).result()));
        let gc = |network: &str, valid: Value| {
            let changes = json!({"cniVersion": "1.1.0", "prevResult": null, "cni.dev/valid-attachments": valid});
            call(&lab, "GC", (network, "", ""), &merged(with.clone(), &changes)).silent();
            (accepting(&lab), lab.list(RECORDS).len())
        };
        assert_eq!(gc("net", json!([])), (4, 4), "{flavour} {backend}: two owners are left in the other network");
        assert_eq!(gc("other", json!([{"containerID": "c2", "ifname": "eth0"}])), (4, 2), "{flavour} {backend}");
        call(&lab, "CHECK", ("other", "c2", "eth0"), &with).silent();
        assert_eq!(gc("other", json!([])), (0, 0), "{flavour} {backend}");
    }
}

/// The reference writes no records. Its attachment is ended as by the reference, unless another
/// owner is known.
#[test]
fn better_an_attachment_of_the_reference_takes_no_rules_of_a_recorded_owner() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let config = config(DUAL, &json!({}));
        run(&lab, Theirs, "ADD", &config).result();
        call(&lab, "ADD", ("other", "c2", "eth0"), &json!({})).result();
        run(&lab, Ours, "DEL", &config).silent();
        call(&lab, "CHECK", ("other", "c2", "eth0"), &json!({})).silent();
        run(&lab, Theirs, "ADD", &config).result();
        call(&lab, "DEL", ("other", "c2", "eth0"), &json!({})).silent();
        assert_eq!((accepting(&lab), lab.list(RECORDS).len()), (0, 0), "{flavour}");
    }
}

/// Records vanish when /run is emptied; then DEL goes by prevResult, and another ADD mends the
/// rules of those who stay.
#[test]
fn without_records_del_goes_by_the_result() {
    let lab = lab("nft");
    let [first, second] = PAIRS[0];
    for owner in PAIRS[0] {
        call(&lab, "ADD", owner, &json!({})).result();
    }
    lab.ok("rm -r /run/cni-box");
    call(&lab, "DEL", second, &json!({})).silent();
    assert_eq!(accepting(&lab), 0);
    call(&lab, "ADD", first, &json!({})).result();
    call(&lab, "DEL", second, &json!({})).silent();
    call(&lab, "CHECK", first, &json!({})).silent();
}

/// An owner whose namespace is gone was ended by another program, and keeps nothing.
#[test]
fn a_dead_owner_keeps_no_rules() {
    let lab = lab("nft");
    all_in_sight(&lab);
    let config = config(V4, &json!({}));
    let second = lab.netns("ns2");
    run(&lab, Ours, "ADD", &config).result();
    let call = lab.plugin("firewall").container("c2").netns(&second).config(&config);
    call.run().result();
    lab.ok("ip netns del ns2");
    run(&lab, Ours, "DEL", &config).silent();
    assert_eq!((accepting(&lab), lab.list(RECORDS).len()), (0, 0));
}

/// A process holds the namespace, whose path is gone. Another owner comes and goes.
#[test]
fn better_a_living_owner_without_a_path_keeps_its_rules() {
    for (flavour, backend) in STORES {
        let lab = lab(flavour);
        all_in_sight(&lab);
        let with = json!({"backend": backend});
        let gc =
            merged(with.clone(), &json!({"cniVersion": "1.1.0", "prevResult": null, "cni.dev/valid-attachments": []}));
        let (living, second) = (("net", "c1", "eth0"), ("other", "c2", "eth0"));
        let path = lab.netns("ns2");
        let add = |at: &str, (network, container, ifname): Attachment<'_>| {
            let config = merged(config(DUAL, &json!({"name": network})), &with);
            lab.plugin("firewall").container(container).ifname(ifname).netns(at).config(&config).run().result();
        };
        add(&path, living);
        let process = lab.hold("ns2");
        lab.ok("ip netns del ns2");
        for (verb, changes) in
            [("DEL", &with), ("DEL", &merged(with.clone(), &json!({"prevResult": null}))), ("GC", &gc)]
        {
            add("/var/run/netns/ns1", second);
            call(&lab, verb, second, changes).silent();
            assert_eq!((accepting(&lab), lab.list(RECORDS).len()), (4, 2), "{flavour} {backend} {verb}");
            call(&lab, "CHECK", living, &with).silent();
        }
        drop(process);
        wait_for("a dead owner keeps no rules", || {
            call(&lab, "DEL", second, &with).silent();
            (accepting(&lab), lab.list(RECORDS).len()) == (0, 0)
        });
    }
}

/// The second owner comes while the first one's ADD is at work in another plugin, which then fails.
#[test]
fn better_a_failed_add_leaves_the_rules_that_another_owner_relies_on() {
    for (flavour, backend) in STORES {
        let lab = lab(flavour);
        let waits = "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\ntouch /run/lab/waits\nread line </run/lab/gate\n";
        lab.executable("/opt/cni/bin/waits", &format!("{waits}echo '{{\"code\":99,\"msg\":\"no\"}}'\nexit 1\n"));
        let ips = json!([{"address": "10.0.0.2/24"}, {"address": "2001:db8::2/64"}]);
        let first = json!({"type": "static-result", "prevResult": {"ips": ips}});
        lab.executable(
            "/opt/cni/bin/static-result",
            &format!(
                "#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = ADD ] && echo '{}'\nexit 0\n",
                json!({"cniVersion": "1.0.0", "ips": ips})
            ),
        );
        let plugins = json!([first, {"type": "firewall", "backend": backend}, {"type": "waits"}]);
        let list = json!({"cniVersion": "1.0.0", "name": "failing", "plugins": plugins});
        lab.write("/etc/cni/net.d/10.conflist", list.to_string());
        lab.ok("mkfifo /run/lab/gate");
        let adding = lab.cnitool(&["add", "failing", "/var/run/netns/ns1"]).spawn();
        wait_for("the ADD waits", || lab.exists("/run/lab/waits"));
        let second = ("other", "c2", "eth0");
        call(&lab, "ADD", second, &json!({"backend": backend})).result();
        lab.sh("echo >/run/lab/gate").success();
        assert!(!adding.wait().success());
        call(&lab, "CHECK", second, &json!({"backend": backend})).silent();
        assert_eq!(lab.list(RECORDS), ["10.0.0.2", "2001:db8::2"], "{flavour} {backend}");
        call(&lab, "DEL", second, &json!({"backend": backend})).silent();
        assert_eq!(accepting(&lab), 0, "{flavour} {backend}");
    }
}
