//! Rules as people read them in errors.

use crate::firewall::rule::{Direction, Side};
use crate::firewall::{Match, Rule, Target};

/// One of our rules as arguments of iptables, the way the reference prints them.
pub(super) fn words(rule: &Rule) -> String {
    let mut words: Vec<String> = rule.matches.iter().filter_map(condition_words).collect();
    words.extend(rule.comment.as_ref().map(|comment| format!("-m comment --comment {comment}")));
    words.extend(rule.target.as_ref().and_then(target_words));
    words.join(" ")
}

fn condition_words(condition: &Match) -> Option<String> {
    let not = |negated: bool| if negated { "! " } else { "" };
    Some(match condition {
        Match::Address { side, negated, network } => {
            format!("{}-{} {network}", not(*negated), if *side == Side::Source { "s" } else { "d" })
        }
        Match::Interface { direction, negated, name } => {
            format!("{}-{} {name}", not(*negated), if *direction == Direction::In { "i" } else { "o" })
        }
        Match::ConnectionState(_) => "-m conntrack --ctstate RELATED,ESTABLISHED".to_string(),
        _ => return None,
    })
}

fn target_words(target: &Target) -> Option<String> {
    Some(match target {
        Target::Accept => "-j ACCEPT".to_string(),
        Target::Drop => "-j DROP".to_string(),
        Target::Return => "-j RETURN".to_string(),
        Target::Jump(chain) => format!("-j {chain}"),
        _ => return None,
    })
}
