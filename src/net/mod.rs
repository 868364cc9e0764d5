//! What applets speak of: links, addresses, routes, sysctls, through a handle on ONE network namespace. Nothing of CNI.
//!
//! A [`Handle`] is a netlink socket that stays bound to the namespace it was opened in; nobody hops in and out. Only
//! /proc/sys needs a thread inside a namespace, and [`Netns::run`] brings that thread back or ends the process.

pub mod addresses;
pub mod links;
pub mod mac;
pub mod routes;
pub mod steps;
pub mod sysctls;
pub mod veth;

pub use crate::sys::netns::Netns;
pub use links::Link;
pub use mac::Mac;

use crate::error::Result;
use crate::netlink::Connection;
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

/// A lock that everybody who changes shared links of a namespace takes: shared for the time of an ADD, exclusive to
/// remove what an ADD found or made for all. It is an flock on the namespace itself, so it needs no file anywhere.
#[derive(Debug)]
pub struct NamespaceLock(#[expect(dead_code, reason = "holding it is its use")] Lock);

impl NamespaceLock {
    /// Takes the lock of the current namespace together with others.
    pub fn shared() -> Result<Self> {
        NamespaceLock::acquire(Mode::Shared)
    }

    /// Takes the lock of the current namespace alone, once everybody else has let go of it.
    pub fn exclusive() -> Result<Self> {
        NamespaceLock::acquire(Mode::Exclusive)
    }

    fn acquire(mode: Mode) -> Result<Self> {
        Ok(NamespaceLock(Lock::acquire(Netns::home()?.lock_file()?, mode)?))
    }
}
