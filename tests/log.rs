//! CNI_BOX_LOG: what was done and how long it took, for whoever asks; and the hints of errors.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use serde_json::{Value, json};

use crate::lab::{Call, Lab, bridge_config, host_local_config};

const LOG: &str = "/run/log";

fn bridge(lab: &Lab) -> Call<'_> {
    lab.plugin("bridge").config(&bridge_config(&json!({"ipMasq": true})))
}

/// The lines of a log, each of which must be one object.
fn lines(text: &str) -> Vec<Value> {
    let object = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(object).collect()
}

fn of<'a>(lines: &'a [Value], key: &str, wanted: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line[key] == wanted).collect()
}

#[test]
fn every_step_is_a_line_with_its_call_and_its_time() {
    let lab = Lab::new();
    lab.netns("ns1");
    let answer = bridge(&lab).env("CNI_BOX_LOG", LOG).run().success();
    assert_eq!((answer.json()["cniVersion"].as_str(), answer.stderr.as_str()), (Some("1.0.0"), ""));
    let added = lines(&lab.read(LOG));
    for (key, value) in [("command", "ADD"), ("container", "c1"), ("ifname", "eth0"), ("netns", "/var/run/netns/ns1")] {
        assert_eq!(of(&added, key, value).len(), added.len(), "{key}");
    }
    for plugin in ["bridge", "host-local"] {
        let own: Vec<&str> = of(&added, "plugin", plugin).iter().map(|line| line["step"].as_str().unwrap()).collect();
        assert_eq!((own[0], own[own.len() - 1]), ("start", "end"), "{plugin}");
        assert!(own.len() > 2, "{plugin} tells of no step: {own:?}");
    }
    let steps: Vec<&str> = added.iter().map(|line| line["step"].as_str().unwrap()).collect();
    for part in [
        "netlink NEWLINK veth",
        "netlink NEWTABLE 2xNEWCHAIN",
        "lock /var/lib/cni/networks/",
        "sysctl net/ipv6/conf/veth",
    ] {
        assert!(steps.iter().any(|step| step.starts_with(part)), "{part:?} is not in {steps:#?}");
    }
    let timed = added.iter().filter(|line| line["step"] != "start");
    assert!(timed.clone().all(|line| line["us"].is_u64()) && timed.count() > 10);
    let total = of(&added, "step", "end").last().unwrap()["us"].as_u64().unwrap();
    assert!(added.iter().all(|line| line["us"].as_u64().unwrap_or(0) <= total), "a step took longer than the call");
    assert_eq!(std::fs::metadata(lab.path(LOG)).unwrap().permissions().mode() & 0o777, 0o600);

    bridge(&lab).verb("DEL").env("CNI_BOX_LOG", LOG).run().silent();
    let both = lines(&lab.read(LOG));
    assert_eq!(both[..added.len()], added[..]);
    assert!(both[added.len()..].iter().all(|line| line["command"] == "DEL"));
}

#[test]
fn a_failure_is_told_with_what_was_taken_back() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.ok("ip -n ns1 link add eth0 type bridge");
    let msg = bridge(&lab).env("CNI_BOX_LOG", LOG).run().error().1;
    let lines = lines(&lab.read(LOG));
    let last = lines.last().unwrap();
    assert_eq!((last["step"].as_str(), last["error"].as_str()), (Some("end"), Some(msg.as_str())));
    assert!(lines.iter().any(|line| line["error"] == "file exists"), "{lines:#?}");
    assert!(lines.iter().any(|line| line["step"].as_str().unwrap().starts_with("take back ")), "{lines:#?}");
    // One that fails before its plugin is asked is told too.
    lab.plugin("bridge").stdin("{").env("CNI_BOX_LOG", "/run/log2").run().error();
    let text = lab.read("/run/log2");
    assert!(text.contains("\"step\":\"end\"") && text.contains("error unmarshall network config"), "{text}");
}

#[test]
fn many_processes_share_a_file() {
    let lab = Lab::new();
    let calls: Vec<_> = (0..20)
        .map(|number| {
            lab.netns(&format!("ns{number}"));
            let call = bridge(&lab).container(&format!("c{number}")).netns(&format!("/var/run/netns/ns{number}"));
            call.env("CNI_BOX_LOG", LOG).spawn()
        })
        .collect();
    assert!(calls.into_iter().all(|call| call.wait().success()));
    let lines = lines(&lab.read(LOG));
    let ended = of(&lines, "step", "end");
    assert_eq!(of(&lines, "plugin", "bridge").iter().filter(|line| line["step"] == "end").count(), 20, "{ended:#?}");
}

#[test]
fn the_log_may_go_to_standard_error_or_to_the_journal() {
    let lab = Lab::new();
    lab.netns("ns1");
    let added = bridge(&lab).env("CNI_BOX_LOG", "stderr").run().success();
    assert!(added.json().is_object() && of(&lines(&added.stderr), "step", "end").len() == 2, "{}", added.stderr);

    bridge(&lab).verb("DEL").run().silent();
    // A DEL with few steps: the kernel keeps ten entries for a journal that does not read them.
    let call = lab.plugin("bridge").verb("DEL").config(&bridge_config(&json!({}))).env("CNI_BOX_LOG", "journal");
    let unheard = call.run().success().stderr;
    assert!(unheard.contains("warning: CNI_BOX_LOG: failed to connect to /run/systemd/journal/socket"), "{unheard}");
    lab.ok("mkdir -p /run/systemd/journal");
    let journal = UnixDatagram::bind(lab.path("/run/systemd/journal/socket")).unwrap();
    call.run().silent();
    journal.set_nonblocking(true).unwrap();
    let mut entries = Vec::new();
    let mut entry = [0; 4096];
    while let Ok(length) = journal.recv(&mut entry) {
        entries.push(String::from_utf8(entry[..length].to_vec()).unwrap());
    }
    let message = entries[0].strip_prefix("SYSLOG_IDENTIFIER=cni-box\nPRIORITY=7\nMESSAGE=").unwrap();
    assert_eq!(lines(message)[0]["step"], "start");
    assert!(entries.len() > 5 && entries.last().unwrap().contains("\"step\":\"end\""), "{entries:?}");
}

#[test]
fn a_log_that_cannot_be_had_is_no_failure() {
    let lab = Lab::new();
    lab.netns("ns1");
    let outcome = bridge(&lab).env("CNI_BOX_LOG", "/nowhere/log").run().success();
    assert!(outcome.json().is_object());
    let warning = "cni-box: warning: CNI_BOX_LOG: failed to open \"/nowhere/log\": no such file or directory\n";
    assert_eq!(outcome.stderr, warning);
}

#[test]
fn nobody_waits_for_who_reads_the_log() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.ok("mkfifo /run/fifo");
    let call = bridge(&lab).env("CNI_BOX_LOG", "/run/fifo");
    let warning = "cni-box: warning: CNI_BOX_LOG: failed to open \"/run/fifo\": no such device or address\n";
    assert_eq!(call.run().success().stderr, warning);
    // Opened for reading, never read, and full.
    let slow = "exec 3<>/run/fifo; dd if=/dev/zero of=/run/fifo oflag=nonblock bs=4096 2>/dev/null; exec \"$@\"";
    let path = ("PATH", "/usr/bin:/bin");
    call.verb("DEL").env(path.0, path.1).under(&["sh", "-c", slow, "sh"]).run().silent();
    assert!(bridge(&lab).env("CNI_BOX_LOG", "/dev/full").run().success().json().is_object());
}

#[test]
fn the_plugins_of_a_chain_are_told_apart() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.executable("/opt/cni/bin/mine", "#!/bin/sh\n[ $CNI_COMMAND != ADD ] || jq .prevResult\n");
    let plugins = json!([bridge_config(&json!({})), {"type": "tuning"}, {"type": "mine"}]);
    lab.write("/etc/cni/net.d/n.conflist", json!({"cniVersion": "1.0.0", "name": "n", "plugins": plugins}).to_string());
    let add = lab.cnitool(&["add", "n", "/var/run/netns/ns1"]).env("CNI_BOX_LOG", LOG);
    add.env("PATH", "/usr/bin:/bin").run().success();
    let lines = lines(&lab.read(LOG));
    for plugin in ["bridge", "host-local", "tuning"] {
        let own = of(&lines, "plugin", plugin);
        assert_eq!(of(&lines, "plugin", plugin).iter().filter(|line| line["step"] == "end").count(), 1, "{own:#?}");
        assert!(own.iter().skip(1).all(|line| line["network"] == "n"), "{own:#?}");
    }
    assert_eq!(of(&lines, "step", "program /opt/cni/bin/mine").len(), 1, "{lines:#?}");
}

/// System calls of a bridge ADD, without the program's start, which depends on the environment's size.
fn traced(lab: &Lab, container: &str, log: Option<&str>) -> Vec<String> {
    let netns = lab.netns(container);
    let call = bridge(lab).container(container).netns(&netns);
    let call = log.map_or(call.clone(), |log| call.env("CNI_BOX_LOG", log));
    call.under(&["strace", "-qq", "-o", "/run/lab/trace"]).run().success();
    let trace = lab.read("/run/lab/trace");
    trace.lines().map(|line| line.split('(').next().unwrap().to_string()).collect()
}

#[test]
fn nothing_is_written_for_nobody() {
    let lab = Lab::new();
    bridge(&lab).container("first").netns(&lab.netns("first")).run().success();
    let (off, empty, on) = (traced(&lab, "a", None), traced(&lab, "b", Some("")), traced(&lab, "c", Some(LOG)));
    let writes = |calls: &[String]| calls.iter().filter(|name| *name == "write").count();
    assert_eq!(writes(&off), writes(&empty));
    let told = lab.read(LOG).lines().count();
    assert!(told > 10);
    assert_eq!(writes(&on), writes(&off) + told, "off it writes as if it were on");
}

#[test]
fn better_an_error_says_what_can_be_done_where_one_thing_is_usual() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.ok("mkdir /run/networks");
    lab.ok("mount -t tmpfs -o ro tmpfs /run/networks");
    let config = host_local_config(&json!({"subnet": "10.1.0.0/24", "dataDir": "/run/networks"}));
    let (code, msg, details) = lab.plugin("host-local").config(&config).run().error();
    assert!(msg.contains("read-only file system"), "{msg}");
    assert_eq!((code, details.as_str()), (999, "the file system is read-only"));

    let mut network = bridge_config(&json!({"cniVersion": "1.1.0"}));
    network["ipam"]["dataDir"] = json!("/run/networks");
    lab.write("/etc/cni/net.d/n.conf", network.to_string());
    let name = network["name"].as_str().unwrap();
    let call = lab.cnitool(&["add", name, "/var/run/netns/ns1"]);
    call.run().dies_with(&["plugin type=\"bridge\"", "read-only file system; the file system is read-only"]);
    // Not that it takes root.
    lab.write("/opt/cni/bin/mine", "");
    network["ipam"] = json!({"type": "mine"});
    let (_, msg, details) = bridge(&lab).config(&network).run().error();
    assert!(msg.ends_with("fork/exec /opt/cni/bin/mine: permission denied"), "{msg}");
    assert_eq!(details, "is it executable (chmod +x)?");
}
