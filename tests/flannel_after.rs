//! flannel afterwards: DEL, CHECK, GC and STATUS in every circumstance, ADDs that fail or are killed.

use serde_json::{Value, json};

use crate::flannel::{DUAL, DUAL_DELEGATE, KEPT, SUBNET_FILE, call, config, lab, only};
use crate::kills::{Accident, Trial, every};
use crate::lab::{Lab, REFERENCE, reference_dir, wait_for};

fn add(lab: &Lab) -> Value {
    call(lab, "ADD", &json!({})).run().result()
}

/// Nothing of an attachment is there.
fn assert_gone(lab: &Lab) {
    assert_eq!((lab.reserved("cbr0"), lab.veths()), (vec![], vec![]));
    assert_eq!(lab.list("/var/lib/cni/flannel"), [""; 0]);
}

#[test]
fn del_works_without_the_subnet_file_and_the_namespace() {
    for prepare in
        ["rm -r /run/flannel", "ip netns del ns1", "ip netns del ns1; touch /run/netns/ns1; rm -r /run/flannel"]
    {
        for netns in ["", "/var/run/netns/ns1"] {
            let lab = lab(DUAL);
            let result = add(&lab);
            lab.sh(prepare).success();
            let delete = call(&lab, "DEL", &json!({"prevResult": result})).netns(netns);
            delete.run().silent();
            assert_eq!((lab.reserved("cbr0"), lab.list("/var/lib/cni/flannel")), (vec![], vec![]), "{prepare}");
            // The reference's bridge does not look for the link without a namespace either.
            if prepare.contains("del ns1") || !netns.is_empty() {
                wait_for("the end of the link", || lab.veths().is_empty());
            }
            delete.run().silent();
        }
    }
}

#[test]
fn better_what_is_kept_stays_until_the_delegates_del_has_succeeded() {
    let lab = lab(DUAL);
    let plugin = "#!/bin/sh\necho $CNI_COMMAND >> /run/lab/calls\n[ $CNI_COMMAND = ADD ] || [ -e /run/lab/mended ] || \
                  { echo '{\"code\":100,\"msg\":\"stuck\"}'; exit 1; }\necho '{\"cniVersion\":\"1.0.0\"}'\n";
    lab.executable("/opt/cni/bin/stubborn", plugin);
    let changes = json!({"delegate": {"type": "stubborn"}});
    call(&lab, "ADD", &changes).run().success();
    for _ in 0..2 {
        assert_eq!(call(&lab, "DEL", &changes).run().error(), (100, "stuck".to_string(), String::new()));
        assert!(lab.exists(KEPT));
    }
    lab.write("/run/lab/mended", "");
    call(&lab, "DEL", &changes).run().silent();
    assert!(!lab.exists(KEPT));
    assert_eq!(lab.read("/run/lab/calls"), "ADD\nDEL\nDEL\nDEL\n");
}

#[test]
fn better_del_does_with_what_add_would_do_when_nothing_usable_is_kept() {
    let torn = &DUAL_DELEGATE[..60];
    for kept in [None, Some(""), Some(torn), Some("[]"), Some("{}"), Some(r#"{"name":"cbr0"}"#)] {
        let lab = lab(DUAL);
        add(&lab);
        match kept {
            None => lab.sh(&format!("rm {KEPT}")).success(),
            Some(text) => lab.sh(&format!("printf %s '{text}' > {KEPT}")).success(),
        };
        call(&lab, "DEL", &json!({})).run().silent();
        assert_gone(&lab);
    }
}

/// Nothing of the sort was made by a plugin, so nothing is lost with it; a DEL that fails would fail for ever.
#[test]
fn better_del_does_not_mind_what_is_no_file_of_ours() {
    for strange in
        ["mkfifo KEPT", "ln -s c1 KEPT", "head -c 2000000 /dev/zero > KEPT", "ln -s /dev/zero KEPT", "mkdir KEPT"]
    {
        let lab = lab(DUAL);
        add(&lab);
        lab.sh(&format!("rm {KEPT}; {}", strange.replace("KEPT", KEPT))).success();
        call(&lab, "DEL", &json!({})).run().silent();
        lab.sh(&format!("[ ! -d {KEPT} ] || rmdir {KEPT}")).success();
        eprintln!("{strange}");
        assert_gone(&lab);
    }
}

/// The name of the file would be too long; whoever fails to add it must not fail to delete it, too.
#[test]
fn better_a_container_that_cannot_be_kept_can_be_deleted() {
    let lab = lab(DUAL);
    lab.write("/run/lab/file", "");
    let before = lab.snapshot();
    for (container, changes, errno) in [
        ("a".repeat(300), json!({}), "file name too long"),
        ("c1".to_string(), json!({"dataDir": "/run/lab/file"}), "not a directory"),
    ] {
        let run = |verb: &str| call(&lab, verb, &changes).container(&container).run();
        let (code, msg, details) = run("ADD").error();
        assert!(code == 999 && msg.contains(errno) && details.is_empty(), "{msg} {details}");
        before.assert_same(&lab.snapshot());
        run("DEL").silent();
    }
}

#[test]
fn better_del_leaves_what_is_kept_of_another_network() {
    let lab = lab(DUAL);
    add(&lab);
    let other = json!({"name": "other", "delegate": {"bridge": "cni1"}});
    call(&lab, "ADD", &other).ifname("eth1").run().success();
    assert!(lab.read(KEPT).contains(r#""name":"other""#), "the reference has one file for both");
    call(&lab, "DEL", &json!({})).run().silent();
    assert_eq!((lab.reserved("cbr0"), lab.reserved("other").len()), (vec![], 2));
    assert!(lab.exists(KEPT));
    call(&lab, "DEL", &other).ifname("eth1").run().silent();
    assert_eq!(lab.reserved("other"), [""; 0]);
    assert_gone(&lab);
}

#[test]
fn better_both_interfaces_of_a_container_are_removed() {
    let lab = lab(DUAL);
    add(&lab);
    call(&lab, "ADD", &json!({})).ifname("eth1").run().success();
    call(&lab, "DEL", &json!({})).run().silent();
    assert_eq!(lab.reserved("cbr0").len(), 2);
    call(&lab, "DEL", &json!({})).ifname("eth1").run().silent();
    assert_gone(&lab);
}

/// The delegate is another program, which takes what we keep; and we take what the original has kept.
#[test]
fn programs_as_delegates() {
    let lab = lab(DUAL);
    lab.sh(&format!(
        "rm /opt/cni/bin/bridge /opt/cni/bin/host-local; ln -s {0}/bridge {0}/host-local /opt/cni/bin",
        reference_dir()
    ))
    .success();
    let result = add(&lab);
    assert_eq!(result["ips"].as_array().unwrap().len(), 2, "{result}");
    assert_eq!(lab.read(KEPT), DUAL_DELEGATE);
    let check = || call(&lab, "CHECK", &json!({"prevResult": result})).run();
    check().silent();
    lab.ok("ip -n ns1 -6 route del default");
    check().fails_with(999, &["::"]);
    call(&lab, "DEL", &json!({"prevResult": result})).run().silent();
    assert_gone(&lab);
    lab.write(KEPT, DUAL_DELEGATE);
    lab.reference("bridge").stdin(DUAL_DELEGATE).env("CNI_PATH", REFERENCE).run().success();
    lab.sh("rm /opt/cni/bin/*; cp -a /opt/cni/reference/host-local /opt/cni/bin").success();
    lab.sh(&format!("{} --install /opt/cni/bin", crate::lab::binary())).success();
    call(&lab, "DEL", &json!({})).run().silent();
    assert_gone(&lab);
}

/// Otherwise a version that the delegate does not speak would be kept, and fail every DEL from then on.
#[test]
fn better_a_failed_add_keeps_nothing_and_a_failed_repetition_what_there_was() {
    let lab = lab(DUAL);
    let nothing = |what: &str| assert!(!lab.exists(KEPT), "{what}");
    let late = json!({"ipam": {"routes": [{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]}});
    let failure = call(&lab, "ADD", &late).run().error();
    assert!(failure.1.contains("unreachable"), "{failure:?}");
    nothing("in process");
    assert_eq!(lab.reserved("cbr0"), [""; 0]);
    lab.executable("/opt/cni/bin/fails", "#!/bin/sh\necho '{\"code\":100,\"msg\":\"no\"}'; exit 1\n");
    let fails = json!({"delegate": {"type": "fails"}});
    assert_eq!(call(&lab, "ADD", &fails).run().error(), (100, "no".to_string(), String::new()));
    nothing("a program");
    add(&lab);
    call(&lab, "ADD", &late).run().error();
    assert_eq!(lab.read(KEPT), DUAL_DELEGATE);
    call(&lab, "DEL", &json!({})).run().silent();
    assert_gone(&lab);
}

#[test]
fn delegates_that_talk_rubbish_or_die_are_told_apart() {
    let lab = lab(DUAL);
    let say = "failed to delegate add: ";
    for (script, code, start) in [
        ("echo zz", 999, format!("{say}failed to unmarshal raw result: ")),
        ("true", 999, format!("{say}failed to unmarshal raw result: unexpected end of JSON input")),
        (r#"echo '{"cniVersion":"9.9.9"}'"#, 999, format!("{say}unsupported CNI result version \"9.9.9\"")),
        ("kill -9 $$", 0, "netplugin failed with no error message: signal: killed".to_string()),
        ("echo zz; exit 1", 0, "netplugin failed but error parsing its diagnostic message \"zz\\n\"".to_string()),
        (r#"echo '{"code":999,"msg":"own"}'; exit 1"#, 999, "own".to_string()),
    ] {
        let script =
            format!("#!/bin/sh\necho $CNI_COMMAND >> /run/lab/calls\n[ $CNI_COMMAND = DEL ] || {{ {script}; }}\n");
        lab.executable("/opt/cni/bin/rubbish", &script);
        let failure = call(&lab, "ADD", &json!({"delegate": {"type": "rubbish"}})).run().error();
        assert!(failure.0 == code && failure.1.starts_with(&start), "{script} {failure:?}");
        assert!(!lab.exists(KEPT));
        // What has succeeded is asked to delete, since nobody else will be told.
        let calls = if start.starts_with(say) { "ADD\nDEL\n" } else { "ADD\n" };
        assert_eq!(lab.read("/run/lab/calls"), calls);
        lab.ok("rm /run/lab/calls");
    }
    lab.executable("/opt/cni/bin/rubbish", "#!/nowhere\n");
    let failure = call(&lab, "ADD", &json!({"delegate": {"type": "rubbish"}})).run().error();
    assert_eq!(failure.1, format!("{say}fork/exec /opt/cni/bin/rubbish: no such file or directory"));
}

#[test]
fn better_accidents_leave_nothing() {
    for accident in [Accident::Killed, Accident::Refused] {
        let lab = lab(&only("v4"));
        let add = call(&lab, "ADD", &json!({}));
        let delete = call(&lab, "DEL", &json!({}));
        add.run().success();
        delete.run().silent();
        let before = lab.snapshot();
        let untouched = || before.assert_same(&lab.snapshot());
        Trial { lab: &lab, add, delete, ioctls: 0, which: every, untouched: &untouched }.suffers(accident);
    }
}

#[test]
fn many_at_once() {
    const CONTAINERS: usize = 24;
    let lab = lab(DUAL);
    let each = |verb: &str| {
        let one = |index: usize| {
            let call = call(&lab, verb, &json!({})).container(&format!("c{index}"));
            call.netns(&format!("/var/run/netns/n{index}")).spawn()
        };
        let calls: Vec<_> = (0..CONTAINERS).map(one).collect();
        assert!(calls.into_iter().all(|call| call.wait().success()), "{verb}");
    };
    (0..CONTAINERS).for_each(|index| drop(lab.netns(&format!("n{index}"))));
    each("ADD");
    assert_eq!((lab.list("/var/lib/cni/flannel").len(), lab.reserved("cbr0").len()), (CONTAINERS, 2 * CONTAINERS));
    each("DEL");
    assert_gone(&lab);
}

#[test]
fn better_check_asks_the_delegate_and_compares_the_subnet() {
    let lab = lab(DUAL);
    let result = add(&lab);
    let check = || call(&lab, "CHECK", &json!({"prevResult": result})).run();
    check().silent();
    lab.sh(&format!("mv {KEPT} /run/lab/kept")).success();
    check().silent();
    lab.sh(&format!("mv {SUBNET_FILE} /run/lab/env")).success();
    assert!(check().error().1.contains("subnet.env: no such file"), "nothing kept and nothing leased");
    lab.sh(&format!("mv /run/lab/kept {KEPT}")).success();
    check().silent();
    lab.write(SUBNET_FILE, DUAL.replace("10.42.1.1", "10.42.7.1"));
    let expected = "flannel's subnet of this node is [[{\"subnet\":\"10.42.7.0/24\"}],[{\"subnet\":\"2001:cafe:42:1::/64\"}]], \
                    the container's is [[{\"subnet\":\"10.42.1.0/24\"}],[{\"subnet\":\"2001:cafe:42:1::/64\"}]]";
    assert_eq!(check().error(), (999, expected.to_string(), String::new()));
    lab.write(SUBNET_FILE, DUAL);
    lab.ok("ip -n ns1 link set eth0 down");
    lab.ok("ip -n ns1 addr flush dev eth0");
    assert!(check().error().1.contains("eth0"));
}

#[test]
fn newer_gc_removes_what_is_kept_of_attachments_that_are_not_valid_any_more() {
    let new = |verb: &str, more: Value| {
        let mut changes = json!({"cniVersion": "1.1.0", "delegate": {"forceAddress": true}});
        changes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (verb.to_string(), changes)
    };
    let lab = lab(DUAL);
    let run =
        |(verb, changes): (String, Value), container: &str| call(&lab, &verb, &changes).container(container).run();
    for (container, subnet) in [("c1", "10.42.1.1"), ("c2", "10.42.1.1"), ("c3", "10.42.9.1"), ("c4", "10.42.1.1")] {
        lab.write(SUBNET_FILE, DUAL.replace("10.42.1.1", subnet));
        lab.netns(&format!("of-{container}"));
        let (verb, changes) = new("ADD", json!({}));
        call(&lab, &verb, &changes)
            .container(container)
            .netns(&format!("/var/run/netns/of-{container}"))
            .run()
            .success();
    }
    lab.write("/var/lib/cni/flannel/other", DUAL_DELEGATE.replace("cbr0", "net2"));
    lab.write("/var/lib/cni/flannel/torn", "{");
    let all = lab.list("/var/lib/cni/flannel");
    lab.ok("ip netns del of-c2");
    lab.ok("ip netns del of-c3");
    // A word of the runtime is needed.
    run(new("GC", json!({})), "").silent();
    assert_eq!(lab.list("/var/lib/cni/flannel"), all);
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c4", "ifname": "eth0"}]});
    for file in [DUAL, ""] {
        lab.write(SUBNET_FILE, file);
        run(new("GC", valid.clone()), "").silent();
        assert_eq!(lab.list("/var/lib/cni/flannel"), ["c1", "c4", "other", "torn"]);
        assert_eq!(lab.reserved("cbr0").len(), 4);
    }
    run(new("DEL", json!({})), "c4").silent();
    assert_eq!(lab.reserved("cbr0").len(), 2);
}

#[test]
fn newer_gc_works_from_what_is_kept_when_the_subnet_file_is_missing() {
    let lab = lab(DUAL);
    call(&lab, "ADD", &json!({"cniVersion": "1.1.0"})).run().success();
    lab.sh("rm -r /run/flannel; ip netns del ns1").success();
    let valid = json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []});
    call(&lab, "GC", &valid).run().silent();
    wait_for("the kernel to take down the namespace", || lab.veths().is_empty());
    assert_gone(&lab);
}

#[test]
fn newer_status_says_what_add_lacks() {
    let lab = lab(DUAL);
    let status = |changes: Value| {
        let mut config = config(&changes);
        config["cniVersion"] = "1.1.0".into();
        lab.plugin("flannel").verb("STATUS").config(&config).run()
    };
    let before = lab.snapshot();
    status(json!({})).silent();
    before.assert_same(&lab.snapshot());
    lab.write("/run/lab/file", "");
    for (changes, code, part) in [
        (json!({"subnetFile": "/none"}), 50, "open /none: no such file or directory"),
        (json!({"dataDir": "/run/lab/file/x"}), 50, "not a directory"),
        (json!({"delegate": {"type": "nope"}}), 50, "failed to find plugin \"nope\""),
        (json!({"ipam": {"resolvConf": "/none"}}), 50, "/none"),
        (json!({"delegate": 1}), 999, "cannot unmarshal"),
    ] {
        let failure = status(changes).error();
        assert!(failure.0 == code && failure.1.contains(part), "{failure:?}");
    }
    before.assert_same(&lab.snapshot());
}
