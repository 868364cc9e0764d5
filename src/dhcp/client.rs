//! The client of RFC 2131 for one lease, without clock, socket or memory of its namespace. The daemon
//!
//! 1. makes one with [`Client::acquire`], or with [`Client::restore`] from what it has kept on disk;
//! 2. calls [`Client::poll`] at [`Client::deadline`] (the first is at once), [`Client::receive`] for each packet, and does
//!    what the [`Output`] says: sends `send`, and acts on `event`;
//! 3. keeps a [`crate::dhcp::socket::Socket`] open while [`Client::listening`], and only then: a socket pins its namespace;
//! 4. calls [`Client::record`] after [`Event::Bound`] and [`Event::Renewed`] and keeps it with the names of the attachment;
//! 5. on DEL sends [`Client::release`], if there is anything to release.

mod interface;
mod messages;
mod passed_over;

pub use interface::{Datagram, Event, Output, Timing, no_more_tries};

use std::net::Ipv4Addr;

use crate::cni::config::Object;
use crate::cni::json::Node;
use crate::dhcp::client::passed_over::Reason;
use crate::dhcp::lease::{Lease, unreadable};
use crate::dhcp::packet::{self, Options, Packet, code, kind};
use crate::dhcp::settings::Settings;
use crate::dhcp::{Clock, Moment, hexadecimal};
use crate::error::Result;

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
    /// The one DISCOVER out of turn was sent, see [`Client::link_is_up`].
    hurried: bool,
    /// The answer is not awaited any more; the message will be sent again at `wake`.
    deaf: bool,
    /// When something was sent last.
    sent: Moment,
    /// When to do something next.
    wake: Moment,
    /// When there is no hope any more: the lease expires, or the acquisition is given up.
    end: Moment,
    /// Why the last attempt failed.
    trouble: String,
    /// The answer that was passed over last, and why.
    passed_over: String,
    /// How many of them were told since the last success.
    told: u8,
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

/// How often a REQUEST is sent before it counts as unanswered (RFC 2131, 3.1: four times, 60 seconds in all).
const TRIES: u8 = 4;
/// First pause between attempts in milliseconds, as long as the reference's.
const PAUSE: Moment = 2_000;
const SECOND: Moment = 1_000;
/// Shortest wait between requests to extend a lease in milliseconds (RFC 2131, 4.4.5).
const EXTENSION_WAIT: Moment = 60_000;
/// A lease for which [`EXTENSION_WAIT`] is more than a 20th is extended after waits of no less than a 20th.
const EXTENSION_PART: Moment = 20;

impl Client {
    /// Begins to acquire a lease: the deadline is `now`. `seed` is random (8 bytes of `sys::random`).
    pub fn acquire(settings: Settings, timing: Timing, now: Moment, seed: u64) -> Client {
        let end = now.saturating_add(timing.resend_timeout.into());
        Client::new(settings, timing, None, (now, end), seed)
    }

    /// Goes on with a recorded lease: the deadline is now, when servers are asked to confirm it (INIT-REBOOT). Who has many
    /// of them does not let all begin at once. A lease that has expired meanwhile is asked for for `resend_timeout`. The
    /// caller has checked that namespace, link and hardware address are those of old. Fails when the record cannot be read.
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
            hurried: false,
            deaf: false,
            sent,
            wake,
            end,
            trouble,
            passed_over: String::new(),
            told: 0,
            random: seed,
        };
        client.xid = client.random() as u32;
        client
    }

    /// What [`Client::restore`] reads, members of a JSON object (the daemon adds its own): settings and lease, times by
    /// the clock of records. Keys begin with `dhcp`, nobody else's may. Without a lease there is nothing to restore.
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
        let next = if self.deaf { self.wake } else { self.wake.min(self.hears_until()) };
        (self.stage != Stage::Ended && next != Moment::MAX).then_some(next)
    }

    /// True while an answer is awaited.
    pub fn listening(&self) -> bool {
        self.sends > 0 && !self.deaf && !matches!(self.stage, Stage::Resting | Stage::Bound | Stage::Ended)
    }

    /// When to stop waiting for an answer: hours may pass until an extension is requested again, and a socket that is open
    /// keeps the namespace alive.
    fn hears_until(&self) -> Moment {
        match self.stage {
            Stage::Renewing | Stage::Rebinding => self.sent + Moment::from(self.timing.timeout).max(SECOND),
            _ => Moment::MAX,
        }
    }

    /// Time has passed. Harmless before the deadline.
    pub fn poll(&mut self, now: Moment) -> Output {
        self.deaf |= now >= self.hears_until();
        if now < self.wake || self.stage == Stage::Ended {
            return Output::default();
        }
        if now >= self.end {
            // The machine was asleep when the lease was due: as after a restart it is asked for before it is given up.
            if self.stage != Stage::Bound {
                return self.give_up();
            }
            self.end = now.saturating_add(self.timing.resend_timeout.into());
            return self.begin(Stage::Rebooting, now);
        }
        let rebinds = self.lease.as_ref().map_or(Moment::MAX, Lease::rebinds);
        match self.stage {
            Stage::Resting => self.begin(Stage::Selecting, now),
            Stage::Bound | Stage::Renewing if now >= rebinds => self.begin(Stage::Rebinding, now),
            Stage::Bound => self.begin(Stage::Renewing, now),
            Stage::Rebooting if self.sends >= TRIES => self.unconfirmed(now),
            Stage::Requesting(..) if self.sends >= TRIES => self.unanswered(now),
            _ => self.transmit(now),
        }
    }

    /// A packet has come, from this hardware address. An answer to us that does not count is an
    /// event, at most.
    pub fn receive(&mut self, now: Moment, packet: &Packet, from: Option<[u8; 6]>) -> Output {
        let ours = packet.op == packet::REPLY && packet.hardware == self.settings.hardware;
        if !ours || !self.listening() {
            return Output::default();
        }
        self.answer(now, packet, from).unwrap_or_else(|reason| self.pass_over(packet, &reason))
    }

    fn answer(&mut self, now: Moment, packet: &Packet, from: Option<[u8; 6]>) -> std::result::Result<Output, Reason> {
        if packet.xid != self.xid {
            return Err("it answers another message (xid)".to_string());
        }
        match (packet.kind(), self.stage) {
            (Some(kind::OFFER), Stage::Selecting) => Ok(self.offered(now, &Lease::granted(packet, from, now)?)),
            // Another server's comes late.
            (Some(kind::OFFER), _) => Ok(Output::default()),
            (Some(kind::ACK | kind::NAK), Stage::Selecting) => Err("no address was requested".to_string()),
            (Some(kind::ACK), _) => self.granted(Lease::granted(packet, from, self.sent)?),
            (Some(kind::NAK), _) => self.refused(now, packet),
            _ => Err("it has no type of message that a server sends".to_string()),
        }
    }

    /// Sends DISCOVER (again) at once: by the kernel's word frames pass from now on, and an earlier one was lost. Does so
    /// once in a client's life, in place of the first retransmission: a link that flaps must not flood the network.
    pub fn link_is_up(&mut self, now: Moment) {
        if self.stage == Stage::Selecting && !self.hurried {
            self.hurried = self.sends > 0;
            (self.sends, self.wake) = (self.sends.min(1), now);
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
        Some(self.release_message(server, address, mac))
    }

    fn begin(&mut self, stage: Stage, now: Moment) -> Output {
        self.xid = self.random() as u32;
        (self.stage, self.sends) = (stage, 0);
        self.transmit(now)
    }

    fn transmit(&mut self, now: Moment) -> Output {
        self.sends = self.sends.saturating_add(1);
        (self.sent, self.deaf) = (now, false);
        self.wake = now.saturating_add(self.patience(now)).min(self.end);
        Output { send: Some(self.message()), event: None }
    }

    /// How long to wait for the answer to the message that was just sent.
    fn patience(&mut self, now: Moment) -> Moment {
        match (self.stage, &self.lease) {
            (Stage::Renewing, Some(lease)) => {
                let (t2, left) = (lease.rebinds(), lease.rebinds() - now);
                let (wait, fuzz) = (half_of(left, lease), (t2 - lease.renews()).min(lease.expires() - t2) / 32);
                // Leases that were granted together must not all ask all servers together.
                if wait < left { wait } else { left + self.within(fuzz).abs() }
            }
            (Stage::Rebinding, Some(lease)) => half_of(lease.expires() - now, lease),
            _ => {
                let wait = self.timing.wait(self.sends);
                wait + self.within((wait / 4).min(SECOND))
            }
        }
    }

    fn offered(&mut self, now: Moment, offer: &Lease) -> Output {
        if let Some(event) = self.other_address(offer) {
            return event;
        }
        // The transaction stays the same.
        (self.stage, self.sends) = (Stage::Requesting(offer.server, offer.address), 0);
        self.transmit(now)
    }

    fn granted(&mut self, lease: Lease) -> std::result::Result<Output, Reason> {
        self.may_answer(lease.server)?;
        if let Some(event) = self.other_address(&lease) {
            return Ok(event);
        }
        let (lease, event) = match self.lease.take() {
            Some(old) => (old.followed_by(lease), Event::Renewed),
            None => (lease, Event::Bound),
        };
        self.end = lease.expires();
        self.succeed();
        self.hold(lease.renews(), lease.renew_after);
        self.lease = Some(lease);
        Ok(Output { send: None, event: Some(event) })
    }

    fn refused(&mut self, now: Moment, packet: &Packet) -> std::result::Result<Output, Reason> {
        let server = packet.options.address(code::SERVER_ID).ok_or("it names no server (server id)")?;
        self.may_answer(server)?;
        let message = printable(packet.options.get(code::MESSAGE).unwrap_or_default());
        let said = if message.is_empty() { String::new() } else { format!(" (msg: {message})") };
        self.trouble = format!("server {server} rejected request with Nak{said}");
        let output = self.restart(now);
        Ok(Output { event: Some(Event::Refused(message)), ..output })
    }

    /// Fails unless this server's answer counts: a message to one server has no answer of another.
    fn may_answer(&self, server: Ipv4Addr) -> std::result::Result<(), Reason> {
        let asked = match (self.stage, &self.lease) {
            (Stage::Requesting(chosen, _), _) => chosen,
            (Stage::Renewing, Some(lease)) => lease.server,
            _ => server,
        };
        if server == asked { Ok(()) } else { Err(format!("server {asked} was asked")) }
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
                // Not later: past its end there is nothing to wait for, so one request would follow on the other.
                self.end = lease.expires();
                self.hold(lease.renews(), lease.renew_after);
                self.wake = self.wake.max(now);
                Output { send: None, event: Some(Event::Unconfirmed) }
            }
            _ => self.begin(Stage::Selecting, now),
        }
    }

    fn unanswered(&mut self, now: Moment) -> Output {
        self.trouble = self.silence();
        self.restart(now)
    }

    /// Begins another attempt: at once after the first that failed, as dnsmasq offers one address to several clients that
    /// ask together and refuses all but the first; then after pauses that grow, or a server that refuses every request
    /// would be asked without end.
    fn restart(&mut self, now: Moment) -> Output {
        let failures = self.failures;
        self.failures = failures.saturating_add(1);
        if failures == 0 {
            return self.begin(Stage::Selecting, now);
        }
        let pause = self.timing.doubled(PAUSE, failures);
        self.stage = Stage::Resting;
        self.wake = now.saturating_add(pause + self.within((pause / 4).min(SECOND))).min(self.end);
        Output::default()
    }

    /// What was not answered.
    fn silence(&self) -> String {
        let what = match self.stage {
            Stage::Requesting(server, address) => format!("REQUEST of {address} to server {server}"),
            _ => "DISCOVER".to_string(),
        };
        format!("no matching response packet received for {what}")
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
            None => Event::Failed(no_more_tries(self.with_passed_over(trouble))),
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

/// Half of the time that is `left` to extend a lease, but no less than [`EXTENSION_WAIT`] (RFC 2131, 4.4.5). With so long a
/// wait a single lost message could end a lease of a few minutes: its waits are shorter.
fn half_of(left: Moment, lease: &Lease) -> Moment {
    let least = (Moment::from(lease.seconds) * 1000 / EXTENSION_PART).clamp(SECOND, EXTENSION_WAIT);
    (left / 2).max(least).min(left)
}

/// What may go into a log of what a server says.
fn printable(message: &[u8]) -> String {
    let letters = message.iter().take(128).filter(|byte| matches!(byte, b' '..=b'~'));
    letters.map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests;
