//! `cni-box gc`: containers that look dead by some of the evidence and live, and what they would lose.

use serde_json::{Value, json};

use crate::bridge::reaches;
use crate::gc_command::{
    PORTS, add, all_in_sight, cached, collect, container, full, gc, leave, name_of, netns, pings, removes, simple,
    write_list,
};
use crate::host_local_life::reboot;
use crate::lab::{Background, Lab, PLUGINS, REFERENCE, bridge_config, merged, wait_for};

fn fixed(bridge: &str, address: &str) -> Value {
    json!([{"type": "bridge", "bridge": bridge, "ipam": {"type": "static", "addresses": [{"address": address}]}}])
}

/// A process that keeps a namespace which is mounted nowhere any more.
fn pinned(lab: &Lab, path: &str) -> Background {
    let pin = lab.hold(name_of(path));
    leave(lab, path);
    pin
}

pub fn keeps(lab: &Lab, words: &[&str], why: &str) {
    let kept = gc(lab, words).run().success();
    assert_eq!(kept.stdout, "nothing to do\n", "{kept:?}");
    assert!(kept.stderr.contains(why), "{kept:?}");
}

#[test]
fn a_container_that_came_back_on_addresses_managed_otherwise_stays() {
    let lab = Lab::new();
    all_in_sight(&lab);
    for (first, then) in [("10.1.2.2", "10.1.2.9/24"), ("10.1.2.3", "10.1.2.3/24")] {
        write_list(&lab, "net", &simple(2));
        let path = netns(&lab, "x");
        add(&lab, "net", &path, "{}");
        assert_eq!(lab.reserved("net"), [first]);
        leave(&lab, &path);
        write_list(&lab, "net", &fixed("cni2", then));
        assert_eq!(netns(&lab, "x"), path);
        add(&lab, "net", &path, "{}");
        wait_for("the first one is gone", || lab.veths().len() == 1);
        assert_eq!(collect(&lab, &[]), "nothing to do\n", "{then}");
        assert_eq!(cached(&lab), [format!("net-{}-eth0", container(&lab, &path))]);
        leave(&lab, &path);
        removes(&lab, &[], 1);
        assert_eq!((cached(&lab).len(), lab.reserved("net").len()), (0, 0));
    }
}

/// A boot id of one's own have the containers of systemd-nspawn and LXD, too.
#[test]
fn a_living_interface_counts_more_than_a_record() {
    let lab = Lab::new();
    write_list(&lab, "net", &simple(2));
    let path = netns(&lab, "x");
    add(&lab, "net", &path, "{}");
    reboot(&lab, 2);
    assert_eq!(collect(&lab, &[]), "nothing to do\n");
    let name = name_of(&path).to_string();
    let pin = pinned(&lab, &path);
    keeps(&lab, &[], "the host's end veth");
    assert_eq!((cached(&lab).len(), lab.reserved("net").len()), (1, 1));
    lab.ok(&format!("ip netns attach {name} {}", pin.pid()));
    pings(&lab, &path, "10.1.2.1");
    pin.kill();
    leave(&lab, &path);
    removes(&lab, &[], 1);
}

#[test]
fn an_interface_whose_end_on_the_host_was_renamed_is_looked_for_everywhere() {
    let lab = Lab::new();
    all_in_sight(&lab);
    write_list(&lab, "net", &fixed("cni2", "10.1.2.9/24"));
    let path = netns(&lab, "x");
    add(&lab, "net", &path, "{}");
    lab.ok(&format!("ip link set {} name renamed", lab.veths()[0]));
    let pin = pinned(&lab, &path);
    keeps(&lab, &[], "but the host's end renamed is still there\n");
    pin.kill();
    removes(&lab, &[], 1);
}

#[test]
fn whoever_comes_back_while_others_are_removed_stays() {
    let lab = Lab::new();
    all_in_sight(&lab);
    let mut slow = fixed("cni2", "10.1.2.9/24");
    slow.as_array_mut().unwrap().push(json!({"type": "calico"}));
    write_list(&lab, "a", &slow);
    write_list(&lab, "b", &fixed("cni3", "10.1.3.9/24"));
    let calico = |script: &str| lab.executable("/opt/cni/bin/calico", &format!("#!/bin/sh\n{script}\n"));
    let echo = "import json, sys; print(json.dumps(json.load(sys.stdin)[\"prevResult\"]))";
    calico(&format!("[ $CNI_COMMAND = ADD ] && exec python3 -c '{echo}'"));
    let (slow, back, new) = (netns(&lab, "slow"), netns(&lab, "back"), netns(&lab, "new"));
    add(&lab, "a", &slow, "{}");
    add(&lab, "b", &back, "{}");
    leave(&lab, &slow);
    leave(&lab, &back);
    wait_for("the pairs have gone", || lab.veths().is_empty());
    // As a runtime that starts the container again, with its id and in a new namespace.
    let file = format!("/var/lib/cni/results/b-{}-eth0", container(&lab, &back));
    calico(&format!("sed -i s#{back}#{new}# {file}"));
    let told = gc(&lab, &[]).run().success().stdout;
    assert!(told.ends_with("\n1 attachment removed\n") && told.starts_with("a "), "{told}");
    assert_eq!(cached(&lab).len(), 1);
    assert!(lab.read(&file).contains(&new));
}

/// On another network, or with another interface: chains and ifbs are the dead one's, or its saved settings.
#[test]
fn a_container_that_comes_back_on_other_terms_meanwhile_loses_nothing() {
    let cases = [("net", "eth1", ""), ("other", "eth0", ""), ("static", "eth0", "")];
    let unwatched = [("net", "eth1", "inotify_init1"), ("other", "eth0", "inotify_add_watch")];
    for (network, ifname, refused) in cases.into_iter().chain(unwatched) {
        let lab = Lab::new();
        all_in_sight(&lab);
        let (calico, tuning) = (json!({"type": "calico"}), json!({"type": "tuning", "mtu": 1300}));
        let fixed = |number: u8, behind: Value| json!([fixed(&format!("cni{number}"), "10.1.9.9/24")[0], behind]);
        write_list(&lab, "a", &fixed(2, calico));
        write_list(&lab, "net", &full(3));
        write_list(&lab, "other", &full(4));
        write_list(&lab, "static", &fixed(5, tuning));
        let calico = |script: &str| lab.executable("/opt/cni/bin/calico", &format!("#!/bin/sh -e\n{script}\n"));
        calico("[ $CNI_COMMAND = DEL ] || exec jq -c .prevResult");
        let (slow, back) = (netns(&lab, "slow"), netns(&lab, "back"));
        add(&lab, "a", &slow, "{}");
        add(&lab, "net", &back, PORTS);
        leave(&lab, &slow);
        leave(&lab, &back);
        wait_for("the pairs have gone", || lab.veths().is_empty());
        let again = format!("/opt/cni/bin/cnitool add {network} {back} -i {ifname} > /run/lab/again 2>&1");
        calico(&format!("ip netns add {}\nCAP_ARGS='{PORTS}' {again}", name_of(&back)));
        let call = gc(&lab, &[]);
        let call = if refused.is_empty() { call } else { call.refused(refused, "EMFILE") };
        let told = call.run().success();
        let id = container(&lab, &back);
        let new = format!("something has made or changed {network} {id} {ifname} since the first look");
        assert_eq!(told.stderr, format!("kept net {id} eth0: {new}\n"), "{told:?}");
        assert!(told.stdout.starts_with("a ") && told.stdout.ends_with("\n1 attachment removed\n"), "{told:?}");
        lab.cnitool(&["check", network, &back, "-i", ifname]).env("CAP_ARGS", PORTS).run().success();
        assert!(lab.list("/run/cni/tuning").contains(&format!("{id}_{ifname}.json")), "{network} {ifname}");
        lab.cnitool(&["del", network, &back, "-i", ifname]).env("CAP_ARGS", PORTS).run().success();
        leave(&lab, &back);
        removes(&lab, &[], 1);
    }
}

/// SHA-512 of `net` + `1c` is that of `net1` + `c`.
#[test]
fn rules_whose_names_collide_stay() {
    let lab = Lab::new();
    let add = |network: &str, bridge: &str, id: &str, path: &str| {
        let subnet = format!("10.1.{}.0/24", &bridge[3..]);
        let config = json!({"name": network, "bridge": bridge, "ipMasq": true, "isGateway": true,
            "ipam": {"subnet": subnet}});
        let config = merged(bridge_config(&json!({})), &config);
        lab.plugin("bridge").config(&config).container(id).netns(path).ifname("eth0").run().result();
    };
    let (goes, stays) = (netns(&lab, "goes"), netns(&lab, "stays"));
    add("net", "cni2", "1c", &goes);
    add("net1", "cni3", "c", &stays);
    leave(&lab, &goes);
    wait_for("the pair has gone", || lab.veths().len() == 1);
    let before = lab.rules();
    wait_for("it is seen", || {
        gc(&lab, &[]).run().success().stderr == "kept net 1c eth0: its container may live, see net1 c eth0\n"
    });
    assert_eq!(lab.rules(), before);
    leave(&lab, &stays);
    removes(&lab, &[], 2);
}

/// Who cannot find a free address sometimes deletes all reservations by hand.
#[test]
fn an_address_that_a_living_container_has_by_now_stays_open_in_the_firewall() {
    let lab = Lab::new();
    all_in_sight(&lab);
    lab.install_iptables("nft");
    let mut plugins = simple(2);
    plugins.as_array_mut().unwrap().push(json!({"type": "firewall"}));
    write_list(&lab, "net", &plugins);
    lab.reference("firewall");
    let by_go = |path: &str| lab.cnitool(&["add", "net", path]).env("CNI_PATH", REFERENCE).run().result();
    for path in [PLUGINS, REFERENCE] {
        let (goes, stays) = (netns(&lab, "goes"), netns(&lab, "stays"));
        by_go(&goes);
        leave(&lab, &goes);
        wait_for("the pair has gone", || lab.veths().is_empty());
        lab.sh("rm /var/lib/cni/networks/net/*").success();
        by_go(&stays);
        assert_eq!(lab.reserved("net"), ["10.1.2.2"]);
        let open = "iptables-nft -S CNI-FORWARD | grep 10.1.2.2";
        let before = lab.sh(open).success().stdout;
        let told = gc(&lab, &[]).env("CNI_PATH", path).run().success();
        assert!(told.stdout.ends_with("\n1 attachment removed\n"), "{told:?}");
        assert_eq!(lab.sh(open).success().stdout, before);
        reaches(&lab, name_of(&stays), "10.1.2.1");
        lab.cnitool(&["del", "net", &stays]).run().success();
        leave(&lab, &stays);
        assert_eq!((cached(&lab).len(), lab.reserved("net").len()), (0, 0));
    }
}

#[test]
fn processes_that_are_hidden_may_have_it() {
    let lab = Lab::new();
    write_list(&lab, "net", &fixed("cni2", "10.1.2.9/24"));
    let path = netns(&lab, "x");
    add(&lab, "net", &path, "{}");
    leave(&lab, &path);
    wait_for("the pair has gone", || lab.veths().is_empty());
    let script = "mount -t proc -o hidepid=4 proc /proc
        exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace \"$@\"";
    let kept = gc(&lab, &[]).under(&["unshare", "-m", "sh", "-ec", script, "sh"]).run().success();
    assert!(kept.stderr.contains("not all processes of this machine can be looked at"), "{kept:?}");
    assert_eq!(cached(&lab).len(), 1);
}
