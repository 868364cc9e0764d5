//! The client of RFC 2131 for one lease, without clock, socket or memory of its namespace. The daemon
//!
//! 1. makes one with [`Client::acquire`], or with [`Client::restore`] from what it has kept on disk;
//! 2. calls [`Client::poll`] at [`Client::deadline`] (the first is at once), [`Client::receive`] for each packet, and does
//!    what the [`Output`] says: sends `send`, and acts on `event`;
//! 3. keeps a [`crate::dhcp::socket::Socket`] open while [`Client::listening`], and only then: a socket pins its namespace;
//! 4. calls [`Client::record`] after [`Event::Bound`] and [`Event::Renewed`] and keeps it with the names of the attachment;
//! 5. on DEL sends [`Client::release`], if there is anything to release.

use std::net::Ipv4Addr;

use crate::cni::config::Object;
use crate::cni::json::Node;
use crate::dhcp::lease::Lease;
use crate::dhcp::packet::Packet;
use crate::dhcp::settings::Settings;
use crate::dhcp::{Clock, Moment};
use crate::error::{Error, Result};

/// The daemon's flags, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// `-timeout`: how long to wait for the answer to a packet, doubled for each time it is sent again.
    pub timeout: u32,
    /// `-resendmax`: pauses between attempts are doubled until they are this long.
    pub resend_max: u32,
    /// `-resendtimeout`: when an acquisition is given up.
    pub resend_timeout: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Timing { timeout: 10_000, resend_max: 62_000, resend_timeout: 208_000 }
    }
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
    /// The server took the lease back (NAK), with its message. We ask for the same address until the lease has expired.
    Refused(String),
    /// A server wants us to have another address. It is not taken: a container's address does not change.
    OtherAddress(Ipv4Addr),
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

/// One lease being acquired or kept.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    timing: Timing,
    lease: Option<Lease>,
}

impl Client {
    /// Begins to acquire a lease: the deadline is `now`. `seed` is random (8 bytes of `sys::random`).
    pub fn acquire(_settings: Settings, _timing: Timing, _now: Moment, _seed: u64) -> Client {
        todo!()
    }

    /// Goes on with a recorded lease: the deadline is now, when servers are asked to confirm it (INIT-REBOOT). A lease that
    /// has expired meanwhile is asked for for `resend_timeout`. The caller has checked that namespace, link and hardware
    /// address are those of old. Fails when the record cannot be read.
    pub fn restore(_record: &Object<'_>, _timing: Timing, _clock: Clock, _seed: u64) -> Result<Client> {
        todo!()
    }

    /// What [`Client::restore`] reads, members of a JSON object (the daemon adds its own): settings and lease, times as
    /// wall-clock. Keys begin with `dhcp`, nobody else's may. Without a lease there is nothing to restore.
    pub fn record(&self, _clock: Clock) -> Option<Vec<(&'static str, Node)>> {
        todo!()
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The link has another hardware address from now on.
    pub fn set_hardware(&mut self, hardware: [u8; 6]) {
        self.settings.hardware = hardware;
    }

    /// The lease that is held.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// When to call [`Client::poll`]; `None` when never (ended, or held for ever).
    pub fn deadline(&self) -> Option<Moment> {
        todo!()
    }

    /// True while an answer is awaited.
    pub fn listening(&self) -> bool {
        todo!()
    }

    /// Time has passed. Harmless before the deadline.
    pub fn poll(&mut self, _now: Moment) -> Output {
        todo!()
    }

    /// A packet has come, from this hardware address. What is not for us or makes no sense is passed over.
    pub fn receive(&mut self, _now: Moment, _packet: &Packet, _from: Option<[u8; 6]>) -> Output {
        todo!()
    }

    /// The link has come up, so what was sent before went nowhere: an exchange in progress begins again at once.
    pub fn link_is_up(&mut self, _now: Moment) {
        todo!()
    }

    /// Ends the client; what gives the lease back to the server, if there is one that has not expired.
    pub fn release(&mut self, _now: Moment) -> Option<Datagram> {
        todo!()
    }
}
