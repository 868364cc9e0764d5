//! Routes that servers send in odd but legal forms: ADD makes them as other clients do, and CHECK
//! is content.

use serde_json::{Value, json};

use crate::bridge::reaches;
use crate::dhcp::{Network, with_dhcp};
use crate::lab::{Call, PLUGINS, bridge_config, merged, new_reference_dir};

/// The address 10.1.2.2/32: the server's own network does not lead to it.
const ALONE: &str = "--dhcp-option=1,255.255.255.255";
const TO_ROUTER: &str = "10.1.0.1 dev eth0 scope link";
const DEFAULT: &str = "default via 10.1.0.1 dev eth0";

/// A network whose server sends these options.
fn network(options: &[&str]) -> Network {
    let network = Network::with_dnsmasq(options);
    network.lab.netns("ns9");
    network.lab.ok("ip link add m0 up type veth peer name m1");
    network.lab.ok("ip link set m1 master cni0 up");
    network
}

/// `ipam` that asks for the options of routes.
fn ipam() -> Value {
    let options = ["3", "1", "33", "121", "249"];
    let request: Vec<Value> = options.iter().map(|code| json!({ "option": code })).collect();
    json!({"ipam": {"type": "dhcp", "request": request}})
}

fn macvlan() -> Value {
    merged(with_dhcp(&json!({"type": "macvlan", "bridge": null, "master": "m0"})), &ipam())
}

/// The routes of `ns9` in the order of `ip route`, without those that the kernel makes by itself.
fn routes(network: &Network) -> Vec<String> {
    let routes = network.lab.routes("ns9", "");
    routes.into_iter().filter(|route| !route.contains("proto kernel")).collect()
}

/// ADD, CHECK and DEL; the routes in between, and those of the result.
fn attached(network: &Network, call: Call<'_>, config: &Value) -> (Vec<String>, Value) {
    let call = network.of_container(call.config(config), 9);
    let result = call.run().result();
    let made = routes(network);
    let attached = call.config(&merged(config.clone(), &json!({"prevResult": result})));
    attached.clone().verb("CHECK").run().silent();
    attached.verb("DEL").run().silent();
    (made, result["routes"].clone())
}

/// The routes of every plugin whose devices this kernel has are these; the result of the last.
fn all_make(options: &[&str], expected: &[&str]) -> Value {
    let network = network(options);
    network.lab.ok("ip link add hd0 type veth peer name hd1");
    network.lab.ok("ip link set hd1 master cni0 up");
    let host_device = with_dhcp(&json!({"type": "host-device", "bridge": null, "device": "hd0"}));
    let configs = [
        ("bridge", merged(with_dhcp(&json!({})), &ipam())),
        ("host-device", merged(host_device, &ipam())),
        ("macvlan", macvlan()),
    ];
    let made = configs.map(|(plugin, config)| {
        let (made, told) = attached(&network, network.lab.plugin(plugin), &config);
        assert_eq!(made, expected, "{plugin}");
        told
    });
    made.into_iter().next_back().unwrap()
}

#[test]
fn better_a_router_outside_the_addresss_network_is_reached_over_the_link() {
    all_make(&[ALONE], &[DEFAULT, TO_ROUTER]);
    all_make(&["--dhcp-option=1,255.255.255.0"], &[DEFAULT, TO_ROUTER]);
}

/// As some hosters send it: the router on the link, and the default route through it, in any order.
/// (dnsmasq puts its own address for 0.0.0.0, but not into numbers.)
#[test]
fn better_the_route_to_the_router_may_stand_anywhere() {
    let [on_link, by_itself, default] = ["20:0a:01:00:01:00:00:00:00", "20:0a:01:00:01:0a:01:00:01", "00:0a:01:00:01"];
    for given in [[on_link, default], [default, on_link], [by_itself, default]] {
        let given = format!("--dhcp-option-force=121,{}", given.join(":"));
        let told = all_make(&[ALONE, &given], &[DEFAULT, TO_ROUTER]);
        let on_link = json!({"dst": "10.1.0.1/32", "gw": "0.0.0.0", "scope": 253});
        assert_eq!(told, json!([on_link, {"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]));
    }
}

/// 172.31.0.0/12 twice, and once more without its host bits; the default route twice.
#[test]
fn better_host_bits_and_repetitions_do_no_harm() {
    let given = "0c:ac:1f:0a:01:00:09:0c:ac:1f:0a:01:00:09:0c:ac:10:0a:01:00:09:00:0a:01:00:01:00:0a:01:00:01";
    let expected = [DEFAULT, "172.16.0.0/12 via 10.1.0.9 dev eth0"];
    all_make(&[&format!("--dhcp-option-force=121,{given}")], &expected);
    all_make(&[&format!("--dhcp-option-force=249,{given}")], &expected);
}

/// A network, a host, and the network again. (dnsmasq sends no default route, which is illegal there.)
#[test]
fn better_static_routes_lead_to_networks_and_hosts() {
    let given = "--dhcp-option-force=33,172.20.0.0,10.1.0.8,192.168.7.9,10.1.0.9,172.20.0.0,10.1.0.8";
    let expected = [DEFAULT, "172.20.0.0/16 via 10.1.0.8 dev eth0", "192.168.7.9 via 10.1.0.9 dev eth0"];
    all_make(&[given, "--dhcp-option=3,10.1.0.1,10.1.0.2"], &expected);
}

#[test]
fn better_traffic_passes_by_a_router_outside_the_network() {
    let network = network(&[ALONE]);
    let call = network.of_container(network.lab.plugin("macvlan").config(&macvlan()), 9);
    call.run().result();
    network.lab.ok("ip -n lan route add 10.1.2.0/24 dev lan0");
    reaches(&network.lab, "ns9", "10.1.0.1");
}

/// The Go interface plugin with our dhcp: it makes what the result says.
#[test]
fn newer_the_go_plugin_makes_the_routes_of_our_result() {
    let network = network(&[ALONE]);
    let config = merged(macvlan(), &json!({"cniVersion": "1.1.0"}));
    let mixed = network.lab.path("/run/mixed");
    std::fs::create_dir(&mixed).unwrap();
    for (name, folder) in [("macvlan", new_reference_dir()), ("dhcp", PLUGINS.to_string())] {
        std::os::unix::fs::symlink(format!("{folder}/{name}"), mixed.join(name)).unwrap();
    }
    let call = network.of_container(Call::plugin(&network.lab, "/run/mixed", "macvlan").config(&config), 9);
    let result = call.run().result();
    assert_eq!(routes(&network), [DEFAULT, TO_ROUTER]);
    // Ours takes over what the Go plugin has made.
    let attached = merged(config, &json!({"prevResult": result}));
    let ours = network.of_container(network.lab.plugin("macvlan").config(&attached), 9);
    ours.clone().verb("CHECK").run().silent();
    ours.verb("DEL").run().silent();
}

/// The same gateways in configurations.
#[test]
fn better_a_gateway_that_is_none_stands_for_the_link() {
    let network = network(&[]);
    let addresses = json!([{"address": "10.9.0.2/32"}, {"address": "fd09::2/128"}]);
    let given = json!([{"dst": "10.8.0.0/16", "gw": "0.0.0.0"}, {"dst": "fd08::/64", "gw": "::"}]);
    let config =
        bridge_config(&json!({"ipam": {"type": "static", "subnet": null, "addresses": addresses, "routes": given}}));
    let call = network.of_container(network.lab.plugin("bridge").config(&config), 9);
    let result = call.run().result();
    assert_eq!(routes(&network).len(), 1, "{:?}", routes(&network));
    assert!(routes(&network)[0].starts_with("10.8.0.0/16 dev eth0"), "{:?}", routes(&network));
    let six = network.lab.routes("ns9", "-6");
    assert!(six.iter().any(|route| route.starts_with("fd08::/64 dev eth0")), "{six:?}");
    call.config(&merged(config, &json!({"prevResult": result}))).verb("CHECK").run().silent();
}
