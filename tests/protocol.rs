//! The protocol: verbs, versions, environment, texts and codes, as in `protocol.md`; table over plugins and versions.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, bridge_config, host_local_config, merged, reference_mode, static_config};

/// The plugins of this house that speak the protocol.
const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "static"];
const ALL_VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const VERBS: [&str; 6] = ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"];

/// The versions under test: the reference of Debian ends at 1.0.0.
pub fn versions() -> &'static [&'static str] {
    if reference_mode() { &ALL_VERSIONS[..6] } else { &ALL_VERSIONS }
}

/// A configuration that the plugin accepts.
fn config(plugin: &str, version: &str) -> Value {
    let base = match plugin {
        "bridge" => bridge_config(&json!({})),
        "host-local" => host_local_config(&json!({"subnet": "10.1.2.0/24"})),
        "static" => static_config(&json!({"addresses": [{"address": "10.1.2.3/24"}]})),
        _ => json!({"name": "net", "type": "loopback"}),
    };
    merged(base, &json!({"cniVersion": version}))
}

fn call<'a>(lab: &'a Lab, plugin: &str, verb: &str) -> Call<'a> {
    lab.plugin(plugin).verb(verb).config(&config(plugin, "1.0.0"))
}

#[test]
fn version_is_answered_with_exact_bytes_whatever_is_on_stdin() {
    let lab = Lab::new();
    let list = versions().iter().map(|version| format!("\"{version}\"")).collect::<Vec<_>>().join(",");
    let newest = versions().last().unwrap();
    for plugin in PLUGINS {
        let outcome = lab.plugin(plugin).verb("VERSION").without("CNI_PATH").stdin("garbage").run().success();
        assert_eq!(outcome.stdout, format!("{{\"cniVersion\":\"{newest}\",\"supportedVersions\":[{list}]}}\n"));
        assert_eq!(outcome.stderr, "");
    }
}

#[test]
fn without_a_command_the_plugin_tells_about_itself_on_stderr() {
    let lab = Lab::new();
    let versions = format!("CNI protocol versions supported: {}", versions().join(", "));
    for plugin in PLUGINS {
        let bare = Call::new(&lab, &format!("/opt/cni/bin/{plugin}"));
        for call in [bare.clone(), bare.clone().args_list(&["--version"]), bare.env("CNI_COMMAND", "")] {
            let outcome = call.run().silent();
            let lines: Vec<_> = outcome.stderr.split('\n').collect();
            assert!(lines[0].starts_with(&format!("CNI {plugin} plugin ")), "{outcome:#?}");
            assert_eq!(lines[1..], [versions.as_str(), ""], "{outcome:#?}");
        }
    }
}

#[test]
fn arguments_are_ignored_once_a_command_is_given() {
    let lab = Lab::new();
    call(&lab, "static", "ADD").args_list(&["--version"]).run().result();
}

#[test]
fn missing_variables_are_named_in_order() {
    let lab = Lab::new();
    let attachment = "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH";
    let mut table = vec![("ADD", attachment), ("CHECK", attachment), ("DEL", "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH")];
    if !reference_mode() {
        table.extend([("GC", "CNI_PATH"), ("STATUS", "CNI_PATH")]);
    }
    for plugin in PLUGINS {
        for (verb, names) in &table {
            let bare = Call::new(&lab, &format!("/opt/cni/bin/{plugin}")).verb(verb).config(&config(plugin, "1.0.0"));
            bare.run().fails(4, &format!("required env variables [{names}] missing"));
            for name in names.split(',') {
                let text = format!("required env variables [{name}] missing");
                call(&lab, plugin, verb).without(name).run().fails(4, &text);
                call(&lab, plugin, verb).env(name, "").run().fails(4, &text);
            }
        }
    }
}

#[test]
fn newer_container_ids_and_interface_names_are_checked_before_anything_else() {
    let lab = Lab::new();
    let characters = "interface name contains / or : or whitespace characters";
    let long = "interface name should be less than 16 characters";
    let table = [
        ("CNI_CONTAINERID", "a b", "invalid characters in containerID", "a b"),
        ("CNI_CONTAINERID", "-a", "invalid characters in containerID", "-a"),
        ("CNI_CONTAINERID", "a/../b", "invalid characters in containerID", "a/../b"),
        ("CNI_IFNAME", "0123456789abcdef", "interface name is too long", long),
        ("CNI_IFNAME", "äöüäöüäö", "interface name is too long", long),
        ("CNI_IFNAME", ".", "interface name is . or ..", ""),
        ("CNI_IFNAME", "..", "interface name is . or ..", ""),
        ("CNI_IFNAME", "a/b", characters, ""),
        ("CNI_IFNAME", "a:b", characters, ""),
        ("CNI_IFNAME", "a b", characters, ""),
        ("CNI_IFNAME", "a\u{a0}b", characters, ""),
    ];
    for plugin in PLUGINS {
        for (name, value, text, details) in table {
            for verb in ["ADD", "CHECK", "DEL"] {
                let outcome = call(&lab, plugin, verb).env(name, value).without("CNI_PATH").run();
                assert_eq!(outcome.error(), (4, text.to_string(), details.to_string()), "{plugin} {verb} {value:?}");
            }
        }
    }
}

#[test]
fn unknown_commands_are_refused_after_the_configuration() {
    let lab = Lab::new();
    for plugin in PLUGINS {
        for verb in ["FOO", "version", "add"] {
            call(&lab, plugin, verb).run().fails(4, &format!("unknown CNI_COMMAND: {verb}"));
        }
        call(&lab, plugin, "FOO").stdin("{}").run().fails(7, "missing network name");
    }
}

#[test]
fn configurations_that_are_no_network_are_refused_with_their_codes() {
    let lab = Lab::new();
    let name = "invalid characters found in network name";
    let table = [
        (r#"{"cniVersion":"1.0.0"}"#, 7, "missing network name", ""),
        (r#"{"cniVersion":"1.0.0","name":""}"#, 7, "missing network name", ""),
        ("null", 7, "missing network name", ""),
        (r#"{"name":"a b"}"#, 7, name, "a b"),
        (r#"{"name":"../x"}"#, 7, name, "../x"),
        ("", 6, "error unmarshall network config: unexpected end of JSON input", ""),
    ];
    for plugin in PLUGINS {
        for (stdin, code, text, details) in table {
            let outcome = call(&lab, plugin, "ADD").stdin(stdin).run();
            assert_eq!(outcome.error(), (code, text.to_string(), details.to_string()), "{plugin} {stdin}");
        }
    }
}

#[test]
fn malformed_json_is_a_decoding_error() {
    let lab = Lab::new();
    let inputs =
        ["{", "[]", "{\"name\":", "5", "\"text\"", "nul", r#"{"name":5}"#, r#"{"name":"n"} x"#, r#"{"name":"n"}{}"#];
    for plugin in PLUGINS {
        for verb in ["ADD", "DEL"] {
            for stdin in inputs {
                call(&lab, plugin, verb).stdin(stdin).run().fails_with(6, &["error unmarshall network config: "]);
            }
        }
    }
}

#[test]
fn wrong_types_are_errors_of_the_plugin_that_name_the_key() {
    let lab = Lab::new();
    for plugin in ["bridge", "host-local", "static"] {
        for changes in [json!({"ipam": []}), json!({"ipam": "x"})] {
            let config = merged(config(plugin, "1.0.0"), &changes);
            call(&lab, plugin, "ADD").config(&config).run().fails_with(999, &["ipam"]);
        }
    }
    for (key, value) in [
        ("mtu", json!("1500")),
        ("isGateway", json!("yes")),
        ("bridge", json!(5)),
        ("mtu", json!(1.5)),
        ("hairpinMode", json!(1)),
        ("args", json!([])),
        ("dns", json!("8.8.8.8")),
        ("runtimeConfig", json!(1)),
    ] {
        let config = merged(config("bridge", "1.0.0"), &json!({key: value}));
        call(&lab, "bridge", "ADD").config(&config).run().fails_with(999, &[key]);
    }
    assert_eq!(lab.link("cni0"), Value::Null);
}

#[test]
fn an_error_is_an_indented_object_without_newline() {
    let lab = Lab::new();
    let outcome = call(&lab, "static", "ADD").stdin("{\"name\":\"a<b\"}").run();
    let text = "{\n    \"code\": 7,\n    \"msg\": \"invalid characters found in network name\",\n    \"details\": \"a\\u003cb\"\n}";
    assert_eq!(outcome.stdout, text);
    let outcome = call(&lab, "static", "ADD").stdin("{}").run();
    assert_eq!(outcome.stdout, "{\n    \"code\": 7,\n    \"msg\": \"missing network name\"\n}");
}

#[test]
fn versions_that_no_plugin_speaks_are_refused_with_the_supported_list() {
    let lab = Lab::new();
    let list = versions().iter().map(|version| format!("\"{version}\"")).collect::<Vec<_>>().join(" ");
    for plugin in PLUGINS {
        for verb in ["ADD", "DEL"] {
            for version in ["1.2.0", "0.5.0", "1.1", "1", "x", "1.0.0.0"] {
                let outcome = call(&lab, plugin, verb).config(&config(plugin, version)).run();
                let details = format!("config is \"{version}\", plugin supports [{list}]");
                assert_eq!(outcome.error(), (1, "incompatible CNI versions".to_string(), details), "{plugin} {verb}");
            }
        }
    }
}

#[test]
fn a_version_that_is_no_string_cannot_be_decoded() {
    let lab = Lab::new();
    for plugin in PLUGINS {
        let stdin = r#"{"cniVersion": 1, "name": "net", "type": "x"}"#;
        call(&lab, plugin, "ADD").stdin(stdin).run().fails_with(6, &[]);
    }
}

#[test]
fn check_needs_0_4_0() {
    let lab = Lab::new();
    for plugin in PLUGINS {
        for version in ["", "0.1.0", "0.2.0", "0.3.0", "0.3.1"] {
            let call = call(&lab, plugin, "CHECK").config(&config(plugin, version));
            call.run().fails(1, "config version does not allow CHECK");
        }
        let call = call(&lab, plugin, "CHECK").config(&config(plugin, "0.5.0"));
        call.run().fails(1, "incompatible CNI versions");
    }
}

#[test]
fn newer_gc_and_status_need_1_1_0_and_no_command_takes_a_version_of_the_future() {
    let lab = Lab::new();
    for plugin in PLUGINS {
        for verb in ["GC", "STATUS"] {
            for version in ["", "0.1.0", "0.4.0", "1.0.0"] {
                let call = call(&lab, plugin, verb).config(&config(plugin, version));
                call.run().fails(1, &format!("config version does not allow {verb}"));
            }
        }
        for verb in ["CHECK", "GC", "STATUS"] {
            let future = call(&lab, plugin, verb).config(&config(plugin, "1.2.0"));
            future.run().fails(1, &format!("plugin version does not allow {verb}"));
            let odd = call(&lab, plugin, verb).config(&config(plugin, "1.1.0.0"));
            odd.run().fails(6, "invalid version \"1.1.0.0\": too many parts");
            let text = call(&lab, plugin, verb).config(&config(plugin, "x"));
            text.run()
                .fails(6, "failed to convert major version part \"x\": strconv.Atoi: parsing \"x\": invalid syntax");
        }
    }
}

#[test]
fn newer_gc_without_attachments_and_status_are_silent_successes() {
    let lab = Lab::new();
    for plugin in PLUGINS {
        for verb in ["GC", "STATUS"] {
            let bare = Call::new(&lab, &format!("/opt/cni/bin/{plugin}")).verb(verb).env("CNI_PATH", "/opt/cni/bin");
            bare.config(&config(plugin, "1.1.0")).run().silent();
        }
    }
}

#[test]
fn every_version_adds_checks_and_deletes() {
    let lab = Lab::new();
    lab.netns("ns1");
    for plugin in PLUGINS {
        for version in versions() {
            let mut config = config(plugin, version);
            let call = lab.plugin(plugin).config(&config);
            let result = call.run().result();
            assert_eq!(result["cniVersion"], *version, "{plugin}");
            config["prevResult"] = result;
            if *version >= "0.4.0" {
                call.clone().verb("CHECK").config(&config).run().silent();
            }
            call.verb("DEL").config(&config).run().silent();
        }
    }
}

#[test]
fn a_missing_version_answers_in_the_shape_of_0_1_0() {
    let lab = Lab::new();
    for version in [json!(null), json!("")] {
        let mut config = config("static", "1.0.0");
        config["cniVersion"] = version;
        let result = lab.plugin("static").config(&config).run().result();
        assert_eq!(result, json!({"cniVersion": "0.1.0", "ip4": {"ip": "10.1.2.3/24"}, "dns": {}}));
    }
}

#[test]
fn keys_match_in_any_letter_case_the_last_duplicate_wins_and_null_is_nothing() {
    let lab = Lab::new();
    let stdin = r#" {"CNIVERSION":"1.0.0","Name":"net","TYPE":"x","ipMasq":null,"IPAM":{"Type":"static","dns":null,
        "ADDRESSES":[{"ADDRESS":"10.1.2.3/24","gateWay":"10.1.2.9"}],
        "addresses":[{"address":"10.1.2.4/24","GATEWAY":"10.1.2.1"}]},"unknown":[{}]}
        "#;
    let result = lab.plugin("static").stdin(stdin).run().result();
    assert_eq!(result["ips"], json!([{"address": "10.1.2.4/24", "gateway": "10.1.2.1"}]));
}

#[test]
fn invalid_utf_8_is_replaced_and_not_refused() {
    let lab = Lab::new();
    let head = br#"{"cniVersion":"1.0.0","name":"net","type":"x","ipam":{"type":"static","dns":{"domain":""#;
    let stdin = [head.as_slice(), b"\xff", br#""}}}"#].concat();
    assert_eq!(lab.plugin("static").stdin(stdin).run().result()["dns"]["domain"], "\u{fffd}");
}

#[test]
fn output_escapes_what_html_would_read() {
    let lab = Lab::new();
    for version in ["0.2.0", "0.4.0", "1.0.0"] {
        let mut config = config("static", version);
        config["ipam"]["dns"] = json!({"domain": "<a>&\u{2028}\u{2029}\"\\\n\u{1}é"});
        let outcome = lab.plugin("static").config(&config).run().success();
        let text = r#""domain": "\u003ca\u003e\u0026\u2028\u2029\"\\\n\u0001é""#;
        assert!(outcome.stdout.contains(text), "{outcome:#?}");
    }
}

#[test]
fn bad_cni_args_are_internal_errors_of_the_plugins_that_read_them() {
    let lab = Lab::new();
    lab.netns("ns1");
    let table = [
        ("nonsense", r#"ARGS: invalid pair "nonsense""#),
        ("IgnoreUnknown=1;", r#"ARGS: invalid pair """#),
        ("A=B=C", r#"ARGS: invalid pair "A=B=C""#),
        ("A=B;C=D", r#"ARGS: unknown args ["A=B" "C=D"]"#),
        ("ip=10.1.2.9", r#"ARGS: unknown args ["ip=10.1.2.9"]"#),
        (
            "IgnoreUnknown=yes",
            r#"ARGS: error parsing value of pair "IgnoreUnknown=yes": boolean unmarshal error: invalid input yes"#,
        ),
    ];
    for plugin in ["bridge", "host-local", "static"] {
        for (args, text) in table {
            call(&lab, plugin, "ADD").args(args).run().fails(999, text);
        }
        call(&lab, plugin, "ADD").container(plugin).args("A=B;IgnoreUnknown=True").run().result();
        call(&lab, plugin, "DEL").container(plugin).run().silent();
    }
    call(&lab, "loopback", "ADD").args("none").run().result();
}

/// A loopback ADD with a previous result, in a configuration of `version`.
fn with_previous(lab: &Lab, version: &str, previous: &Value) -> crate::lab::Outcome {
    let mut config = config("loopback", version);
    config["prevResult"] = previous.clone();
    lab.plugin("loopback").config(&config).run()
}

#[test]
fn a_previous_result_inherits_the_version_of_the_configuration() {
    let lab = Lab::new();
    lab.netns("ns1");
    let previous = json!({"ips": [{"version": "4", "address": "10.1.2.3/24"}]});
    let result = with_previous(&lab, "0.4.0", &previous).result();
    assert_eq!(result, json!({"cniVersion": "0.4.0", "ips": previous["ips"], "dns": {}}));
}

#[test]
fn a_previous_result_of_the_same_family_is_brought_to_the_version_of_the_configuration() {
    let lab = Lab::new();
    lab.netns("ns1");
    let previous = json!({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.1.2.3/24"}]});
    assert_eq!(with_previous(&lab, "0.4.0", &previous).result()["cniVersion"], "0.4.0");
}

#[test]
fn better_a_previous_result_of_another_family_is_converted() {
    let lab = Lab::new();
    lab.netns("ns1");
    let previous = json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.2.3/24"}], "dns": {}});
    let result = with_previous(&lab, "1.0.0", &previous).result();
    assert_eq!(result, json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24"}]}));
    let new = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "e", "mtu": 9}],
        "ips": [{"address": "10.1.2.3/24"}, {"address": "::1/128"}], "routes": [{"dst": "::/0", "mtu": 7}]});
    let result = with_previous(&lab, "0.2.0", &new).result();
    let ip6 = json!({"ip": "::1/128", "routes": [{"dst": "::/0"}]});
    assert_eq!(result, json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.2.3/24"}, "ip6": ip6, "dns": {}}));
}

#[test]
fn better_an_empty_version_in_a_previous_result_counts_as_absent() {
    let lab = Lab::new();
    lab.netns("ns1");
    let previous = json!({"cniVersion": "", "ips": [{"address": "10.1.2.3/24"}]});
    assert_eq!(with_previous(&lab, "1.0.0", &previous).result()["cniVersion"], "1.0.0");
}

#[test]
fn better_the_plugins_own_namespace_is_refused_before_anything_is_done() {
    let lab = Lab::new();
    let own = format!("/proc/{}/ns/net", lab.pid());
    let before = lab.snapshot();
    for plugin in PLUGINS {
        let outcome = call(&lab, plugin, "ADD").netns(&own).run();
        outcome.fails(8, "plugin's netns and netns from CNI_NETNS should not be the same");
        before.assert_same(&lab.snapshot());
    }
}

#[test]
fn better_del_in_the_plugins_own_namespace_releases_addresses_but_touches_no_link() {
    let lab = Lab::new();
    lab.ok("ip link add eth0 type veth peer name other");
    let links = lab.link("eth0");
    let own = format!("/proc/{}/ns/net", lab.pid());
    for plugin in ["bridge", "host-local"] {
        call(&lab, "host-local", "ADD").run().result();
        let outcome = call(&lab, plugin, "DEL").netns(&own).run();
        outcome.fails(8, "plugin's netns and netns from CNI_NETNS should not be the same");
        assert_eq!(lab.link("eth0")["ifindex"], links["ifindex"], "{plugin}");
        assert_eq!(lab.reserved("net"), [""; 0], "{plugin}");
    }
}

#[test]
fn newer_the_namespace_check_can_be_overridden() {
    let lab = Lab::new();
    let own = format!("/proc/{}/ns/net", lab.pid());
    for value in ["1", "true", "TRUE"] {
        call(&lab, "static", "ADD").netns(&own).env("CNI_NETNS_OVERRIDE", value).run().result();
    }
    let outcome = call(&lab, "static", "ADD").netns(&own).env("CNI_NETNS_OVERRIDE", "yes").run();
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
}

#[test]
fn every_verb_is_case_sensitive_and_known() {
    let lab = Lab::new();
    lab.netns("ns1");
    for plugin in PLUGINS {
        for verb in VERBS {
            let outcome = call(&lab, plugin, &verb.to_lowercase()).run();
            outcome.fails(4, &format!("unknown CNI_COMMAND: {}", verb.to_lowercase()));
        }
    }
}

/// static with everything that a result can carry in every family.
fn full_static(version: &str) -> Value {
    let ipam = json!({"addresses": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}, {"address": "2001:db8::3/64"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.2.9"}, {"dst": "::/0", "gw": "2001:db8::1"}],
        "dns": {"nameservers": ["192.0.2.53"], "domain": "d", "search": ["s"], "options": ["o"]}});
    merged(static_config(&ipam), &json!({"cniVersion": version}))
}

#[test]
fn newer_results_of_static_have_the_exact_bytes_of_their_family() {
    let lab = Lab::new();
    for (version, golden) in [
        ("0.1.0", include_str!("golden/static-02x.json")),
        ("0.2.0", include_str!("golden/static-02x.json")),
        ("0.3.0", include_str!("golden/static-04x.json")),
        ("0.3.1", include_str!("golden/static-04x.json")),
        ("0.4.0", include_str!("golden/static-04x.json")),
        ("1.0.0", include_str!("golden/static-1xx.json")),
        ("1.1.0", include_str!("golden/static-1xx.json")),
    ] {
        let outcome = lab.plugin("static").config(&full_static(version)).run().success();
        assert_eq!(outcome.stdout, golden.trim_end().replace("VERSION", version), "{version}");
    }
}

#[test]
fn newer_results_of_bridge_have_the_exact_bytes_of_their_family() {
    let lab = Lab::new();
    lab.netns("ns1");
    for (version, golden) in [
        ("0.2.0", include_str!("golden/bridge-02x.json")),
        ("0.3.1", include_str!("golden/bridge-04x.json")),
        ("0.4.0", include_str!("golden/bridge-04x.json")),
        ("1.0.0", include_str!("golden/bridge-1xx.json")),
        ("1.1.0", include_str!("golden/bridge-1xx.json")),
    ] {
        let ipam = json!({"subnet": "10.1.2.0/24", "dataDir": format!("/run/lab/{version}")});
        let config = bridge_config(&json!({"cniVersion": version, "isDefaultGateway": true, "ipam": ipam}));
        let outcome = lab.plugin("bridge").config(&config).run().success();
        let text = crate::lab::without_random_names(&outcome.stdout);
        assert_eq!(text, golden.trim_end().replace("VERSION", version), "{version}");
        lab.plugin("bridge").config(&config).verb("DEL").run().silent();
    }
}

#[test]
fn newer_routes_carry_all_their_fields_in_every_family_since_0_3_0() {
    let lab = Lab::new();
    let route = json!({"dst": "10.9.0.0/16", "gw": "10.1.2.9", "mtu": 1400, "advmss": 1300, "priority": 5, "table": 0,
        "scope": 0});
    for version in ["0.3.0", "0.4.0", "1.0.0", "1.1.0"] {
        let ipam = json!({"addresses": [{"address": "10.1.2.3/24"}], "routes": [route]});
        let config = merged(static_config(&ipam), &json!({"cniVersion": version}));
        assert_eq!(lab.plugin("static").config(&config).run().result()["routes"], json!([route]), "{version}");
    }
}
