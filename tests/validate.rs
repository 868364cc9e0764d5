//! `cnitool validate`: what it finds in configurations, and that it does nothing.

use serde_json::{Value, json};

use crate::lab::{Lab, bridge_config};
use crate::walkthroughs;

const NET_D: &str = "/etc/cni/net.d";

/// Puts a configuration (JSON, or text that is none) where networks are looked for.
pub fn put(lab: &Lab, file: &str, text: impl ToString) {
    lab.write(&format!("{NET_D}/{file}"), text.to_string());
}

pub fn list(plugins: Value) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins})
}

/// The report without the folder's name, and whether it was a success.
fn validate(lab: &Lab, words: &[&str]) -> (Vec<String>, bool) {
    let outcome = lab.cnitool(&[&["validate"], words].concat()).run();
    let stderr = if outcome.code == Some(0) { "" } else { "the configuration has errors\n" };
    assert_eq!(outcome.stderr, stderr, "{}", outcome.stdout);
    let report = outcome.stdout.replace(&format!("{NET_D}/"), "");
    (report.lines().map(str::to_string).collect(), outcome.code == Some(0))
}

/// The report on one configuration, without the file's name and the summary.
pub fn findings(lab: &Lab, file: &str, config: &Value) -> Vec<String> {
    put(lab, file, config);
    let (mut report, _) = validate(lab, &[&format!("{NET_D}/{file}")]);
    report.pop();
    report.iter().map(|line| line.strip_prefix(&format!("{file}: ")).unwrap_or(line).to_string()).collect()
}

#[test]
fn w3_keys_in_the_wrong_place_are_pointed_at() {
    let lab = Lab::new();
    put(&lab, "lab-br0.conf", walkthroughs::LAB_BR0);
    let unknown =
        |key: &str| format!("lab-br0.conf: {key}: warning: unknown key, which has no effect; it belongs at ipam.{key}");
    let (report, success) = validate(&lab, &[]);
    let expected = [
        "lab-br0.conf: cniVersion: note: missing, which means \"0.1.0\"".to_string(),
        unknown("gateway"),
        unknown("rangeEnd"),
        unknown("rangeStart"),
        unknown("routes"),
        "0 errors, 4 warnings".to_string(),
    ];
    assert_eq!((report, success), (expected.to_vec(), true));
}

#[test]
fn the_configurations_that_people_have_are_right() {
    let lab = Lab::new();
    put(&lab, "w1.conf", walkthroughs::REDISNET);
    put(&lab, "w2.conf", walkthroughs::mynet());
    put(&lab, "w4.conf", walkthroughs::OLD_MYNET.replace("mynet", "old"));
    put(&lab, "bridge.conf", merged_name(bridge_config(&json!({"isDefaultGateway": true, "mtu": "auto", "vlan": 5}))));
    put(&lab, "podman.conflist", podman());
    put(&lab, "nerdctl.conflist", nerdctl());
    put(&lab, "k3s.conflist", k3s());
    put(
        &lab,
        "macvlan.conf",
        json!({"cniVersion": "1.1.0", "name": "mv", "type": "macvlan", "master": "eth0", "mode": "bridge",
        "ipam": {"type": "dhcp", "provide": [{"option": "host-name", "fromArg": "K8S_POD_NAME"}]}}),
    );
    // Runtimes write whole numbers as such before a plugin sees them.
    let numbers = r#"{"cniVersion":"1.0.0","name":"nu","type":"bridge","mtu":1.5e3,"vlan":5.0,"ipam":{}}"#;
    put(&lab, "numbers.conf", numbers);
    put(&lab, "loopback.conf", json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}));
    let (report, success) = validate(&lab, &[]);
    assert!(success && report.last().unwrap().starts_with("0 errors, "), "{report:#?}");
    for name in [
        "w1.conf",
        "w2.conf",
        "w4.conf",
        "bridge.conf",
        "macvlan.conf",
        "loopback.conf",
        "k3s.conflist",
        "podman.conflist",
        "nerdctl.conflist",
        "numbers.conf",
    ] {
        assert!(report.contains(&format!("{name}: ok")), "{name} in {report:#?}");
    }
}

fn merged_name(mut config: Value) -> Value {
    config["name"] = json!("bridged");
    config
}

fn podman() -> Value {
    json!({"args": {"podman_labels": {"a": "b"}}, "cniVersion": "0.4.0", "name": "podman", "plugins": [
        {"type": "bridge", "bridge": "cni-podman0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}],
                  "ranges": [[{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}]]},
         "capabilities": {"ips": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall", "backend": ""},
        {"type": "tuning", "capabilities": {"mac": true}},
        {"type": "dnsname", "domainName": "dns.podman", "capabilities": {"aliases": true}}]})
}

fn nerdctl() -> Value {
    json!({"cniVersion": "1.0.0", "name": "bridge", "nerdctlID": "17f2", "nerdctlLabels": {}, "plugins": [
        {"type": "bridge", "bridge": "nerdctl0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"ranges": [[{"gateway": "10.4.0.1", "subnet": "10.4.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
                  "type": "host-local"}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall", "ingressPolicy": "same-bridge"},
        {"type": "tuning"}]})
}

fn k3s() -> Value {
    json!({"name": "cbr0", "cniVersion": "1.0.0", "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": true, "forceAddress": true, "isDefaultGateway": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}}]})
}

/// A bridge in a list.
pub fn with(changes: Value) -> Value {
    let bridge = json!({"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}});
    crate::lab::merged(bridge, &changes)
}

/// Of each list of plugins just this is said.
pub fn judged(cases: &[(Value, &str)]) {
    let lab = Lab::new();
    for (plugins, expected) in cases {
        let mut found = findings(&lab, "n.conflist", &list(plugins.clone()));
        let note = "plugins[0].type: note: calico is no plugin of cni-box";
        found.retain(|line| line != "ok" && !line.starts_with(note));
        assert_eq!(found, [*expected]);
    }
}

#[test]
fn plugins_are_judged_together() {
    let bridge = with(json!({}));
    judged(&[
        (
            json!([{"type": "tuning"}]),
            "plugins[0]: error: tuning works on the result of a plugin in front of it, and there is none",
        ),
        (
            json!([bridge, {"type": "ptp", "ipam": {"type": "dhcp"}}]),
            "plugins[1]: error: ptp makes the interface that bridge has made already: every ADD fails",
        ),
        (
            json!([bridge, {"type": "portmap"}]),
            "plugins[1].capabilities: warning: portmap does nothing without \"portMappings\": true, because runtimes then tell it no ports",
        ),
        (
            json!([with(json!({"capabilities": {"portMappings": true, "ips": true, "aliases": false}}))]),
            "plugins[0].capabilities.portMappings: warning: bridge does nothing with this capability; allowed: mac, ipRanges, ips",
        ),
        (
            json!([bridge, {"type": "portmap", "capabilities": {"portMappings": true, "snat": true}}]),
            "plugins[1].capabilities.snat: warning: portmap does nothing with this capability; it belongs at plugins[1].snat",
        ),
        (
            json!([with(json!({"ipam": {"type": "vlan"}}))]),
            "plugins[0].ipam.type: error: vlan does not manage addresses; allowed: host-local, static, dhcp",
        ),
        (
            json!([with(json!({"snat": true})), {"type": "portmap", "capabilities": {"portMappings": true}}]),
            "plugins[0].snat: warning: unknown key, which has no effect; it belongs in the portmap plugin: plugins[1].snat",
        ),
        (
            json!([with(json!({"isgatway": true}))]),
            "plugins[0].isgatway: warning: unknown key, which has no effect; did you mean isGateway",
        ),
    ]);
}

/// What each of these programs writes, in its own order and with its own keys.
#[test]
fn what_other_programs_write_for_themselves_is_not_spoken_of() {
    let lab = Lab::new();
    let canal =
        |subnet: &str| json!({"type": "calico", "log_level": "info", "ipam": {"type": "host-local", "subnet": subnet}});
    let (lo, bridge) = (json!({"type": "loopback"}), with(json!({})));
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true});
    let firewall = json!({"type": "firewall", "backend": "iptables", "iptablesAdminChainName": "NOMAD-ADMIN"});
    let stranger =
        "plugins[0].type: note: calico is no plugin of cni-box: only the keys that all plugins have were checked";
    for (program, list, expected) in [
        ("nerdctl", nerdctl(), "ok"),
        ("nomad and apptainer", list(json!([lo, bridge, firewall, portmap])), "ok"),
        ("firecracker-containerd", list(json!([bridge, firewall, lo])), "ok"),
        ("loopback on both sides", list(json!([lo, bridge, lo])), "ok"),
        ("minikube and kubenet", list(json!([with(json!({"addIf": "true"})), portmap])), "ok"),
        ("azure", crate::lab::merged(list(json!([bridge])), &json!({"adapterName": ""})), "ok"),
        ("canal", list(json!([canal("usePodCidr"), portmap])), stranger),
        ("calico", list(json!([canal("usePodCidrIPv6"), portmap])), stranger),
    ] {
        let mut found = findings(&lab, "n.conflist", &list);
        found.retain(|line| expected == "ok" || line != "ok");
        assert_eq!(found, [expected], "{program}");
    }
    // The same keys and words elsewhere are as wrong as any others.
    let unknown = "plugins[1].addIf: warning: unknown key, which has no effect; allowed: ";
    let found =
        findings(&lab, "n.conflist", &list(json!([bridge, crate::lab::merged(portmap, &json!({"addIf": "x"}))])));
    assert!(found.len() == 1 && found[0].starts_with(unknown), "{found:?}");
    let found = findings(&lab, "n.conflist", &list(json!([with(json!({"ipam": {"subnet": "usePodCidr"}}))])));
    assert!(found[0].starts_with("plugins[0].ipam.subnet: error: \"usePodCidr\""), "{found:?}");
}

/// A plugin that makes the container's interface, as the second one in a list.
fn makers() -> [Value; 6] {
    let ipam = json!({"type": "static", "addresses": [{"address": "10.9.0.2/24", "gateway": "10.9.0.1"}]});
    let with_ipam = |plugin: Value| crate::lab::merged(plugin, &json!({"ipam": ipam}));
    [
        with_ipam(json!({"type": "bridge", "bridge": "cni9"})),
        with_ipam(json!({"type": "ptp"})),
        with_ipam(json!({"type": "macvlan", "master": "m0"})),
        with_ipam(json!({"type": "tap"})),
        with_ipam(json!({"type": "host-device", "device": "m1"})),
        json!({"type": "flannel", "delegate": {"isDefaultGateway": true}}),
    ]
}

#[test]
fn of_two_plugins_that_make_the_interface_the_second_fails_as_validate_says() {
    let lab = crate::flannel::lab(crate::flannel::DUAL);
    lab.ok("ip link add m0 up type veth peer name m1");
    let add = |plugins: &Value| {
        put(&lab, "n.conflist", list(plugins.clone()));
        lab.cnitool(&["add", "net", "/var/run/netns/ns1"]).run()
    };
    for second in makers() {
        add(&json!([second])).result();
        lab.cnitool(&["del", "net", "/var/run/netns/ns1"]).run().success();
        let kind = second["type"].as_str().unwrap();
        for between in [json!([]), json!([{"type": "loopback"}, {"type": "tuning"}])] {
            let mut plugins = json!([{"type": "loopback"}, with(json!({}))]);
            plugins.as_array_mut().unwrap().extend(between.as_array().unwrap().iter().chain([&second]).cloned());
            let place = plugins.as_array().unwrap().len() - 1;
            let text = format!(
                "plugins[{place}]: error: {kind} makes the interface that bridge has made already: every ADD fails"
            );
            assert_eq!(findings(&lab, "n.conflist", &list(plugins.clone())), [text]);
            let outcome = add(&plugins);
            assert!(outcome.stderr.contains(&format!("plugin type=\"{kind}\" failed (add): ")), "{outcome:?}");
            assert!(outcome.stderr.contains("exist"), "{outcome:?}");
        }
    }
}

#[test]
fn where_the_second_plugin_may_succeed_validate_only_warns() {
    let lab = Lab::new();
    let ptp = json!({"type": "ptp", "ipam": {"type": "dhcp"}});
    let pci = json!({"type": "host-device", "pciBusID": "0000:00:1f.6"});
    let named = json!({"type": "host-device", "capabilities": {"deviceID": true}});
    let userspace = json!({"type": "host-device", "device": "eth9", "dpdkMode": true});
    let delegate = json!({"type": "flannel", "delegate": {"type": "mine"}});
    for (first, second) in [
        (&pci, &ptp),
        (&named, &ptp),
        (&userspace, &ptp),
        (&delegate, &ptp),
        (&ptp, &pci),
        (&json!({"type": "mine"}), &ptp),
    ] {
        let found = findings(&lab, "n.conflist", &list(json!([first, second])));
        let kind = second["type"].as_str().unwrap();
        let warning = format!("plugins[1]: warning: {kind} makes an interface: usually it is the first plugin");
        assert!(found.contains(&warning) && !found.iter().any(|line| line.contains(": error: ")), "{found:?}");
    }
    let renamed = json!([ptp, {"type": "renames-it"}, with(json!({}))]);
    let found = findings(&lab, "n.conflist", &list(renamed));
    assert!(found.iter().all(|line| !line.contains(": error: ")), "{found:?}");
}

#[test]
fn what_a_plugin_would_refuse_is_found() {
    let bridge = with(json!({}));
    judged(&[
        (
            json!([with(json!({"ipam": {"rangeStart": "10.9.0.1"}}))]),
            "plugins[0].ipam: error: invalid range set 0: RangeStart 10.9.0.1 not in network 10.1.2.0/24",
        ),
        (
            json!([with(json!({"hairpinMode": true, "promiscMode": true}))]),
            "plugins[0]: error: cannot set hairpin mode and promiscuous mode at the same time",
        ),
        (
            json!([bridge, {"type": "bandwidth", "ingressBurst": 800}]),
            "plugins[1]: error: if burst is set, rate must also be set",
        ),
        (
            json!([bridge, {"type": "bandwidth", "shapedSubnets": ["10.0.0.0/8"], "unshapedSubnets": ["11.0.0.0/8"]}]),
            "plugins[1]: error: unshapedSubnets and shapedSubnets cannot be both specified, one of them should be discarded",
        ),
        (
            json!([{"type": "vlan", "ipam": {"type": "dhcp"}}]),
            "plugins[0]: error: \"master\" field is required. It specifies the host interface name to create the VLAN for",
        ),
        (
            json!([{"type": "vlan", "master": "eth0"}]),
            "plugins[0]: error: failed to execute IPAM delegate: no plugin name provided",
        ),
        (
            json!([{"type": "host-device"}]),
            "plugins[0]: error: specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"",
        ),
        (
            json!([{"type": "bridge", "ipam": {"type": "dhcp", "provide": [{"option": "nope"}]}}]),
            "plugins[0].ipam: error: error calling DHCP.Allocate: Can not parse option \"nope\": Can not parse option: strconv.ParseUint: parsing \"nope\": invalid syntax",
        ),
        (
            json!([bridge, {"type": "tuning", "sysctl": {"kernel.x": "1"}}]),
            "plugins[1]: error: invalid net sysctl key: \"kernel/x\"",
        ),
    ]);
}

#[test]
fn delegates_and_strangers_are_looked_at_as_far_as_they_are_known() {
    let bridge = with(json!({}));
    judged(&[
        (
            json!([{"type": "flannel", "delegate": {"name": "x"}}]),
            "plugins[0]: error: 'delegate' dictionary must not have 'name' field, it'll be set by flannel",
        ),
        (
            json!([{"type": "flannel", "delegate": {"mtu": true}}]),
            "plugins[0].delegate.mtu: error: true is not allowed here; allowed: a whole number from 0 to 4294967295 or \"auto\"",
        ),
        (
            json!([bridge, {"type": "firewall", "backend": "ipfw"}]),
            "plugins[1].backend: warning: \"ipfw\" is not allowed here; allowed: \"iptables\" or \"firewalld\" or \"nftables\"",
        ),
        (
            json!([bridge, {"type": "mine", "anything": 1}]),
            "plugins[1].type: note: mine is no plugin of cni-box: only the keys that all plugins have were checked",
        ),
        (
            json!([{"type": "calico", "ipam": {"type": "host-local", "subnet": "theNodes"}}]),
            "plugins[0].ipam.subnet: warning: \"theNodes\" is not allowed here; allowed: an address with prefix length like \"10.1.2.0/24\"",
        ),
        (
            json!([with(json!({"ipMasqBackend": "later"}))]),
            "plugins[0].ipMasqBackend: warning: \"later\" is not allowed here; allowed: \"iptables\" or \"nftables\"",
        ),
        (
            json!([with(json!({"ipam": {"type": "mine"}}))]),
            "plugins[0].ipam.type: note: mine is no plugin of cni-box: the keys of \"ipam\" were not checked",
        ),
        (json!([bridge, 5]), "plugins[1]: error: not a plugin's configuration; allowed: an object"),
        (json!([{"bridge": "x"}]), "plugins[0]: error: error parsing configuration: missing 'type'"),
        (json!([]), "error: error parsing configuration list: no plugins in list"),
    ]);
}

#[test]
fn the_network_itself_is_judged() {
    let lab = Lab::new();
    let lo = json!([{"type": "loopback"}]);
    let with = |changes: Value| crate::lab::merged(list(lo.clone()), &changes);
    let versions = "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0";
    let characters = "allowed: a letter or digit, then letters, digits, \"_\", \".\" and \"-\"";
    let cases = [
        (with(json!({"name": "../x"})), format!("name: error: invalid characters found in network name; {characters}")),
        (with(json!({"name": null})), format!("name: error: missing network name; {characters}")),
        (with(json!({"name": 5})), "name: error: 5 is not allowed here; allowed: a string".to_string()),
        (
            with(json!({"cniVersion": "1.2.0"})),
            format!("cniVersion: error: no plugin knows version \"1.2.0\"; allowed: {versions}"),
        ),
        (
            with(json!({"disableGC": "maybe"})),
            "error: error parsing configuration list: invalid value \"maybe\" for disableGC".to_string(),
        ),
        (
            with(json!({"CniVersions": []})),
            "CniVersions: warning: unknown key, which has no effect; did you mean cniVersions".to_string(),
        ),
        (with(json!({"plugins": {}})), "plugins: error: an object is not allowed here; allowed: a list".to_string()),
    ];
    for (config, expected) in cases {
        assert_eq!(findings(&lab, "n.conflist", &config), [expected]);
    }
    let old = json!({"cniVersion": "0.3.1", "name": "n", "plugins": [{"type": "loopback"}, {"type": "firewall"}]});
    let expected = "plugins[1]: error: firewall does not know cniVersion 0.3.1; allowed: 0.4.0, 1.0.0, 1.1.0";
    assert_eq!(findings(&lab, "n.conflist", &old), [expected]);
    let single = json!({"name": "n", "plugins": []});
    assert!(
        findings(&lab, "n.conf", &single)
            .last()
            .unwrap()
            .contains("missing 'type'; a list of plugins belongs in a file whose name ends in .conflist")
    );
}

#[test]
fn files_and_networks_may_be_named() {
    let lab = Lab::new();
    assert_eq!(lab.cnitool(&["validate"]).run().stderr, format!("no net configurations found in {NET_D}\n"));
    put(&lab, "10-a.conflist", list(json!([{"type": "loopback"}])));
    put(&lab, "20-b.conf", json!({"cniVersion": "1.0.0", "name": "net", "type": "loopback"}));
    put(&lab, "30-c.conf", "{\"name\": \"c\",\n \"type\" \"bridge\"}");
    put(&lab, "README", "no configuration");
    let second = "20-b.conf: name: warning: 10-a.conflist has this network too, which is the one that is found";
    let broken = "30-c.conf: error: expected `:` at line 2 column 9";
    let all = ["10-a.conflist: ok", second, broken, "1 error, 1 warning"].map(str::to_string);
    assert_eq!(validate(&lab, &[]), (all.to_vec(), false));
    let one = ["10-a.conflist: ok", "0 errors, 0 warnings"].map(str::to_string).to_vec();
    assert_eq!(validate(&lab, &["net"]), (one, true));
    let missing = lab.cnitool(&["validate", "c"]).run();
    assert_eq!(missing.stderr, format!("no net configuration with name \"c\" in {NET_D}; and no file of this name\n"));
    let elsewhere = lab.cnitool(&["validate", "20-b.conf"]).folder(NET_D).run();
    assert_eq!(elsewhere.stdout, "20-b.conf: ok\n0 errors, 0 warnings\n");
    let gone = lab.cnitool(&["validate", "/nonexistent.conf"]).run();
    assert!(gone.code == Some(1) && gone.stdout.contains("error reading /nonexistent.conf: no such file"), "{gone:?}");
}

#[test]
fn the_plugins_of_a_networks_folder_are_part_of_it() {
    let lab = Lab::new();
    put(&lab, "a.conflist", list(json!([{"type": "loopback"}])));
    put(&lab, "net/1.conf", json!({"type": "portmap", "snat": 5}));
    put(&lab, "net/2.conf", "[");
    put(&lab, "net/3.json", "ignored");
    let (report, success) = validate(&lab, &[]);
    assert!(!success);
    let starts = [
        "net/2.conf: error: EOF while parsing",
        "net/1.conf: snat: error: 5 is not",
        "net/1.conf: capabilities: warning",
        "2 errors, 1 warning",
    ];
    assert_eq!(report.len(), starts.len(), "{report:#?}");
    for (line, start) in report.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    put(
        &lab,
        "a.conflist",
        crate::lab::merged(list(json!([{"type": "loopback"}])), &json!({"loadOnlyInlinedPlugins": true})),
    );
    assert!(validate(&lab, &[]).1);
}

/// Nothing hangs, crashes or writes to the terminal what it should not.
#[test]
fn hostile_documents_are_only_reported() {
    let lab = Lab::new();
    let deep = format!("{{\"name\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
    let wide = format!("{{\"name\":\"n\",\"type\":\"bridge\",\"vlanTrunk\":[{}{{}}]}}", "{\"id\":1},".repeat(20_000));
    let cases = [
        (deep.as_str(), "error: recursion limit exceeded at line 1 column "),
        ("", "error: EOF while parsing a value at line 1 column 0"),
        ("null", "error: null is no configuration; allowed: an object"),
        ("[]", "error: array is no configuration; allowed: an object"),
        (r#"{"name":"n","type":"bridge","mtu":1e400}"#, "error: failed to load netconf: json: cannot unmarshal number"),
        (
            r#"{"name":"n","type":"bridge","vlan":99999999999999999999}"#,
            "vlan: error: 99999999999999999999 is not allowed here",
        ),
        (r#"{"name":"n","type":"bridge","vlan":-1}"#, "vlan: error: -1 is not allowed here"),
        (
            r#"{"name":"n","type":"bridge","mtu":1,"mtu":2}"#,
            "mtu: warning: this key is there twice; only the last one counts",
        ),
        (
            r#"{"name":"n","type":"bridge","ipam":{"type":"static","addresses":[{"address":"10.0.0.1/8","address":"x"}]}}"#,
            "ipam.addresses[0].address: warning: this key is there twice",
        ),
        ("{\"name\":\"n\",\"type\":\"bridge\",\"\\u001b[2J\\n\":1}", r#""\u{1b}[2J\n": warning: unknown key"#),
        ("{\"name\":\"n\",\"type\":\"\\u001b[2J\"}", r#"type: note: "\u{1b}[2J" is no plugin of cni-box"#),
        (r#"{"name":"n","type":{"x":1}}"#, "type: error: an object is not allowed here; allowed: a string"),
        (wide.as_str(), "cniVersion: note: missing"),
    ];
    for (text, expected) in cases {
        put(&lab, "n.conf", text);
        let (report, _) = validate(&lab, &[]);
        let found = report.iter().any(|line| line.starts_with(&format!("n.conf: {expected}")));
        assert!(found && report.iter().all(|line| !line.contains('\u{1b}')), "{expected} in {report:#?}");
    }
}

/// No socket, no lock, nothing written, nothing read but the configurations and what every program reads.
#[test]
fn nothing_is_touched() {
    let lab = Lab::new();
    put(
        &lab,
        "bridge.conf",
        bridge_config(&json!({"mtu": "auto", "ipMasq": true, "macspoofchk": true, "isGateway": true})),
    );
    put(&lab, "podman.conflist", podman());
    put(&lab, "k3s.conflist", k3s());
    let before = lab.snapshot();
    let strace =
        ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=%file,%network,%desc,flock,setns,unshare,mount"];
    let outcome = lab.cnitool(&["validate"]).under(&strace).run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let trace = lab.read("/run/lab/trace");
    assert!(trace.contains("/etc/cni/net.d/podman.conflist"), "{trace}");
    for line in trace.lines() {
        let call = line.split_whitespace().nth(1).unwrap().split('(').next().unwrap();
        let harmless = [
            "execve",
            "open",
            "openat",
            "read",
            "pread64",
            "close",
            "fstat",
            "newfstatat",
            "statx",
            "stat",
            "lstat",
            "access",
            "faccessat",
            "mmap",
            "getdents64",
            "lseek",
            "fcntl",
            "ioctl",
            "poll",
            "readlink",
            "getcwd",
        ];
        let is_report = call == "write" && (line.contains("write(1,") || line.contains("write(2,"));
        assert!(harmless.contains(&call) || is_report || line.contains("+++"), "{line}");
        let reads_only = !call.starts_with("open") || line.contains("O_RDONLY");
        // Which a debug build looks at when it starts.
        let line = line.replace("/proc/self/maps", "");
        let elsewhere = ["\"/proc", "\"/sys", "\"/run", "\"/var"].iter().any(|folder| line.contains(folder));
        assert!(reads_only && !elsewhere, "{line}");
    }
    before.assert_same(&lab.snapshot());
}
