//! dhcp: plugins of one release with the daemon of the other, and leases across a change of daemon.

use serde_json::json;

use super::{Release, WAYS, collect_after, install, traces};
use crate::dhcp::{Network, POOL, address, config};
use crate::lab::{bridge_config, merged, wait_for};

/// Makes a network whose daemon is of this release.
fn network(release: Release) -> Network {
    let mut network = Network::new();
    network.start_dnsmasq("10.1.2.0,10.1.9.255", &[]);
    install(&network.lab, release);
    network.start_daemon(&[]);
    network
}

/// Replaces the daemon by that of this release, and waits until the server has confirmed the leases
/// of these containers. No lease is acquired anew.
fn restart(network: &mut Network, release: Release, containers: &[usize]) {
    let (discovered, confirmed) = (network.said("DHCPDISCOVER("), network.said("DHCPACK("));
    network.kill_daemon();
    install(&network.lab, release);
    network.start_daemon(&[]);
    wait_for("the leases to be confirmed", || network.said("DHCPACK(") >= confirmed + containers.len());
    containers.iter().for_each(|n| drop(network.call(*n).verb("CHECK").run().silent()));
    assert_eq!(network.said("DHCPDISCOVER("), discovered);
}

#[test]
fn leases_pass_from_daemon_to_daemon_and_back() {
    for (first, second) in WAYS {
        let mut network = network(first);
        let given = [1, 2, 3].map(|n| address(&network.container(n).run().result()));
        restart(&mut network, second, &[1, 2, 3]);
        assert_eq!(address(&network.call(1).run().result()), given[0], "the lease that is held");
        network.call(2).verb("DEL").run().silent();
        wait_for("the server to hear of the release", || network.leases() == 2);
        restart(&mut network, first, &[1, 3]);
        for n in [1, 3] {
            network.call(n).verb("DEL").run().silent();
        }
        wait_for("the server to hear of the release", || network.leases() == 0);
        network.kill_daemon();
        assert_eq!(network.lab.kept_files(), [""; 0]);
    }
}

/// DEL of either release gives the lease back before it deletes the interface.
#[test]
fn a_bridge_of_the_other_gives_the_lease_back() {
    for (first, second) in WAYS {
        let mut network = network(first);
        network.lab.netns("ns1");
        let config = bridge_config(&json!({"ipam": {"type": "dhcp", "subnet": null}}));
        let before = traces(&network.lab);
        let bridge = |network: &Network, verb: &str, config: &serde_json::Value| {
            network.of_container(network.lab.plugin("bridge").verb(verb).config(config), 1).run()
        };
        let attached = merged(config.clone(), &json!({"prevResult": bridge(&network, "ADD", &config).result()}));
        restart(&mut network, second, &[]);
        wait_for("the lease to be confirmed", || network.said("DHCPREQUEST(") > 1);
        bridge(&network, "CHECK", &attached).silent();
        bridge(&network, "DEL", &attached).silent();
        wait_for("the server to hear of the release", || network.leases() == 0);
        before.assert_same(&traces(&network.lab));
        collect_after(second, &network.lab, &config);
        network.kill_daemon();
        assert_eq!(network.lab.kept_files(), [""; 0]);
    }
}

#[test]
fn plugins_of_one_work_with_the_daemon_of_the_other() {
    for (daemon, plugins) in WAYS {
        let network = network(daemon);
        let given = address(&network.container(1).run().result());
        install(&network.lab, plugins);
        network.status().run().silent();
        network.call(1).verb("CHECK").run().silent();
        assert_eq!(address(&network.call(1).run().result()), given);
        network.container(2).run().result();
        let one = json!([{"containerID": "c2", "ifname": "eth0"}]);
        let gc = config(&json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": one}));
        network.lab.plugin("dhcp").verb("GC").config(&gc).run().silent();
        wait_for("the lease of c1 to be given back", || network.leases() == 1);
        network.call(1).verb("CHECK").run().fails_with(999, &["there is no lease"]);
        network.call(2).verb("DEL").run().silent();
        wait_for("the lease of c2 to be given back", || network.leases() == 0);
        assert_eq!(network.records(), 0);
    }
}

/// While no server answers the next daemon, the container keeps its lease until that expires.
#[test]
fn a_lease_outlives_the_upgrade_without_a_server() {
    for (first, second) in WAYS {
        let mut network = Network::new();
        network.start_kea(POOL, [600, 300, 500]);
        install(&network.lab, first);
        network.start_daemon(&[]);
        let given = address(&network.container(1).run().result());
        network.stop_server();
        network.kill_daemon();
        install(&network.lab, second);
        network.start_daemon(&[]);
        network.call(1).verb("CHECK").run().silent();
        assert_eq!(address(&network.call(1).run().result()), given);
        assert_eq!(network.records(), 1);
    }
}
