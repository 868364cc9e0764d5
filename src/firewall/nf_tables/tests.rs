use std::net::SocketAddr;

use super::*;
use crate::firewall::flavour::Flavour;
use crate::firewall::golden;
use crate::firewall::place::{BaseChain, NativeFamily, NativeTable, Place, StoredRule, Table};
use crate::firewall::rule::{Match, RELATED_OR_ESTABLISHED, Rule, Target};
use crate::netlink::Attributes;

const GOLDEN: &str = include_str!("../../../tests/golden/iptables-nft.txt");
const GOLDEN_NATIVE: &str = include_str!("../../../tests/golden/nft.txt");
const COMMENT: &str = "name: \"mynet\" id: \"cid1\"";

fn rule(matches: Vec<Match>, comment: Option<&str>, target: Target) -> Rule {
    Rule { comment: comment.map(str::to_string), ..Rule::new(matches, target) }
}

fn network(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

fn nat(family: Family) -> Location {
    Location::of(Place::Iptables { flavour: Flavour::Nft, family, table: Table::Nat }).unwrap()
}

fn native(family: NativeFamily) -> Location {
    const BASE_CHAINS: &[BaseChain] = &[];
    const fn table(family: NativeFamily) -> NativeTable {
        NativeTable { family, name: "t", comment: "", chain_comments: &[], base_chains: BASE_CHAINS }
    }
    static TABLES: [NativeTable; 4] =
        [table(NativeFamily::Inet), table(NativeFamily::Ip), table(NativeFamily::Ip6), table(NativeFamily::Bridge)];
    Location::of(Place::Native(TABLES.iter().find(|table| table.family == family).unwrap())).unwrap()
}

/// The content of an attribute in the message for a rule.
fn written(location: &Location, rule: &Rule, attribute: u16) -> Vec<u8> {
    let message = encode::new_rule(APPEND, location, "CHAIN", rule);
    decode::attributes(message.body()).unwrap().find(attribute).unwrap().payload.to_vec()
}

fn expressions(family: Family, rule: &Rule) -> Vec<u8> {
    written(&nat(family), rule, NFTA_RULE_EXPRESSIONS)
}

/// What we understand of a rule that the kernel holds with these expressions.
fn read_in(location: &Location, expressions: &[u8], user_data: &[u8]) -> StoredRule {
    let mut message = encode::request(NFT_MSG_NEWRULE, 0, 0);
    message.be64(NFTA_RULE_HANDLE, 7).attribute(NFTA_RULE_EXPRESSIONS, expressions);
    message.attribute(NFTA_RULE_USERDATA, user_data);
    decode::rule(message.body(), location).unwrap()
}

fn read(family: Family, expressions: &[u8]) -> StoredRule {
    read_in(&nat(family), expressions, &[])
}

fn to(text: &str) -> Target {
    Target::DestinationNat(text.parse::<SocketAddr>().unwrap())
}

fn check_golden(text: &str, location: &Location, title: &str, rule: &Rule) {
    let golden = golden::section(text, title);
    assert_eq!(written(location, rule, NFTA_RULE_EXPRESSIONS), golden, "{title}");
    let stored = read_in(location, &golden, &[]);
    assert!(stored.id == 7 && stored.is(rule), "{title}: {stored:?}");
}

#[test]
fn every_condition_and_target_is_written_as_iptables_nft_does() {
    use crate::firewall::rule::Protocol::*;
    use Match::*;
    let (v4, v6) = (nat(Family::V4), nat(Family::V6));
    let source = Match::source(network("10.0.0.0/24"));
    let host = |text| Match::destination(network(text));
    let dnat = vec![Protocol(Tcp), source, host("192.168.0.2/32"), DestinationPort(8083)];
    let mark = |negated, value, mask| vec![Mark { negated, value, mask }];
    let bridge = vec![Match::comes_in_by("br0"), Match::goes_not_out_by("br0")];
    for (location, title, rule) in [
        (v4, "v4 -s 10.0.0.0/24 -d 192.168.0.2 tcp 8083 DNAT 10.0.0.2:83", rule(dnat, None, to("10.0.0.2:83"))),
        (
            v6,
            "v6 tcp 8083 DNAT [2001:db8::2]:83",
            rule(vec![Protocol(Tcp), DestinationPort(8083)], None, to("[2001:db8::2]:83")),
        ),
        (
            v4,
            "v4 udp 8081 MARK 0x2000/0x2000",
            rule(vec![Protocol(Udp), DestinationPort(8081)], None, Target::SetMark { value: 0x2000, mask: 0x2000 }),
        ),
        (v4, "v4 sctp 8085 RETURN", rule(vec![Protocol(Sctp), DestinationPort(8085)], None, Target::Return)),
        (
            v4,
            "v4 tcp comment multiport 8080,8083 RETURN",
            rule(vec![Protocol(Tcp), DestinationPorts(vec![8080, 8083])], Some("dnat"), Target::Return),
        ),
        (v4, "v4 addrtype LOCAL RETURN", rule(vec![LocalDestination], None, Target::Return)),
        (v4, "v4 mark 0x2000/0x2000 MASQUERADE", rule(mark(false, 0x2000, 0x2000), None, Target::Masquerade)),
        (v4, "v4 ! mark 5 RETURN", rule(mark(true, 5, u32::MAX), None, Target::Return)),
        (v4, "v4 -i br0 ! -o br0 comment DROP", rule(bridge, Some("c"), Target::Drop)),
        (
            v4,
            "v4 -d 10.0.0.2 ctstate RELATED,ESTABLISHED ACCEPT",
            rule(vec![host("10.0.0.2/32"), ConnectionState(RELATED_OR_ESTABLISHED)], None, Target::Accept),
        ),
        (v4, "v4 goto CNI-b", rule(vec![], None, Target::Goto("CNI-b".to_string()))),
    ] {
        check_golden(GOLDEN, &location, title, &rule);
    }
}

#[test]
fn every_condition_and_target_is_written_as_nft_does() {
    use crate::firewall::rule::Protocol::*;
    use Match::*;
    let (inet, ip) = (native(NativeFamily::Inet), native(NativeFamily::Ip));
    let host = |text| Match::destination(network(text));
    let mark = |negated, value, mask| vec![Mark { negated, value, mask }];
    for (location, title, matches, target) in [
        (ip, "ip fib daddr type local jump", vec![LocalDestination], Target::Jump("j".to_string())),
        (
            ip,
            "ip daddr sctp dport dnat comment",
            vec![host("192.168.0.2/32"), Protocol(Sctp), DestinationPort(8080)],
            to("10.0.0.2:80"),
        ),
        (
            native(NativeFamily::Ip6),
            "ip6 tcp dport dnat",
            vec![Protocol(Tcp), DestinationPort(8080)],
            to("[2001:db8::2]:80"),
        ),
        (
            ip,
            "ip saddr any daddr masquerade",
            vec![Match::source(network("0.0.0.0/0")), host("10.0.0.2/32")],
            Target::Masquerade,
        ),
        (ip, "ip ct state accept", vec![ConnectionState(RELATED_OR_ESTABLISHED)], Target::Accept),
        (ip, "ip ct status dnat accept", vec![DestinationTranslated], Target::Accept),
        (ip, "ip iifname oifname drop", vec![Match::comes_in_by("br0"), Match::goes_not_out_by("br0")], Target::Drop),
        (ip, "ip mark masked drop", mark(false, 0x2000, 0x2000), Target::Drop),
        (ip, "ip mark return", mark(true, 5, u32::MAX), Target::Return),
        (inet, "inet ip daddr return", vec![host("224.0.0.0/4")], Target::Return),
        (inet, "inet ip6 daddr return", vec![host("ff00::/8")], Target::Return),
        (
            inet,
            "inet saddr not daddr masquerade",
            vec![Match::source(network("10.0.0.2/32")), Match::not_destination(network("10.0.0.0/24"))],
            Target::Masquerade,
        ),
        (
            native(NativeFamily::Bridge),
            "bridge ether saddr return",
            vec![HardwareSource([2, 3, 4, 5, 6, 7])],
            Target::Return,
        ),
    ] {
        let rule = Rule::new(matches, target);
        let golden = golden::section(GOLDEN_NATIVE, title);
        let stored = read_in(&location, &golden, &[]);
        assert!(stored.is(&rule), "{title}: {stored:?}");
        // nft says more than the kernel needs about NAT and about the operation of a mask.
        if !title.contains("dnat") && !title.contains("masked") {
            assert_eq!(written(&location, &rule, NFTA_RULE_EXPRESSIONS), golden, "{title}");
        }
    }
}

#[test]
fn comments_beside_rules_are_those_of_nft_and_notes_are_ours() {
    let ip = native(NativeFamily::Ip);
    let golden = golden::section(GOLDEN_NATIVE, "ip daddr sctp dport dnat comment user data");
    let rule = Rule::new(vec![], Target::Accept).commented("abc123");
    assert_eq!(written(&ip, &rule, NFTA_RULE_USERDATA), golden);
    let noted = rule.clone().noted("net eth0");
    let data = written(&ip, &noted, NFTA_RULE_USERDATA);
    let accept = written(&ip, &rule, NFTA_RULE_EXPRESSIONS);
    assert!(read_in(&ip, &accept, &data).is(&noted));
    assert!(read_in(&ip, &accept, &golden).is(&rule));
    let long = rule.commented(&"ü".repeat(200)).noted(&"x".repeat(300));
    let data = written(&ip, &long, NFTA_RULE_USERDATA);
    assert!(data.len() <= NFT_USERDATA_MAXLEN, "{}", data.len());
    let stored = read_in(&ip, &accept, &data).rule;
    assert_eq!((stored.comment.unwrap().len(), stored.note.unwrap().len()), (128, 122));
    let alone = Rule::new(vec![], Target::Accept).commented(&"x".repeat(300));
    let data = written(&ip, &alone, NFTA_RULE_USERDATA);
    assert_eq!(read_in(&ip, &accept, &data).rule.comment.unwrap().len(), 253);
}

#[test]
fn expressions_are_those_of_iptables_nft() {
    let jump = Target::Jump("CNI-a".to_string());
    for (title, family, rule) in [
        (
            "v4 -s 10.1.2.2 comment jump CNI-a",
            Family::V4,
            rule(vec![Match::source(network("10.1.2.2/32"))], Some(COMMENT), jump),
        ),
        (
            "v4 ! -d 224.0.0.0/4 comment MASQUERADE",
            Family::V4,
            rule(vec![Match::not_destination(network("224.0.0.0/4"))], Some(COMMENT), Target::Masquerade),
        ),
        (
            "v6 ! -d ff00::/8 comment MASQUERADE",
            Family::V6,
            rule(vec![Match::not_destination(network("ff00::/8"))], Some(COMMENT), Target::Masquerade),
        ),
        (
            "v6 -d fd00::/61 ACCEPT",
            Family::V6,
            rule(vec![Match::destination(network("fd00::2/61"))], None, Target::Accept),
        ),
    ] {
        check_golden(GOLDEN, &nat(family), title, &rule);
    }
}

#[test]
fn every_prefix_length_is_read_back() {
    let networks = (0..=32).map(|length| network(&format!("203.0.113.77/{length}")));
    let networks = networks.chain((0..=128).map(|length| network(&format!("2001:db8:aaaa:5555:ffff::77/{length}"))));
    for network in networks {
        let matches = vec![Match::source(network), Match::not_destination(network)];
        let mut rule = rule(matches, None, Target::Accept);
        let stored = read(Family::of(&network), &expressions(Family::of(&network), &rule));
        if network.prefix_len() == 0 {
            rule.matches.clear();
        }
        assert_eq!((stored.rule, stored.foreign), (rule, false), "{network}");
    }
}

/// A rule with one expression of this name and data before what `rest` writes.
fn list(name: &str, data: impl FnOnce(&mut Message), rest: &[u8]) -> Vec<u8> {
    let mut message = Message::new(0, 0);
    message.nested(NFTA_LIST_ELEM, |element| {
        element.string(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, data);
    });
    [message.body(), rest].concat()
}

#[test]
fn a_mask_of_whole_bytes_means_the_same_as_a_short_load() {
    let short = rule(vec![Match::source(network("10.1.2.0/24"))], None, Target::Accept);
    let masked = rule(vec![Match::source(network("10.1.2.0/23"))], None, Target::Accept);
    let mut bytes = expressions(Family::V4, &masked);
    let mask = bytes.windows(4).position(|window| window == [255, 255, 254, 0]).unwrap();
    bytes[mask + 2] = 255;
    let stored = read(Family::V4, &bytes);
    assert_eq!((stored.rule, stored.foreign), (short, false));
}

#[test]
fn what_is_not_understood_makes_a_rule_foreign() {
    let known = expressions(Family::V4, &rule(vec![Match::source(network("10.1.2.2/32"))], None, Target::Accept));
    assert!(!read(Family::V4, &known).foreign);
    assert!(
        read(Family::V4, &list("meta", |data| _ = data.be32(NFTA_META_DREG, 1).be32(NFTA_META_KEY, 0), &known)).foreign
    );
    assert!(
        read(
            Family::V4,
            &list("match", |data| _ = data.string(NFTA_MATCH_NAME, "owner").be32(NFTA_MATCH_REV, 0), &known)
        )
        .foreign
    );
    // A register that nothing compares, and an address of the other family.
    let first = Attributes::parse(&known).unwrap().next().unwrap().payload.len() + 4;
    assert!(read(Family::V4, &known[..first]).foreign);
    assert!(read(Family::V6, &known).foreign);
}

#[test]
fn only_rules_that_begin_with_another_address_are_passed_over() {
    let (ip, ip6) = (native(NativeFamily::Ip), native(NativeFamily::Ip6));
    for (location, own, other) in [
        (nat(Family::V4), "10.0.0.2/32", "10.0.0.3/32"),
        (nat(Family::V6), "fd00::2/128", "fd00::3/128"),
        (ip, "10.0.0.2/32", "10.0.0.3/32"),
        (ip6, "fd00::2/128", "fd00::3/128"),
    ] {
        let passed_over = |matches: Vec<Match>| {
            let message = encode::new_rule(APPEND, &location, "CHAIN", &rule(matches, None, Target::Accept));
            decode::is_about_another(message.body(), &SortedSet::new(vec![network(own).addr()]))
        };
        let states = || Match::ConnectionState(RELATED_OR_ESTABLISHED);
        assert!(passed_over(vec![Match::source(network(other))]));
        assert!(passed_over(vec![Match::destination(network(other)), states()]));
        assert!(!passed_over(vec![Match::source(network(own))]));
        assert!(!passed_over(vec![Match::destination(network(own)), states()]));
        assert!(!passed_over(vec![Match::comes_in_by("br0"), Match::source(network(other))]));
        assert!(!passed_over(vec![states()]) && !passed_over(Vec::new()));
    }
}

#[test]
fn a_goto_is_no_jump() {
    let jump = rule(vec![], None, Target::Jump("CNI-a".to_string()));
    let mut bytes = expressions(Family::V4, &jump);
    let code = bytes.windows(4).position(|window| window == NFT_JUMP.to_be_bytes()).unwrap();
    bytes[code..code + 4].copy_from_slice(&NFT_GOTO.to_be_bytes());
    let stored = read(Family::V4, &bytes);
    assert!(!stored.rule.jumps_to("CNI-a"));
    assert!(stored.is(&rule(vec![], None, Target::Goto("CNI-a".to_string()))));
}

#[test]
fn a_transaction_makes_the_base_chains_it_needs() {
    let append = |chain: &str| Edit::Append { chain: chain.to_string(), rule: rule(vec![], None, Target::Accept) };
    let edits = [append("CNI-a"), append("POSTROUTING")];
    let kinds = |missing: &[&str]| -> Vec<u16> {
        let kind = |mut message: Message| u16::from_ne_bytes(message.finish(1)[4..6].try_into().unwrap());
        messages(&nat(Family::V4), &edits, missing).into_iter().map(kind).collect()
    };
    assert_eq!(kinds(&["POSTROUTING"]), [NFT_MSG_NEWTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWRULE]);
    assert_eq!(kinds(&[]), [NFT_MSG_NEWTABLE, NFT_MSG_NEWRULE, NFT_MSG_NEWRULE]);
    let delete = Edit::DeleteChain("CNI-a".to_string());
    assert_eq!(messages(&nat(Family::V4), &[delete], &[]).len(), 2);
}
