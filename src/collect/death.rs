//! Which attachments are dead for certain, and whether they still are.

use std::net::IpAddr;
use std::time::Duration;

use super::Command;
use super::gather::Attachments;
use super::newcomers::Newcomers;
use crate::cni::serve::Answer;
use crate::error::Result;
use crate::ipam::evidence::{Found, Key, Verdict, verdict};
use crate::ipam::interface_search::Search;
use crate::sorted::Groups;

/// How old a look at all processes and mounts of the machine may be when an attachment goes by what
/// was seen.
const OLDEST_LOOK: Duration = Duration::from_secs(5);

/// The attachments, and what was found out about them.
pub(super) struct Deaths<'f> {
    attachments: &'f Attachments,
    /// Those to be removed, with the proof, by their keys.
    wanted: Vec<(&'f Found, String)>,
    /// How many of them were tried: their DEL was begun.
    tried: usize,
    /// The attachments of each name, see [`Key::shared_names`].
    namesakes: Groups<(bool, String), &'f Found>,
    /// The containers that have an address and stay.
    holders: Groups<IpAddr, &'f str>,
    newcomers: Newcomers,
    search: Search,
}

impl Command<'_> {
    /// Judges all attachments. Of those that may be dead the reason why they stay is said.
    pub(super) fn deaths<'f>(
        &self,
        attachments: &'f Attachments,
        newcomers: Newcomers,
        answer: &mut Answer,
    ) -> Deaths<'f> {
        let mut search = Search::default();
        let (mut dead, mut spared): (Vec<(&Found, String)>, Vec<(_, &Key)>) = Default::default();
        let mut keep = |key: &Key, why: &str| {
            if self.wants(&key.network) {
                answer.stderr.push_str(&format!("kept {key}: {why}\n"));
            }
        };
        for found in attachments.as_slice().iter().filter(|found| !goes_with_another(found, attachments)) {
            match verdict(found, &mut search) {
                Verdict::Gone(reason) if !found.key.ifname.is_empty() => dead.push((found, reason)),
                Verdict::Gone(_) => {}
                kept => {
                    if let Verdict::Unknown(why) = kept {
                        keep(&found.key, &why);
                    }
                    let names = found.key.shared_names().into_iter().filter(|_| !found.key.ifname.is_empty());
                    spared.extend(names.map(|name| (name, &found.key)));
                }
            }
        }
        let spared = Groups::new(spared);
        dead.retain(|(Found { key, .. }, _)| {
            let other = key.shared_names().iter().find_map(|name| spared.get(name).next().copied());
            other.iter().for_each(|other| keep(key, &format!("its container may live, see {other}")));
            other.is_none() && self.wants(&key.network)
        });
        Deaths::new(attachments, dead, newcomers)
    }
}

/// Reservations of old releases name no interface: they go with those of their container.
fn goes_with_another(found: &Found, attachments: &Attachments) -> bool {
    let Key { network, container, ifname } = &found.key;
    let all = attachments.as_slice();
    let next = all.get(all.partition_point(|other| other.key <= found.key));
    let is_same = |next: &Found| (&next.key.network, &next.key.container) == (network, container);
    ifname.is_empty() && next.is_some_and(is_same)
}

impl<'f> Deaths<'f> {
    fn new(attachments: &'f Attachments, wanted: Vec<(&'f Found, String)>, newcomers: Newcomers) -> Self {
        let (mut namesakes, mut holders) = (Vec::new(), Vec::new());
        for found in attachments.as_slice() {
            if !found.key.ifname.is_empty() {
                namesakes.extend(found.key.shared_names().into_iter().map(|name| (name, found)));
            }
            if !is_among(&found.key, &wanted) {
                let addresses = found.told().chain(found.reserved());
                holders.extend(addresses.map(|address| (address, &*found.key.container)));
            }
        }
        let (namesakes, holders) = (Groups::new(namesakes), Groups::new(holders));
        // The second look goes by nothing that the first one has seen.
        Deaths { attachments, wanted, tried: 0, namesakes, holders, newcomers, search: Search::default() }
    }

    /// Those to be removed, with the proof.
    pub(super) fn wanted(&self) -> Vec<(&'f Found, String)> {
        self.wanted.clone()
    }

    /// All that was found.
    pub(super) fn attachments(&self) -> &'f Attachments {
        self.attachments
    }

    /// An address of which its result tells is another container's by now.
    pub(super) fn shares_address(&self, found: &Found) -> bool {
        found.told().any(|address| self.holders.get(&address).any(|container| *container != found.key.container))
    }

    /// Looks once more at an attachment, at those that share a name with it, and for new ones that do.
    /// Gives one that may live.
    pub(super) fn survivor(&mut self, command: &Command<'_>, found: &Found) -> Result<Option<Key>> {
        self.search.renew_after(OLDEST_LOOK);
        let Deaths { namesakes, wanted, tried, search, .. } = self;
        let tried = wanted.get(..*tried).unwrap_or_default();
        let names = found.key.shared_names();
        let mut all = names.iter().flat_map(|name| namesakes.get(name));
        let changed = all.find(|one| match is_among(&one.key, tried) {
            true => !command.is_still_over(one),
            false => !command.is_unchanged(one) || !matches!(verdict(one, search), Verdict::Gone(_)),
        });
        match changed {
            Some(one) => Ok(Some(one.key.clone())),
            None => self.newcomers.find(command, self.attachments, &found.key),
        }
    }

    /// Its DEL begins, and those in front of it were begun. What a DEL leaves, should it fail, is no sign of life.
    pub(super) fn note_tried(&mut self, found: &Found) {
        self.tried = self.wanted.partition_point(|(one, _)| one.key <= found.key);
    }
}

/// The attachments are sorted.
fn is_among(key: &Key, attachments: &[(&Found, String)]) -> bool {
    attachments.binary_search_by_key(&key, |(found, _)| &found.key).is_ok()
}
