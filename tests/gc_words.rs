//! What `cnitool gc` and `cni-box gc` say of what they keep and end, that they know which networks
//! there are, and that their cost is in proportion to the number of attachments.

use serde_json::{Value, json};

use crate::cnitool::{NETNS, network};
use crate::gc_command::{add, all_in_sight, cached, container, gc, leave, name_of, netns, simple, write_list};
use crate::gc_safety::keeps;
use crate::lab::{Lab, REFERENCE, merged, wait_for};

/// A network `n` with attachments `eth0` and `eth1`; gives the container's id.
fn two(lab: &Lab, changes: &Value) -> String {
    lab.netns("ns1");
    let base = json!({"cniVersion": "1.1.0", "name": "n", "plugins": simple(2)});
    network(lab, "n.conflist", &merged(base, changes));
    for ifname in ["eth0", "eth1"] {
        lab.cnitool(&["add", "n", NETNS, "-i", ifname]).run().success();
    }
    container(lab, NETNS)
}

#[test]
fn better_cnitool_gc_says_what_it_keeps_and_ends() {
    let lab = Lab::new();
    let id = two(&lab, &json!({}));
    let (keep, slip) = (format!("--valid={id}/eth1"), format!("--valid={id}/eth2"));
    let before = lab.snapshot();
    let kept = format!("kept n {id} eth1: named by --valid\n");
    let dry = lab.cnitool(&["gc", "n", "--dry-run", &keep]).run().success();
    let plugins = "plugins would also remove what belongs to no valid attachment\n";
    assert_eq!(dry.stdout, format!("would end n {id} eth0\n{plugins}1 attachment would be ended\n"));
    assert_eq!(dry.stderr, kept);
    let dry = lab.cnitool(&["gc", "--dry-run", "n"]).run().success();
    assert!(dry.stdout.contains("\nplugins would also remove what is left of others\n"), "{dry:#?}");
    assert!(dry.stdout.ends_with("\n2 attachments would be ended\n"), "{dry:#?}");
    let refused =
        format!("--valid: n {id} eth2 is not in the cache and has no address of host-local; nothing was ended");
    for words in [&["gc", "n", &keep, &slip][..], &["gc", "n", &slip], &["gc", "n", "--dry-run", &slip, &keep]] {
        lab.cnitool(words).run().dies(&refused);
    }
    before.assert_same(&lab.snapshot());
    assert_eq!(cached(&lab).len(), 2);
    let done = lab.cnitool(&["gc", "n", &keep]).run().silent();
    assert_eq!(done.stderr, format!("{kept}ended n {id} eth0\n"));
    assert_eq!(cached(&lab), [format!("n-{id}-eth1")]);
}

/// Attachments whose cached results are lost: plugins alone know of them.
#[test]
fn better_cnitool_gc_says_which_addresses_plugins_free() {
    for data_dir in ["/var/lib/cni/networks", "/run/lab/elsewhere"] {
        let lab = Lab::new();
        let ipam = json!({"type": "host-local", "subnet": "10.1.2.0/24", "dataDir": data_dir});
        let id = two(&lab, &json!({"plugins": [{"type": "bridge", "ipam": ipam}]}));
        lab.sh("rm /var/lib/cni/results/*eth1").success();
        let (first, second) = (format!("--valid={id}/eth0"), format!("--valid={id}/eth1"));
        let plugins = "plugins would also remove what belongs to no valid attachment\n";
        let dry = lab.cnitool(&["gc", "n", "--dry-run", &first]).run().success();
        let text = format!("would free 10.1.2.3 of n {id} eth1\n{plugins}0 attachments would be ended\n");
        assert_eq!(dry.stdout, text);
        // It can be named, and is not proved to be dead otherwise.
        let dry = lab.cnitool(&["gc", "n", "--dry-run=true", &first, &second]).run().success();
        assert_eq!(dry.stdout, format!("{plugins}0 attachments would be ended\n"));
        let dry = lab.cnitool(&["gc", "n", "--dry-run"]).run().success();
        assert!(!dry.stdout.contains("would free"), "{dry:#?}");
        let kept = format!("kept n {id} eth0: named by --valid\n");
        assert_eq!(lab.cnitool(&["gc", "n", &first, &second]).run().silent().stderr, kept);
        let freed = format!("freed 10.1.2.3 of n {id} eth1\n");
        assert_eq!(lab.cnitool(&["gc", "n", &first]).run().silent().stderr, kept + &freed);
        assert!(lab.exists(&format!("{data_dir}/n/10.1.2.2")) && !lab.exists(&format!("{data_dir}/n/10.1.2.3")));
    }
}

/// Plugins know GC from CNI 1.1.0 on.
#[test]
fn better_cnitool_gc_says_nothing_of_plugins_that_are_not_asked() {
    for changes in [json!({"cniVersion": "1.0.0"}), json!({"disableGC": true})] {
        let lab = Lab::new();
        two(&lab, &changes);
        lab.sh("rm /var/lib/cni/results/*").success();
        let dry = lab.cnitool(&["gc", "n", "--dry-run"]).run().success();
        assert_eq!((dry.stdout.as_str(), dry.stderr.as_str()), ("0 attachments would be ended\n", ""), "{changes}");
    }
}

#[test]
fn better_cnitool_gc_says_why_it_does_nothing() {
    let lab = Lab::new();
    let id = two(&lab, &json!({"disableGC": true}));
    let line = |ifname| format!("kept n {id} {ifname}: the network has disableGC\n");
    for words in [&["gc", "n"][..], &["gc", "n", "--dry-run"]] {
        assert_eq!(lab.cnitool(words).run().success().stderr, line("eth0") + &line("eth1"));
    }
    assert_eq!(cached(&lab).len(), 2);
}

/// Attachments and reservations of the Go plugins, without records.
#[test]
fn better_what_nothing_proves_to_be_dead_is_told_with_its_addresses() {
    let lab = Lab::new();
    all_in_sight(&lab);
    write_list(&lab, "net", &simple(2));
    lab.reference("bridge");
    let paths = ["a", "b"].map(|name| netns(&lab, name));
    for path in &paths {
        lab.cnitool(&["add", "net", path]).env("CNI_PATH", REFERENCE).run().result();
        leave(&lab, path);
    }
    wait_for("the pairs have gone", || lab.veths().is_empty());
    // Another namespace has the first one's path, and the second one's result is lost.
    lab.ok(&format!("ip netns add {}", name_of(&paths[0])));
    lab.sh(&format!("rm /var/lib/cni/results/*{}*", container(&lab, &paths[1]))).success();
    let first = format!(
        "kept net {} eth0: namespace {} is there without its interface eth0, and no record proves that it had another \
         one (addresses: 10.1.2.2)\n",
        container(&lab, &paths[0]),
        paths[0]
    );
    let second = "no result is in the cache, and no record proves that its interface is gone (addresses: 10.1.2.3)";
    let second = format!("kept net {} eth0: {second}\n", container(&lab, &paths[1]));
    for words in [&["--dry-run"][..], &[], &["net"]] {
        keeps(&lab, words, &first);
        keeps(&lab, words, &second);
    }
}

/// A container of three interfaces, and the DEL of the first one fails.
#[test]
fn a_failing_del_keeps_no_other_interface_of_the_container() {
    let lab = Lab::new();
    all_in_sight(&lab);
    let mut plugins = simple(2);
    plugins.as_array_mut().unwrap().push(json!({"type": "calico"}));
    write_list(&lab, "net", &plugins);
    let refuse = "[ $CNI_COMMAND.$CNI_IFNAME = DEL.eth0 ] && echo '{\"code\": 99, \"msg\": \"no\"}' && exit 1";
    let script = format!("#!/bin/sh\n{refuse}\n[ $CNI_COMMAND = DEL ] || exec jq -c .prevResult\n");
    lab.executable("/opt/cni/bin/calico", &script);
    let path = netns(&lab, "x");
    for ifname in ["eth0", "eth1", "eth2"] {
        lab.cnitool(&["add", "net", &path, "-i", ifname]).run().success();
    }
    leave(&lab, &path);
    wait_for("the pairs have gone", || lab.veths().is_empty());
    let id = container(&lab, &path);
    let why = format!("cni-box gc: net {id} eth0: plugin type=\"calico\" failed (delete): no\n");
    for removed in ["2 attachments", "0 attachments"] {
        let outcome = gc(&lab, &[]).run();
        assert_eq!((outcome.code, &outcome.stderr), (Some(1), &why), "{outcome:?}");
        assert!(outcome.stdout.ends_with(&format!("{removed} removed\n")), "{outcome:?}");
        assert_eq!(cached(&lab), [format!("net-{id}-eth0")]);
    }
}

#[test]
fn better_an_unknown_network_is_an_error_everywhere() {
    let lab = Lab::new();
    write_list(&lab, "net", &simple(2));
    let path = netns(&lab, "x");
    add(&lab, "net", &path, "{}");
    let text = "no net configuration with name \"nte\" in /etc/cni/net.d; there are: net";
    for words in [&["gc", "nte"][..], &["status", "nte"], &["list", "nte"], &["gc", "nte", "--dry-run"]] {
        lab.cnitool(words).run().dies(text);
    }
    for words in [&["nte"][..], &["--dry-run", "nte"]] {
        gc(&lab, words).run().dies(&format!("cni-box gc: {text}"));
        gc(&lab, words).env("NETCONFPATH", "/nowhere").run().dies_with(&["NETCONFPATH: open /nowhere: no such file"]);
    }
    gc(&lab, &[]).env("NETCONFPATH", "/nowhere").run().dies_with(&["NETCONFPATH: open /nowhere: no such file"]);
    // Known by the cache, by reservations, by a configuration with a mistake.
    lab.sh("rm /etc/cni/net.d/*; echo '{\"name\": \"bad\", \"plugins\": []}' > /etc/cni/net.d/bad.conflist").success();
    for known in ["net", "bad"] {
        lab.cnitool(&["list", known]).run().success();
        assert_eq!(gc(&lab, &[known]).run().success().stdout, "nothing to do\n");
    }
    lab.sh("rm -r /var/lib/cni/results").success();
    lab.cnitool(&["list", "net"]).run().success();
    assert_eq!(gc(&lab, &["net"]).run().success().stdout, "nothing to do\n");
    lab.sh("rm -r /var/lib/cni/networks").success();
    lab.cnitool(&["list", "net"]).run().dies_with(&["no net configuration with name \"net\""]);
}

/// System calls of a run of `cni-box gc` that removes so many attachments of so many.
fn calls(lab: &Lab, dead: usize, alive: usize) -> usize {
    let path = |number: usize| netns(lab, &format!("c{number}"));
    let paths: Vec<String> = (0..dead + alive).map(path).collect();
    for path in &paths {
        add(lab, "net", path, "{}");
    }
    paths.iter().take(dead).for_each(|path| leave(lab, path));
    wait_for("the pairs have gone", || lab.veths().len() == alive);
    let words = ["-o", "/run/lab/trace"];
    let call = gc(lab, &[]).traced(&words, "open,openat,sendto,getdents64,statx,newfstatat");
    let told = call.run().success().stdout;
    assert!(told.ends_with(&format!("\n{dead} attachments removed\n")), "{told}");
    let count = lab.read("/run/lab/trace").lines().count();
    for path in paths.iter().skip(dead) {
        lab.cnitool(&["del", "net", path]).run().success();
        leave(lab, path);
    }
    count
}

/// Twice the attachments cost about twice the calls, be they dead or alive; three times would be
/// more than linear.
#[test]
fn the_cost_of_gc_is_in_proportion_to_the_number_of_attachments() {
    let lab = Lab::new();
    write_list(&lab, "net", &json!([{"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.1.0.0/16"}}]));
    let (few, many) = (calls(&lab, 6, 6), calls(&lab, 18, 18));
    assert!(many < 3 * few, "{few} calls for 6 of 12, {many} for 18 of 36");
    let (none, alive) = (calls(&lab, 2, 0), calls(&lab, 2, 30));
    assert!(alive < none + 30 * 30, "{none} calls for 2, {alive} calls beside 30 that live");
}
