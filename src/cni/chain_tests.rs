//! Chains of shell scripts and of plugins that are linked in, which note each call in a file.

use std::ffi::OsString;
use std::os::unix::fs::symlink;

use super::*;
use crate::cni::json;
use crate::cni::testing::{TempDir, fake_plugins};

/// A directory with plugins, cache and log, and the parameters of an attachment.
struct Lab {
    directory: TempDir,
    cache: Cache,
    host: Host,
    attachment: Attachment,
}

impl Lab {
    fn new() -> Self {
        let directory = TempDir::new();
        let environment = vec![(OsString::from("PATH"), OsString::from("/usr/bin:/bin"))];
        for name in ["fake", "other", "modern"] {
            directory.write("bin/.keep", "");
            symlink(std::env::current_exe().unwrap(), directory.file(&format!("bin/{name}"))).unwrap();
        }
        Lab {
            cache: Cache::new(directory.file("results")),
            host: Host { environment, plugins: fake_plugins },
            attachment: Attachment {
                container_id: "c".to_string(),
                netns: "/nonexistent".to_string(),
                ifname: "eth0".to_string(),
                ..Attachment::default()
            },
            directory,
        }
    }

    /// A program that notes its verb and standard input and prints `output` on ADD.
    fn program(&self, name: &str, output: &str) {
        let log = self.directory.file("log");
        let script = format!(
            "stdin=$(cat)\necho \"{name} $CNI_COMMAND $CNI_ARGS $stdin\" >>{log}\n\
             if [ $CNI_COMMAND = ADD ]; then echo '{output}'; fi"
        );
        self.directory.script(&format!("bin/{name}"), &script);
    }

    fn list(&self, version: &str, plugins: &str) -> NetworkList {
        let log = format!("\"log\":\"{}\",\"type\"", self.directory.file("log"));
        let plugins = plugins.replace("\"type\"", &log);
        let text = format!(r#"{{"name":"n","cniVersion":"{version}","plugins":[{plugins}]}}"#);
        NetworkList::parse(text.as_bytes()).unwrap()
    }

    fn add(&self, list: &NetworkList) -> Result<Node> {
        self.chain(list, &self.directory.file("bin")).add()
    }

    fn check(&self, list: &NetworkList) -> Result<()> {
        self.chain(list, &self.directory.file("bin")).check()
    }

    fn del(&self, list: &NetworkList) -> Result<()> {
        self.chain(list, &self.directory.file("bin")).del()
    }

    fn chain<'a>(&'a self, list: &'a NetworkList, path: &'a str) -> Chain<'a> {
        Chain { list, attachment: &self.attachment, path, cache: &self.cache, host: &self.host }
    }

    /// The lines of the log, which is emptied.
    fn log(&self) -> Vec<String> {
        let name = "log";
        let text = if self.directory.exists(name) { self.directory.read(name) } else { String::new() };
        self.directory.write(name, "");
        text.lines().map(|line| line.replace(self.directory.path(), "DIR")).collect()
    }

    fn cache_file(&self) -> Option<String> {
        self.directory.exists("results/n-c-eth0").then(|| self.directory.read("results/n-c-eth0"))
    }
}

#[test]
fn results_of_any_version_reach_the_next_plugin_in_the_lists_version() {
    let lab = Lab::new();
    lab.program("old", r#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}"#);
    lab.program("null", "null");
    let list = lab.list("1.0.0", r#"{"type":"old"},{"type":"fake"}"#);
    let result = lab.add(&list).unwrap();
    let text = r#"{"cniVersion":"1.0.0","dns":{"search":["fake"]},"ips":[{"address":"10.0.0.2/24"}]}"#;
    assert_eq!(json::compact(&result), text);
    assert!(lab.cache_file().unwrap().ends_with(&format!("\"result\":{text}}}")));
    assert_eq!(
        lab.log(),
        [
            r#"old ADD  {"cniVersion":"1.0.0","log":"DIR/log","name":"n","type":"old"}"#,
            "fake ADD netns=\"/nonexistent\"",
        ]
    );
    for version in ["0.2.0", ""] {
        let result = lab.add(&lab.list(version, r#"{"type":"null"}"#)).unwrap();
        let printed = crate::cni::version::or_default(version);
        assert_eq!(json::compact(&result), format!(r#"{{"cniVersion":"{printed}","dns":{{}}}}"#));
    }
    let error = lab.add(&lab.list("0.2.0", r#"{"type":"fake"}"#)).unwrap_err();
    assert_eq!(error.to_string(), "plugin type=\"fake\" failed (add): cannot convert: no valid IP addresses");
}

#[test]
fn a_failed_add_takes_back_what_all_plugins_did() {
    let lab = Lab::new();
    lab.program("outer", "{}");
    let list = lab.list("1.0.0", r#"{"type":"outer"},{"type":"other"},{"type":"fake","name":"x","fails":"ADD"}"#);
    let error = lab.add(&list).unwrap_err();
    assert_eq!(error.to_string(), "plugin type=\"fake\" name=\"x\" failed (add): out of order");
    let log = lab.log();
    let verbs: Vec<String> = log.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(verbs, ["outer ADD", "other ADD", "fake ADD", "fake undone", "other undone", "outer DEL"]);
    assert_eq!(lab.cache_file(), None);
}

#[test]
fn a_failed_repetition_of_an_add_does_not_end_the_attachment() {
    let lab = Lab::new();
    lab.program("outer", "{}");
    lab.add(&lab.list("1.0.0", r#"{"type":"outer"}"#)).unwrap();
    lab.add(&lab.list("1.0.0", r#"{"type":"outer"},{"type":"fake","fails":"ADD"}"#)).unwrap_err();
    let log = lab.log();
    assert!(log.iter().any(|line| line.starts_with("fake undone")), "{log:?}");
    assert!(!log.iter().any(|line| line.starts_with("outer DEL")), "{log:?}");
    assert!(lab.cache_file().is_some());
}

#[test]
fn nothing_runs_before_everything_is_verified() {
    let mut lab = Lab::new();
    let error = |lab: &Lab, plugins: &str| lab.add(&lab.list("1.0.0", plugins)).unwrap_err().to_string();
    let text = error(&lab, r#"{"type":"fake"},{"type":"missing"}"#);
    assert!(text.starts_with("plugin type=\"missing\" failed (add): failed to find plugin \"missing\" in path [/"));
    let text = error(&lab, r#"{"type":"fake"},{"type":"modern"}"#);
    assert_eq!(
        text,
        "plugin type=\"modern\" failed (add): incompatible CNI versions; config is \"1.0.0\", plugin supports [\"1.1.0\"]"
    );
    lab.attachment.ifname = "a-name-of-16-let".to_string();
    assert!(error(&lab, r#"{"type":"fake"}"#).starts_with("plugin type=\"fake\" failed (add): interface name is too"));
    lab.attachment.ifname = "eth0".to_string();
    lab.attachment.netns = "/proc/thread-self/ns/net".to_string();
    assert_eq!(
        error(&lab, r#"{"type":"fake"}"#),
        "plugin type=\"fake\" failed (add): plugin's netns and netns from CNI_NETNS should not be the same"
    );
    lab.attachment.netns = "/nonexistent".to_string();
    lab.directory.write("file", "");
    lab.cache = Cache::new(lab.directory.file("file/results"));
    assert!(error(&lab, r#"{"type":"fake"}"#).starts_with("failed to set network \"n\" cached result: "));
    assert_eq!(lab.log(), [""; 0]);
}

#[test]
fn an_override_allows_our_own_namespace() {
    let mut lab = Lab::new();
    lab.attachment.netns = "/proc/thread-self/ns/net".to_string();
    lab.host.environment.push((OsString::from("CNI_NETNS_OVERRIDE"), OsString::from("True")));
    assert!(lab.add(&lab.list("1.0.0", r#"{"type":"fake"}"#)).is_ok());
}

#[test]
fn del_runs_backwards_and_past_failures() {
    let lab = Lab::new();
    lab.add(&lab.list("1.0.0", r#"{"type":"fake"}"#)).unwrap();
    lab.log();
    let plugins = r#"{"type":"fake","fails":"DEL"},{"type":"missing"},{"type":"other","fails":"DEL"}"#;
    let error = lab.del(&lab.list("1.0.0", plugins)).unwrap_err().to_string();
    assert!(error.starts_with("plugin type=\"other\" failed (delete): out of order; plugin type=\"missing\" failed"));
    assert!(error.ends_with("; plugin type=\"fake\" failed (delete): out of order"));
    assert_eq!(lab.log(), ["other DEL netns=\"/nonexistent\"", "fake DEL netns=\"/nonexistent\""]);
    assert!(lab.cache_file().is_some());
    for _ in 0..2 {
        lab.del(&lab.list("1.0.0", r#"{"type":"fake"}"#)).unwrap();
        assert_eq!(lab.cache_file(), None);
    }
}

#[test]
fn del_in_our_own_namespace_hides_it_and_reports() {
    let mut lab = Lab::new();
    lab.attachment.netns = "/proc/thread-self/ns/net".to_string();
    let error = lab.del(&lab.list("1.0.0", r#"{"type":"fake"}"#)).unwrap_err();
    assert_eq!(error.code, 8);
    assert_eq!(lab.log(), ["fake DEL netns=\"\""]);
}

#[test]
fn del_hands_on_what_add_achieved() {
    let lab = Lab::new();
    lab.program("outer", r#"{"cniVersion":"0.4.0"}"#);
    for (version, prev_result) in [("0.3.1", ""), ("0.4.0", r#","prevResult":{"cniVersion":"0.4.0","dns":{}}"#)] {
        let list = lab.list(version, r#"{"type":"outer"}"#);
        lab.add(&list).unwrap();
        lab.log();
        lab.del(&list).unwrap();
        let stdin = format!(r#"{{"cniVersion":"{version}","log":"DIR/log","name":"n"{prev_result},"type":"outer"}}"#);
        assert_eq!(lab.log(), [format!("outer DEL  {stdin}")]);
    }
    lab.directory.write("results/n-c-eth0", "garbage");
    lab.del(&lab.list("1.0.0", r#"{"type":"fake"}"#)).unwrap();
    assert_eq!(lab.cache_file(), None);
}

#[test]
fn check_uses_the_arguments_of_the_add() {
    let mut lab = Lab::new();
    lab.program("outer", "{}");
    let list = lab.list("0.4.0", r#"{"type":"outer","capabilities":{"mac":true}}"#);
    lab.attachment.args = vec![("K".to_string(), "V".to_string())];
    lab.attachment.capability_args.insert("mac".to_string(), "x".into());
    lab.add(&list).unwrap();
    lab.log();
    lab.attachment.args.clear();
    lab.attachment.capability_args.clear();
    lab.check(&list).unwrap();
    let lines = lab.log();
    let line = lines.first().unwrap();
    assert!(line.starts_with("outer CHECK K=V {") && line.contains(r#""runtimeConfig":{"mac":"x"}"#), "{line}");
    assert!(line.contains(r#""prevResult":{"cniVersion":"0.4.0","dns":{}}"#), "{line}");
}

#[test]
fn check_refuses_old_versions_and_bad_memories_and_may_be_disabled() {
    let lab = Lab::new();
    let check = |list: &NetworkList| lab.check(list).map_err(|error| error.to_string());
    let disabled = |list: NetworkList| NetworkList { disable_check: true, ..list };
    let text = "configuration version \"0.3.1\" does not support the CHECK command";
    assert_eq!(check(&disabled(lab.list("0.3.1", r#"{"type":"fake"}"#))).unwrap_err(), text);
    assert_eq!(check(&disabled(lab.list("1.0.0", r#"{"type":"missing"}"#))), Ok(()));
    let failing = lab.list("1.0.0", r#"{"type":"fake","fails":"CHECK"},{"type":"other"}"#);
    assert_eq!(check(&failing).unwrap_err(), "plugin type=\"fake\" failed (check), code 7:\nout of order");
    assert_eq!(lab.log().len(), 1);
    lab.directory.write("results/n-c-eth0", "garbage");
    let text = check(&lab.list("1.0.0", r#"{"type":"fake"}"#)).unwrap_err();
    assert!(text.starts_with("failed to get network \"n\" cached result: "), "{text}");
}
