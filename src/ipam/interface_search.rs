//! Whether the interface of an attachment is there still, wherever it is by now. A namespace that is gone proves nothing: its
//! interface may have been moved on before, and works there with its address.
//!
//! The host's end of a veth pair goes when the container's end does, so a look at the host settles it. Other kinds have no
//! such end: their interface is looked for in all namespaces that are in use, by its hardware address. An IP address alone
//! would say too little: networks in a container that is a host itself (a node of a test cluster, a builder) use the same ones.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::cni::attachment::Attachment;
use crate::cni::cache::{self, Cache};
use crate::cni::result::{CniResult, Interface};
use crate::error::Result;
use crate::ipam::interface_record::{HostEnd, InterfaceRecord};
use crate::ipam::record::Sandbox;
use crate::net::{Handle, Link, Netns, veth};
use crate::sys::namespaces::{self, Census, Presence};

/// What an interface would be known by.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    host_ends: Vec<HostEnd>,
    ifname: String,
    /// Hardware address; empty: only the name is known. `None`: nothing is known of the interface.
    mac: Option<String>,
    /// As in the record; `None` when there is no record.
    kind: Option<String>,
    /// It is a device of the host that was moved.
    is_card: bool,
    addresses: Vec<IpAddr>,
    /// Hardware address of the end on this host. That end is all that has to be looked for.
    end_on_host: Option<String>,
}

/// A link of some namespace.
#[derive(Debug)]
struct Candidate {
    link: Link,
    /// In the namespace of this process.
    on_host: bool,
    /// Of kinds that share the hardware address of the device they lie on.
    addresses: Vec<IpAddr>,
}

/// Why an attachment may live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// This link is the host's end of its veth pair.
    HostEnd(String),
    /// A namespace has the interface, or one just like it.
    Interface,
    /// Not all namespaces could be looked at.
    Hidden,
}

impl Traces {
    /// What the record of ADD tells of the attachment that was given `address` in this namespace, and the host's ends of which
    /// the result cache tells.
    pub(super) fn of(network: &str, (container, ifname): (&str, &str), sandbox: Sandbox, address: IpAddr) -> Self {
        let mut traces = Traces { ifname: ifname.to_string(), addresses: vec![address], ..Traces::default() };
        let attachment =
            Attachment { container_id: container.to_string(), ifname: ifname.to_string(), ..Attachment::default() };
        if let Ok(Some(cached)) = Cache::new(cache::DIRECTORY).read(network, &attachment)
            && cached.result.ips.iter().any(|ip| ip.address.addr() == address)
        {
            traces.add_host_ends(&cached.result);
        }
        let record = InterfaceRecord::read(network, container, ifname);
        if let Some(record) = record.filter(|record| record.sandbox == sandbox) {
            traces.add_record(record);
        }
        traces
    }

    /// What the record of ADD tells.
    pub fn of_record(ifname: &str, record: InterfaceRecord) -> Self {
        let mut traces = Traces { ifname: ifname.to_string(), ..Traces::default() };
        traces.add_record(record);
        traces
    }

    /// What the result of an attachment's ADD tells of it.
    pub fn of_result(ifname: &str, result: &CniResult) -> Self {
        let addresses = result.ips.iter().map(|ip| ip.address.addr()).collect();
        let own = result.interfaces.iter().find(|one| !one.sandbox.is_empty() && one.name == ifname);
        let mac = Some(own.map_or(String::new(), |own| own.mac.clone()));
        let mut traces = Traces { ifname: ifname.to_string(), mac, addresses, ..Traces::default() };
        traces.add_host_ends(result);
        traces
    }

    /// Adds the record of an ADD if the interface in the result is the one it made.
    #[must_use]
    pub fn with_record_of_same_mac(mut self, record: Option<InterfaceRecord>) -> Self {
        if let Some(record) = record.filter(|record| self.mac.as_ref() == Some(&record.mac)) {
            self.add_record(record);
        }
        self
    }

    fn add_host_ends(&mut self, result: &CniResult) {
        let host = result.interfaces.iter().filter(|interface| interface.sandbox.is_empty());
        let end = |interface: &Interface| HostEnd { name: interface.name.clone(), mac: interface.mac.clone() };
        self.host_ends.extend(host.map(end));
    }

    fn add_record(&mut self, record: InterfaceRecord) {
        let end = record.host_end.as_ref().filter(|_| record.host == Sandbox::of_this_process());
        self.end_on_host = end.map(|end| end.mac.clone());
        self.host_ends.extend(record.host_end);
        self.is_card = record.card.is_some() || record.kind.is_empty();
        self.mac = Some(record.mac);
        self.kind = Some(record.kind);
    }

    /// True for a link that is the attachment's interface, or may be.
    fn fit(&self, Candidate { link, on_host, addresses }: &Candidate) -> bool {
        let Some(mac) = &self.mac else { return false };
        let same_name = link.name == self.ifname;
        let same_mac = link.mac.is_written(mac);
        let same_address = || self.addresses.iter().any(|address| addresses.contains(address));
        match self.kind.as_deref() {
            None => same_name && (same_mac || mac.is_empty()),
            // The kernel gives a device back to the host when the namespace goes that it was moved to.
            Some(kind) if self.is_card => same_mac && link.kind == kind && !on_host,
            Some(kind) if shares_mac(kind) => same_mac && link.kind == kind && (same_name || same_address()),
            Some(kind) => same_mac && link.kind == kind,
        }
    }
}

/// True for kinds whose links have the hardware address of the device they lie on.
fn shares_mac(kind: &str) -> bool {
    ["ipvlan", "vlan"].contains(&kind)
}

/// A search through the namespaces of this host, which remembers what it has seen.
#[derive(Debug)]
pub struct Search {
    began: Instant,
    census: Census,
    /// The veths of the host.
    host: Option<Vec<Link>>,
    seen: Option<Seen>,
}

/// What is in the namespaces that are in use.
#[derive(Debug, Default)]
struct Seen {
    links: Vec<Candidate>,
    incomplete: bool,
}

impl Default for Search {
    fn default() -> Self {
        Search { began: Instant::now(), census: Census::default(), host: None, seen: None }
    }
}

impl Search {
    /// Begins anew if what was seen is older than `limit`.
    pub fn renew_after(&mut self, limit: Duration) {
        if self.began.elapsed() > limit {
            *self = Search::default();
        }
    }

    /// See [`Census::presence_at`].
    pub fn presence_at(&mut self, path: &str) -> Presence {
        self.census.presence_at(path)
    }

    /// A sign that the attachment's interface is there; `None` when it is gone for certain, or nothing is known of it.
    pub fn anywhere(&mut self, traces: &Traces) -> Option<Sign> {
        let found = host_end(traces);
        if found.is_some() || traces.mac.is_none() {
            return found;
        }
        if let Some(mac) = &traces.end_on_host {
            return self.renamed_host_end(mac);
        }
        let seen = self.seen.get_or_insert_with(|| Seen::of(&mut self.census));
        match seen.links.iter().any(|candidate| traces.fit(candidate)) {
            true => Some(Sign::Interface),
            false => seen.incomplete.then_some(Sign::Hidden),
        }
    }

    /// The host's end under another name than it was given.
    fn renamed_host_end(&mut self, mac: &str) -> Option<Sign> {
        if self.host.is_none() {
            let links = Handle::current().and_then(|mut host| host.all_links()).ok();
            self.host = links.map(|links| links.into_iter().filter(|link| link.kind == veth::KIND).collect());
        }
        let Some(veths) = &self.host else { return Some(Sign::Hidden) };
        let end = veths.iter().find(|link| link.mac.is_written(mac));
        end.map(|link| Sign::HostEnd(link.name.clone()))
    }
}

/// The host's end of the attachment's veth pair, if it is there.
pub fn host_end(traces: &Traces) -> Option<Sign> {
    let mut host = None;
    for HostEnd { name, mac } in &traces.host_ends {
        let Ok(host) = host.get_or_insert_with(Handle::current) else { return Some(Sign::Hidden) };
        let Ok(found) = host.find_link(name) else { return Some(Sign::Hidden) };
        // Other kinds are the bridge, or whatever else the plugins may have told of.
        let end = found.filter(|link| link.kind == veth::KIND);
        if end.is_some_and(|link| mac.is_empty() || link.mac.is_written(mac)) {
            return Some(Sign::HostEnd(name.clone()));
        }
    }
    None
}

impl Seen {
    fn of(census: &mut Census) -> Self {
        let (places, complete) = census.places();
        let mut seen = Seen { incomplete: !complete, ..Seen::default() };
        let home = Netns::home().and_then(Netns::identity).ok();
        for place in places {
            match namespaces::open_place(&place) {
                Ok(Some(netns)) => {
                    let on_host = netns.identity().ok() == home;
                    seen.incomplete |= seen.add(&netns, on_host).is_err();
                }
                Ok(None) => {}
                Err(_) => seen.incomplete = true,
            }
        }
        seen
    }

    fn add(&mut self, netns: &Netns, on_host: bool) -> Result<()> {
        let mut handle = Handle::inside(netns)?;
        for link in handle.all_links()? {
            let addresses = if shares_mac(&link.kind) { handle.addresses(link.index)? } else { Vec::new() };
            let addresses = addresses.iter().map(|address| address.net.addr()).collect();
            self.links.push(Candidate { link, on_host, addresses });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Mac;

    fn link(kind: &str, name: &str, mac: u8) -> Link {
        let (kind, name) = (kind.to_string(), name.to_string());
        Link { kind, name, mac: Mac::from_bytes(&[2, 0, 0, 0, 0, mac]), ..Link::default() }
    }

    fn traces(kind: Option<&str>, mac: &str) -> Traces {
        let address = IpAddr::from([10, 0, 0, 2]);
        let (ifname, mac, kind) = ("eth0".to_string(), Some(mac.to_string()), kind.map(str::to_string));
        let is_card = kind.as_deref() == Some("");
        Traces { ifname, mac, kind, is_card, addresses: vec![address], ..Traces::default() }
    }

    /// Kind in the record, and what fits: on the host or not, with an address or none.
    #[test]
    fn an_interface_is_known_by_what_no_other_interface_has() {
        let (mine, other) = (vec![IpAddr::from([10, 0, 0, 2])], vec![IpAddr::from([10, 0, 0, 3])]);
        let cases = [
            (Some("veth"), link("veth", "net7", 1), false, vec![], true),
            (Some("veth"), link("veth", "eth0", 2), false, vec![], false),
            (Some("veth"), link("macvlan", "eth0", 1), false, vec![], false),
            (Some("macvlan"), link("macvlan", "x", 1), true, vec![], true),
            (Some("ipvlan"), link("ipvlan", "eth0", 1), false, vec![], true),
            (Some("ipvlan"), link("ipvlan", "x", 1), false, mine.clone(), true),
            (Some("ipvlan"), link("ipvlan", "x", 1), false, other, false),
            (Some("vlan"), link("vlan", "eth0", 2), false, mine, false),
            (Some(""), link("", "x", 1), false, vec![], true),
            (Some(""), link("", "eth0", 1), true, vec![], false),
            (None, link("veth", "eth0", 1), false, vec![], true),
            (None, link("veth", "x", 1), false, vec![], false),
        ];
        for (kind, link, on_host, addresses, fits) in cases {
            let candidate = Candidate { link, on_host, addresses };
            assert_eq!(traces(kind, "02:00:00:00:00:01").fit(&candidate), fits, "{kind:?} {candidate:?}");
        }
    }

    #[test]
    fn without_a_hardware_address_only_the_name_tells() {
        let candidate = |name| Candidate { link: link("veth", name, 1), on_host: false, addresses: Vec::new() };
        assert!(traces(None, "").fit(&candidate("eth0")) && !traces(None, "").fit(&candidate("eth1")));
        assert!(!traces(Some("veth"), "").fit(&candidate("eth0")));
        assert!(!Traces { mac: None, ..traces(None, "") }.fit(&candidate("eth0")), "nothing is known");
    }
}
