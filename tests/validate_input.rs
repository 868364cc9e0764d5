//! `cnitool validate`: what it reads. Directories, standard input, NetworkAttachmentDefinitions, and documents that are none of
//! these.

use serde_json::{Value, json};

use crate::lab::{Lab, merged};

const NET_D: &str = "/etc/cni/net.d";

/// The lines of the report and the exit status, with `stdin` on standard input.
fn validate(lab: &Lab, words: &[&str], stdin: &str) -> (Vec<String>, i32) {
    let outcome = lab.cnitool(&[&["validate"], words].concat()).stdin(stdin).folder("/run/lab").run();
    let report = outcome.stdout.replace(&format!("{NET_D}/"), "");
    (report.lines().map(str::to_string).collect(), outcome.code.unwrap_or_else(|| panic!("{outcome:#?}")))
}

/// The only line about a document on standard input, without its name.
fn found_in(lab: &Lab, stdin: &str) -> (String, i32) {
    let (mut report, code) = validate(lab, &["-"], stdin);
    report.pop();
    assert_eq!(report.len(), 1, "{report:#?}");
    (report.remove(0).strip_prefix("-: ").unwrap().to_string(), code)
}

fn loopback(name: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": name, "type": "loopback"})
}

/// A definition of the namespace `default`.
fn definition(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn configured(name: &str, config: &Value) -> Value {
    definition(name, json!({"config": config.to_string()}))
}

#[test]
fn directories_are_read_in_the_order_in_which_networks_are_found() {
    let lab = Lab::new();
    let file = |path: &str, text: String| lab.write(path, text);
    file("/run/lab/dir/b.conf", loopback("b").to_string());
    file("/run/lab/dir/a.json", loopback("a").to_string());
    file(
        "/run/lab/dir/z.conflist",
        json!({"cniVersion": "1.0.0", "name": "z", "plugins": [{"type": "loopback"}]}).to_string(),
    );
    file("/run/lab/dir/README", "none".to_string());
    file("/run/lab/other.conf", loopback("o").to_string());
    let lines = |prefix: &str| ["z.conflist", "a.json", "b.conf"].map(|name| format!("{prefix}{name}: ok"));
    for word in ["/run/lab/dir", "./dir", "dir"] {
        let (report, code) = validate(&lab, &[word], "");
        assert_eq!((&report[..3], code), (&lines(&format!("{word}/"))[..], 0), "{report:#?}");
    }
    let (report, code) = validate(&lab, &["dir", "other.conf", "-"], &loopback("x").to_string());
    assert_eq!((report[3..].join("|"), code), ("other.conf: ok|-: ok|0 errors, 0 warnings".to_string(), 0));
    lab.write("/run/lab/dir/b.conf", "{");
    assert_eq!(validate(&lab, &["dir"], "").1, 1);
    lab.ok("mkdir /run/lab/empty");
    let empty = lab.cnitool(&["validate", "/run/lab/empty"]).run();
    empty.dies("no net configurations found in /run/lab/empty");
}

/// A network goes before a directory of its name, which mostly holds the network's further plugins.
#[test]
fn a_network_goes_before_a_directory_of_its_name() {
    let lab = Lab::new();
    lab.write(&format!("{NET_D}/n.conf"), loopback("dir").to_string());
    lab.write("/run/lab/dir/other.conf", "{");
    assert_eq!(validate(&lab, &["dir"], ""), (vec!["n.conf: ok".to_string(), "0 errors, 0 warnings".to_string()], 0));
}

#[test]
fn standard_input_may_hold_any_document() {
    let lab = Lab::new();
    let ok = |document: &Value| assert_eq!(found_in(&lab, &document.to_string()), ("ok".to_string(), 0), "{document}");
    ok(&loopback("n"));
    ok(&json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "loopback"}]}));
    let bad = json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge", "mtu": 60});
    let (line, code) = found_in(&lab, &bad.to_string());
    assert!(code == 1 && line.starts_with("error: failed to make veth pair"), "{line}");
    // As `kubectl get net-attach-def x -o jsonpath={.spec.config}` prints.
    let (line, code) = found_in(&lab, r#"{"cniVersion":"1.0.0","type":"loopback"}"#);
    let warning = "name: warning: missing; Multus gives the network that of its NetworkAttachmentDefinition";
    assert_eq!((line.as_str(), code), (warning, 0));
}

#[test]
fn what_is_no_configuration_is_an_error_that_says_why() {
    let lab = Lab::new();
    let deep = format!("{{\"name\": {}{}}}", "[".repeat(400_000), "]".repeat(400_000));
    for (stdin, expected) in [
        ("", "error: EOF while parsing a value"),
        ("{\"name\": \"n\", // why\n\"type\": \"bridge\"}", "; JSON has no comments"),
        ("# why\n{}", "; JSON has no comments"),
        ("{\"name\": \"n\" /* why */}", "; JSON has no comments"),
        ("\u{feff}{}", "; it begins with a byte order mark, which JSON does not have"),
        ("apiVersion: v1\nkind: List\n", "; YAML is not read; kubectl get -o json prints JSON"),
        ("[]", "error: array is no configuration; allowed: an object"),
        (deep.as_str(), "error: recursion limit exceeded"),
    ] {
        let (line, code) = found_in(&lab, stdin);
        assert!(code == 1 && line.contains(expected), "{expected:?} in {line:?}");
    }
    let (report, code) = validate(&lab, &["/dev/zero"], "");
    assert_eq!(
        (report[0].as_str(), code),
        ("/dev/zero: error: error reading /dev/zero: it has more than 67108864 bytes", 1)
    );
    let endless = lab.sh("CNI_PATH=/opt/cni/bin /opt/cni/bin/cnitool validate - </dev/zero");
    assert!(
        endless.code == Some(1) && endless.stdout.contains("error reading standard input: it has more than"),
        "{endless:?}"
    );
    let closed = lab.sh("CNI_PATH=/opt/cni/bin /opt/cni/bin/cnitool validate - <&-");
    assert!(closed.code == Some(1) && closed.stdout.starts_with("-: error: "), "{closed:?}");
}

#[test]
fn a_definition_is_the_network_that_multus_makes_of_it() {
    let lab = Lab::new();
    // The network has the definition's name.
    let nameless = json!({"cniVersion": "0.3.1", "type": "macvlan", "master": "eth0", "ipam": {"type": "dhcp"}});
    let list = json!({"cniVersion": "1.0.0", "plugins": [{"type": "loopback"}]});
    for config in [&nameless, &list, &merged(nameless.clone(), &json!({"name": ""})), &loopback("other")] {
        let found = found_in(&lab, &configured("x", config).to_string());
        assert_eq!(found, ("default/x: ok".to_string(), 0), "{config}");
    }
    for (config, expected) in [
        (json!({"cniVersion": "1.0.0", "type": "bridge", "mtu": 60}), "error: failed to make veth pair"),
        (
            json!({"cniVersion": "1.0.0", "plugins": [{"type": "vlan", "vlanId": 5000}]}),
            "plugins[0].vlanId: error: 5000",
        ),
        (json!({"cniVersion": "1.0.0", "plugins": []}), "error: error parsing configuration list: no plugins in list"),
    ] {
        let (line, code) = found_in(&lab, &configured("x", &config).to_string());
        assert!(code == 1 && line.starts_with(&format!("default/x: {expected}")), "{line}");
    }
    let broken = definition("x", json!({"config": "{\"cniVersion\": \"1.0.0\",}"}));
    assert!(found_in(&lab, &broken.to_string()).0.starts_with("default/x: error: spec.config: trailing comma"));
    let object = definition("x", json!({"config": {"type": "bridge"}}));
    let (line, code) = found_in(&lab, &object.to_string());
    assert!(
        code == 1 && line.contains("error: default/x: ") && line.contains("\"spec.config\" of type string"),
        "{line}"
    );
    let nameless = merged(definition("x", json!({})), &json!({"metadata": {"name": null}}));
    assert_eq!(found_in(&lab, &nameless.to_string()), ("error: metadata.name is missing".to_string(), 1));
}

/// Multus names the device that a device plugin has allocated.
#[test]
fn a_definition_with_a_resource_needs_no_device() {
    let lab = Lab::new();
    let card = json!({"cniVersion": "1.0.0", "type": "host-device"});
    let plain = configured("x", &card);
    let resource = json!({"metadata": {"annotations": {"k8s.v1.cni.cncf.io/resourceName": "intel.com/sriov"}}});
    assert!(found_in(&lab, &plain.to_string()).0.contains("error: specify either \"device\""));
    assert_eq!(found_in(&lab, &merged(plain, &resource).to_string()), ("default/x: ok".to_string(), 0));
    let listed = configured("x", &json!({"cniVersion": "1.0.0", "plugins": [card, {"type": "tuning"}]}));
    assert_eq!(found_in(&lab, &merged(listed, &resource).to_string()), ("default/x: ok".to_string(), 0));
}

#[test]
fn a_definition_without_a_configuration_is_the_network_of_a_file() {
    let lab = Lab::new();
    let document = definition("x", json!({"config": ""})).to_string();
    let (line, code) = found_in(&lab, &document);
    let missing =
        format!("default/x: spec.config: error: missing, and there is no net configuration with name \"x\" in {NET_D}");
    assert_eq!((line, code), (missing.replace(&format!("{NET_D}/"), ""), 1));
    lab.write(&format!("{NET_D}/10-x.conf"), json!({"cniVersion": "1.0.0", "name": "x", "type": "vlan"}).to_string());
    for spec in [json!({"config": ""}), json!({}), json!(null)] {
        let (report, code) = validate(&lab, &["-"], &definition("x", spec).to_string());
        assert_eq!(report[0], "-: default/x: spec.config: note: missing, which means the network of 10-x.conf");
        assert!(code == 1 && report[1].starts_with("10-x.conf: error: \"master\" field is required"), "{report:#?}");
    }
}

#[test]
fn every_definition_of_a_list_is_looked_at() {
    let lab = Lab::new();
    let good = configured("good", &loopback("n"));
    let elsewhere = merged(configured("good", &loopback("n")), &json!({"metadata": {"namespace": "other"}}));
    let bad = configured("bad", &json!({"cniVersion": "1.0.0", "type": "tap", "mtu": 60}));
    let plain = merged(configured("plain", &loopback("n")), &json!({"kind": null, "metadata": {"namespace": null}}));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    for kind in ["List", "NetworkAttachmentDefinitionList"] {
        let list = json!({"apiVersion": "v1", "kind": kind, "items": [good, elsewhere, bad, plain, pod, 5]});
        lab.write("/run/lab/nads.json", list.to_string());
        let (report, code) = validate(&lab, &["nads.json"], "");
        // One element that is no object makes the list unreadable.
        let unreadable = "nads.json: error: json: cannot unmarshal number 5 into key \"items[5]\"";
        assert!(code == 1 && report.len() == 2 && report[0].starts_with(unreadable), "{report:#?}");
        let list = merged(list, &json!({"items": [good, elsewhere, bad, plain, pod]}));
        lab.write("/run/lab/nads.json", list.to_string());
        let (report, code) = validate(&lab, &["nads.json"], "");
        let expected = [
            "nads.json: default/good: ok",
            "nads.json: other/good: ok",
            "nads.json: default/bad: error: failed to set mac or mtu of tap \"eth0\": invalid argument",
            "nads.json: plain: ok",
            "nads.json: note: \"Pod\" is passed over: no NetworkAttachmentDefinition",
            "1 error, 0 warnings",
        ];
        assert!(code == 1 && report.len() == expected.len(), "{report:#?}");
        assert!(report.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{report:#?}");
    }
    let empty = json!({"kind": "List", "items": []}).to_string();
    assert_eq!(validate(&lab, &["-"], &empty), (vec!["0 errors, 0 warnings".to_string()], 0));
}

/// As `jq .items` and `jq .items[]` print them, and `kubectl get -o json` of several kinds.
#[test]
fn several_documents_and_arrays_are_looked_at_like_lists() {
    let lab = Lab::new();
    let (one, two) = (configured("one", &loopback("n")), configured("two", &loopback("n")));
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let list = json!({"kind": "List", "items": [one, map]});
    let expected = |middle: &[&'static str]| {
        [&["-: default/one: ok"], middle, &["-: default/two: ok", "0 errors, 0 warnings"]].concat()
    };
    let note = "-: note: \"ConfigMap\" is passed over: no NetworkAttachmentDefinition";
    for (stdin, expected) in [
        (format!("{one}\n{two}\n"), expected(&[])),
        (json!([one, two]).to_string(), expected(&[])),
        (json!([one, map, two]).to_string(), expected(&[note])),
        (format!("{list}{two}"), expected(&[note])),
        (json!({"kind": "List", "items": [list, two]}).to_string(), expected(&[note])),
    ] {
        let (report, code) = validate(&lab, &["-"], &stdin);
        assert_eq!((report.iter().map(String::as_str).collect::<Vec<_>>(), code), (expected, 0), "{stdin}");
        lab.write("/run/lab/nads.json", &stdin);
        assert_eq!(validate(&lab, &["nads.json"], "").1, 0, "{stdin}");
    }
    // Runtimes read neither of these.
    for (stdin, why) in [
        (format!("{}{}", loopback("n"), loopback("m")), "trailing characters"),
        (json!([loopback("n")]).to_string(), "array is no configuration"),
    ] {
        let (line, code) = found_in(&lab, &stdin);
        assert!(code == 1 && line.contains(why), "{line}");
    }
}

/// A list of thousands of plugins with an unknown key each takes no longer than reading it.
#[test]
fn a_list_of_thousands_of_plugins_is_looked_at() {
    let lab = Lab::new();
    let mut plugins = vec![json!({"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}})];
    plugins.resize(7001, json!({"type": "tuning", "pad": "b"}));
    let list = json!({"cniVersion": "1.0.0", "name": "big", "plugins": plugins});
    let (report, code) = validate(&lab, &["-"], &list.to_string());
    assert_eq!((report.len(), report[7000].as_str(), code), (7001, "0 errors, 7000 warnings", 0));
}
