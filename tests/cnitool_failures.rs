//! cnitool with bad input: directories, files and plugins that are not as they should be. Always a clear error, exit code 1
//! and nothing cached.

use serde_json::json;

use crate::cnitool::{NETNS, network, recorders};
use crate::lab::{Lab, wait_for};

/// The network `n` of `one` and then `bad`, a script.
fn chain(lab: &Lab, script: &str) {
    lab.executable("/opt/cni/bin/bad", &format!("#!/bin/sh\n{script}\n"));
    let plugins = json!([{"type": "one"}, {"type": "bad"}]);
    network(lab, "n.conflist", &json!({"cniVersion": "1.1.0", "name": "n", "plugins": plugins}));
}

fn nothing_cached(lab: &Lab) -> bool {
    !lab.exists("/var/lib/cni/results") || lab.list("/var/lib/cni/results").is_empty()
}

#[test]
fn a_plugin_that_prints_no_result_is_named_and_quoted_and_the_add_undone() {
    let two = r#"echo '{"cniVersion":"1.1.0"}{"cniVersion":"1.1.0"}'"#;
    let family = r#"echo '{"cniVersion":"9.9.9"}'"#;
    let long = "i=0; while [ $i -lt 3000 ]; do printf x; i=$((i+1)); done";
    for (print, parts) in [
        ("echo rubbish", vec!["failed to unmarshal raw result: ", "it printed \"rubbish\\n\""]),
        ("true", vec!["failed to unmarshal raw result: unexpected end of JSON input; it printed \"\""]),
        ("echo '[]'", vec!["failed to unmarshal raw result: ", "it printed \"[]\\n\""]),
        (two, vec!["failed to unmarshal raw result: ", r#"it printed "{\"cniVersion\":\"1.1.0\"}{"#]),
        (family, vec!["it printed \"{\\\"cniVersion\\\":\\\"9.9.9\\\"}"]),
        (long, vec!["xxx\"…"]),
        ("echo rubbish; exit 3", vec!["netplugin failed but error parsing its diagnostic message \"rubbish\\n\": "]),
        ("echo why >&2; exit 3", vec!["netplugin failed: \"why\\n\": exit status 3"]),
    ] {
        let lab = recorders();
        chain(&lab, &format!("cat >/dev/null\n[ $CNI_COMMAND = ADD ] || exit 0\n{print}"));
        let outcome = lab.cnitool(&["add", "n", NETNS]).run().dies_with(&parts);
        let last = outcome.stderr.lines().last().unwrap();
        assert!(last.starts_with("plugin type=\"bad\" failed (add): ") && last.len() < 1000, "{outcome:#?}");
        assert!(outcome.stdout.is_empty() && nothing_cached(&lab), "{outcome:#?}");
        assert!(lab.read("/run/lab/order").ends_with("DEL one\n"), "{print}: what the first did is taken back");
    }
}

#[test]
fn better_a_plugin_that_never_stops_printing_is_stopped() {
    let lab = recorders();
    chain(&lab, "cat >/dev/null; [ $CNI_COMMAND = ADD ] || exit 0; exec yes");
    let limited = ["prlimit", "--as=400000000"];
    let outcome = lab.cnitool(&["add", "n", NETNS]).env("PATH", "/usr/bin:/bin").under(&limited).run();
    outcome.dies_with(&["plugin type=\"bad\" failed (add): ", "\"y\\ny\\n", "; signal: broken pipe"]);
    assert!(nothing_cached(&lab) && lab.read("/run/lab/order").ends_with("DEL one\n"));
    // What comes by the other stream is passed on, and signals are heard meanwhile.
    chain(&lab, "cat >/dev/null; [ $CNI_COMMAND = ADD ] || exit 0; yes >&2 & kill -TERM $PPID; wait");
    let quiet = ["prlimit", "--as=400000000", "sh", "-c", "\"$@\" 2>&1 >/dev/null | tail -n 1", "sh"];
    let outcome = lab.cnitool(&["add", "n", NETNS]).env("PATH", "/usr/bin:/bin").under(&quiet).run();
    assert!(outcome.stdout.ends_with("signal: terminated; interrupted by a signal\n"), "{outcome:#?}");
    assert!(nothing_cached(&lab));
}

#[test]
fn better_a_result_that_cannot_be_printed_is_told_of() {
    let lab = recorders();
    network(&lab, "n.conf", &json!({"cniVersion": "1.0.0", "name": "n", "type": "one"}));
    let full = ["sh", "-c", "\"$@\" >/dev/full", "sh"];
    let outcome = lab.cnitool(&["add", "n", NETNS]).under(&full).run();
    outcome.dies("cni-box: failed to write the answer: no space left on device");
    // A warning that nobody takes costs nobody the result.
    network(&lab, "m.conf", &json!({"cniVersion": "1.0.0", "name": "n", "type": "one"}));
    let full = ["sh", "-c", "\"$@\" 2>/dev/full", "sh"];
    assert!(lab.cnitool(&["add", "n", NETNS]).under(&full).run().success().json().is_object());
}

#[test]
fn a_plugin_that_dies_by_a_signal_is_named_with_the_signal() {
    let lab = recorders();
    for (signal, text) in
        [("KILL", "killed"), ("SEGV", "segmentation fault"), ("BUS", "bus error"), ("USR1", "user defined signal 1")]
    {
        chain(&lab, &format!("ulimit -c 0; cat >/dev/null; [ $CNI_COMMAND = ADD ] || exit 0; kill -{signal} $$"));
        let error = format!("plugin type=\"bad\" failed (add): netplugin failed with no error message: signal: {text}");
        lab.cnitool(&["add", "n", NETNS]).run().dies(&error);
        assert!(nothing_cached(&lab));
    }
    chain(&lab, "ulimit -c 0; cat >/dev/null; printf half; kill -TERM $$");
    let words = ["netplugin failed but error parsing its diagnostic message \"half\": ", "; signal: terminated"];
    for (verb, action) in [("check", "(check)"), ("status", "(status)"), ("del", "(delete)")] {
        let who = format!("plugin type=\"bad\" failed {action}:");
        lab.cnitool(&[verb, "n", NETNS]).run().dies_with(&[&who, words[0], words[1]]);
    }
    lab.cnitool(&["gc", "n"]).run().dies_with(&["failed to GC plugin bad: ", words[0], words[1]]);
}

/// Starts an add whose last plugin hangs, and sends cnitool a signal. The plugin's own process is `/run/lab/pid`.
fn interrupted(lab: &Lab, script: &str, signal: &str) -> u32 {
    chain(lab, &format!("[ $CNI_COMMAND = ADD ] || exit 0\n{script}"));
    let shell = format!(
        "/opt/cni/bin/cnitool add n {NETNS} >/run/lab/out 2>/run/lab/err; echo $? >/run/lab/code.new; \
         mv /run/lab/code.new /run/lab/code"
    );
    let call = lab.cnitool(&[]).under(&["sh", "-c", &shell]).env("PATH", "/usr/bin:/bin");
    let _background = call.spawn();
    wait_for("the plugin to run", || lab.exists("/run/lab/pid"));
    let plugin: u32 = lab.read("/run/lab/pid").trim().parse().unwrap();
    let parent = lab.ok(&format!("ps -o ppid= -p {plugin}"));
    lab.ok(&format!("kill -{signal} {}", parent.trim()));
    wait_for("cnitool to end", || lab.exists("/run/lab/code"));
    plugin
}

#[test]
fn better_an_interrupted_add_ends_the_plugin_that_hangs_and_takes_back_the_rest() {
    // The second and third leave a child that holds their pipes; the third finishes its work; the fourth does not mind.
    let note = "echo $$ >/run/lab/pid.new; mv /run/lab/pid.new /run/lab/pid";
    let child = "sleep 1000 & echo $! >/run/lab/child";
    for (script, signal, part) in [
        (format!("{note}; exec sleep 1000"), "TERM", "netplugin failed with no error message: signal: terminated; "),
        (format!("{child}; {note}; wait"), "TERM", "netplugin failed with no error message: signal: terminated; "),
        (format!("{child}; trap 'echo {{}}; exit 0' HUP; {note}; wait"), "HUP", "netplugin has succeeded; "),
        (format!("trap '' INT; {note}; while :; do sleep 1; done"), "INT", "no error message: signal: killed; "),
    ] {
        let lab = recorders();
        let plugin = interrupted(&lab, &script, signal);
        let errors = lab.read("/run/lab/err");
        let last = errors.lines().last().unwrap();
        assert!(last.starts_with("plugin type=\"bad\" failed (add): ") && last.contains(part), "{script}: {errors}");
        assert!(last.ends_with("interrupted by a signal"), "{script}: {errors}");
        assert_eq!((lab.read("/run/lab/code").as_str(), lab.read("/run/lab/out").as_str()), ("1\n", ""), "{script}");
        assert!(nothing_cached(&lab), "{script}");
        assert!(lab.read("/run/lab/order").contains("DEL one\n"), "{script}");
        assert!(!lab.exists(&format!("/proc/{plugin}")), "{script}: the plugin is still there");
        lab.sh("[ ! -e /run/lab/child ] || kill $(cat /run/lab/child)").success();
    }
}

#[test]
fn a_signal_that_is_ignored_interrupts_nothing() {
    let lab = recorders();
    let script = "cat >/dev/null; [ $CNI_COMMAND = ADD ] || exit 0; kill -HUP $PPID; echo '{}'";
    chain(&lab, script);
    lab.cnitool(&["add", "n", NETNS]).run().dies_with(&["interrupted by a signal"]);
    let call = lab.cnitool(&["add", "n", NETNS]);
    call.clone().under(&["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]).run().success();
    // Blocked, like SIGCHLD, by who started cnitool.
    let blocking = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP, signal.SIGCHLD]); \
                    os.execv(sys.argv[1], sys.argv[1:])";
    call.under(&["python3", "-c", blocking]).run().success();
}

#[test]
fn better_an_interrupted_del_or_gc_stops() {
    let lab = recorders();
    chain(&lab, "cat >/dev/null; [ $CNI_COMMAND != ADD ] || echo '{}'");
    lab.cnitool(&["add", "n", NETNS]).run().success();
    chain(&lab, "cat >/dev/null; kill -TERM $PPID; exec sleep 1000");
    lab.sh("rm /run/lab/order").success();
    for verb in ["del", "gc"] {
        lab.cnitool(&[verb, "n", NETNS])
            .run()
            .dies_with(&["plugin type=\"bad\" failed (delete): ", "interrupted by a signal"]);
        assert!(!lab.exists("/run/lab/order"), "{verb} went on");
        assert!(!nothing_cached(&lab));
    }
}

#[test]
fn a_directory_that_cannot_be_read_is_named() {
    let lab = recorders();
    lab.write("/run/lab/file", "");
    let text = "open /run/lab/file: not a directory";
    for verb in ["add", "check", "del", "gc", "status"] {
        lab.cnitool(&[verb, "n", NETNS]).env("NETCONFPATH", "/run/lab/file").run().dies(text);
    }
    lab.sh("mkdir /run/lab/secret; chmod 700 /run/lab/secret; chmod 755 /run/lab /run").success();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let call = lab.cnitool(&["add", "n", NETNS]).env("NETCONFPATH", "/run/lab/secret");
    call.under(&nobody).run().dies("open /run/lab/secret: permission denied");
    assert!(nothing_cached(&lab));
}

#[test]
fn better_what_never_ends_is_no_configuration_and_no_cached_result() {
    let lab = recorders();
    network(&lab, "n.conf", &json!({"cniVersion": "1.1.0", "name": "n", "type": "one"}));
    lab.cnitool(&["add", "n", NETNS]).run().success();
    let results = "/var/lib/cni/results";
    lab.sh(&format!("mkfifo /etc/cni/net.d/a.conflist {results}/n-f-eth0; ln -s /dev/zero {results}/n-z-eth0"))
        .success();
    let table = lab.cnitool(&["list"]).run().success().stdout;
    assert_eq!(table.lines().count(), 2, "{table}");
    for verb in ["check", "status", "gc", "del"] {
        lab.cnitool(&[verb, "n", NETNS]).run().silent();
    }
    assert_eq!(lab.list(results), ["n-f-eth0", "n-z-eth0"]);
}

#[test]
fn better_two_files_of_one_network_are_both_named() {
    let lab = recorders();
    for (file, kind) in [("10-a.conflist", "one"), ("20-b.conflist", "two"), ("05-c.conf", "two")] {
        let plugins = json!([{"type": kind}]);
        network(&lab, file, &json!({"cniVersion": "1.0.0", "name": "n", "type": kind, "plugins": plugins}));
    }
    let outcome = lab.cnitool(&["add", "n", NETNS]).run().success();
    assert_eq!(lab.read("/run/lab/order"), "ADD one\n", "the first list, as in the reference");
    for other in ["20-b.conflist", "05-c.conf"] {
        let folder = "/etc/cni/net.d";
        let warning =
            format!("warning: network \"n\" is taken from {folder}/10-a.conflist, not from {folder}/{other}\n");
        assert!(outcome.stderr.contains(&warning), "{outcome:#?}");
    }
}

#[test]
fn a_plugin_that_is_missing_stops_add_before_the_first_one_runs() {
    let lab = recorders();
    network(
        &lab,
        "n.conflist",
        &json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "one"}, {"type": "nope"}]}),
    );
    let call = lab.cnitool(&["add", "n", NETNS]).env("CNI_PATH", "/nowhere:/opt/cni/bin");
    let text = "plugin type=\"nope\" failed (add): failed to find plugin \"nope\" in path [/nowhere /opt/cni/bin]";
    call.run().dies(text);
    assert!(!lab.exists("/run/lab/order") && nothing_cached(&lab));
}
