//! Which changes are needed, given what a table holds. Nothing here talks to the kernel.

use std::net::IpAddr;

use ipnet::IpNet;

use super::words::words;
use super::{CNI_FORWARD, Filter, Ingress, STAGE_1, STAGE_2};
use crate::error::Result;
use crate::firewall::index::RuleIndex;
use crate::firewall::place::{StoredChain, StoredRule};
use crate::firewall::rule::{Direction, RELATED_OR_ESTABLISHED};
use crate::firewall::{Edit, Family, Match, Rule, Target, View};
use crate::sorted::unique;

/// Comment of the jump to the rules for addresses.
const FORWARD_COMMENT: &str = "CNI firewall plugin rules";
/// Comment of the jump to the administrator's chain.
const ADMIN_COMMENT: &str = "CNI firewall plugin admin overrides";
/// How the comments of all rules of ingress policies start.
const POLICY_COMMENT: &str = "CNI firewall plugin rules (ingressPolicy: ";
/// Comment of what both ingress policies share.
const SHARED_COMMENT: &str = "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)";
/// The same in older versions.
const OLD_SHARED_COMMENT: &str = "CNI firewall plugin rules (ingressPolicy: same-bridge)";

/// The rules that shall be there in one family.
#[derive(Debug)]
pub(super) struct Wanted {
    forward: &'static str,
    /// Jumps and rules of the addresses; `None` when something else accepts them.
    accepting: Option<Accepting>,
    ingress: Option<Isolating>,
}

#[derive(Debug)]
struct Accepting {
    hosts: Vec<IpAddr>,
    admin_chain: String,
    forward_jump: Rule,
    admin_jump: Rule,
    addresses: Vec<Rule>,
}

#[derive(Debug)]
struct Isolating {
    bridge: String,
    jump: Rule,
    /// In stage 1, in the order in which they are put at its start.
    stage_1: Vec<Rule>,
    stage_2: Rule,
    /// The end of both stages.
    back: Rule,
}

/// Changes of a table, and what they amount to.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) edits: Vec<Edit>,
    /// Chains that don't exist yet.
    pub(super) created: Vec<String>,
    /// Rules that don't exist yet, each with its chain.
    pub(super) added: Vec<(String, Rule)>,
    /// Rules of a bridge's former policy that are deleted, each with its chain.
    pub(super) replaced: Vec<(String, Rule)>,
}

impl Wanted {
    pub(super) fn new(filter: &Filter<'_>, forward: &'static str, family: Family) -> Self {
        let hosts = filter.addresses.iter().copied().filter(|address| Family::of_address(*address) == family);
        let accepting = filter.admin_chain.map(|admin_chain| Accepting {
            hosts: hosts.clone().collect(),
            admin_chain: admin_chain.to_string(),
            forward_jump: jump(CNI_FORWARD).commented(FORWARD_COMMENT),
            admin_jump: jump(admin_chain).commented(ADMIN_COMMENT),
            addresses: unique(hosts.collect()).into_iter().flat_map(address_rules).collect(),
        });
        Wanted { forward, accepting, ingress: filter.ingress.map(Isolating::new) }
    }

    /// What the table lacks.
    pub(super) fn missing(&self, view: &mut dyn View) -> Result<Plan> {
        let mut plan = Plan::default();
        let has_stage_1 = view.uses(STAGE_1)?.is_some();
        let private = if self.accepting.is_some() { self.chain(view, CNI_FORWARD)? } else { None };
        // Nothing can jump to a chain that is not there.
        let forward = if private.is_some() || has_stage_1 { self.chain(view, self.forward)? } else { None };
        if let Some(accepting) = &self.accepting {
            accepting.missing(view, private.as_ref(), forward.as_ref(), self.forward, &mut plan)?;
        }
        // Only what is new in FORWARD can have come above the isolation.
        let below = plan.added.iter().any(|(chain, _)| chain == self.forward);
        let jump = stage_1_jump();
        let isolation = forward.as_ref().and_then(|chain| chain.rules.iter().find(|found| says(found, &jump)));
        if let (true, Some(found)) = (below, isolation) {
            plan.edits.push(Edit::delete(self.forward, found.id));
            plan.edits.push(Edit::prepend(self.forward, found.rule.clone()));
        }
        if let Some(ingress) = &self.ingress {
            ingress.missing(view, forward.as_ref(), self.forward, &mut plan)?;
        }
        Ok(plan)
    }

    /// The first rule that the table lacks, in the reference's words where it has any.
    pub(super) fn first_missing(&self, view: &mut dyn View) -> Result<Option<String>> {
        let mut chains: Vec<(&str, StoredChain)> = Vec::new();
        for chain in unique(self.rules().into_iter().map(|(chain, _)| chain).collect()) {
            chains.extend(self.chain(view, chain)?.map(|stored| (chain, stored)));
        }
        let indexed: Vec<(&str, Known<'_>)> = chains.iter().map(|(name, stored)| (*name, Known::of(stored))).collect();
        let is_there =
            |chain: &str, rule: &Rule| indexed.iter().any(|(name, known)| *name == chain && known.holds(rule));
        let missing = self.rules().into_iter().find(|(chain, rule)| !is_there(chain, rule));
        Ok(missing.map(|(chain, rule)| self.describe(chain, rule)))
    }

    /// A chain, as far as it can hold rules that are wanted.
    fn chain(&self, view: &mut dyn View, name: &str) -> Result<Option<StoredChain>> {
        view.chain_about(name, self.accepting.as_ref().map_or(&[], |accepting| &accepting.hosts))
    }

    /// What a host without any of our rules lacks.
    pub(super) fn first_rule(&self) -> Option<String> {
        self.rules().first().map(|(chain, rule)| self.describe(chain, rule))
    }

    fn describe(&self, chain: &str, rule: &Rule) -> String {
        let is_address = chain == CNI_FORWARD && !rule.matches.is_empty();
        let place = if is_address { String::new() } else { format!("{chain} ") };
        format!("expected {place}rule [{}] not found", words(rule))
    }

    /// All rules with their chains.
    fn rules(&self) -> Vec<(&str, &Rule)> {
        let mut rules = Vec::new();
        if let Some(accepting) = &self.accepting {
            rules.push((self.forward, &accepting.forward_jump));
            rules.push((CNI_FORWARD, &accepting.admin_jump));
            rules.extend(accepting.addresses.iter().map(|rule| (CNI_FORWARD, rule)));
        }
        if let Some(ingress) = &self.ingress {
            rules.push((self.forward, &ingress.jump));
            rules.extend(ingress.stage_1.iter().map(|rule| (STAGE_1, rule)));
            rules.push((STAGE_2, &ingress.stage_2));
        }
        rules
    }
}

impl Accepting {
    fn missing(
        &self,
        view: &mut dyn View,
        private: Option<&StoredChain>,
        forward: Option<&StoredChain>,
        forward_name: &str,
        plan: &mut Plan,
    ) -> Result<()> {
        plan.create_missing(CNI_FORWARD, private.is_some());
        plan.create_missing(&self.admin_chain, view.uses(&self.admin_chain)?.is_some());
        plan.prepend_missing(forward_name, forward.map(Known::of).as_ref(), &self.forward_jump);
        let private = private.map(Known::of);
        plan.prepend_missing(CNI_FORWARD, private.as_ref(), &self.admin_jump);
        for rule in &self.addresses {
            plan.append_missing(CNI_FORWARD, private.as_ref(), rule);
        }
        Ok(())
    }
}

impl Isolating {
    fn new(ingress: Ingress<'_>) -> Self {
        let Ingress { bridge, isolated } = ingress;
        let policy = format!("{POLICY_COMMENT}{})", if isolated { "isolated" } else { "same-bridge" });
        let rule = |matches, target| Rule::new(matches, target);
        let to_others = vec![Match::comes_in_by(bridge), Match::goes_not_out_by(bridge)];
        let mut stage_1 = vec![rule(to_others, Target::Jump(STAGE_2.to_string())).commented(&policy)];
        if isolated {
            let inside = vec![Match::comes_in_by(bridge), Match::goes_out_by(bridge)];
            stage_1.push(rule(inside, Target::Drop).commented(&policy));
        }
        Isolating {
            bridge: bridge.to_string(),
            jump: stage_1_jump(),
            stage_1,
            stage_2: rule(vec![Match::goes_out_by(bridge)], Target::Drop).commented(SHARED_COMMENT),
            back: rule(Vec::new(), Target::Return).commented(SHARED_COMMENT),
        }
    }

    fn missing(
        &self,
        view: &mut dyn View,
        forward: Option<&StoredChain>,
        forward_name: &str,
        plan: &mut Plan,
    ) -> Result<()> {
        let (first, second) = (view.chain(STAGE_1)?, view.chain(STAGE_2)?);
        plan.create_missing(STAGE_1, first.is_some());
        plan.create_missing(STAGE_2, second.is_some());
        plan.prepend_missing(forward_name, forward.map(Known::of).as_ref(), &self.jump);
        let (in_first, in_second) = (first.as_ref().map(Known::of), second.as_ref().map(Known::of));
        for found in first.iter().flat_map(|chain| &chain.rules).filter(|found| self.is_of_other_policy(found)) {
            plan.edits.push(Edit::delete(STAGE_1, found.id));
            plan.replaced.push((STAGE_1.to_string(), found.rule.clone()));
        }
        for rule in &self.stage_1 {
            plan.prepend_missing(STAGE_1, in_first.as_ref(), rule);
        }
        plan.append_missing(STAGE_1, in_first.as_ref(), &self.back);
        plan.prepend_missing(STAGE_2, in_second.as_ref(), &self.stage_2);
        plan.append_missing(STAGE_2, in_second.as_ref(), &self.back);
        Ok(())
    }

    /// A rule for this bridge that its policy does not have.
    fn is_of_other_policy(&self, found: &StoredRule) -> bool {
        let is_wanted = self.stage_1.iter().any(|rule| found.is(rule));
        !is_wanted && policy_bridge(found, Direction::In) == Some(&self.bridge)
    }
}

impl Plan {
    fn create_missing(&mut self, chain: &str, exists: bool) {
        if !exists {
            self.edits.push(Edit::create(chain));
            self.created.push(chain.to_string());
        }
    }

    fn append_missing(&mut self, chain: &str, stored: Option<&Known<'_>>, rule: &Rule) {
        if self.is_new(chain, stored, rule) {
            self.edits.push(Edit::append(chain, rule.clone()));
        }
    }

    fn prepend_missing(&mut self, chain: &str, stored: Option<&Known<'_>>, rule: &Rule) {
        if self.is_new(chain, stored, rule) {
            self.edits.push(Edit::prepend(chain, rule.clone()));
        }
    }

    fn is_new(&mut self, chain: &str, stored: Option<&Known<'_>>, rule: &Rule) -> bool {
        let is_new = !stored.is_some_and(|stored| stored.holds(rule));
        if is_new {
            self.added.push((chain.to_string(), rule.clone()));
        }
        is_new
    }
}

/// The rules of a chain.
#[derive(Debug)]
struct Known<'a>(RuleIndex<'a>);

impl<'a> Known<'a> {
    fn of(stored: &'a StoredChain) -> Self {
        Known(RuleIndex::of_stored(&stored.rules))
    }

    /// One of them is this rule, see [`says`].
    fn holds(&self, rule: &Rule) -> bool {
        let is_shared = rule.comment.as_deref() == Some(SHARED_COMMENT);
        self.0.holds(rule) || is_shared && self.0.holds(&rule.clone().commented(OLD_SHARED_COMMENT))
    }
}

/// It is this rule. Until there was `isolated` (reference v1.5), comments of what both policies share named `same-bridge`
/// alone.
fn says(found: &StoredRule, rule: &Rule) -> bool {
    let is_old =
        rule.comment.as_deref() == Some(SHARED_COMMENT) && found.rule.comment.as_deref() == Some(OLD_SHARED_COMMENT);
    found.is(rule) || is_old && found.is(&rule.clone().commented(OLD_SHARED_COMMENT))
}

/// Deletes every rule for one of these addresses.
pub(super) fn removal(view: &mut dyn View, addresses: &[IpAddr]) -> Result<Vec<Edit>> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let rules: Vec<Rule> = addresses.iter().copied().flat_map(address_rules).collect();
    let Some(chain) = view.chain_about(CNI_FORWARD, addresses)? else { return Ok(Vec::new()) };
    let index = RuleIndex::new(&rules);
    Ok(chain.deletions(CNI_FORWARD, |found| index.holds_stored(found)))
}

/// The bridges that have an ingress policy.
pub(super) fn bridges(view: &mut dyn View) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (chain, direction) in [(STAGE_1, Direction::In), (STAGE_2, Direction::Out)] {
        let rules = view.chain(chain)?.map(|stored| stored.rules).unwrap_or_default();
        for name in rules.iter().filter_map(|found| policy_bridge(found, direction)) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    Ok(names)
}

/// Deletes the rules of these bridges' ingress policies.
pub(super) fn removal_of_bridges(view: &mut dyn View, bridges: &[String]) -> Result<Vec<Edit>> {
    let mut edits = Vec::new();
    for (chain, direction) in [(STAGE_1, Direction::In), (STAGE_2, Direction::Out)] {
        if bridges.is_empty() {
            break;
        }
        let Some(stored) = view.chain(chain)? else { continue };
        let is_theirs = |name: &String| bridges.contains(name);
        edits.extend(stored.deletions(chain, |found| policy_bridge(found, direction).is_some_and(is_theirs)));
    }
    Ok(edits)
}

/// The bridge whose policy the rule belongs to.
fn policy_bridge(found: &StoredRule, wanted: Direction) -> Option<&String> {
    let is_policy = found.rule.comment.as_ref().is_some_and(|comment| comment.starts_with(POLICY_COMMENT));
    found.rule.matches.iter().filter(|_| is_policy && !found.foreign).find_map(|condition| match condition {
        Match::Interface { direction, negated: false, name } if *direction == wanted => Some(name),
        _ => None,
    })
}

/// What is accepted for an address: the answers to it, and all that it sends.
pub(super) fn address_rules(address: IpAddr) -> [Rule; 2] {
    let net = IpNet::from(address);
    let answers = vec![Match::destination(net), Match::ConnectionState(RELATED_OR_ESTABLISHED)];
    [Rule::new(answers, Target::Accept), Rule::new(vec![Match::source(net)], Target::Accept)]
}

fn stage_1_jump() -> Rule {
    jump(STAGE_1).commented(SHARED_COMMENT)
}

fn jump(chain: &str) -> Rule {
    Rule::new(Vec::new(), Target::Jump(chain.to_string()))
}
