//! The daemon: acquires leases for plugins, keeps them, gives them back. One thread and one loop; what waits is a timer or
//! a descriptor in epoll.
//!
//! - [`connection`]: what a plugin says, byte by byte, without ever waiting for it.
//! - [`keeper`]: one lease with its [`place`] (namespace and link). A descriptor is open in the namespace only while an answer
//!   is awaited: it would keep the namespace alive.
//! - [`links`]: hearing that frames pass a link which was just set up.
//! - [`records`]: leases on disk, from which a new daemon goes on.

mod calls;
mod connection;
mod keeper;
mod links;
mod place;
mod records;
mod slots;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use connection::Connection;
use keeper::Keeper;
use records::Records;
use slots::Slots;

use crate::dhcp::client::{Event, Timing, no_more_tries};
use crate::dhcp::{Clock, Moment, rpc};
use crate::error::{Context, Errno, Error, Result};
use crate::net::link_events::LinkEvents;
use crate::sys::events::{EndSignals, Interest, Poller};
use crate::sys::netns::Netns;
use crate::sys::{events, listen, output};

/// The daemon's flags.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Absolute path of the file for the process id; empty for none.
    pub pid_file: String,
    /// Goes before the socket's path and the paths of namespaces.
    pub host_prefix: String,
    /// Where to listen.
    pub socket: String,
    /// How long to wait and when to give up.
    pub timing: Timing,
    /// Ask servers to broadcast their answers.
    pub broadcast: bool,
    /// LISTEN_PID and LISTEN_FDS, from a service manager that listens already.
    pub passed: (String, String),
}

/// How many calls are served at once; those that come later wait in the listener's queue.
const MOST_CONNECTIONS: usize = 2000;
/// How long nobody is accepted when there is no room for a connection.
const PAUSE: Moment = 500;
/// Leases that fall due together ask one after the other, this many milliseconds apart: DHCP snooping often shuts a port
/// that sends more than ten messages a second.
const SPREAD: Moment = 150;
/// All of them have asked after this many milliseconds, however many there are.
const SPREAD_LIMIT: Moment = 60_000;

/// What happened to which descriptor: kinds of tokens. The rest of a token is a slot.
mod kind {
    pub(super) const LISTENER: u64 = 0;
    pub(super) const SIGNALS: u64 = 1;
    pub(super) const CONNECTION: u64 = 2;
    pub(super) const SOCKET: u64 = 3;
    pub(super) const LINK: u64 = 4;
    pub(super) const HOST: u64 = 5;
}

fn token(kind: u64, slot: usize) -> u64 {
    kind << 32 | slot as u64
}

struct Daemon {
    poller: Poller,
    listener: UnixListener,
    /// When to listen again; `None` while listening.
    paused_until: Option<Moment>,
    connections: Slots<Connection>,
    keepers: Slots<Keeper>,
    /// Open while a lease waits for a link of the host.
    host_events: Option<LinkEvents>,
    records: Records,
    options: Options,
}

/// Runs until SIGTERM or SIGINT. Leases are not given back then: the next daemon goes on with them.
pub fn run(options: Options) -> Result<()> {
    let passed = listen::passed(&options.passed.0, &options.passed.1).context("Error getting listener")?;
    let signals = EndSignals::catch()?;
    let (path, pid_file) = (format!("{}{}", options.host_prefix, options.socket), options.pid_file.clone());
    let in_pid_file = |error: Error| error.context(&format!("Error writing pidfile {pid_file:?}"));
    if !pid_file.is_empty() && !pid_file.starts_with('/') {
        return Err(in_pid_file(Error::internal("path not absolute")));
    }
    events::raise_descriptor_limit();
    let is_ours = passed.is_none();
    let listener = match passed {
        Some(listener) => listener,
        None => listen::bind(Path::new(&path)).context("Error getting listener")?,
    };
    // Not before: the file may be that of a daemon which listens there.
    if !pid_file.is_empty() {
        // Without a newline, as the reference writes it.
        let written = fs::write(&pid_file, std::process::id().to_string());
        written.with_context(|| format!("open {pid_file}")).map_err(in_pid_file)?;
    }
    let mut daemon = Daemon::new(options, listener, &path);
    let ended = daemon.as_mut().map_err(|error| error.clone()).and_then(|daemon| daemon.serve(signals.as_ref()));
    // While we still listen: the next daemon would take the socket for stale, and lose its own files to us.
    if !pid_file.is_empty() {
        let _ = fs::remove_file(pid_file);
    }
    if is_ours {
        let _ = fs::remove_file(path);
    }
    drop(daemon);
    ended
}

/// One line on standard error about a lease.
fn log(key: &[u8], text: &str) {
    // Nobody can be told when standard error does not take it.
    let _ = output::print_error(format!("{}: {text}\n", String::from_utf8_lossy(key)).as_bytes());
}

fn clock() -> Clock {
    // Records are of this boot ([`records`]). The time of day, which somebody may set, would make a lease that is good look
    // over, or one that is over good.
    let now = events::boottime();
    Clock { now, kept: now }
}

impl Daemon {
    fn new(options: Options, listener: UnixListener, path: &str) -> Result<Daemon> {
        events::set_nonblocking(&listener)?;
        let socket = listen::path_of(&listener).unwrap_or_else(|| path.to_string());
        let records = Records::open(&options.host_prefix, &socket);
        let poller = Poller::new()?;
        // Opened now, or it would look like a leak.
        Netns::home()?;
        poller.add(&listener, token(kind::LISTENER, 0), Interest::Read)?;
        let (connections, keepers) = (Slots::default(), Slots::default());
        let (paused_until, host_events) = (None, None);
        let mut daemon = Daemon { poller, listener, paused_until, connections, keepers, host_events, records, options };
        daemon.restore();
        Ok(daemon)
    }

    /// Goes on with the leases of the daemon before, where the container is still there.
    fn restore(&mut self) {
        for (name, record) in self.records.load() {
            match Keeper::restore(&record, self.options.timing, clock()) {
                Ok(keeper) => {
                    self.keepers.insert(keeper);
                }
                Err(error) => {
                    log(name.as_bytes(), &format!("not resumed: {error}"));
                    self.records.remove_file(&name);
                }
            }
        }
        self.spread(self.keepers.due(|_| true), events::boottime());
    }

    /// Lets leases ask one after the other from now on; those that end first come first.
    fn spread(&mut self, mut slots: Vec<usize>, now: Moment) {
        slots.sort_by_key(|slot| self.keepers.get(*slot).map(Keeper::expires));
        let count = Moment::try_from(slots.len()).unwrap_or(Moment::MAX);
        for (place, slot) in (0..).zip(slots) {
            if let Some(keeper) = self.keepers.get_mut(slot) {
                keeper.queue(now + (place * SPREAD).min(place * SPREAD_LIMIT / count));
            }
        }
    }

    fn serve(&mut self, signals: Option<&EndSignals>) -> Result<()> {
        if let Some(signals) = signals {
            self.poller.add(signals, token(kind::SIGNALS, 0), Interest::Read)?;
        }
        let mut tokens = Vec::new();
        loop {
            self.poller.wait(self.patience(), &mut tokens)?;
            for token in &tokens {
                let slot = (token & u64::from(u32::MAX)) as usize;
                match token >> 32 {
                    kind::SIGNALS => return Ok(()),
                    kind::LISTENER => self.accept(),
                    kind::CONNECTION => self.converse(slot),
                    kind::SOCKET => self.advance(slot),
                    kind::LINK => self.container_changed(slot),
                    _ => self.host_changed(),
                }
            }
            self.run_timers();
        }
    }

    /// How long nothing will happen by itself.
    fn patience(&self) -> Option<Duration> {
        let keepers = self.keepers.iter().map(|(_, keeper)| keeper.deadline());
        let connections = self.connections.iter().map(|(_, connection)| connection.deadline());
        let next = keepers.chain(connections).chain(self.paused_until).min().filter(|next| *next < Moment::MAX)?;
        Some(Duration::from_millis(next.saturating_sub(events::boottime()).max(0).unsigned_abs()))
    }

    fn run_timers(&mut self) {
        let now = events::boottime();
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            // Whatever is wrong will be wrong again.
            let _ = self.poller.add(&self.listener, token(kind::LISTENER, 0), Interest::Read);
        }
        for slot in self.connections.due(|connection| connection.deadline() <= now) {
            self.close(slot);
        }
        if self.keepers.due(|keeper| keeper.is_late(now)).len() > 1 {
            self.spread(self.keepers.due(|keeper| keeper.is_queued() || keeper.is_late(now)), now);
        }
        for slot in self.keepers.due(|keeper| keeper.deadline() <= now) {
            self.advance(slot);
        }
        self.unwatch_host();
    }

    // Connections

    /// Takes everybody who waits in the queue.
    fn accept(&mut self) {
        loop {
            if self.connections.len() >= MOST_CONNECTIONS {
                return self.pause();
            }
            let stream = match self.listener.accept().map_err(Error::from) {
                Ok((stream, _)) => stream,
                Err(error) if error.is(Errno::EAGAIN) => return,
                Err(error) if error.is(Errno::ECONNABORTED) || error.is(Errno::EINTR) => continue,
                Err(error) => {
                    log(b"accept", &error.to_string());
                    return self.pause();
                }
            };
            // A connection that cannot be set up is closed.
            let Ok(connection) = Connection::new(stream, events::boottime()) else { continue };
            let slot = self.connections.insert(connection);
            let watched = self.connections.get(slot).map(|connection| {
                self.poller.add(connection.stream(), token(kind::CONNECTION, slot), Interest::Changes)
            });
            if !matches!(watched, Some(Ok(()))) {
                self.close(slot);
            }
        }
    }

    fn pause(&mut self) {
        if self.poller.remove(&self.listener).is_ok() {
            self.paused_until = Some(events::boottime() + PAUSE);
        }
    }

    /// Reads and writes what a connection is ready for, and serves its call when that is complete.
    fn converse(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        match connection.proceed() {
            Ok(None) => {}
            Ok(Some(call)) => self.serve_call(slot, &call),
            Err(connection::Over) => self.close(slot),
        }
    }

    /// Answers a call.
    fn reply(&mut self, slot: usize, reply: &rpc::Reply) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.answer(reply, events::boottime()).is_err() {
            self.close(slot);
        }
    }

    /// Closes a connection. A lease that is being acquired for it alone is not wanted any more.
    fn close(&mut self, slot: usize) {
        let Some(connection) = self.connections.remove(slot) else { return };
        let Some(held) = connection.waits_for else { return };
        let Some(keeper) = self.keepers.get_mut(held) else { return };
        keeper.waiting.retain(|(waiting, _)| *waiting != slot);
        if keeper.waiting.is_empty() && keeper.client.lease().is_none() {
            log(&keeper.key, "nobody waits for the lease any more");
            self.release(held);
        }
    }

    // Leases

    /// Lets a lease's client do what is due.
    fn advance(&mut self, slot: usize) {
        let Some(keeper) = self.keepers.get_mut(slot) else { return };
        let done = keeper.turn(&self.poller, slot);
        self.settle(slot, done);
    }

    /// Acts on what a client has come to, or on the reason why it cannot go on.
    fn settle(&mut self, slot: usize, done: Result<Vec<Event>>) {
        match done {
            Ok(events) => events.into_iter().for_each(|event| self.happened(slot, event)),
            Err(gone) => {
                let Some(keeper) = self.keepers.get(slot) else { return };
                log(&keeper.key, &format!("{gone}: the lease is not kept any more"));
                self.drop_keeper(slot, &no_more_tries(gone.to_string()));
            }
        }
    }

    fn happened(&mut self, slot: usize, event: Event) {
        let Some(keeper) = self.keepers.get_mut(slot) else { return };
        let key = keeper.key.clone();
        match event {
            Event::Bound => {
                log(&key, &format!("lease acquired, {}", keeper.describe()));
                self.bound(slot);
            }
            Event::Renewed => {
                log(&key, &format!("lease renewed, {}", keeper.describe()));
                self.save(slot);
            }
            Event::Unconfirmed => {
                log(&key, "nobody confirmed the lease after the restart; it is kept until it expires")
            }
            Event::Refused(message) => log(&key, &format!("the server took the lease back (NAK): {message}")),
            Event::PassedOver(text) => log(&key, &text),
            Event::OtherAddress(other) => {
                log(
                    &key,
                    &format!("a server offers {other}, which is not taken: a container's address does not change"),
                );
            }
            Event::Failed(mut error) => {
                if let Some(obstacle) = keeper.obstacle() {
                    error.details = format!("{}; {obstacle}", error.details);
                }
                log(&key, &error.to_string());
                self.drop_keeper(slot, &error);
            }
            Event::Expired => {
                log(&key, "lease expired, bringing interface DOWN");
                if let Err(error) = keeper.set_down() {
                    log(&key, &error.to_string());
                }
                self.drop_keeper(slot, &Error::internal("the lease has expired"));
            }
        }
    }

    /// Tells those who wait. A lease that none of them can use is given back.
    fn bound(&mut self, slot: usize) {
        self.save(slot);
        let Some(keeper) = self.keepers.get_mut(slot) else { return };
        let mut replies: Vec<(usize, rpc::Reply)> = Vec::new();
        for (waiting, wishes) in std::mem::take(&mut keeper.waiting) {
            replies.push((waiting, keeper.result(wishes)));
        }
        let useless = !replies.is_empty() && replies.iter().all(|(_, reply)| reply.is_err());
        for (waiting, reply) in replies {
            self.reply(waiting, &reply);
        }
        if useless {
            self.release(slot);
        }
    }

    fn save(&mut self, slot: usize) {
        let Some(keeper) = self.keepers.get(slot) else { return };
        if let Err(error) = self.records.save(&keeper.key, keeper.record(clock())) {
            log(&keeper.key, &format!("the lease is not on disk: {error}"));
        }
    }

    /// Gives a lease back.
    fn release(&mut self, slot: usize) {
        let Some(keeper) = self.keepers.get_mut(slot) else { return };
        log(&keeper.key, "releasing lease");
        if let Err(error) = keeper.release() {
            log(&keeper.key, &format!("failed to release DHCP lease: {error}"));
        }
        self.drop_keeper(slot, &Error::internal("the lease was given back meanwhile"));
    }

    /// Forgets a lease. Whoever waits for it gets the reason.
    fn drop_keeper(&mut self, slot: usize, reason: &Error) {
        let Some(keeper) = self.keepers.remove(slot) else { return };
        self.records.remove(&keeper.key);
        for (waiting, _) in &keeper.waiting {
            self.reply(*waiting, &Err(reason.clone()));
        }
    }
}
