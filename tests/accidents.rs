//! What must not go wrong when things go wrong: failures in the middle, kills, storms, bad neighbours.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, Outcome, Snapshot, bridge_config, merged};

/// A host where the bridge is there because an attachment came and went, and what it looks like.
fn settled(changes: &Value) -> (Lab, Snapshot) {
    let lab = Lab::new();
    lab.netns("ns1");
    let config = bridge_config(changes);
    lab.plugin("bridge").config(&config).run().result();
    lab.plugin("bridge").verb("DEL").config(&config).run().silent();
    let before = lab.snapshot();
    (lab, before)
}

/// A configuration with everything that has to be undone.
pub fn full() -> Value {
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    json!({"isDefaultGateway": true, "ipMasq": true, "ipam": {"subnet": null, "ranges": ranges}})
}

/// Nothing new on the host, and only `lo` in the container.
pub fn assert_untouched(lab: &Lab, before: &Snapshot) {
    before.assert_same(&lab.snapshot());
    let links = lab.ip("-n ns1 link show");
    assert_eq!(links.as_array().unwrap().len(), 1, "only lo: {links}");
}

/// A configuration that fails late, and what its error must say.
fn failures() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let routes = |routes: Value| json!({"ipam": {"routes": routes}});
    let twice = json!({"type": "static", "subnet": null, "ranges": null,
        "addresses": [{"address": "10.1.2.9/24"}, {"address": "10.1.2.9/24"}]});
    vec![
        (
            "an unreachable gateway",
            routes(json!([{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}])),
            vec!["10.9.0.0", "unreachable"],
        ),
        (
            "the same route twice",
            routes(json!([{"dst": "10.9.0.0/16"}, {"dst": "10.9.0.0/16"}])),
            vec!["failed to add route", "10.9.0.0", "file exists"],
        ),
        (
            "the same address twice",
            json!({"isDefaultGateway": false, "ipam": twice}),
            vec!["10.1.2.9/24", "file exists"],
        ),
        (
            "an IPAM plugin that is not there",
            json!({"ipam": {"type": "nope"}}),
            vec!["failed to find plugin \"nope\" in path"],
        ),
        (
            "an IPAM type with a slash",
            json!({"ipam": {"type": "../bin/static"}}),
            vec!["invalid plugin name: ../bin/static"],
        ),
        (
            "a range that is none",
            json!({"ipam": {"subnet": "10.1.2.0/31", "ranges": null}}),
            vec!["too small to allocate from"],
        ),
        ("an MTU that no link takes", json!({"mtu": 10}), vec!["invalid argument"]),
    ]
}

#[test]
fn better_a_failed_add_leaves_everything_as_it_was() {
    for (what, changes, parts) in failures() {
        let (lab, before) = settled(&full());
        let config = bridge_config(&merged(full(), &changes));
        lab.plugin("bridge").config(&config).run().fails_with(999, &parts);
        eprintln!("{what}");
        assert_untouched(&lab, &before);
    }
}

#[test]
fn better_a_conflict_on_the_bridge_leaves_everything_as_it_was() {
    let (lab, _) = settled(&full());
    lab.ok("ip addr del 10.1.2.1/24 dev cni0");
    lab.ok("ip addr add 10.99.0.1/24 dev cni0");
    let before = lab.snapshot();
    let text = "failed to set bridge addr: \"cni0\" already has an IP address different from 10.1.2.1/24";
    lab.plugin("bridge").config(&bridge_config(&full())).run().fails(999, text);
    assert_untouched(&lab, &before);
}

#[test]
fn better_an_exhausted_range_leaves_everything_as_it_was() {
    let tiny = json!({"ipam": {"subnet": "10.1.2.0/30"}});
    let (lab, _) = settled(&tiny);
    lab.plugin("host-local").container("other").config(&bridge_config(&tiny)).run().result();
    let before = lab.snapshot();
    let text = "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.1-10.1.2.2";
    lab.plugin("bridge").config(&bridge_config(&tiny)).run().fails(999, text);
    assert_untouched(&lab, &before);
}

#[test]
fn better_a_result_that_cannot_be_converted_leaves_everything_as_it_was() {
    let (lab, before) = settled(&full());
    let cable = bridge_config(&json!({"cniVersion": "0.2.0", "ipam": null}));
    lab.plugin("bridge").config(&cable).run().fails(999, "cannot convert: no valid IP addresses");
    assert_untouched(&lab, &before);
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.3.0.0/24"}]]);
    let two = merged(full(), &json!({"cniVersion": "0.2.0", "isDefaultGateway": false, "ipam": {"ranges": ranges}}));
    let text = "CNI version 0.2.0 does not support more than 1 address per family";
    lab.plugin("bridge").config(&bridge_config(&two)).run().fails(999, text);
    assert_untouched(&lab, &before);
}

#[test]
fn a_taken_interface_name_leaves_everything_as_it_was() {
    let (lab, _) = settled(&full());
    lab.ok("ip -n ns1 link add eth0 type bridge");
    let before = lab.snapshot();
    lab.plugin("bridge").config(&bridge_config(&full())).run().fails_with(999, &["eth0", "already exists"]);
    before.assert_same(&lab.snapshot());
    assert_eq!(lab.link_in("ns1", "eth0")["linkinfo"]["info_kind"], "bridge");
}

#[test]
fn better_a_read_only_store_leaves_everything_as_it_was() {
    let (lab, _) = settled(&full());
    lab.sh("mount -t tmpfs -o ro tmpfs /var/lib/cni").success();
    let before = lab.snapshot();
    lab.plugin("bridge").config(&bridge_config(&full())).run().fails_with(999, &["read-only file system"]);
    assert_untouched(&lab, &before);
}

#[test]
fn better_namespaces_that_are_none_are_refused_before_anything_is_made() {
    let lab = Lab::new();
    lab.write("/run/lab/file", "no namespace");
    let before = lab.snapshot();
    for (path, part) in [
        ("/var/run/netns/gone", "no such file or directory"),
        ("/run/lab/file", "unknown FS magic on \"/run/lab/file\": 1021994"),
        ("/run/lab", "unknown FS magic on \"/run/lab\": 1021994"),
    ] {
        let call = lab.plugin("bridge").netns(path).config(&bridge_config(&full()));
        call.run().fails_with(999, &["failed to open netns", part]);
        before.assert_same(&lab.snapshot());
    }
    let other_kind = format!("/proc/{}/ns/mnt", lab.pid());
    lab.plugin("bridge").netns(&other_kind).config(&bridge_config(&full())).run().error();
    before.assert_same(&lab.snapshot());
}

/// An IPAM plugin of the user's that answers with this script.
fn with_ipam(script: &str) -> (Lab, Outcome) {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.executable("/run/lab/bin/my-ipam", &format!("#!/bin/sh\ncat >/dev/null\n{script}\n"));
    let call = lab
        .plugin("bridge")
        .env("CNI_PATH", "/run/lab/bin")
        .config(&bridge_config(&json!({"ipam": {"type": "my-ipam"}})));
    let outcome = call.run();
    (lab, outcome)
}

#[test]
fn errors_of_an_ipam_plugin_pass_through() {
    let own = r#"echo '{"code": 11, "msg": "come back", "details": "later"}'; exit 1"#;
    let (_lab, outcome) = with_ipam(own);
    assert_eq!(outcome.error(), (11, "come back".to_string(), "later".to_string()));
    for (script, part) in [
        ("exit 1", "netplugin failed with no error message: exit status 1"),
        ("exit 3", "netplugin failed with no error message: exit status 3"),
        ("kill -9 $$", "netplugin failed with no error message: signal: killed"),
        ("echo oh >&2; exit 1", "netplugin failed: \"oh\\n\""),
        ("echo zz; exit 1", "netplugin failed but error parsing its diagnostic message \"zz\\n\""),
    ] {
        let (_lab, outcome) = with_ipam(script);
        let error = outcome.error();
        assert!(error.1.contains(part), "{script}: {error:?}");
    }
}

#[test]
fn better_ipam_answers_that_are_no_result_leave_no_link() {
    for script in [
        "true",
        "echo '[]'",
        "echo zz",
        r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"x"}]}'"#,
        r#"echo '{"cniVersion":"9.9.9"}'"#,
        r#"echo '{"cniVersion":"1.0.0"}'"#,
        "echo null",
    ] {
        let (lab, outcome) = with_ipam(script);
        outcome.error();
        assert_eq!(lab.veths(), [""; 0], "{script}");
        assert_eq!(lab.link_in("ns1", "eth0"), Value::Null, "{script}");
    }
}

#[test]
fn a_failed_add_asks_the_users_ipam_plugin_to_delete() {
    let script = r#"echo $CNI_COMMAND >> /run/lab/calls
        echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.9/24"}],"routes":[{"dst":"10.0.0.0/8","gw":"192.0.2.1"}]}'"#;
    let (lab, outcome) = with_ipam(script);
    outcome.error();
    assert_eq!(lab.read("/run/lab/calls"), "ADD\nDEL\n");
}

/// How many attachments no plugin may have trouble with at once.
pub const MANY: usize = 200;

/// The same verb for many containers at once.
pub struct Storm<F>(usize, F);

impl<'a, F: Fn(usize) -> Call<'a> + Sync> Storm<F> {
    /// Makes so many namespaces, `many0` and so on; `call_of` gives the call for one of them, but for verb and container.
    pub fn new(lab: &'a Lab, count: usize, call_of: F) -> Self {
        let names: String = (0..count).map(|one| format!("netns add many{one}\n")).collect();
        Call::new(lab, "ip").args_list(&["-batch", "-"]).stdin(names).run().success();
        Storm(count, call_of)
    }

    /// Calls all of them; none may fail.
    pub fn all(&self, verb: &str) {
        let Storm(count, call_of) = self;
        std::thread::scope(|scope| {
            for one in 0..*count {
                let call = call_of(one).verb(verb).container(&format!("c{one}"));
                let call = call.netns(&format!("/var/run/netns/many{one}"));
                scope.spawn(move || drop(call.run().success()));
            }
        });
    }
}

#[test]
fn two_hundred_containers_at_once_on_one_bridge() {
    for flavour in ["nft", "legacy"] {
        let lab = Lab::new();
        lab.install_iptables(flavour);
        let config = bridge_config(&full());
        let storm = Storm::new(&lab, MANY, |_| lab.plugin("bridge").config(&config));
        storm.all("ADD");
        assert_eq!(lab.reserved("net").len(), 2 * MANY, "{flavour}");
        assert_eq!(lab.veths().len(), MANY);
        assert_eq!(lab.rules().iter().filter(|line| line.contains("POSTROUTING")).count(), 2 * MANY);
        storm.all("DEL");
        assert_eq!((lab.reserved("net").len(), lab.veths().len()), (0, 0));
        assert_eq!(lab.rules(), [""; 0], "{flavour}");
    }
}

#[test]
fn one_container_added_fifty_times_at_once_is_added_once() {
    let (lab, before) = settled(&full());
    let config = bridge_config(&full());
    let codes: Vec<_> = std::thread::scope(|scope| {
        let add = || lab.plugin("bridge").config(&config).run().code;
        let threads: Vec<_> = (0..50).map(|_| scope.spawn(add)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(lab.reserved("net").len(), 2);
    assert_eq!(lab.veths().len(), 1);
    lab.plugin("bridge").verb("DEL").config(&config).run().silent();
    assert_untouched(&lab, &before);
}

#[test]
fn better_what_a_failing_ipam_plugin_says_on_stderr_is_passed_on() {
    let (_lab, outcome) = with_ipam("echo what went wrong >&2; exit 1");
    outcome.error();
    assert_eq!(outcome.stderr, "what went wrong\n");
}

#[test]
fn better_an_ipam_plugin_that_stays_busy_is_an_error() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.executable("/run/lab/bin/my-ipam", "#!/bin/sh\n");
    let before = lab.snapshot();
    let busy = std::fs::OpenOptions::new().append(true).open(lab.path("/run/lab/bin/my-ipam")).unwrap();
    let config = bridge_config(&json!({"ipam": {"type": "my-ipam"}}));
    let outcome = lab.plugin("bridge").env("CNI_PATH", "/run/lab/bin").config(&config).run();
    drop(busy);
    outcome.fails_with(999, &["fork/exec /run/lab/bin/my-ipam", "text file busy"]);
    assert_untouched(&lab, &before);
}
