//! STATUS is asked by runtimes before they start anything: a node whose network plugin says no is not ready. So STATUS may
//! fail only where the next ADD would fail too.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, Outcome, merged};

/// What a host is like, and a plugin that is asked there.
struct Case {
    what: &'static str,
    plugin: &'static str,
    /// Changes to the plugin's configuration; see [`config`].
    changes: Value,
    /// What runtimes add to that with an ADD.
    with_add: Value,
    /// Commands that make the host what it is, after the container was attached for plugins that are chained.
    host: &'static str,
    /// The program that runs the plugin.
    under: &'static [&'static str],
    /// An environment variable for both calls, and one for ADD.
    variables: [(&'static str, &'static str); 2],
}

/// A process without power over the network, as on a kernel that lacks something: what would change it is refused.
const POWERLESS: &[&str] = &["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];

/// A kernel that answers no question about routing rules.
const NO_ANSWERS: &[&str] =
    &["strace", "-qq", "-o", "/dev/null", "-e", "inject=sendto,sendmsg:error=EOPNOTSUPP", "-e", "trace=sendto,sendmsg"];

fn case(what: &'static str, plugin: &'static str, changes: Value) -> Case {
    let variables = [("NOTHING", ""), ("NOTHING", "")];
    Case { what, plugin, changes, with_add: json!({}), host: "true", under: &["env"], variables }
}

impl Case {
    fn on(self, host: &'static str) -> Case {
        Case { host, ..self }
    }

    fn added_with(self, with_add: Value) -> Case {
        Case { with_add, ..self }
    }

    fn under(self, under: &'static [&'static str]) -> Case {
        Case { under, ..self }
    }

    fn with_variable(self, name: &'static str, value: &'static str) -> Case {
        Case { variables: [(name, value), self.variables[1]], ..self }
    }

    fn added_with_args(self, args: &'static str) -> Case {
        Case { variables: [self.variables[0], ("CNI_ARGS", args)], ..self }
    }
}

/// A configuration that works on [`host`]. Every plugin has its own network.
fn config(plugin: &str) -> Value {
    let host_local = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}]]});
    let base = json!({"cniVersion": "1.1.0", "name": "net", "type": plugin});
    let own = match plugin {
        "bridge" => json!({"bridge": "cni0", "isGateway": true, "ipam": host_local}),
        "macvlan" => json!({"master": "m0", "ipam": host_local}),
        "host-device" => json!({"device": "d0", "ipam": host_local}),
        "ptp" | "tap" | "host-local" => json!({"ipam": host_local}),
        "static" => json!({"ipam": {"type": "static", "addresses": [{"address": "10.1.2.9/24"}]}}),
        "dhcp" => json!({"ipam": {"type": "dhcp"}}),
        "flannel" => json!({"delegate": {"isDefaultGateway": true}}),
        "vrf" => json!({"vrfname": "blue"}),
        _ => json!({}),
    };
    merged(base, &own)
}

fn is_chained(plugin: &str) -> bool {
    ["portmap", "firewall", "tuning", "sbr", "bandwidth", "vrf"].contains(&plugin)
}

/// A host with the container `ns1`, cables to a neighbour, and a subnet of flannel's.
fn host() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    let cables = "ip netns add outside; ip link add m0 type veth peer name m1 netns outside; ip link set m0 up
        ip link add d0 type veth peer name d1 netns outside";
    lab.sh(cables).success();
    let subnet = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    lab.write("/run/flannel/subnet.env", subnet);
    lab
}

fn call<'a>(lab: &'a Lab, case: &Case, verb: &str, config: &Value) -> Call<'a> {
    let [both, add] = case.variables;
    let call = lab.plugin(case.plugin).verb(verb).config(config).env(both.0, both.1);
    let call = if verb == "ADD" { call.env(add.0, add.1) } else { call };
    call.under(case.under)
}

/// STATUS on the case's host, and then ADD.
fn ask(case: &Case) -> (Outcome, Outcome) {
    let lab = host();
    let mut config = merged(config(case.plugin), &case.changes);
    let first = crate::status::config("bridge");
    let previous = is_chained(case.plugin).then(|| lab.plugin("bridge").config(&first).run().result());
    lab.sh(case.host).success();
    let status = call(&lab, case, "STATUS", &config).run();
    config = merged(config, &case.with_add);
    if let Some(previous) = previous {
        config["prevResult"] = previous;
    }
    (status, call(&lab, case, "ADD", &config).run())
}

/// The only address of [`full`] is another container's.
const TAKEN: &str = "mkdir -p /var/lib/cni/networks/net; printf 'c9\\r\\neth0' >/var/lib/cni/networks/net/10.1.2.2";

/// /run/ro cannot be written.
const READ_ONLY: &str = "mkdir /run/ro; mount -t tmpfs -o ro tmpfs /run/ro";

/// A range of one address.
fn full() -> Value {
    let small = json!({"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.2", "rangeEnd": "10.1.2.2"});
    json!({"ipam": {"ranges": [[small]]}})
}

fn no_ipam() -> Value {
    json!({"ipam": {"type": "nope"}})
}

/// Of bridge and ptp.
fn masquerading_fails(plugin: &'static str) -> Vec<(Case, i64)> {
    let backend = |name: &str| json!({"ipMasq": true, "ipMasqBackend": name});
    vec![
        (case("masquerading is refused", plugin, json!({"ipMasq": true})).under(POWERLESS), 50),
        (case("masquerading in nftables is refused", plugin, backend("nftables")).under(POWERLESS), 50),
        (case("no such backend", plugin, backend("x")), 999),
        (case("no such flavour", plugin, json!({"ipMasq": true})).with_variable("CNI_BOX_IPTABLES", "x"), 7),
        (case("no such IPAM plugin", plugin, no_ipam()), 999),
        (case("no address is left", plugin, full()).on(TAKEN), 50),
    ]
}

fn interfaces_fail() -> Vec<(Case, i64)> {
    let kernelpath = json!({"device": null, "kernelpath": "/sys/devices/x"});
    vec![
        (case("the spoof check is refused", "bridge", json!({"macspoofchk": true})).under(POWERLESS), 50),
        (case("no master and no default route", "macvlan", json!({"master": null})), 50),
        (case("no such master", "macvlan", json!({"master": "none"})), 50),
        (case("a master that is a loopback device", "macvlan", json!({"master": "lo"})), 50),
        (case("an MTU above the master's", "macvlan", json!({"mtu": 9000})), 50),
        (case("no such mode", "macvlan", json!({"mode": "x"})), 999),
        (case("no address is left", "macvlan", full()).on(TAKEN), 50),
        (case("no driver", "tap", json!({})).on("mount -t tmpfs tmpfs /dev/net"), 50),
        (case("no such IPAM plugin", "tap", no_ipam()), 999),
        (case("no such PCI device", "host-device", json!({"device": null, "pciBusID": "ffff:00:09.0"})), 50),
        (case("no such folder", "host-device", kernelpath), 50),
        (case("no such IPAM plugin", "host-device", no_ipam()), 999),
    ]
}

fn addresses_fail() -> Vec<(Case, i64)> {
    let own = |what, ipam: Value| case(what, "host-local", json!({"ipam": ipam}));
    let left = |what| case(what, "host-local", full()).on(TAKEN);
    let more = json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}});
    let disk = "mkdir /run/small; mount -t tmpfs -o size=4k tmpfs /run/small; head -c 4096 /dev/zero >/run/small/x";
    let no_length = json!({"ipam": {"addresses": [{"address": "10.1.2.9"}]}});
    vec![
        (left("no address is left"), 50),
        (left("no address is left, and one is asked for").added_with_args("IP=10.1.2.2"), 50),
        (left("no address is left, and the runtime has a range").added_with(more), 50),
        (own("no name servers", json!({"resolvConf": "/none"})), 50),
        (own("the folder cannot be written", json!({"dataDir": "/run/ro"})).on(READ_ONLY), 51),
        (own("the folder cannot be made", json!({"dataDir": "/run/ro/x"})).on(READ_ONLY), 51),
        (own("the folder is a file", json!({"dataDir": "/run/x"})).on("touch /run/x"), 51),
        (own("the disk is full", json!({"dataDir": "/run/small"})).on(disk), 51),
        (own("no ranges", json!({"ranges": null})), 999),
        (case("no prefix length", "static", no_length), 999),
        (case("no daemon", "dhcp", json!({})), 50),
    ]
}

fn chained_fail() -> Vec<(Case, i64)> {
    let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let mapping = json!({"runtimeConfig": {"portMappings": mapping}});
    let allowlist = "mkdir -p /etc/cni/tuning; echo x >/etc/cni/tuning/allowlist.conf";
    let forwarding = json!({"sysctl": {"net.ipv4.ip_forward": "1"}});
    vec![
        (case("no such backend", "portmap", json!({"backend": "x"})), 999),
        (case("a mapping is refused", "portmap", mapping).under(POWERLESS), 50),
        (case("rules are refused", "firewall", json!({})).under(POWERLESS), 50),
        (case("rules in nftables are refused", "firewall", json!({"backend": "nftables"})).under(POWERLESS), 50),
        (case("no firewalld", "firewall", json!({"backend": "firewalld"})), 50),
        (case("no such policy", "firewall", json!({"ingressPolicy": "x"})), 999),
        (case("no such flavour", "firewall", json!({})).with_variable("CNI_BOX_IPTABLES", "x"), 7),
        (case("no sysctl of the network", "tuning", json!({"sysctl": {"kernel.x": "1"}})), 50),
        (case("a sysctl that is not allowed", "tuning", forwarding).on(allowlist), 50),
        (case("the folder cannot be made", "tuning", json!({"mtu": 1400, "dataDir": "/run/ro/x"})).on(READ_ONLY), 50),
        (case("no such gateway", "sbr", json!({"gateways": ["x"]})), 50),
        (case("no rules of routing", "sbr", json!({})).under(NO_ANSWERS), 50),
        (case("a burst without a rate", "bandwidth", json!({"ingressBurst": 8000})), 999),
        (case("a limit is refused", "bandwidth", json!({"ingressRate": 8000})).under(POWERLESS), 50),
        (case("an ifb is refused", "bandwidth", json!({"egressRate": 8000})).under(POWERLESS), 50),
        (case("a name that is too long", "vrf", json!({"vrfname": "a-name-that-is-too-long"})), 50),
    ]
}

fn flannel_fails() -> Vec<(Case, i64)> {
    let half = "echo FLANNEL_MTU=1450 >/run/flannel/subnet.env";
    let waiting = json!({"subnetFile": "/none", "waitForSubnetFile": 1});
    vec![
        (case("no subnet", "flannel", json!({"subnetFile": "/none"})), 50),
        (case("no subnet, for which ADD waits", "flannel", waiting), 50),
        (case("half a subnet", "flannel", json!({})).on(half), 50),
        (case("the folder cannot be made", "flannel", json!({"dataDir": "/run/ro/x"})).on(READ_ONLY), 50),
        (case("no such delegate", "flannel", json!({"delegate": {"type": "nope"}})), 50),
        (case("the delegate cannot masquerade", "flannel", json!({"delegate": {"ipMasq": true}})).under(POWERLESS), 50),
    ]
}

fn fail_both(cases: Vec<(Case, i64)>) {
    for (case, code) in cases {
        let (status, add) = ask(&case);
        assert_eq!(status.error().0, code, "{}: {}", case.plugin, case.what);
        assert_eq!(add.code, Some(1), "{}: {}: {add:?}", case.plugin, case.what);
    }
}

#[test]
fn newer_status_fails_only_where_add_fails() {
    for plugin in ["bridge", "ptp"] {
        fail_both(masquerading_fails(plugin));
    }
    for cases in [interfaces_fail(), addresses_fail(), chained_fail(), flannel_fails()] {
        fail_both(cases);
    }
}

/// Addresses and ranges that the runtime names with ADD, and routes through a gateway of theirs.
fn named_with_add() -> Vec<Case> {
    let routes = json!([{"dst": "10.9.0.0/16", "gw": "10.5.0.9"}]);
    let placeholder = json!({"type": "static", "addresses": [{"address": "10.1.2.9/24"}], "routes": routes});
    let beside = json!({"ipam": {"routes": routes}, "capabilities": {"ipRanges": true}});
    let none = json!({"ipam": {"ranges": []}, "capabilities": {"ipRanges": true}});
    let ranges = || json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.5.0.0/24"}]]}});
    let mut cases = vec![
        case("the runtime has ranges beside those there are", "macvlan", beside.clone()).added_with(ranges()),
        case("the runtime has ranges, and the list of them is empty", "macvlan", none.clone()).added_with(ranges()),
        case("the runtime has ranges beside those there are", "ptp", beside).added_with(ranges()),
        case("the runtime has ranges, and the list of them is empty", "bridge", none).added_with(ranges()),
    ];
    for plugin in ["macvlan", "bridge", "tap", "host-device"] {
        let promised = json!({"ipam": placeholder, "capabilities": {"ips": true}});
        let plain = json!({"ipam": placeholder});
        let of_runtime = json!({"runtimeConfig": {"ips": ["10.5.0.7/24"]}});
        let of_args = json!({"args": {"cni": {"ips": ["10.5.0.7/24"]}}});
        cases.push(case("the runtime has the address", plugin, promised).added_with(of_runtime));
        cases.push(case("the arguments have the address", plugin, plain.clone()).added_with(of_args));
        cases.push(case("CNI_ARGS has an address", plugin, plain).added_with_args("IgnoreUnknown=1;IP=10.5.0.7/24"));
    }
    cases
}

/// What looks like trouble, and is none for the next container.
fn both_succeed() -> Vec<Case> {
    let no_ranges = json!({"capabilities": {"ipRanges": true}, "ipam": {"ranges": null}});
    let ranges = json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}});
    let no_addresses = json!({"capabilities": {"ips": true}, "ipam": {"addresses": null}});
    let empty = "mkdir -p /var/lib/cni/networks/net; : >/var/lib/cni/networks/net/10.1.2.2";
    let sysctls_read_only = "echo 1 >/proc/sys/net/ipv4/ip_forward; mount --bind /proc/sys /proc/sys
        mount -o remount,ro,bind /proc/sys";
    let inside = "ip -n ns1 link add m9 type veth peer name m8; ip -n ns1 link set m9 up";
    let dpdk = json!({"device": null, "kernelpath": "/sys/devices/x", "dpdkMode": true});
    let plain = |plugin| case("as usual", plugin, json!({}));
    vec![
        plain("bridge"),
        plain("ptp"),
        plain("macvlan"),
        plain("tap"),
        plain("host-device"),
        plain("static"),
        plain("firewall"),
        plain("sbr"),
        plain("flannel"),
        case("the bridge is missing", "bridge", json!({"bridge": "br9", "ipMasq": true, "macspoofchk": true})),
        case("the bridge is down", "bridge", json!({})).on("ip link add cni0 type bridge"),
        case("sysctls cannot be written", "bridge", json!({})).on(sysctls_read_only),
        case("no iptables, and no need of it", "bridge", json!({})).with_variable("CNI_BOX_IPTABLES", "x"),
        case("no IPAM plugin", "bridge", json!({"ipam": null})),
        case("the master is down", "macvlan", json!({})).on("ip link set m0 down"),
        case("the neighbour is down", "macvlan", json!({})).on("ip -n outside link set m1 down"),
        case("the master is in the container", "macvlan", json!({"master": "m9", "linkInContainer": true})).on(inside),
        case("the default route's interface", "macvlan", json!({"master": null}))
            .on("ip addr add 10.8.0.1/24 dev m0; ip route add default via 10.8.0.2"),
        case("no link is looked for", "host-device", dpdk),
        case("no folder yet", "host-local", json!({"ipam": {"dataDir": "/run/a/b/c"}})),
        case("the runtime has the ranges", "host-local", no_ranges).added_with(ranges),
        case("a crash has left the last address", "host-local", full()).on(empty),
        case("the runtime has the addresses", "static", no_addresses)
            .added_with(json!({"runtimeConfig": {"ips": ["10.1.2.9/24"]}})),
        case("no mapping", "portmap", json!({"capabilities": {"portMappings": true}})).under(POWERLESS),
        case("no mapping, no flavour", "portmap", json!({})).with_variable("CNI_BOX_IPTABLES", "x"),
        case("nothing of the interface is tuned", "tuning", json!({"dataDir": "/run/ro/x"})).on(READ_ONLY),
        case("a sysctl is set already", "tuning", json!({"sysctl": {"net.ipv4.ip_forward": "0"}}))
            .on("mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys"),
        case("no limits", "bandwidth", json!({"capabilities": {"bandwidth": true}})).under(POWERLESS),
        case("one limit", "bandwidth", json!({"ingressRate": 8_000_000})),
        case("no folder yet, and no waiting", "flannel", json!({"dataDir": "/run/a/b", "waitForSubnetFile": 5})),
    ]
}

#[test]
fn newer_status_succeeds_where_the_next_add_does() {
    for case in both_succeed().into_iter().chain(named_with_add()) {
        let (status, add) = ask(&case);
        eprintln!("{}: {}", case.plugin, case.what);
        status.silent();
        add.result();
    }
}

/// As many network namespaces as there may be, in a user namespace of its own.
const NO_MORE_NAMESPACES: &str = r#"
    mount -t tmpfs tmpfs /run; mkdir /run/netns; ip netns add ns1
    export CNI_PATH=/opt/cni/bin CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=/run/netns/ns1
    config() { printf '{"cniVersion": "1.1.0", "name": "net", "type": "x", %s}' "$1"; }
    ptp='"ipam": {"type": "static", "addresses": [{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}]}'
    result=$(config "$ptp" | CNI_COMMAND=ADD /opt/cni/bin/ptp)
    echo 2 >/proc/sys/user/max_net_namespaces
    ! unshare -n true
    config '"ingressRate": 8000000' | CNI_COMMAND=STATUS /opt/cni/bin/bandwidth
    config "\"ingressRate\": 8000000, \"prevResult\": $result" | CNI_COMMAND=ADD /opt/cni/bin/bandwidth >/dev/null
"#;

#[test]
fn newer_status_needs_no_namespace_of_its_own() {
    let lab = Lab::new();
    lab.run(&["unshare", "-Urnm", "sh", "-ec", NO_MORE_NAMESPACES]).silent();
}

/// A list as runtimes have it, on a node where nothing but its bridge is needed.
#[test]
fn newer_cnitool_says_of_a_list_what_its_add_does() {
    let list = |ipam: &str| {
        let bridge = json!({"type": "bridge", "ipam": {"type": ipam, "subnet": "10.1.2.0/24"}});
        let rest = ["portmap", "firewall", "tuning", "bandwidth"].map(|plugin| json!({"type": plugin}));
        let plugins: Vec<Value> = std::iter::once(bridge).chain(rest).collect();
        json!({"cniVersion": "1.1.0", "name": "net", "plugins": plugins}).to_string()
    };
    for (ipam, works) in [("host-local", true), ("nope", false)] {
        let lab = host();
        lab.write("/etc/cni/net.d/net.conflist", list(ipam));
        for arguments in [&["status", "net"][..], &["add", "net", "/var/run/netns/ns1"]] {
            let outcome = lab.cnitool(arguments).run();
            assert_eq!(outcome.code == Some(0), works, "{arguments:?}: {outcome:?}");
        }
    }
}
