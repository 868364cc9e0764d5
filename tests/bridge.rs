//! bridge: every key of `interfaces.md`, seen in the kernel and by traffic.

use serde_json::{Value, json};

use crate::lab::{Lab, Outcome, bridge_config, wait_for};

/// A host with the namespace `ns1`.
pub fn lab() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    lab
}

/// ADD of `eth0` in `ns1` with these changes to the usual configuration.
pub fn add(lab: &Lab, changes: &Value) -> Outcome {
    lab.plugin("bridge").config(&bridge_config(changes)).run()
}

/// Name of the host's end in a result.
fn host_veth(result: &Value) -> String {
    result["interfaces"][1]["name"].as_str().unwrap().to_string()
}

pub fn sysctl(lab: &Lab, netns: &str, path: &str) -> String {
    let place = if netns.is_empty() { String::new() } else { format!("ip netns exec {netns} ") };
    lab.ok(&format!("{place}cat /proc/sys/{path}")).trim().to_string()
}

/// Pings from a namespace (empty: the host) until it works.
pub fn reaches(lab: &Lab, netns: &str, address: &str) {
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
        wait_for("the link", || lab.link_in("ns1", "eth0")["operstate"] == "UP");
        lab.plugin("bridge").verb("DEL").config(&config).run().silent();
        assert_eq!(lab.veths(), [""; 0]);
    }
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
fn ipam_without_an_address_is_an_error() {
    let lab = lab();
    let ipam = json!({"type": "static", "subnet": null});
    add(&lab, &json!({"ipam": ipam})).fails(999, "IPAM plugin returned missing IP config");
}
