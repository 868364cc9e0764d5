//! cnitool: runs the plugins of a configured network against a network namespace, as a container runtime would.
//!
//! ```text
//! cnitool add|check|del <network-name> <netns> [-i NAME]
//! cnitool gc <network-name> [<netns>] [--dry-run] [--valid CONTAINERID/IFNAME]...
//! cnitool status <network-name> [<netns>]
//! cnitool list [<network-name>]
//! cnitool validate [network|file]...
//! ```
//!
//! The command line is that of cnitool v1.3.0 (words by place) and of the options added since. Environment:
//! `NETCONFPATH` (directory of configurations), `CNI_PATH` (directories of plugins; empty means those of this
//! executable), `CNI_ARGS`, `CAP_ARGS` (JSON object of capability arguments), `CNI_IFNAME`.

mod command_line;
mod container;
mod gc;
mod list;
mod validate;

use std::cell::Cell;

use command_line::Command;

use crate::cni::attachment::{Attachment, parse_args};
use crate::cni::cache::{self, Cache, Cached};
use crate::cni::chain::Chain;
use crate::cni::conflist::NetworkList;
use crate::cni::serve::Answer;
use crate::cni::{Host, conflist_files, json};
use crate::error::{Error, Result};

const DEFAULT_DIRECTORY: &str = "/etc/cni/net.d";
const DEFAULT_IFNAME: &str = "eth0";

/// Something that cnitool can do.
struct Verb {
    name: &'static str,
    about: &'static str,
    /// The words that follow, as usage shows them, with a space between; those in brackets may be left out.
    words: &'static str,
    /// The lines of help about options of its own, and what else there is to say.
    help: &'static str,
    run: fn(&mut Call<'_>) -> Result<()>,
}

const VERBS: [Verb; 7] = [
    Verb { name: "add", about: "Add network interface to a network namespace", words: ATTACHMENT, help: "", run: add },
    Verb {
        name: "check",
        about: "Check network interface in a network namespace",
        words: ATTACHMENT,
        help: "",
        run: check,
    },
    Verb {
        name: "del",
        about: "Delete network interface from a network namespace",
        words: ATTACHMENT,
        help: "",
        run: del,
    },
    Verb { name: "gc", about: "Garbage collect network interfaces", words: NETWORK, help: gc::HELP, run: gc::run },
    Verb { name: "list", about: list::ABOUT, words: "[<network-name>]", help: list::HELP, run: list::run },
    Verb { name: "status", about: "Get status of network interfaces", words: NETWORK, help: STATUS_HELP, run: status },
    Verb { name: "validate", about: validate::ABOUT, words: validate::WORDS, help: "", run: validate::run },
];

const ATTACHMENT: &str = "<network-name> <netns>";

/// The namespace is of no use; the reference wants one.
const NETWORK: &str = "<network-name> [<netns>]";

const STATUS_HELP: &str = "
Asks each plugin, from CNI 1.1.0 on, if it could serve an add; silent if all could.
";

fn add(call: &mut Call<'_>) -> Result<()> {
    let unused = Cell::new(Vec::new());
    let added = call.on_chain(None, &|chain| {
        unused.set(chain.unused_capability_args());
        chain.add().map(|result| json::pretty(&result))
    });
    let of_none = |key: String| format!("CAP_ARGS: no plugin of the network has the capability {key:?}");
    call.warnings.extend(unused.take().into_iter().map(of_none));
    call.stdout = added?;
    Ok(())
}

fn check(call: &mut Call<'_>) -> Result<()> {
    let warning = Cell::new(None);
    let checked = call.on_chain(None, &|chain| {
        let checked = chain.check();
        let (network, Attachment { container_id, ifname, .. }) = (&chain.list.name, chain.attachment);
        if checked.is_err() && matches!(chain.cache.read(network, chain.attachment), Ok(None)) {
            warning.set(Some(format!("no result of an add of {network} {container_id} {ifname} is in the cache")));
        }
        checked
    });
    call.warnings.extend(warning.take());
    checked
}

fn del(call: &mut Call<'_>) -> Result<()> {
    call.on_chain(Some(remembered_list), &|chain| chain.del())
}

fn status(call: &mut Call<'_>) -> Result<()> {
    call.on_chain(None, &|chain| chain.status())
}

/// Runs the command that `arguments` (without the program's name) describe.
pub fn run(arguments: &[String], host: &Host) -> Answer {
    run_with(arguments, host, &Cache::new(cache::DIRECTORY))
}

fn run_with(arguments: &[String], host: &Host, cache: &Cache) -> Answer {
    match Command::parse(arguments) {
        Ok(command) => {
            let call = Call {
                command: &command,
                host,
                cache,
                stdout: String::new(),
                warnings: Vec::new(),
                notes: String::new(),
            };
            call.answer()
        }
        Err(answer) => answer,
    }
}

/// Where a network's configuration comes from when its file is gone.
type Memory = fn(&Call<'_>, &Attachment) -> Option<NetworkList>;

/// One run of a verb.
struct Call<'a> {
    command: &'a Command,
    host: &'a Host,
    cache: &'a Cache,
    /// For standard output, also when the verb fails.
    stdout: String,
    /// For standard error, each on a line of its own.
    warnings: Vec<String>,
    /// The same, lines that are no warnings.
    notes: String,
}

impl Call<'_> {
    fn answer(mut self) -> Answer {
        let outcome = (self.command.verb.run)(&mut self).map_err(Error::with_hint);
        let mut stderr: String = self.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
        stderr.push_str(&self.notes);
        if let Err(error) = &outcome {
            stderr.push_str(&format!("{error}\n"));
        }
        Answer { stdout: self.stdout, stderr, success: outcome.is_ok() }
    }

    /// Does something with the network and the attachment that the command names.
    fn on_chain<T>(&mut self, memory: Option<Memory>, run: &dyn Fn(&Chain<'_>) -> Result<T>) -> Result<T> {
        let network = self.command.word(0);
        let loaded = conflist_files::load(&self.configuration_directory(), network);
        let attachment = self.attachment();
        let list = match (loaded, &attachment) {
            (Ok(loaded), _) => {
                self.warnings.extend(loaded.skipped.iter().map(|reason| format!("skipped {reason}")));
                self.warnings.extend(loaded.shadowed);
                loaded.list
            }
            // No network has such a name.
            (Err(error), _) if network.contains('/') => {
                return Err(error.with_details("the network's name comes first, then the namespace"));
            }
            (Err(error), Ok(attachment)) => {
                let list = memory.and_then(|memory| memory(self, attachment)).ok_or_else(|| error.clone())?;
                self.warnings.push(format!("using the configuration remembered since add: {error}"));
                list
            }
            (Err(error), _) => return Err(error),
        };
        let netns = self.is_about_one().then(|| self.command.word(1));
        self.warnings.extend(netns.and_then(container::doubt));
        let (attachment, path) = (attachment?, self.host.variable("CNI_PATH"));
        run(&Chain { list: &list, attachment: &attachment, path: &path, cache: self.cache, host: self.host })
    }

    /// True for the verbs that are about one attachment. Others get a namespace only because the
    /// reference wants one.
    fn is_about_one(&self) -> bool {
        self.command.verb.words == ATTACHMENT
    }

    fn configuration_directory(&self) -> String {
        non_empty(self.host.variable("NETCONFPATH"), DEFAULT_DIRECTORY)
    }

    fn attachment(&self) -> Result<Attachment> {
        let host = self.host;
        let capability_args = match host.variable("CAP_ARGS").as_str() {
            "" => Ok(serde_json::Map::new()),
            text => json::parse_object(text.as_bytes()).map_err(|error| error.behind("invalid CAP_ARGS")),
        }?;
        let args = parse_args(&host.variable("CNI_ARGS"))?;
        let ifname = non_empty(self.command.ifname.clone(), &non_empty(host.variable("CNI_IFNAME"), DEFAULT_IFNAME));
        let netns = match self.command.words.get(1).map(String::as_str) {
            Some("") if self.is_about_one() => return Err(Error::internal("the path of the namespace is empty")),
            netns => container::absolute(netns.unwrap_or_default(), host)?,
        };
        Ok(Attachment { container_id: container::id(&netns), netns, ifname, args, capability_args })
    }
}

/// The configuration that the ADD was made with, for a DEL that finds none any more.
fn remembered_list(call: &Call<'_>, attachment: &Attachment) -> Option<NetworkList> {
    let network = call.command.word(0);
    attachment.validate(network).ok()?;
    call.cache.read(network, attachment).ok()?.and_then(|cached| usable_list(network, &cached))
}

/// The configuration of any attachment to the network, for a GC.
fn any_remembered_list(call: &Call<'_>, _: &Attachment) -> Option<NetworkList> {
    let network = call.command.word(0);
    call.cache.list(Some(network)).ok()?.iter().find_map(|(_, cached)| usable_list(network, cached))
}

fn usable_list(network: &str, cached: &Cached) -> Option<NetworkList> {
    NetworkList::parse(&cached.config).ok().filter(|list| list.name == network && !list.plugins.is_empty())
}

fn non_empty(text: String, default: &str) -> String {
    if text.is_empty() { default.to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
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
        assert_eq!(text("add n /x", &both), "invalid CAP_ARGS: json: cannot unmarshal array into an object\n");
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
}
