//! Hearing that links of a namespace have changed, for those who wait for many things at once.

use std::os::fd::{AsFd, BorrowedFd};

use crate::error::Result;
use crate::net::Netns;
use crate::netlink::Connection;
use crate::netlink::route::RTNLGRP_LINK;

/// A descriptor that becomes readable when a link of its namespace has changed.
#[derive(Debug)]
pub struct LinkEvents(Connection);

impl LinkEvents {
    /// From now on changes are heard.
    pub fn of(netns: &Netns) -> Result<Self> {
        Ok(LinkEvents(netns.run(|| Connection::events(&[RTNLGRP_LINK]))??))
    }

    /// Which links have changed since the last call.
    pub fn changed(&mut self) -> Result<Changed> {
        let mut indices = Vec::new();
        let complete = self.0.queued_events(&mut |event| indices.extend(index(event.body)))?;
        Ok(Changed { indices, complete })
    }
}

/// Links that have changed.
#[derive(Debug)]
pub struct Changed {
    indices: Vec<u32>,
    complete: bool,
}

impl Changed {
    /// False when the link with this index has not changed for certain.
    pub fn may_include(&self, index: u32) -> bool {
        !self.complete || self.indices.contains(&index)
    }
}

/// The index in `struct ifinfomsg`, with which all events of links begin.
fn index(body: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?))
}

impl AsFd for LinkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
