//! Leases of interfaces that the container renames, swaps, moves or replaces.

use serde_json::{Value, json};

use crate::dhcp::{Network, POOL, address, config, with_dhcp};
use crate::lab::frames::Sniffer;
use crate::lab::{merged, wait_for};

/// A network whose leases are renewed after a second, and end after these seconds without a server.
fn network(seconds: u32) -> Network {
    renewing(seconds, 1)
}

/// The same with leases that are renewed after so many seconds.
fn renewing(seconds: u32, after: u32) -> Network {
    let mut network = Network::new();
    network.start_kea(POOL, [seconds, after, seconds - 1]);
    network.start_daemon(&["-timeout=4s"]);
    network
}

/// How often the daemon has renewed a container's lease of this interface.
fn renewals(network: &Network, n: usize, ifname: &str) -> usize {
    let line = format!("c{n}/net/{ifname}: lease renewed");
    network.log().lines().filter(|told| told.starts_with(&line)).count()
}

fn is_renewed(network: &Network, n: usize, ifname: &str) {
    let before = renewals(network, n, ifname);
    wait_for(&format!("a renewal of {ifname}"), || renewals(network, n, ifname) > before);
}

/// The flags of a link in `ns1`.
fn is_up(network: &Network, link: &str) -> bool {
    network.lab.link_in("ns1", link)["flags"].as_array().unwrap().contains(&json!("UP"))
}

fn inside(network: &Network, words: &str) {
    network.lab.ok(&format!("ip -n ns1 {words}"));
}

/// Container 1 with a lease, and its address on `eth0`.
fn attached(network: &Network) -> String {
    let address = address(&network.container(1).run().result());
    inside(network, &format!("addr add {address} dev eth0"));
    address
}

/// A link of the container's own that has the name of the renamed interface.
fn add_decoy(network: &Network) {
    inside(network, "link add eth0 type veth peer name decoy");
    inside(network, "link set eth0 up");
    inside(network, "link set decoy up");
}

fn release(network: &Network) {
    network.call(1).verb("DEL").run().silent();
    wait_for("the server to hear of the release", || network.said("DHCP4_RELEASE ") == 1);
}

#[test]
fn better_a_renamed_interface_keeps_its_lease_and_del_gives_it_back() {
    let network = network(60);
    attached(&network);
    inside(&network, "link set eth0 name lan7");
    is_renewed(&network, 1, "eth0");
    network.wait_for_log(1, "interface \"eth0\" is called \"lan7\" now");
    // The plugin that made the interface would say so, too.
    network.call(1).verb("CHECK").run().fails_with(999, &["error looking up \"eth0\": Link not found"]);
    assert!(is_up(&network, "lan7"));
    release(&network);
    // No plugin has removed the interface, and its address is free for others now.
    assert!(!is_up(&network, "lan7"));
    assert_eq!(network.records(), 0);
}

#[test]
fn better_a_link_that_takes_the_old_name_gets_none_of_the_lease() {
    let mut network = network(60);
    attached(&network);
    inside(&network, "link set eth0 name lan7");
    add_decoy(&network);
    is_renewed(&network, 1, "eth0");
    network.kill_daemon();
    network.start_daemon(&["-timeout=4s"]);
    let sniffer = Sniffer::on(&network.lab, "ns1", "decoy");
    is_renewed(&network, 1, "eth0");
    release(&network);
    assert!(is_up(&network, "eth0") && !is_up(&network, "lan7"));
    assert_eq!(sniffer.frames(), [], "on a link that the container has made");
}

#[test]
fn better_two_interfaces_that_swap_names_keep_their_leases() {
    let network = network(60);
    let first = attached(&network);
    network.lab.ok("ip link add w1 master cni0 up type veth peer name eth1 netns ns1");
    let second = address(&network.call(1).ifname("eth1").run().result());
    inside(&network, &format!("addr add {second} dev eth1"));
    for [from, to] in [["eth0", "spare"], ["eth1", "eth0"], ["spare", "eth1"]] {
        inside(&network, &format!("link set {from} name {to}"));
    }
    for (ifname, address) in [("eth0", first), ("eth1", second)] {
        is_renewed(&network, 1, ifname);
        let address = address.replace("/16", "");
        let of_this = |line: &str| line.starts_with(&format!("c1/net/{ifname}: lease renewed"));
        let log = network.log();
        let last = log.lines().rfind(|line| of_this(line)).unwrap();
        assert!(last.contains(&format!("renewed, {address} from")), "{last}");
    }
}

#[test]
fn better_a_renamed_interface_goes_down_when_its_lease_ends() {
    let mut network = network(5);
    attached(&network);
    inside(&network, "link set eth0 name lan7");
    add_decoy(&network);
    is_renewed(&network, 1, "eth0");
    network.stop_server();
    let network = &network;
    network.wait_for_log(1, "lease expired, bringing interface DOWN");
    wait_for("the link to be down", || !is_up(network, "lan7"));
    assert!(is_up(network, "eth0"), "a link that the container has made");
    assert_eq!(network.records(), 0);
}

#[test]
fn better_a_renamed_interface_is_known_by_its_address_when_the_hardware_address_changes() {
    // Not while an answer is awaited, which would come to the address of old.
    let network = renewing(60, 4);
    attached(&network);
    inside(&network, "link set eth0 address 02:00:00:00:00:07");
    inside(&network, "link set eth0 name lan7");
    is_renewed(&network, 1, "eth0");
    inside(&network, "addr flush dev lan7");
    inside(&network, "link set lan7 address 02:00:00:00:00:08");
    network.wait_for_log(1, "\"lan7\" has another hardware address, 02:00:00:00:00:08: the lease is not kept any more");
}

/// The kernel takes the addresses of a link that is moved.
#[test]
fn better_the_lease_of_an_interface_that_is_moved_on_ends() {
    let network = network(60);
    attached(&network);
    network.lab.netns("nested");
    inside(&network, "link set eth0 name lan7");
    inside(&network, "link set lan7 netns nested");
    add_decoy(&network);
    network.wait_for_log(1, "error looking up \"eth0\": Link not found: the lease is not kept any more");
    assert_eq!((network.records(), network.lab.addresses("nested", "lan7").len()), (0, 0));
    network.call(1).verb("DEL").run().silent();
    assert!(is_up(&network, "eth0"));
}

/// Another container's interface may get an index that was free.
#[test]
fn better_another_link_with_the_index_of_old_gets_none_of_the_lease() {
    let network = network(60);
    attached(&network);
    let index = network.lab.link_in("ns1", "eth0")["ifindex"].to_string();
    inside(&network, "link delete eth0");
    inside(&network, &format!("link add name eth0 index {index} type veth peer name decoy"));
    inside(&network, "link set eth0 up");
    inside(&network, "link set decoy up");
    let sniffer = Sniffer::on(&network.lab, "ns1", "decoy");
    network.wait_for_log(1, "\"eth0\" has another hardware address");
    assert_eq!((sniffer.frames(), network.records()), (Vec::new(), 0));
    assert!(is_up(&network, "eth0"));
}

/// The container still has the interface of an earlier ADD when the next asks for the same name.
#[test]
fn better_the_address_of_a_renamed_interface_goes_with_the_lease_to_the_next() {
    let network = network(60);
    let first = attached(&network);
    inside(&network, "link set eth0 name lan7");
    network.lab.ok("ip link add w1 master cni0 up type veth peer name eth0 netns ns1");
    assert_eq!(address(&network.call(1).run().result()), first, "the client id is the same");
    network.wait_for_log(1, "a new lease replaces the old one");
    assert!(is_up(&network, "eth0") && !is_up(&network, "lan7"));
    is_renewed(&network, 1, "eth0");
    network.call(1).verb("CHECK").run().silent();
}

/// Each plugin whose devices this kernel has: DEL gives the lease back over the renamed interface,
/// then removes the interface or brings it home.
#[test]
fn better_del_of_a_plugin_gives_the_lease_of_its_renamed_interface_back() {
    let network = Network::with_dnsmasq(&[]);
    network.lab.netns("ns9");
    network.lab.ok("ip link add m0 up type veth peer name m1");
    network.lab.ok("ip link set m1 master cni0 up");
    network.lab.ok("ip link add hd0 type veth peer name hd1");
    network.lab.ok("ip link set hd1 master cni0 up");
    let of = |kind: &str, changes: &Value| with_dhcp(&merged(json!({"type": kind, "bridge": null}), changes));
    let configs = [
        ("bridge", with_dhcp(&json!({}))),
        ("macvlan", of("macvlan", &json!({"master": "m0"}))),
        ("host-device", of("host-device", &json!({"device": "hd0"}))),
    ];
    for (plugin, config) in configs {
        let call = network.of_container(network.lab.plugin(plugin).config(&config), 9);
        let result = call.run().result();
        network.lab.ok("ip -n ns9 link set eth0 name lan7");
        call.config(&merged(config, &json!({"prevResult": result}))).verb("DEL").run().silent();
        wait_for("the server to hear of the release", || network.leases() == 0);
        assert!(network.lab.link_in("ns9", "lan7").is_null(), "{plugin}");
    }
    assert!(!network.lab.link("hd0").is_null());
}

#[test]
fn better_a_lease_that_the_go_plugin_asked_for_outlives_the_name() {
    let network = network(60);
    network.containers(1..2);
    let call = network.of_container(network.lab.reference("dhcp").config(&config(&json!({}))), 1);
    let address = address(&call.run().result());
    inside(&network, &format!("addr add {address} dev eth0"));
    inside(&network, "link set eth0 name lan7");
    is_renewed(&network, 1, "eth0");
    call.verb("DEL").run().silent();
    wait_for("the server to hear of the release", || network.said("DHCP4_RELEASE ") == 1);
}
