//! Several changes to one link in one send.

use ipnet::IpNet;

use crate::error::Error;
use crate::net::Handle;
use crate::net::addresses::{new_address, new_address_alone, new_address_at_once};
use crate::net::links::{announce_message, up_message};
use crate::net::routes::Route;

/// A change to a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Add an address.
    Address(IpNet),
    /// Add an address without a route to its network.
    AddressAlone(IpNet),
    /// Add an address that nobody else on the link can have: it is not tentative first.
    AddressAtOnce(IpNet),
    /// Announce addresses by gratuitous ARP when the link comes up.
    Announce,
    /// Set the link up.
    Up,
    /// Add a route.
    Route(Route),
    /// Remove a route.
    Unroute(Route),
}

impl Handle {
    /// Makes the changes in order, all in one send. The first that failed is named by its index; those behind it have
    /// been tried nevertheless, so the caller is expected to take all of them back.
    pub fn perform(&mut self, link: u32, steps: &[Step]) -> std::result::Result<(), (usize, Error)> {
        let messages = steps.iter().map(|step| match step {
            Step::Address(net) => new_address(link, *net),
            Step::AddressAlone(net) => new_address_alone(link, *net),
            Step::AddressAtOnce(net) => new_address_at_once(link, *net),
            Step::Announce => announce_message(link),
            Step::Up => up_message(link, true),
            Step::Route(route) => route.message(),
            Step::Unroute(route) => route.deletion(),
        });
        self.connection.pipeline(messages.collect())
    }
}
