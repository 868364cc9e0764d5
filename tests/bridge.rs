//! bridge: every key of `interfaces.md`, seen in the kernel and by traffic.

use serde_json::{Value, json};

use crate::lab::{Lab, Outcome, bridge_config, wait_for};

/// A host with the namespace `ns1`.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab
}

/// ADD of `eth0` in `ns1` with these changes to the usual configuration.
fn add(lab: &Lab, changes: &Value) -> Outcome {
    lab.plugin("bridge").config(&bridge_config(changes)).run()
}

/// Name of the host's end in a result.
fn host_veth(result: &Value) -> String {
    result["interfaces"][1]["name"].as_str().unwrap().to_string()
}

fn sysctl(lab: &Lab, netns: &str, path: &str) -> String {
    let place = if netns.is_empty() { String::new() } else { format!("ip netns exec {netns} ") };
    lab.ok(&format!("{place}cat /proc/sys/{path}")).trim().to_string()
}

/// Pings from a namespace (empty: the host) until it works.
fn reaches(lab: &Lab, netns: &str, address: &str) {
    let command: Vec<_> = ["ip", "netns", "exec", netns].into_iter().filter(|_| !netns.is_empty()).collect();
    let command = [command, vec!["ping", "-n", "-c", "1", "-W", "1", address]].concat();
    wait_for(&format!("{command:?}"), || lab.run(&command).code == Some(0));
}

#[test]
fn add_connects_a_veth_pair_to_a_bridge_that_it_makes() {
    let lab = lab();
    let result = add(&lab, &json!({})).result();
    let names: Vec<_> = result["interfaces"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, [json!("cni0"), json!(host_veth(&result)), json!("eth0")]);
    assert_eq!(result["interfaces"][2]["sandbox"], "/var/run/netns/ns1");
    assert_eq!(result["ips"], json!([{"address": "10.1.2.2/24", "gateway": "10.1.2.1", "interface": 2}]));
    let (bridge, veth) = (lab.link("cni0"), lab.link(&host_veth(&result)));
    assert_eq!(bridge["linkinfo"]["info_kind"], "bridge");
    assert_eq!((&veth["master"], &veth["operstate"]), (&json!("cni0"), &json!("UP")));
    assert_eq!(lab.link_in("ns1", "eth0")["operstate"], "UP");
    assert_eq!(lab.addresses("ns1", "eth0"), ["10.1.2.2/24"]);
    assert_eq!(lab.addresses("", "cni0"), [""; 0], "no gateway was asked for");
}

#[test]
fn the_result_names_the_macs_that_the_kernel_has() {
    let lab = lab();
    let result = add(&lab, &json!({"isGateway": true})).result();
    let links = [lab.link("cni0"), lab.link(&host_veth(&result)), lab.link_in("ns1", "eth0")];
    for (entry, link) in result["interfaces"].as_array().unwrap().iter().zip(links) {
        assert_eq!(entry["mac"], link["address"]);
    }
}

#[test]
fn the_hosts_end_has_a_random_name_and_the_kernels_ipv6_stays_deaf_to_routers() {
    let lab = lab();
    let veth = host_veth(&add(&lab, &json!({})).result());
    assert_eq!(crate::lab::without_random_names(&veth), "VETH");
    for link in ["cni0", &veth] {
        assert_eq!(sysctl(&lab, "", &format!("net/ipv6/conf/{link}/accept_ra")), "0", "{link}");
    }
    assert_eq!(sysctl(&lab, "ns1", "net/ipv4/conf/eth0/arp_notify"), "1");
}

#[test]
fn a_gateway_is_an_address_of_the_bridge_and_the_host_forwards() {
    let lab = lab();
    let result = add(&lab, &json!({"isGateway": true})).result();
    assert_eq!(lab.addresses("", "cni0"), ["10.1.2.1/24"]);
    assert_eq!(sysctl(&lab, "", "net/ipv4/ip_forward"), "1");
    assert_eq!(sysctl(&lab, "", "net/ipv6/conf/all/forwarding"), "0");
    assert_eq!(result.get("routes"), None);
    reaches(&lab, "", "10.1.2.2");
    reaches(&lab, "ns1", "10.1.2.1");
}

#[test]
fn a_gateway_is_computed_when_ipam_names_none() {
    let lab = lab();
    let ipam = json!({"type": "static", "subnet": null, "addresses": [{"address": "10.7.3.9/16"}]});
    let result = add(&lab, &json!({"isGateway": true, "ipam": ipam})).result();
    assert_eq!(result["ips"], json!([{"address": "10.7.3.9/16", "gateway": "10.7.0.1", "interface": 2}]));
    assert_eq!(lab.addresses("", "cni0"), ["10.7.0.1/16"]);
}

#[test]
fn the_bridges_mac_does_not_follow_its_ports() {
    let lab = lab();
    let result = add(&lab, &json!({"isGateway": true})).result();
    let mac = lab.link("cni0")["address"].clone();
    assert_eq!(result["interfaces"][0]["mac"], mac);
    for name in ["ns2", "ns3", "ns4"] {
        let netns = lab.netns(name);
        let call = lab.plugin("bridge").container(name).netns(&netns);
        call.config(&bridge_config(&json!({"isGateway": true}))).run().result();
        assert_eq!(lab.link("cni0")["address"], mac);
    }
    lab.plugin("bridge").verb("DEL").config(&bridge_config(&json!({"isGateway": true}))).run().silent();
    assert_eq!(lab.link("cni0")["address"], mac);
}

#[test]
fn a_default_gateway_adds_the_default_route() {
    let lab = lab();
    let result = add(&lab, &json!({"isDefaultGateway": true})).result();
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}]));
    assert_eq!(lab.addresses("", "cni0"), ["10.1.2.1/24"]);
    let routes = ["default via 10.1.2.1 dev eth0", "10.1.2.0/24 dev eth0 proto kernel scope link src 10.1.2.2"];
    assert_eq!(lab.routes("ns1", "-4"), routes);
}

#[test]
fn a_default_route_of_ipam_with_a_gateway_is_kept() {
    let lab = lab();
    let ipam = json!({"routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.254"}]});
    let result = add(&lab, &json!({"isDefaultGateway": true, "ipam": ipam})).result();
    assert_eq!(result["routes"], ipam["routes"]);
    assert_eq!(lab.routes("ns1", "-4")[0], "default via 10.1.2.254 dev eth0");
}

#[test]
fn better_a_default_route_of_ipam_without_a_gateway_gets_the_bridges() {
    let lab = lab();
    let ipam = json!({"routes": [{"dst": "0.0.0.0/0"}]});
    add(&lab, &json!({"isDefaultGateway": true, "ipam": ipam})).result();
    let routes = lab.routes("ns1", "-4");
    assert_eq!(routes.iter().filter(|route| route.starts_with("default")).count(), 1, "{routes:?}");
    assert_eq!(routes[0], "default via 10.1.2.1 dev eth0");
}

#[test]
fn another_address_on_the_bridge_is_an_error_unless_forced() {
    let lab = lab();
    lab.ok("ip link add cni0 address 02:00:00:00:00:01 type bridge");
    lab.ok("ip addr add 10.99.0.1/24 dev cni0");
    let text = "failed to set bridge addr: \"cni0\" already has an IP address different from 10.1.2.1/24";
    add(&lab, &json!({"isGateway": true})).fails(999, text);
    assert_eq!(lab.addresses("", "cni0"), ["10.99.0.1/24"]);
    lab.run(&["ip", "-n", "ns1", "link", "del", "eth0"]);
    add(&lab, &json!({"isGateway": true, "forceAddress": true})).result();
    assert_eq!(lab.addresses("", "cni0"), ["10.1.2.1/24"]);
}

#[test]
fn better_a_bridge_without_ports_and_without_a_pinned_mac_becomes_a_gateway() {
    let lab = lab();
    lab.plugin("bridge").config(&bridge_config(&json!({}))).run().result();
    lab.plugin("bridge").verb("DEL").config(&bridge_config(&json!({}))).run().silent();
    let result = add(&lab, &json!({"isGateway": true})).result();
    let mac = lab.link("cni0")["address"].clone();
    assert_ne!(mac, "00:00:00:00:00:00");
    assert_eq!(result["interfaces"][0]["mac"], mac);
    lab.plugin("bridge").verb("DEL").config(&bridge_config(&json!({"isGateway": true}))).run().silent();
    assert_eq!(lab.link("cni0")["address"], mac, "it is pinned now");
}

#[test]
fn mtu_reaches_a_new_bridge_and_both_ends() {
    let lab = lab();
    let result = add(&lab, &json!({"mtu": 1400})).result();
    for link in [lab.link("cni0"), lab.link(&host_veth(&result)), lab.link_in("ns1", "eth0")] {
        assert_eq!(link["mtu"], 1400, "{link}");
    }
}

#[test]
fn a_bridge_that_exists_keeps_its_mtu() {
    let lab = lab();
    lab.ok("ip link add cni0 mtu 1450 type bridge");
    lab.ok("ip link add p0 mtu 1450 type veth peer name p1");
    lab.ok("ip link set p0 master cni0");
    let result = add(&lab, &json!({})).result();
    assert_eq!(lab.link("cni0")["mtu"], 1450);
    assert_eq!(lab.link(&host_veth(&result))["mtu"], 1500);
}

#[test]
fn hairpin_mode_is_a_flag_of_the_port_and_lets_a_container_reach_itself() {
    let lab = lab();
    for hairpin in [true, false] {
        let changes = json!({"hairpinMode": hairpin});
        let veth = host_veth(&add(&lab, &changes).result());
        assert_eq!(lab.link(&veth)["linkinfo"]["info_slave_data"]["hairpin"], hairpin);
        lab.plugin("bridge").verb("DEL").config(&bridge_config(&changes)).run().silent();
    }
}

#[test]
fn newer_promisc_mode_is_a_flag_of_the_bridge_and_excludes_hairpin() {
    let lab = lab();
    let text = "cannot set hairpin mode and promiscuous mode at the same time";
    add(&lab, &json!({"hairpinMode": true, "promiscMode": true})).fails(999, text);
    assert_eq!(lab.link("cni0"), Value::Null);
    add(&lab, &json!({"promiscMode": true})).result();
    assert!(lab.link("cni0")["flags"].as_array().unwrap().contains(&json!("PROMISC")));
}

#[test]
fn newer_duplicate_address_detection_is_off_unless_enabled() {
    let lab = lab();
    for (enabled, value) in [(json!(null), "0"), (json!(true), "1")] {
        let config = bridge_config(&json!({"enabledad": enabled}));
        lab.plugin("bridge").config(&config).run().result();
        assert_eq!(sysctl(&lab, "ns1", "net/ipv6/conf/eth0/accept_dad"), value);
        lab.plugin("bridge").verb("DEL").config(&config).run().silent();
    }
}

#[test]
fn newer_the_containers_end_may_stay_down() {
    let lab = lab();
    let text = "cannot use IPAM when DisableContainerInterface flag is set";
    add(&lab, &json!({"disableContainerInterface": true})).fails(999, text);
    let result = add(&lab, &json!({"disableContainerInterface": true, "ipam": null})).result();
    assert_eq!(result.get("ips"), None);
    assert_eq!(lab.link_in("ns1", "eth0")["operstate"], "DOWN");
}

#[test]
fn the_containers_mac_comes_from_runtime_then_args_then_cni_args() {
    let lab = lab();
    let runtime = json!({"runtimeConfig": {"mac": "02:00:00:00:00:03"}, "args": {"cni": {"mac": "02:00:00:00:00:02"}}});
    let args = json!({"args": {"cni": {"mac": "02-00-00-00-00-02"}}});
    for (changes, mac) in
        [(runtime, "02:00:00:00:00:03"), (args, "02:00:00:00:00:02"), (json!({}), "02:00:00:00:00:01")]
    {
        let call = lab.plugin("bridge").config(&bridge_config(&changes)).args("MAC=02:00:00:00:00:01;IgnoreUnknown=1");
        let result = call.run().result();
        assert_eq!(result["interfaces"][2]["mac"], mac);
        assert_eq!(lab.link_in("ns1", "eth0")["address"], mac);
        call.verb("DEL").run().silent();
    }
}

#[test]
fn a_mac_that_is_none_is_refused() {
    let lab = lab();
    for mac in ["zz", "02:00:00:00:00", "02:00:00:00:00:01:02:03:04"] {
        let config = bridge_config(&json!({"runtimeConfig": {"mac": mac}}));
        lab.plugin("bridge").config(&config).run().fails_with(999, &[mac]);
        assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
    }
}

#[test]
fn newer_dns_comes_from_the_configuration_if_it_says_anything_and_else_from_ipam() {
    let lab = lab();
    lab.write("/run/lab/resolv.conf", "nameserver 192.0.2.53\n");
    let ipam = json!({"resolvConf": "/run/lab/resolv.conf"});
    let theirs = json!({"nameservers": ["192.0.2.53"]});
    let own = json!({"nameservers": ["192.0.2.1"], "search": ["example"]});
    for (dns, expected) in [(json!({}), theirs), (own.clone(), own), (json!({"search": []}), json!(null))] {
        let config = bridge_config(&json!({"ipam": ipam, "dns": dns}));
        let result = lab.plugin("bridge").config(&config).run().result();
        let found = result.get("dns").filter(|dns| **dns != json!({})).cloned().unwrap_or_default();
        assert_eq!(found, expected, "{dns}");
        lab.plugin("bridge").verb("DEL").config(&config).run().silent();
    }
}

#[test]
fn without_ipam_it_is_a_cable() {
    let lab = lab();
    for ipam in [json!(null), json!({"type": "", "subnet": null})] {
        let config = bridge_config(&json!({"ipam": ipam}));
        let result = lab.plugin("bridge").config(&config).run().result();
        assert_eq!((result.get("ips"), result.get("routes")), (None, None));
        assert_eq!(lab.link_in("ns1", "eth0")["operstate"], "UP");
        lab.plugin("bridge").verb("DEL").config(&config).run().silent();
        assert_eq!(lab.veths(), [""; 0]);
    }
}

#[test]
fn ipv6_alone() {
    let lab = lab();
    let ipam = json!({"subnet": "fd00:1:2::/64"});
    let result = add(&lab, &json!({"isDefaultGateway": true, "ipam": ipam})).result();
    assert_eq!(result["ips"], json!([{"address": "fd00:1:2::2/64", "gateway": "fd00:1:2::1", "interface": 2}]));
    assert_eq!(result["routes"], json!([{"dst": "::/0", "gw": "fd00:1:2::1"}]));
    assert_eq!(lab.addresses("ns1", "eth0"), ["fd00:1:2::2/64"]);
    assert_eq!(lab.addresses("", "cni0"), ["fd00:1:2::1/64"]);
    assert_eq!(sysctl(&lab, "", "net/ipv6/conf/all/forwarding"), "1");
    reaches(&lab, "ns1", "fd00:1:2::1");
    reaches(&lab, "", "fd00:1:2::2");
}

#[test]
fn newer_ipv6_addresses_survive_the_link_going_down() {
    let lab = lab();
    add(&lab, &json!({"ipam": {"subnet": "fd00:1:2::/64"}})).result();
    assert_eq!(sysctl(&lab, "ns1", "net/ipv6/conf/eth0/keep_addr_on_down"), "1");
    lab.ok("ip -n ns1 link set eth0 down");
    assert_eq!(lab.addresses("ns1", "eth0"), ["fd00:1:2::2/64"]);
}

#[test]
fn ipv6_is_switched_on_where_it_was_off() {
    let lab = lab();
    lab.sh("ip netns exec ns1 sh -c 'echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
        echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6'")
        .success();
    add(&lab, &json!({"ipam": {"subnet": "fd00:1:2::/64"}})).result();
    assert_eq!(sysctl(&lab, "ns1", "net/ipv6/conf/eth0/disable_ipv6"), "0");
    assert_eq!(lab.addresses("ns1", "eth0"), ["fd00:1:2::2/64"]);
}

#[test]
fn dual_stack() {
    let lab = lab();
    let ipam = json!({"subnet": null, "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]});
    let changes = json!({"isDefaultGateway": true, "ipam": ipam});
    let result = add(&lab, &changes).result();
    assert_eq!(lab.addresses("ns1", "eth0"), ["10.1.2.2/24", "fd00:1:2::2/64"]);
    assert_eq!(lab.addresses("", "cni0"), ["10.1.2.1/24", "fd00:1:2::1/64"]);
    let routes = json!([{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}, {"dst": "::/0", "gw": "fd00:1:2::1"}]);
    assert_eq!(result["routes"], routes);
    reaches(&lab, "ns1", "10.1.2.1");
    reaches(&lab, "ns1", "fd00:1:2::1");
    let mut config = bridge_config(&changes);
    config["prevResult"] = result;
    lab.plugin("bridge").verb("CHECK").config(&config).run().silent();
}

#[test]
fn newer_routes_carry_priority_table_and_scope() {
    let lab = lab();
    let routes = json!([{"dst": "10.50.0.0/16", "priority": 5}, {"dst": "10.51.0.0/16", "gw": "10.1.2.9", "table": 77},
        {"dst": "10.52.0.0/16", "scope": 0}, {"dst": "fd00:9::/48", "gw": "fd00:1:2::9"}]);
    let ipam = json!({"subnet": null, "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]],
        "routes": routes});
    let result = add(&lab, &json!({"ipam": ipam})).result();
    assert_eq!(result["routes"], routes);
    let found = lab.routes("ns1", "-4");
    assert!(found.contains(&"10.50.0.0/16 via 10.1.2.1 dev eth0 metric 5".to_string()), "{found:?}");
    assert!(found.contains(&"10.52.0.0/16 via 10.1.2.1 dev eth0".to_string()), "{found:?}");
    assert_eq!(lab.ok("ip -n ns1 route show table 77").trim(), "10.51.0.0/16 via 10.1.2.9 dev eth0");
    let found = lab.ok("ip -n ns1 -6 route show fd00:9::/48");
    assert!(found.contains("via fd00:1:2::9 dev eth0"), "{found}");
}

#[test]
fn better_routes_carry_mtu_and_advmss() {
    let lab = lab();
    let ipam = json!({"routes": [{"dst": "10.50.0.0/16", "mtu": 1300, "advmss": 1200}]});
    add(&lab, &json!({"ipam": ipam})).result();
    let found = lab.ok("ip -n ns1 route show 10.50.0.0/16");
    assert!(found.contains("mtu 1300") && found.contains("advmss 1200"), "{found}");
}

#[test]
fn containers_of_one_bridge_reach_one_another() {
    let lab = lab();
    let ns2 = lab.netns("ns2");
    add(&lab, &json!({})).result();
    lab.plugin("bridge").container("c2").netns(&ns2).config(&bridge_config(&json!({}))).run().result();
    reaches(&lab, "ns1", "10.1.2.3");
    reaches(&lab, "ns2", "10.1.2.2");
}

#[test]
fn one_container_may_have_two_attachments() {
    let lab = lab();
    add(&lab, &json!({"isGateway": true})).result();
    let second =
        bridge_config(&json!({"name": "net2", "bridge": "cni1", "isGateway": true, "ipam": {"subnet": "10.3.0.0/24"}}));
    let call = lab.plugin("bridge").ifname("net1").config(&second);
    call.run().result();
    reaches(&lab, "ns1", "10.1.2.1");
    reaches(&lab, "ns1", "10.3.0.1");
    call.verb("DEL").run().silent();
    assert_eq!(lab.addresses("ns1", "eth0"), ["10.1.2.2/24"]);
    reaches(&lab, "ns1", "10.1.2.1");
}

#[test]
fn newer_a_second_add_of_the_same_interface_fails_and_takes_no_address() {
    let lab = lab();
    add(&lab, &json!({})).result();
    let error = add(&lab, &json!({})).error();
    let text = crate::lab::without_random_names(&error.1);
    assert_eq!(
        (error.0, text.as_str()),
        (999, "container veth name (\"eth0\") peer provided (\"VETH\") already exists")
    );
    assert_eq!(lab.reserved("net"), ["10.1.2.2"]);
    assert_eq!(lab.addresses("ns1", "eth0"), ["10.1.2.2/24"]);
    assert_eq!(lab.veths().len(), 1);
}

#[test]
fn a_link_that_is_no_bridge_is_refused() {
    let lab = lab();
    lab.ok("ip link add cni0 type veth peer name cni1");
    let text = "failed to create bridge \"cni0\": \"cni0\" already exists but is not a bridge";
    add(&lab, &json!({})).fails(999, text);
}

#[test]
fn better_keys_that_are_not_built_yet_are_errors_and_not_ignored() {
    let lab = lab();
    for (key, value) in [
        ("vlan", json!(100)),
        ("vlanTrunk", json!([{"id": 5}])),
        ("preserveDefaultVlan", json!(true)),
        ("portIsolation", json!(true)),
        ("macspoofchk", json!(true)),
        ("ipMasqBackend", json!("nftables")),
    ] {
        add(&lab, &json!({"ipMasq": true, key: value})).fails_with(2, &[key]);
        assert_eq!(lab.link("cni0"), Value::Null, "{key}");
    }
}

#[test]
fn keys_that_are_not_built_yet_may_have_their_default_values() {
    let lab = lab();
    let defaults = json!({"vlan": 0, "preserveDefaultVlan": false, "portIsolation": false, "macspoofchk": false,
        "ipMasqBackend": "iptables", "ipMasq": true});
    add(&lab, &defaults).result();
}

#[test]
fn ipam_without_an_address_is_an_error() {
    let lab = lab();
    let ipam = json!({"type": "static", "subnet": null});
    add(&lab, &json!({"ipam": ipam})).fails(999, "IPAM plugin returned missing IP config");
}

/// IPv6 with duplicate address detection; the address is fixed, so that two containers can have the same.
fn detecting() -> Value {
    let addresses = json!([{"address": "fd00:1:2::9/64", "gateway": "fd00:1:2::1"}]);
    json!({"enabledad": true, "ipam": {"type": "static", "subnet": null, "addresses": addresses}})
}

#[test]
fn better_the_end_of_duplicate_address_detection_is_an_event_of_the_containers_namespace() {
    let lab = lab();
    let start = std::time::Instant::now();
    add(&lab, &detecting()).result();
    let taken = start.elapsed();
    let addresses = lab.ok("ip -n ns1 -6 addr show dev eth0");
    assert!(!addresses.contains("tentative"), "{addresses}");
    // Detection takes the kernel one to two seconds; five is the limit after which nobody waits any more.
    assert!(taken < std::time::Duration::from_millis(4500), "it slept to the end of the limit: {taken:?}");
}

#[test]
fn newer_an_ipv6_address_that_another_container_has_is_an_error_that_names_it() {
    let lab = lab();
    add(&lab, &detecting()).result();
    let ns2 = lab.netns("ns2");
    let second = lab.plugin("bridge").container("c2").netns(&ns2).config(&bridge_config(&detecting()));
    second.run().fails_with(999, &["fd00:1:2::9", "DADFAILED"]);
    second.verb("DEL").run().silent();
    assert_eq!(lab.veths().len(), 1);
}
