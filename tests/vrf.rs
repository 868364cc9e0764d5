//! `vrf`, as far as it needs no VRF: what is refused, and DEL where there is nothing. The rest is in the guest.

use serde_json::{Value, json};

use crate::cross::Side::{self, Ours, Theirs};
use crate::lab::{Call, Lab, bridge_config, merged};

/// A host with a container behind a dual-stack bridge, and the configuration that puts it into the VRF `blue`.
pub fn attached(changes: &Value) -> (Lab, Value) {
    let lab = Lab::new();
    lab.netns("ns1");
    let config = member(&lab, "eth0", changes);
    (lab, config)
}

/// Attaches one more interface of the container.
pub fn member(lab: &Lab, ifname: &str, changes: &Value) -> Value {
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    let routes = json!([{"dst": "10.50.0.0/16", "gw": "10.1.2.1"}, {"dst": "fd00:50::/48", "gw": "fd00:1:2::1"}]);
    let ipam = json!({"subnet": null, "ranges": ranges, "routes": routes});
    let bridge = bridge_config(&json!({"isGateway": true, "bridge": format!("br-{ifname}"), "ipam": ipam}));
    let result = lab.plugin("bridge").ifname(ifname).config(&bridge).run().result();
    let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "vrf", "vrfname": "blue", "prevResult": result});
    merged(config, changes)
}

pub fn call<'a>(lab: &'a Lab, side: Side, verb: &str, config: &Value) -> Call<'a> {
    let call = if side == Ours { lab.plugin("vrf") } else { lab.reference("vrf") };
    call.verb(verb).config(config)
}

#[test]
fn bad_input_is_refused_in_the_references_words_and_nothing_changes() {
    let (lab, config) = attached(&json!({}));
    lab.ok("ip -n ns1 link add green type bridge");
    let state = || (lab.snapshot(), lab.ok("ip -n ns1 -d link show"), lab.ok("ip -n ns1 route show table all"));
    let before = state();
    for (verb, changes, text) in [
        ("ADD", json!({"vrfname": null}), "configuration is expected to have a valid vrf name"),
        ("CHECK", json!({"vrfname": ""}), "configuration is expected to have a valid vrf name"),
        ("ADD", json!({"prevResult": null}), "missing prevResult from earlier plugin"),
        ("CHECK", json!({"prevResult": null}), "missing prevResult from earlier plugin"),
        ("ADD", json!({"vrfname": "green"}), "cmdAdd failed: Netlink green is not a VRF"),
        ("CHECK", json!({"vrfname": "green"}), "Netlink green is not a VRF"),
        ("CHECK", json!({}), "Link not found"),
    ] {
        // Debian's 1.1.1 checks nothing.
        for side in if verb == "ADD" { vec![Ours, Theirs] } else { vec![Ours] } {
            call(&lab, side, verb, &merged(config.clone(), &changes)).run().fails(999, text);
        }
    }
    for changes in [json!({"vrfname": 5}), json!({"table": -1}), json!({"table": 4_294_967_296_u64})] {
        for side in [Ours, Theirs] {
            let call = call(&lab, side, "ADD", &merged(config.clone(), &changes));
            call.run().fails_with(999, &["failed to load netconf: json: cannot unmarshal"]);
        }
    }
    call(&lab, Ours, "ADD", &config).ifname("nope").run().fails(999, "cmdAdd failed: could not get link by name nope");
    for side in [Ours, Theirs] {
        let gone = call(&lab, side, "ADD", &config).netns("/run/netns/gone").run();
        gone.fails_with(999, &["cmdAdd failed: ", "/run/netns/gone", "no such file or directory"]);
    }
    let after = state();
    before.0.assert_same(&after.0);
    assert_eq!((before.1, before.2), (after.1, after.2));
}

#[test]
fn better_del_succeeds_where_there_is_nothing() {
    let (lab, config) = attached(&json!({}));
    lab.ok("ip -n ns1 link add green type bridge");
    for changes in [json!({}), json!({"vrfname": "green"}), json!({"vrfname": null}), json!({"table": "x"})] {
        call(&lab, Ours, "DEL", &merged(config.clone(), &changes)).run().silent();
    }
    assert_ne!(lab.link_in("ns1", "green"), Value::Null);
    call(&lab, Ours, "DEL", &config).netns("").run().silent();
    call(&lab, Ours, "DEL", &config).netns("/run/netns/gone").run().silent();
    lab.ok("umount -l /run/netns/ns1");
    call(&lab, Ours, "DEL", &config).run().silent();
}
