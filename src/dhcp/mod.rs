//! DHCPv4 as a client speaks it: packets, frames, what a configuration wants sent, one lease as a state machine without
//! clock or socket, the socket, and what a lease means for CNI. The daemon (`applets/dhcp`) owns the loop.

pub mod client;
pub mod daemon;
pub mod dial;
pub mod frame;
pub mod gob;
mod hexadecimal;
pub mod lease;
pub mod packet;
pub mod result;
pub mod routes;
pub mod rpc;
pub mod settings;
pub mod socket;

/// Milliseconds of a clock that never goes back and counts the time asleep (`CLOCK_BOOTTIME`); any origin.
pub type Moment = i64;

/// Both clocks at once: a lease lives by the first and is kept on disk by the second, which goes on across restarts.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// `CLOCK_BOOTTIME` in milliseconds.
    pub now: Moment,
    /// Milliseconds of the clock that records count by.
    pub kept: i64,
}
