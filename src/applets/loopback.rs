//! `loopback`: sets the container's `lo` up. No keys of its own; CNI_IFNAME is ignored.

use crate::cni::result::{Interface, IpConfig};
use crate::cni::{CniResult, Object, Plugin, Position, Request, Undo};
use crate::error::{Context, Error, Result};
use crate::net::{Handle, Netns};

/// The only interface this is about.
const NAME: &str = "lo";

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "";

/// The applet.
pub static LOOPBACK: Loopback = Loopback;

/// See the module's description.
#[derive(Debug)]
pub struct Loopback;

impl Plugin for Loopback {
    fn name(&self) -> &'static str {
        "loopback"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn position(&self) -> Position {
        Position::Anywhere
    }

    /// False: the kernel makes `lo`.
    fn makes_interface(&self, _config: &Object<'_>) -> bool {
        false
    }

    fn validate(&self, _request: &Request<'_>) -> Result<()> {
        Ok(())
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let previous = request.config.prev_result().context("failed to parse prevResult")?;
        let netns = Netns::open(&request.netns)?;
        let mut inside = Handle::inside(&netns)?;
        let link = inside.link(NAME)?;
        if !link.is_up() {
            inside.set_up(link.index, true).context("failed to set lo up")?;
            let netns = netns.clone();
            undo.push(move || set_up(&netns, false));
        }
        let addresses: Vec<_> = inside.addresses(link.index)?.iter().map(|address| address.net).collect();
        if let Some(other) = addresses.iter().find(|net| !net.addr().is_loopback()) {
            return Err(Error::internal(format!(
                "loopback interface found with non-loopback address {:?}",
                other.to_string()
            )));
        }
        let first = |v4: bool| addresses.iter().find(|net| net.addr().is_ipv4() == v4);
        let ips = [first(true), first(false)].into_iter().flatten();
        let ips = ips.map(|address| IpConfig { interface: Some(0), address: *address, gateway: None }).collect();
        Ok(previous.unwrap_or_else(|| CniResult {
            interfaces: vec![Interface::new(NAME, "00:00:00:00:00:00", &request.netns)],
            ips,
            ..CniResult::default()
        }))
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let netns = Netns::open(&request.netns)?;
        match Handle::inside(&netns)?.link(NAME)?.is_up() {
            true => Ok(()),
            false => Err(Error::internal("loopback interface is down")),
        }
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        Netns::open_if_left(&request.netns)?.map_or(Ok(()), |netns| set_up(&netns, false))
    }
}

fn set_up(netns: &Netns, up: bool) -> Result<()> {
    let mut inside = Handle::inside(netns)?;
    let link = inside.link(NAME)?;
    inside.set_up(link.index, up).with_context(|| format!("failed to set lo {}", if up { "up" } else { "down" }))
}
