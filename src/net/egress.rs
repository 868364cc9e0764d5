//! Whether the frames that a container's link sends get any further, as far as the kernel tells: the link's carrier, and
//! the state of the bridge port that is its veth peer.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};

use crate::error::{Context, Result};
use crate::net::bridge_ports::PortState;
use crate::net::links::State;
use crate::net::{Handle, Link, Netns};
use crate::netlink::route::{NETNSA_FD, NETNSA_NSID, RTM_GETNSID};
use crate::netlink::{Attributes, Message};

/// Length of `struct rtgenmsg`, padded.
const RTGENMSG: usize = 4;
/// The id of a namespace that has none (`NETNSA_NSID_NOT_ASSIGNED`).
const NO_ID: u32 = u32::MAX;

/// An obstacle that keeps frames from passing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The link is not operationally up.
    Link(State),
    /// The link's veth peer is a bridge port that does not forward.
    Port(PortState),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Link(state) => write!(out, "the link's operational state is {}", state.name()),
            Obstacle::Port(state) => {
                write!(out, "the bridge port of the link does not forward: it is {}", state.name())
            }
        }
    }
}

/// The way out of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Egress {
    /// The first obstacle; `None` when none is known.
    pub obstacle: Option<Obstacle>,
    /// Index of the link's veth peer, if that is in the namespace of this process.
    pub peer: Option<u32>,
}

impl Egress {
    /// Looks at the way out of a link, which `inside` has just described. It changes with the link, or with the peer in the
    /// namespace of this process.
    pub fn of(inside: &mut Handle, link: &Link) -> Result<Egress> {
        let peer = peer_at_home(inside, link)?;
        if !is_up(link) {
            return Ok(Egress { obstacle: Some(Obstacle::Link(link.state)), peer });
        }
        let Some(index) = peer else { return Ok(Egress::default()) };
        let state = Handle::inside(Netns::home()?)?.port_state(index)?;
        let blocked = state.filter(|state| *state != PortState::FORWARDING);
        Ok(Egress { obstacle: blocked.map(Obstacle::Port), peer })
    }
}

/// Some drivers never say that a link is operationally up (state 0).
fn is_up(link: &Link) -> bool {
    link.is_up() && (link.state == State::UP || (link.state == State::default() && link.has_carrier()))
}

fn peer_at_home(inside: &mut Handle, link: &Link) -> Result<Option<u32>> {
    if link.kind == "veth" { inside.lower_at_home(link) } else { Ok(None) }
}

impl Handle {
    /// Index of the peer or lower device of a link of this namespace, if that is in the namespace of this process, and this
    /// namespace is another one.
    pub fn lower_at_home(&mut self, link: &Link) -> Result<Option<u32>> {
        if link.lower_netns.is_none() {
            return Ok(None);
        }
        let home = self.id_of(Netns::home()?)?;
        Ok(link.lower.filter(|_| home == link.lower_netns))
    }

    /// The id by which this namespace calls another (`ip netns list-id`); `None` when it has none for it.
    fn id_of(&mut self, netns: &Netns) -> Result<Option<u32>> {
        let mut request = Message::new(RTM_GETNSID, 0);
        request.raw(&[0; RTGENMSG]).u32(NETNSA_FD, netns.as_fd().as_raw_fd() as u32);
        let id = |body: &[u8]| Ok(Attributes::after(body, RTGENMSG)?.find(NETNSA_NSID).and_then(|id| id.u32()));
        let found = self.connection.get(&request, id).context("failed to look up the id of a network namespace")?;
        Ok(found.flatten().filter(|id| *id != NO_ID))
    }
}
