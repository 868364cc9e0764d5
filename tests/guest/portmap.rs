//! `portmap` beside VRFs with loopback addresses of their own (Documentation/networking/vrf.rst):
//! what the host sends to 127.0.0.1 in a VRF comes in by the VRF's device.

use serde_json::{Value, json};

use crate::lab::{Lab, bridge_config, merged};
use crate::masquerade::lab;
use crate::portmap_localnet::{guard, guarded, setting};
use crate::portmap_traffic::BACKENDS;

/// VRFs and their tables; the last one has a container's bridge of another network in it.
const VRFS: [(&str, u32); 3] = [("mgmt", 1001), ("lo-blue", 7), ("v+", 300)];

fn make_vrfs(lab: &Lab) {
    let links: String = VRFS.iter().fold(String::new(), |text, (name, table)| {
        text + &format!("link add {name} type vrf table {table}\nlink set {name} up\naddr add 127.0.0.1/8 dev {name}\n")
    });
    let rules = "rule add pref 32765 table local\nrule del pref 0\nlink add br9 type bridge\nlink set br9 master v+\nlink set br9 up\naddr add 10.9.0.1/24 dev br9\nroute add 10.9.0.0/24 dev v+\n";
    crate::lab::Call::new(lab, "ip").args_list(&["-batch", "-"]).stdin(links + rules).run().success();
}

fn assert_loopbacks_answer(lab: &Lab, what: &str) {
    for (name, _) in VRFS {
        let words = ["ping", "-n", "-I", name, "-c", "1", "-W", "5", "127.0.0.1"];
        assert_eq!(lab.run(&words).code, Some(0), "{what}: {name}");
    }
    assert_eq!(lab.run(&["ping", "-n", "-c", "1", "-W", "5", "127.0.0.1"]).code, Some(0), "{what}: lo");
}

/// Another container, whose ports are others.
fn call_in(lab: &Lab, portmap: &Value, previous: &Value, verb: &str) {
    let ports = json!([{"hostPort": 9090, "containerPort": 80, "protocol": "tcp"}]);
    let changes = json!({"prevResult": previous, "runtimeConfig": {"portMappings": ports}});
    let call = lab.plugin("portmap").container("inside").config(&merged(portmap.clone(), &changes));
    call.verb(verb).run().success();
}

#[test]
fn better_the_loopbacks_of_vrfs_answer_whatever_ports_are_mapped() {
    for (flavour, backend) in BACKENDS {
        let lab = lab(flavour);
        make_vrfs(&lab);
        assert_loopbacks_answer(&lab, "before");
        let result = lab.plugin("bridge").config(&bridge_config(&json!({"isGateway": true}))).run().result();
        let portmap = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap", "backend": backend,
            "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}});
        let call = |verb: &str, more: Value| {
            lab.plugin("portmap").config(&merged(portmap.clone(), &more)).verb(verb).run().success()
        };
        let told = json!({"prevResult": result});
        // What version 0.1.0 left. iptables keeps nothing of it apart.
        let old = "! -i lo -d 127.0.0.0/8 -m comment --comment 'CNI portmap: 127.0.0.0/8 is local' -j DROP";
        lab.sh(&format!("iptables-{flavour} -t raw -I PREROUTING {old}")).success();
        for _ in 0..2 {
            call("ADD", told.clone());
            call("CHECK", told.clone());
            assert_eq!((guarded(&lab), setting(&lab, "cni0").as_str()), (vec!["cni0".to_string()], "1"));
            assert_loopbacks_answer(&lab, &format!("{flavour} {backend}"));
            // The way to a container in a VRF may be the VRF itself.
            let inside = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.2/24"}]});
            let inside = |verb| call_in(&lab, &portmap, &inside, verb);
            inside("ADD");
            inside("CHECK");
            assert_eq!(
                (guarded(&lab), setting(&lab, "v+").as_str()),
                (vec!["cni0".to_string(), "v+".to_string()], "1")
            );
            assert_loopbacks_answer(&lab, &format!("{flavour} {backend} in a VRF"));
            inside("DEL");
            call("DEL", told.clone());
            assert_eq!((guard(&lab), setting(&lab, "cni0").as_str()), (Vec::new(), "0"));
            assert_loopbacks_answer(&lab, &format!("{flavour} {backend} after DEL"));
        }
    }
}
