//! The Go plugin with our daemon and ours with the Go daemon, as during an upgrade.

use serde_json::Value;

use crate::dhcp::{Network, config};
use crate::lab::{Outcome, REFERENCE, wait_for};

/// Verbs on container 1 by either plugin.
fn call(network: &Network, go: bool, verb: &str) -> Outcome {
    let call = if go { network.lab.reference("dhcp") } else { network.lab.plugin("dhcp") };
    network.of_container(call.verb(verb).config(&config(&serde_json::json!({}))), 1).run()
}

/// Results print an empty `dns` or none.
fn same(a: &Value, b: &Value) {
    assert_eq!((&a["ips"], &a["routes"]), (&b["ips"], &b["routes"]));
}

#[test]
fn the_go_plugin_works_with_our_daemon() {
    let network = Network::with_dnsmasq(&[]);
    network.containers(1..2);
    let result = call(&network, true, "ADD").result();
    assert!(result["ips"][0]["gateway"] == "10.1.0.1" && result["routes"][0]["gw"] == "10.1.0.1", "{result}");
    same(&call(&network, false, "ADD").result(), &result);
    call(&network, true, "CHECK").silent();
    let missing = network.lab.reference("dhcp").config(&config(&serde_json::json!({}))).netns("/run/netns/none").run();
    missing.fails_with(999, &["error calling DHCP.Allocate: ", "/run/netns/none"]);
    call(&network, true, "DEL").silent();
    call(&network, true, "DEL").silent();
    wait_for("the server to hear of the release", || network.leases() == 0);
    assert_eq!(network.acquired(), 1);
}

#[test]
fn our_plugin_works_with_the_go_daemon() {
    let mut network = Network::new();
    network.start_dnsmasq("10.1.2.0,10.1.9.255", &[]);
    let _made = network.lab.reference("dhcp");
    network.daemon = Some(network.spawn_daemon(&format!("{REFERENCE}/dhcp"), &[]));
    wait_for("the daemon", || network.status().run().code == Some(0));
    network.containers(1..2);
    let result = call(&network, false, "ADD").result();
    assert!(result["ips"][0]["gateway"] == "10.1.0.1" && result["routes"][0]["gw"] == "10.1.0.1", "{result}");
    same(&call(&network, true, "ADD").result(), &result);
    call(&network, false, "CHECK").silent();
    let gc = config(&serde_json::json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}));
    let collected = network.lab.plugin("dhcp").verb("GC").config(&gc).run().silent();
    assert_eq!(collected.stderr, "dhcp: the daemon cannot collect garbage: it is not cni-box's\n");
    call(&network, false, "DEL").silent();
    call(&network, false, "DEL").silent();
}
