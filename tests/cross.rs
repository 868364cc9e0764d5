//! Ours and the reference on one host: what one made the other checks and removes, and both make the same.

use serde_json::{Value, json};

use crate::lab::{Configurations, Lab, REFERENCE, Snapshot, bridge_config, merged, without_random_names};
use crate::masquerade::FLAVOURS;

/// Who runs a plugin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Side {
    Ours,
    Theirs,
}

use Side::{Ours, Theirs};

fn run(lab: &Lab, side: Side, verb: &str, config: &Value) -> crate::lab::Outcome {
    let call = if side == Ours { lab.plugin("bridge") } else { lab.reference("bridge") };
    call.verb(verb).config(config).run()
}

/// The configurations that people have, as changes to the usual one.
pub fn configurations() -> Configurations {
    let walk = json!({"isDefaultGateway": true, "ipMasq": true, "hairpinMode": true, "forceAddress": false});
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    let dual = json!({"isDefaultGateway": true, "ipMasq": true, "ipam": {"subnet": null, "ranges": ranges}});
    let routes = json!([{"dst": "10.50.0.0/16", "gw": "10.1.2.1"}, {"dst": "10.51.0.0/16", "gw": "10.1.2.9"}]);
    let fixed =
        json!({"type": "static", "subnet": null, "addresses": [{"address": "10.1.2.7/24", "gateway": "10.1.2.1"}]});
    vec![
        ("walk-through", walk.clone()),
        ("old version", merged(walk, &json!({"cniVersion": "0.4.0"}))),
        ("dual stack", dual),
        ("plain", json!({"mtu": 1400, "ipam": {"routes": routes}})),
        ("static", json!({"isGateway": true, "ipMasq": true, "ipam": fixed})),
        ("promiscuous", json!({"isGateway": true, "promiscMode": true})),
    ]
}

/// ADD by one side, CHECK and DEL by the other, on both flavours of iptables; the host must be as before.
pub fn round_trip(adds: Side, removes: Side, configurations: &Configurations) {
    for flavour in FLAVOURS {
        for (name, changes) in configurations {
            let lab = Lab::new();
            lab.install_iptables(flavour);
            lab.netns("ns1");
            let mut config = bridge_config(changes);
            run(&lab, adds, "ADD", &config).result();
            run(&lab, adds, "DEL", &config).success();
            let before = lab.snapshot();
            config["prevResult"] = run(&lab, adds, "ADD", &config).result();
            run(&lab, removes, "CHECK", &config).silent();
            run(&lab, removes, "DEL", &config).silent();
            eprintln!("{adds:?} added, {removes:?} removed: {name}, iptables-{flavour}");
            before.assert_same(&lab.snapshot());
            assert_eq!(lab.link_in("ns1", "eth0"), Value::Null);
            run(&lab, adds, "DEL", &config).silent();
        }
    }
}

#[test]
fn the_reference_adds_and_we_check_and_delete() {
    round_trip(Theirs, Ours, &configurations());
}

#[test]
fn we_add_and_the_reference_checks_and_deletes() {
    round_trip(Ours, Theirs, &configurations());
}

/// What one side makes of a configuration: result, host, container; random names and MACs replaced.
fn made_by(side: Side, flavour: &str, changes: &Value) -> (Value, Snapshot, String) {
    let lab = Lab::new();
    lab.install_iptables(flavour);
    lab.netns("ns1");
    let result = without_random_names(&run(&lab, side, "ADD", &bridge_config(changes)).success().stdout);
    let mut result: Value = serde_json::from_str(&result).unwrap();
    // Debian's 1.1.1 prints an empty dns in every version, HEAD only below 1.0.0.
    result.as_object_mut().unwrap().retain(|key, value| key != "dns" || *value != json!({}));
    let container = ["addr show eth0 scope global", "route show", "-6 route show"].map(|words| {
        let text = lab.ok(&format!("ip -n ns1 {words}"));
        let own = text.lines().filter(|line| !line.starts_with("fe80::") && !line.contains("link/ether"));
        own.map(|line| line.split("qlen").next().unwrap().split("if").next().unwrap().to_string()).collect::<Vec<_>>()
    });
    (result, lab.snapshot().map(without_random_names), format!("{container:#?}"))
}

pub fn both_make_the_same(configurations: &Configurations) {
    for flavour in FLAVOURS {
        for (name, changes) in configurations {
            let (ours, theirs) = (made_by(Ours, flavour, changes), made_by(Theirs, flavour, changes));
            assert_eq!(ours.0, theirs.0, "{name}");
            eprintln!("{name}, iptables-{flavour}; gone = only the reference, new = only ours");
            theirs.1.assert_same(&ours.1);
            assert_eq!(ours.2, theirs.2, "{name}");
        }
    }
}

#[test]
fn both_make_the_same_result_and_the_same_host() {
    both_make_the_same(&configurations());
}

#[test]
fn a_bridge_of_one_side_takes_the_containers_of_the_other() {
    for (first, second) in [(Ours, Theirs), (Theirs, Ours)] {
        let lab = Lab::new();
        let (one, two) = (lab.netns("ns1"), lab.netns("ns2"));
        let config = bridge_config(&json!({"isDefaultGateway": true, "ipMasq": true}));
        let mut macs = Vec::new();
        for (side, container, netns) in [(first, "c1", &one), (second, "c2", &two)] {
            let call = if side == Ours { lab.plugin("bridge") } else { lab.reference("bridge") };
            let result = call.container(container).netns(netns).config(&config).run().result();
            macs.push(result["interfaces"][0]["mac"].clone());
        }
        assert_eq!(macs[0], macs[1]);
        assert_eq!(lab.reserved("net"), ["10.1.2.2", "10.1.2.3"]);
        lab.ok("ip netns exec ns1 ping -n -c 1 -W 2 10.1.2.3");
    }
}

#[test]
fn our_bridge_runs_the_references_ipam_and_the_references_bridge_runs_ours() {
    let config = bridge_config(&json!({"isGateway": true}));
    for ours_is_bridge in [true, false] {
        let lab = Lab::new();
        lab.netns("ns1");
        let reference = lab.reference("bridge").env("CNI_PATH", crate::lab::PLUGINS);
        let call = if ours_is_bridge { lab.plugin("bridge").env("CNI_PATH", REFERENCE) } else { reference };
        let result = call.clone().config(&config).run().result();
        assert_eq!(lab.reserved("net"), ["10.1.2.2"]);
        let config = merged(config.clone(), &json!({"prevResult": result}));
        call.clone().verb("CHECK").config(&config).run().silent();
        call.clone().verb("DEL").config(&config).run().silent();
        assert_eq!(lab.reserved("net"), [""; 0]);
    }
}

#[test]
fn both_host_locals_at_once_share_one_store() {
    let lab = Lab::new();
    lab.reference("host-local");
    let config = bridge_config(&json!({}));
    std::thread::scope(|scope| {
        for index in 0..40 {
            let call = if index % 2 == 0 { lab.plugin("host-local") } else { lab.reference("host-local") };
            let call = call.container(&format!("c{index}")).config(&config);
            scope.spawn(move || drop(call.run().result()));
        }
    });
    assert_eq!(lab.reserved("net").len(), 40);
}

#[test]
fn results_of_host_local_and_static_are_those_of_the_reference_in_every_version() {
    let lab = Lab::new();
    let local = json!({"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd00::/8"}],
        "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1::/64"}]]});
    let fixed = json!({"type": "static", "addresses": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"},
        {"address": "fd00::9/64"}], "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["1.1.1.1"]}});
    for version in ["", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0"] {
        for (plugin, ipam) in [("host-local", &local), ("static", &fixed)] {
            let config = json!({"cniVersion": version, "name": "net", "type": "x", "ipam": ipam});
            let text = |call: crate::lab::Call<'_>| {
                let output = call.clone().config(&config).run().success().stdout;
                call.config(&config).verb("DEL").run().silent();
                lab.run(&["rm", "-rf", "/var/lib/cni/networks"]).success();
                output
            };
            assert_eq!(text(lab.plugin(plugin)), text(lab.reference(plugin)), "{plugin} {version:?}");
        }
    }
}
