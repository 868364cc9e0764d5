use super::plan::{self, Plan, Wanted};
use super::undo::Reversal;
use super::*;
use crate::firewall::rule::COMPARISONS;
use crate::firewall::testing::FakeTable;
use crate::firewall::{Rule, Target};

/// The plugin's work on one family of a table.
trait Host {
    fn add(&mut self, filter: &Filter<'_>) -> Plan;
    fn undo(&mut self, plan: &Plan, bridge_is_shared: bool);
    fn missing(&mut self, filter: &Filter<'_>) -> Option<String>;
    /// Rules of a chain in short: the target, and how many conditions there are.
    fn short(&mut self, chain: &str) -> Vec<String>;
}

impl Host for FakeTable {
    fn add(&mut self, filter: &Filter<'_>) -> Plan {
        let plan = wanted(filter).missing(self).unwrap();
        self.apply(&plan.edits);
        plan
    }

    fn undo(&mut self, plan: &Plan, bridge_is_shared: bool) {
        let edits = Reversal { plan, forward: FORWARD, bridge_is_shared }.edits(self).unwrap();
        self.apply(&edits);
    }

    fn missing(&mut self, filter: &Filter<'_>) -> Option<String> {
        wanted(filter).first_missing(self).unwrap()
    }

    fn short(&mut self, chain: &str) -> Vec<String> {
        let rules = self.chain(chain).unwrap().map(|stored| stored.rules).unwrap_or_default();
        let target = |rule: &Rule| match &rule.target {
            Some(Target::Jump(chain)) => chain.clone(),
            other => format!("{:?}", other.as_ref().unwrap()),
        };
        rules.iter().map(|found| format!("{} {}", target(&found.rule), found.rule.matches.len())).collect()
    }
}

fn wanted(filter: &Filter<'_>) -> Wanted {
    Wanted::new(filter, FORWARD, Family::V4)
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn open(addresses: &[IpAddr]) -> Filter<'_> {
    Filter { addresses, admin_chain: Some("CNI-ADMIN"), ingress: None }
}

fn policy<'a>(addresses: &'a [IpAddr], bridge: &'a str, isolated: bool) -> Filter<'a> {
    Filter { ingress: Some(Ingress { bridge, isolated }), ..open(addresses) }
}

#[test]
fn order_is_that_of_the_reference() {
    let mut table = FakeTable::default();
    let one = addresses(&["10.0.0.2", "fd00::2", "10.0.0.2"]);
    table.add(&policy(&one, "br0", true));
    table.add(&policy(&addresses(&["10.0.0.3"]), "br1", false));
    assert_eq!(table.short(FORWARD), ["CNI-ISOLATION-STAGE-1 0", "CNI-FORWARD 0"]);
    assert_eq!(table.short(CNI_FORWARD), ["CNI-ADMIN 0", "Accept 2", "Accept 1", "Accept 2", "Accept 1"]);
    let stage_1 = ["CNI-ISOLATION-STAGE-2 2", "Drop 2", "CNI-ISOLATION-STAGE-2 2", "Return 0"];
    assert_eq!(table.short(STAGE_1), stage_1);
    assert_eq!(table.short(STAGE_2), ["Drop 1", "Drop 1", "Return 0"]);
}

#[test]
fn a_second_add_changes_nothing_and_its_undo_neither() {
    let mut table = FakeTable::default();
    let one = addresses(&["10.0.0.2"]);
    let filter = policy(&one, "br0", true);
    let first = table.add(&filter);
    assert_eq!(table.missing(&filter), None);
    let before = table.text();
    let second = table.add(&filter);
    assert!(second.edits.is_empty());
    table.undo(&second, false);
    assert_eq!(table.text(), before);
    table.undo(&first, false);
    assert!(table.rules.is_empty() && table.chains.is_empty(), "{:?}", table.text());
}

#[test]
fn another_policy_replaces_that_of_the_bridge_and_undo_brings_it_back() {
    let mut table = FakeTable::default();
    let one = addresses(&["10.0.0.2"]);
    table.add(&policy(&one, "br0", true));
    table.add(&policy(&one, "br1", true));
    let before = table.short(STAGE_1);
    let change = table.add(&policy(&one, "br0", false));
    let same_bridge = ["CNI-ISOLATION-STAGE-2 2", "Drop 2", "CNI-ISOLATION-STAGE-2 2", "Return 0"];
    assert_eq!(table.short(STAGE_1), same_bridge);
    assert!(table.missing(&policy(&one, "br0", true)).is_some());
    assert_eq!(table.missing(&policy(&one, "br1", true)), None);
    table.undo(&change, false);
    let sorted = |mut rules: Vec<String>| {
        rules.sort();
        rules
    };
    assert_eq!(sorted(table.short(STAGE_1)), sorted(before));
    assert_eq!(table.missing(&policy(&one, "br0", true)), None);
}

#[test]
fn undo_leaves_what_others_use_by_then() {
    let mut table = FakeTable::default();
    let (one, two) = (addresses(&["10.0.0.2"]), addresses(&["10.0.0.3"]));
    let first = table.add(&policy(&one, "br0", false));
    table.add(&policy(&two, "br0", false));
    table.undo(&first, true);
    assert_eq!(table.missing(&policy(&two, "br0", false)), None);
    assert!(table.missing(&open(&one)).is_some());
}

#[test]
fn undo_leaves_chains_that_were_there() {
    let mut table = FakeTable::default();
    let one = addresses(&["10.0.0.2"]);
    table.apply(&[Edit::create("CNI-ADMIN"), Edit::append("CNI-ADMIN", Rule::new(Vec::new(), Target::Return))]);
    let before = table.text();
    let plan = table.add(&open(&one));
    table.undo(&plan, false);
    assert_eq!(table.text(), before);
}

#[test]
fn isolation_stays_above_what_accepts() {
    let mut table = FakeTable::default();
    let one = addresses(&["10.0.0.2"]);
    table.add(&Filter { admin_chain: None, ..policy(&one, "br0", false) });
    assert_eq!(table.short(FORWARD), ["CNI-ISOLATION-STAGE-1 0"]);
    let plan = table.add(&open(&one));
    assert_eq!(table.short(FORWARD), ["CNI-ISOLATION-STAGE-1 0", "CNI-FORWARD 0"]);
    table.undo(&plan, false);
    assert_eq!(table.short(FORWARD), ["CNI-ISOLATION-STAGE-1 0"]);
}

#[test]
fn removal_takes_all_copies_and_no_others() {
    let mut table = FakeTable::default();
    let (one, two) = (addresses(&["10.0.0.2"]), addresses(&["10.0.0.20"]));
    table.add(&open(&one));
    table.add(&open(&two));
    let copies: Vec<Edit> = table
        .chain(CNI_FORWARD)
        .unwrap()
        .unwrap()
        .rules
        .into_iter()
        .map(|found| Edit::append(CNI_FORWARD, found.rule))
        .collect();
    table.apply(&copies);
    let edits = plan::removal(&mut table, &one).unwrap();
    assert_eq!(edits.len(), 4);
    table.apply(&edits);
    assert_eq!(table.missing(&open(&two)), None);
    assert!(plan::removal(&mut table, &one).unwrap().is_empty());
}

#[test]
fn policies_of_gone_bridges_go_and_others_stay() {
    let mut table = FakeTable::default();
    let one = addresses(&["10.0.0.2"]);
    table.add(&policy(&one, "br0", true));
    table.add(&policy(&one, "br1", false));
    assert_eq!(plan::bridges(&mut table).unwrap(), ["br1", "br0"]);
    let edits = plan::removal_of_bridges(&mut table, &["br0".to_string()]).unwrap();
    assert_eq!(edits.len(), 3);
    table.apply(&edits);
    assert_eq!(plan::bridges(&mut table).unwrap(), ["br1"]);
    assert_eq!(table.missing(&policy(&one, "br1", false)), None);
}

#[test]
fn missing_rules_are_named_in_the_references_words() {
    let mut table = FakeTable::default();
    let one = addresses(&["10.0.0.2"]);
    let filter = policy(&one, "br0", false);
    table.add(&filter);
    let mut expected = vec![
        "expected FORWARD rule [-m comment --comment CNI firewall plugin rules -j CNI-FORWARD] not found",
        "expected CNI-FORWARD rule [-m comment --comment CNI firewall plugin admin overrides -j CNI-ADMIN] not found",
        "expected rule [-d 10.0.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT] not found",
        "expected rule [-s 10.0.0.2/32 -j ACCEPT] not found",
        "expected FORWARD rule [-m comment --comment CNI firewall plugin rules (ingressPolicy: same-bridge|isolated) \
         -j CNI-ISOLATION-STAGE-1] not found",
        "expected CNI-ISOLATION-STAGE-1 rule [-i br0 ! -o br0 -m comment --comment CNI firewall plugin rules \
         (ingressPolicy: same-bridge) -j CNI-ISOLATION-STAGE-2] not found",
        "expected CNI-ISOLATION-STAGE-2 rule [-o br0 -m comment --comment CNI firewall plugin rules \
         (ingressPolicy: same-bridge|isolated) -j DROP] not found",
    ];
    assert_eq!(wanted(&filter).first_rule().unwrap(), expected[0]);
    let whole = table.rules.clone();
    let mut named = Vec::new();
    for at in 0..whole.len() {
        table.rules = whole.clone();
        table.rules.remove(at);
        named.extend(table.missing(&filter));
    }
    named.sort();
    expected.sort_unstable();
    assert_eq!(named, expected);
}

/// Ten times as many addresses cost ten times as many comparisons.
#[test]
fn the_cost_is_in_proportion_to_the_addresses() {
    let costs = |count: u16| {
        let hosts: Vec<IpAddr> =
            (0..count).map(|number| IpAddr::from([10, 0, (number >> 8) as u8, number as u8])).collect();
        let mut table = FakeTable::default();
        let before = || COMPARISONS.get();
        let (filter, start) = (policy(&hosts, "br0", true), before());
        let plan = table.add(&filter);
        let added = before();
        assert_eq!(table.missing(&filter), None);
        let checked = before();
        assert!(wanted(&filter).missing(&mut table).unwrap().edits.is_empty());
        let again = before();
        assert_eq!(plan::removal(&mut table, &hosts).unwrap().len(), 2 * usize::from(count));
        let removed = before();
        drop(Reversal { plan: &plan, forward: FORWARD, bridge_is_shared: false }.edits(&mut table).unwrap());
        [added - start, checked - added, again - checked, removed - again, before() - removed]
    };
    for (few, many) in costs(100).into_iter().zip(costs(1000)) {
        assert!(many <= 20 * few.max(10), "{few} comparisons, then {many}");
    }
}

#[test]
fn names_that_cannot_be_the_administrators_chain() {
    for good in ["CNI-ADMIN", "a", "0123456789012345678901234567", "DOCKER-USER"] {
        assert_eq!(unusable_chain_name(good), None, "{good}");
    }
    let long = "01234567890123456789012345678";
    for bad in ["", long, "a b", "a\n", "-A", "!x", "FORWARD", "forward", "ACCEPT", CNI_FORWARD, STAGE_1] {
        assert!(unusable_chain_name(bad).is_some(), "{bad}");
    }
}
