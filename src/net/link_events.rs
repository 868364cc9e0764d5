//! Hearing that links of a namespace have changed, for those who wait for many things at once.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

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

    /// Drops what has been heard; the caller then looks at the link.
    pub fn drain(&mut self) -> Result<()> {
        self.0.await_events(Duration::ZERO)
    }
}

impl AsFd for LinkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
