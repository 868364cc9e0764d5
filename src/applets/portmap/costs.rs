//! What the verbs cost, in comparisons of rules: ten times as many mappings cost ten times as much.

use serde_json::{Value, json};

use super::conf::Conf;
use super::iptables::{self, Doomed, Whose};
use super::nftables::{self, Owner};
use crate::cni::NetworkConfig;
use crate::firewall::rule::COMPARISONS;
use crate::firewall::testing::FakeTable;
use crate::firewall::{Edit, View};

const FEW: u16 = 100;
const MANY: u16 = 1000;

fn conf(count: u16) -> Conf {
    let protocol = |port: u16| if port.is_multiple_of(2) { "udp" } else { "tcp" };
    let mapping = |port| json!({"hostPort": port, "containerPort": port, "protocol": protocol(port)});
    let mappings: Vec<Value> = (1..=count).map(mapping).collect();
    let config = json!({"name": "net", "runtimeConfig": {"portMappings": mappings}});
    Conf::of(&NetworkConfig::parse(config.to_string().into_bytes()).unwrap()).unwrap()
}

/// Comparisons during each step, none counted as one.
fn counted(step: impl FnOnce()) -> usize {
    let before = COMPARISONS.get();
    step();
    (COMPARISONS.get() - before).max(1)
}

fn assert_linear(costs: &dyn Fn(u16) -> Vec<usize>) {
    for (step, (few, many)) in costs(FEW).into_iter().zip(costs(MANY)).enumerate() {
        assert!(many <= few * usize::from(MANY / FEW) * 2, "step {step}: {few} comparisons, then {many}");
        assert!(many <= 40 * usize::from(MANY), "step {step}: {many}");
    }
}

/// ADD, CHECK, ADD again, ADD of a second interface with the same ports, taking that back, DEL.
#[test]
fn mappings_in_iptables() {
    assert_linear(&|count| {
        let mut table = FakeTable::default();
        let address = "10.0.0.2/24".parse().unwrap();
        let of = |whose| iptables::Rules::new("net", "c1", &conf(count), address, whose);
        let rules = of(Whose::default());
        let first = counted(|| {
            let edits = rules.plan(&mut table).unwrap().0;
            table.apply(&edits);
        });
        let check = counted(|| rules.check(&mut table).unwrap());
        let again = counted(|| drop(rules.plan(&mut table).unwrap()));
        let others = Whose { mine: Vec::new(), others: vec!["10.0.0.2".parse().unwrap()] };
        let second = iptables::Rules::new("net", "c1", &conf(count), "10.0.0.3/24".parse().unwrap(), others);
        let mut added = None;
        let beside = counted(|| {
            let (edits, done) = second.plan(&mut table).unwrap();
            table.apply(&edits);
            added = Some(done);
        });
        let back = counted(|| drop(added.unwrap().reversal(&mut table).unwrap()));
        let chain = iptables::chain_name("net", "c1");
        let end = counted(|| drop(iptables::removal(&mut table, &[Doomed::whole(chain)]).unwrap()));
        vec![first, check, again, beside, back, end]
    });
}

/// ADD, CHECK, ADD again, and ADD beside rules of the reference, which do not name the interface.
#[test]
fn mappings_in_nftables() {
    assert_linear(&|count| {
        let mut table = FakeTable::default();
        table.apply(&["prerouting", "output", "masquerading"].map(Edit::create));
        let rules = |address: &str| {
            nftables::Rules::new(Owner::new("net", "c1", "eth0"), &conf(count), address.parse().unwrap())
        };
        let first = counted(|| {
            let edits = rules("10.0.0.2/24").plan(&mut table).unwrap().0;
            table.apply(&edits);
        });
        let check = counted(|| rules("10.0.0.2/24").check(&mut table).unwrap());
        let again = counted(|| drop(rules("10.0.0.2/24").plan(&mut table).unwrap()));
        table.rules.iter_mut().for_each(|(_, stored)| stored.rule.note = None);
        let beside = counted(|| drop(rules("10.0.0.3/24").plan(&mut table).unwrap()));
        assert!(table.uses("hostports").unwrap().unwrap() > usize::from(count));
        vec![first, check, again, beside]
    });
}
