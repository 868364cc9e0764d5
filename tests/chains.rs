//! Whole chains, through cnitool with our plugins only: what a pod gets, an honest CHECK, and nothing left behind, however
//! it ends. The lists that runtimes write are in `chains_of_runtimes`.

use serde_json::{Value, json};

use crate::bandwidth::{both, traffic_control};
use crate::kills::{Accident, Trial, changing_calls, every, kill_at};
use crate::lab::{Call, Lab, Snapshot, merged, wait_for};

const NETNS: &str = "/var/run/netns/ns1";

/// A network that is configured on a host, with what the runtime says besides.
pub struct Network {
    pub lab: Lab,
    name: String,
    capabilities: String,
}

impl Network {
    /// Configures it on a host with `ns1`.
    pub fn new(lab: Lab, list: &Value, capabilities: &Value) -> Self {
        let name = list["name"].as_str().unwrap().to_string();
        lab.write(&format!("/etc/cni/net.d/10-{name}.conflist"), list.to_string());
        Network { lab, name, capabilities: capabilities.to_string() }
    }

    pub fn call(&self, verb: &str) -> Call<'_> {
        self.lab.cnitool(&[verb, &self.name, NETNS]).env("CAP_ARGS", &self.capabilities)
    }

    /// An attachment has come and gone: what all share stays from now on.
    pub fn settled(self) -> Self {
        self.call("add").run().result();
        self.call("del").run().silent();
        self
    }
}

/// Everything of a host and of `ns1`.
pub struct State {
    host: Snapshot,
    traffic: Vec<String>,
    files: String,
    container: String,
}

impl State {
    pub fn of(lab: &Lab) -> State {
        let container = "[ -e /run/netns/ns1 ] || exit 0; ip -n ns1 -o link; for family in -4 -6; do
            ip -n ns1 $family rule; ip -n ns1 $family route show table all; done";
        let files = "find /run/cni /run/cni-box -type f ! -path '*/.cni-box/*' 2>/dev/null || true";
        State {
            host: lab.snapshot(),
            traffic: traffic_control(lab),
            files: lab.sh(files).success().stdout,
            container: lab.sh(container).success().stdout,
        }
    }

    /// Panics with what differs on the host.
    pub fn assert_host(&self, after: &State) {
        self.host.assert_same(&after.host);
        assert_eq!(self.traffic, after.traffic);
        assert_eq!(self.files, after.files);
    }

    /// Panics with what differs.
    pub fn assert_same(&self, after: &State) {
        self.assert_host(after);
        assert_eq!(self.container, after.container);
    }
}

fn host() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab
}

fn list(plugins: &[Value]) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins})
}

fn bridge(changes: &Value) -> Value {
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    let base = json!({"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "ranges": ranges}});
    merged(base, changes)
}

/// bridge, tuning, bandwidth and sbr.
fn routed() -> Vec<Value> {
    let tuning = json!({"type": "tuning", "mtu": 1400, "mac": "02:00:00:00:00:77",
        "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}});
    vec![bridge(&json!({})), tuning, merged(both(), &json!({"type": "bandwidth"})), json!({"type": "sbr"})]
}

/// bridge, portmap, firewall, bandwidth and tuning, which are told the rest by the runtime.
fn mapped() -> Vec<Value> {
    vec![
        bridge(&json!({"hairpinMode": true, "capabilities": {"ips": true, "mac": true}})),
        json!({"type": "portmap", "capabilities": {"portMappings": true}}),
        json!({"type": "firewall"}),
        json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
        json!({"type": "tuning", "capabilities": {"mac": true}, "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}),
    ]
}

fn capabilities() -> Value {
    json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": both(), "mac": "02:00:00:00:00:88", "ips": ["10.1.2.77", "fd00:1:2::77"],
    })
}

fn routed_network() -> Network {
    Network::new(host(), &list(&routed()), &json!({}))
}

fn mapped_network() -> Network {
    Network::new(host(), &list(&mapped()), &capabilities())
}

/// The words of a command about this attachment: its interfaces and its IPv4 address.
fn spelled(command: &str, result: &Value) -> String {
    let name = |at: usize| result["interfaces"][at]["name"].as_str().unwrap_or_default().to_string();
    let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
    command.replace("VETH", &name(1)).replace("IFB", &name(3)).replace("ADDRESS", address)
}

/// CHECK is content with what ADD made, but not after any of these damages, and says so in these words. DEL leaves nothing
/// of it.
fn is_checked(network: &Network, damages: &[(&str, &str)]) {
    let before = State::of(&network.lab);
    for (damage, words) in damages {
        let result = network.call("add").run().result();
        network.call("check").run().silent();
        network.lab.sh(&spelled(damage, &result)).success();
        network.call("check").run().dies_with(&[&spelled(words, &result)]);
        for _ in 0..2 {
            network.call("del").run().silent();
            eprintln!("{damage}");
            before.assert_same(&State::of(&network.lab));
        }
    }
}

/// The reference's bridge misses the routes that sbr has moved, so a CHECK of this chain always fails there.
#[test]
fn better_a_pod_with_tables_of_its_own_is_checked_plugin_by_plugin() {
    is_checked(
        &routed_network().settled(),
        &[
            ("ip link set VETH nomaster", "CNI veth created for bridge cni0 was not found"),
            ("ip -n ns1 addr del ADDRESS/24 dev eth0", "Failed to match addr ADDRESS/24 on interface eth0"),
            ("ip -n ns1 route del 10.1.2.0/24 table 100", "Failed to find Gateway 10.1.2.1 for interface eth0"),
            ("ip -n ns1 -6 route del default table 101", "Expected Route ::/0 via fd00:1:2::1 not found"),
            ("ip -n ns1 link set eth0 mtu 1300", "Tuning configured MTU of eth0 is 1400, current value is 1300"),
            ("ip -n ns1 link set eth0 address 02:00:00:00:00:09", "Interface eth0 Mac 02:00:00:00:00:77 doesn't match"),
            (
                "ip netns exec ns1 sysctl -qw net.ipv4.conf.eth0.arp_filter=0",
                "eth0/arp_filter is 1, current value is 0",
            ),
            ("tc qdisc del dev VETH root", "Failed to find qdisc of \"VETH\""),
            ("ip link del IFB", "get ifb device: Link not found"),
            ("ip -n ns1 rule del from ADDRESS", "Expected rule from ADDRESS not found"),
        ],
    );
}

#[test]
fn a_pod_with_everything_of_the_runtime_is_checked_plugin_by_plugin() {
    is_checked(
        &mapped_network().settled(),
        &[
            ("ip -n ns1 addr del ADDRESS/24 dev eth0", "Failed to match addr 10.1.2.77/24 on interface eth0"),
            ("rm /var/lib/cni/networks/net/ADDRESS", "10.1.2.77"),
            ("iptables -t nat -F CNI-HOSTPORT-DNAT", "in chain CNI-HOSTPORT-DNAT not found in table nat"),
            ("iptables -D CNI-FORWARD -s ADDRESS -j ACCEPT", "expected rule [-s 10.1.2.77/32 -j ACCEPT] not found"),
            ("tc qdisc del dev VETH root", "Failed to find qdisc of \"VETH\""),
            ("ip -n ns1 link set eth0 address 02:00:00:00:00:09", "Interface eth0 Mac 02:00:00:00:00:88 doesn't match"),
            (
                "ip netns exec ns1 sysctl -qw net.ipv4.conf.eth0.arp_filter=0",
                "eth0/arp_filter is 1, current value is 0",
            ),
        ],
    );
}

/// What everybody was told to do has been done by the time that ADD is over, in one process.
#[test]
fn better_a_whole_chain_is_one_process() {
    let network = mapped_network().settled();
    let before = State::of(&network.lab);
    let traced = |verb: &str| {
        let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=execve,fork,vfork,clone,clone3"];
        let outcome = network.call(verb).under(&strace).env("PATH", "/usr/bin").run().success();
        let trace = network.lab.read("/run/lab/trace");
        assert_eq!(trace.lines().count(), 1, "{verb}: {trace}");
        outcome
    };
    let result = traced("add").json();
    assert_eq!(result["ips"][0]["address"], "10.1.2.77/24");
    assert_eq!(network.lab.addresses("ns1", "eth0"), ["10.1.2.77/24", "fd00:1:2::77/64"]);
    assert_eq!(network.lab.link_in("ns1", "eth0")["address"], "02:00:00:00:00:88");
    assert!(network.lab.rules().iter().any(|line| line.contains("--dport 8080")));
    assert_eq!(network.lab.ok("tc qdisc show").matches("qdisc tbf").count(), 2);
    network.lab.ok("ip netns exec ns1 ping -c 1 -W 5 10.1.2.1");
    traced("check");
    traced("del");
    before.assert_same(&State::of(&network.lab));
}

#[test]
fn better_del_leaves_nothing_when_the_namespace_is_gone() {
    for network in [routed_network().settled(), mapped_network().settled()] {
        let before = State::of(&network.lab);
        network.call("add").run().result();
        network.lab.ok("ip netns del ns1");
        network.call("del").run().silent();
        wait_for("the end of the pair", || network.lab.veths().is_empty());
        before.assert_host(&State::of(&network.lab));
        network.call("del").run().silent();
    }
}

/// In process the journal takes everything back; programs that have succeeded are asked to delete.
#[test]
fn better_an_add_that_fails_in_the_last_plugin_leaves_everything_as_it_was() {
    let refused = json!({"type": "tuning", "sysctl": {"net.ipv4.nothing": "1"}});
    let dies = json!({"type": "dies"});
    for (last, words) in [(refused, "net/ipv4/nothing"), (dies, "signal: killed")] {
        for (plugins, told) in [(routed(), json!({})), (mapped(), capabilities())] {
            let good = Network::new(host(), &list(&plugins), &told).settled();
            good.lab.executable("/opt/cni/bin/dies", "#!/bin/sh\n[ $CNI_COMMAND = DEL ] || kill -9 $$\n");
            let before = State::of(&good.lab);
            let bad = Network::new(good.lab, &list(&[plugins, vec![last.clone()]].concat()), &told);
            bad.call("add").run().dies_with(&[words]);
            before.assert_same(&State::of(&bad.lab));
            bad.call("del").run().silent();
            before.assert_same(&State::of(&bad.lab));
        }
    }
}

#[test]
fn better_a_chain_killed_before_any_change_of_its_add_is_cleaned_up() {
    let network = mapped_network().settled();
    let before = State::of(&network.lab);
    let untouched = || before.assert_same(&State::of(&network.lab));
    let (lab, add, delete) = (&network.lab, network.call("add"), network.call("del"));
    Trial { lab, add, delete, ioctls: 0, which: every, untouched: &untouched }.suffers(Accident::Killed);
}

#[test]
fn better_a_chain_killed_before_any_change_of_its_del_is_cleaned_up() {
    let network = mapped_network().settled();
    let before = State::of(&network.lab);
    network.call("add").run().result();
    let delete = network.call("del");
    for point in &changing_calls(&network.lab, &delete) {
        network.call("add").run().result();
        assert!(kill_at(&delete, point), "not killed at {point:?}");
        delete.run().silent();
        eprintln!("killed before {point:?}");
        before.assert_same(&State::of(&network.lab));
    }
}
