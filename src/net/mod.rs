//! What applets speak of: links, addresses, routes, sysctls, through a handle on ONE network namespace. Nothing of CNI.
//!
//! A [`Handle`] is a netlink socket that stays bound to the namespace it was opened in; nobody hops in and out. Only
//! /proc/sys needs a thread inside a namespace, and [`Netns::run`] brings that thread back or ends the process.

pub mod addresses;
pub mod bridge_ports;
pub mod bridges;
pub mod devices;
pub mod egress;
pub mod forwarding;
pub mod link_events;
pub mod links;
pub mod mac;
pub mod moving;
mod next_hops;
pub mod possible;
pub mod routes;
pub mod rules;
pub mod snapshot;
pub mod steps;
pub mod sysctls;
pub mod tables;
pub mod tap;
pub mod traffic;
pub mod tuning;
pub mod veth;
pub mod vrf;

pub use crate::sys::netns::Netns;
pub use links::Link;
pub use mac::Mac;

use std::path::Path;
use std::time::Duration;

use crate::error::Result;
use crate::netlink::Connection;
use crate::sys::file;
use crate::sys::lock::{Lock, Mode};
use crate::sys::socket::Protocol;

/// A connection to one network namespace.
#[derive(Debug)]
pub struct Handle {
    connection: Connection,
}

impl Handle {
    /// A handle on the namespace this thread is in.
    pub fn current() -> Result<Self> {
        Ok(Handle { connection: Connection::open(Protocol::Route)? })
    }

    /// A handle on another namespace.
    pub fn inside(netns: &Netns) -> Result<Self> {
        netns.run(Handle::current)?
    }
}

/// Where plugin calls tell one another that they work on links which containers share. Only root can open it, so nobody
/// else can hold up an ADD.
const LOCK: &str = "/run/cni-box.lock";

/// How long to wait for others before going on without the lock: a delegate may take minutes (a DHCP server that does not
/// answer), and a bridge that a failed ADD leaves behind is the lesser evil.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// A lock on links that containers share. Every ADD holds it together with others while it uses such a link; who changes
/// the link holds it alone from before the change to the end, so that nobody has come to rely on the change when it has to
/// be taken back. It is a help, not a condition: where /run cannot be written there is none.
#[derive(Debug)]
pub struct SharedLinks(Option<Lock>);

impl SharedLinks {
    /// Holds the lock together with others.
    pub fn together() -> Self {
        SharedLinks::at(LOCK)
    }

    /// The same for ifbs: who creates one holds this together with others until something is sent to it; who looks for
    /// those that nothing is sent to holds it alone. Not the lock of bridges, which the same process may hold alone.
    pub fn ifbs() -> Self {
        SharedLinks::at("/run/cni-box-ifb.lock")
    }

    /// The same for VRFs of containers: whoever creates, fills, empties or deletes one.
    pub fn vrfs() -> Self {
        SharedLinks::at("/run/cni-box-vrf.lock")
    }

    fn at(path: &str) -> Self {
        let file = file::open_or_create(Path::new(path), 0o600);
        SharedLinks(file.and_then(|file| Lock::acquire_within(file, Mode::Shared, LOCK_LIMIT)).ok())
    }

    /// Waits until everybody else has let go. False when that took too long, or there is no lock.
    pub fn hold_alone(&self) -> bool {
        let Some(lock) = &self.0 else { return false };
        let alone = lock.convert_within(Mode::Exclusive, LOCK_LIMIT).is_ok();
        if !alone {
            self.let_others_in();
        }
        alone
    }

    /// Goes back to holding it together with others.
    pub fn let_others_in(&self) {
        // Whoever holds it alone at this moment need not be waited for: we are not about to change anything.
        let _ = self.0.as_ref().map(|lock| lock.convert_within(Mode::Shared, LOCK_LIMIT));
    }
}
