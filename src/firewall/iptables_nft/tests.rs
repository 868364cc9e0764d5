use super::*;
use crate::firewall::{Match, Rule, StoredRule, Target, golden};
use crate::netlink::Attributes;

const GOLDEN: &str = include_str!("../../../tests/golden/iptables-nft.txt");
const COMMENT: &str = "name: \"mynet\" id: \"cid1\"";

fn rule(matches: Vec<Match>, comment: Option<&str>, target: Target) -> Rule {
    Rule { matches, comment: comment.map(str::to_string), target: Some(target) }
}

fn network(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

/// The content of `NFTA_RULE_EXPRESSIONS` in the message for a rule.
fn expressions(family: Family, rule: &Rule) -> Vec<u8> {
    let message = encode::new_rule(APPEND, family, Table::Nat, "CHAIN", rule);
    decode::attributes(message.body()).unwrap().find(NFTA_RULE_EXPRESSIONS).unwrap().payload.to_vec()
}

/// What we understand of a rule that the kernel holds with these expressions.
fn read(family: Family, expressions: &[u8]) -> StoredRule {
    let mut message = encode::request(NFT_MSG_NEWRULE, 0, family);
    message.be64(NFTA_RULE_HANDLE, 7).attribute(NFTA_RULE_EXPRESSIONS, expressions);
    decode::rule(message.body(), family).unwrap()
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
        let golden = golden::section(GOLDEN, title);
        assert_eq!(expressions(family, &rule), golden, "{title}");
        let stored = read(family, &golden);
        assert_eq!((stored.id, stored.rule, stored.foreign), (7, rule, false), "{title}");
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
    assert!(read(Family::V4, &list("meta", |data| _ = data.be32(1, 1), &known)).foreign);
    assert!(read(Family::V4, &list("match", |data| _ = data.string(NFTA_MATCH_NAME, "mark"), &known)).foreign);
    // A register that nothing compares, and an address of the other family.
    let first = Attributes::parse(&known).unwrap().next().unwrap().payload.len() + 4;
    assert!(read(Family::V4, &known[..first]).foreign);
    assert!(read(Family::V6, &known).foreign);
}

#[test]
fn a_goto_leads_to_a_chain_but_is_no_jump_of_ours() {
    let jump = rule(vec![], None, Target::Jump("CNI-a".to_string()));
    let mut bytes = expressions(Family::V4, &jump);
    let code = bytes.windows(4).position(|window| window == NFT_JUMP.to_be_bytes()).unwrap();
    bytes[code..code + 4].copy_from_slice(&NFT_GOTO.to_be_bytes());
    let stored = read(Family::V4, &bytes);
    assert!(stored.foreign && stored.rule.jumps_to("CNI-a"));
}

#[test]
fn a_transaction_makes_the_base_chains_it_needs() {
    let append = |chain: &str| Edit::Append { chain: chain.to_string(), rule: rule(vec![], None, Target::Accept) };
    let edits = [append("CNI-a"), append("POSTROUTING")];
    let kinds = |missing: &[&str]| -> Vec<u16> {
        let kind = |mut message: Message| u16::from_ne_bytes(message.finish(1)[4..6].try_into().unwrap());
        messages(Family::V4, Table::Nat, &edits, missing).into_iter().map(kind).collect()
    };
    assert_eq!(kinds(&["POSTROUTING"]), [NFT_MSG_NEWTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWRULE]);
    assert_eq!(kinds(&[]), [NFT_MSG_NEWTABLE, NFT_MSG_NEWRULE, NFT_MSG_NEWRULE]);
    let delete = Edit::DeleteChain("CNI-a".to_string());
    assert_eq!(messages(Family::V4, Table::Nat, &[delete], &[]).len(), 2);
}
