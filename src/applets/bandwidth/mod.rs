//! `bandwidth`: limits what goes to and from a container. Runs behind a plugin that made a veth pair; its result is passed on,
//! with the ifb if there is one.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `ingressRate` | no limit | towards the container, in bits a second |
//! | `egressRate` | no limit | from the container, in bits a second |
//! | `ingressBurst`, `egressBurst` | 20 ms of the rate, at least 15,000 bytes and a packet of the link's MTU | how much may go at once, in bits |
//! | `shapedSubnets` | | only what goes to or comes from these networks is limited |
//! | `unshapedSubnets` | | what goes to or comes from these networks is not limited |
//!
//! They are at the top level, or else in `runtimeConfig.bandwidth`.
//!
//! What goes to the container goes out through the host's end of the pair, whose root is a token bucket. What comes from it
//! cannot be limited where it comes in, so a filter sends it through an ifb first. That is called `bwp` and a hash of the
//! network's name and the container's id; a second interface of one container has the interface's name in the hash, too.

mod attach;
mod conf;
mod ifb;
mod remove;

use crate::cni::result::Interface;
use crate::cni::{CniResult, Plugin, Position, Request, Undo};
use crate::error::{Context, Error, Result, code};
use crate::ipam::attach::open_netns;
use crate::net::traffic::Limit;
use crate::net::{Handle, Link, Netns};

use conf::Conf;

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
ingressRate: 0..
ingressBurst: 0..
egressRate: 0..
egressBurst: 0..
shapedSubnets[]: cidr
unshapedSubnets[]: cidr
runtimeConfig.bandwidth: @limits
@limits.ingressRate: 0..
@limits.ingressBurst: 0..
@limits.egressRate: 0..
@limits.egressBurst: 0..
@limits.shapedSubnets[]: cidr
@limits.unshapedSubnets[]: cidr
";

/// The applet.
pub static BANDWIDTH: Bandwidth = Bandwidth;

/// See the module's description.
#[derive(Debug)]
pub struct Bandwidth;

impl Plugin for Bandwidth {
    fn name(&self) -> &'static str {
        "bandwidth"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn position(&self) -> Position {
        Position::Behind
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        Conf::of(request).map(drop)
    }

    fn versions(&self) -> &'static [&'static str] {
        &["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let mut conf = Conf::of(request)?;
        let previous = request.config.prev_result()?;
        let mut result = previous.ok_or_else(|| Error::internal("must be called as chained plugin"))?;
        let mut host = Handle::current()?;
        if conf.is_empty() && !ifb::any(&mut host, request)? {
            return Ok(result);
        }
        let link = match host_link(&mut host, request, &result) {
            // It is not this interface that has been limited.
            Err(_) if conf.is_empty() => return Ok(result),
            link => link?,
        };
        conf.fit(link.mtu);
        let mut shaper = attach::Shaper { host: &mut host, link: &link, undo };
        if conf.ingress.is_none() || conf.egress.is_none() {
            shaper.forget(request, &conf, |name| place_of(&result, name).is_some())?;
        }
        if let Some(limit) = &conf.ingress {
            shaper.limit(link.index, limit)?;
        }
        if let Some(limit) = &conf.egress {
            let ifb = shaper.limit_egress(request, limit)?;
            let place = place_of(&result, &ifb.name);
            let told = Interface::new(&ifb.name, ifb.mac, "");
            // Addresses say by number whose they are.
            match place.and_then(|place| result.interfaces.get_mut(place)) {
                Some(interface) => *interface = told,
                None => result.interfaces.push(told),
            }
        }
        Ok(result)
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let mut conf = Conf::of(request)?;
        let previous = request.config.prev_result()?;
        let previous = previous.ok_or_else(|| Error::internal("must be called as a chained plugin"))?;
        let mut host = Handle::current()?;
        let link = host_link(&mut host, request, &previous)?;
        conf.fit(link.mtu);
        if let Some(limit) = &conf.ingress {
            verify(&mut host, &link, limit)?;
        }
        let Some(limit) = &conf.egress else { return Ok(()) };
        let ifb = ifb::of(&mut host, request, link.index)?;
        let ifb = ifb.ok_or_else(|| Error::internal("get ifb device: Link not found"))?;
        match ifb.is_up() {
            true => verify(&mut host, &ifb, limit),
            false => Err(Error::internal(format!("ifb device {:?} is down: it drops everything", ifb.name))),
        }
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        remove::del(request)
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        remove::gc(request)
    }

    /// Does what ADD would do with the limits of the configuration, in a namespace of its own that goes away at once. Those of
    /// a container are only known with its ADD.
    fn status(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        probe(&conf).map_err(|error| {
            let msg = format!("bandwidth cannot be limited: {}", error.msg);
            Error::new(code::NOT_AVAILABLE, msg)
        })
    }
}

/// The host's interface of that name among those that the previous plugins have told of.
fn place_of(previous: &CniResult, name: &str) -> Option<usize> {
    previous.interfaces.iter().position(|told| told.sandbox.is_empty() && told.name == name)
}

/// The host's end of the pair, which must be one that the previous plugins have told of.
fn host_link(host: &mut Handle, request: &Request<'_>, previous: &CniResult) -> Result<Link> {
    let container = open_netns(request)?;
    if previous.interfaces.is_empty() {
        return Err(Error::internal("no interfaces provided"));
    }
    let (index, peer) = peer_of(&container, &request.ifname)?;
    let missing = || Error::internal(format!("veth peer with index {peer} is not in host ns"));
    let link = host.find_link_at(peer)?.ok_or_else(missing)?;
    let is_told = place_of(previous, &link.name).is_some();
    // Some other link of the host may have the number that the peer has in its namespace.
    match is_told && link.kind == "veth" && link.lower == Some(index) {
        true => Ok(link),
        false => Err(Error::internal("no veth peer of container interface found in host ns")),
    }
}

/// Indices of the container's interface and of its peer.
fn peer_of(container: &Netns, ifname: &str) -> Result<(u32, u32)> {
    let cause = |cause: &str| Error::internal(format!("container interface {ifname} has no veth peer: {cause}"));
    match Handle::inside(container)?.find_link(ifname)? {
        None => Err(cause(&format!("could not look up {ifname:?}: Link not found"))),
        Some(link) => indices_of(&link).ok_or_else(|| cause(&format!("interface {ifname:?} was not a veth interface"))),
    }
}

/// Indices of a veth and of its peer.
fn indices_of(link: &Link) -> Option<(u32, u32)> {
    link.lower.filter(|_| link.kind == "veth").map(|peer| (link.index, peer))
}

/// The limit of a link is as configured.
fn verify(host: &mut Handle, link: &Link, wanted: &Limit) -> Result<()> {
    let name = &link.name;
    let found = host.limit(link.index, wanted).map_err(|error| error.with_details(format!("{name:?}")))?;
    let found = found.ok_or_else(|| Error::internal(format!("Failed to find qdisc of {name:?}")))?;
    let bucket = &wanted.bucket;
    let numbers = [
        ("Rate", bucket.rate, found.rate),
        ("Limit", bucket.limit.into(), found.limit.into()),
        ("Buffer", bucket.buffer.into(), found.buffer.into()),
    ];
    match numbers.iter().find(|(_, wanted, found)| wanted != found) {
        None => Ok(()),
        Some((what, wanted, found)) => {
            let details = format!("{name:?}: expected {wanted}, found {found}");
            Err(Error::internal(format!("{what} doesn't match")).with_details(details))
        }
    }
}

/// The loopback device of a new namespace stands for the host's end. Where no
/// namespace can be made, nothing speaks against an ADD.
fn probe(conf: &Conf) -> Result<()> {
    const LOOPBACK: u32 = 1;
    if conf.is_empty() {
        return Ok(());
    }
    let Some(netns) = Netns::scratch()? else { return Ok(()) };
    let mut scratch = Handle::inside(&netns)?;
    if let Some(limit) = &conf.ingress {
        scratch.add_limit(LOOPBACK, limit).context("create qdisc")?;
    }
    let Some(limit) = &conf.egress else { return Ok(()) };
    let ifb = scratch.create_ifb("ifb", 0, None).context("adding link")?;
    scratch.add_limit(ifb.index, limit).context("create qdisc")?;
    scratch.add_ingress(LOOPBACK).context("create ingress qdisc")?;
    scratch.add_redirect(LOOPBACK, ifb.index, true).context("add filter").map(drop)
}
