//! Records how links came to have `route_localnet`: a file below /run for each guarded link.

use crate::error::{Context, Result};
use crate::firewall::records::Records;
use crate::net::{Link, Netns};

/// How a link came to have `route_localnet`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A port mapping has set it: the last mapping's DEL clears it.
    Set,
    /// It was set before the first mapping: it stays set.
    Found,
    /// Version 0.1.0 or an administrator has set it: the link is guarded as long as it is set.
    Unknown,
}

const WORDS: [(State, &str); 3] = [(State::Set, "set"), (State::Found, "found"), (State::Unknown, "unknown")];

/// The records about links of this network namespace.
#[derive(Debug)]
pub(super) struct States {
    /// The start of the names of these records.
    prefix: String,
}

impl States {
    pub(super) fn of_this_namespace() -> Result<Self> {
        let netns = Netns::home()?.identity().context("failed to identify the network namespace")?;
        Ok(States { prefix: format!("localnet-{}-", netns.inode()) })
    }

    fn name(&self, index: u32) -> String {
        format!("{}{index}", self.prefix)
    }

    /// Reads the record of a link.
    pub(super) fn get(&self, records: &Records, index: u32) -> Option<State> {
        let text = records.read(&self.name(index))?;
        WORDS.iter().find(|(_, word)| text.trim_end() == *word).map(|(state, _)| *state)
    }

    /// Records the state of a link.
    pub(super) fn set(&self, records: &Records, link: &Link, state: State) -> Result<()> {
        if self.get(records, link.index) == Some(state) {
            return Ok(());
        }
        let word = WORDS.iter().find(|(known, _)| *known == state).map_or("", |(_, word)| word);
        let written = records.write(&self.name(link.index), word);
        written.with_context(|| format!("failed to record the route_localnet of {:?}", link.name))
    }

    /// Removes the record of a link.
    pub(super) fn forget(&self, records: &Records, index: u32) -> Result<()> {
        records.remove(&self.name(index)).context("failed to remove a record of route_localnet")
    }

    /// Lists the indices of all links with a record.
    pub(super) fn links(&self, records: &Records) -> Result<Vec<u32>> {
        let names = records.names()?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(&self.prefix)?.parse().ok()).collect())
    }
}
