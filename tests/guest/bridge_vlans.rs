//! bridge: `vlan`, `vlanTrunk`, `preserveDefaultVlan` and the VLAN's gateway interface, where the kernel filters VLANs.

use serde_json::{Value, json};

use crate::bridge_mac::{life, prepared};
use crate::cross::Side::{self, Ours, Theirs};
use crate::kills::{assert_nearly_all, changing_calls, kill_at, refuse_at};
use crate::lab::{Call, Lab, Outcome, bridge_config, merged, reference_dir, wait_for, without_random_names};

/// A dual-stack network in a VLAN, with a gateway.
fn gated(changes: &Value) -> Value {
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    let base = json!({"vlan": 100, "isDefaultGateway": true, "ipam": {"subnet": null, "ranges": ranges}});
    bridge_config(&merged(base, changes))
}

/// A network in a VLAN, whose containers have addresses of their own beginning.
fn plain(vlan: u16, third: u8, changes: &Value) -> Value {
    let base = json!({"vlan": vlan, "name": format!("net{third}"), "ipam": {"subnet": format!("10.1.{third}.0/24")}});
    bridge_config(&merged(base, changes))
}

/// A host with the namespaces `ns1` to this one.
fn host(count: usize) -> Lab {
    let lab = Lab::new();
    let names: String = (1..=count).map(|number| format!("netns add ns{number}\n")).collect();
    Call::new(&lab, "ip").args_list(&["-batch", "-"]).stdin(names).run().success();
    lab
}

/// A call for container `cN` in `nsN`.
fn call<'a>(lab: &'a Lab, side: Side, number: usize, config: &Value) -> Call<'a> {
    let plugin = if side == Ours { lab.plugin("bridge") } else { lab.reference("bridge") };
    plugin.container(&format!("c{number}")).netns(&format!("/var/run/netns/ns{number}")).config(config)
}

/// ADD by ours; the configuration with the result in it.
fn attached(lab: &Lab, number: usize, config: &Value) -> Value {
    let result = call(lab, Ours, number, config).run().result();
    merged(config.clone(), &json!({"prevResult": result}))
}

fn verb(lab: &Lab, verb: &str, config: &Value) -> Outcome {
    call(lab, Ours, 1, config).verb(verb).run()
}

/// `VLAN flags` of every port, as `bridge` shows them, under the port's name.
fn vlans(lab: &Lab) -> Value {
    serde_json::from_str(&lab.ok("bridge -j vlan show")).unwrap()
}

/// The VLANs of the port in a result, one a line.
fn port_vlans(lab: &Lab, config: &Value) -> Vec<String> {
    let port = &config["prevResult"]["interfaces"][1]["name"];
    let all = vlans(lab);
    let own = all.as_array().unwrap().iter().find(|one| one["ifname"] == *port).cloned().unwrap_or_default();
    let line = |vlan: &Value| {
        let flags = vlan["flags"].as_array().cloned().unwrap_or_default();
        let flags: String = flags.iter().map(|flag| format!(" {}", flag.as_str().unwrap())).collect();
        format!("{}{flags}", vlan["vlan"])
    };
    own["vlans"].as_array().unwrap_or(&Vec::new()).iter().map(line).collect()
}

fn pings(lab: &Lab, number: usize, address: &str) -> bool {
    lab.run(&["ip", "netns", "exec", &format!("ns{number}"), "ping", "-n", "-c", "1", "-W", "1", address]).code
        == Some(0)
}

/// As above, until it works.
fn reaches(lab: &Lab, number: usize, address: &str) {
    wait_for(&format!("{number} to reach {address}"), || pings(lab, number, address));
}

/// Names of all links on the host, and reservations: what a failed ADD must not change.
fn brief(lab: &Lab) -> Vec<String> {
    let links = lab.ip("link show");
    let names = links.as_array().unwrap().iter().map(|link| link["ifname"].to_string());
    names.chain(lab.reserved("net")).collect()
}

#[test]
fn better_a_vlans_gateway_takes_no_router_advertisements() {
    // CVE-2020-10749, from which the bridge itself is safe.
    let lab = host(2);
    let accept_ra = |link: &str| crate::bridge::sysctl(&lab, "", &format!("net/ipv6/conf/{link}/accept_ra"));
    for number in [1, 2] {
        call(&lab, Ours, number, &gated(&json!({}))).run().result();
        assert_eq!((accept_ra("cni0"), accept_ra("cni0.100")), ("0".to_string(), "0".to_string()), "{number}");
        // The second ADD finds a gateway of the reference, which takes them.
        lab.sh("echo 1 > /proc/sys/net/ipv6/conf/cni0.100/accept_ra").success();
    }
}

#[test]
fn a_vlan_with_its_gateway_is_as_the_reference_makes_it() {
    let config = gated(&json!({"preserveDefaultVlan": true, "mtu": 1400}));
    let made = [Ours, Theirs].map(|side| {
        let lab = host(1);
        let mut result = call(&lab, side, 1, &config).run().result();
        result.as_object_mut().unwrap().retain(|key, value| key != "dns" || *value != json!({}));
        let gateway = lab.link("cni0.100");
        assert_eq!(result["interfaces"][3], json!({"name": "cni0.100", "mac": gateway["address"]}));
        let mut ports: Vec<String> = vlans(&lab).as_array().unwrap().iter().map(|port| port.to_string()).collect();
        ports.iter_mut().for_each(|port| *port = without_random_names(port));
        ports.sort();
        // The kernel tells a bridge's state up to a second late (linkwatch).
        wait_for("cni0 to be up", || lab.link("cni0")["operstate"] == "UP");
        let links = [&lab.link("cni0"), &gateway].map(|link| {
            let data = &link["linkinfo"]["info_data"];
            json!([link["mtu"], link["operstate"], link["linkinfo"]["info_kind"], data["vlan_filtering"]])
        });
        let lines = [result.to_string(), format!("{links:?}"), format!("{ports:#?}")];
        (lines.map(|line| without_random_names(&line)), lab.snapshot().map(without_random_names))
    });
    assert_eq!(made[0].0, made[1].0);
    made[1].1.assert_same(&made[0].1);
}

/// The gateway's addresses are not the bridge's, so the bridge takes the hardware address of its lowest port.
#[test]
fn a_bridge_that_was_there_follows_its_ports_in_a_vlan_as_with_the_reference() {
    for changes in [json!({}), json!({"isDefaultGateway": false})] {
        let sides = [Lab::new(), Lab::with_plugins_of(&reference_dir())];
        let lives = sides.map(|lab| {
            let lab = prepared(lab, "ip link add cni0 type bridge vlan_filtering 1; ip link set cni0 up");
            life(&lab, &gated(&changes))
        });
        assert_eq!(lives[0], lives[1], "{changes}");
    }
}

/// The first port joins the bridge last, and is in its VLAN nevertheless.
#[test]
fn a_first_port_is_in_its_vlan() {
    let lab = host(2);
    lab.sh("ip link add cni0 type bridge vlan_filtering 1; ip link set cni0 up").success();
    for number in [1, 2] {
        let config = attached(&lab, number, &gated(&json!({})));
        assert_eq!(port_vlans(&lab, &config), ["100 PVID Egress Untagged"]);
        reaches(&lab, number, "10.1.2.1");
    }
}

#[test]
fn what_one_adds_the_other_checks_and_deletes() {
    for (adds, removes) in [(Ours, Theirs), (Theirs, Ours)] {
        let lab = host(1);
        let mut config = gated(&json!({}));
        call(&lab, adds, 1, &config).run().result();
        call(&lab, adds, 1, &config).verb("DEL").run().silent();
        let before = lab.snapshot();
        config["prevResult"] = call(&lab, adds, 1, &config).run().result();
        call(&lab, removes, 1, &config).verb("CHECK").run().silent();
        for _ in 0..2 {
            call(&lab, removes, 1, &config).verb("DEL").run().silent();
            before.assert_same(&lab.snapshot());
        }
    }
}

#[test]
fn newer_ports_are_in_the_vlans_that_are_configured_and_no_others() {
    let trunk = json!([{"id": 7}, {"minID": 20, "maxID": 22}, {"id": 22}, {"id": 4094}]);
    let lab = host(1);
    for (changes, expected) in [
        (json!({"vlan": 100}), "100 PVID Egress Untagged"),
        (json!({"vlan": 100, "preserveDefaultVlan": true}), "1 Egress Untagged, 100 PVID Egress Untagged"),
        (json!({"vlan": 100, "vlanTrunk": trunk}), "7, 20, 21, 22, 100 PVID Egress Untagged, 4094"),
        (json!({"vlanTrunk": trunk}), "1 PVID Egress Untagged, 7, 20, 21, 22, 4094"),
        (json!({"vlan": 21, "vlanTrunk": trunk}), "7, 20, 21, 22, 4094"),
        (json!({"vlanTrunk": []}), "1 PVID Egress Untagged"),
    ] {
        let config = attached(&lab, 1, &bridge_config(&changes));
        assert_eq!(port_vlans(&lab, &config).join(", "), expected, "{changes}");
        verb(&lab, "CHECK", &config).silent();
        verb(&lab, "DEL", &config).silent();
    }
    let config = attached(&lab, 1, &bridge_config(&json!({"vlanTrunk": [{"minID": 1, "maxID": 4094}]})));
    let all = port_vlans(&lab, &config);
    assert_eq!((all.len(), all[0].as_str(), all[4093].as_str()), (4094, "1 PVID Egress Untagged", "4094"));
    verb(&lab, "CHECK", &config).silent();
    assert_eq!(lab.link("cni0")["linkinfo"]["info_data"]["vlan_filtering"], 1);
}

#[test]
fn newer_traffic_stays_in_its_vlan_and_passes_a_trunk() {
    let lab = host(4);
    attached(&lab, 1, &gated(&json!({})));
    attached(&lab, 2, &gated(&json!({})));
    attached(&lab, 3, &plain(200, 3, &json!({})));
    attached(&lab, 4, &plain(0, 4, &json!({"vlanTrunk": [{"id": 100}, {"minID": 200, "maxID": 201}]})));
    for address in ["10.1.2.1", "fd00:1:2::1", "10.1.2.3", "fd00:1:2::3"] {
        reaches(&lab, 1, address);
    }
    // Everybody is given an address in the networks of the others.
    lab.sh("ip -n ns3 addr add 10.1.2.99/24 dev eth0; ip -n ns4 addr add 10.1.2.98/24 dev eth0; \
        ip -n ns4 link add link eth0 name v200 up type vlan id 200; ip -n ns4 addr add 10.1.3.98/24 dev v200")
        .success();
    reaches(&lab, 4, "10.1.3.2");
    for (from, to, what) in
        [(1, "10.1.2.99", "another VLAN"), (3, "10.1.2.1", "its gateway"), (1, "10.1.2.98", "a trunk's native VLAN")]
    {
        assert!(!pings(&lab, from, to), "{what} is heard");
    }
    // The trunk hears VLAN 100 with its tag, and only so.
    lab.ok("ip -n ns4 addr del 10.1.2.98/24 dev eth0");
    lab.ok("ip -n ns4 link add link eth0 name v100 up type vlan id 100");
    lab.ok("ip -n ns4 addr add 10.1.2.97/24 dev v100");
    reaches(&lab, 1, "10.1.2.97");
    reaches(&lab, 4, "10.1.2.1");
}

#[test]
fn a_bridge_that_exists_keeps_its_setting() {
    let lab = host(1);
    lab.ok("ip link add cni0 type bridge");
    let config = attached(&lab, 1, &gated(&json!({})));
    assert_eq!(lab.link("cni0")["linkinfo"]["info_data"]["vlan_filtering"], 0);
    verb(&lab, "CHECK", &config).silent();
    reaches(&lab, 1, "10.1.2.1");
}

#[test]
fn a_link_that_has_the_gateways_name_becomes_the_gateway() {
    let lab = host(1);
    lab.sh(
        "ip link add cni0 type bridge vlan_filtering 1; bridge vlan add dev cni0 vid 100 self; ip link set cni0 up; \
        ip link add link cni0 name cni0.100 up type vlan id 100",
    )
    .success();
    let config = attached(&lab, 1, &gated(&json!({})));
    assert_eq!(config["prevResult"]["interfaces"][3]["mac"], lab.link("cni0.100")["address"]);
    assert_eq!(lab.addresses("", "cni0.100"), ["10.1.2.1/24", "fd00:1:2::1/64"]);
    reaches(&lab, 1, "10.1.2.1");
    verb(&lab, "CHECK", &config).silent();
}

/// A pair that an ADD which was killed has left without its VLAN, and one whose bridge was deleted.
#[test]
fn better_a_gateway_that_leads_nowhere_is_put_right() {
    let lab = host(1);
    let config = attached(&lab, 1, &gated(&json!({})));
    verb(&lab, "DEL", &config).silent();
    let repair = |what: &str| {
        let config = attached(&lab, 1, &gated(&json!({})));
        reaches(&lab, 1, "10.1.2.1");
        reaches(&lab, 1, "fd00:1:2::1");
        verb(&lab, "CHECK", &config).silent();
        verb(&lab, "DEL", &config).silent();
        eprintln!("{what}");
    };
    lab.ok("ip link del cni0");
    // Another network makes the new one.
    let other = attached(&lab, 1, &plain(200, 3, &json!({})));
    verb(&lab, "DEL", &other).silent();
    repair("the bridge was deleted");
    let port = lab.veths();
    assert_eq!(port.len(), 1);
    lab.ok("ip link set cni0.100 down");
    lab.ok(&format!("bridge vlan del dev {} vid 100", port[0]));
    repair("it was not complete");
}

#[test]
fn better_the_gateway_outlives_a_del_without_a_namespace() {
    let lab = host(2);
    let config = attached(&lab, 1, &gated(&json!({})));
    attached(&lab, 2, &gated(&json!({})));
    lab.ok("umount /run/netns/ns1");
    for netns in ["/var/run/netns/ns1", ""] {
        call(&lab, Ours, 1, &config).verb("DEL").netns(netns).run().silent();
        assert_eq!(lab.reserved("net"), ["10.1.2.3", "fd00:1:2::3"]);
        assert_eq!(lab.addresses("", "cni0.100"), ["10.1.2.1/24", "fd00:1:2::1/64"]);
    }
    reaches(&lab, 2, "10.1.2.1");
}

#[test]
fn better_a_failed_add_leaves_neither_bridge_nor_gateway_unless_others_use_them() {
    let lab = host(2);
    let unreachable = json!({"ipam": {"routes": [{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]}});
    let full = |number: usize| {
        lab.write("/run/lab/config", gated(&json!({})).to_string());
        let script = format!(
            "CNI_COMMAND=ADD CNI_CONTAINERID=c{number} CNI_NETNS=/var/run/netns/ns{number} \
            CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/bridge </run/lab/config >/dev/full"
        );
        assert_eq!(lab.sh(&script).code, Some(1));
    };
    let before = lab.snapshot();
    call(&lab, Ours, 1, &gated(&unreachable)).run().fails_with(999, &["10.9.0.0"]);
    full(1);
    before.assert_same(&lab.snapshot());
    let config = attached(&lab, 2, &gated(&json!({})));
    let before = (lab.snapshot(), vlans(&lab));
    full(1);
    call(&lab, Ours, 2, &config).run().fails_with(999, &["already exists"]);
    // A conflict that only another network's gateway has.
    let other = gated(&json!({"name": "other", "ipam": {"ranges": [[{"subnet": "10.1.9.0/24"}]]}}));
    let words = "failed to set vlan interface for bridge with addr: \"cni0.100\" already has an IP address different from 10.1.9.1/24";
    call(&lab, Ours, 1, &other).run().fails(999, words);
    before.0.assert_same(&lab.snapshot());
    assert_eq!(vlans(&lab), before.1);
    reaches(&lab, 2, "10.1.2.1");
}

#[test]
fn better_an_add_that_is_refused_any_of_its_changes_leaves_nothing() {
    let lab = host(1);
    let config = gated(&json!({"vlanTrunk": [{"minID": 200, "maxID": 300}], "hairpinMode": true}));
    let add = call(&lab, Ours, 1, &config);
    let clean = || lab.sh("ip link del cni0 2>/dev/null; ip link del cni0.100 2>/dev/null; true").success();
    let before = brief(&lab);
    let points = changing_calls(&lab, &add);
    verb(&lab, "DEL", &config).silent();
    clean();
    let mut failed = 0;
    // Every other one: what is no matter of VLANs is refused one by one on the host (kills.rs).
    for point in points.iter().filter(|(name, _)| name.starts_with("send")).step_by(2) {
        if refuse_at(&add, point) {
            failed += 1;
            assert_eq!(brief(&lab), before, "refused at {point:?}");
        } else {
            verb(&lab, "DEL", &config).silent();
            clean();
        }
    }
    assert!(failed > 3, "only {failed} of {points:?}");
}

#[test]
fn better_an_add_after_one_that_was_killed_anywhere_reaches_its_gateway() {
    let lab = host(1);
    let config = gated(&json!({}));
    let add = call(&lab, Ours, 1, &config);
    let clean = || lab.sh("ip link del cni0 2>/dev/null; ip link del cni0.100 2>/dev/null; true").success();
    let points = changing_calls(&lab, &add);
    // Before the last requests, which are those about the gateway.
    let points: Vec<_> = points.into_iter().filter(|(name, _)| name.starts_with("send")).collect();
    let points: Vec<_> = points.iter().skip(points.len().saturating_sub(20)).step_by(4).collect();
    let mut killed = 0;
    verb(&lab, "DEL", &config).silent();
    for point in &points {
        clean();
        killed += usize::from(kill_at(&add, point));
        verb(&lab, "DEL", &config).silent();
        eprintln!("killed before {point:?}");
        let config = attached(&lab, 1, &config);
        reaches(&lab, 1, "10.1.2.1");
        verb(&lab, "CHECK", &config).silent();
        verb(&lab, "DEL", &config).silent();
        assert_eq!(lab.veths().len(), 1, "the gateway's port");
    }
    assert_nearly_all(killed, points.len());
}

#[test]
fn better_check_names_what_is_wrong() {
    let lab = host(1);
    for (script, words) in [
        ("bridge vlan del dev PORT vid 100", "Interface PORT VLAN 100 doesn't match: pvid untagged, found no member"),
        ("bridge vlan add dev PORT vid 201", "Interface PORT VLAN 201 doesn't match: no member, found tagged"),
        ("bridge vlan add dev PORT vid 100", "Interface PORT VLAN 100 doesn't match: pvid untagged, found tagged"),
        ("ip link del cni0.100", "Interface name cni0.100 not found"),
        ("ip link set cni0.100 address 02:00:00:00:00:09", "found 02:00:00:00:00:09"),
    ] {
        let config = attached(&lab, 1, &gated(&json!({"vlanTrunk": [{"id": 200}]})));
        let port = config["prevResult"]["interfaces"][1]["name"].as_str().unwrap();
        verb(&lab, "CHECK", &config).silent();
        lab.ok(&script.replace("PORT", port));
        verb(&lab, "CHECK", &config).fails_with(999, &[&words.replace("PORT", port)]);
        verb(&lab, "DEL", &config).silent();
    }
    // The bridge's own address follows its ports: it is not the gateway.
    let config = attached(&lab, 1, &gated(&json!({})));
    lab.ok("ip link set cni0 address 02:00:00:00:00:08");
    verb(&lab, "CHECK", &config).silent();
}

#[test]
fn a_second_add_fails_and_thirty_at_once_share_bridge_and_gateway() {
    let lab = host(30);
    // Without IPv6, whose addresses take longer than ADD waits when many ask this processor for them at once.
    let config = gated(&json!({"ipam": {"ranges": [[{"subnet": "10.1.2.0/24"}]]}}));
    std::thread::scope(|scope| {
        for number in 1..=30 {
            let call = call(&lab, Ours, number, &config);
            scope.spawn(move || drop(call.run().result()));
        }
    });
    assert_eq!(lab.reserved("net").len(), 30);
    assert_eq!(lab.addresses("", "cni0.100"), ["10.1.2.1/24"]);
    assert_eq!(lab.veths().len(), 31);
    reaches(&lab, 30, "10.1.2.1");
    call(&lab, Ours, 1, &config)
        .run()
        .fails_with(999, &["container veth name (\"eth0\") peer provided", "already exists"]);
    assert_eq!((lab.reserved("net").len(), lab.veths().len()), (30, 31));
}
