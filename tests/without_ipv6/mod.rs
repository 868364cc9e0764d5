//! Every plugin and tool on a kernel without IPv6: `make test-vm` runs these tests in a second guest,
//! whose kernel is booted with `ipv6.disable=1`. The host and the other guest run none of them.
//!
//! Such a kernel has no sockets, settings, addresses, routes and rules of IPv6. It has netfilter's
//! tables for IPv6.

mod asked_for;
mod chained;
mod interfaces;
mod tools;

use std::path::Path;

use serde_json::{Value, json};

use crate::lab::{Lab, Snapshot, merged};

#[test]
fn the_kernel_has_no_ipv6() {
    assert!(!Path::new("/proc/sys/net/ipv6").exists());
    let refused = std::net::UdpSocket::bind("[::1]:0").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EAFNOSUPPORT));
}

/// The host, and all that `ns1` has.
struct State(Snapshot, String);

impl State {
    fn of(lab: &Lab) -> State {
        let container = "ip -n ns1 -o addr; ip -n ns1 rule; ip -n ns1 route show table all; tc qdisc
            mkdir -p /run/cni; find /run/cni -type f";
        State(lab.snapshot(), lab.sh(container).success().stdout)
    }

    fn assert_same(&self, after: &State) {
        self.0.assert_same(&after.0);
        assert_eq!(self.1, after.1);
    }
}

/// Calls the plugin of a configuration with each verb. `look` sees the attachment of `eth0` in `ns1`.
/// DEL and GC leave the host and `ns1` as they were after an earlier attachment.
fn life(lab: &Lab, config: &Value, look: impl Fn()) {
    let config = merged(config.clone(), &json!({"cniVersion": "1.1.0"}));
    let plugin = config["type"].as_str().unwrap();
    let call =
        |verb: &str, changes: &Value| lab.plugin(plugin).verb(verb).config(&merged(config.clone(), changes)).run();
    let attach = || json!({"prevResult": call("ADD", &json!({})).result()});
    call("DEL", &attach()).silent();
    let before = State::of(lab);
    call("STATUS", &json!({})).silent();
    let attached = attach();
    look();
    call("GC", &json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]})).silent();
    call("CHECK", &attached).silent();
    call("DEL", &attached).silent();
    call("DEL", &attached).silent();
    before.assert_same(&State::of(lab));
    let attached = attach();
    call("GC", &json!({"cni.dev/valid-attachments": []})).silent();
    call("DEL", &attached).silent();
    before.assert_same(&State::of(lab));
}
