//! Which link is the attachment that ADD has made: a DEL acts on that link, not on whatever has its name at its path by now.
//!
//! The path may lead to another container's namespace (a process id that came again, a fixed name below /run/netns). In the
//! container's own namespace the interface may have been renamed, and another one put in its place. Evidence is, in this
//! order: the record of ADD; the host's end that prevResult names; its hardware address, never alone. A link that the record
//! of another attachment tells of is that one's. Without evidence (an attachment of the Go plugins, a direct call without
//! prevResult) the name decides, as in the reference.

use crate::cni::Request;
use crate::cni::result::Interface;
use crate::error::Result;
use crate::ipam::interface_record::{self, HostEnd, InterfaceRecord};
use crate::ipam::own_card::OwnCard;
use crate::ipam::record::Sandbox;
use crate::net::addresses::Address;
use crate::net::{Handle, Link, Mac, Netns, veth};

/// What is known of an attachment.
#[derive(Debug)]
pub struct Evidence {
    record: Option<InterfaceRecord>,
    /// Name of the record's file, be it there or not.
    file: String,
    /// The host's end of its pair, if it is there.
    host_end: Option<Link>,
    /// The host's ends that are known, whether they are there or not.
    ends: Vec<HostEnd>,
    /// The container's end in prevResult, with a hardware address.
    told: Option<Interface>,
}

/// The attachment's interface in what its path leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Own {
    /// This link.
    Link(Link),
    /// None of the links: it is gone, or somewhere else.
    Missing,
    /// The namespace is another container's.
    Elsewhere,
}

impl Evidence {
    /// What the record and prevResult tell.
    pub fn of(request: &Request<'_>) -> Result<Self> {
        let previous = request.config.prev_result().ok().flatten().unwrap_or_default();
        let told = previous.interfaces.iter().find(|one| !one.sandbox.is_empty() && one.name == request.ifname);
        let told = told.filter(|one| !one.mac.is_empty()).cloned();
        let mut ends = host_ends(&previous.interfaces);
        let record = InterfaceRecord::of(request).filter(|record| agree(record, &ends));
        if let Some(record) = &record {
            ends = record.host_end.iter().cloned().collect();
        }
        let file = interface_record::file_name(&request.config.name, &request.container_id, &request.ifname);
        Ok(Evidence { record, file, host_end: find_host_end(&ends)?, ends, told })
    }

    /// What the record tells, for GC.
    pub fn recorded(network: &str, container: &str, ifname: &str) -> Result<Self> {
        let record = InterfaceRecord::read(network, container, ifname);
        let ends: Vec<HostEnd> = record.iter().filter_map(|record| record.host_end.clone()).collect();
        let file = interface_record::file_name(network, container, ifname);
        Ok(Evidence { record, file, host_end: find_host_end(&ends)?, ends, told: None })
    }

    /// The host's end of the pair.
    pub fn host_end(&self) -> Option<&Link> {
        self.host_end.as_ref()
    }

    /// True if a host's end is known, whether it is there or not.
    pub fn has_host_end(&self) -> bool {
        !self.ends.is_empty()
    }

    /// True if prevResult tells of the container's end.
    pub fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// True if prevResult tells of this hardware address; None if it tells of none.
    pub fn is_told_mac(&self, mac: &Mac) -> Option<bool> {
        self.told.as_ref().map(|told| mac.is_written(&told.mac))
    }

    /// The record of a device of the host that was moved.
    pub fn card(&self) -> Option<OwnCard<'_>> {
        self.record.as_ref().and_then(OwnCard::of)
    }

    /// Finds the interface in the namespace that the path leads to now.
    pub fn find(&self, container: &Netns, inside: &mut Handle, ifname: &str) -> Result<Own> {
        let named = inside.find_link(ifname)?;
        let here = Sandbox::of(container);
        if let Some(record) = self.record.as_ref().filter(|record| !record.sandbox.is_other_than(here)) {
            return Ok(self.find_recorded(record, inside, named)?.map_or(Own::Missing, Own::Link));
        }
        let is_others = || InterfaceRecord::is_recorded(here, ifname, named.as_ref(), &self.file);
        if self.is_elsewhere() || self.host_end.is_none() && is_others() {
            return Ok(Own::Elsewhere);
        }
        Ok(match named {
            Some(link) if self.may_be_told(inside, &link)? => Own::Link(link),
            Some(_) => Own::Elsewhere,
            None => Own::Missing,
        })
    }

    /// The record, which is of an interface in another namespace, is true: the host's end is there, or prevResult tells of the
    /// same interface. Otherwise the Go plugin may have ended that attachment and made another one.
    fn is_elsewhere(&self) -> bool {
        let is_told =
            |record: &InterfaceRecord| Mac::parse(&record.mac).is_ok_and(|mac| self.is_told_mac(&mac) == Some(true));
        self.record.as_ref().is_some_and(|record| self.host_end.is_some() || is_told(record))
    }

    /// Finds the link of the container's namespace that ADD has made. The index counts before the hardware address, which the
    /// container's root can give to another link.
    fn find_recorded(
        &self,
        record: &InterfaceRecord,
        inside: &mut Handle,
        named: Option<Link>,
    ) -> Result<Option<Link>> {
        let index = self.host_end.as_ref().map_or(Some(record.index), |end| end.lower);
        let at_index = match named.filter(|link| Some(link.index) == index) {
            Some(link) => Some(link),
            None => index.map_or(Ok(None), |index| inside.find_link_at(index))?,
        };
        if let Some(end) = &self.host_end {
            return Ok(at_index.filter(|link| is_pair(end, link)));
        }
        if let Some(link) = at_index
            && is_recorded(record, inside, &link)?
        {
            return Ok(Some(link));
        }
        for link in inside.all_links()? {
            if is_recorded(record, inside, &link)? {
                return Ok(Some(link));
            }
        }
        Ok(None)
    }

    /// A link with the right name, of an attachment without a record, or with one of another namespace.
    fn may_be_told(&self, inside: &mut Handle, link: &Link) -> Result<bool> {
        if let Some(end) = &self.host_end {
            return Ok(is_pair(end, link));
        }
        let is_unknown = self.ends.is_empty() && self.record.is_none();
        Ok(is_unknown || self.is_told_mac(&link.mac) != Some(false) || self.has_changed_end(inside, link)?)
    }

    /// True for the pair of a host's end that has got another name or another hardware address since (udev gives both).
    /// A pair within the container may have the indices of another container's pair.
    fn has_changed_end(&self, inside: &mut Handle, link: &Link) -> Result<bool> {
        let lower = if self.ends.is_empty() { None } else { inside.lower_at_home(link)? };
        let Some(lower) = lower else { return Ok(false) };
        let is_known = |link: &Link| self.ends.iter().any(|end| end.name == link.name || link.mac.is_written(&end.mac));
        let end = Handle::current()?.find_link_at(lower)?.filter(|end| end.kind == veth::KIND && is_known(end));
        Ok(end.is_some_and(|end| is_pair(&end, link)))
    }
}

/// True if an attachment without a record may still use its addresses: the link of its name, which DEL has left alone, has one of
/// prevResult. The container may have changed everything else that the link was known by.
pub fn is_left_in_use(request: &Request<'_>) -> Result<bool> {
    let is_recorded = InterfaceRecord::of(request).is_some();
    let Some(container) = Netns::open_if_left(&request.netns)?.filter(|_| !is_recorded) else { return Ok(false) };
    let mut inside = Handle::inside(&container)?;
    let Some(link) = inside.find_link(&request.ifname)? else { return Ok(false) };
    let previous = request.config.prev_result().ok().flatten().unwrap_or_default();
    let is_told = |found: &Address| previous.ips.iter().any(|ip| ip.address.addr() == found.net.addr());
    Ok(inside.addresses(link.index)?.iter().any(is_told))
}

/// True for a link that may be the recorded one, in the namespace of the record.
fn is_recorded(record: &InterfaceRecord, inside: &mut Handle, link: &Link) -> Result<bool> {
    match OwnCard::of(record) {
        Some(card) => card.is(inside, link, true),
        None => Ok(link.kind == record.kind && (link.index == record.index || link.mac.to_string() == record.mac)),
    }
}

/// False for a record and a prevResult of different attachments.
fn agree(record: &InterfaceRecord, told: &[HostEnd]) -> bool {
    let end = record.host_end.as_ref();
    told.is_empty() || end.is_none_or(|end| told.iter().any(|told| told.name == end.name))
}

/// The host's ends in a result. Other links of the host are the bridge, or a VLAN's gateway, both of whose ends are on the host.
fn host_ends(interfaces: &[Interface]) -> Vec<HostEnd> {
    let host = interfaces.iter().filter(|interface| interface.sandbox.is_empty() && !interface.mac.is_empty());
    let end = |interface: &Interface| HostEnd { name: interface.name.clone(), mac: interface.mac.clone() };
    host.map(end).filter(|end| end.name.starts_with("veth")).collect()
}

/// A veth with the name and hardware address that it had, whose other end is in another namespace.
fn find_host_end(ends: &[HostEnd]) -> Result<Option<Link>> {
    if ends.is_empty() {
        return Ok(None);
    }
    let mut host = Handle::current()?;
    for HostEnd { name, mac } in ends {
        let found = host.find_link(name)?;
        let is_end = |link: &Link| link.kind == veth::KIND && link.lower_is_elsewhere && link.mac.is_written(mac);
        if let Some(link) = found.filter(is_end) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Both are ends of one pair. The host's end says so: the container's root cannot change what it says.
fn is_pair(host_end: &Link, link: &Link) -> bool {
    link.kind == veth::KIND && host_end.lower == Some(link.index) && link.lower == Some(host_end.index)
}
