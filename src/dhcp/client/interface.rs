//! What a client is told and what it says.

use std::net::Ipv4Addr;

use crate::dhcp::Moment;
use crate::error::Error;

/// The daemon's flags, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// `-timeout`: how long to wait for the answer to a message, doubled for each time that it is sent again.
    pub timeout: u32,
    /// `-resendmax`: waits and pauses that have reached this are not doubled any more.
    pub resend_max: u32,
    /// `-resendtimeout`: when an acquisition is given up.
    pub resend_timeout: u32,
}

/// The longest wait that RFC 2131 (4.1) knows, in milliseconds. A longer `-resendmax` outranks it.
const LONGEST_WAIT: Moment = 64_000;

impl Timing {
    /// How long to wait, in milliseconds, after a message was sent for the `sends`-th time.
    pub(super) fn wait(&self, sends: u8) -> Moment {
        self.doubled(self.timeout.into(), sends)
    }

    /// The `count`-th of the times that begin with `first`, each twice as long as the one before: by default 4, 8, 16, 32,
    /// 64, 64 … seconds.
    pub(super) fn doubled(&self, first: Moment, count: u8) -> Moment {
        let enough = Moment::from(self.resend_max);
        let twice = |time: Moment| if time < enough { (time * 2).min(enough.max(LONGEST_WAIT)) } else { time };
        (1..count).fold(first, |time, _| twice(time))
    }
}

impl Default for Timing {
    /// RFC 2131 (4.1): four seconds, doubled up to 64.
    fn default() -> Self {
        Timing { timeout: 4_000, resend_max: 62_000, resend_timeout: 208_000 }
    }
}

/// The error of an acquisition that has failed, in the reference's words; the cause is in its details.
pub fn no_more_tries(cause: impl Into<String>) -> Error {
    Error::internal("no more tries").with_details(cause)
}

/// A DHCP message with where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// IP source: unspecified, or the leased address.
    pub source: Ipv4Addr,
    /// IP destination: broadcast, or the server.
    pub destination: Ipv4Addr,
    /// Hardware address of the frame.
    pub mac: [u8; 6],
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// What has come of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A server granted the first lease: [`Client::lease`]. The answer to a waiting ADD.
    Bound,
    /// The lease got new times (and perhaps another server).
    Renewed,
    /// Nobody confirmed the lease after a restart; it is kept as long as it was granted.
    Unconfirmed,
    /// The server said no (NAK), with its message. If it was about a lease we held we keep asking for that address until the
    /// lease has expired.
    Refused(String),
    /// A server wants us to have another address. It is not taken: a container's address does not change.
    OtherAddress(Ipv4Addr),
    /// An answer does not count; which one, and why. Told a few times until the next success.
    PassedOver(String),
    /// No lease was to be had within `-resendtimeout`; the client has ended. The answer to a waiting ADD.
    Failed(Error),
    /// The lease has expired; the client has ended. The address must not be used any more: set the link down.
    Expired,
}

/// What to do now.
#[derive(Debug, Default, PartialEq)]
pub struct Output {
    /// To be sent.
    pub send: Option<Datagram>,
    /// To be told to whom it concerns.
    pub event: Option<Event>,
}
