//! Taking rules away: those of a container (DEL, GC), and those of an ADD that failed.

use crate::error::Result;
use crate::firewall::{Edit, Rule, Target, View};

use super::{Added, Before, HOOKS, MASQUERADE, OLD_TOP, POSTROUTING, SET_MARK, TOP};
use super::{comment, comment_start, known, masquerade, set_mark};

/// Deletes the containers' chains for which `chosen` is true of the name, and all that leads to them. Also says which
/// rules went with them.
pub(in crate::applets::portmap) fn removal(view: &mut dyn View, chains: &[String]) -> Result<(Vec<Edit>, Vec<Rule>)> {
    let (mut edits, mut rules) = (Vec::new(), Vec::new());
    let mut found = Vec::new();
    for name in chains {
        if let Some(chain) = view.chain(name)? {
            rules.extend(known(&chain.rules));
            found.push((name, chain.references));
        }
    }
    for top in [TOP, OLD_TOP] {
        if found.iter().all(|(_, references)| *references == 0) {
            break;
        }
        let Some(chain) = view.chain(top)? else { continue };
        for (name, references) in &mut found {
            let jumps = chain.deletions(top, |stored| stored.rule.jumps_to(name));
            *references = references.saturating_sub(jumps.len());
            edits.extend(jumps);
        }
    }
    // A chain that somebody else's rule leads to cannot be deleted, but what it leads to is gone all the same.
    edits.extend(found.into_iter().map(|(name, references)| match references {
        0 => Edit::DeleteChain(name.clone()),
        _ => Edit::Flush(name.clone()),
    }));
    Ok((edits, rules))
}

/// The chains of a network's containers that are none of `valid`.
pub(in crate::applets::portmap) fn stale_chains(
    view: &mut dyn View,
    network: &str,
    valid: &[&str],
) -> Result<Vec<String>> {
    let valid: Vec<String> = valid.iter().map(|container| comment(network, container)).collect();
    let start = comment_start(network);
    let mut stale = Vec::new();
    for stored in view.chain(TOP)?.map_or_else(Vec::new, |top| top.rules) {
        let Some(text) = stored.rule.comment.filter(|text| text.starts_with(&start)) else { continue };
        if let Some(Target::Jump(chain)) = stored.rule.target
            && !valid.contains(&text)
            && chain.starts_with("CNI-DN-")
            && !stale.contains(&chain)
        {
            stale.push(chain);
        }
    }
    Ok(stale)
}

impl Added {
    /// Takes it back: what was there before is there again, and chains that others use by now stay.
    pub(in crate::applets::portmap) fn reversal(&self, view: &mut dyn View) -> Result<Vec<Edit>> {
        let Some(own) = view.chain(&self.chain)? else { return Ok(Vec::new()) };
        let mut edits = Vec::new();
        match &self.before {
            None => self.remove_own(view, &mut edits)?,
            Some(before) => self.restore(view, before, &mut edits)?,
        }
        let marked = own.rules.iter().filter(|stored| stored.rule.jumps_to(SET_MARK)).count();
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

    fn restore(&self, view: &mut dyn View, before: &Before, edits: &mut Vec<Edit>) -> Result<()> {
        edits.push(Edit::Flush(self.chain.clone()));
        edits.extend(before.own.iter().map(|rule| Edit::append(&self.chain, rule.clone())));
        if let (Some(entries), Some(top)) = (&before.entries, view.chain(TOP)?) {
            edits.extend(top.deletions(TOP, |stored| stored.rule.jumps_to(&self.chain)));
            edits.extend(known(entries).into_iter().map(|rule| Edit::append(TOP, rule)));
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
