//! An upgrade and its way back on a host that is in use: the plugins' names are replaced while containers come and go, and
//! what one side attached the other detaches, in the middle of chains too. `previous` does the same
//! with the previous release.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::{Value, json};

use crate::lab::{Background, Call, Lab, PLUGINS, binary, new_reference_dir, reference_dir, wait_for};

/// The plugins that ours replace, and that replace ours.
pub enum Other {
    /// The reference's, in this folder.
    Go(String),
    /// Links to the cni-box in this folder.
    Box(String),
}

/// The chain's plugins, which are replaced.
const NAMES: [&str; 6] = ["bandwidth", "bridge", "firewall", "host-local", "portmap", "tuning"];
/// A runtime of its own: a copy, so that it executes whatever is in the plugin directory, be it another copy of it.
const RUNTIME: &str = "/opt/runtime/cnitool";
/// Calls at the same time.
const WORKERS: usize = 4;

/// Sends and gets back a byte until it is told to stop; fails when nothing comes for five seconds. Both ends live longer
/// than the lab's time limit may be.
const CLIENT: &str = r#"
import os, signal, socket, sys, time
signal.signal(signal.SIGALRM, signal.SIG_IGN)
one = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
while not os.path.exists("/run/stop"):
    one.sendall(b"x")
    if one.recv(1) != b"x": sys.exit("the other end closed")
    open("/run/talking", "w").close()
    time.sleep(0.01)
"#;

const SERVER: &str = r#"
import signal, socket
signal.signal(signal.SIGALRM, signal.SIG_IGN)
all = socket.create_server(("", 80))
open("/run/listening", "w").close()
one = all.accept()[0]
while data := one.recv(100): one.sendall(data)
"#;

/// What happens to a container, or to the plugin directory.
#[derive(Clone, Copy)]
enum Job {
    Add(usize),
    Del(usize),
    InstallOurs,
    InstallOther,
}

use Job::{Add, Del, InstallOther, InstallOurs};

/// A host with a network of all the plugins that people chain, and 61 addresses.
pub struct Site {
    pub lab: Lab,
    other: Other,
    /// Who has which address.
    owners: Mutex<BTreeMap<String, usize>>,
}

/// A bridge with 61 addresses, and the plugins that people chain behind it.
pub fn plugins() -> Value {
    json!([
        {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/26"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        {"type": "firewall"},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "tuning", "mtu": 1400, "sysctl": {"net.core.somaxconn": "500"}}])
}

/// The capability arguments of a container: limits, and a port of the host for port 80.
pub fn capabilities(number: usize) -> Value {
    json!({"bandwidth": {"ingressRate": 80_000_000, "ingressBurst": 8_000_000},
        "portMappings": [{"hostPort": 8000 + number, "containerPort": 80, "protocol": "tcp"}]})
}

impl Site {
    pub fn new(other: Other, plugins: &Value) -> Site {
        let lab = Lab::bare();
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins});
        lab.write("/etc/cni/net.d/net.conflist", list.to_string());
        lab.sh(&format!(
            "mkdir -p /opt/runtime; cp {} {RUNTIME}
            ip netns add outside; ip link add out0 type veth peer name eth0 netns outside
            ip addr add 192.0.2.1/24 dev out0; ip link set out0 up
            ip -n outside addr add 192.0.2.2/24 dev eth0; ip -n outside link set eth0 up",
            binary()
        ))
        .success();
        Site { lab, other, owners: Mutex::default() }
    }

    /// As a package manager does it: beside the old file, then in its place.
    fn install_go(&self, folder: &str) {
        for name in NAMES {
            let place = format!("{PLUGINS}/{name}");
            self.lab.sh(&format!("cp {folder}/{name} {place}.dpkg-new; mv -f {place}.dpkg-new {place}")).success();
        }
    }

    pub fn install_other(&self) {
        match &self.other {
            Other::Go(folder) => self.install_go(folder),
            Other::Box(folder) => {
                self.lab.run(&[&format!("{folder}/cni-box"), "--install", PLUGINS]).success();
            }
        }
    }

    pub fn install_ours(&self) {
        self.lab.run(&[&binary(), "--install", PLUGINS]).success();
    }

    pub fn runtime(&self, verb: &str, number: usize) -> Call<'_> {
        let netns = format!("/var/run/netns/c{number}");
        let call = Call::new(&self.lab, RUNTIME).args_list(&[verb, "net", &netns]);
        call.env("CNI_PATH", PLUGINS).env("CAP_ARGS", &capabilities(number).to_string())
    }

    pub fn add(&self, number: usize) {
        self.lab.netns(&format!("c{number}"));
        let result = self.runtime("add", number).run().result();
        let address = result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("{result}"));
        let other = self.owners.lock().unwrap().insert(address.to_string(), number);
        assert_eq!(other, None, "c{number} gets {address}, too");
    }

    /// The address is anybody's from the moment at which the call begins.
    pub fn del(&self, number: usize) {
        self.owners.lock().unwrap().retain(|_, owner| *owner != number);
        self.runtime("del", number).run().success();
        let left = self.lab.run(&["ip", "-n", &format!("c{number}"), "link", "show", "eth0"]);
        assert_ne!(left.code, Some(0), "{left:#?}");
        self.lab.ok(&format!("ip netns delete c{number}"));
    }

    /// Deletes the namespace of a container without a DEL.
    pub fn lose(&self, number: usize) {
        self.owners.lock().unwrap().retain(|_, owner| *owner != number);
        self.lab.ok(&format!("ip netns delete c{number}"));
    }

    /// What only ours writes, and the Go plugins leave, goes with our next GC.
    pub fn collect_garbage(&self) {
        self.install_ours();
        for plugin in ["bridge", "portmap", "firewall", "tuning"] {
            let config = json!({"cniVersion": "1.1.0", "name": "net", "type": plugin, "cni.dev/valid-attachments": []});
            self.lab.plugin(plugin).verb("GC").config(&config).run().silent();
        }
        assert_eq!(self.lab.kept_files(), [""; 0]);
    }

    /// All jobs in their order, several at a time.
    fn work(&self, jobs: &[Job]) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while let Some(job) = jobs.get(next.fetch_add(1, Relaxed)) {
                        match *job {
                            Add(number) => self.add(number),
                            Del(number) => self.del(number),
                            InstallOurs => self.install_ours(),
                            InstallOther => self.install_other(),
                        }
                    }
                });
            }
        });
    }

    /// Every living container is as it should be.
    pub fn check(&self) {
        let living: Vec<_> = self.owners.lock().unwrap().values().copied().collect();
        for number in living {
            self.runtime("check", number).run().silent();
        }
    }

    /// A connection from outside to container 0 through its mapped port.
    pub fn talk(&self) -> [Background; 2] {
        self.lab.write("/opt/server", SERVER);
        self.lab.write("/opt/client", CLIENT);
        let python = |netns: &str, words: &[&str]| {
            let arguments = [&["netns", "exec", netns, "python3"], words].concat();
            Call::new(&self.lab, "ip").args_list(&arguments).spawn()
        };
        let server = python("c0", &["/opt/server"]);
        wait_for("the server listens", || self.lab.exists("/run/listening"));
        let client = python("outside", &["/opt/client", "192.0.2.1", "8000"]);
        wait_for("the connection works", || self.lab.exists("/run/talking"));
        [server, client]
    }
}

/// The last container. 0 lives from the beginning to the end, the thirty after it are attached by the Go plugins.
const LAST: usize = 60;

/// The jobs by turns, and one in their midst.
fn mixed(adds: impl Iterator<Item = usize>, dels: impl Iterator<Item = usize>, swap: Option<Job>) -> Vec<Job> {
    let (mut adds, mut dels) = (adds.map(Add), dels.map(Del));
    let mut jobs: Vec<_> =
        std::iter::from_fn(|| adds.next().or_else(|| dels.next()).map(|job| [Some(job), dels.next()]))
            .flatten()
            .flatten()
            .collect();
    let third = jobs.len() / 3;
    jobs.splice(third..third, swap);
    jobs
}

/// One at a time, what each leaves for all containers by design.
pub fn leave_what_is_shared(site: &Site) {
    for install in [Site::install_ours, Site::install_other] {
        install(site);
        site.add(0);
        site.del(0);
    }
}

fn there_and_back(other: Other) {
    let site = Site::new(other, &plugins());
    leave_what_is_shared(&site);
    let before = site.lab.snapshot();
    under_load(&site);
    // The reference's DEL does not lower the guard of 127.0.0.0/8 that our ADD has raised; our GC
    // does.
    let after = site.lab.snapshot();
    let is_guard = |line: &str| {
        line.contains("CNI-HOSTPORT-LOCALNET") || line == r#"nft iifname "cni0" counter packets bytes drop"#
    };
    let left: Vec<_> = after.lines().iter().filter(|line| !before.lines().contains(line)).collect();
    assert!(left.iter().all(|line| is_guard(line)), "{left:#?}");
    site.collect_garbage();
    before.assert_same(&site.lab.snapshot());
}

/// Attaches and detaches sixty containers while the plugins are replaced, and replaced again.
pub fn under_load(site: &Site) {
    let (odd, even) = ((1..=30).step_by(2), (2..=30).step_by(2));

    site.add(0);
    let [server, client] = site.talk();
    site.work(&(1..=30).map(Add).collect::<Vec<_>>());
    site.work(&mixed(31..=LAST, odd.clone(), Some(InstallOurs)));
    site.check();
    // Some of the first half come again, and go with the rest.
    site.work(&mixed(odd.clone().take(5), (31..=LAST).step_by(2), Some(InstallOther)));
    site.work(&even.chain(odd.take(5)).chain((32..=LAST).step_by(2)).map(Del).collect::<Vec<_>>());

    site.lab.write("/run/stop", "");
    assert!(client.wait().success(), "the connection broke");
    server.kill();
    site.del(0);
    assert_eq!(*site.owners.lock().unwrap(), BTreeMap::new());
}

#[test]
fn to_ours_and_back_with_the_references_1_1() {
    there_and_back(Other::Go(reference_dir()));
}

#[test]
fn newer_to_ours_and_back_with_the_reference_1_9() {
    there_and_back(Other::Go(new_reference_dir()));
}
