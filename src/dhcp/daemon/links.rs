//! Waits for links with an obstacle on their way out, while their first lease is being acquired.
//!
//! Changes of a link are events in the container's namespace, changes of the bridge port that is its veth peer are events on
//! the host. One socket hears the host's events for all leases, and only while one of them waits for a port.

use crate::dhcp::daemon::keeper::Keeper;
use crate::dhcp::daemon::place::is_gone;
use crate::dhcp::daemon::{Daemon, kind, log, token};
use crate::error::Result;
use crate::net::Netns;
use crate::net::link_events::LinkEvents;
use crate::sys::events::Interest;

impl Daemon {
    /// Watches the link of a lease that is being acquired, if there is an obstacle on its way out.
    pub(super) fn watch_link(&mut self, slot: usize) {
        let Some(keeper) = self.keepers.get_mut(slot).filter(|keeper| keeper.obstacle().is_some()) else { return };
        // Without events the client retransmits after a while.
        if let Err(error) = keeper.watch_link(&self.poller, slot) {
            log(&keeper.key, &format!("changes of the link are not noticed: {error}"));
        }
        if keeper.waits_for_peer()
            && let Err(error) = self.watch_host()
        {
            log(b"host", &format!("changes of links are not noticed: {error}"));
        }
        // The link may have changed before its events were heard.
        self.link_changed(slot);
    }

    fn watch_host(&mut self) -> Result<()> {
        if self.host_events.is_none() {
            let events = LinkEvents::of(Netns::home()?)?;
            self.poller.add(&events, token(kind::HOST, 0), Interest::Read)?;
            self.host_events = Some(events);
        }
        Ok(())
    }

    /// Events have come from the namespace of a lease.
    pub(super) fn container_changed(&mut self, slot: usize) {
        if self.keepers.get_mut(slot).is_some_and(Keeper::hears_of_link) {
            self.link_changed(slot);
        }
    }

    /// Events have come from the host's namespace.
    pub(super) fn host_changed(&mut self) {
        let Some(events) = &mut self.host_events else { return };
        match events.changed() {
            Ok(changed) => {
                for slot in self.keepers.due(|keeper| keeper.is_concerned(&changed)) {
                    self.link_changed(slot);
                }
            }
            // The broken socket would be readable for ever. The clients retransmit after a while.
            Err(_) => self.host_events = None,
        }
    }

    /// Stops hearing the host's events when no lease waits for them.
    pub(super) fn unwatch_host(&mut self) {
        if self.host_events.is_some() && !self.keepers.iter().any(|(_, keeper)| keeper.waits_for_peer()) {
            self.host_events = None;
        }
    }

    fn link_changed(&mut self, slot: usize) {
        let Some(keeper) = self.keepers.get_mut(slot) else { return };
        match keeper.link_changed() {
            Err(gone) if is_gone(&gone) => self.settle(slot, Err(gone)),
            // Other failures to look at the link may pass.
            _ => self.advance(slot),
        }
    }
}
