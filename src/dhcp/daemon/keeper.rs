//! One lease with its place: it opens what the client needs, sends what the client says, and notices when the place is no
//! longer what it was.

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::cni::config::Object;
use crate::cni::json::Node;
use crate::cni::{CniResult, NetworkConfig};
use crate::dhcp::client::{Client, Datagram, Event, Timing};
use crate::dhcp::daemon::{kind, log, token};
use crate::dhcp::result::{self, Wishes};
use crate::dhcp::rpc::CmdArgs;
use crate::dhcp::settings::{Settings, client_id};
use crate::dhcp::socket::Socket;
use crate::dhcp::{Clock, Moment};
use crate::error::{Context, Errno, Error, Result};
use crate::net::link_events::LinkEvents;
use crate::net::links::State;
use crate::net::{Handle, Link, Mac, Netns};
use crate::sys::events::{Interest, Poller};
use crate::sys::netns::{self, Identity};
use crate::sys::{events, random};

/// How long the first packet waits for the link to come up, in milliseconds. Then it is tried without that.
const LINK_LIMIT: Moment = 200;
/// The other end of a link that was just set up may be a bridge's port that does not forward yet, which nobody in the
/// container can see. So the first packet is sent again after this many milliseconds, and then each time four times as many.
const FIRST_NUDGE: Moment = 1;
/// No longer than this after the first.
const LAST_NUDGE: Moment = 1500;
/// How many packets are read in one go.
const BATCH: usize = 32;

/// A link of a container, remembered without keeping anything open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Path of the namespace as the daemon sees it.
    path: String,
    /// [`Identity`] of the namespace behind it.
    identity: String,
    /// Name of the link.
    ifname: String,
    /// Its index. (Another link may get its name.)
    index: u32,
}

/// A place that has been found again. It keeps the namespace alive, so it is not kept.
struct Visit {
    netns: Netns,
    inside: Handle,
    link: Link,
}

impl Place {
    /// The link `ifname` in the namespace at `path`.
    fn find(path: &str, ifname: &str) -> Result<(Place, Visit)> {
        let netns = Netns::open(path)?;
        let mut inside = Handle::inside(&netns)?;
        let link = inside.link(ifname).with_context(|| format!("error looking up {ifname:?}"))?;
        let identity = netns.identity()?.to_string();
        let place = Place { path: path.to_string(), identity, ifname: ifname.to_string(), index: link.index };
        Ok((place, Visit { netns, inside, link }))
    }

    /// The same namespace and the same link, or the reason why they are not to be had.
    fn visit(&self) -> Result<Visit> {
        let (found, visit) = Place::find(&self.path, &self.ifname)?;
        match found == *self {
            true => Ok(visit),
            false => Err(self.is_another()),
        }
    }

    fn is_another(&self) -> Error {
        Error::internal(format!("{:?} in {} is not the interface it was", self.ifname, self.path))
    }

    /// True when `path` leads to this place's namespace.
    pub(super) fn is_in(&self, path: &str) -> bool {
        let identity: Option<Identity> = netns::identity_at(path);
        identity.is_some_and(|identity| identity.to_string() == self.identity)
    }

    /// Sets the link down: its address is no longer the container's.
    pub(super) fn set_down(&self) -> Result<()> {
        let mut visit = self.visit()?;
        let down = visit.inside.set_up(self.index, false);
        down.with_context(|| format!("failed to bring {:?} interface DOWN", self.ifname))
    }

    fn members(&self) -> Vec<(&'static str, Node)> {
        vec![
            ("netns", self.path.as_str().into()),
            ("netnsIdentity", self.identity.as_str().into()),
            ("ifname", self.ifname.as_str().into()),
            ("index", self.index.into()),
        ]
    }

    fn read(record: &Object<'_>) -> Result<Place> {
        let text = |key| record.string(key).map(str::to_string);
        let index = u32::try_from(record.integer("index")?).unwrap_or(0);
        Ok(Place { path: text("netns")?, identity: text("netnsIdentity")?, ifname: text("ifname")?, index })
    }
}

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
    /// Open until the link is up.
    link_events: Option<LinkEvents>,
    /// The client's deadlines count from then on.
    start: Moment,
    /// Milliseconds after `start` when to send again what nobody has answered; 0 for never.
    nudge: Moment,
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
        let hardware = hardware(&visit.link)?;
        let ipam = config.top().object("ipam")?.ok_or_else(missing_ipam)?;
        let settings = Settings::decode(&ipam, &args.args, &key, hardware, broadcast)?;
        let now = events::boottime();
        let (mut link_events, mut start) = (None, now);
        if !is_ready(&visit.link) {
            // Looking at the link would make the kernel settle the state of this end of a pair before the other's.
            link_events = Some(LinkEvents::of(&visit.netns)?);
            start = now + LINK_LIMIT;
            if !visit.link.is_up() {
                visit
                    .inside
                    .set_up(place.index, true)
                    .with_context(|| format!("failed to set {:?} UP", args.ifname))?;
            }
        }
        log(&key, "acquiring lease");
        let client = Client::acquire(settings, timing, start, seed()?);
        let nudge = if link_events.is_some() { FIRST_NUDGE } else { 0 };
        Ok(Keeper { key, place, client, waiting: Vec::new(), socket: None, link_events, start, nudge })
    }

    /// Goes on with a lease from disk, from `start` on. Fails when its place is not there any more.
    pub(super) fn restore(record: &Map<String, Value>, timing: Timing, clock: Clock, start: Moment) -> Result<Keeper> {
        let record = Object::top(record);
        let place = Place::read(&record)?;
        let client = Client::restore(&record, timing, clock, seed()?)?;
        let key = record.string("key")?.as_bytes().to_vec();
        let (waiting, socket, link_events, nudge) = (Vec::new(), None, None, 0);
        let mut keeper = Keeper { key, place, client, waiting, socket, link_events, start, nudge };
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
        let nudge = if self.nudge == 0 { Moment::MAX } else { self.start + self.nudge };
        self.client.deadline().map_or(Moment::MAX, |deadline| deadline.max(self.start)).min(nudge)
    }

    /// Lets the client do what is due and hear what has come. What has come of that; an error when the place is gone.
    pub(super) fn turn(&mut self, poller: &Poller, slot: usize) -> Result<Vec<Event>> {
        let mut happened = Vec::new();
        let now = events::boottime();
        if self.deadline() <= now {
            if self.nudge > 0 && self.start + self.nudge <= now {
                self.nudge = if self.nudge * 4 > LAST_NUDGE { 0 } else { self.nudge * 4 };
                self.client.link_is_up(now);
            }
            let output = self.client.poll(now);
            self.perform(output.send, poller, slot)?;
            happened.extend(output.event);
        }
        for _ in 0..BATCH {
            // An error says that the link went down. When it is up again we are told by nobody, but try again in time.
            let Some(Ok(Some((packet, from)))) = self.socket.as_ref().map(Socket::receive) else { break };
            let output = self.client.receive(events::boottime(), &packet, from);
            if output.send.is_some() || output.event.is_some() {
                self.nudge = 0;
            }
            self.perform(output.send, poller, slot)?;
            happened.extend(output.event);
        }
        if !self.client.listening() {
            self.socket = None;
        }
        if self.client.lease().is_some() {
            self.link_events = None;
        }
        Ok(happened)
    }

    /// Has [`Keeper::link_changed`] called when it is time. Without that the client tries again after a while.
    pub(super) fn watch_link(&self, poller: &Poller, slot: usize) {
        if let Some(link_events) = &self.link_events {
            let _ = poller.add(link_events, token(kind::LINK, slot), Interest::Read);
        }
    }

    /// The link has changed: is it up now?
    pub(super) fn link_changed(&mut self) -> Result<()> {
        let Some(link_events) = &mut self.link_events else { return Ok(()) };
        link_events.drain()?;
        if is_ready(&self.place.visit()?.link) {
            let now = events::boottime();
            self.link_events = None;
            (self.start, self.nudge) = (now, FIRST_NUDGE);
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
        let now = hardware(&visit.link)?;
        if now != self.client.settings().hardware {
            if let Some(lease) = self.client.lease() {
                let leased = std::net::IpAddr::from(lease.address);
                let addresses = visit.inside.addresses(self.place.index)?;
                if !addresses.iter().any(|address| IpNet::addr(&address.net) == leased) {
                    let mac = Mac::from_bytes(&now);
                    return Err(Error::internal(format!(
                        "{:?} has another hardware address, {mac}",
                        self.place.ifname
                    )));
                }
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

    /// Gives the lease back, if there is one.
    pub(super) fn release(&mut self) -> Result<()> {
        let Some(datagram) = self.client.release(events::boottime()) else { return Ok(()) };
        match self.socket.take() {
            Some(socket) => socket.send(&datagram),
            None => {
                let visit = self.place.visit()?;
                let socket = Socket::open(&visit.netns, self.place.index, self.client.settings().hardware)?;
                socket.send(&datagram)
            }
        }
    }

    /// The result of the lease, which must be there.
    pub(super) fn result(&self, wishes: Wishes) -> Result<CniResult> {
        let lease = self.client.lease().ok_or_else(|| Error::internal("there is no lease"))?;
        result::of_lease(lease, wishes)
    }

    /// Address, server and length of the lease, for people.
    pub(super) fn describe(&self) -> String {
        let describe = |lease: &crate::dhcp::lease::Lease| {
            let (address, server) = (lease.address, lease.server);
            match lease.seconds {
                u32::MAX => format!("{address} from {server} for ever"),
                seconds => format!("{address} from {server} for {seconds} s"),
            }
        };
        self.client.lease().map_or(String::new(), describe)
    }
}

/// True when an error says that a place does not exist any more; all others may pass.
pub(super) fn is_gone(error: &Error) -> bool {
    matches!(error.errno, None | Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ENODEV | Errno::ENXIO))
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

/// Packets can pass. Some drivers never say so (state 0).
fn is_ready(link: &Link) -> bool {
    link.is_up() && (link.state == State::UP || (link.state == State::default() && link.has_carrier()))
}
