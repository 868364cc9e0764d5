//! tuning: what it sets, what it refuses, what it puts back; compared with the reference.

use serde_json::{Value, json};

use crate::kills::{Accident, Trial, every};
use crate::lab::{Call, Configurations, Lab, Outcome, merged, reference_is_newer};

const SAVED: &str = "/run/cni/tuning";
const FILE: &str = "/run/cni/tuning/c1_eth0.json";
const ALLOWLIST: &str = "/etc/cni/tuning/allowlist.conf";

/// A host with `ns1`, in it `eth0` of a veth pair.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.netns("ns1");
    interface(&lab);
    lab
}

fn interface(lab: &Lab) {
    lab.ok("ip link add vh address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns ns1");
    lab.ok("ip link set vh up");
    lab.ok("ip -n ns1 link set eth0 up txqueuelen 1000");
}

fn config(changes: &Value) -> Value {
    let base = json!({"cniVersion": "1.0.0", "name": "net", "type": "tuning",
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24", "interface": 1}],
            "dns": {"nameservers": ["10.0.0.1"]}, "interfaces": [
            {"name": "vh", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/var/run/netns/ns1"}]}});
    merged(base, changes)
}

/// Everything at once.
fn full() -> Value {
    json!({"mac": "0A-00-00-00-00-33", "mtu": 1400, "promisc": true, "allmulti": true,
        "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1", "net/ipv4/conf/eth0/log_martians": "1"}})
}

fn ours(lab: &Lab, verb: &str, changes: &Value) -> Outcome {
    lab.plugin("tuning").verb(verb).config(&config(changes)).run()
}

/// Ours and, if it is a newer one than Debian's, the reference.
fn both(lab: &Lab) -> Vec<Call<'_>> {
    std::iter::once(lab.plugin("tuning")).chain(reference_is_newer().then(|| lab.reference("tuning"))).collect()
}

fn sysctl(lab: &Lab, name: &str) -> String {
    lab.ok(&format!("ip netns exec ns1 cat /proc/sys/net/{name}")).trim().replace('\t', " ")
}

/// What tuning can change: the link, sysctls, files.
fn state(lab: &Lab) -> Vec<String> {
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
fn newer_a_key_may_be_there_only_once() {
    for sysctls in [r#"{"net.ipv4.a":"1","net.ipv4.a":"2"}"#, r#"{"net.ipv4.a":"1","net.ipv4.\u0061":"2"}"#] {
        let lab = lab();
        let text = config(&json!({})).to_string().replacen('{', &format!("{{\"sysctl\":{sysctls},"), 1);
        for call in both(&lab) {
            for verb in ["ADD", "CHECK"] {
                call.clone().verb(verb).stdin(&text).run().fails(999, "duplicated sysctl keys are not allowed");
            }
            call.clone().verb("DEL").stdin(&text).run().silent();
        }
    }
}

/// The last word is the one that stays: minimum above maximum is refused.
#[test]
fn better_sysctls_are_set_in_the_order_of_the_file() {
    let lab = lab();
    let keys = r#"{"net.ipv4.conf.eth0.arp_filter":"1","net.ipv4.conf.all.arp_filter":"0","net.ipv4.conf.default.arp_filter":"1"}"#;
    let text = config(&json!({})).to_string().replacen('{', &format!("{{\"sysctl\":{keys},"), 1);
    let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=openat,open,write"];
    lab.plugin("tuning").stdin(text).under(&strace).run().result();
    let trace = lab.read("/run/lab/trace");
    let writes = trace.lines().filter(|line| line.contains("/proc/sys/net") && line.contains("O_WRONLY"));
    let names: Vec<_> = writes.map(|line| line.split('/').nth(6).unwrap().to_string()).collect();
    assert_eq!(names, ["eth0", "all", "default"]);
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
fn better_args_may_bring_the_only_sysctls() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"args": {"cni": {"sysctl": {"net.ipv4.ip_default_ttl": "33"}}}})).result();
    assert_eq!(sysctl(&lab, "ipv4/ip_default_ttl"), "33");
}

#[test]
fn newer_the_allowlist_is_kept() {
    let changes = |key: &str| json!({"sysctl": {key: "1"}});
    for (list, key, allowed) in [
        ("^net\\.ipv4\\.conf\\.eth0\\.[a-z_]*$\n", "net.ipv4.conf.eth0.arp_filter", true),
        ("\n  arp_filter  \n", "net.ipv4.conf.eth0.arp_filter", true),
        ("zz\n^net\\.(ipv4|ipv6)\\.conf\\.(all|eth\\d+)\\.\\w{3,20}$", "net.ipv4.conf.eth0.arp_filter", true),
        ("^net\\.ipv4\\.conf\\.eth0", "net/ipv4/conf/eth0/arp_filter", false),
        ("^arp_filter$\n# comment\nx y", "net.ipv4.conf.eth0.arp_filter", false),
        ("", "net.ipv4.conf.eth0.arp_filter", false),
    ] {
        let lab = lab();
        lab.write(ALLOWLIST, list);
        for call in both(&lab) {
            let outcome = call.config(&config(&changes(key))).run();
            let lines: Vec<_> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let text =
                format!("Sysctl {key} is not allowed. Only the following sysctls are allowed: [{}]", lines.join(" "));
            match allowed {
                true => drop(outcome.result()),
                false => drop(outcome.fails(999, &text)),
            }
        }
        let of_args = json!({"args": {"cni": changes("net.ipv4.tcp_sack")}, "sysctl": {}});
        ours(&lab, "ADD", &of_args).fails_with(999, &["Sysctl net.ipv4.tcp_sack is not allowed"]);
        ours(&lab, "ADD", &json!({"mtu": 1300})).result();
    }
    let lab = lab();
    lab.write(ALLOWLIST, "a(b");
    for call in both(&lab) {
        let text = "error parsing regexp: missing closing )";
        call.config(&config(&changes("net.ipv4.conf.eth0.arp_filter"))).run().fails_with(999, &[text]);
    }
}

#[test]
fn better_what_is_denied_names_the_file() {
    let lab = lab();
    lab.write(ALLOWLIST, "x");
    let outcome = ours(&lab, "ADD", &json!({"sysctl": {"net.ipv4.ip_default_ttl": "1"}}));
    assert_eq!(outcome.error().2, format!("none of the patterns in {ALLOWLIST} matches it"));
}

#[test]
fn better_a_read_only_proc_sys_with_the_wanted_values_does_no_harm() {
    let lab = lab();
    let all = ["net.ipv4.ip_default_ttl", "net.ipv4.conf.all.arp_filter", "net.ipv4.ip_local_port_range"];
    lab.sh("ip netns exec ns1 sysctl -q 'net.ipv4.ip_local_port_range=2000\t3000'").success();
    lab.sh("mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys").success();
    let changes = json!({"sysctl": {all[0]: "64", all[1]: "0", all[2]: "2000 3000"}});
    ours(&lab, "ADD", &changes).result();
    ours(&lab, "CHECK", &changes).silent();
    let text = "failed to set sysctl: write /proc/sys/net/ipv4/ip_default_ttl: read-only file system";
    ours(&lab, "ADD", &json!({"mtu": 1300, "sysctl": {all[0]: "63"}})).fails(999, text);
    assert_eq!(lab.link_in("ns1", "eth0")["mtu"], 1500);
    assert_eq!(lab.list(SAVED), [".cni-box"]);
}

/// The kernel gives the value of `all` to every interface, also if `all` has it already.
#[test]
fn a_value_for_all_reaches_every_interface() {
    let lab = lab();
    lab.ok("ip netns exec ns1 sysctl -q net.ipv6.conf.eth0.disable_ipv6=1");
    ours(&lab, "ADD", &json!({"sysctl": {"net.ipv6.conf.all.disable_ipv6": "0"}})).result();
    assert_eq!(sysctl(&lab, "ipv6/conf/eth0/disable_ipv6"), "0");
}

#[test]
fn a_setting_that_can_only_be_written_is_written() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"sysctl": {"net.ipv4.route.flush": "1"}})).result();
}

#[test]
fn better_a_second_add_keeps_the_originals() {
    let lab = lab();
    let before = state(&lab);
    ours(&lab, "ADD", &json!({"mtu": 1400})).result();
    ours(&lab, "ADD", &json!({"mtu": 1300, "mac": "02:00:00:00:00:44", "promisc": true})).result();
    let golden = "{\n \"mac\": \"02:00:00:00:00:02\",\n \"promisc\": false,\n \"mtu\": 1500\n}";
    assert_eq!(lab.read(FILE), golden);
    ours(&lab, "DEL", &json!({})).silent();
    assert_eq!(state(&lab), before);
    ours(&lab, "ADD", &json!({"mtu": 1350})).result();
    ours(&lab, "DEL", &json!({})).silent();
    ours(&lab, "DEL", &json!({})).silent();
    assert_eq!(state(&lab), before);
}

/// cnitool makes the container id of the namespace's path.
#[test]
fn better_the_originals_of_an_earlier_namespace_do_not_count() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"mtu": 1400, "promisc": true})).result();
    for made_anew in [false, true] {
        lab.ok("ip link del vh");
        lab.ok("ip netns del ns1");
        lab.netns("ns1");
        interface(&lab);
        lab.ok("ip -n ns1 link set eth0 mtu 1450");
        if made_anew {
            ours(&lab, "ADD", &json!({"mtu": 1400})).result();
            assert_eq!(lab.read(FILE), "{\n \"mtu\": 1450\n}");
        }
        ours(&lab, "DEL", &json!({})).silent();
        assert_eq!(lab.link_in("ns1", "eth0")["mtu"], 1450);
        assert_eq!(lab.list(SAVED), [".cni-box"]);
    }
}

#[test]
fn better_del_forgets_what_cannot_be_put_back() {
    type End = fn(&Lab, Call<'_>) -> Outcome;
    let endings: [(&str, End); 4] = [
        ("no namespace", |lab, call| {
            lab.ok("ip netns del ns1");
            call.run()
        }),
        ("no name of it", |_, call| call.netns("").run()),
        ("a file instead", |lab, call| {
            lab.ok("ip netns del ns1");
            lab.write("/run/netns/ns1", "");
            call.run()
        }),
        ("no link", |lab, call| {
            lab.ok("ip -n ns1 link del eth0");
            call.run()
        }),
    ];
    for (name, end) in endings {
        let lab = lab();
        ours(&lab, "ADD", &full()).result();
        eprintln!("{name}");
        end(&lab, lab.plugin("tuning").verb("DEL").config(&config(&full()))).silent();
        assert_eq!((lab.list(SAVED), lab.list(&format!("{SAVED}/.cni-box")).len()), (vec![".cni-box".to_string()], 0));
    }
}

#[test]
fn better_del_does_not_mind_nonsense() {
    let lab = lab();
    let before = state(&lab);
    ours(&lab, "ADD", &json!({"mtu": 1300})).result();
    let nonsense = json!({"mtu": "x", "mac": 1, "sysctl": ["y"], "prevResult": null, "args": {"cni": 1}});
    lab.plugin("tuning").verb("DEL").args("A;B").config(&config(&nonsense)).run().silent();
    assert_eq!(state(&lab), before);
}

#[test]
fn what_is_no_backup_is_forgotten_and_changes_nothing() {
    for text in ["", "{", "[]", "{\"mac\": 1}", "{\"mac\": \"x\", \"mtu\": 1400}", "{\"mtu\": -1}"] {
        let lab = lab();
        let before = state(&lab);
        lab.write(FILE, text);
        ours(&lab, "DEL", &json!({})).silent();
        assert_eq!(state(&lab), before, "{text}");
    }
}

/// What the kernel refuses to put back is kept.
#[test]
fn del_succeeds_and_keeps_what_the_kernel_refuses() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"mtu": 1300})).result();
    lab.write(FILE, "{\"mtu\": 10, \"promisc\": true}");
    ours(&lab, "DEL", &json!({})).silent();
    assert_eq!(lab.list(SAVED), [".cni-box", "c1_eth0.json"]);
    assert_eq!(lab.link_in("ns1", "eth0")["promiscuity"], 1, "all else is put back");
}

#[test]
fn better_a_failed_add_leaves_everything_as_it_was() {
    let bad = [
        json!({"mtu": 70000}),
        json!({"sysctl": {"net.ipv4.ip_default_ttl": "900"}}),
        json!({"mac": "01:00:00:00:00:01"}),
    ];
    for changes in bad {
        for is_second in [false, true] {
            let lab = lab();
            if is_second {
                ours(&lab, "ADD", &json!({"mtu": 1350})).result();
            }
            let file = || lab.exists(FILE).then(|| lab.read(FILE));
            let before = (state(&lab), file());
            ours(&lab, "ADD", &merged(full(), &changes)).fails_with(999, &["failed to set"]);
            assert_eq!((state(&lab), file()), before, "{changes} {is_second}");
        }
    }
}

#[test]
fn better_an_add_that_is_killed_or_refused_any_of_its_changes_is_undone() {
    for accident in [Accident::Killed, Accident::Refused] {
        let lab = lab();
        let changes = match accident {
            // DEL leaves sysctls alone, as the reference does.
            Accident::Killed => merged(full(), &json!({"sysctl": null})),
            Accident::Refused => merged(full(), &json!({"sysctl": {"net.ipv4.ip_default_ttl": "33"}})),
        };
        let add = lab.plugin("tuning").config(&config(&changes));
        let delete = add.clone().verb("DEL").config(&config(&json!({"prevResult": null})));
        add.run().result();
        delete.run().silent();
        let restore = || {
            lab.ok("ip netns exec ns1 sysctl -q net.ipv4.ip_default_ttl=64 net.ipv4.conf.eth0.arp_filter=0 net.ipv4.conf.eth0.log_martians=0")
        };
        restore();
        let before = state(&lab);
        let untouched = || {
            let after = state(&lab);
            // DEL, which comes when the ADD was not hit, leaves sysctls.
            let is_added = after.iter().any(|fact| fact == "ipv4/ip_default_ttl 33");
            assert!(!is_added);
            let link = |facts: &[String]| {
                facts.iter().filter(|fact| !fact.contains("/") && !fact.starts_with("ip_")).cloned().collect::<Vec<_>>()
            };
            assert_eq!(link(&after), link(&before));
            restore();
        };
        Trial { lab: &lab, add, delete, ioctls: 0, which: every, untouched: &untouched }.suffers(accident);
    }
}

#[test]
fn check_names_what_is_wrong() {
    let lab = lab();
    let changes = merged(full(), &json!({"mac": "0a:00:00:00:00:33"}));
    ours(&lab, "ADD", &changes).result();
    let said = "Error: Tuning configured ";
    for (change, text) in [
        (
            "ip -n ns1 link set eth0 address 02:00:00:00:00:09",
            format!("{said}Ethernet of eth0 is 0a:00:00:00:00:33, current value is 02:00:00:00:00:09"),
        ),
        (
            "ip -n ns1 link set eth0 promisc off",
            "Error: Tuning link eth0 configured promisc is true, current value is 0".to_string(),
        ),
        ("ip -n ns1 link set eth0 mtu 1401", format!("{said}MTU of eth0 is 1400, current value is 1401")),
        (
            "ip netns exec ns1 sysctl -q net.ipv4.conf.eth0.arp_filter=0",
            format!("{said}value of /proc/sys/net/ipv4/conf/eth0/arp_filter is 1, current value is 0"),
        ),
    ] {
        for call in [lab.plugin("tuning"), lab.reference("tuning")] {
            call.verb("CHECK").config(&config(&changes)).run().silent();
        }
        lab.ok(change);
        for call in [lab.plugin("tuning"), lab.reference("tuning")] {
            call.verb("CHECK").config(&config(&changes)).run().fails(999, &text);
        }
        ours(&lab, "ADD", &changes).result();
    }
    lab.ok("ip -n ns1 link set eth0 allmulticast off");
    let text = format!("{said}all-multicast mode of eth0 is true, current value is false");
    ours(&lab, "CHECK", &changes).fails(999, &text);
    ours(&lab, "CHECK", &json!({"prevResult": null})).fails(999, "Required prevResult missing");
}

#[test]
fn better_check_raises_no_false_alarm() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"mac": "0A-00-00-00-00-33", "sysctl": {"net.ipv4.ip_local_port_range": "2000 3000"}}))
        .result();
    lab.ok("ip -n ns1 link set eth0 promisc on");
    let changes = json!({"mac": "0A-00-00-00-00-33", "sysctl": {"net.ipv4.ip_local_port_range": "2000 3000"}});
    ours(&lab, "CHECK", &changes).silent();
}

#[test]
fn newer_gc_ends_what_is_not_valid_any_more() {
    let lab = lab();
    lab.netns("ns2");
    lab.ok("ip link add vh2 type veth peer name eth0 netns ns2");
    let call = |container: &str, netns: &str, network: &str, verb: &str, changes: &Value| {
        let config = config(&merged(json!({"cniVersion": "1.1.0", "name": network, "mtu": 1300}), changes));
        lab.plugin("tuning").verb(verb).container(container).netns(netns).config(&config).run()
    };
    let (ns1, ns2) = ("/var/run/netns/ns1", "/var/run/netns/ns2");
    call("c1", ns1, "net", "ADD", &json!({})).result();
    call("c2", ns2, "net", "ADD", &json!({})).result();
    lab.write(&format!("{SAVED}/c9_eth0.json"), "{}");
    let gc = |valid: &Value| call("", "", "net", "GC", &json!({"cni.dev/valid-attachments": valid})).silent();
    call("", "", "net", "GC", &json!({})).silent();
    call("", "", "other", "GC", &json!({"cni.dev/valid-attachments": []})).silent();
    assert_eq!(lab.list(SAVED), [".cni-box", "c1_eth0.json", "c2_eth0.json", "c9_eth0.json"]);
    gc(&json!([{"containerID": "c1", "ifname": "eth0"}]));
    assert_eq!(lab.list(SAVED), [".cni-box", "c1_eth0.json", "c9_eth0.json"]);
    assert_eq!(
        (lab.link_in("ns1", "eth0")["mtu"].clone(), lab.link_in("ns2", "eth0")["mtu"].clone()),
        (1300.into(), 1500.into())
    );
    lab.ok("ip netns del ns1");
    gc(&json!([]));
    assert_eq!(lab.list(SAVED), [".cni-box", "c9_eth0.json"]);
    assert_eq!(lab.list(&format!("{SAVED}/.cni-box")), [""; 0]);
}

#[test]
fn newer_status_says_whether_add_would_work() {
    let lab = lab();
    let status = |changes: &Value| {
        let config = config(&merged(json!({"cniVersion": "1.1.0", "prevResult": null}), changes));
        lab.plugin("tuning").verb("STATUS").config(&config).run()
    };
    status(&merged(full(), &json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}))).silent();
    assert!(!lab.exists(SAVED));
    status(&json!({"mac": "x"})).fails(50, "invalid args x for MAC addr: address x: invalid MAC address");
    lab.ok("mkdir /run/ro");
    lab.ok("mount -t tmpfs -o ro tmpfs /run/ro");
    status(&json!({"mtu": 1300, "dataDir": "/run/ro/x"})).fails_with(50, &["failed to create backup directory"]);
    status(&json!({"sysctl": {"kernel.x": "1"}})).fails_with(50, &["invalid net sysctl key"]);
    lab.write(ALLOWLIST, "x");
    status(&json!({"sysctl": {"net.ipv4.ip_default_ttl": "1"}})).fails_with(50, &["is not allowed"]);
}

#[test]
fn better_the_folder_is_for_root_only() {
    let lab = lab();
    ours(&lab, "ADD", &json!({"mtu": 1300, "dataDir": "/run/deep/data"})).result();
    let modes = lab.ok("stat -c %a /run/deep /run/deep/data /run/deep/data/c1_eth0.json /run/deep/data/.cni-box");
    assert_eq!(modes.split_whitespace().collect::<Vec<_>>(), ["755", "700", "600", "700"]);
    let text = ours(&lab, "ADD", &json!({"mtu": 1200, "dataDir": "/proc/x"}));
    text.fails_with(999, &["failed to create backup directory"]);
    assert_eq!(lab.link_in("ns1", "eth0")["mtu"], 1300);
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
