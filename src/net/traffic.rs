//! Traffic control as limits on bandwidth need it: a token bucket at the root of a link, and an ingress qdisc whose one
//! filter sends what comes in through another link (an ifb), where it can be limited on its way out.

mod htb;
mod redirect;

use ipnet::IpNet;

use crate::error::{Context, Errno, Error, Result};
use crate::net::links::{message, push_mtu};
use crate::net::{Handle, Link, Mac};
use crate::netlink::message::{ACK, CREATE, ECHO, EXCL, REPLACE};
use crate::netlink::route::{
    IFF_UP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_TXQLEN, RTM_NEWLINK,
};
use crate::netlink::traffic::*;
use crate::netlink::{Attribute, Attributes, Message};

pub use htb::{Hierarchy, Remote};
pub use redirect::Redirect;

/// Length of `struct tcmsg` in bytes.
const TCMSG: usize = 20;
/// Handle of the qdiscs that limit: `1:`.
const OURS: u32 = 0x1_0000;
/// Length of a tick in nanoseconds, since Linux 2.6.31 (`PSCHED_SHIFT`; the first two numbers of /proc/net/psched).
const TICK: u64 = 64;
/// How long a packet may wait for the bucket in microseconds, the reference's `latencyInMillis`.
const LATENCY: u64 = 25_000;
const MICROSECONDS: u64 = 1_000_000;

/// A token bucket (`struct tc_tbf_qopt`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tbf {
    /// In bytes a second.
    pub rate: u64,
    /// Bytes that may wait.
    pub limit: u32,
    /// Its size, as the time in ticks in which it fills.
    pub buffer: u32,
}

/// A limit on what goes out through a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// How much.
    pub bucket: Tbf,
    /// Networks that it depends on; without any it counts for everything.
    pub subnets: Vec<IpNet>,
    /// It counts for remote addresses in these networks only; otherwise for those outside.
    pub only_listed: bool,
    /// Where remote addresses are.
    pub remote: Remote,
}

/// What is at the root of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// Nothing but what the kernel puts there by itself.
    Default,
    /// A bucket with our handle.
    Tbf(Tbf),
    /// A hierarchy with our handle and no classes but ours.
    Htb(Hierarchy),
    /// Somebody else's.
    Foreign,
}

impl Tbf {
    /// `rate` in bytes a second, which is not 0, `burst` in bytes. The reference's numbers, but for those that are too great
    /// for 32 bits.
    pub fn new(rate: u64, burst: u32) -> Tbf {
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let microseconds = narrow(u64::from(burst) * MICROSECONDS / rate.max(1));
        Tbf {
            rate,
            limit: narrow(rate / (MICROSECONDS / LATENCY)).saturating_add(burst),
            // The kernel takes no bucket that fills at once.
            buffer: narrow(u64::from(microseconds) * 1000 / TICK).max(1),
        }
    }

    fn write(&self, options: &mut Message) {
        let [rate, wide] = split_rate(self.rate);
        options.attribute(TCA_TBF_PARMS, &words(&[0, 0, rate, 0, 0, 0, self.limit, self.buffer, 0]));
        push_wide(options, TCA_TBF_RATE64, self.rate, wide);
    }

    fn parse(options: Attributes<'_>) -> Option<Tbf> {
        let numbers = options.find(TCA_TBF_PARMS)?.payload;
        let rate = read_rate(numbers, options.find(TCA_TBF_RATE64));
        Some(Tbf { rate, limit: word(numbers, 24), buffer: word(numbers, 28) })
    }
}

impl Handle {
    /// What is at the root of a link; nothing of a link that is gone.
    pub fn root_qdisc(&mut self, link: u32) -> Result<Root> {
        let found = match self.connection.get(&tcmsg(RTM_GETQDISC, ACK | ECHO, link, 0, TC_H_ROOT, 0), read_root) {
            Err(error) if is_gone(&error) => None,
            found => found.context("failed to look up a qdisc")?,
        };
        match found {
            None => Ok(Root::Default),
            Some(Found::Htb(default)) => Ok(self.htb(link, default)?.map_or(Root::Foreign, Root::Htb)),
            Some(Found::Known(root)) => Ok(root),
        }
    }

    /// Limits what goes out through a link; `EEXIST` if it has a qdisc of somebody's.
    pub fn add_limit(&mut self, link: u32, limit: &Limit) -> Result<()> {
        match limit.subnets.is_empty() {
            true => self.add_tbf(link, &limit.bucket),
            false => self.add_htb(link, &Hierarchy::from(limit)),
        }
    }

    /// The limit of a link that has one of this kind; its networks are as wanted, or that is an error.
    pub fn limit(&mut self, link: u32, wanted: &Limit) -> Result<Option<Tbf>> {
        match (self.root_qdisc(link)?, wanted.subnets.is_empty()) {
            (Root::Tbf(found), true) => Ok(Some(found)),
            (Root::Htb(found), false) if found.is_about(wanted) => Ok(Some(found.bucket)),
            (Root::Htb(_), false) => Err(Error::internal("the filters of subnets differ")),
            _ => Ok(None),
        }
    }

    /// The same for a bucket alone.
    pub fn add_tbf(&mut self, link: u32, tbf: &Tbf) -> Result<()> {
        self.connection.request(tbf_message(link, EXCL, tbf))
    }

    /// Changes the limit of a link that has one.
    pub fn change_tbf(&mut self, link: u32, tbf: &Tbf) -> Result<()> {
        self.connection.request(tbf_message(link, REPLACE, tbf))
    }

    /// Removes the limit of a link; one that is gone already, with its link or without, counts as removed.
    pub fn delete_root(&mut self, link: u32) -> Result<()> {
        self.delete_qdisc(tcmsg(RTM_DELQDISC, 0, link, OURS, TC_H_ROOT, 0))
    }

    /// What `read` makes of the filters below a qdisc, if it and its link are there.
    fn filters<T>(&mut self, link: u32, parent: u32, read: fn(&[u8]) -> Result<Option<T>>) -> Result<Vec<T>> {
        self.list(RTM_GETTFILTER, link, parent, read)
    }

    /// The same for filters or chains.
    fn list<T>(&mut self, kind: u16, link: u32, parent: u32, read: fn(&[u8]) -> Result<Option<T>>) -> Result<Vec<T>> {
        let listed = self.connection.dump(&tcmsg(kind, 0, link, 0, parent, 0), Vec::new, |found, reply| {
            found.extend(read(reply.body)?);
            Ok(())
        });
        match listed {
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            result => result.context("failed to list filters"),
        }
    }

    /// Creates an ifb that is up; `EEXIST` when the name is taken. Like the reference's it has no transmit queue of its own.
    pub fn create_ifb(&mut self, name: &str, mtu: u32, mac: Option<&Mac>) -> Result<Link> {
        self.connection.request(ifb_message(name, mtu, mac))?;
        self.link(name)
    }

    fn delete_qdisc(&mut self, request: Message) -> Result<()> {
        match self.connection.request(request) {
            Err(error) if is_gone(&error) => Ok(()),
            result => result,
        }
    }
}

/// No such link; no qdisc; the kernel's own, or another one.
fn is_gone(error: &Error) -> bool {
    [Errno::ENODEV, Errno::ENOENT, Errno::EINVAL].iter().any(|no| error.is(*no))
}

/// A filter's priority and protocol.
const fn priority(priority: u32, protocol: u16) -> u32 {
    priority << 16 | protocol.to_be() as u32
}

/// A request about a qdisc, class or filter (`struct tcmsg`).
fn tcmsg(kind: u16, flags: u16, link: u32, handle: u32, parent: u32, info: u32) -> Message {
    let mut message = Message::new(kind, flags);
    message.raw(&words(&[0, link, handle, parent, info]));
    message
}

/// Numbers in a row, in host order.
fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// The number at an offset; 0 behind the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// What goes into a 32-bit field, and 1 if the rate needs a wide attribute beside it.
fn split_rate(rate: u64) -> [u32; 2] {
    u32::try_from(rate).map_or([u32::MAX, 1], |rate| [rate, 0])
}

/// The rate in a 32-bit field, or in the wide attribute beside it.
fn read_rate(parameters: &[u8], wide: Option<Attribute<'_>>) -> u64 {
    let wide = wide.and_then(|rate| Some(u64::from_ne_bytes(rate.payload.try_into().ok()?)));
    wide.unwrap_or(u64::from(word(parameters, 8)))
}

fn push_wide(options: &mut Message, kind: u16, rate: u64, needed: u32) {
    if needed != 0 {
        options.attribute(kind, &rate.to_ne_bytes());
    }
}

fn tbf_message(link: u32, flags: u16, tbf: &Tbf) -> Message {
    let mut request = tcmsg(RTM_NEWQDISC, CREATE | flags, link, OURS, TC_H_ROOT, 0);
    request.string(TCA_KIND, "tbf").container(TCA_OPTIONS, |options| tbf.write(options));
    request
}

/// `struct tc_u32_sel` with keys: mask and value in network order, and the offset behind the link layer's header.
fn selector(keys: &[[u32; 3]]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    if let [flags, _, count, ..] = bytes.as_mut_slice() {
        (*flags, *count) = (TC_U32_TERMINAL, keys.len() as u8);
    }
    for [mask, value, offset] in keys {
        bytes.extend(words(&[mask.to_be(), value.to_be(), *offset, 0]));
    }
    bytes
}

fn ifb_message(name: &str, mtu: u32, mac: Option<&Mac>) -> Message {
    let mut request = message(RTM_NEWLINK, CREATE | EXCL, 0, IFF_UP, IFF_UP);
    request.string(IFLA_IFNAME, name);
    push_mtu(&mut request, mtu);
    if let Some(mac) = mac {
        request.attribute(IFLA_ADDRESS, mac.bytes());
    }
    request.u32(IFLA_TXQLEN, 0).container(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, "ifb");
    });
    request
}

/// What one reply tells of a root.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A hierarchy with our handle and this default class; whose it is, its classes tell.
    Htb(u32),
    Known(Root),
}

fn read_root(body: &[u8]) -> Result<Found> {
    let attributes = Attributes::after(body, TCMSG)?;
    let kind = attributes.find(TCA_KIND).map(Attribute::text).unwrap_or_default();
    let options = attributes.find(TCA_OPTIONS).and_then(|options| options.nested().ok());
    Ok(Found::Known(match (word(body, 8), kind.as_str()) {
        (0, _) => Root::Default,
        (OURS, "tbf") => options.and_then(Tbf::parse).map_or(Root::Foreign, Root::Tbf),
        (OURS, "htb") => return Ok(Found::Htb(options.and_then(htb::read_default).unwrap_or(0))),
        _ => Root::Foreign,
    }))
}

/// The error for a link whose qdisc or name somebody else has.
pub fn taken() -> Error {
    Error::from(Errno::EEXIST)
}

#[cfg(test)]
mod tests;
