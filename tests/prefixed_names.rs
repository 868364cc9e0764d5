//! Calls plugins by the names that images give them: `buildkit-cni-bridge` or `cnv-bridge`, as file
//! name, as `type` and as `ipam.type`.

use serde_json::{Value, json};

use crate::chains::State;
use crate::gc_command::{leave, netns, removes};
use crate::lab::{Call, Lab, PLUGINS, binary, bridge_config, merged};

const PREFIX: &str = "buildkit-cni-";
const PREFIXES: [&str; 2] = [PREFIX, "cnv-"];
/// A folder with prefixed names alone, as BuildKit's image has them in `/usr/bin`.
const FOLDER: &str = "/opt/image";
const NETNS: &str = "/var/run/netns/ns1";

fn names(lab: &Lab) -> Vec<String> {
    lab.run(&[&binary(), "--list"]).success().stdout.lines().map(str::to_string).collect()
}

/// Links with the prefix in a folder.
fn link(lab: &Lab, folder: &str, plugins: &[&str]) {
    lab.ok(&format!("mkdir -p {folder}"));
    for plugin in plugins {
        lab.ok(&format!("ln -s {} {folder}/{PREFIX}{plugin}", binary()));
    }
}

/// A host with BuildKit's folder, and a container's namespace.
fn image() -> Lab {
    let lab = Lab::bare();
    lab.netns("ns1");
    link(&lab, FOLDER, &["bridge", "loopback", "host-local", "firewall"]);
    lab
}

fn said(call: &Call<'_>) -> (Option<i32>, String, String) {
    let outcome = call.run();
    (outcome.code, outcome.stdout, outcome.stderr)
}

#[test]
fn every_applet_is_reached_by_a_prefixed_name() {
    let lab = Lab::with_ours();
    lab.sh(&format!("mkdir /run/lab/soft /run/lab/hard; cp {} /run/lab/cni-box", binary())).success();
    let names = names(&lab);
    for (name, prefix) in names.iter().flat_map(|name| PREFIXES.map(|prefix| (name, prefix))) {
        let prefixed = format!("{prefix}{name}");
        lab.sh(&format!(
            "ln -s {PLUGINS}/{name} /run/lab/soft/{prefixed}; ln /run/lab/cni-box /run/lab/hard/{prefixed}"
        ))
        .success();
        let soft = Call::new(&lab, &format!("/run/lab/soft/{prefixed}"));
        let hard = Call::new(&lab, &format!("/run/lab/hard/{prefixed}"));
        let word = Call::new(&lab, &binary()).args_list(&[&prefixed]);
        let plain = Call::new(&lab, &format!("{PLUGINS}/{name}"));
        for command in ["", "VERSION"] {
            let expected = said(&plain.clone().env("CNI_COMMAND", command));
            for call in [&soft, &hard, &word] {
                assert_eq!(said(&call.clone().env("CNI_COMMAND", command)), expected, "{prefixed} {command}");
            }
        }
    }
    let refused = Call::new(&lab, &format!("/run/lab/hard/{PREFIX}dhcp")).args_list(&["daemon", "-nope"]).run();
    assert!(refused.code == Some(2) && refused.stderr.starts_with("flag provided but not defined"), "{refused:?}");
}

#[test]
fn a_name_that_means_no_applet_is_told_as_it_was_written() {
    let lab = Lab::bare();
    for name in ["nope", "", "buildkit-cni-bridge", "bridge.old"].map(|name| format!("{PREFIX}{name}")) {
        let unknown = format!("cni-box: unknown applet {name:?}; \"cni-box --list\" names all of them\n");
        lab.ok(&format!("ln -s {} /run/lab/{name}", binary()));
        assert_eq!(said(&Call::new(&lab, &format!("/run/lab/{name}"))), (Some(1), String::new(), unknown.clone()));
        assert_eq!(said(&Call::new(&lab, &binary()).args_list(&[&name])), (Some(1), String::new(), unknown));
    }
    lab.ok(&format!("ln -s {} /run/lab/other-bridge", binary()));
    assert_eq!(lab.run(&["/run/lab/other-bridge"]).code, Some(1));
}

/// BuildKit's network, when its four plugins are on PATH (`util/network/cniprovider/bridge.go`).
fn buildkits() -> Value {
    json!({"cniVersion": "1.0.0", "name": "buildkit", "plugins": [
        {"type": "buildkit-cni-loopback"},
        {"type": "buildkit-cni-bridge", "bridge": "buildkit0", "isDefaultGateway": true, "ipMasq": true,
            "ipam": {"type": "buildkit-cni-host-local", "ranges": [[{"subnet": "10.10.0.0/16"}]]}},
        {"type": "buildkit-cni-firewall", "backend": "", "ingressPolicy": "same-bridge"}]})
}

#[test]
fn buildkits_network_is_one_process_and_leaves_nothing() {
    let lab = image();
    lab.write("/etc/cni/net.d/buildkit.conflist", buildkits().to_string());
    let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=execve"];
    let call = |verb: &str| {
        let call = Call::new(&lab, &binary()).args_list(&["cnitool", verb, "buildkit", NETNS]);
        call.env("CNI_PATH", FOLDER).under(&strace).run().success()
    };
    let one_process = |verb: &str| assert_eq!(lab.read("/run/lab/trace").lines().count(), 1, "{verb}");
    call("add");
    call("del");
    let before = State::of(&lab);
    let result = call("add").json();
    one_process("add");
    assert_eq!(result["ips"][0]["address"], "10.10.0.3/16");
    assert!(lab.rules().iter().any(|rule| rule.contains("-s 10.10.0.3/32") && rule.contains("CNI-")));
    for verb in ["check", "status", "del"] {
        call(verb);
        one_process(verb);
    }
    before.assert_same(&State::of(&lab));
    assert_eq!(lab.reserved("buildkit"), [""; 0]);
}

/// BuildKit itself executes the plugin (go-cni), which finds its IPAM plugin beside it.
#[test]
fn the_ipam_plugin_beside_a_prefixed_plugin_is_called_in_process() {
    let lab = image();
    let config = bridge_config(&json!({"type": "buildkit-cni-bridge", "ipam": {"type": "buildkit-cni-host-local"}}));
    let call = Call::plugin(&lab, FOLDER, "buildkit-cni-bridge").config(&config);
    let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=execve"];
    let result = call.clone().under(&strace).run().result();
    assert_eq!(lab.read("/run/lab/trace").lines().count(), 1);
    assert_eq!(result["ips"][0]["address"], "10.1.2.2/24");
    call.clone().verb("DEL").run().silent();
    let plain = bridge_config(&json!({"type": "buildkit-cni-bridge"}));
    let missing = format!("failed to find plugin \"host-local\" in path [{FOLDER}]");
    call.clone().config(&plain).run().fails(999, &missing);
    let itself = merged(config, &json!({"ipam": {"type": "buildkit-cni-bridge"}}));
    let msg = "ipam type \"buildkit-cni-bridge\" is no address management plugin";
    call.config(&itself).run().fails(7, msg);
}

#[test]
fn another_program_under_a_prefixed_name_is_executed() {
    let lab = image();
    let answer = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.7.7.7/24"}]}"#;
    let file = format!("{FOLDER}/{PREFIX}host-local");
    lab.ok(&format!("rm {file}"));
    lab.executable(&file, &format!("#!/bin/sh\necho '{answer}'\n"));
    let config = bridge_config(&json!({"ipam": {"type": "buildkit-cni-host-local"}}));
    let result = Call::plugin(&lab, FOLDER, "buildkit-cni-bridge").config(&config).run().result();
    assert_eq!(result["ips"][0]["address"], "10.7.7.7/24");
}

#[test]
fn better_a_lease_of_prefixed_dhcp_is_given_back_before_the_interface_goes() {
    let network = crate::dhcp::Network::with_dnsmasq(&[]);
    network.lab.netns("ns9");
    link(&network.lab, PLUGINS, &["bridge", "dhcp"]);
    let config = crate::dhcp::with_dhcp(&json!({"ipam": {"type": "buildkit-cni-dhcp"}}));
    let call = network.lab.plugin("buildkit-cni-bridge").config(&config);
    crate::dhcp::lives(&network, &network.of_container(call, 9), &config);
}

#[test]
fn flannels_prefixed_delegate_is_the_bridge_that_it_is() {
    let lab = crate::flannel::lab(crate::flannel::DUAL);
    link(&lab, PLUGINS, &["bridge", "host-local", "flannel"]);
    let changes = json!({"delegate": {"type": "buildkit-cni-bridge"}, "ipam": {"type": "buildkit-cni-host-local"}});
    let result = crate::flannel::call(&lab, "ADD", &changes).run().result();
    let kept: Value = serde_json::from_str(&lab.read(crate::flannel::KEPT)).unwrap();
    assert_eq!((&kept["isGateway"], &kept["type"]), (&json!(true), &json!("buildkit-cni-bridge")));
    let attached = merged(changes, &json!({"prevResult": result}));
    crate::flannel::call(&lab, "CHECK", &attached).run().silent();
    crate::flannel::call(&lab, "DEL", &attached).run().silent();
    assert_eq!((lab.reserved("cbr0").len(), lab.exists(crate::flannel::KEPT)), (0, false));
    let itself = json!({"delegate": {"type": "buildkit-cni-flannel"}});
    crate::flannel::call(&lab, "ADD", &itself).run().fails(7, "flannel cannot be its own delegate");
}

#[test]
fn gc_knows_what_prefixed_plugins_have_kept() {
    let lab = Lab::with_ours();
    link(&lab, PLUGINS, &["bridge", "host-local", "dhcp", "tuning"]);
    let ipam = json!({"type": "buildkit-cni-host-local", "subnet": "10.1.7.0/24"});
    // tuning does not read its ipam: that only tells gc of a lease.
    let tuning = json!({"type": "buildkit-cni-tuning", "mtu": 1400, "ipam": {"type": "buildkit-cni-dhcp"}});
    let plugins = json!([{"type": "buildkit-cni-bridge", "bridge": "cni7", "ipMasq": true, "ipam": ipam}, tuning]);
    crate::gc_command::write_list(&lab, "net7", &plugins);
    let path = netns(&lab, "prefixed");
    lab.cnitool(&["add", "net7", &path]).run().result();
    leave(&lab, &path);
    let told = removes(&lab, &["net7"], 1);
    for part in ["saved settings /run/cni/tuning/", "lease, if the dhcp daemon", "masquerade rules", "address 10.1.7.2"]
    {
        assert!(told.contains(part), "{part} in {told}");
    }
    let saved = lab.list("/run/cni/tuning").into_iter().filter(|name| name.ends_with(".json"));
    assert_eq!((lab.reserved("net7").len(), saved.count()), (0, 0));
}

#[test]
fn validate_knows_the_keys_of_prefixed_types() {
    let lab = Lab::with_ours();
    let report = |list: &Value| {
        lab.write("/etc/cni/net.d/n.conflist", list.to_string());
        lab.cnitool(&["validate", "/etc/cni/net.d/n.conflist"]).run().stdout.replace("/etc/cni/net.d/n.conflist: ", "")
    };
    assert_eq!(report(&buildkits()), "ok\n0 errors, 0 warnings\n");
    let wrong = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [
        {"type": "buildkit-cni-bridge", "isgatway": true,
            "ipam": {"type": "buildkit-cni-host-local", "subnet": "10.1.2.0/24", "rangeStrat": "10.1.2.9"}},
        {"type": "buildkit-cni-portmap"},
        {"type": "buildkit-cni-static"},
        {"type": "buildkit-cni-nope"}]});
    let expected = [
        "plugins[0].ipam.rangeStrat: warning: unknown key, which has no effect; did you mean rangeStart",
        "plugins[0].isgatway: warning: unknown key, which has no effect; did you mean isGateway",
        "plugins[1].capabilities: warning: portmap does nothing without",
        "plugins[2]: warning: buildkit-cni-static manages addresses",
        "plugins[3].type: note: buildkit-cni-nope is no plugin of cni-box",
    ];
    let found = report(&wrong);
    for line in expected {
        assert!(found.lines().any(|found| found.starts_with(line)), "{line} in {found}");
    }
}
