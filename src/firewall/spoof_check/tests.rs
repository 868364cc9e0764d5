use super::*;
use crate::firewall::testing::FakeTable;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn add(table: &mut FakeTable, ifname: &str, link: &str) {
    let edits = SpoofCheck::of("c1", ifname).addition(table, link, MAC).unwrap();
    // PREROUTING exists always in this table; in the kernel its creation does nothing then.
    let edits: Vec<Edit> = edits.into_iter().filter(|edit| *edit != Edit::create(PREROUTING)).collect();
    table.apply(&edits);
}

fn jumps(table: &FakeTable) -> usize {
    table.rules.iter().filter(|(chain, _)| chain == PREROUTING).count()
}

#[test]
fn a_repeated_setup_replaces_what_it_finds() {
    let mut table = FakeTable::default();
    add(&mut table, "eth0", "veth1");
    add(&mut table, "eth0", "veth2");
    assert_eq!((table.rules.len(), jumps(&table)), (4, 1));
    let check = SpoofCheck::of("c1", "eth0");
    assert_eq!(check.lack(&mut table, "veth2", MAC), Ok(None));
    let lack = check.lack(&mut table, "veth1", MAC).unwrap().unwrap();
    assert_eq!(lack, r#"the rules of chain "PREROUTING" are not the ones for "veth1""#);
}

#[test]
fn removal_leaves_others_and_may_be_repeated() {
    let mut table = FakeTable::default();
    add(&mut table, "eth0", "veth1");
    add(&mut table, "net1", "veth2");
    let uncommented = Rule::new(vec![], Target::Jump("cni-br-iface-c1-eth0".to_string()));
    table.apply(&[Edit::append(PREROUTING, uncommented)]);
    for _ in 0..2 {
        let edits = SpoofCheck::of("c1", "eth0").removal(&mut table).unwrap();
        table.apply(&edits);
        assert_eq!((table.rules.len(), table.chains.len()), (4, 2));
    }
    assert_eq!(entries(&mut table).unwrap(), [(SpoofCheck::of("c1", "net1"), "veth2".to_string())]);
}

#[test]
fn chains_stay_while_another_link_leads_to_them() {
    let mut table = FakeTable::default();
    let check = SpoofCheck::of("c1", "eth0");
    add(&mut table, "eth0", "veth1");
    let again = check.rules("veth2", MAC).next().map(|(chain, rule)| Edit::append(chain, rule));
    table.apply(again.as_slice());
    for (link, rules) in [("veth1", 4), ("veth2", 0)] {
        let edits = check.removal_of_link(&mut table, link).unwrap();
        table.apply(&edits);
        assert_eq!(table.rules.len(), rules);
    }
    assert!(table.chains.is_empty());
}

#[test]
fn names_too_long_for_the_kernel_are_refused_before_it_is_asked() {
    assert_eq!(SpoofCheck::of(&"c".repeat(233), "eth0").validate(), Ok(()));
    let error = SpoofCheck::of(&"c".repeat(235), "eth0").validate().unwrap_err();
    assert!(error.msg.contains("failed to setup spoof-check: "), "{error}");
    assert_eq!(error.details, "2 bytes too long with the interface's name");
}
