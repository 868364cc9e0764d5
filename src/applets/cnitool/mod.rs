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

use sha2::{Digest, Sha512};

use command_line::Command;

use crate::cni::attachment::{Attachment, parse_args};
use crate::cni::cache::{self, Cache};
use crate::cni::chain::Chain;
use crate::cni::conflist::NetworkList;
use crate::cni::serve::Answer;
use crate::cni::{Host, conflist_files, json};
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
    const BYTES: usize = 10;
    let digest = Sha512::digest(netns.as_bytes());
    let digits = digest.iter().take(BYTES).map(|byte| format!("{byte:02x}"));
    format!("cnitool-{}", digits.collect::<String>())
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
