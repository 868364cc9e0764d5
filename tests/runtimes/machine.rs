//! A machine on which container runtimes are installed, and nothing else (scripts/runtimes-fetch.sh): its network is a lab's,
//! so everything about links and rules can be read with the programs of the real machine, which it lacks.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::lab::{Call, Lab, Outcome, binary, wait_for};

const ENTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runtimes/enter.sh");
const PATH: &str = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/cni/bin";

/// The image of the walk-throughs, made by scripts/runtimes-images.sh.
pub const REDIS: &str = "docker.io/library/redis:alpine3.13";

/// The machine. Dropping it ends all that runs on it.
pub struct Machine {
    /// Whose network and `/var/lib/cni` it has.
    pub lab: Lab,
    init: Child,
    pid: String,
    name: String,
}

/// Where scripts/runtimes-fetch.sh has put things. Its absence fails the test: nothing is skipped.
pub fn files() -> String {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/target/runtimes");
    let folder = std::env::var("CNI_RUNTIMES_DIR").unwrap_or_else(|_| default.to_string());
    assert!(
        std::fs::exists(format!("{folder}/images.tar")).unwrap(),
        "no runtimes in {folder}: use make test-runtimes"
    );
    folder
}

/// The folders, below [`files`], that make the root; one hides files of those after it.
fn layers(release: &str) -> &'static str {
    match release {
        "1.6" => "root",
        "2.1" => "containerd2 root",
        _ => panic!("no containerd {release} here"),
    }
}

fn ping(address: &str, port: u16) -> String {
    format!("redis-cli -h {address} -p {port} ping | grep -x PONG")
}

impl Machine {
    /// A machine with `cni-box --install`ed in an empty plugin directory.
    pub fn new() -> Machine {
        Machine::with_containerd("1.6")
    }

    /// The same with another containerd, 2.1.
    pub fn with_containerd(release: &str) -> Machine {
        let lab = Lab::bare();
        let name = format!("cni-box-test-{}", lab.pid());
        let mut enter = lab.command("sh", "/");
        enter.args([ENTER, &files(), layers(release), &name, &binary()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut init = enter.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(init.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().strip_prefix("ready ").expect("the machine comes up: it needs root").to_string();
        let machine = Machine { lab, init, pid, name };
        machine.ok("mkdir -p /opt/cni/bin /etc/cni/net.d; cni-box --install /opt/cni/bin");
        machine
    }

    /// A program on the machine, with `/opt/cni/bin` on its PATH as people export it.
    pub fn call(&self, program: &str, arguments: &[&str]) -> Call<'_> {
        let enter =
            ["nsenter", "--target", &self.pid, "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--root", "--wdns=/"];
        let call = Call::new(&self.lab, program).args_list(arguments).under(&enter);
        call.env("PATH", PATH).env("CNI_PATH", "/opt/cni/bin").env("HOME", "/root")
    }

    /// Types a script into a shell of the machine.
    pub fn typed(&self, script: &str) -> Outcome {
        self.call("sh", &["-ec", script]).run()
    }

    /// The same; panics unless it succeeds; returns what it printed.
    pub fn ok(&self, script: &str) -> String {
        self.typed(script).success().stdout
    }

    /// Types a command into a terminal of the machine, and then the lines that `answers` has.
    pub fn on_a_terminal(&self, command: &str, answers: &str) -> Outcome {
        let words: Vec<_> = command.split_whitespace().collect();
        let script = ["sh", "-c", r#"exec script -qec "$*" /dev/null"#, "sh"];
        self.call(words[0], &words[1..]).under(&script).stdin(answers).run()
    }

    /// A file of the machine, as the test process can open it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Writes a file of the machine.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let script = r#"mkdir -p "${0%/*}" && cat >"$0""#;
        self.call("sh", &["-ec", script, path]).stdin(content).run().success();
    }

    /// Starts a daemon, which lives as long as the machine; its log is /tmp/LOG.
    pub fn start(&self, command: &str, log: &str) {
        self.ok(&format!("{command} </dev/null >/tmp/{log} 2>&1 &"));
    }

    /// Waits until a command succeeds.
    pub fn wait_until(&self, command: &str) {
        wait_for(command, || self.typed(command).code == Some(0));
    }

    /// Waits until the redis server at an address answers a client on the machine, outside of all containers.
    pub fn redis_answers(&self, address: &str, port: u16) {
        self.wait_until(&ping(address, port));
    }

    /// The same for a client in the lab's namespace `outside`, another machine in its network.
    pub fn redis_answers_outside(&self, address: &str, port: u16) {
        let command = ping(address, port);
        wait_for(&command, || self.lab.sh(&format!("ip netns exec outside {command}")).code == Some(0));
    }

    /// No plugin left anything of an attachment: a pair, a rule with one of these words in it (its addresses, say), a
    /// reservation, a cached result, a file of the firewall's. Bridges and chains for all containers stay, as after the
    /// Go plugins.
    pub fn assert_nothing_left(&self, words: &[&str]) {
        wait_for("the kernel to take down the last pair", || self.lab.veths().is_empty());
        let snapshot = self.lab.snapshot();
        let about = |line: &&String| words.iter().any(|word| line.contains(word));
        let rules = snapshot.lines().iter().filter(|line| !line.starts_with("address ") && !line.starts_with("route "));
        let left: Vec<_> = rules.filter(|line| line.starts_with("file ") || about(line)).collect();
        assert_eq!(left, [""; 0]);
        assert_eq!(self.ok("find /run/cni-box -type f ! -name '*.lock' 2>/dev/null || true"), "");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.init.stdin.take());
        self.init.wait().ok();
        let (own, below) = (format!("*/{}", self.name), format!("*/{}/*", self.name));
        let ours = ["(", "-path", &own, "-o", "-path", &below, ")"];
        let folders = [&["/sys/fs/cgroup", "-depth", "-type", "d"], &ours[..], &["-exec", "rmdir", "{}", ";"]].concat();
        // Other tests' groups may be gone while it looks.
        Command::new("find").args(folders).stderr(Stdio::null()).status().ok();
    }
}
