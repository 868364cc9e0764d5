//! Taking rules away: those of a container (DEL, GC), and those of an ADD that failed.

use crate::error::Result;
use crate::firewall::index::RuleIndex;
use crate::firewall::{Edit, Rule, Target, View};
use crate::sorted::SortedSet;

use super::whose::{Split, Whose};
use super::{Added, Before, HOOKS, MASQUERADE, OLD_TOP, POSTROUTING, SET_MARK, TOP};
use super::{comment, comment_start, known, masquerade, set_mark};

/// A container's chain from which an attachment's rules go. The chain goes with its last rule.
#[derive(Debug, Clone)]
pub(in crate::applets::portmap) struct Doomed {
    /// Its name.
    pub(in crate::applets::portmap) chain: String,
    /// Which of its rules go.
    pub(in crate::applets::portmap) whose: Whose,
}

impl Doomed {
    /// A chain that goes with all that is in it.
    pub(in crate::applets::portmap) fn whole(chain: String) -> Self {
        Doomed { chain, whose: Whose::default() }
    }
}

/// Deletes the attachments' rules, and chains without rules with all that leads to them. Also
/// returns the deleted rules.
pub(in crate::applets::portmap) fn removal(view: &mut dyn View, doomed: &[Doomed]) -> Result<(Vec<Edit>, Vec<Rule>)> {
    let (mut edits, mut rules, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for Doomed { chain: name, whose } in doomed {
        let Some(chain) = view.chain(name)? else { continue };
        let split = Split::new(&chain.rules, |_, address| whose.keeps(address));
        rules.extend(known(split.goes.iter().copied()));
        match split.stays.is_empty() {
            true => whole.push((name.as_str(), chain.references)),
            false => edits.extend(partial_removal(view, name, &split)?),
        }
    }
    let mut references = SortedSet::new(whole).into_vec();
    for top in [TOP, OLD_TOP] {
        if references.iter().all(|(_, references)| *references == 0) {
            break;
        }
        for stored in view.chain(top)?.map_or_else(Vec::new, |chain| chain.rules) {
            let Some(Target::Jump(name)) = &stored.rule.target else { continue };
            let place = references.binary_search_by_key(&name.as_str(), |(name, _)| *name);
            let Some((_, references)) = place.ok().and_then(|place| references.get_mut(place)) else { continue };
            *references = references.saturating_sub(1);
            edits.push(Edit::delete(top, stored.id));
        }
    }
    // A chain that somebody else's rule leads to cannot be deleted, but what it leads to is gone all the same.
    edits.extend(references.into_iter().map(|(name, references)| match references {
        0 => Edit::DeleteChain(name.to_string()),
        _ => Edit::Flush(name.to_string()),
    }));
    Ok((edits, rules))
}

/// Deletes rules of a chain in which others stay, and the entry rules that lead to none of these.
fn partial_removal(view: &mut dyn View, name: &str, split: &Split<'_>) -> Result<Vec<Edit>> {
    let mut edits: Vec<Edit> = split.goes.iter().map(|stored| Edit::delete(name, stored.id)).collect();
    if let Some(top) = view.chain(TOP)? {
        edits.extend(top.deletions(TOP, |stored| stored.rule.jumps_to(name) && split.abandons(&stored.rule)));
    }
    Ok(edits)
}

/// The chains of a network's containers that are none of `valid`.
pub(in crate::applets::portmap) fn stale_chains(
    view: &mut dyn View,
    network: &str,
    valid: &[&str],
) -> Result<Vec<String>> {
    let valid = SortedSet::new(valid.iter().map(|container| comment(network, container)).collect());
    let start = comment_start(network);
    let mut stale = Vec::new();
    for stored in view.chain(TOP)?.map_or_else(Vec::new, |top| top.rules) {
        let Some(text) = stored.rule.comment.filter(|text| text.starts_with(&start)) else { continue };
        if let Some(Target::Jump(chain)) = stored.rule.target
            && !valid.contains(&text)
            && chain.starts_with("CNI-DN-")
        {
            stale.push(chain);
        }
    }
    Ok(SortedSet::new(stale).into_vec())
}

impl Added {
    /// Takes it back: what was there before is there again, and chains that others use by now stay.
    pub(in crate::applets::portmap) fn reversal(&self, view: &mut dyn View) -> Result<Vec<Edit>> {
        let Some(chain) = view.chain(&self.chain)? else { return Ok(Vec::new()) };
        let own = RuleIndex::new(&self.own);
        let (goes, stays): (Vec<_>, Vec<_>) = chain.rules.iter().partition(|stored| own.holds_stored(stored));
        let mut edits = Vec::new();
        match &self.before {
            None if stays.is_empty() => self.remove_own(view, &mut edits)?,
            before => {
                edits.extend(goes.iter().map(|stored| Edit::delete(&self.chain, stored.id)));
                self.restore(view, before.as_ref(), &mut edits)?;
            }
        }
        let marked = goes.iter().filter(|stored| stored.rule.jumps_to(SET_MARK)).count();
        self.reverse_marking(view, marked, &mut edits)?;
        Ok(edits)
    }

    fn remove_own(&self, view: &mut dyn View, edits: &mut Vec<Edit>) -> Result<()> {
        let Some(top) = view.chain(TOP)? else { return Ok(()) };
        edits.extend(top.deletions(TOP, |stored| stored.rule.jumps_to(&self.chain)));
        let unused = edits.len() == top.rules.len();
        edits.push(Edit::DeleteChain(self.chain.clone()));
        if unused && self.created.contains(&TOP) { remove_shared(view, TOP, &HOOKS, edits) } else { Ok(()) }
    }

    fn restore(&self, view: &mut dyn View, before: Option<&Before>, edits: &mut Vec<Edit>) -> Result<()> {
        let append = |chain: &str, rules: &[Rule]| -> Vec<Edit> {
            rules.iter().map(|rule| Edit::append(chain, rule.clone())).collect()
        };
        edits.extend(before.iter().flat_map(|before| append(&self.chain, &before.own)));
        if let Some(top) = view.chain(TOP)? {
            let entries = RuleIndex::new(&self.entries);
            edits.extend(top.deletions(TOP, |stored| entries.holds_stored(stored)));
            edits.extend(before.iter().flat_map(|before| append(TOP, &before.entries)));
        }
        Ok(())
    }

    /// `marked` of the references to [`SET_MARK`] are the container's.
    fn reverse_marking(&self, view: &mut dyn View, marked: usize, edits: &mut Vec<Edit>) -> Result<()> {
        let Some(marks) = view.chain(SET_MARK)? else { return Ok(()) };
        let others = marks.references.saturating_sub(marked);
        if self.created.contains(&SET_MARK) && others == 0 && self.before.is_none() {
            edits.push(Edit::DeleteChain(SET_MARK.to_string()));
            if self.created.contains(&MASQUERADE) {
                remove_shared(view, MASQUERADE, &[POSTROUTING], edits)?;
            }
        } else if let Some((mark, before)) = self.marks
            && others <= before
        {
            edits.extend(marks.deletions(SET_MARK, |stored| stored.is(&set_mark(mark))));
            let masquerades = view.chain(MASQUERADE)?;
            let rule = masquerade(mark);
            edits.extend(
                masquerades.into_iter().flat_map(|chain| chain.deletions(MASQUERADE, |stored| stored.is(&rule))),
            );
        }
        Ok(())
    }
}

/// Deletes a chain and the jumps to it.
fn remove_shared(view: &mut dyn View, name: &str, hooks: &[&str], edits: &mut Vec<Edit>) -> Result<()> {
    for hook in hooks {
        if let Some(chain) = view.chain(hook)? {
            edits.extend(chain.deletions(hook, |stored| stored.rule.jumps_to(name)));
        }
    }
    edits.push(Edit::DeleteChain(name.to_string()));
    Ok(())
}
