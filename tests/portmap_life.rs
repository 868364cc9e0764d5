//! Port mappings over time: repeated and failing ADDs, DEL, CHECK, GC, STATUS.

use serde_json::{Value, json};

use crate::lab::{Lab, merged};
use crate::masquerade::{FLAVOURS, lab};
use crate::portmap::{CHAIN, assert_lines, call, config, mappings, previous, saved};

/// Lines of iptables' rules that name a container's chain.
pub fn container_rules(lab: &Lab) -> Vec<String> {
    lab.rules().into_iter().filter(|line| line.contains("CNI-DN-")).collect()
}

/// A second address, other ports.
fn changed() -> Value {
    let list = json!([{"hostPort": 9090, "containerPort": 90, "protocol": "tcp"}]);
    config(&merged(mappings(&list), &json!({"prevResult": previous("10.0.0.7/24", "2001:db8::7/64")})))
}

#[test]
fn better_a_repeated_add_replaces_the_mappings() {
    for flavour in FLAVOURS {
        let (lab, fresh) = (lab(flavour), lab(flavour));
        call(&lab, &config(&json!({}))).run().result();
        call(&lab, &config(&json!({}))).run().result();
        call(&lab, &changed()).run().result();
        call(&fresh, &changed()).run().result();
        assert_lines(flavour, &saved(&lab, flavour), &saved(&fresh, flavour));
    }
}

#[test]
fn better_del_needs_no_mappings_and_leaves_only_what_is_shared() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        call(&lab, &config(&json!({}))).run().result();
        let bare = config(&json!({"runtimeConfig": null, "prevResult": null}));
        for _ in 0..2 {
            call(&lab, &bare).verb("DEL").run().silent();
            assert_eq!(container_rules(&lab), [""; 0], "{flavour}");
        }
        let shared = lab.rules().into_iter().filter(|line| line.contains("CNI-HOSTPORT-DNAT")).count();
        assert_eq!(shared, 6, "{flavour}");
    }
}

#[test]
fn better_del_does_not_mind_what_has_become_invalid() {
    for changes in [
        json!({"backend": "magic"}),
        json!({"backend": "nftables", "conditionsV4": ["-s", "nonsense"]}),
        json!({"markMasqBit": 77, "externalSetMarkChain": ""}),
        mappings(&json!([{"hostPort": 0, "containerPort": 70000, "protocol": "x", "hostIP": "y"}])),
        json!({"prevResult": {"cniVersion": "9.9.9"}}),
    ] {
        let lab = lab("nft");
        call(&lab, &config(&json!({}))).run().result();
        call(&lab, &config(&changes)).verb("DEL").run().silent();
        assert_eq!(container_rules(&lab), [""; 0], "{changes}");
    }
}

#[test]
pub fn newer_either_cleans_up_after_the_other() {
    for flavour in FLAVOURS {
        for ours_adds in [true, false] {
            let lab = lab(flavour);
            let config = config(&json!({}));
            let reference = || lab.reference("portmap").container("abc123").config(&config).env("PATH", "/usr/sbin");
            let (add, del) =
                if ours_adds { (call(&lab, &config), reference()) } else { (reference(), call(&lab, &config)) };
            add.run().result();
            call(&lab, &config).verb("CHECK").run().silent();
            // Debian's looks for the rules of one family in the table of the other.
            let v4 =
                merged(config.clone(), &json!({"prevResult": {"ips": [{"interface": 1, "address": "10.0.0.2/24"}]}}));
            if ours_adds {
                lab.sh("ip6tables -t nat -F; ip6tables -t nat -X").success();
                reference().config(&v4).verb("CHECK").run();
            }
            del.verb("DEL").run().silent();
            assert_eq!(container_rules(&lab), [""; 0], "{flavour}, ours adds: {ours_adds}");
        }
    }
}

#[test]
fn better_del_finds_mappings_in_either_flavour() {
    for (made, installed) in [("nft", "legacy"), ("legacy", "nft")] {
        let lab = lab(made);
        call(&lab, &config(&json!({}))).env("CNI_BOX_IPTABLES", made).run().result();
        lab.install_iptables(installed);
        call(&lab, &config(&json!({}))).verb("DEL").run().silent();
        assert_eq!(container_rules(&lab), [""; 0], "made by {made}");
    }
}

#[test]
fn chains_of_plugins_before_0_7_are_deleted_too() {
    let lab = lab("nft");
    let old = CHAIN.replace("DN", "SN").replace(' ', "");
    lab.sh(&format!(
        "iptables -t nat -N CNI-HOSTPORT-SNAT; iptables -t nat -N {old}
         iptables -t nat -A {old} -p tcp -s 127.0.0.1 -d 10.0.0.2 --dport 80 -j MASQUERADE
         iptables -t nat -A CNI-HOSTPORT-SNAT -m comment --comment snat -j {old}"
    ))
    .success();
    call(&lab, &config(&json!({}))).verb("DEL").run().silent();
    let rules = lab.rules();
    assert!(!rules.iter().any(|line| line.contains(&old)), "{rules:?}");
}

#[test]
fn without_mappings_add_only_passes_the_result_on() {
    let lab = lab("nft");
    let before = lab.snapshot();
    let config = config(&json!({"runtimeConfig": {"portMappings": null}}));
    let result = call(&lab, &config).run().result();
    assert_eq!(result["ips"].as_array().unwrap().len(), 3);
    call(&lab, &config).verb("CHECK").run().silent();
    before.assert_same(&lab.snapshot());
    assert_eq!(lab.ok("nft list ruleset"), "");
}

#[test]
fn better_without_mappings_add_asks_the_kernel_nothing() {
    let lab = lab("nft");
    let strace = ["strace", "-f", "-qq", "-o", "/run/lab/trace", "-e", "trace=socket,execve,fork,vfork,clone"];
    let config = config(&json!({"runtimeConfig": null}));
    call(&lab, &config).env("PATH", "/usr/bin").under(&strace).run().result();
    let trace = lab.read("/run/lab/trace");
    assert_eq!(trace.lines().count(), 1, "{trace}");
}

#[test]
fn better_a_failed_add_takes_its_rules_back() {
    // The result cannot be printed.
    let full = ["sh", "-c", "exec \"$@\" > /dev/full", "sh"];
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        lab.ok(&format!("iptables-{flavour} -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE"));
        lab.ok(&format!("ip6tables-{flavour} -t nat -A POSTROUTING -s fd17::/64 -j MASQUERADE"));
        for setup in [None, Some(json!({})), Some(json!({"name": "othernet", "markMasqBit": 4}))] {
            if let Some(changes) = &setup {
                call(&lab, &config(changes)).run().result();
            }
            let before = saved(&lab, flavour);
            for changes in [json!({}), json!({"name": "thirdnet"}), json!({"name": "thirdnet", "markMasqBit": 5})] {
                let call = call(&lab, &config(&changes)).env("PATH", "/usr/bin:/usr/sbin");
                assert_eq!(call.under(&full).run().code, Some(1));
                assert_lines(&format!("{flavour} {setup:?} {changes}"), &saved(&lab, flavour), &before);
            }
        }
    }
}

#[test]
fn better_missing_jumps_are_healed() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        call(&lab, &config(&json!({}))).run().result();
        let whole = saved(&lab, flavour);
        lab.sh(&format!(
            "for tool in iptables-{flavour} ip6tables-{flavour}; do
             $tool -t nat -F PREROUTING; $tool -t nat -F OUTPUT; $tool -t nat -F POSTROUTING; done"
        ))
        .success();
        call(&lab, &config(&json!({}))).run().result();
        assert_lines(flavour, &saved(&lab, flavour), &whole);
    }
}

#[test]
fn better_check_finds_everything_that_is_missing_and_changes_nothing() {
    for flavour in FLAVOURS {
        let tool = format!("iptables-{flavour}");
        let no_chain = format!("could not check ipv4 dnat: chain {CHAIN} not found in iptables table nat");
        for (damage, text) in [
            (
                "iptables -t nat -F CNI-HOSTPORT-DNAT; iptables -t nat -F CHAIN; iptables -t nat -X CHAIN",
                no_chain.as_str(),
            ),
            ("iptables -t nat -D CHAIN 3", "rule [-p tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80] in chain"),
            ("iptables -t nat -D CNI-HOSTPORT-DNAT 2", "-m multiport --dports 8081"),
            ("iptables -t nat -F PREROUTING", "rule [-j CNI-HOSTPORT-DNAT] in chain PREROUTING not found in table nat"),
            ("iptables -t nat -F OUTPUT", "in chain OUTPUT not found"),
            ("iptables -t nat -F POSTROUTING", "rule [-j CNI-HOSTPORT-MASQ] in chain POSTROUTING not found"),
            (
                "iptables -t nat -F CNI-HOSTPORT-MASQ",
                "-j MASQUERADE] in chain CNI-HOSTPORT-MASQ not found in table nat",
            ),
            (
                "iptables -t nat -F CNI-HOSTPORT-SETMARK",
                "MARK --set-xmark 0x2000/0x2000] in chain CNI-HOSTPORT-SETMARK",
            ),
            (
                "echo 0 > /proc/sys/net/ipv4/conf/br0/route_localnet",
                "route_localnet is not set on the link to 10.0.0.2",
            ),
        ] {
            let lab = lab(flavour);
            bridge(&lab);
            call(&lab, &config(&json!({}))).run().result();
            call(&lab, &config(&json!({}))).verb("CHECK").run().silent();
            lab.sh(&damage.replace("iptables", &tool).replace("CHAIN", CHAIN)).success();
            let before = lab.snapshot();
            call(&lab, &config(&json!({}))).verb("CHECK").run().fails_with(999, &[text]);
            before.assert_same(&lab.snapshot());
        }
    }
}

/// The bridge that the container of the example is behind.
pub fn bridge(lab: &Lab) {
    lab.sh("ip link add br0 type bridge; ip addr add 10.0.0.1/24 dev br0; ip link set br0 up").success();
}

#[test]
fn newer_gc_removes_what_is_not_valid_any_more_in_this_network() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        let add = |network: &str, container: &str| {
            call(&lab, &config(&json!({"name": network}))).container(container).run().result();
        };
        add("mynet", "abc123");
        add("mynet", "gone1");
        add("mynet", &"g".repeat(250));
        add("mynet2", "gone1");
        let valid = json!([{"containerID": "abc123", "ifname": "eth0"}]);
        let base = json!({"cniVersion": "1.1.0", "runtimeConfig": null, "prevResult": null});
        call(&lab, &config(&base)).verb("GC").run().silent();
        // A runtime that says nothing about valid attachments does not say that there are none.
        let all = container_rules(&lab);
        call(&lab, &config(&merged(base, &json!({"cni.dev/valid-attachments": valid})))).verb("GC").run().silent();
        let kept = container_rules(&lab);
        assert_eq!(all.iter().filter(|line| line.contains("-save :CNI-DN-")).count(), 8);
        assert_eq!(kept.iter().filter(|line| line.contains("-save :CNI-DN-")).count(), 4, "{kept:#?}");
        assert!(kept.iter().any(|line| line.contains(CHAIN)));
        assert!(kept.iter().any(|line| line.contains(r#"name: \"mynet2\" id: \"gone1\""#)));
        assert!(!kept.iter().any(|line| line.contains(r#"name: \"mynet\" id: \"g"#)), "{kept:#?}");
    }
}

#[test]
fn newer_status_asks_the_kernel_and_changes_nothing() {
    for (flavour, backend) in [("nft", json!(null)), ("legacy", json!("iptables")), ("nft", json!("nftables"))] {
        let lab = lab(flavour);
        let config = config(&json!({"cniVersion": "1.1.0", "backend": backend}));
        call(&lab, &config).verb("STATUS").run().silent();
        assert_eq!(lab.ok("nft list ruleset"), "");
        let powerless = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
        let powerless = |config: &Value| {
            call(&lab, config).verb("STATUS").env("PATH", "/usr/bin:/usr/sbin").under(&powerless).run()
        };
        powerless(&config).fails_with(50, &["ports cannot be mapped", "not permitted"]);
        powerless(&merged(config.clone(), &json!({"runtimeConfig": null}))).silent();
    }
}
