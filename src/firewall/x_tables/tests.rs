use super::entry::{decode, encode};
use super::layout::{entry, i32_at, u16_at};
use super::*;
use crate::firewall::golden;
use crate::firewall::place::{Edit, View};
use crate::firewall::rule::{Match, Rule, Target};

const POSTROUTING: &str = "POSTROUTING";

const GOLDEN_V4: &str = include_str!("../../../tests/golden/iptables-legacy-v4.txt");
const GOLDEN_V6: &str = include_str!("../../../tests/golden/iptables-legacy-v6.txt");
const CHAIN: &str = "CNI-a";

/// A table of the golden files; what it says about hooks that it has not is left out.
fn golden_table(family: Family, when: &str) -> (Info, Vec<u8>) {
    let text = match family {
        Family::V4 => GOLDEN_V4,
        Family::V6 => GOLDEN_V6,
    };
    let info = golden::section(text, &format!("{when} info"));
    let number = |at: usize| u32_at(&info, 4 * at).unwrap();
    let hook =
        |first: usize| std::array::from_fn(|hook| if number(0) & (1 << hook) == 0 { 0 } else { number(first + hook) });
    let info = Info {
        valid_hooks: number(0),
        hook_entry: hook(1),
        underflow: hook(1 + HOOKS),
        entries: number(1 + 2 * HOOKS),
        size: number(2 + 2 * HOOKS),
    };
    (info, golden::section(text, &format!("{when} entries")))
}

/// The kernel's notes about which hooks reach an entry (`comefrom`), which it ignores in what it is given, set to 0.
fn without_notes(family: Family, mut blob: Vec<u8>) -> Vec<u8> {
    let (target_offset, mut at) = (entry(family).target_offset, 0);
    while at < blob.len() {
        put(&mut blob, at + target_offset + 4, &[0; 4]);
        at += usize::from(u16_at(&blob, at + target_offset + 2).unwrap());
    }
    blob
}

/// The reference's rules for one address.
fn masquerade(family: Family) -> Vec<Edit> {
    let (address, subnet, multicast) = match family {
        Family::V4 => ("10.1.2.2/32", "10.1.2.2/24", "224.0.0.0/4"),
        Family::V6 => ("fd00::2/128", "fd00::2/61", "ff00::/8"),
    };
    let append = |chain: &str, condition, target| Edit::Append {
        chain: chain.to_string(),
        rule: Rule::new(vec![condition], target).commented("name: \"mynet\" id: \"cid1\""),
    };
    vec![
        Edit::CreateChain(CHAIN.to_string()),
        append(CHAIN, Match::destination(subnet.parse().unwrap()), Target::Accept),
        append(CHAIN, Match::not_destination(multicast.parse().unwrap()), Target::Masquerade),
        append(POSTROUTING, Match::source(address.parse().unwrap()), Target::Jump(CHAIN.to_string())),
    ]
}

#[test]
fn an_untouched_table_keeps_every_byte() {
    for family in Family::BOTH {
        for when in ["before", "after"] {
            let (info, blob) = golden_table(family, when);
            let rendered = TableData::parse(family, &info, &blob).unwrap().render();
            assert_eq!(rendered.info, info);
            assert_eq!(rendered.blob, blob);
            let same: Vec<Option<u32>> = (0..info.entries).map(Some).collect();
            assert_eq!(rendered.continues, same);
        }
    }
}

#[test]
fn added_rules_are_those_of_iptables_and_jumps_move_along() {
    for family in Family::BOTH {
        let ((info, blob), (wanted_info, wanted)) = (golden_table(family, "before"), golden_table(family, "after"));
        let mut table = TableData::parse(family, &info, &blob).unwrap();
        table.apply(&masquerade(family)).unwrap();
        let rendered = table.render();
        assert_eq!(rendered.info, wanted_info);
        assert_eq!(without_notes(family, rendered.blob), without_notes(family, wanted));
        let new: Vec<usize> = (0..rendered.continues.len()).filter(|at| rendered.continues[*at].is_none()).collect();
        assert_eq!(new.len(), 5, "the chain's start and end and three rules");
    }
}

#[test]
fn what_is_deleted_leaves_the_table_as_it_was() {
    for family in Family::BOTH {
        let ((info, blob), (wanted_info, wanted)) = (golden_table(family, "after"), golden_table(family, "before"));
        let mut table = TableData::parse(family, &info, &blob).unwrap();
        let postrouting = table.chain(POSTROUTING).unwrap().unwrap();
        let jump = postrouting.rules.iter().find(|stored| stored.rule.jumps_to(CHAIN)).unwrap();
        let delete = Edit::Delete { chain: POSTROUTING.to_string(), id: jump.id };
        table.apply(&[delete, Edit::DeleteChain(CHAIN.to_string())]).unwrap();
        let rendered = table.render();
        assert_eq!(rendered.info, wanted_info);
        assert_eq!(without_notes(family, rendered.blob), without_notes(family, wanted));
    }
}

#[test]
fn rules_of_iptables_are_read_by_meaning() {
    for family in Family::BOTH {
        let (info, blob) = golden_table(family, "after");
        let mut table = TableData::parse(family, &info, &blob).unwrap();
        let (chain, postrouting) = (table.chain(CHAIN).unwrap().unwrap(), table.chain(POSTROUTING).unwrap().unwrap());
        assert_eq!((chain.references, chain.rules.len()), (1, 2));
        for edit in masquerade(family) {
            match edit {
                Edit::Append { chain: name, rule } if name == CHAIN => assert!(chain.holds(&rule), "{rule:?}"),
                Edit::Append { rule, .. } => assert!(postrouting.holds(&rule), "{rule:?}"),
                _ => {}
            }
        }
        let foreign: Vec<bool> = postrouting.rules.iter().map(|stored| stored.foreign).collect();
        assert_eq!(foreign, [false, false, false]);
        assert!(table.chain("missing").unwrap().is_none());
    }
}

#[test]
fn a_chain_in_use_is_not_deleted() {
    let (info, blob) = golden_table(Family::V4, "after");
    let mut table = TableData::parse(Family::V4, &info, &blob).unwrap();
    let error = table.apply(&[Edit::DeleteChain(CHAIN.to_string())]).unwrap_err();
    assert_eq!(error.msg, "chain \"CNI-a\" is still in use");
}

#[test]
fn a_rule_without_target_goes_on_with_the_next_entry() {
    let (info, blob) = golden_table(Family::V4, "before");
    let mut table = TableData::parse(Family::V4, &info, &blob).unwrap();
    let nothing = Rule { target: None, ..Rule::new(vec![], Target::Accept) };
    table.apply(&[Edit::Prepend { chain: "zzz".to_string(), rule: nothing }]).unwrap();
    let rendered = table.render();
    // The rule's entry is the third from the end: after it come RETURN and the table's last entry.
    let place = rendered.continues.iter().position(Option::is_none).unwrap();
    assert_eq!(place, rendered.continues.len() - 3);
    let end = rendered.blob.len() - 0xb0 - 0x98;
    assert_eq!(i32_at(&rendered.blob, end - 8).unwrap() as usize, end);
}

#[test]
fn broken_blobs_are_refused() {
    let (info, blob) = golden_table(Family::V4, "after");
    for length in [0, 1, 0x98, blob.len() - 1] {
        assert!(TableData::parse(Family::V4, &info, &blob[..length]).is_err(), "{length}");
    }
    let mut wild = blob.clone();
    put(&mut wild, entry(Family::V4).target_offset + 2, &[0; 2]);
    assert!(TableData::parse(Family::V4, &info, &wild).is_err());
}

#[test]
fn counters_follow_their_entries() {
    let counters: Vec<u8> = (0..48).collect();
    let request = carried_counters("nat", &[Some(2), None, Some(0)], &counters);
    let behind = &request[BEHIND_NAME_AND_COUNT..];
    assert_eq!(behind[..16], counters[32..]);
    assert_eq!(behind[16..32], [0; 16]);
    assert_eq!(behind[32..], counters[..16]);
}

#[test]
fn every_condition_and_target_is_read_back() {
    use crate::firewall::rule::Protocol::*;
    let mark = |negated| Match::Mark { negated, value: 0x2000, mask: 0x2000 };
    let port = |protocol| vec![Match::Protocol(protocol), Match::DestinationPort(8080)];
    let bridge = vec![Match::comes_in_by("br0"), Match::goes_not_out_by("br0")];
    let mut rules = vec![
        Rule::new(port(Tcp), Target::Drop),
        Rule::new(port(Udp), Target::Return),
        Rule::new(port(Sctp), Target::SetMark { value: 0x2000, mask: 0x2000 }),
        Rule::new(vec![Match::Protocol(Tcp), Match::DestinationPorts(vec![1, 2])], Target::Accept).commented("dnat"),
        Rule::new(vec![Match::LocalDestination, mark(false)], Target::Masquerade),
        Rule::new(vec![mark(true), Match::ConnectionState(6)], Target::Accept),
        Rule::new(bridge, Target::Goto(CHAIN.to_string())).commented("stage"),
    ];
    for (family, to) in [(Family::V4, "10.0.0.2:80"), (Family::V6, "[2001:db8::2]:80")] {
        rules.push(Rule::new(vec![], Target::DestinationNat(to.parse().unwrap())));
        for rule in &rules {
            let mut bytes = encode(family, rule).unwrap();
            let leads = matches!(rule.target, Some(Target::Goto(_))).then_some(CHAIN);
            let (read, whole) = decode(family, &bytes, leads).unwrap();
            assert!(whole && read.means(rule), "{read:?} instead of {rule:?}");
            // A fragment, or any other flag that we don't model.
            let flags = entry(family).flags;
            bytes[flags] |= 0x80;
            assert!(!decode(family, &bytes, leads).unwrap().1);
        }
        rules.pop();
    }
}
