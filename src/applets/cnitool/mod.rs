//! cnitool: runs the plugins of a configured network against a network namespace, as a container runtime would.
//!
//! ```text
//! cnitool add|check|del <network-name> <netns> [-i NAME]
//! ```
//!
//! The command line is that of cnitool v1.3.0 (words by place) and of the options added since. Environment:
//! `NETCONFPATH` (directory of configurations), `CNI_PATH` (directories of plugins; empty means those of this
//! executable), `CNI_ARGS`, `CAP_ARGS` (JSON object of capability arguments), `CNI_IFNAME`.

mod command_line;

use std::fs;
use std::os::unix::fs::MetadataExt;

use command_line::Command;

use crate::cni::attachment::{Attachment, parse_args};
use crate::cni::cache::{self, Cache};
use crate::cni::chain::Chain;
use crate::cni::conflist::NetworkList;
use crate::cni::serve::Answer;
use crate::cni::{Host, conflist_files, json};
use crate::digest::sha512_hex;
use crate::error::{Context, Result};

const DEFAULT_DIRECTORY: &str = "/etc/cni/net.d";
const DEFAULT_IFNAME: &str = "eth0";

/// What can be done with a network. The text goes to standard output.
struct Verb {
    name: &'static str,
    about: &'static str,
    run: fn(&Chain<'_>) -> Result<String>,
    /// Falls back on the configuration that was remembered by add.
    cleans_up: bool,
}

const VERBS: [Verb; 3] = [
    Verb { name: "add", about: "Add network interface to a network namespace", run: add, cleans_up: false },
    Verb { name: "check", about: "Check network interface in a network namespace", run: check, cleans_up: false },
    Verb { name: "del", about: "Delete network interface from a network namespace", run: del, cleans_up: true },
];

/// Verbs of the reference that are still missing here.
const LATER: [&str; 2] = ["gc", "status"];

fn add(chain: &Chain<'_>) -> Result<String> {
    chain.add().map(|result| json::pretty(&result))
}

fn check(chain: &Chain<'_>) -> Result<String> {
    chain.check().map(|()| String::new())
}

fn del(chain: &Chain<'_>) -> Result<String> {
    chain.del().map(|()| String::new())
}

/// Runs the command that `arguments` (without the program's name) describe.
pub fn run(arguments: &[String], host: &Host) -> Answer {
    run_with(arguments, host, &Cache::new(cache::DIRECTORY))
}

fn run_with(arguments: &[String], host: &Host, cache: &Cache) -> Answer {
    match Command::parse(arguments) {
        Ok(command) => command.answer(host, cache),
        Err(answer) => answer,
    }
}

impl Command {
    fn answer(&self, host: &Host, cache: &Cache) -> Answer {
        let mut warnings = Vec::new();
        let outcome = self.perform(host, cache, &mut warnings);
        let mut stderr: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
        match outcome {
            Ok(stdout) => Answer { stdout, stderr, success: true },
            Err(error) => {
                stderr.push_str(&format!("{error}\n"));
                Answer { stderr, ..Answer::default() }
            }
        }
    }

    fn perform(&self, host: &Host, cache: &Cache, warnings: &mut Vec<String>) -> Result<String> {
        let loaded = conflist_files::load(&non_empty(host.variable("NETCONFPATH"), DEFAULT_DIRECTORY), &self.network);
        let attachment = self.attachment(host);
        let list = match (loaded, &attachment) {
            (Ok(loaded), _) => {
                warnings.extend(loaded.skipped.iter().map(|reason| format!("skipped {reason}")));
                loaded.list
            }
            (Err(error), Ok(attachment)) if self.verb.cleans_up => {
                let list = remembered_list(&self.network, attachment, cache).ok_or_else(|| error.clone())?;
                warnings.push(format!("using the configuration remembered since add: {error}"));
                list
            }
            (Err(error), _) => return Err(error),
        };
        let (attachment, path) = (attachment?, host.variable("CNI_PATH"));
        (self.verb.run)(&Chain { list: &list, attachment: &attachment, path: &path, cache, host })
    }

    fn attachment(&self, host: &Host) -> Result<Attachment> {
        let capability_args = match host.variable("CAP_ARGS").as_str() {
            "" => Ok(serde_json::Map::new()),
            text => json::parse_object(text.as_bytes()),
        }?;
        let args = parse_args(&host.variable("CNI_ARGS"))?;
        let ifname = non_empty(self.ifname.clone(), &non_empty(host.variable("CNI_IFNAME"), DEFAULT_IFNAME));
        let netns = absolute(&self.netns, host)?;
        Ok(Attachment { container_id: container_id(&netns), netns, ifname, args, capability_args })
    }
}

/// The configuration that the ADD was made with, for a DEL that finds none any more.
fn remembered_list(network: &str, attachment: &Attachment, cache: &Cache) -> Option<NetworkList> {
    attachment.validate(network).ok()?;
    let cached = cache.read(network, attachment).ok()??;
    NetworkList::parse(&cached.config).ok().filter(|list| list.name == network && !list.plugins.is_empty())
}

fn non_empty(text: String, default: &str) -> String {
    if text.is_empty() { default.to_string() } else { text }
}

/// The namespace's path stands for the container: the first ten bytes of its SHA-512 are the id.
fn container_id(netns: &str) -> String {
    const DIGITS: usize = 20;
    let digits: String = sha512_hex(&[netns]).chars().take(DIGITS).collect();
    format!("cnitool-{digits}")
}

/// Makes a path absolute and removes `.`, `..` and double slashes without looking at links, as Go's `filepath.Abs` does:
/// the container id is made from the outcome.
fn absolute(path: &str, host: &Host) -> Result<String> {
    let whole = match path.strip_prefix('/') {
        Some(_) => path.to_string(),
        None => format!("{}/{path}", working_directory(host)?),
    };
    let mut parts = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// `$PWD` where it is right, because it keeps the links by which the user came; the kernel's answer otherwise.
fn working_directory(host: &Host) -> Result<String> {
    let identity = |path: &str| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let named = host.variable("PWD");
    if named.starts_with('/') && identity(&named).is_some() && identity(&named) == identity(".") {
        return Ok(named);
    }
    let directory = std::env::current_dir().context("failed to get the working directory")?;
    Ok(directory.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A directory with configurations in `net.d`, the plugin `probe` in `bin` and a result cache.
    struct Lab(PathBuf);

    impl Lab {
        fn new(test: &str) -> Self {
            let lab = Lab(std::env::temp_dir().join(format!("cnitool-{test}-{}", std::process::id())));
            fs::create_dir_all(lab.0.join("net.d")).unwrap();
            fs::create_dir_all(lab.0.join("bin")).unwrap();
            lab.write(
                "bin/probe",
                "#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = ADD ] || exit 0\n\
                 echo '{\"cniVersion\":\"1.0.0\",\"dns\":{\"domain\":\"'$CNI_IFNAME $CNI_CONTAINERID $CNI_ARGS'\"}}'\n",
            );
            fs::set_permissions(lab.0.join("bin/probe"), fs::Permissions::from_mode(0o755)).unwrap();
            lab.write("net.d/n.conf", r#"{"cniVersion":"1.0.0","name":"n","type":"probe"}"#);
            lab
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.join(name), text).unwrap();
        }

        fn run(&self, line: &str, variables: &[(&str, &str)]) -> Answer {
            let (net, bin) = (self.0.join("net.d"), self.0.join("bin"));
            let own = [("NETCONFPATH", net.to_str().unwrap()), ("CNI_PATH", bin.to_str().unwrap()), ("PATH", "/bin")];
            let pairs = own.iter().chain(variables);
            let environment = pairs.map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
            let words: Vec<String> = line.split(' ').map(str::to_string).collect();
            run_with(&words, &Host { environment, plugins: |_| None }, &Cache::new(self.0.join("results")))
        }
    }

    impl Drop for Lab {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn add_prints_the_result_and_del_nothing() {
        let lab = Lab::new("add");
        let answer = lab.run("add n /var/run/netns/testing", &[("CNI_IFNAME", ""), ("CNI_ARGS", "K=V")]);
        assert_eq!(
            answer.stdout,
            "{\n    \"cniVersion\": \"1.0.0\",\n    \"dns\": {\n        \
             \"domain\": \"eth0 cnitool-77383ca0a0715733ca6f K=V\"\n    }\n}"
        );
        assert!(lab.0.join("results/n-cnitool-77383ca0a0715733ca6f-eth0").exists());
        for verb in ["check", "del", "del"] {
            let answer = lab.run(&format!("{verb} n /var/run/netns/testing"), &[]);
            assert_eq!(answer, Answer { success: true, ..Answer::default() });
        }
        assert!(lab.run("add n /x -i e1", &[("CNI_IFNAME", "e2")]).stdout.contains("\"e1 cnitool-"));
        assert!(lab.run("add n /x", &[("CNI_IFNAME", "e2")]).stdout.contains("\"e2 cnitool-"));
    }

    #[test]
    fn the_first_mistake_in_the_environment_is_reported() {
        let lab = Lab::new("environment");
        let text = |line: &str, variables: &[(&str, &str)]| lab.run(line, variables).stderr;
        assert!(text("add x /x", &[("CAP_ARGS", "[]")]).starts_with("no net configuration with name \"x\" in "));
        let both = [("CAP_ARGS", "[]"), ("CNI_ARGS", "K=V;")];
        assert_eq!(text("add n /x", &both), "json: cannot unmarshal array into an object\n");
        assert_eq!(text("del n /x", &both[1..]), "invalid CNI_ARGS pair \"\"\n");
        assert_eq!(text("add n /x", &[("CAP_ARGS", "null")]), "");
    }

    #[test]
    fn skipped_files_are_warned_of_before_the_error() {
        let lab = Lab::new("skipped");
        lab.write("net.d/a.conflist", "{");
        let answer = lab.run("add n /x", &[]);
        assert!(answer.success && answer.stderr.starts_with("warning: skipped /"), "{}", answer.stderr);
        assert!(lab.run("add m /x", &[]).stderr.starts_with("no net configuration with name \"m\" in "));
    }

    #[test]
    fn del_works_from_memory_when_the_configuration_is_gone() {
        let lab = Lab::new("memory");
        assert!(lab.run("add n /x", &[]).success);
        fs::remove_file(lab.0.join("net.d/n.conf")).unwrap();
        assert!(!lab.run("check n /x", &[]).success);
        let answer = lab.run("del n /x", &[]);
        assert!(answer.success && answer.stderr.starts_with("warning: using the configuration remembered since add"));
        assert!(lab.run("del n /x", &[]).stderr.starts_with("no net configurations found in "));
    }

    #[test]
    fn the_namespace_is_cleaned_but_links_stay() {
        let host = |directory: &str| Host {
            environment: vec![(OsString::from("PWD"), OsString::from(directory))],
            plugins: |_| None,
        };
        for (path, clean) in
            [("/a//b/./c/", "/a/b/c"), ("/a/../../b", "/b"), ("/proc/self/ns/net", "/proc/self/ns/net"), ("/", "/")]
        {
            assert_eq!(absolute(path, &host("")).unwrap(), clean);
        }
        let own = std::env::current_dir().unwrap();
        assert_eq!(absolute("x", &host("/nonexistent")).unwrap(), own.join("x").to_str().unwrap());
        assert_eq!(absolute("x", &host("/proc/self/cwd")).unwrap(), "/proc/self/cwd/x");
    }
}
