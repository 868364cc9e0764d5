//! dhcp with a real server: the plugin's verbs, behind a bridge and through macvlan.

use std::ops::Range;

use serde_json::{Value, json};

use crate::bridge::reaches;
use crate::lab::{Background, Call, Lab, Outcome, PLUGINS, bridge_config, merged, wait_for};

/// Addresses for kea.
pub const POOL: &str = "10.1.2.10 - 10.1.2.99";
pub const LOG: &str = "/run/lab/dhcp.log";
pub const SOCKET: &str = "/run/cni/dhcp.sock";
const SERVER_LOG: &str = "/run/lab/server.log";
pub const LEASES: &str = "/run/lab/leases";
pub const RECORDS: &str = "/run/cni-box/dhcp/%run%cni%dhcp.sock";

/// A host with the bridge `cni0` and a namespace `lan`, which has 10.1.0.1/16 on `lan0` on that bridge: the place for a
/// server. Fields end in this order.
pub struct Network {
    pub daemon: Option<Background>,
    pub server: Option<Background>,
    pub lab: Lab,
}

impl Network {
    /// Neither server nor daemon run.
    pub fn new() -> Network {
        let lab = Lab::new();
        let links = "netns add lan\nlink add cni0 up type bridge\n\
            link add lan0 netns lan type veth peer name port0\nlink set port0 master cni0 up\n";
        batch(&lab, "", links);
        batch(&lab, "lan", "link set lo up\nlink set lan0 up\naddr add 10.1.0.1/16 dev lan0\n");
        lab.ok("mkdir -p /run/kea /var/lib/kea");
        Network { daemon: None, server: None, lab }
    }

    /// dnsmasq and our daemon.
    pub fn with_dnsmasq(options: &[&str]) -> Network {
        let mut network = Network::new();
        network.start_dnsmasq("10.1.2.0,10.1.9.255", options);
        network.start_daemon(&[]);
        network
    }

    /// Leases are for two minutes: dnsmasq knows nothing shorter.
    pub fn start_dnsmasq(&mut self, range: &str, options: &[&str]) {
        let range = format!("--dhcp-range={range},255.255.0.0,2m");
        let mut arguments = vec!["netns", "exec", "lan", "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0"];
        arguments.extend(["--interface=lan0", "--bind-interfaces", "--no-ping", "--log-dhcp", "--user=root"]);
        arguments.extend(["--pid-file=", "--dhcp-leasefile=/run/lab/leases", "--log-facility=/run/lab/server.log"]);
        arguments.push(&range);
        arguments.extend(options);
        self.lab.ok("rm -f /run/lab/server.log");
        self.server = Some(Call::new(&self.lab, "ip").args_list(&arguments).spawn());
        wait_for("dnsmasq", || self.server_log().contains("sockets bound exclusively"));
    }

    /// Kea with these addresses and lifetimes in seconds: valid, renew, rebind. Leases are only in its memory.
    pub fn start_kea(&mut self, pool: &str, [valid, renew, rebind]: [u32; 3]) {
        let config = json!({"Dhcp4": {
            "interfaces-config": {"interfaces": ["lan0"], "dhcp-socket-type": "raw"},
            "lease-database": {"type": "memfile", "persist": false},
            "valid-lifetime": valid, "renew-timer": renew, "rebind-timer": rebind, "calculate-tee-times": false,
            "authoritative": true,
            "subnet4": [{"subnet": "10.1.0.0/16", "pools": [{"pool": pool}],
                "option-data": [{"name": "routers", "data": "10.1.0.1"}]}],
            "loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout"}]}]}});
        self.lab.write("/etc/kea/kea-dhcp4.conf", config.to_string());
        self.lab.ok("rm -f /run/lab/server.log");
        let script = "exec ip netns exec lan kea-dhcp4 -c /etc/kea/kea-dhcp4.conf > /run/lab/server.log 2>&1";
        self.server = Some(Call::new(&self.lab, "sh").args_list(&["-c", script]).spawn());
        wait_for("kea", || self.server_log().contains("DHCP4_STARTED"));
    }

    pub fn stop_server(&mut self) {
        self.server.take().unwrap().kill();
    }

    /// Our daemon with these flags, listening at the default socket.
    pub fn start_daemon(&mut self, flags: &[&str]) {
        let program = format!("{PLUGINS}/dhcp");
        self.daemon = Some(self.spawn_daemon(&program, &[&["-resendtimeout=20s"], flags].concat()));
        wait_for("the daemon", || self.status().run().code == Some(0));
    }

    /// A daemon that may or may not come up.
    pub fn spawn_daemon(&self, program: &str, flags: &[&str]) -> Background {
        let script = format!("exec {program} daemon -timeout 1s {} 2>> {LOG}", flags.join(" "));
        Call::new(&self.lab, "sh").args_list(&["-c", &script]).spawn()
    }

    pub fn kill_daemon(&mut self) {
        self.daemon.take().unwrap().kill();
    }

    /// Namespaces `nsN`, whose `eth0` is on the bridge and down.
    pub fn containers(&self, numbers: Range<usize>) {
        let mut host = String::new();
        for n in numbers {
            host += &format!("netns add ns{n}\nlink add v{n} type veth peer name eth0 netns ns{n}\n");
            host += &format!("link set v{n} master cni0 up\n");
        }
        batch(&self.lab, "", &host);
    }

    /// One container, and the call of the plugin for it.
    pub fn container(&self, n: usize) -> Call<'_> {
        self.containers(n..n + 1);
        self.call(n)
    }

    pub fn call(&self, n: usize) -> Call<'_> {
        self.of_container(self.lab.plugin("dhcp").config(&config(&json!({}))), n)
    }

    pub fn of_container<'a>(&'a self, call: Call<'a>, n: usize) -> Call<'a> {
        call.container(&format!("c{n}")).netns(&format!("/var/run/netns/ns{n}"))
    }

    pub fn status(&self) -> Call<'_> {
        self.lab.plugin("dhcp").verb("STATUS").config(&config(&json!({"cniVersion": "1.1.0"})))
    }

    /// What the daemon has said so far.
    pub fn log(&self) -> String {
        read(&self.lab, LOG)
    }

    pub fn server_log(&self) -> String {
        read(&self.lab, SERVER_LOG)
    }

    /// How often the server has said this.
    pub fn said(&self, word: &str) -> usize {
        self.server_log().matches(word).count()
    }

    /// Waits for a line of the daemon about a container.
    pub fn wait_for_log(&self, n: usize, text: &str) {
        let told =
            |log: &str| log.lines().any(|line| line.starts_with(&format!("c{n}/net/eth0: ")) && line.contains(text));
        wait_for(&format!("{text:?} of c{n}"), || told(&self.log()));
    }

    /// How many leases the daemon has acquired.
    pub fn acquired(&self) -> usize {
        self.log().matches(": acquiring lease").count()
    }

    /// dnsmasq's leases.
    pub fn leases(&self) -> usize {
        read(&self.lab, LEASES).lines().count()
    }

    /// Leases that our daemon has on disk.
    pub fn records(&self) -> usize {
        self.lab.list(RECORDS).len()
    }

    /// The state of `eth0` in a container.
    pub fn is_up(&self, n: usize) -> bool {
        self.lab.link_in(&format!("ns{n}"), "eth0")["flags"].as_array().unwrap().contains(&json!("UP"))
    }
}

impl Drop for Network {
    /// A failed test tells what daemon and server have said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("daemon:\n{}server:\n{}", self.log(), self.server_log());
        }
    }
}

fn read(lab: &Lab, path: &str) -> String {
    if lab.exists(path) { lab.read(path) } else { String::new() }
}

/// `ip -batch` on the host or in a namespace.
fn batch(lab: &Lab, netns: &str, commands: &str) {
    let mut arguments = vec!["-batch", "-"];
    if !netns.is_empty() {
        arguments.splice(0..0, ["-n", netns]);
    }
    Call::new(lab, "ip").args_list(&arguments).stdin(commands).run().success();
}

pub fn config(changes: &Value) -> Value {
    merged(json!({"cniVersion": "1.0.0", "name": "net", "type": "x", "ipam": {"type": "dhcp"}}), changes)
}

pub fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("{result}")).to_string()
}

pub fn with_dhcp(changes: &Value) -> Value {
    merged(bridge_config(&json!({"ipam": {"type": "dhcp", "subnet": null}})), changes)
}

/// ADD, traffic, CHECK and DEL of a container whose plugin asks dhcp. The server sees the lease being given back.
pub fn lives(network: &Network, call: &Call<'_>, config: &Value) {
    let lab = &network.lab;
    let result = call.run().result();
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]));
    assert_eq!(result["ips"][0]["gateway"], "10.1.0.1");
    assert_eq!(lab.addresses("ns9", "eth0"), [address(&result)]);
    assert!(lab.routes("ns9", "").contains(&"default via 10.1.0.1 dev eth0".to_string()));
    reaches(lab, "ns9", "10.1.0.1");
    assert_eq!(network.leases(), 1);
    let attached = call.clone().config(&merged(config.clone(), &json!({"prevResult": result})));
    attached.clone().verb("CHECK").run().silent();
    attached.clone().verb("DEL").run().silent();
    wait_for("the server to hear of the release", || network.leases() == 0);
    assert_eq!(network.records(), 0);
    attached.verb("DEL").run().silent();
}

#[test]
fn better_a_container_on_a_bridge_gets_its_lease_and_gives_it_back() {
    let network = Network::with_dnsmasq(&[]);
    network.lab.netns("ns9");
    let config = with_dhcp(&json!({}));
    lives(&network, &network.of_container(network.lab.plugin("bridge").config(&config), 9), &config);
}

#[test]
fn better_a_container_with_macvlan_gets_its_lease_and_gives_it_back() {
    let network = Network::with_dnsmasq(&[]);
    network.lab.netns("ns9");
    batch(&network.lab, "", "link add m0 type veth peer name m1\nlink set m0 up\nlink set m1 master cni0 up\n");
    let config = with_dhcp(&json!({"type": "macvlan", "bridge": null, "master": "m0"}));
    lives(&network, &network.of_container(network.lab.plugin("macvlan").config(&config), 9), &config);
}

#[test]
fn the_same_container_again_gets_the_same_lease() {
    let network = Network::with_dnsmasq(&[]);
    let call = network.container(1);
    let result = call.run().result();
    assert_eq!(call.run().result(), result);
    assert_eq!((network.acquired(), network.leases()), (1, 1));
    call.verb("CHECK").run().silent();
}

#[test]
fn better_many_calls_at_once_for_one_container_get_one_lease() {
    let network = Network::with_dnsmasq(&[]);
    let call = network.container(1);
    let results: Vec<Value> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| call.run().result())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
    assert_eq!((network.acquired(), network.leases()), (1, 1));
}

#[test]
fn better_check_needs_a_lease_for_the_addresses_of_the_result() {
    let network = Network::with_dnsmasq(&[]);
    let call = network.container(1);
    let none = "error calling DHCP.Check: there is no lease for c1/net/eth0";
    call.clone().verb("CHECK").run().fails(999, none);
    assert_eq!(network.leases(), 0);
    let result = call.run().result();
    let with = |prev: &Value| config(&json!({"prevResult": prev}));
    call.clone().verb("CHECK").config(&with(&result)).run().silent();
    let other = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/16"}]});
    let leased = address(&result).replace("/16", "");
    let text = format!("dhcp: the lease is for {leased}, which prevResult does not have");
    call.clone().verb("CHECK").config(&with(&other)).run().fails(999, &text);
    network.lab.ok("ip -n ns1 link delete eth0");
    call.clone().verb("CHECK").run().fails_with(999, &["eth0"]);
    call.clone().verb("DEL").run().silent();
    call.verb("CHECK").run().fails(999, none);
}

#[test]
fn options_are_asked_for_sent_and_understood() {
    let options = ["--dhcp-option=121,10.7.0.0/16,10.1.0.9", "--dhcp-option=6,10.1.0.7", "--dhcp-option=15,example"];
    let network = Network::with_dnsmasq(&options);
    let ipam = json!({"request": [{"option": "121"}], "priority": 7, "dnsFromServer": true,
        "provide": [{"option": "host-name", "fromArg": "K8S_POD_NAME"}, {"option": "60", "value": "cni"}]});
    let call = network.container(1).config(&config(&json!({"ipam": ipam}))).args("IgnoreUnknown=1;K8S_POD_NAME=web-0");
    let result = call.run().result();
    assert_eq!(result["routes"], json!([{"dst": "10.7.0.0/16", "gw": "10.1.0.9", "priority": 7}]));
    assert_eq!(result["dns"], json!({"nameservers": ["10.1.0.7"], "domain": "example"}));
    let log = network.server_log();
    assert!(log.contains("client provides name: web-0") && log.contains("vendor class: cni"), "{log}");
}

#[test]
fn better_without_a_daemon_verbs_say_so_and_del_succeeds() {
    let network = Network::new();
    let call = network.container(1);
    let cause = format!("dial unix {SOCKET}: connect: no such file or directory");
    call.run().fails(999, &format!("error dialing DHCP daemon: {cause}"));
    call.clone().verb("CHECK").run().fails(999, &format!("error dialing DHCP daemon: {cause}"));
    let deleted = call.clone().verb("DEL").run().silent();
    let note = format!("dhcp: no lease was given back: the daemon is not reachable: {cause}\n");
    assert_eq!(deleted.stderr, note);
    let status = network.status().run();
    assert_eq!(status.error().0, 50);
    let other = config(&json!({"ipam": {"daemonSocketPath": "/run/other.sock"}}));
    let missing = "error dialing DHCP daemon: dial unix /run/other.sock: connect: no such file or directory";
    call.config(&other).run().fails(999, missing);
}

/// A socket that is missing, and one that nothing listens at, as SIGKILL leaves it.
#[test]
fn better_without_a_daemon_the_details_say_how_to_start_it() {
    let mut network = Network::new();
    let advised = |network: &Network, cause: &str| {
        let direct = network.call(1);
        let bridge = network.of_container(network.lab.plugin("bridge").config(&with_dhcp(&json!({}))), 1);
        for call in [direct.clone(), direct.verb("CHECK"), network.status(), bridge.ifname("eth1")] {
            let (_, msg, details) = call.run().error();
            assert!(
                msg.ends_with(cause) && details.starts_with("start the daemon: `dhcp daemon`, or "),
                "{msg}: {details}"
            );
        }
    };
    network.containers(1..2);
    advised(&network, "connect: no such file or directory");
    network.start_daemon(&[]);
    network.kill_daemon();
    advised(&network, "connect: connection refused");
    let elsewhere = |path: &str| {
        let other = config(&json!({"ipam": {"daemonSocketPath": path}}));
        network.call(1).config(&other).run().error().2
    };
    assert_eq!(elsewhere("/run/other.sock"), "start the daemon: `dhcp daemon -socketpath /run/other.sock`");
    assert_eq!(elsewhere("/etc/hostname/x"), "", "no daemon can listen there");
}

#[test]
fn better_configurations_that_cannot_work_are_refused() {
    let mut network = Network::new();
    let call = network.container(1);
    let without = json!({"cniVersion": "1.0.0", "name": "net", "type": "x"});
    for verb in ["ADD", "CHECK"] {
        call.clone().verb(verb).config(&without).run().fails(7, "IPAM config missing 'ipam' key");
    }
    let v6 = config(&json!({"ipam": {"ipv6": true}}));
    call.clone().config(&v6).run().fails(2, "dhcp: ipv6 is not supported: there is no DHCPv6 client yet");
    network.start_daemon(&[]);
    let network = &network;
    let refused = |changes: &Value, text: &str| {
        let outcome = network.call(1).config(&config(changes)).run();
        outcome.fails_with(999, &["error calling DHCP.Allocate: ", text]);
        assert!(!network.is_up(1), "nothing happens before it is checked");
    };
    refused(&json!({"ipam": {"request": [{"option": "nope"}]}}), "Can not parse option \"nope\"");
    refused(
        &json!({"ipam": {"provide": [{"option": "12", "value": "x".repeat(256)}]}}),
        "value too long for option \"12\"",
    );
    refused(&json!({"ipam": {"priority": "x"}}), "json: cannot unmarshal string into key \"ipam.priority\"");
    let missing = network.call(1).ifname("eth7").run();
    missing.fails(999, "error calling DHCP.Allocate: error looking up \"eth7\": Link not found");
    let nowhere = network.call(1).netns("/run/netns/none").run();
    nowhere.fails_with(
        999,
        &["error calling DHCP.Allocate: failed to Statfs \"/run/netns/none\": no such file or directory"],
    );
}

#[test]
fn newer_gc_gives_back_what_no_valid_attachment_has() {
    let network = Network::with_dnsmasq(&[]);
    network.containers(1..4);
    for n in 1..4 {
        network.call(n).run().result();
    }
    let other = network.call(3).config(&config(&json!({"name": "other"}))).run();
    other.result();
    let gc = |valid: &Value| {
        let changes = json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid});
        network.lab.plugin("dhcp").verb("GC").config(&config(&changes)).run().silent()
    };
    gc(&json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "eth1"}]));
    let checks = |n: usize| -> Outcome { network.call(n).verb("CHECK").run() };
    checks(1).silent();
    checks(2).fails_with(999, &["there is no lease for c2/net/eth0"]);
    checks(3).fails_with(999, &["there is no lease for c3/net/eth0"]);
    wait_for("the server to hear of the releases", || network.leases() == 2);
    network.call(3).verb("CHECK").config(&config(&json!({"name": "other"}))).run().silent();
    network.kill_daemon_for_gc();
    let note = gc(&json!([])).stderr;
    assert!(note.starts_with("dhcp: no lease was given back: the daemon is not reachable"), "{note}");
}

impl Network {
    fn kill_daemon_for_gc(&self) {
        self.lab.ok(&format!("kill -9 {}", self.daemon.as_ref().unwrap().pid()));
        wait_for("the end of the daemon", || self.status().run().code != Some(0));
    }
}
