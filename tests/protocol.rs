//! The protocol: verbs, versions, environment, texts and codes, as in `protocol.md`; table over plugins and versions.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, bridge_config, host_local_config, merged, reference_mode, static_config};

/// The plugins of this house that speak the protocol.
pub const PLUGINS: [&str; 5] = ["bridge", "host-local", "loopback", "ptp", "static"];
const ALL_VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const VERBS: [&str; 6] = ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"];

/// The versions under test: the reference of Debian ends at 1.0.0.
pub fn versions() -> &'static [&'static str] {
    if reference_mode() { &ALL_VERSIONS[..6] } else { &ALL_VERSIONS }
}

/// A configuration that the plugin accepts.
pub fn config(plugin: &str, version: &str) -> Value {
    let base = match plugin {
        "bridge" => bridge_config(&json!({})),
        "ptp" => crate::ptp::config(&json!({})),
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
            let program = concat!("cni-box ", env!("CARGO_PKG_VERSION"));
            let rest = [versions.as_str(), program, ""];
            let rest = if reference_mode() { &[rest[0], ""][..] } else { &rest };
            assert_eq!(&lines[1..], rest, "{outcome:#?}");
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
