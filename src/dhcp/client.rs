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
use crate::dhcp::lease::{Lease, unreadable};
use crate::dhcp::packet::{self, Options, Packet, code, kind};
use crate::dhcp::settings::Settings;
use crate::dhcp::{Clock, Moment, hexadecimal};
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
    /// The server said no (NAK), with its message. If it was about a lease we held we keep asking for that address until the
    /// lease has expired.
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
    stage: Stage,
    /// Transaction of the exchange in progress.
    xid: u32,
    /// How often the message of this stage was sent.
    sends: u8,
    /// How many attempts have failed since the last success.
    failures: u8,
    /// When something was sent last.
    sent: Moment,
    /// When to do something next.
    wake: Moment,
    /// When there is no hope any more: the lease expires, or the acquisition is given up.
    end: Moment,
    /// Why the last attempt failed.
    trouble: String,
    random: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// DISCOVER was sent, or will be.
    Selecting,
    /// This server has offered this address, and REQUEST was sent.
    Requesting(Ipv4Addr, Ipv4Addr),
    /// A pause before the next attempt.
    Resting,
    /// After a restart: whoever knows of the lease is asked to confirm it.
    Rebooting,
    Bound,
    /// The server of the lease is asked.
    Renewing,
    /// Any server is asked.
    Rebinding,
    Ended,
}

const BROADCAST_MAC: [u8; 6] = [0xff; 6];
/// How often a message is sent before the attempt has failed.
const TRIES: u8 = 3;
/// Pauses that are short, before they are doubled each time.
const SHORT_PAUSES: u8 = 4;
const SHORT_PAUSE: Moment = 2_000;
const FIRST_LONG_PAUSE: Moment = 4_000;
const SECOND: Moment = 1_000;
/// Shortest wait between requests to renew a lease, after the first [`TRIES`] (RFC 2131, 4.4.5).
const LONG_WAIT: Moment = 60_000;

impl Client {
    /// Begins to acquire a lease: the deadline is `now`. `seed` is random (8 bytes of `sys::random`).
    pub fn acquire(settings: Settings, timing: Timing, now: Moment, seed: u64) -> Client {
        let end = now.saturating_add(timing.resend_timeout.into());
        Client::new(settings, timing, None, (now, end), seed)
    }

    /// Goes on with a recorded lease: the deadline is now, when servers are asked to confirm it (INIT-REBOOT). A lease that
    /// has expired meanwhile is asked for for `resend_timeout`. The caller has checked that namespace, link and hardware
    /// address are those of old. Fails when the record cannot be read.
    pub fn restore(record: &Object<'_>, timing: Timing, clock: Clock, seed: u64) -> Result<Client> {
        let bytes = |key| hexadecimal::read(record.string(key)?).ok_or_else(|| unreadable(key));
        let hardware = bytes("dhcpHardware")?.try_into().map_err(|_| unreadable("dhcpHardware"))?;
        let options = Options::from_bytes(&bytes("dhcpOptions")?).ok_or_else(|| unreadable("dhcpOptions"))?;
        let settings = Settings { hardware, broadcast: record.boolean("dhcpBroadcast")?, options };
        let lease = Lease::read(record, clock)?;
        let end = lease.expires().max(clock.now.saturating_add(timing.resend_timeout.into()));
        Ok(Client::new(settings, timing, Some(lease), (clock.now, end), seed))
    }

    fn new(settings: Settings, timing: Timing, lease: Option<Lease>, times: (Moment, Moment), seed: u64) -> Client {
        let stage = if lease.is_some() { Stage::Rebooting } else { Stage::Selecting };
        let ((wake, end), sent, trouble) = (times, times.0, String::new());
        let mut client = Client {
            settings,
            timing,
            lease,
            stage,
            xid: 0,
            sends: 0,
            failures: 0,
            sent,
            wake,
            end,
            trouble,
            random: seed,
        };
        client.xid = client.random() as u32;
        client
    }

    /// What [`Client::restore`] reads, members of a JSON object (the daemon adds its own): settings and lease, times as
    /// wall-clock. Keys begin with `dhcp`, nobody else's may. Without a lease there is nothing to restore.
    pub fn record(&self, clock: Clock) -> Option<Vec<(&'static str, Node)>> {
        let mut members = self.lease.as_ref()?.members(clock);
        members.push(("dhcpHardware", hexadecimal::write(&self.settings.hardware).into()));
        members.push(("dhcpBroadcast", self.settings.broadcast.into()));
        members.push(("dhcpOptions", hexadecimal::write(self.settings.options.as_bytes()).into()));
        Some(members)
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
        (self.stage != Stage::Ended && self.wake != Moment::MAX).then_some(self.wake)
    }

    /// True while an answer is awaited.
    pub fn listening(&self) -> bool {
        !matches!(self.stage, Stage::Resting | Stage::Bound | Stage::Ended)
    }

    /// Time has passed. Harmless before the deadline.
    pub fn poll(&mut self, now: Moment) -> Output {
        if now < self.wake || self.stage == Stage::Ended {
            return Output::default();
        }
        if now >= self.end {
            return self.give_up();
        }
        let rebinds = self.lease.as_ref().map_or(Moment::MAX, Lease::rebinds);
        match self.stage {
            Stage::Resting => self.begin(Stage::Selecting, now),
            Stage::Bound | Stage::Renewing if now >= rebinds => self.begin(Stage::Rebinding, now),
            Stage::Bound => self.begin(Stage::Renewing, now),
            Stage::Rebooting if self.sends >= TRIES => self.unconfirmed(now),
            Stage::Selecting | Stage::Requesting(..) if self.sends >= TRIES => self.unanswered(now),
            _ => self.transmit(now),
        }
    }

    /// A packet has come, from this hardware address. What is not for us or makes no sense is passed over.
    pub fn receive(&mut self, now: Moment, packet: &Packet, from: Option<[u8; 6]>) -> Output {
        let ours = packet.xid == self.xid && packet.hardware == self.settings.hardware && self.sends > 0;
        if packet.op != packet::REPLY || !ours || !self.listening() {
            return Output::default();
        }
        match (packet.kind(), self.stage) {
            (Some(kind::OFFER), Stage::Selecting) => self.offered(now, Lease::granted(packet, from, now)),
            (_, Stage::Selecting) => Output::default(),
            (Some(kind::ACK), _) => self.granted(Lease::granted(packet, from, self.sent)),
            (Some(kind::NAK), _) => self.refused(now, packet),
            _ => Output::default(),
        }
    }

    /// The link has come up, so what was sent before went nowhere: an exchange in progress begins again at once.
    pub fn link_is_up(&mut self, now: Moment) {
        if !matches!(self.stage, Stage::Bound | Stage::Ended) {
            (self.sends, self.wake) = (0, now);
        }
    }

    /// Ends the client; what gives the lease back to the server, if there is one that has not expired. An address that was
    /// requested a moment ago is given back too: the server may have granted it.
    pub fn release(&mut self, now: Moment) -> Option<Datagram> {
        let requested = match self.stage {
            Stage::Requesting(server, address) => Some((server, address, None)),
            _ => None,
        };
        self.stage = Stage::Ended;
        let held = self.lease.take().filter(|lease| lease.expires() > now);
        let held = held.map(|lease| (lease.server, lease.address, lease.server_mac));
        let (server, address, mac) = held.or(requested)?;
        let mut packet = Packet::to_server(kind::RELEASE, self.random() as u32, self.settings.hardware);
        packet.client = address;
        packet.options.set(code::SERVER_ID, &server.octets());
        if let Some(id) = self.settings.options.get(code::CLIENT_ID) {
            packet.options.set(code::CLIENT_ID, id);
        }
        let payload = packet.encode();
        Some(Datagram { source: address, destination: server, mac: mac.unwrap_or(BROADCAST_MAC), payload })
    }

    fn begin(&mut self, stage: Stage, now: Moment) -> Output {
        self.xid = self.random() as u32;
        (self.stage, self.sends) = (stage, 0);
        self.transmit(now)
    }

    fn transmit(&mut self, now: Moment) -> Output {
        self.sends = self.sends.saturating_add(1);
        self.sent = now;
        self.wake = now.saturating_add(self.patience(now)).min(self.end);
        Output { send: Some(self.message()), event: None }
    }

    /// How long to wait for the answer to what was just sent. While a lease is being renewed the time left until the next
    /// stage is halved each time, so that even a short lease is asked for more than once.
    fn patience(&mut self, now: Moment) -> Moment {
        let tries = self.sends.clamp(1, TRIES);
        let wait = Moment::from(self.timing.timeout) << (tries - 1);
        let wait = wait + self.within((wait / 10).min(SECOND));
        let left = match (&self.lease, self.stage) {
            (Some(lease), Stage::Renewing) => lease.rebinds() - now,
            (Some(lease), Stage::Rebinding) => lease.expires() - now,
            _ => return wait,
        };
        let wait = if self.sends <= TRIES { wait.min((left / 2).max(SECOND)) } else { (left / 2).max(LONG_WAIT) };
        wait.min(left)
    }

    /// The message of the current stage.
    fn message(&self) -> Datagram {
        let lease = self.lease.as_ref();
        let kind = if self.stage == Stage::Selecting { kind::DISCOVER } else { kind::REQUEST };
        let mut packet = Packet::to_server(kind, self.xid, self.settings.hardware);
        packet.options = self.settings.options.clone();
        packet.options.set(code::MESSAGE_TYPE, &[kind]);
        let (mut source, mut destination, mut mac) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, BROADCAST_MAC);
        let mut requested = lease.map(|lease| lease.address);
        if let Stage::Requesting(server, address) = self.stage {
            requested = Some(address);
            packet.options.set(code::SERVER_ID, &server.octets());
        }
        if let (Some(lease), Stage::Renewing | Stage::Rebinding) = (lease, self.stage) {
            (packet.client, source, requested) = (lease.address, lease.address, None);
            packet.options.remove(code::REQUESTED_ADDRESS);
            packet.options.remove(code::SERVER_ID);
        } else if self.settings.broadcast {
            packet.flags = packet::BROADCAST;
        }
        if let (Some(lease), Stage::Renewing) = (lease, self.stage) {
            destination = lease.server;
            // Its network card may have been replaced: the second try is for whoever has the address.
            mac = lease.server_mac.filter(|_| self.sends < 2).unwrap_or(BROADCAST_MAC);
        }
        if let Some(address) = requested {
            packet.options.set(code::REQUESTED_ADDRESS, &address.octets());
        }
        Datagram { source, destination, mac, payload: packet.encode() }
    }

    fn offered(&mut self, now: Moment, offer: Option<Lease>) -> Output {
        let Some(offer) = offer else { return Output::default() };
        if let Some(event) = self.other_address(&offer) {
            return event;
        }
        // The transaction stays the same.
        (self.stage, self.sends) = (Stage::Requesting(offer.server, offer.address), 0);
        self.transmit(now)
    }

    fn granted(&mut self, lease: Option<Lease>) -> Output {
        let Some(lease) = lease.filter(|lease| self.may_answer(lease.server)) else { return Output::default() };
        if let Some(event) = self.other_address(&lease) {
            return event;
        }
        let (lease, event) = match self.lease.take() {
            Some(old) => (old.followed_by(lease), Event::Renewed),
            None => (lease, Event::Bound),
        };
        self.end = lease.expires();
        self.failures = 0;
        self.hold(lease.renews(), lease.renew_after);
        self.lease = Some(lease);
        Output { send: None, event: Some(event) }
    }

    fn refused(&mut self, now: Moment, packet: &Packet) -> Output {
        let Some(server) = packet.options.address(code::SERVER_ID).filter(|server| self.may_answer(*server)) else {
            return Output::default();
        };
        let message = printable(packet.options.get(code::MESSAGE).unwrap_or_default());
        let said = if message.is_empty() { String::new() } else { format!(" (msg: {message})") };
        self.trouble = format!("server {server} rejected request with Nak{said}");
        let output = match self.stage {
            Stage::Requesting(..) => self.rest(now),
            _ => self.begin(Stage::Selecting, now),
        };
        Output { event: Some(Event::Refused(message)), ..output }
    }

    /// Whether this server's answer counts: to what was said to one server nobody else may answer.
    fn may_answer(&self, server: Ipv4Addr) -> bool {
        match (self.stage, &self.lease) {
            (Stage::Requesting(chosen, _), _) => server == chosen,
            (Stage::Renewing, Some(lease)) => server == lease.server,
            _ => true,
        }
    }

    /// The answer to a server that wants us to have another address than the one we have.
    fn other_address(&self, lease: &Lease) -> Option<Output> {
        self.lease.as_ref().filter(|held| held.address != lease.address)?;
        Some(Output { send: None, event: Some(Event::OtherAddress(lease.address)) })
    }

    /// Nobody has confirmed the lease after a restart: it stays ours while it lasts (RFC 2131, 4.4.2).
    fn unconfirmed(&mut self, now: Moment) -> Output {
        match &self.lease {
            Some(lease) if lease.expires() > now => {
                self.hold(lease.renews(), 0);
                self.wake = self.wake.max(now);
                Output { send: None, event: Some(Event::Unconfirmed) }
            }
            _ => self.begin(Stage::Selecting, now),
        }
    }

    fn unanswered(&mut self, now: Moment) -> Output {
        self.trouble = self.silence();
        self.rest(now)
    }

    /// What was not answered.
    fn silence(&self) -> String {
        let what = match self.stage {
            Stage::Requesting(server, address) => format!("REQUEST of {address} to server {server}"),
            _ => "DISCOVER".to_string(),
        };
        format!("no matching response packet received for {what}")
    }

    /// A pause before the next attempt, as long as the reference's.
    fn rest(&mut self, now: Moment) -> Output {
        let mut pause = if self.failures < SHORT_PAUSES { SHORT_PAUSE } else { FIRST_LONG_PAUSE };
        for _ in SHORT_PAUSES..=self.failures {
            if pause < self.timing.resend_max.into() {
                pause *= 2;
            }
        }
        self.failures = self.failures.saturating_add(1);
        self.stage = Stage::Resting;
        self.wake = now.saturating_add(pause + self.within(SECOND)).min(self.end);
        Output::default()
    }

    fn hold(&mut self, renews: Moment, renew_after: u32) {
        // Leases that were obtained together must not all be renewed together.
        let earlier = self.within(Moment::from(renew_after) * 1000 / 32).abs();
        self.stage = Stage::Bound;
        self.wake = if renews == Moment::MAX { renews } else { renews - earlier };
    }

    fn give_up(&mut self) -> Output {
        let trouble = if self.trouble.is_empty() { self.silence() } else { std::mem::take(&mut self.trouble) };
        self.stage = Stage::Ended;
        let event = match self.lease.take() {
            Some(_) => Event::Expired,
            None => Event::Failed(Error::internal(format!("no more tries: {trouble}"))),
        };
        Output { send: None, event: Some(event) }
    }

    /// A random number of at most this size, either side of zero.
    fn within(&mut self, size: Moment) -> Moment {
        let range = size.unsigned_abs() * 2 + 1;
        (self.random() % range) as Moment - size
    }

    /// The next number of "splitmix64": nobody should guess the transaction of one client from another's.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// What may go into a log of what a server says.
fn printable(message: &[u8]) -> String {
    let letters = message.iter().take(128).filter(|byte| matches!(byte, b' '..=b'~'));
    letters.map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests;
