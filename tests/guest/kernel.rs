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
