//! Checks the order of the plugins in a list.

use super::Network;
use super::entry::Entry;
use crate::cni::config::Object;
use crate::cni::plugin::{Plugin, Position};
use crate::cni::report::{Level, Report};

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
        let in_front = self.entries.get(..number).unwrap_or_default();
        // A plugin that is not ours may rename the interface.
        let mut ours = in_front.iter().rev().take_while(|other| other.plugin.is_some());
        match ours.find(|other| other.makes_interface() && entry.makes_interface()) {
            Some(other) => {
                let text = [entry.kind, " makes the interface that ", other.kind, " has made already: every ADD fails"];
                report.say(Level::Error, &entry.path, &text);
            }
            None if position == Position::First && in_front.iter().any(|other| !other.is_loopback()) => {
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
