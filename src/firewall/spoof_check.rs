//! Frames that a container sends with another hardware address than its own are dropped: the `macspoofchk` of the
//! reference's bridge (`pkg/link/spoofcheck.go`).
//!
//! In the table `bridge nat`, PREROUTING sends what comes from the host's end of the container's pair to a chain of the
//! attachment, and that one to a second, where the container's address returns and everything else is dropped. The
//! chains and the rules' comments are named by container and interface.

#[cfg(test)]
mod tests;

use crate::error::{Context, Error, Failures, Result};
use crate::firewall::place::{BaseChain, ChainKind, Edit, Hook, NativeFamily, NativeTable, Place, View};
use crate::firewall::rule::{Direction, Match, Rule, Target};
use crate::firewall::session::Session;

const PREROUTING: &str = "PREROUTING";
const CHAIN_PREFIX: &str = "cni-br-iface-";
const COMMENT_PREFIX: &str = "macspoofchk-";
/// Longest name of a chain in bytes: `NFT_CHAIN_MAXNAMELEN` without its NUL (128 before Linux 4.14, which then refuses).
const LONGEST_NAME: usize = 255;

static TABLE: NativeTable = NativeTable {
    family: NativeFamily::Bridge,
    name: "nat",
    comment: "",
    chain_comments: &[],
    base_chains: &[BaseChain { name: PREROUTING, kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -300 }],
};
const PLACE: Place = Place::Native(&TABLE);

/// The check of one attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoofCheck {
    /// Where its frames come in.
    chain: String,
    /// Where their sender is looked at.
    mac_chain: String,
    /// Of all its rules.
    comment: String,
}

impl SpoofCheck {
    /// The check of a container's interface.
    pub fn of(container: &str, ifname: &str) -> Self {
        SpoofCheck::named(&format!("{container}-{ifname}"))
    }

    fn named(reference: &str) -> Self {
        let chain = format!("{CHAIN_PREFIX}{reference}");
        SpoofCheck { mac_chain: format!("{chain}-mac"), chain, comment: format!("{COMMENT_PREFIX}{reference}") }
    }

    /// Refuses names that the kernel would refuse, which it says only as "numerical result out of range".
    pub fn validate(&self) -> Result<()> {
        let length = self.mac_chain.len();
        if length <= LONGEST_NAME {
            return Ok(());
        }
        let spare = length - LONGEST_NAME;
        let msg = "failed to setup spoof-check: the container id is too long to name a chain of nf_tables after it";
        Err(Error::internal(msg).with_details(format!("{spare} bytes too long with the interface's name")))
    }

    /// Lets only frames from `mac` pass that come in by `link`, the host's end of the pair. What an earlier attachment of
    /// this name has left is replaced. One transaction.
    pub fn add(&self, session: &mut Session, link: &str, mac: [u8; 6]) -> Result<()> {
        self.try_add(session, link, mac).context("failed to setup spoof-check")
    }

    fn try_add(&self, session: &mut Session, link: &str, mac: [u8; 6]) -> Result<()> {
        self.validate()?;
        // Nearly always the chains are new. Then nothing leads there, and PREROUTING, which has a rule for every container
        // of the host, need not be read.
        if session.look(PLACE, |view| self.is_new(view))? && session.write(PLACE, &self.creation(link, mac)).is_ok() {
            return Ok(());
        }
        session.edit(PLACE, |view| Ok((self.addition(view, link, mac)?, ())))
    }

    /// Ends the check. What is missing is no failure.
    pub fn del(&self, session: &mut Session) -> Result<()> {
        self.try_del(session).context("failed to teardown spoof-check")
    }

    fn try_del(&self, session: &mut Session) -> Result<()> {
        // No chain can have a name that is too long, and the kernel would not even look for it.
        let can_exist = self.validate().is_ok() && session.has_nftables()?;
        if !can_exist || session.look(PLACE, |view| self.is_new(view))? {
            return Ok(());
        }
        session.edit(PLACE, |view| Ok((self.removal(view)?, ())))
    }

    /// Fails, saying what is missing, unless exactly the frames from `mac` that come in by `link` pass.
    pub fn verify(&self, session: &mut Session, link: &str, mac: [u8; 6]) -> Result<()> {
        let lack = if session.has_nftables()? {
            session.look(PLACE, |view| self.lack(view, link, mac))?
        } else {
            Some("the kernel has no nf_tables".to_string())
        };
        match lack {
            None => Ok(()),
            Some(lack) => Err(Error::internal(format!("spoof check of {link:?} is not in place: {lack}"))),
        }
    }

    /// Ends the checks of interfaces that do not exist any more; `exists` is asked for the name of the host's end. Nothing in
    /// a rule says which network it belongs to, so no more than that can be told.
    pub fn gc(session: &mut Session, exists: impl FnMut(&str) -> Result<bool>) -> Result<()> {
        SpoofCheck::try_gc(session, exists).context("failed to clean up after spoof checks")
    }

    fn try_gc(session: &mut Session, mut exists: impl FnMut(&str) -> Result<bool>) -> Result<()> {
        if !session.has_nftables()? {
            return Ok(());
        }
        let mut gone: Vec<(SpoofCheck, String)> = Vec::new();
        for (check, link) in session.look(PLACE, entries)? {
            if !exists(&link)? && !gone.contains(&(check.clone(), link.clone())) {
                gone.push((check, link));
            }
        }
        let mut failures = Failures::default();
        for (check, link) in &gone {
            failures.note(session.edit(PLACE, |view| Ok((check.removal_of_link(view, link)?, ()))));
        }
        failures.finish()
    }

    /// Asks the kernel whether it would take such rules.
    pub fn probe(session: &mut Session) -> Result<()> {
        let check = SpoofCheck::named("");
        session.probe(PLACE, &check.creation("lo", [0; 6])).context("failed to setup spoof-check")
    }

    fn is_new(&self, view: &mut dyn View) -> Result<bool> {
        Ok(view.uses(&self.chain)?.is_none() && view.uses(&self.mac_chain)?.is_none())
    }

    /// Everything, for an attachment without chains.
    fn creation(&self, link: &str, mac: [u8; 6]) -> Vec<Edit> {
        let mut edits = vec![Edit::create(PREROUTING), Edit::create(&self.chain), Edit::create(&self.mac_chain)];
        edits.extend(self.rules(link, mac).map(|(chain, rule)| Edit::append(chain, rule)));
        edits
    }

    fn addition(&self, view: &mut dyn View, link: &str, mac: [u8; 6]) -> Result<Vec<Edit>> {
        let mut edits = self.jump_deletions(view, |_| true)?;
        edits.push(Edit::create(PREROUTING));
        for chain in [&self.chain, &self.mac_chain] {
            edits.push(match view.uses(chain)? {
                Some(_) => Edit::Flush(chain.clone()),
                None => Edit::create(chain),
            });
        }
        edits.extend(self.rules(link, mac).map(|(chain, rule)| Edit::append(chain, rule)));
        Ok(edits)
    }

    fn removal(&self, view: &mut dyn View) -> Result<Vec<Edit>> {
        let mut edits = self.jump_deletions(view, |_| true)?;
        edits.extend(self.chain_deletions(view)?);
        Ok(edits)
    }

    /// Deletes the jumps for one link, and the chains when nothing else leads there.
    fn removal_of_link(&self, view: &mut dyn View, link: &str) -> Result<Vec<Edit>> {
        let is_for_link = |rule: &Rule| rule.jumps_to(&self.chain) && comes_in_by(rule) == Some(link);
        let mut edits = self.jump_deletions(view, is_for_link)?;
        if view.chain(&self.chain)?.is_none_or(|chain| chain.references <= edits.len()) {
            edits.extend(self.chain_deletions(view)?);
        }
        Ok(edits)
    }

    /// Deletes rules of PREROUTING that are this check's: by their comment, whatever else they say, as the reference does,
    /// or by leading to its chain.
    fn jump_deletions(&self, view: &mut dyn View, chosen: impl Fn(&Rule) -> bool) -> Result<Vec<Edit>> {
        let is_ours = |rule: &Rule| rule.comment.as_ref() == Some(&self.comment) || rule.jumps_to(&self.chain);
        let chain = view.chain(PREROUTING)?;
        Ok(chain.map_or_else(Vec::new, |chain| {
            chain.deletions(PREROUTING, |found| is_ours(&found.rule) && chosen(&found.rule))
        }))
    }

    /// The first chain leads to the second, so it goes first.
    fn chain_deletions(&self, view: &mut dyn View) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        for chain in [&self.chain, &self.mac_chain] {
            if view.uses(chain)?.is_some() {
                edits.push(Edit::DeleteChain(chain.clone()));
            }
        }
        Ok(edits)
    }

    /// Each rule with its chain, in the reference's order.
    fn rules(&self, link: &str, mac: [u8; 6]) -> impl Iterator<Item = (&str, Rule)> {
        let rule = |matches, target| Rule::new(matches, target).commented(&self.comment);
        [
            (PREROUTING, rule(vec![Match::comes_in_by(link)], Target::Jump(self.chain.clone()))),
            (self.chain.as_str(), rule(vec![], Target::Jump(self.mac_chain.clone()))),
            (self.mac_chain.as_str(), rule(vec![Match::HardwareSource(mac)], Target::Return)),
            (self.mac_chain.as_str(), rule(vec![], Target::Drop)),
        ]
        .into_iter()
    }

    /// What is missing or too much; rules of others in PREROUTING are their business.
    fn lack(&self, view: &mut dyn View, link: &str, mac: [u8; 6]) -> Result<Option<String>> {
        for name in [PREROUTING, &self.chain, &self.mac_chain] {
            let Some(chain) = view.chain(name)? else {
                return Ok(Some(format!("table bridge {:?} has no chain {name:?}", TABLE.name)));
            };
            let wanted: Vec<Rule> =
                self.rules(link, mac).filter(|(chain, _)| *chain == name).map(|(_, rule)| rule).collect();
            let is_right = match name {
                PREROUTING => wanted.iter().all(|rule| chain.holds(rule)),
                _ => {
                    chain.rules.len() == wanted.len()
                        && chain.rules.iter().zip(&wanted).all(|(found, rule)| found.is(rule))
                }
            };
            if !is_right {
                return Ok(Some(format!("the rules of chain {name:?} are not the ones for {link:?}")));
            }
        }
        Ok(None)
    }
}

/// Every check that PREROUTING leads to, with the link whose frames it is for.
fn entries(view: &mut dyn View) -> Result<Vec<(SpoofCheck, String)>> {
    let rules = view.chain(PREROUTING)?.map_or_else(Vec::new, |chain| chain.rules);
    let entry = |rule: &Rule| {
        let check = SpoofCheck::named(rule.comment.as_deref()?.strip_prefix(COMMENT_PREFIX)?);
        let link = comes_in_by(rule)?.to_string();
        rule.jumps_to(&check.chain).then_some((check, link))
    };
    Ok(rules.iter().filter_map(|found| entry(&found.rule)).collect())
}

fn comes_in_by(rule: &Rule) -> Option<&str> {
    rule.matches.iter().find_map(|condition| match condition {
        Match::Interface { direction: Direction::In, negated: false, name } => Some(name.as_str()),
        _ => None,
    })
}
