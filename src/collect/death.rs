//! Which attachments are dead for certain, and whether they still are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Command;
use super::gather::Attachments;
use super::newcomers::Newcomers;
use crate::cni::serve::Answer;
use crate::error::Result;
use crate::ipam::evidence::{Found, Key, Verdict, verdict};
use crate::ipam::interface_search::Search;

/// How old a look at all processes and mounts of the machine may be when an attachment goes by what
/// was seen.
const OLDEST_LOOK: Duration = Duration::from_secs(5);

/// The attachments, and what was found out about them.
pub(super) struct Deaths<'f> {
    attachments: &'f Attachments,
    /// Those to be removed, with the proof.
    wanted: Vec<(&'f Found, String)>,
    /// The attachments of each name, see [`Key::shared_names`].
    namesakes: BTreeMap<(bool, String), Vec<&'f Found>>,
    /// The containers that have an address and stay.
    holders: BTreeMap<IpAddr, BTreeSet<&'f str>>,
    /// Those whose DEL was begun.
    tried: BTreeSet<&'f Key>,
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
        let (mut dead, mut spared): (Vec<(&Found, String)>, BTreeMap<_, &Key>) = Default::default();
        let mut keep = |key: &Key, why: &str| {
            if self.wants(&key.network) {
                answer.stderr.push_str(&format!("kept {key}: {why}\n"));
            }
        };
        for found in attachments.values().filter(|found| !goes_with_another(found, attachments)) {
            match verdict(found, &mut search) {
                Verdict::Gone(reason) if !found.key.ifname.is_empty() => dead.push((found, reason)),
                Verdict::Gone(_) => {}
                kept => {
                    if let Verdict::Unknown(why) = kept {
                        keep(&found.key, &why);
                    }
                    let names = found.key.shared_names().into_iter().filter(|_| !found.key.ifname.is_empty());
                    for name in names {
                        spared.entry(name).or_insert(&found.key);
                    }
                }
            }
        }
        dead.retain(|(Found { key, .. }, _)| {
            let other = key.shared_names().iter().find_map(|name| spared.get(name).copied());
            other.iter().for_each(|other| keep(key, &format!("its container may live, see {other}")));
            other.is_none() && self.wants(&key.network)
        });
        Deaths::new(attachments, dead, newcomers)
    }
}

/// Reservations of old releases name no interface: they go with those of their container.
fn goes_with_another(found: &Found, attachments: &Attachments) -> bool {
    let Key { network, container, ifname } = &found.key;
    let mut behind = attachments.range(&found.key..).skip(1).map(|(key, _)| key);
    ifname.is_empty() && behind.next().is_some_and(|next| (&next.network, &next.container) == (network, container))
}

impl<'f> Deaths<'f> {
    fn new(attachments: &'f Attachments, wanted: Vec<(&'f Found, String)>, newcomers: Newcomers) -> Self {
        let dead: BTreeSet<&Key> = wanted.iter().map(|(found, _)| &found.key).collect();
        let mut namesakes: BTreeMap<_, Vec<&Found>> = BTreeMap::new();
        let mut holders: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
        for found in attachments.values() {
            if !found.key.ifname.is_empty() {
                found.key.shared_names().into_iter().for_each(|name| namesakes.entry(name).or_default().push(found));
            }
            if !dead.contains(&found.key) {
                for address in found.told().chain(found.reserved()) {
                    holders.entry(address).or_default().insert(&*found.key.container);
                }
            }
        }
        // The second look goes by nothing that the first one has seen.
        let (tried, search) = (BTreeSet::new(), Search::default());
        Deaths { attachments, wanted, namesakes, holders, tried, newcomers, search }
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
        let mut holders = found.told().filter_map(|address| self.holders.get(&address));
        holders.any(|holders| holders.iter().any(|container| *container != found.key.container))
    }

    /// Looks once more at an attachment, at those that share a name with it, and for new ones that do.
    /// Gives one that may live.
    pub(super) fn survivor(&mut self, command: &Command<'_>, found: &Found) -> Result<Option<Key>> {
        self.search.renew_after(OLDEST_LOOK);
        let Deaths { namesakes, tried, search, .. } = self;
        let mut all = found.key.shared_names().into_iter().filter_map(|name| namesakes.get(&name)).flatten();
        let changed = all.find(|one| match tried.contains(&one.key) {
            true => !command.is_still_over(one),
            false => !command.is_unchanged(one) || !matches!(verdict(one, search), Verdict::Gone(_)),
        });
        match changed {
            Some(one) => Ok(Some(one.key.clone())),
            None => self.newcomers.find(command, self.attachments, &found.key),
        }
    }

    /// Its DEL begins. What that leaves, should it fail, is no sign of life.
    pub(super) fn note_tried(&mut self, found: &Found) {
        if let Some((key, _)) = self.attachments.get_key_value(&found.key) {
            self.tried.insert(key);
        }
    }
}
