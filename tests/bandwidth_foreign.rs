//! bandwidth beside the qdiscs, classes and filters of other programs: ADD works, DEL leaves theirs, and no filter of ours leads
//! to a device that is gone.

use serde_json::{Value, json};

use crate::bandwidth::{IFB, attached, both, host_end, run};
use crate::cross::Side::{Ours, Theirs};
use crate::lab::{Lab, merged};

/// Objects of another program, on the host's end `$H`.
const FOREIGN: [&str; 10] = [
    "tc qdisc add dev $H ingress",
    "tc qdisc add dev $H clsact",
    "tc qdisc add dev $H ingress; tc filter add dev $H ingress protocol ip pref 7 u32 match ip dport 9999 0xffff flowid 1:9",
    "tc qdisc add dev $H ingress; tc filter add dev $H ingress protocol all pref 1 u32 match ip dport 9999 0xffff flowid 1:9",
    "tc qdisc add dev $H ingress; tc filter add dev $H ingress protocol ip pref 1 u32 match ip dport 9999 0xffff flowid 1:9",
    "tc qdisc add dev $H ingress; tc filter add dev $H ingress protocol ipv6 pref 1 u32 match ip6 dport 9999 0xffff flowid 1:9
        tc filter add dev $H ingress protocol all pref 2 u32 match ip dport 9998 0xffff flowid 1:9
        tc filter add dev $H ingress protocol ip pref 3 u32 match ip dport 9997 0xffff flowid 1:9",
    "tc qdisc add dev $H clsact; tc filter add dev $H ingress protocol ip pref 1 u32 match ip dport 9999 0xffff flowid 1:9
        tc filter add dev $H egress protocol all pref 1 u32 match ip dport 9999 0xffff flowid 1:9",
    "tc qdisc add dev $H ingress; tc filter add dev $H ingress protocol all pref 1 chain 3 u32 match u32 0 0 flowid 1:9",
    "tc qdisc add dev $H ingress; tc filter add dev $H ingress protocol ip pref 1 u32 match ip dport 9999 0xffff action mirred egress redirect dev cni0",
    "tc qdisc add dev $H ingress; tc chain add dev $H ingress chain 5",
];

/// Qdiscs, chains and filters of the host's end, but for its root.
fn objects(lab: &Lab, host: &str) -> Vec<String> {
    let ask = |words: &str| lab.run(&format!("tc {words}").split(' ').collect::<Vec<_>>()).stdout;
    let mut text = ask(&format!("qdisc show dev {host}"));
    for side in ["ingress", "egress"] {
        text += &ask(&format!("filter show dev {host} {side}"));
    }
    text += &ask(&format!("chain show dev {host} ingress"));
    // The numbers of actions are the kernel's.
    let is_root = |line: &str| line.contains(" root ") || line.trim_start().starts_with("index ");
    let lines: Vec<String> = text.lines().filter(|line| !is_root(line)).map(|line| line.trim().to_string()).collect();
    lines.into_iter().filter(|line| !line.is_empty() && *line != "chain parent ffff: chain 0").collect()
}

/// All qdiscs, without htb's counter of packets.
fn qdiscs(lab: &Lab) -> String {
    let text = lab.ok("tc qdisc show");
    let mut words = text.split_whitespace();
    let mut shown = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "direct_packets_stat" => drop(words.next()),
            word => shown.push(word),
        }
    }
    shown.join(" ")
}

fn make(lab: &Lab, host: &str, script: &str) {
    lab.sh(&format!("H={host}; {script}")).success();
}

/// Packets that have been sent through the ifb.
fn passed(lab: &Lab) -> u64 {
    let link: Value = serde_json::from_str(&lab.ok(&format!("ip -s -j link show {IFB}"))).unwrap();
    link[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

fn ping(lab: &Lab) {
    lab.ok("ip netns exec ns1 ping -n -c 1 -W 2 10.1.2.1");
}

#[test]
fn better_add_works_beside_other_programs_and_del_leaves_what_they_have() {
    for script in FOREIGN {
        let (lab, config) = attached(&both());
        let host = host_end(&config);
        make(&lab, &host, script);
        let before = objects(&lab, &host);
        for round in 1..3 {
            run(&lab, Ours, "ADD", &config).result();
            run(&lab, Ours, "CHECK", &config).silent();
            run(&lab, Ours, "ADD", &config).result();
            let count = passed(&lab);
            ping(&lab);
            assert!(passed(&lab) > count, "{script}: not limited in round {round}");
            run(&lab, Ours, "DEL", &config).silent();
            assert_eq!(objects(&lab, &host), before, "{script}");
            ping(&lab);
        }
    }
}

/// The other program comes later than ADD, which may have been the Go plugin's.
#[test]
fn better_del_leaves_no_filter_that_leads_to_a_device_that_is_gone() {
    let filters = [
        "tc filter add dev $H ingress protocol ip pref 7 u32 match ip dport 9999 0xffff flowid 1:9",
        "tc filter add dev $H ingress protocol all pref 1 u32 match ip dport 9999 0xffff flowid 1:9",
        "tc filter add dev $H ingress protocol all pref 1 chain 3 u32 match u32 0 0 flowid 1:9",
        "tc filter add dev $H ingress protocol all pref 9 u32 match u32 0 0 flowid 1:1 action mirred egress redirect dev cni0",
    ];
    for (side, script) in filters.iter().flat_map(|script| [Ours, Theirs].map(|side| (side, script))) {
        let (lab, config) = attached(&both());
        let host = host_end(&config);
        run(&lab, side, "ADD", &config).result();
        make(&lab, &host, script);
        run(&lab, Ours, "CHECK", &config).silent();
        run(&lab, Ours, "DEL", &config).silent();
        let left = objects(&lab, &host).join("\n");
        assert!(!left.contains(IFB) && !left.contains("dev *"), "{side:?} {script}: {left}");
        let theirs = ["0000270f", "chain 3", "device cni0"].iter().filter(|words| left.contains(**words)).count();
        assert_eq!(theirs, 1, "{side:?} {script}: {left}");
        assert!(!lab.ok("ip -br link").contains("bwp"), "{side:?} {script}");
        if !script.contains("cni0") {
            ping(&lab);
        }
    }
}

/// The DEL of the Go plugin has deleted the ifb and left the filter.
#[test]
fn better_del_removes_a_filter_whose_device_is_gone_already() {
    let (lab, config) = attached(&both());
    let host = host_end(&config);
    run(&lab, Theirs, "ADD", &config).result();
    make(&lab, &host, "tc filter add dev $H ingress protocol ip pref 7 u32 match ip dport 9999 0xffff flowid 1:9");
    run(&lab, Theirs, "DEL", &config).silent();
    assert!(objects(&lab, &host).join("\n").contains("mirred"));
    run(&lab, Ours, "DEL", &config).silent();
    let left = objects(&lab, &host).join("\n");
    assert!(!left.contains("mirred") && left.contains("pref 7"), "{left}");
    ping(&lab);
}

#[test]
fn better_check_misses_the_filter_beside_others() {
    let (lab, config) = attached(&both());
    let host = host_end(&config);
    make(&lab, &host, FOREIGN[4]);
    run(&lab, Ours, "ADD", &config).result();
    lab.ok(&format!("tc filter del dev {host} ingress pref 2"));
    run(&lab, Ours, "CHECK", &config).fails_with(999, &["get ifb device: Link not found"]);
}

/// What an ADD has begun that fails in the end.
#[test]
fn better_a_failed_add_leaves_what_other_programs_have() {
    for script in FOREIGN {
        let (lab, config) = attached(&both());
        let host = host_end(&config);
        make(&lab, &host, script);
        let before = (objects(&lab, &host), lab.ok("tc qdisc show"), lab.ok("ip -br link"));
        let add = crate::bandwidth::call(&lab, Ours, "ADD", &config);
        assert_eq!(add.under(&["sh", "-c", "exec \"$0\" \"$@\" >/dev/full"]).run().code, Some(1));
        assert_eq!((objects(&lab, &host), lab.ok("tc qdisc show"), lab.ok("ip -br link")), before, "{script}");
    }
}

/// What the kernel cannot do twice, or not for one link alone, is refused, and nothing is changed.
#[test]
fn better_what_the_kernel_cannot_share_is_left_as_it_is() {
    for script in [
        "tc qdisc add dev $H root handle 1: htb; tc class add dev $H parent 1: classid 1:7 htb rate 1mbit",
        "tc qdisc add dev $H root handle 8: htb",
        "tc qdisc add dev $H ingress_block 7 ingress; tc filter add block 7 protocol all pref 1 u32 match u32 0 0 flowid 1:9",
    ] {
        let (lab, config) = attached(&both());
        let host = host_end(&config);
        make(&lab, &host, script);
        let state = || (objects(&lab, &host), qdiscs(&lab), lab.ok(&format!("tc class show dev {host}")));
        let before = state();
        run(&lab, Ours, "ADD", &config).fails_with(999, &[]);
        run(&lab, Ours, "DEL", &config).silent();
        assert_eq!(state(), before, "{script}");
        ping(&lab);
    }
}

/// A queue that another program has put below the bucket stays as long as the bucket.
#[test]
fn better_a_queue_below_the_bucket_stays_with_a_second_add() {
    let (lab, config) = attached(&both());
    let host = host_end(&config);
    run(&lab, Ours, "ADD", &config).result();
    make(&lab, &host, "tc qdisc add dev $H parent 1:1 handle 10: tbf rate 1gbit burst 100k limit 100k");
    let has_queue = || lab.ok(&format!("tc qdisc show dev {host}")).contains("tbf 10: parent 1:1");
    let other = merged(config.clone(), &json!({"ingressRate": 1_000_000, "ingressBurst": 80_000}));
    let add = crate::bandwidth::call(&lab, Ours, "ADD", &other);
    assert_eq!(add.under(&["sh", "-c", "exec \"$0\" \"$@\" >/dev/full"]).run().code, Some(1));
    run(&lab, Ours, "CHECK", &config).silent();
    assert!(has_queue());
    run(&lab, Ours, "ADD", &other).result();
    run(&lab, Ours, "CHECK", &other).silent();
    assert!(has_queue());
    run(&lab, Ours, "DEL", &other).silent();
    assert!(!lab.ok(&format!("tc qdisc show dev {host}")).contains("tbf"));
}
