//! Several interfaces of one container in one network, each with host ports of its own: in iptables
//! they share a chain.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, merged, new_reference_dir, reference_dir, wait_for};
use crate::masquerade::{FLAVOURS, lab};
use crate::portmap::{assert_lines, call, config, mappings, saved};
use crate::portmap_life::container_rules;
use crate::portmap_traffic::{BACKENDS, Site};

const RECORDS: &str = "/run/cni-box/portmap";

/// The configuration for an interface: both families, and ports PORT and PORT + 1 of the host.
fn of(ifname: &str, number: u8, port: u16) -> Value {
    let interfaces = json!([{"name": "br0"}, {"name": ifname, "sandbox": "/var/run/netns/ns1"}]);
    let ips = json!([{"interface": 1, "address": format!("10.0.0.{number}/24")},
        {"interface": 1, "address": format!("2001:db8::{number}/64")}]);
    let list = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": port + 1, "containerPort": 81, "protocol": "udp"},
        {"hostPort": port, "containerPort": 80, "protocol": "tcp", "hostIP": "2001:db8:a::1"}]);
    let previous = json!({"cniVersion": "1.0.0", "interfaces": interfaces, "ips": ips});
    config(&merged(mappings(&list), &json!({"prevResult": previous})))
}

fn ours<'a>(lab: &'a Lab, ifname: &str, config: &Value) -> Call<'a> {
    call(lab, config).ifname(ifname)
}

fn theirs<'a>(lab: &'a Lab, ifname: &str, config: &Value) -> Call<'a> {
    called(lab.reference("portmap"), ifname, config)
}

fn called<'a>(reference: Call<'a>, ifname: &str, config: &Value) -> Call<'a> {
    reference.container("abc123").ifname(ifname).config(config).env("PATH", "/usr/sbin:/usr/bin")
}

/// Without IPv6.
fn v4(config: &Value) -> Value {
    merged(config.clone(), &json!({"prevResult": {"ips": [config["prevResult"]["ips"][0]]}}))
}

fn bare(config: &Value) -> Value {
    merged(config.clone(), &json!({"prevResult": null}))
}

/// Lines of iptables' rules of the container that name this address or one of these ports.
fn about(lab: &Lab, words: &[&str]) -> usize {
    container_rules(lab).iter().filter(|line| words.iter().any(|word| line.contains(word))).count()
}

#[test]
fn better_each_interface_keeps_its_mappings_until_its_own_del() {
    for (flavour, backend) in BACKENDS {
        let site = Site::new(flavour, backend);
        let ports = |first: u16| {
            mappings(&json!([{"hostPort": first, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": first + 1, "containerPort": 81, "protocol": "udp"}]))
        };
        let attach = |ifname: &str, first: u16| {
            let result = site.bridge("web", "ns1").ifname(ifname).run().result();
            site.portmap("web", "ns1", &result, &ports(first)).ifname(ifname).run().result();
            result
        };
        let results = [attach("eth0", 8080), attach("eth1", 9080)];
        // A server for each address: one for all would answer from the first.
        for (name, result) in ["first", "second"].into_iter().zip(&results) {
            for ip in result["ips"].as_array().unwrap() {
                let address = ip["address"].as_str().unwrap().split('/').next().unwrap();
                site.serve("ns1", &format!("{name}-{address}"), address);
            }
        }
        let call = |interface: usize, first: u16, verb: &str| {
            let call = site.portmap("web", "ns1", &results[interface], &ports(first));
            call.ifname(["eth0", "eth1"][interface]).verb(verb).run().success()
        };
        let assert_works = |first: u16, name: &str| {
            for (kind, port) in [("tcp", first), ("udp", first + 1)] {
                for (netns, address) in
                    [("outside", "192.0.2.1"), ("outside", "fd00:2::1"), ("", "127.0.0.1"), ("ns1", "192.0.2.1")]
                {
                    let what = format!("{flavour} {backend} {name}: {kind} {port} {address} from {netns:?}");
                    let ask = || site.ask_from(netns, kind, address, port, 0);
                    wait_for(&what, || ask().is_some_and(|answer| answer.starts_with(name)));
                }
            }
        };
        let assert_ended = |first: u16| {
            for (kind, port) in [("tcp", first), ("udp", first + 1)] {
                assert_eq!(site.ask_from("outside", kind, "192.0.2.1", port, 0), None, "{flavour} {backend} {port}");
            }
        };
        assert_works(8080, "first");
        assert_works(9080, "second");
        call(0, 8080, "CHECK");
        call(1, 9080, "CHECK");
        // Other ports for one of them.
        call(0, 7080, "ADD");
        call(0, 7080, "CHECK");
        call(1, 9080, "CHECK");
        assert_works(7080, "first");
        assert_works(9080, "second");
        assert_ended(8080);
        call(0, 7080, "DEL");
        call(0, 7080, "DEL");
        assert_ended(7080);
        assert_works(9080, "second");
        call(1, 9080, "CHECK");
        call(1, 9080, "DEL");
        assert_ended(9080);
        assert_eq!(container_rules(&site.lab), [""; 0], "{flavour} {backend}");
        assert_eq!(site.lab.list(RECORDS), [""; 0], "{flavour} {backend}");
    }
}

#[test]
fn two_interfaces_have_the_rules_of_the_reference() {
    for flavour in FLAVOURS {
        let (one, two) = (lab(flavour), lab(flavour));
        for (ifname, number, port) in [("eth0", 2, 8000), ("eth1", 3, 9000), ("eth0", 2, 8000)] {
            ours(&one, ifname, &of(ifname, number, port)).run().result();
            theirs(&two, ifname, &of(ifname, number, port)).run().result();
            let v4 = |lab: &Lab| -> Vec<String> {
                let mut lines = saved(lab, flavour);
                lines.retain(|line| line.starts_with("iptables "));
                // The order of the chain of one container is ours after its ADD comes again.
                lines.sort();
                lines
            };
            assert_lines(&format!("{flavour} {ifname}"), &v4(&one), &v4(&two));
        }
    }
}

/// The rules of each interface are made by ours or the reference, checked by both, and removed by
/// ours.
fn keep_each_others_mappings(folder: &str, theirs_checks: bool) {
    for flavour in FLAVOURS {
        for (first, second) in [(true, false), (false, true), (false, false)] {
            let what = format!("{flavour} ours {first} {second}");
            let lab = lab(flavour);
            let theirs = |ifname, config: &Value| called(Call::plugin(&lab, folder, "portmap"), ifname, config);
            // ip6tables-legacy 1.8.9 takes rules with other ports for those that the reference asks
            // for.
            let of = |ifname, number, port| match flavour {
                "legacy" => v4(&of(ifname, number, port)),
                _ => of(ifname, number, port),
            };
            let (eth0, eth1) = (of("eth0", 2, 8000), of("eth1", 3, 9000));
            let add = |is_ours: bool, ifname, config| match is_ours {
                true => ours(&lab, ifname, config).run().result(),
                false => theirs(ifname, config).run().result(),
            };
            let check = |ifname, config| {
                ours(&lab, ifname, config).verb("CHECK").run().silent();
                if theirs_checks {
                    theirs(ifname, config).verb("CHECK").run().silent();
                }
            };
            add(first, "eth0", &eth0);
            add(second, "eth1", &eth1);
            check("eth0", &eth0);
            check("eth1", &eth1);
            ours(&lab, "eth0", &eth0).verb("DEL").run().silent();
            assert_eq!(about(&lab, &["10.0.0.2", "2001:db8::2]", "--dport 8000", "--dports 8000"]), 0, "{what}");
            check("eth1", &eth1);
            ours(&lab, "eth1", &eth1).verb("DEL").run().silent();
            assert_eq!(container_rules(&lab), [""; 0], "{what}");
            assert_eq!(lab.list(RECORDS), [""; 0], "{what}");
            // The reference's DEL is for all of them, and leaves nothing that would be in our way.
            add(true, "eth0", &eth0);
            add(true, "eth1", &eth1);
            theirs("eth0", &eth0).verb("DEL").run().silent();
            assert_eq!(container_rules(&lab), [""; 0], "{what}");
            ours(&lab, "eth1", &eth1).verb("DEL").run().silent();
            add(true, "eth1", &eth1);
            check("eth1", &eth1);
        }
    }
}

/// Debian's CHECK looks for the rules of one family in the table of the other.
#[test]
fn better_interfaces_of_the_reference_and_ours_keep_each_others_mappings() {
    keep_each_others_mappings(&reference_dir(), false);
}

#[test]
fn newer_interfaces_of_the_reference_1_9_and_ours_keep_each_others_mappings() {
    keep_each_others_mappings(&new_reference_dir(), true);
}

#[test]
fn better_del_without_a_result_knows_which_interface_is_which_where_ours_made_it() {
    for flavour in FLAVOURS {
        let (eth0, eth1) = (of("eth0", 2, 8000), of("eth1", 3, 9000));
        let lab = lab(flavour);
        ours(&lab, "eth0", &eth0).run().result();
        ours(&lab, "eth1", &eth1).run().result();
        ours(&lab, "eth1", &bare(&eth1)).verb("DEL").run().silent();
        ours(&lab, "eth0", &eth0).verb("CHECK").run().silent();
        assert_eq!(about(&lab, &["10.0.0.3", "2001:db8::3]", "9000"]), 0, "{flavour}");
        ours(&lab, "eth0", &bare(&eth0)).verb("DEL").run().silent();
        assert_eq!(container_rules(&lab), [""; 0], "{flavour}");
        // Of the reference's rules nothing tells the interface, but those of ours beside them are
        // known.
        theirs(&lab, "eth0", &eth0).run().result();
        ours(&lab, "eth1", &eth1).run().result();
        ours(&lab, "eth0", &bare(&eth0)).verb("DEL").run().silent();
        ours(&lab, "eth1", &eth1).verb("CHECK").run().silent();
        ours(&lab, "eth1", &eth1).verb("DEL").run().silent();
        for (ifname, config) in [("eth0", &eth0), ("eth1", &eth1)] {
            theirs(&lab, ifname, config).run().result();
        }
        ours(&lab, "eth0", &bare(&eth0)).verb("DEL").run().silent();
        assert_eq!(container_rules(&lab), [""; 0], "{flavour}: as the reference");
    }
}

#[test]
fn better_a_repeated_add_replaces_the_interfaces_own_mappings_only() {
    for flavour in FLAVOURS {
        let eth1 = of("eth1", 3, 9000);
        let lab = lab(flavour);
        ours(&lab, "eth0", &of("eth0", 2, 8000)).run().result();
        ours(&lab, "eth1", &eth1).run().result();
        // Other ports, another address, both, and back.
        for (number, port) in [(2, 7000), (7, 7000), (8, 6000), (2, 8000)] {
            let eth0 = of("eth0", number, port);
            ours(&lab, "eth0", &eth0).run().result();
            ours(&lab, "eth0", &eth0).verb("CHECK").run().silent();
            ours(&lab, "eth1", &eth1).verb("CHECK").run().silent();
            let translations = about(&lab, &["-j DNAT"]);
            let entries = about(&lab, &["--dports"]);
            assert_eq!(
                (translations, entries),
                (2 * 5, 2 * 4),
                "{flavour} {number} {port}: {:#?}",
                container_rules(&lab)
            );
            let others = ["10.0.0.2:", "10.0.0.7:", "10.0.0.8:"].iter().filter(|at| about(&lab, &[at]) > 0).count();
            assert_eq!(others, 1, "{flavour} {number} {port}");
        }
        // What the other interface has had is this one's now.
        let moved = of("eth1", 2, 9000);
        ours(&lab, "eth0", &of("eth0", 3, 8000)).run().result();
        ours(&lab, "eth1", &moved).run().result();
        ours(&lab, "eth0", &bare(&moved)).verb("DEL").run().silent();
        ours(&lab, "eth1", &moved).verb("CHECK").run().silent();
    }
}

#[test]
fn better_two_interfaces_may_map_the_same_port() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let (eth0, eth1) = (of("eth0", 2, 8000), of("eth1", 3, 8000));
        let first = || container_rules(&lab).into_iter().find(|line| line.contains("-j DNAT")).unwrap();
        for (ifname, config) in [("eth0", &eth0), ("eth1", &eth1)] {
            ours(&lab, ifname, config).run().result();
        }
        assert!(first().contains("10.0.0.2:80"), "{flavour}: the first has it, as with the reference");
        for (ifname, config) in [("eth0", &eth0), ("eth1", &eth1)] {
            ours(&lab, ifname, config).verb("CHECK").run().silent();
        }
        ours(&lab, "eth0", &eth0).verb("DEL").run().silent();
        assert!(first().contains("10.0.0.3:80"), "{flavour}");
        ours(&lab, "eth1", &eth1).verb("CHECK").run().silent();
        ours(&lab, "eth1", &eth1).verb("DEL").run().silent();
        assert_eq!(container_rules(&lab), [""; 0], "{flavour}");
    }
}

#[test]
fn better_a_failed_add_of_a_second_interface_takes_its_own_back() {
    let full = ["sh", "-c", "exec \"$@\" > /dev/full", "sh"];
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let (eth0, eth1) = (of("eth0", 2, 8000), of("eth1", 3, 9000));
        ours(&lab, "eth0", &eth0).run().result();
        let fail = |ifname, config: &Value| {
            let records = || lab.list(RECORDS).into_iter().map(|name| lab.read(&format!("{RECORDS}/{name}"))).collect();
            let before: (Vec<String>, Vec<String>) = (saved(&lab, flavour), records());
            let call = ours(&lab, ifname, config).env("PATH", "/usr/bin:/usr/sbin");
            assert_eq!(call.under(&full).run().code, Some(1));
            let mut after = (saved(&lab, flavour), records());
            let mut before = before;
            [&mut before.0, &mut after.0].into_iter().for_each(|lines| lines.sort());
            assert_eq!(after, before, "{flavour} {ifname}");
        };
        fail("eth1", &eth1);
        ours(&lab, "eth1", &eth1).run().result();
        fail("eth1", &of("eth1", 4, 9500));
        fail("eth0", &of("eth0", 5, 8500));
        for (ifname, config) in [("eth0", &eth0), ("eth1", &eth1)] {
            ours(&lab, ifname, config).verb("CHECK").run().silent();
        }
    }
}

#[test]
fn newer_gc_removes_the_interface_that_is_not_valid_any_more() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let (eth0, eth1) = (of("eth0", 2, 8000), of("eth1", 3, 9000));
        for (ifname, config) in [("eth0", &eth0), ("eth1", &eth1)] {
            ours(&lab, ifname, config).run().result();
        }
        let gc = |valid: Value| {
            let base = json!({"cniVersion": "1.1.0", "runtimeConfig": null, "prevResult": null});
            call(&lab, &config(&merged(base, &json!({"cni.dev/valid-attachments": valid})))).verb("GC").run().silent();
        };
        gc(json!([{"containerID": "abc123", "ifname": "eth1"}, {"containerID": "other", "ifname": "eth0"}]));
        ours(&lab, "eth1", &eth1).verb("CHECK").run().silent();
        assert_eq!(about(&lab, &["10.0.0.2", "2001:db8::2]", "8000"]), 0, "{flavour}");
        gc(json!([]));
        assert_eq!((container_rules(&lab), lab.list(RECORDS)), (Vec::new(), Vec::new()), "{flavour}");
    }
}

/// Rules of the reference's nftables backend name the container only.
#[test]
fn newer_interfaces_of_the_references_nftables_backend_are_told_apart_by_their_addresses() {
    let lab = lab("nft");
    let native = |number, ifname: &str, port| merged(of(ifname, number, port), &json!({"backend": "nftables"}));
    let (eth0, eth1) = (native(2, "eth0", 8000), native(3, "eth1", 9000));
    let theirs = |ifname, config| called(Call::plugin(&lab, &new_reference_dir(), "portmap"), ifname, config);
    for (ifname, config) in [("eth0", &eth0), ("eth1", &eth1)] {
        theirs(ifname, config).run().result();
    }
    for (ifname, config) in [("eth0", &eth0), ("eth1", &eth1)] {
        ours(&lab, ifname, config).verb("CHECK").run().silent();
    }
    let rules = |word: &str| lab.ok("nft list ruleset").lines().filter(|line| line.contains(word)).count();
    ours(&lab, "eth0", &eth0).verb("DEL").run().silent();
    assert_eq!((rules("10.0.0.2"), rules("2001:db8::2"), rules("10.0.0.3"), rules("[2001:db8::3]")), (0, 0, 4, 3));
    ours(&lab, "eth1", &eth1).verb("CHECK").run().silent();
    // A repeated ADD with other ports replaces them, the reference's too.
    ours(&lab, "eth0", &eth0).run().result();
    ours(&lab, "eth1", &native(3, "eth1", 9500)).run().result();
    assert_eq!((rules("dport 9000"), rules("dport 9001"), rules("dport 8000")), (0, 0, 3));
    ours(&lab, "eth0", &eth0).verb("CHECK").run().silent();
    theirs("eth0", &eth0).verb("CHECK").run().silent();
    ours(&lab, "eth1", &bare(&eth1)).verb("DEL").run().silent();
    ours(&lab, "eth0", &eth0).verb("CHECK").run().silent();
    // Without a result the reference's own are all the container's.
    ours(&lab, "eth0", &eth0).verb("DEL").run().silent();
    for (ifname, config) in [("eth0", &eth0), ("eth1", &eth1)] {
        theirs(ifname, config).run().result();
    }
    ours(&lab, "eth0", &bare(&eth0)).verb("DEL").run().silent();
    assert_eq!(rules("comment \"abc123\""), 0);
}
