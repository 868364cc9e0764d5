//! What the kernel has that tests here rely on. If one of these fails, look at scripts/vm-image.sh first.

use crate::lab::{Call, Lab};

/// Every kind of link, in a namespace of its own, with what it is made of.
const LINKS: [(&str, &str); 10] = [
    ("vlan", "link add link m0 name x type vlan id 100"),
    ("ipvlan", "link add link m0 name x type ipvlan mode l2"),
    ("ipvlan", "link add link m0 name x type ipvlan mode l3"),
    ("ipvlan", "link add link m0 name x type ipvlan mode l3s"),
    ("macvlan", "link add link m0 name x type macvlan mode bridge"),
    ("dummy", "link add x type dummy"),
    ("vrf", "link add x type vrf table 10"),
    ("ifb", "link add x type ifb"),
    ("tun", "tuntap add dev x mode tap multi_queue"),
    ("bridge", "link add x type bridge vlan_filtering 1 vlan_default_pvid 0"),
];

#[test]
fn it_has_every_kind_of_link() {
    let lab = Lab::bare();
    for (at, (kind, words)) in LINKS.into_iter().enumerate() {
        let netns = format!("ns{at}");
        lab.netns(&netns);
        let commands = format!("link add m0 type veth peer name m1\n{words}\nlink set m0 up\nlink set x up\n");
        Call::new(&lab, "ip").args_list(&["-n", &netns, "-batch", "-"]).stdin(commands).run().success();
        let link = lab.link_in(&netns, "x");
        assert_eq!(link["linkinfo"]["info_kind"], kind, "{words}: {link}");
    }
}

/// Commands that fail where something is missing, on a host with the pair `m0` and `m1` and the bridge `br0`.
const COMMANDS: [&str; 14] = [
    "ip link set m0 master br0",
    "bridge vlan add dev m0 vid 100 pvid untagged",
    "bridge link set dev m0 isolated on",
    "tc qdisc add dev m1 root tbf rate 1mbit burst 10kb latency 10ms",
    "tc qdisc add dev ifb0 root handle 1: htb default 10",
    "tc class add dev ifb0 parent 1: classid 1:10 htb rate 1mbit",
    "tc qdisc add dev m1 ingress",
    "tc filter add dev m1 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev ifb0",
    "nft add table bridge t",
    "nft add chain bridge t c { type filter hook prerouting priority 0 ; }",
    "nft add rule bridge t c meta ibrname br0 ct state established accept",
    "nft add rule bridge t c reject",
    "conntrack -L",
    "sysctl net.bridge.bridge-nf-call-iptables",
];

#[test]
fn it_filters_vlans_and_shapes_traffic() {
    let lab = Lab::bare();
    let links =
        "link add m0 type veth peer name m1\nlink add br0 type bridge vlan_filtering 1\nlink add ifb0 type ifb\n";
    Call::new(&lab, "ip").args_list(&["-batch", "-"]).stdin(links).run().success();
    COMMANDS.iter().for_each(|words| drop(lab.ok(words)));
    let vlans = lab.ok("bridge vlan show dev m0");
    assert!(vlans.contains("100 PVID Egress Untagged"), "{vlans}");
}
