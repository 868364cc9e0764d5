//! Compares about texts, odd arguments, unknown commands and bad daemon options with the reference
//! 1.9.1.

use serde_json::json;

use crate::lab::{Call, Lab, Outcome, PLUGINS, new_reference_dir, new_reference_release, release};
use crate::table::{ALL, good};

/// Arguments that people try. Plugins know none of them.
const WORDS: [&str; 13] =
    ["", "--version", "-v", "-V", "-h", "--help", "version", "help", "add", "--", "-", "daemons", "--version x"];

/// Values of CNI_COMMAND that are no command.
const COMMANDS: [&str; 9] = ["FOO", "add", "Add", "ADD ", " ADD", "version", "VERSION\n", "-h", "LIST"];

/// Daemon options that stop the daemon before it begins.
const OPTIONS: [&str; 23] = [
    "-h",
    "--h",
    "-help",
    "--help",
    "-h=1",
    "-nope",
    "--nope",
    "-nope=1",
    "---x",
    "-=x",
    "-timeout",
    "-timeout=abc",
    "-timeout 5",
    "-timeout=9223372037s",
    "-resendmax=1x",
    "-resendtimeout=",
    "-broadcast=maybe",
    "-broadcast=",
    "-hostprefix",
    "-socketpath",
    "-broadcast -nope x",
    "-pidfile x",
    "-pidfile /nonexistent/x",
];

/// The same host twice: with the reference's plugins, and with ours.
fn hosts() -> [Lab; 2] {
    [Lab::with_plugins_of(&new_reference_dir()), Lab::with_ours()]
}

fn bare<'a>(lab: &'a Lab, plugin: &str, words: &str) -> Call<'a> {
    let words: Vec<_> = words.split_whitespace().collect();
    Call::new(lab, &format!("{PLUGINS}/{plugin}")).args_list(&words)
}

/// Line 1 as a release build of the reference prints it. Debian's build knows no version.
fn first_line(outcome: &Outcome) -> String {
    let line = outcome.stderr.lines().next().unwrap_or_default();
    line.replace("plugin version unknown", &format!("plugin v{}", release()))
}

fn second_line(outcome: &Outcome) -> &str {
    outcome.stderr.lines().nth(1).unwrap_or_default()
}

#[test]
fn newer_the_release_is_the_one_that_the_table_test_asks() {
    let Some(theirs) = new_reference_release() else { return assert_eq!(printed_release(), release()) };
    let number = |text: &str| text.split('.').map(|part| part.parse().unwrap()).collect::<Vec<u32>>();
    if number(&theirs) > number(&release()) {
        // The table test judges nothing then either.
        return eprintln!("Debian's sid has the reference {theirs} now, and the plugins say {}", release());
    }
    assert_eq!(theirs, release(), "raise the release in src/cni/originals.rs only with the reference of tests/table");
}

/// The release that a reference from elsewhere than Debian prints.
fn printed_release() -> String {
    let lab = Lab::with_plugins_of(&new_reference_dir());
    let about = bare(&lab, "bridge", "").run().silent().stderr;
    about.lines().next().unwrap().replace("CNI bridge plugin v", "")
}

#[test]
fn newer_arguments_without_a_command_are_answered_as_by_the_reference() {
    let hosts = hosts();
    for plugin in ALL {
        for words in WORDS {
            for command in [None, Some("")] {
                let [theirs, ours] = [0, 1].map(|side| {
                    let call = bare(&hosts[side], plugin, words);
                    command.map_or(call.clone(), |value| call.env("CNI_COMMAND", value)).run().silent()
                });
                assert_eq!(first_line(&ours), first_line(&theirs), "{plugin} {words}");
                assert_eq!(second_line(&ours), second_line(&theirs), "{plugin} {words}");
                assert_eq!(ours.stderr.lines().last(), Some(concat!("cni-box ", env!("CARGO_PKG_VERSION"))));
                assert_eq!(ours.stderr.lines().count(), 3, "{ours:#?}");
            }
        }
    }
}

#[test]
fn newer_commands_that_are_none_are_answered_as_by_the_reference() {
    let hosts = hosts();
    for plugin in ALL {
        let config = good(plugin, &json!("1.1.0"));
        for command in COMMANDS {
            for words in ["", "--version", "daemons"] {
                let answers = [0, 1].map(|side| {
                    let outcome = bare(&hosts[side], plugin, words).env("CNI_COMMAND", command).config(&config).run();
                    (outcome.code, outcome.stdout, outcome.stderr)
                });
                assert_eq!(answers[1], answers[0], "{plugin} {command:?} {words}");
                assert_eq!(answers[1].0, Some(1), "{plugin} {command:?} {words}");
            }
        }
    }
}

#[test]
fn newer_options_that_the_daemon_refuses_are_those_of_the_reference() {
    let hosts = hosts();
    for options in OPTIONS {
        let answers = [0, 1].map(|side| {
            let outcome = bare(&hosts[side], "dhcp", &format!("daemon {options}")).under(&["timeout", "60"]).run();
            (outcome.code, outcome.stdout.clone(), second_line(&outcome).to_string(), refusal(&outcome))
        });
        assert_eq!(answers[1], answers[0], "{options}");
    }
}

/// Line 1 without the time of day, and without what the reference says of a system call.
fn refusal(outcome: &Outcome) -> String {
    let line = outcome.stderr.lines().next().unwrap_or_default();
    let line = line.find("Error").map_or(line, |at| &line[at..]);
    line.replace("open /nonexistent/x: ", "")
}

/// nerdctl 2 (`pkg/netutil`, `FirewallPluginGEQVersion`) and Nomad (`client/fingerprint/plugins_cni.go`) run a
/// plugin without arguments.
#[test]
fn better_nerdctl_and_nomad_read_a_version() {
    let lab = Lab::with_ours();
    let firewall = bare(&lab, "firewall", "").run().silent().stderr;
    let version = nerdctls(&firewall).unwrap_or_else(|| panic!("{firewall}"));
    assert!(version >= [1, 7, 1], "{firewall}");
    for plugin in ALL.into_iter().chain(["flannel"]) {
        let outcome = bare(&lab, plugin, "").run().success();
        let text = outcome.stdout + &outcome.stderr;
        assert_eq!(text.split_whitespace().find_map(semantic), Some(version), "{plugin}: {text}");
    }
    assert_eq!(nerdctls("CNI firewall plugin version unknown\n"), None);
    assert_eq!(nerdctls("CNI firewall plugin v0.1.0 (cni-box)\n"), None);
}

/// The rest of the first line that begins so must be a version, and nothing else.
fn nerdctls(stderr: &str) -> Option<[u32; 3]> {
    stderr.split('\n').find_map(|line| line.strip_prefix("CNI firewall plugin ")).and_then(semantic)
}

fn semantic(text: &str) -> Option<[u32; 3]> {
    let parts = text.strip_prefix('v').unwrap_or(text).split('.').map(|part| part.parse().ok());
    parts.collect::<Option<Vec<u32>>>()?.try_into().ok()
}

#[test]
fn flannel_names_the_release_of_its_own_project() {
    let lab = Lab::with_ours();
    let about = bare(&lab, "flannel", "--version").run().silent().stderr;
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let expected = [
        &format!("CNI Plugin flannel version v1.9.1 (linux/{machine}) commit 4c87e5d4"),
        "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0",
        concat!("cni-box ", env!("CARGO_PKG_VERSION")),
    ];
    assert_eq!(about.lines().collect::<Vec<_>>(), expected);
}
