//! tuning: what it sets, what it refuses, what it puts back; compared with the reference.

use serde_json::{Value, json};

use crate::lab::{Call, Configurations, Lab, Outcome, merged, reference_is_newer};

pub const SAVED: &str = "/run/cni/tuning";
pub const FILE: &str = "/run/cni/tuning/c1_eth0.json";
pub const ALLOWLIST: &str = "/etc/cni/tuning/allowlist.conf";

/// A host with `ns1`, in it `eth0` of a veth pair.
pub fn lab() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    interface(&lab);
    lab
}

pub fn interface(lab: &Lab) {
    lab.ok("ip link add vh address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns ns1");
    lab.ok("ip link set vh up");
    lab.ok("ip -n ns1 link set eth0 up txqueuelen 1000");
}

pub fn config(changes: &Value) -> Value {
    let base = json!({"cniVersion": "1.0.0", "name": "net", "type": "tuning",
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24", "interface": 1}],
            "dns": {"nameservers": ["10.0.0.1"]}, "interfaces": [
            {"name": "vh", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/var/run/netns/ns1"}]}});
    merged(base, changes)
}

/// Everything at once.
pub fn full() -> Value {
    json!({"mac": "0A-00-00-00-00-33", "mtu": 1400, "promisc": true, "allmulti": true,
        "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1", "net/ipv4/conf/eth0/log_martians": "1"}})
}

pub fn ours(lab: &Lab, verb: &str, changes: &Value) -> Outcome {
    lab.plugin("tuning").verb(verb).config(&config(changes)).run()
}

/// Ours and, if it is a newer one than Debian's, the reference.
pub fn both(lab: &Lab) -> Vec<Call<'_>> {
    std::iter::once(lab.plugin("tuning")).chain(reference_is_newer().then(|| lab.reference("tuning"))).collect()
}

pub fn sysctl(lab: &Lab, name: &str) -> String {
    lab.ok(&format!("ip netns exec ns1 cat /proc/sys/net/{name}")).trim().replace('\t', " ")
}

/// What tuning can change: the link, sysctls, files.
pub fn state(lab: &Lab) -> Vec<String> {
    let link = lab.link_in("ns1", "eth0");
    let mut facts: Vec<String> = ["address", "mtu", "txqlen", "flags", "promiscuity", "allmulti"]
        .iter()
        .map(|key| format!("{key} {}", link[*key]).replace("\"NO-CARRIER\",", ""))
        .collect();
    for name in ["conf/eth0/arp_filter", "conf/eth0/log_martians", "ip_local_port_range", "ip_default_ttl"] {
        facts.push(format!("{name} {}", sysctl(lab, &format!("ipv4/{name}"))));
    }
    facts.extend(lab.list(SAVED).into_iter().filter(|name| name != ".cni-box"));
    facts.extend(lab.list(&format!("{SAVED}/.cni-box")));
    facts
}

/// Configurations that Debian's reference knows.
fn configurations() -> Configurations {
    let nothing = json!({});
    vec![
        ("nothing", nothing.clone()),
        ("all", full()),
        ("mac", json!({"mac": "02:00:00:00:00:44"})),
        ("mac without separators", json!({"mac": "0200.0000.0044"})),
        ("mtu", json!({"mtu": 9000})),
        ("promisc", json!({"promisc": true})),
        ("no promisc", json!({"promisc": false, "mtu": 0})),
        ("allmulti", json!({"allmulti": true})),
        ("no allmulti", json!({"allmulti": false})),
        ("sysctl", json!({"sysctl": {"net.ipv4.ip_default_ttl": "33"}})),
        ("several values", json!({"sysctl": {"net.ipv4.ip_local_port_range": "2000 3000"}})),
        ("runtime mac", json!({"mac": "02:00:00:00:00:44", "runtimeConfig": {"mac": "02:00:00:00:00:55"}})),
        (
            "args",
            json!({"mac": "02:00:00:00:00:44", "mtu": 1300, "promisc": true, "sysctl": {"net.ipv4.ip_default_ttl": "33"},
                "args": {"cni": {"mac": "02:00:00:00:00:66", "mtu": 1234, "promisc": false, "allmulti": true,
                    "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1", "net.ipv4.ip_default_ttl": "44"}}}}),
        ),
        ("args take the mac away", json!({"mac": "02:00:00:00:00:44", "args": {"cni": {"mac": ""}}})),
        (
            "old version",
            merged(
                full(),
                &json!({"cniVersion": "0.3.1", "prevResult": {"cniVersion": "0.3.1",
            "ips": [{"version": "4", "address": "10.0.0.2/24", "interface": 1}]}}),
            ),
        ),
    ]
}

#[test]
fn both_set_the_same_and_put_the_same_back() {
    for (name, changes) in configurations() {
        eprintln!("{name}");
        let (lab, other) = (lab(), lab());
        let call = lab.plugin("tuning").config(&config(&changes));
        let reference = other.reference("tuning").config(&config(&changes));
        assert_eq!(call.run().result(), reference.run().result());
        let states = [&lab, &other].map(|lab| {
            let facts = state(lab);
            // The second name is that of our record.
            let files = facts.iter().filter(|fact| *fact == "c1_eth0.json").count();
            (facts.into_iter().filter(|fact| fact != "c1_eth0.json").collect::<Vec<_>>(), files > 0)
        });
        assert_eq!(states[0], states[1]);
        if states[0].1 {
            assert_eq!(lab.read(FILE), other.read(FILE));
        }
        if name != "old version" && name != "several values" {
            call.clone().verb("CHECK").run().silent();
        }
        call.verb("DEL").run().silent();
        reference.verb("DEL").run().silent();
        assert_eq!(state(&lab), state(&other));
    }
}

#[test]
fn each_ends_what_the_other_began() {
    for theirs_first in [false, true] {
        let lab = lab();
        let before = state(&lab);
        let changes = merged(full(), &json!({"sysctl": null}));
        let calls = [lab.plugin("tuning"), lab.reference("tuning")].map(|call| call.config(&config(&changes)));
        calls[usize::from(theirs_first)].run().result();
        assert_ne!(state(&lab), before);
        calls[usize::from(!theirs_first)].clone().verb("DEL").run().silent();
        let mut after = state(&lab);
        // Our record, which the reference does not know, is left to GC.
        after.retain(|fact| fact != "c1_eth0.json");
        assert_eq!(after, before, "{theirs_first}");
        lab.plugin("tuning").verb("DEL").config(&config(&changes)).run().silent();
        assert_eq!(state(&lab), before);
    }
}

/// Configurations and CNI_ARGS that both refuse in the same words.
#[test]
fn both_refuse_the_same() {
    let cases = [
        (json!({"prevResult": null}), "", "Required prevResult missing"),
        (json!({"sysctl": {"kernel.hostname": "x"}}), "", "invalid net sysctl key: "),
        (json!({"sysctl": {"../kernel.hostname": "x"}}), "", "invalid net sysctl key: "),
        (json!({"sysctl": {"net/../../kernel/hostname": "x"}}), "", "open /proc/sys/net/kernel/hostname"),
        (json!({"sysctl": {"net": "x"}}), "", "invalid net sysctl key: \"net\""),
        (json!({"sysctl": {"": "x"}}), "", "invalid net sysctl key: \"\""),
        (json!({"sysctl": {"net.ipv4.nope": "1"}}), "", "open /proc/sys/net/ipv4/nope: no such file or directory"),
        (json!({"sysctl": {"net.ipv4.conf": "1"}}), "", "/proc/sys/net/ipv4/conf: is a directory"),
        (
            json!({"sysctl": {"net.ipv4.ip_default_ttl": "x"}}),
            "",
            "write /proc/sys/net/ipv4/ip_default_ttl: invalid argument",
        ),
        (json!({"sysctl": {"net.ipv4.ip_default_ttl": 1}}), "", "json: cannot unmarshal number"),
        (json!({"sysctl": ["x"]}), "", "json: cannot unmarshal array"),
        (json!({"mac": "02:00"}), "", "invalid args 02:00 for MAC addr: address 02:00: invalid MAC address"),
        (json!({"mac": "01:00:00:00:00:01"}), "", "cannot assign requested address"),
        (json!({"mac": 7}), "", "json: cannot unmarshal number"),
        (json!({"mtu": 70000}), "", "invalid argument"),
        (json!({"mtu": 10}), "", "invalid argument"),
        (json!({"mtu": "big"}), "", "failed to load netconf: json: cannot unmarshal string"),
        (json!({"promisc": 1}), "", "json: cannot unmarshal number"),
        (json!({"mtu": 1300}), "MTU=1", "ARGS: unknown args [\"MTU=1\"]"),
        (json!({"mtu": 1300}), "MAC", "ARGS: invalid pair \"MAC\""),
    ];
    for (changes, args, part) in cases {
        eprintln!("{changes} {args}");
        let lab = lab();
        let before = state(&lab);
        let good = json!({"sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}});
        let with_more = if changes["sysctl"].is_array() { config(&changes) } else { merged(config(&good), &changes) };
        lab.plugin("tuning").args(args).config(&with_more).run().fails_with(999, &[part]);
        assert_eq!(state(&lab), before);
        lab.reference("tuning").args(args).config(&config(&changes)).run().fails_with(999, &[part]);
    }
}

#[test]
fn a_missing_link_or_namespace_is_named() {
    let lab = lab();
    let before = state(&lab);
    for call in [lab.plugin("tuning"), lab.reference("tuning")] {
        let call = call.config(&config(&json!({"mtu": 1300})));
        call.clone().ifname("eth7").run().fails(999, "failed to get \"eth7\": Link not found");
        let check = call.clone().verb("CHECK").ifname("eth7");
        check.run().fails(999, "Cannot find container link eth7");
        let text = "failed to Statfs \"/run/netns/none\": no such file or directory";
        call.netns("/run/netns/none").run().fails(999, text);
        assert_eq!(state(&lab), before);
    }
}

#[test]
fn newer_the_interface_in_a_key_and_the_queue() {
    let lab = lab();
    let before = state(&lab);
    let changes = json!({"txQLen": 0, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}});
    ours(&lab, "ADD", &changes).result();
    assert_eq!(
        (lab.link_in("ns1", "eth0")["txqlen"].as_u64().unwrap_or(0), sysctl(&lab, "ipv4/conf/eth0/arp_filter")),
        (0, "1".into())
    );
    assert_eq!(lab.read(FILE), "{\n \"txQLen\": 1000\n}");
    ours(&lab, "CHECK", &changes).silent();
    lab.ok("ip -n ns1 link set eth0 txqueuelen 5");
    ours(&lab, "CHECK", &changes)
        .fails(999, "Error: Tuning configured Transmit Queue Length of eth0 is 0, current value is 5");
    ours(&lab, "DEL", &changes).silent();
    lab.ok("ip netns exec ns1 sysctl -q net.ipv4.conf.eth0.arp_filter=0");
    assert_eq!(state(&lab), before);
}

#[test]
fn better_the_mtu_is_in_the_result() {
    let lab = lab();
    let result = ours(&lab, "ADD", &json!({"cniVersion": "1.1.0", "mtu": 1400, "mac": "0A:00:00:00:00:33"})).result();
    let interface = &result["interfaces"][1];
    assert_eq!((&interface["mtu"], &interface["mac"]), (&1400.into(), &"0A:00:00:00:00:33".into()));
    assert_eq!(result["interfaces"][0]["mtu"], Value::Null);
}

#[test]
fn mac_wishes_have_a_rank() {
    let wishes = json!({"mac": "02:00:00:00:00:44"});
    for (changes, expected) in [
        (json!({}), "02:00:00:00:00:55"),
        (json!({"runtimeConfig": {"mac": "02:00:00:00:00:66"}}), "02:00:00:00:00:66"),
        (
            json!({"runtimeConfig": {"mac": "02:00:00:00:00:66"}, "args": {"cni": {"mac": "02:00:00:00:00:77"}}}),
            "02:00:00:00:00:77",
        ),
    ] {
        for is_ours in [true, false] {
            let lab = lab();
            let call = if is_ours { lab.plugin("tuning") } else { lab.reference("tuning") };
            let call = call
                .args("IgnoreUnknown=1;X=Y;MAC=02:00:00:00:00:55")
                .config(&config(&merged(wishes.clone(), &changes)));
            let result = call.run().result();
            assert_eq!(result["interfaces"][1]["mac"], expected);
            assert_eq!(lab.link_in("ns1", "eth0")["address"], expected);
        }
    }
}

#[test]
fn a_chain_of_bridge_and_tuning() {
    let lab = Lab::new();
    lab.netns("ns1");
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}});
    let tuning = json!({"type": "tuning", "capabilities": {"mac": true}, "mtu": 1400,
        "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}});
    let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [bridge, tuning]});
    lab.write("/etc/cni/net.d/10-net.conflist", list.to_string());
    let call = |verb: &str| {
        lab.cnitool(&[verb, "net", "/var/run/netns/ns1"]).env("CAP_ARGS", r#"{"mac":"02:00:00:00:00:77"}"#).run()
    };
    let result = call("add").result();
    assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:77");
    assert_eq!(result["ips"][0]["interface"], 2);
    let link = lab.link_in("ns1", "eth0");
    assert_eq!((&link["mtu"], &link["address"]), (&1400.into(), &"02:00:00:00:00:77".into()));
    lab.ok("ip netns exec ns1 ping -c 1 -W 5 10.1.2.1");
    call("check").silent();
    call("del").silent();
    assert_eq!((lab.list(SAVED), lab.veths().len()), (vec![".cni-box".to_string()], 0));
}
