//! What a lease means for CNI.

use crate::cni::config::Object;
use crate::cni::result::CniResult;
use crate::dhcp::lease::Lease;
use crate::error::Result;

/// What the configuration says about the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// `ipam.priority`: metric of every route; 0 leaves them alone.
    pub priority: i64,
    /// `ipam.dnsFromServer` (not in the reference): fill `dns` from options 6, 15 and 119.
    pub dns: bool,
    /// `ipam.mtuFromServer` (not in the reference): give every route the MTU of option 26.
    pub mtu: bool,
}

impl Wishes {
    /// Decodes the `ipam` object.
    pub fn decode(_ipam: &Object<'_>) -> Result<Wishes> {
        todo!()
    }
}

/// The result of ADD. Fails when the lease has no subnet mask; it is then to be released.
pub fn of_lease(_lease: &Lease, _wishes: Wishes) -> Result<CniResult> {
    todo!()
}
