//! Finding things among thousands. A plugin that compares each of its rules with each rule in the
//! kernel takes a minute for 10,000 port mappings.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::firewall::Rule;
use crate::firewall::place::StoredRule;

/// Rules, to be found by what they say.
#[derive(Debug)]
pub struct RuleIndex<'a>(Vec<(u64, &'a Rule)>);

impl<'a> RuleIndex<'a> {
    /// An index of these rules.
    pub fn new(rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        let mut index: Vec<_> = rules.into_iter().map(|rule| (fingerprint(rule), rule)).collect();
        index.sort_unstable_by_key(|(fingerprint, _)| *fingerprint);
        RuleIndex(index)
    }

    /// An index of those of the stored rules that are understood as a whole.
    pub fn of_stored(rules: impl IntoIterator<Item = &'a StoredRule>) -> Self {
        RuleIndex::new(rules.into_iter().filter(|stored| !stored.foreign).map(|stored| &stored.rule))
    }

    /// True when one of the rules says the same, see [`Rule::means`].
    pub fn holds(&self, rule: &Rule) -> bool {
        let wanted = fingerprint(rule);
        let first = self.0.partition_point(|(fingerprint, _)| *fingerprint < wanted);
        let equal = self.0.iter().skip(first).take_while(|(fingerprint, _)| *fingerprint == wanted);
        equal.into_iter().any(|(_, found)| found.means(rule))
    }

    /// True when the stored rule says the same as one of the rules, and nothing else.
    pub fn holds_stored(&self, stored: &StoredRule) -> bool {
        !stored.foreign && self.holds(&stored.rule)
    }
}

/// The same for rules that say the same, whatever the order of their conditions.
fn fingerprint(rule: &Rule) -> u64 {
    let of_conditions = rule.matches.iter().map(hash).fold(0, u64::wrapping_add);
    hash(&(&rule.target, &rule.comment, &rule.note)).wrapping_add(of_conditions)
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::{Match, Target};

    #[test]
    fn rules_are_found_by_what_they_say() {
        let rule = |text: &str, target| Rule::new(vec![Match::comes_in_by(text), Match::goes_out_by("b")], target);
        let rules = [rule("x", Target::Accept), rule("y", Target::Drop).commented("c")];
        let index = RuleIndex::new(&rules);
        let mut turned = rules[0].clone();
        turned.matches.reverse();
        assert!(index.holds(&turned) && index.holds(&rules[1]));
        for other in [rule("x", Target::Drop), rule("y", Target::Drop), rule("z", Target::Accept)] {
            assert!(!index.holds(&other), "{other:?}");
        }
        let stored = |foreign| StoredRule { id: 1, rule: rules[0].clone(), foreign };
        assert!(index.holds_stored(&stored(false)) && !index.holds_stored(&stored(true)));
        assert!(!RuleIndex::of_stored(&[stored(true)]).holds(&rules[0]));
    }
}
