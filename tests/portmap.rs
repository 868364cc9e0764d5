//! Port mappings through both flavours of iptables, compared with what the reference plugin makes.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, merged};
use crate::masquerade::{FLAVOURS, lab};

/// `CNI-DN-` and the hash of "mynetabc123", as the reference computes it.
pub const CHAIN: &str = "CNI-DN-70a29d9dc18bc4d652ea5";

/// The worked example: four mappings, two of them of one address of the host.
pub fn config(changes: &Value) -> Value {
    let base = json!({
        "cniVersion": "1.0.0", "name": "mynet", "type": "portmap",
        "runtimeConfig": {"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8081, "containerPort": 81, "protocol": "udp"},
            {"hostPort": 8083, "containerPort": 83, "protocol": "tcp", "hostIP": "192.168.0.2"},
            {"hostPort": 8085, "containerPort": 85, "protocol": "tcp", "hostIP": "2001:db8:a::1"},
        ]},
        "prevResult": previous("10.0.0.2/24", "2001:db8::2/64"),
    });
    merged(base, changes)
}

/// A result with these addresses of eth0, among others of the host.
pub fn previous(v4: &str, v6: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/var/run/netns/ns1"}],
        "ips": [
            {"interface": 0, "address": "10.9.9.1/24"},
            {"interface": 1, "address": v4}, {"interface": 1, "address": v6},
        ],
    })
}

pub fn mappings(list: &Value) -> Value {
    json!({"runtimeConfig": {"portMappings": list}})
}

pub fn call<'a>(lab: &'a Lab, config: &Value) -> Call<'a> {
    lab.plugin("portmap").container("abc123").config(config)
}

/// All rules of iptables of a flavour, without comment lines and without the policies' counters.
pub fn saved(lab: &Lab, flavour: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for tool in ["iptables", "ip6tables"] {
        let text = lab.ok(&format!("{tool}-{flavour}-save -t nat"));
        let kept = text.lines().filter(|line| !line.starts_with('#'));
        let bare = |line: &str| if line.starts_with(':') { line.split(" [").next().unwrap() } else { line }.to_string();
        lines.extend(kept.map(|line| format!("{tool} {}", bare(line))));
    }
    lines
}

/// Fails with the lines that only one of both has, or the order.
pub fn assert_lines(what: &str, ours: &[String], theirs: &[String]) {
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).cloned().collect()
    };
    let (more, less) = (only(ours, theirs), only(theirs, ours));
    let first = ours.iter().zip(theirs).find(|(one, other)| one != other);
    assert!(ours == theirs, "{what}: too much {more:#?}, missing {less:#?}; the first difference: {first:#?}");
}

/// Ours and the reference's ADD leave the same text in both flavours. ip6tables-legacy 1.8.9 takes rules with other ports
/// or marks for the one that the reference asks for, which it then leaves out; there our own of the other flavour count.
fn assert_like_the_reference(what: &str, config: &Value, container: &str, prepare: &str) {
    let mut v6_of_nft = Vec::new();
    for flavour in FLAVOURS {
        let (ours, theirs) = (lab(flavour), lab(flavour));
        for lab in [&ours, &theirs] {
            lab.sh(&prepare.replace("iptables", &format!("iptables-{flavour}"))).success();
        }
        let result = call(&ours, config).container(container).env("CNI_BOX_IPTABLES", flavour).run().result();
        let reference = theirs.reference("portmap").container(container).config(config);
        let expected = reference.env("PATH", "/usr/sbin:/usr/bin").run().result();
        // Newer ones than Debian's don't print an empty `dns`.
        assert_eq!(result["dns"].as_object().map_or(0, serde_json::Map::len), 0);
        assert_eq!(merged(result, &json!({"dns": null})), merged(expected, &json!({"dns": null})), "{what} {flavour}");
        let v6_rules = |lab: &Lab| -> Vec<String> {
            saved(lab, flavour).into_iter().filter(|line| line.starts_with("ip6tables -A")).collect()
        };
        assert_lines(&format!("{what} {flavour}"), &v4(&ours, flavour), &v4(&theirs, flavour));
        if flavour == "nft" {
            v6_of_nft = v6_rules(&theirs);
        }
        assert_lines(&format!("{what} {flavour} IPv6"), &v6_rules(&ours), &v6_of_nft);
    }
}

#[test]
pub fn the_rules_are_those_of_the_reference() {
    assert_like_the_reference("worked example", &config(&json!({})), "abc123", "true");
}

#[test]
fn better_every_key_makes_the_rules_of_the_reference() {
    let many: Vec<Value> = (1..=35)
        .map(|port| json!({"hostPort": 8000 + port, "containerPort": port, "protocol": "tcp"}))
        .chain((1..=16).map(|port| json!({"hostPort": 9000 + port, "containerPort": port, "protocol": "sctp"})))
        .collect();
    let any = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "0.0.0.0"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "::"},
    ]);
    let chain = "iptables -t nat -N KUBE-MARK-MASQ; ip6tables -t nat -N KUBE-MARK-MASQ";
    let conditions = json!({
        "conditionsV4": ["!", "-s", "192.168.7.0/24", "-d", "192.0.2.1", "-i", "eth7", "-m", "mark", "--mark", "0x4/0xff"],
        "conditionsV6": ["-s", "fd00::/8", "-m", "addrtype", "--dst-type", "LOCAL", "-m", "conntrack", "--ctstate", "NEW"],
    });
    for (what, changes, container, prepare) in [
        ("many ports", mappings(&json!(many)), "abc123", "true"),
        ("any address", mappings(&any), "abc123", "true"),
        ("no snat", json!({"snat": false}), "abc123", "true"),
        ("mark", json!({"markMasqBit": 31}), "abc123", "true"),
        ("mark 0", json!({"markMasqBit": 0}), "abc123", "true"),
        ("external chain", json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}), "abc123", chain),
        ("conditions", conditions, "abc123", "true"),
        ("long id", json!({}), &"c".repeat(250), "true"),
    ] {
        assert_like_the_reference(what, &config(&changes), container, prepare);
    }
}

#[test]
fn newer_masq_all_masquerades_every_client() {
    for flavour in FLAVOURS {
        let lab = lab(flavour);
        call(&lab, &config(&json!({"masqAll": true}))).run().result();
        let rules = saved(&lab, flavour);
        let own = |tool: &str| -> Vec<_> {
            let start = format!("{tool} -A {CHAIN} ");
            rules.iter().filter_map(|line| line.strip_prefix(&start).map(str::to_string)).collect()
        };
        assert_eq!(
            own("iptables"),
            [
                "-p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK",
                "-p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80",
                "-p udp -m udp --dport 8081 -j CNI-HOSTPORT-SETMARK",
                "-p udp -m udp --dport 8081 -j DNAT --to-destination 10.0.0.2:81",
                "-d 192.168.0.2/32 -p tcp -m tcp --dport 8083 -j CNI-HOSTPORT-SETMARK",
                "-d 192.168.0.2/32 -p tcp -m tcp --dport 8083 -j DNAT --to-destination 10.0.0.2:83",
            ]
        );
        assert_eq!(
            own("ip6tables")[4..],
            [
                "-d 2001:db8:a::1/128 -p tcp -m tcp --dport 8085 -j CNI-HOSTPORT-SETMARK",
                "-d 2001:db8:a::1/128 -p tcp -m tcp --dport 8085 -j DNAT --to-destination [2001:db8::2]:85",
            ]
        );
    }
}

/// The lines of IPv4.
fn v4(lab: &Lab, flavour: &str) -> Vec<String> {
    saved(lab, flavour).into_iter().filter(|line| line.starts_with("iptables ")).collect()
}

#[test]
fn two_containers_and_two_marks_share_the_chains_as_in_the_reference() {
    for flavour in FLAVOURS {
        let (ours, theirs) = (lab(flavour), lab(flavour));
        for (container, changes) in [
            ("abc123", json!({})),
            ("c2", json!({"prevResult": previous("10.0.0.3/24", "2001:db8::3/64")})),
            (
                "c3",
                json!({"name": "other", "markMasqBit": 12, "prevResult": previous("10.0.0.4/24", "2001:db8::4/64")}),
            ),
        ] {
            let config = config(&changes);
            call(&ours, &config).container(container).run().result();
            theirs.reference("portmap").container(container).config(&config).env("PATH", "/usr/sbin").run().result();
            assert_lines(container, &v4(&ours, flavour), &v4(&theirs, flavour));
        }
        for container in ["abc123", "c2"] {
            call(&ours, &config(&json!({}))).container(container).verb("DEL").run().silent();
            let call = theirs.reference("portmap").container(container).verb("DEL").config(&config(&json!({})));
            call.env("PATH", "/usr/sbin").run().silent();
            assert_lines(container, &v4(&ours, flavour), &v4(&theirs, flavour));
        }
    }
}
