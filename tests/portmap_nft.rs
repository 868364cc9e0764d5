//! Port mappings in tables of nf_tables of our own, compared with what the reference's version 1.9.1 makes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::lab::{Lab, merged};
use crate::masquerade::lab;
use crate::portmap::{call, config, mappings, previous};
use crate::portmap_life::bridge;

/// What `nft list ruleset` printed after the ADD of the worked example by version 1.9.1.
const REFERENCE: &str = include_str!("golden/portmap-nft.txt");

fn nft_config(changes: &Value) -> Value {
    merged(config(&json!({"backend": "nftables"})), changes)
}

/// Lines of each chain, by table and chain.
fn chains(text: &str) -> BTreeMap<String, Vec<String>> {
    let (mut table, mut chain, mut chains) = (String::new(), String::new(), BTreeMap::new());
    for line in text.lines().map(str::trim) {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["table", family, name, "{"] => (table, chain) = (format!("{family} {name}"), String::new()),
            ["chain", name, "{"] => chain = format!(" {name}"),
            [] | ["}"] => {}
            _ => chains.entry(format!("{table}{chain}")).or_insert_with(Vec::new).push(line.to_string()),
        }
    }
    chains
}

fn ruleset(lab: &Lab) -> BTreeMap<String, Vec<String>> {
    chains(&lab.ok("nft list ruleset"))
}

/// Lines of rules that carry this comment.
fn rules_of(lab: &Lab, comment: &str) -> Vec<String> {
    let wanted = format!("comment \"{comment}\"");
    ruleset(lab).into_values().flatten().filter(|line| line.ends_with(&wanted)).collect()
}

#[test]
pub fn newer_the_tables_are_those_of_the_reference_and_two_rules_more() {
    let lab = lab("nft");
    bridge(&lab);
    call(&lab, &nft_config(&json!({}))).run().result();
    let mut found = ruleset(&lab);
    let comment = r#"comment "CNI portmap: 127.0.0.0/8 is local""#;
    let jump = format!(r#"iifname != "lo" ip daddr 127.0.0.0/8 jump localnet_links {comment}"#);
    assert_eq!(
        found.remove("ip cni_hostport localnet").unwrap(),
        ["type filter hook prerouting priority raw; policy accept;", &jump]
    );
    let drop = format!(r#"iifname "br0" drop {comment}"#);
    assert_eq!(found.remove("ip cni_hostport localnet_links").unwrap(), [drop]);
    for (table, rule) in [
        ("ip", "ip saddr 10.0.0.0/24 ip daddr 10.0.0.2 ct status dnat masquerade comment \"abc123\""),
        ("ip6", "ip6 saddr 2001:db8::/64 ip6 daddr 2001:db8::2 ct status dnat masquerade comment \"abc123\""),
    ] {
        let masquerading = found.get_mut(&format!("{table} cni_hostport masquerading")).unwrap();
        assert_eq!(masquerading.pop().unwrap(), rule);
    }
    assert_eq!(found, chains(REFERENCE));
}

#[test]
fn newer_keys_of_the_nftables_backend() {
    for (changes, chain, lines) in [
        (
            json!({"masqAll": true}),
            "ip cni_hostport masquerading",
            &["ip saddr 0.0.0.0/0 ip daddr 10.0.0.2 masquerade comment \"abc123\""][..],
        ),
        (
            json!({"masqAll": true}),
            "ip6 cni_hostport masquerading",
            &["ip6 saddr ::/0 ip6 daddr 2001:db8::2 masquerade comment \"abc123\""],
        ),
        (
            merged(
                mappings(&json!([{"hostPort": 1, "containerPort": 2, "protocol": "sctp"}])),
                &json!({
                    "conditionsV4": ["ip", "saddr", "!=", "10.9.0.0/16", "iifname", "eth0"],
                }),
            ),
            "ip cni_hostport hostports",
            &["ip saddr != 10.9.0.0/16 iifname \"eth0\" sctp dport 1 dnat to 10.0.0.2:2 comment \"abc123\""],
        ),
    ] {
        let lab = lab("nft");
        call(&lab, &nft_config(&changes)).run().result();
        let found = ruleset(&lab);
        let rules: Vec<_> = found[chain].iter().filter(|line| !line.starts_with("type ")).collect();
        assert_eq!(rules, lines, "{changes}");
        // Conditions of one container are none of the others'.
        assert_eq!(found["ip cni_hostport prerouting"][1], "fib daddr type local jump hostports_all");
    }
    let lab = lab("nft");
    call(&lab, &nft_config(&json!({"snat": false}))).run().result();
    let names: Vec<_> = ruleset(&lab).into_keys().filter(|name| name.starts_with("ip ")).collect();
    let expected =
        ["", " hostports", " hostports_all", " output", " prerouting"].map(|name| format!("ip cni_hostport{name}"));
    assert_eq!(names, expected);
}

#[test]
fn better_conditions_in_words_of_nft_choose_the_backend() {
    let lab = lab("nft");
    call(&lab, &config(&json!({"conditionsV4": ["ip saddr 10.0.0.0/8"]}))).run().result();
    assert!(ruleset(&lab).contains_key("ip cni_hostport hostports"));
    assert_eq!(lab.rules(), [""; 0]);
}

#[test]
fn better_a_repeated_add_replaces_the_rules_and_del_removes_them() {
    let lab = lab("nft");
    for _ in 0..2 {
        call(&lab, &nft_config(&json!({}))).run().result();
        assert_eq!(rules_of(&lab, "abc123").len(), 11);
    }
    let moved = nft_config(&merged(
        mappings(&json!([{"hostPort": 9, "containerPort": 9, "protocol": "tcp"}])),
        &json!({"prevResult": previous("10.0.0.7/24", "2001:db8::7/64")}),
    ));
    call(&lab, &moved).run().result();
    let rules = rules_of(&lab, "abc123");
    assert_eq!(rules.len(), 7);
    assert!(!rules.iter().any(|line| line.contains("10.0.0.2")), "{rules:?}");
    for _ in 0..2 {
        // Whatever the configuration says.
        call(&lab, &config(&json!({"runtimeConfig": null}))).verb("DEL").run().silent();
        assert_eq!(rules_of(&lab, "abc123"), [""; 0]);
    }
}

#[test]
fn better_attachments_of_one_container_keep_each_others_rules() {
    let lab = lab("nft");
    let second = |network: &str| {
        let list = json!([{"hostPort": 9, "containerPort": 9, "protocol": "tcp"}]);
        let previous =
            json!({"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.7.0.2/24"}], "interfaces": null}});
        nft_config(&merged(mappings(&list), &merged(previous, &json!({"name": network}))))
    };
    call(&lab, &nft_config(&json!({}))).run().result();
    call(&lab, &second("othernet")).run().result();
    call(&lab, &second("mynet")).ifname("net1").run().result();
    assert_eq!(rules_of(&lab, "abc123").len(), 11 + 4 + 4);
    call(&lab, &nft_config(&json!({}))).verb("DEL").run().silent();
    assert_eq!(rules_of(&lab, "abc123").len(), 8);
    call(&lab, &second("mynet")).ifname("net1").verb("DEL").run().silent();
    call(&lab, &second("othernet")).verb("DEL").run().silent();
    assert_eq!(rules_of(&lab, "abc123"), [""; 0]);
}

#[test]
fn newer_rules_that_the_reference_made_are_checked_replaced_and_deleted() {
    let lab = lab("nft");
    lab.write("/opt/reference", REFERENCE);
    lab.ok("nft -f /opt/reference");
    call(&lab, &nft_config(&json!({"snat": false}))).verb("CHECK").run().silent();
    call(&lab, &nft_config(&json!({}))).verb("CHECK").run().silent();
    call(&lab, &nft_config(&json!({}))).run().result();
    assert_eq!(rules_of(&lab, "abc123").len(), 11, "replaced");
    call(&lab, &nft_config(&json!({}))).verb("DEL").run().silent();
    assert_eq!(rules_of(&lab, "abc123"), [""; 0]);
    lab.ok("nft flush ruleset");
    lab.ok("nft -f /opt/reference");
    call(&lab, &config(&json!({}))).verb("DEL").run().silent();
    assert_eq!(rules_of(&lab, "abc123"), [""; 0]);
}

/// The reference has conditions in front of everybody's rules, where the next ADD without them takes them away.
#[test]
fn better_conditions_that_the_reference_made_stay_with_its_containers() {
    let local = "fib daddr type local jump hostports_all";
    let reference = REFERENCE.replace(local, &format!("iifname != \"eth7\" {local}"));
    let words = json!(["iifname", "!=", "eth7"]);
    let own = nft_config(&json!({"conditionsV4": words, "conditionsV6": words}));
    for others in [0, 1, 2] {
        let lab = lab("nft");
        lab.write("/opt/reference", &reference);
        lab.ok("nft -f /opt/reference");
        for _ in 0..others {
            call(&lab, &own).verb("CHECK").run().silent();
            call(&lab, &nft_config(&json!({}))).container("other").run().result();
            // What an ADD of the reference does to everybody.
            for family in ["ip", "ip6"] {
                lab.sh(&format!("nft flush chain {family} cni_hostport prerouting")).success();
                lab.sh(&format!("nft 'add rule {family} cni_hostport prerouting iifname != eth7 {local}'")).success();
            }
            call(&lab, &nft_config(&json!({}))).container("other").run().result();
        }
        let translations = |lab: &Lab| {
            let (open, narrow): (Vec<_>, Vec<_>) = (rules_of(lab, "abc123").into_iter())
                .filter(|line| line.contains("dnat to"))
                .partition(|line| line.matches("iifname != \"eth7\" ").count() != 1);
            (open.len(), narrow.len())
        };
        assert_eq!(translations(&lab), if others == 0 { (6, 0) } else { (0, 6) });
        assert_eq!(rules_of(&lab, "other").len(), if others == 0 { 0 } else { 11 });
        call(&lab, &own).verb("CHECK").run().silent();
        call(&lab, &own).run().result();
        assert_eq!(ruleset(&lab)["ip cni_hostport prerouting"][1], local);
        assert_eq!((translations(&lab), rules_of(&lab, "abc123").len()), ((0, 6), 11));
        call(&lab, &own).verb("DEL").run().silent();
        assert_eq!(rules_of(&lab, "abc123"), [""; 0]);
    }
}

#[test]
fn better_versions_before_1_9_are_checked_and_their_conditions_stay_with_their_containers() {
    let lab = lab("nft");
    let list = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 81, "containerPort": 81, "protocol": "tcp", "hostIP": "192.0.2.1"},
    ]);
    let v4 = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}], "interfaces": null});
    let changes = json!({"snat": false, "prevResult": v4, "conditionsV4": ["iifname", "eth7"]});
    let own = nft_config(&merged(mappings(&list), &changes));
    let base = "type nat hook prerouting priority dstnat;";
    lab.write(
        "/opt/reference",
        format!(
            "table ip cni_hostport {{
             chain hostports {{\ntcp dport 8080 dnat to 10.0.0.2:80 comment \"abc123\"\n}}
             chain hostip_hostports {{\nip daddr 192.0.2.1 tcp dport 81 dnat to 10.0.0.2:81 comment \"abc123\"\n}}
             chain prerouting {{\n{base}\niifname eth7 jump hostip_hostports\niifname eth7 jump hostports\n}}
             chain output {{\ntype nat hook output priority -100;\njump hostip_hostports\njump hostports\n}}
             }}"
        ),
    );
    lab.ok("nft -f /opt/reference");
    call(&lab, &own).verb("CHECK").run().silent();
    call(&lab, &nft_config(&json!({}))).container("other").run().result();
    call(&lab, &own).verb("CHECK").run().silent();
    let expected = [
        "iifname \"eth7\" ip daddr 192.0.2.1 tcp dport 81 dnat to 10.0.0.2:81 comment \"abc123\"",
        "iifname \"eth7\" tcp dport 8080 dnat to 10.0.0.2:80 comment \"abc123\"",
    ];
    assert_eq!(rules_of(&lab, "abc123"), expected);
}

#[test]
fn better_a_container_id_longer_than_a_comment_is_shortened() {
    let lab = lab("nft");
    let (one, other) = (format!("{}1", "c".repeat(200)), format!("{}2", "c".repeat(200)));
    let config = nft_config(&json!({"name": "n".repeat(200)}));
    for container in [&one, &other] {
        call(&lab, &config).container(container).run().result();
        call(&lab, &config).container(container).verb("CHECK").run().silent();
    }
    let count = |lab: &Lab| ruleset(lab).into_values().flatten().filter(|line| line.contains("comment \"ccc")).count();
    assert_eq!(count(&lab), 22);
    call(&lab, &config).container(&one).verb("DEL").run().silent();
    assert_eq!(count(&lab), 11);
    call(&lab, &config).container(&other).verb("CHECK").run().silent();
}

#[test]
fn better_a_failed_add_takes_its_nftables_rules_back() {
    let lab = lab("nft");
    let full = ["sh", "-c", "exec \"$@\" > /dev/full", "sh"];
    for setup in ["other", "abc123"] {
        call(&lab, &nft_config(&json!({}))).container(setup).run().result();
        let sorted = |lab: &Lab| {
            let mut rules = ruleset(lab);
            rules.values_mut().for_each(|lines| lines.sort());
            rules
        };
        let before = sorted(&lab);
        let changed = nft_config(&mappings(&json!([{"hostPort": 9, "containerPort": 9, "protocol": "tcp"}])));
        assert_eq!(call(&lab, &changed).env("PATH", "/usr/bin").under(&full).run().code, Some(1));
        assert_eq!(sorted(&lab), before, "{setup}");
    }
}

#[test]
fn newer_gc_removes_rules_of_attachments_that_are_not_valid_any_more() {
    let lab = lab("nft");
    lab.write("/opt/reference", REFERENCE.replace("abc123", "unknown"));
    lab.ok("nft -f /opt/reference");
    for (network, container) in [("mynet", "valid"), ("mynet", "gone"), ("mynet2", "gone2")] {
        call(&lab, &nft_config(&json!({"name": network}))).container(container).run().result();
    }
    let valid = json!([{"containerID": "valid", "ifname": "eth0"}, {"containerID": "gone", "ifname": "net1"}]);
    let gc = nft_config(&json!({"cniVersion": "1.1.0", "runtimeConfig": null, "cni.dev/valid-attachments": valid}));
    call(&lab, &gc).verb("GC").run().silent();
    let left = ["valid", "gone", "gone2", "unknown"].map(|container| rules_of(&lab, container).len());
    assert_eq!(left, [11, 0, 11, 9]);
}

#[test]
fn newer_check_finds_everything_that_is_missing_in_our_tables() {
    for (damage, text) in [
        (
            "nft flush chain ip cni_hostport hostports",
            "missing hostport rules in \"hostports\" chain: no rule [-p tcp --dport 8080",
        ),
        ("nft flush chain ip6 cni_hostport masquerading", "missing hostport rules in \"masquerading\" chain"),
        ("nft flush chain ip cni_hostport prerouting", "missing jump in chain \"prerouting\""),
        ("nft flush chain ip cni_hostport hostports_all", "missing jump in chain \"hostports_all\""),
        ("nft delete table ip6 cni_hostport", "missing chain \"hostports\" in table cni_hostport"),
        ("sysctl -qw net.ipv4.conf.br0.route_localnet=0", "route_localnet is not set"),
    ] {
        let lab = lab("nft");
        bridge(&lab);
        call(&lab, &nft_config(&json!({}))).run().result();
        call(&lab, &nft_config(&json!({}))).verb("CHECK").run().silent();
        call(&lab, &nft_config(&json!({"backend": null}))).verb("CHECK").run().silent();
        lab.ok(damage);
        let before = lab.snapshot();
        call(&lab, &nft_config(&json!({}))).verb("CHECK").run().fails_with(999, &[text]);
        before.assert_same(&lab.snapshot());
    }
}
