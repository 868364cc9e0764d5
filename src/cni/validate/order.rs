//! Checks the order of the plugins in a list.

use super::Network;
use super::entry::Entry;
use crate::cni::config::Object;
use crate::cni::plugin::{Plugin, Position};
use crate::cni::report::{Level, Report};

/// The plugins in front of one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Front {
    /// The nearest one that has made the interface, unless one behind it is not ours and may have renamed the interface.
    maker: Option<usize>,
    /// One is not loopback.
    has_others: bool,
}

impl Front {
    /// For each of these plugins.
    pub(super) fn of_all(entries: &[Entry<'_>]) -> Vec<Front> {
        let mut front = Front::default();
        let next = |(number, entry): (usize, &Entry<'_>)| {
            let before = front;
            if entry.plugin.is_none() {
                front.maker = None;
            } else if entry.makes_interface() {
                front.maker = Some(number);
            }
            front.has_others |= !entry.is_loopback();
            before
        };
        entries.iter().enumerate().map(next).collect()
    }
}

impl Network<'_> {
    /// Reports a plugin in a place where it fails, or is hardly meant to be.
    pub(super) fn order(&self, number: usize, entry: &Entry<'_>, plugin: &dyn Plugin, report: &mut Report) {
        let (level, what) = match plugin.position() {
            _ if plugin.is_ipam() => (
                Level::Warning,
                " manages addresses: it belongs in the \"ipam\" of the plugin that makes the interface",
            ),
            Position::Behind if number == 0 && !Object::top(entry.map).has("prevResult") => {
                (Level::Error, " works on the result of a plugin in front of it, and there is none")
            }
            Position::Behind => return,
            position => return self.interface(number, entry, position, report),
        };
        report.say(level, &entry.path, &[entry.kind, what]);
    }

    /// Reports a second plugin for the interface CNI_IFNAME, for which all plugins of a list are
    /// called.
    fn interface(&self, number: usize, entry: &Entry<'_>, position: Position, report: &mut Report) {
        let front = self.fronts.get(number).copied().unwrap_or_default();
        match front.maker.filter(|_| entry.makes_interface()).and_then(|maker| self.entries.get(maker)) {
            Some(other) => {
                let text = [entry.kind, " makes the interface that ", other.kind, " has made already: every ADD fails"];
                report.say(Level::Error, &entry.path, &text);
            }
            None if position == Position::First && front.has_others => {
                report.say(
                    Level::Warning,
                    &entry.path,
                    &[entry.kind, " makes an interface: usually it is the first plugin"],
                );
            }
            None => {}
        }
    }
}
