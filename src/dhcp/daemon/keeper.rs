//! One lease with its place: it opens what the client needs, sends what the client says, and notices when the place is no
//! longer what it was.

use serde_json::{Map, Value};

use crate::cni::config::Object;
use crate::cni::json::Node;
use crate::cni::{CniResult, NetworkConfig};
use crate::dhcp::client::{Client, Datagram, Event, Timing, no_more_tries};
use crate::dhcp::daemon::place::{Place, Visit, is_gone};
use crate::dhcp::daemon::{kind, log, token};
use crate::dhcp::lease::Lease;
use crate::dhcp::result::{self, Wishes};
use crate::dhcp::rpc::CmdArgs;
use crate::dhcp::settings::{Settings, client_id};
use crate::dhcp::socket::{Received, Socket};
use crate::dhcp::{Clock, Moment};
use crate::error::{Error, Result};
use crate::net::egress::{Egress, Obstacle};
use crate::net::link_events::{Changed, LinkEvents};
use crate::net::{Handle, Link, Mac};
use crate::sys::events::{Interest, Poller};
use crate::sys::{events, random};

/// How long the first message waits for an obstacle on the link's way out to go, in milliseconds. Then it is sent all the
/// same, and once more when the obstacle has gone: the kernel need not know of every way out.
const LINK_LIMIT: Moment = 200;
/// A lease whose message is this much overdue, in milliseconds, was due while the machine was asleep.
const LATE: Moment = 1_000;
/// How many packets are read in one go.
const BATCH: usize = 32;

/// A lease that is being acquired or kept.
#[derive(Debug)]
pub(super) struct Keeper {
    /// See [`client_id`].
    pub(super) key: Vec<u8>,
    pub(super) place: Place,
    pub(super) client: Client,
    /// Connections (slots) whose calls wait for the lease, with what they want to know of it.
    pub(super) waiting: Vec<(usize, Wishes)>,
    socket: Option<Socket>,
    /// Name of the link when it was last looked at.
    name: String,
    /// The way out of the link, while the first lease is being acquired.
    egress: Egress,
    /// Open while there is an obstacle on the way out.
    link_events: Option<LinkEvents>,
    /// Nothing is sent before.
    start: Moment,
    /// `start` is its place among leases that ask one after the other.
    queued: bool,
}

impl Keeper {
    /// Begins to acquire a lease for a call. The link is set up if it is down.
    pub(super) fn start(
        args: &CmdArgs,
        config: &NetworkConfig,
        (prefix, timing, broadcast): (&str, Timing, bool),
    ) -> Result<Keeper> {
        let (place, mut visit) = Place::find(&format!("{prefix}{}", args.netns), &args.ifname)?;
        let key = client_id(&args.container_id, &config.name, &args.ifname);
        let hardware = hardware(&visit.link).map_err(|error| no_more_tries(error.msg.clone()))?;
        let ipam = config.top().object("ipam")?.ok_or_else(missing_ipam)?;
        let settings = Settings::decode(&ipam, &args.args, &key, hardware, broadcast)?;
        let mut link = visit.link;
        if !link.is_up() {
            let failed = |error: Error| error.with_details(format!("failed to set {:?} up", args.ifname));
            visit.inside.set_up(place.index, true).map_err(failed)?;
            link = visit.inside.find_link_at(place.index)?.unwrap_or(link);
        }
        log(&key, "acquiring lease");
        let now = events::boottime();
        let client = Client::acquire(settings, timing, now, seed()?);
        let mut keeper = Keeper::new(key, place, client, now);
        keeper.egress = egress(&mut visit.inside, &link);
        if keeper.egress.obstacle.is_some() {
            keeper.start = now + LINK_LIMIT;
        }
        Ok(keeper)
    }

    fn new(key: Vec<u8>, place: Place, client: Client, start: Moment) -> Keeper {
        let (waiting, egress, name) = (Vec::new(), Egress::default(), place.ifname.clone());
        Keeper { key, place, client, waiting, socket: None, name, egress, link_events: None, start, queued: false }
    }

    /// Goes on with a lease from disk. Fails when its place is not there any more.
    pub(super) fn restore(record: &Map<String, Value>, timing: Timing, clock: Clock) -> Result<Keeper> {
        let record = Object::top(record);
        let place = Place::read(&record)?;
        let client = Client::restore(&record, timing, clock, seed()?)?;
        let key = record.string("key")?.as_bytes().to_vec();
        let mut keeper = Keeper::new(key, place, client, clock.now);
        match keeper.verify() {
            Err(error) if is_gone(&error) => Err(error),
            _ => Ok(keeper),
        }
    }

    /// What [`Keeper::restore`] reads.
    pub(super) fn record(&self, clock: Clock) -> Option<Vec<(&'static str, Node)>> {
        let mut members = self.client.record(clock)?;
        members.push(("key", String::from_utf8_lossy(&self.key).into_owned().into()));
        members.extend(self.place.members());
        Some(members)
    }

    /// When to call [`Keeper::turn`].
    pub(super) fn deadline(&self) -> Moment {
        self.client.deadline().map_or(Moment::MAX, |deadline| deadline.max(self.start))
    }

    /// Has nothing sent before `start`: other leases ask first.
    pub(super) fn queue(&mut self, start: Moment) {
        (self.start, self.queued) = (start, true);
    }

    /// True while other leases ask first.
    pub(super) fn is_queued(&self) -> bool {
        self.queued
    }

    /// When the lease ends; `Moment::MAX` for never.
    pub(super) fn expires(&self) -> Moment {
        self.client.lease().map_or(Moment::MAX, Lease::expires)
    }

    /// True when the machine was asleep when the lease was due, or has missed its place in the queue.
    pub(super) fn is_late(&self, now: Moment) -> bool {
        let late = if self.queued { 0 } else { LATE };
        self.client.lease().is_some() && self.deadline().saturating_add(late) < now
    }

    /// Lets the client hear what has come and do what is due. What has come of that; an error when the place is gone.
    pub(super) fn turn(&mut self, poller: &Poller, slot: usize) -> Result<Vec<Event>> {
        let mut happened = Vec::new();
        // Before the timers: an answer may have come while the machine was asleep.
        for _ in 0..BATCH {
            // An error says that the link went down. When it is up again we are told by nobody, but try again in time.
            let Some(Ok(Some(received))) = self.socket.as_ref().map(Socket::receive) else { break };
            let output = match received {
                Received::Packet(packet, from) => self.client.receive(events::boottime(), &packet, from),
                Received::Damaged(reason) => self.client.unreadable(reason),
            };
            self.perform(output.send, poller, slot)?;
            happened.extend(output.event);
        }
        let now = events::boottime();
        if self.deadline() <= now {
            self.queued = false;
            self.look_first(now)?;
            let output = self.client.poll(now);
            self.perform(output.send, poller, slot)?;
            happened.extend(output.event);
        }
        if !self.client.listening() {
            self.socket = None;
        }
        if self.client.lease().is_some() {
            (self.egress, self.link_events) = (Egress::default(), None);
        }
        Ok(happened)
    }

    /// Looks at the link before a message about its lease is made: the message holds the hardware
    /// address. Only the place being gone is an error.
    fn look_first(&mut self, now: Moment) -> Result<()> {
        if self.socket.is_some() || self.client.lease().is_none() || self.expires() <= now {
            return Ok(());
        }
        match self.verify() {
            Err(error) if is_gone(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The obstacle on the link's way out, while the first lease is being acquired.
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        self.egress.obstacle
    }

    /// Has [`Keeper::link_changed`] called on events of the link.
    pub(super) fn watch_link(&mut self, poller: &Poller, slot: usize) -> Result<()> {
        let events = LinkEvents::of(&self.place.visit()?.netns)?;
        poller.add(&events, token(kind::LINK, slot), Interest::Read)?;
        self.link_events = Some(events);
        Ok(())
    }

    /// Takes in the events of the container's namespace: true when some may be about the link.
    pub(super) fn hears_of_link(&mut self) -> bool {
        let Some(events) = &mut self.link_events else { return false };
        match events.changed() {
            Ok(changed) => changed.may_include(self.place.index),
            Err(_) => {
                // The broken socket would be readable for ever. The client retransmits after a while.
                self.link_events = None;
                false
            }
        }
    }

    /// True when the link's frames are waiting for a change of the veth peer on the host.
    pub(super) fn waits_for_peer(&self) -> bool {
        self.obstacle().is_some() && self.egress.peer.is_some()
    }

    /// True when these changes of the host's links may be about the veth peer that is waited for.
    pub(super) fn is_concerned(&self, changed: &Changed) -> bool {
        self.waits_for_peer() && self.egress.peer.is_some_and(|peer| changed.may_include(peer))
    }

    /// The link or its veth peer has changed: do frames pass now?
    pub(super) fn link_changed(&mut self) -> Result<()> {
        if self.obstacle().is_none() {
            return Ok(());
        }
        let mut visit = self.place.visit()?;
        self.egress = egress(&mut visit.inside, &visit.link);
        if self.obstacle().is_none() {
            let now = events::boottime();
            (self.link_events, self.start) = (None, now);
            self.client.link_is_up(now);
        }
        Ok(())
    }

    /// Sends. A packet that cannot be sent is lost, like others; only the place being gone is an error.
    fn perform(&mut self, send: Option<Datagram>, poller: &Poller, slot: usize) -> Result<()> {
        let Some(datagram) = send else { return Ok(()) };
        match self.try_send(&datagram, poller, slot) {
            Err(error) if is_gone(&error) => return Err(error),
            Err(error) => {
                // The next one gets a new socket, and the place a new look.
                self.socket = None;
                log(&self.key, &format!("failed to send over {:?}: {error}", self.place.ifname));
            }
            Ok(()) => {}
        }
        Ok(())
    }

    fn try_send(&mut self, datagram: &Datagram, poller: &Poller, slot: usize) -> Result<()> {
        if let Some(socket) = &self.socket {
            // It would keep a namespace alive that nobody can find any more.
            return match self.place.is_in(&self.place.path) {
                true => socket.send(datagram),
                false => Err(self.place.is_another()),
            };
        }
        let visit = self.check()?;
        let socket = Socket::open(&visit.netns, self.place.index, self.client.settings().hardware)?;
        poller.add(&socket, token(kind::SOCKET, slot), Interest::Read)?;
        self.socket.insert(socket).send(datagram)
    }

    /// Looks whether the place is still there. A link whose hardware address has changed is still the same if it has the
    /// lease's address (a plugin in the chain has changed it), and otherwise another container's.
    fn check(&mut self) -> Result<Visit> {
        let mut visit = self.place.visit()?;
        self.note_name(&visit.link.name);
        let now = hardware(&visit.link)?;
        if now != self.client.settings().hardware {
            if let Some(lease) = self.client.lease()
                && !visit.has_address(lease.address)?
            {
                let mac = Mac::from_bytes(&now);
                return Err(Error::internal(format!("{:?} has another hardware address, {mac}", self.name)));
            }
            // It hears what is for the old one.
            self.socket = None;
            self.client.set_hardware(now);
        }
        Ok(visit)
    }

    /// Succeeds when the lease's link is where it was.
    pub(super) fn verify(&mut self) -> Result<()> {
        self.check().map(drop)
    }

    /// Logs that the container has renamed the link, once for each name.
    fn note_name(&mut self, name: &str) {
        if self.name != name {
            log(&self.key, &format!("interface {:?} is called {name:?} now", self.name));
            self.name = name.to_string();
        }
    }

    /// Gives the lease back, if there is one. Plugins remove the link that has the name of old;
    /// another name would leave the container with an address that is given away, so a renamed link
    /// is set down.
    pub(super) fn release(&mut self) -> Result<()> {
        let held = self.client.lease().map(|lease| lease.address);
        let Some(datagram) = self.client.release(events::boottime()) else { return Ok(()) };
        match self.socket.take() {
            Some(socket) => socket.send(&datagram)?,
            None => {
                let visit = self.place.visit()?;
                let socket = Socket::open(&visit.netns, self.place.index, self.client.settings().hardware)?;
                socket.send(&datagram)?;
            }
        }
        match (held, self.place.visit()) {
            (Some(held), Ok(visit)) if visit.link.name != self.place.ifname => visit.set_down_with(held),
            _ => Ok(()),
        }
    }

    /// Sets the link down if it has the lease's address: another link gets that now.
    pub(super) fn withdraw(&self) -> Result<()> {
        match self.client.lease() {
            Some(lease) => self.place.visit()?.set_down_with(lease.address),
            None => Ok(()),
        }
    }

    /// Sets the link down: its address is no longer the container's. A link with another name and
    /// another hardware address is another one.
    pub(super) fn set_down(&self) -> Result<()> {
        let mut visit = self.place.visit()?;
        let same = visit.link.name == self.place.ifname
            || hardware(&visit.link).is_ok_and(|now| now == self.client.settings().hardware);
        if same { visit.set_down() } else { Err(self.place.is_another()) }
    }

    /// The result of the lease, which must be there.
    pub(super) fn result(&self, wishes: Wishes) -> Result<CniResult> {
        let lease = self.client.lease().ok_or_else(|| Error::internal("there is no lease"))?;
        result::of_lease(lease, wishes)
    }

    /// Address, server and length of the lease, for people.
    pub(super) fn describe(&self) -> String {
        let describe = |lease: &Lease| {
            let (address, server) = (lease.address, lease.server);
            match lease.seconds {
                u32::MAX => format!("{address} from {server} for ever"),
                seconds => format!("{address} from {server} for {seconds} s"),
            }
        };
        self.client.lease().map_or(String::new(), describe)
    }
}

/// The daemon cannot do without.
pub(super) fn missing_ipam() -> Error {
    Error::internal("IPAM config missing 'ipam' key")
}

fn seed() -> Result<u64> {
    Ok(u64::from_ne_bytes(random::bytes()?))
}

/// DHCP as we speak it is for Ethernet and what looks like it.
fn hardware(link: &Link) -> Result<[u8; 6]> {
    let address = <[u8; 6]>::try_from(link.mac.bytes());
    address.map_err(|_| Error::internal(format!("interface {:?} has no Ethernet address", link.name)))
}

/// Looks at the way out of a link. If the kernel does not tell, there is no obstacle.
fn egress(inside: &mut Handle, link: &Link) -> Egress {
    Egress::of(inside, link).unwrap_or_default()
}
