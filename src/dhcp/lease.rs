//! One lease as a server granted it.

use std::net::Ipv4Addr;

use crate::dhcp::Moment;
use crate::dhcp::packet::Options;

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The leased address.
    pub address: Ipv4Addr,
    /// Server identifier.
    pub server: Ipv4Addr,
    /// Hardware address that the server's (or its relay's) answer came from.
    pub server_mac: Option<[u8; 6]>,
    /// When the request that it answers was sent.
    pub obtained: Moment,
    /// Length in seconds; `u32::MAX` is for ever.
    pub seconds: u32,
    /// Seconds until it is renewed (T1).
    pub renew_after: u32,
    /// Seconds until any server will do (T2).
    pub rebind_after: u32,
    /// The options that [`crate::dhcp::result`] reads.
    pub options: Options,
}

impl Lease {
    /// When it ends; `Moment::MAX` for an infinite one.
    pub fn expires(&self) -> Moment {
        todo!()
    }
}
