//! Plans against tables in memory.

use serde_json::json;

use super::*;
use crate::cni::NetworkConfig;
use crate::firewall::testing::FakeTable;

fn rules(container: &str, more: serde_json::Value) -> Rules {
    let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "TCP"});
    let mut config = json!({"name": "mynet", "runtimeConfig": {"portMappings": [mapping]}});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config = NetworkConfig::parse(config.to_string().into_bytes()).unwrap();
    let address = "10.0.0.2/24".parse().unwrap();
    Rules::new("mynet", container, &Conf::of(&config).unwrap(), address, Whose::default())
}

fn add(table: &mut FakeTable, rules: &Rules) -> Added {
    let (edits, added) = rules.plan(table).unwrap();
    table.apply(&edits);
    added
}

#[test]
fn chains_that_are_there_are_not_made_again() {
    let mut table = FakeTable::default();
    add(&mut table, &rules("c1", json!({})));
    let edits = rules("c2", json!({})).plan(&mut table).unwrap().0;
    let created: Vec<_> = edits.iter().filter(|edit| matches!(edit, Edit::CreateChain(_))).collect();
    assert_eq!(created.len(), 1);
    assert!(!edits.iter().any(|edit| matches!(edit, Edit::Prepend { .. })));
    table.apply(&edits);
    assert!(rules("c1", json!({})).check(&mut table).is_ok());
    assert!(rules("c2", json!({})).check(&mut table).is_ok());
    assert!(rules("c3", json!({})).check(&mut table).is_err());
}

#[test]
fn what_was_added_is_taken_back_and_what_others_use_by_then_stays() {
    let mut table = FakeTable::default();
    let first = add(&mut table, &rules("c1", json!({})));
    let second = add(&mut table, &rules("c2", json!({})));
    let edits = first.reversal(&mut table).unwrap();
    table.apply(&edits);
    assert!(rules("c2", json!({})).check(&mut table).is_ok());
    let edits = second.reversal(&mut table).unwrap();
    table.apply(&edits);
    assert!(rules("c2", json!({})).check(&mut table).is_err());
    // The chains that the first had made were in use when it was undone, so nobody takes them away any more.
    assert_eq!(table.chains, [SET_MARK, MASQUERADE, TOP]);
}

#[test]
fn a_chain_that_a_foreign_rule_leads_to_is_emptied() {
    let mut table = FakeTable::default();
    add(&mut table, &rules("c1", json!({})));
    let chain = chain_name("mynet", "c1");
    let foreign = Rule::new(Vec::new(), Target::Jump(chain.clone()));
    table.apply(&[Edit::create("ADMIN"), Edit::append("ADMIN", foreign)]);
    let left = |table: &mut FakeTable| {
        let (edits, rules) = removal(table, &[Doomed::whole(chain.clone())]).unwrap();
        table.apply(&edits);
        assert!(table.chain(TOP).unwrap().unwrap().rules.is_empty());
        (rules.len(), table.chain(&chain).unwrap().map(|chain| chain.rules.len()))
    };
    assert_eq!(left(&mut table), (3, Some(0)));
    table.apply(&[Edit::Flush("ADMIN".to_string())]);
    assert_eq!(left(&mut table), (0, None));
}

#[test]
fn a_missing_external_chain_is_an_error() {
    let rules = rules("c1", json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}));
    let error = rules.plan(&mut FakeTable::default()).unwrap_err();
    assert!(error.msg.contains("\"KUBE-MARK-MASQ\" does not exist"), "{error}");
    let mut table = FakeTable::default();
    table.chains.push("KUBE-MARK-MASQ".to_string());
    add(&mut table, &rules);
    assert!(!table.chains.contains(&SET_MARK.to_string()));
}

#[test]
fn names_and_comments_are_those_of_the_reference() {
    assert_eq!(chain_name("mynet", "abc123"), "CNI-DN-70a29d9dc18bc4d652ea5");
    assert_eq!(comment("mynet", "abc123"), r#"dnat name: "mynet" id: "abc123""#);
    let long = comment("mynet", &"c".repeat(300));
    assert!(long.len() == COMMENT_LENGTH && long.ends_with("cc.."));
}
