//! Isolation of bridge ports for `ingressPolicy: isolated`.
//!
//! The rules of the policy only see frames between two ports of one bridge where br_netfilter hands
//! those frames to them. So the container's port is isolated too (`IFLA_BRPORT_ISOLATED`, since
//! Linux 4.18): the bridge passes no frame from one isolated port to another. Frames to and from
//! the host, and ports that are not isolated, pass.
//!
//! A file for each attachment, below [`DIRECTORY`], says which ports ADD has isolated, so that an ADD
//! with another policy, and GC, leave the isolation that `bridge` gives (`portIsolation`). DEL only
//! removes the file: the port goes with its container, which stays isolated until then.

use std::net::IpAddr;

use crate::cni::{CniResult, Request, Undo};
use crate::digest::sha512_hex;
use crate::error::{Context, Errno, Error, Failures, Result};
use crate::firewall::records::Records;
use crate::net::bridge_ports::log_lack_of_isolation;
use crate::net::{Handle, Link, Netns};

/// Where the files are.
const DIRECTORY: &str = "/run/cni-box/isolated-ports";

/// Length of a file's name, in hexadecimal digits.
const NAME_LENGTH: usize = 32;

/// The ports that one ADD has isolated.
#[derive(Debug, Clone)]
struct Record {
    network: String,
    container: String,
    ifname: String,
    ports: Vec<Port>,
}

/// A port. Its name may change, and so may its hardware address; another link may have its index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    index: u32,
    mac: String,
    name: String,
}

/// Isolates the container's ports of the bridge. A refusal of the kernel is left to CHECK: the
/// reference's ADD succeeds.
pub(super) fn add(request: &Request<'_>, previous: &CniResult, bridge: &str, undo: &mut Undo) {
    let ports = find_open_ports(request, previous, bridge).unwrap_or_default();
    if ports.is_empty() {
        return;
    }
    let opened = Record { ports: ports.into_iter().map(Port::of).collect(), ..Record::of(request) };
    let former = Record::find(request);
    let _ = opened.with_ports_of(former.as_ref()).save();
    let _ = opened.set_isolated(true);
    undo.push(move || {
        opened.set_isolated(false)?;
        former.map_or_else(|| opened.remove(), |former| former.save())
    });
}

/// Fails when a port of the container is not isolated. Ports that ADD has not isolated (the
/// reference made the attachment) may be kept apart by the rules alone, where br_netfilter is on.
pub(super) fn check(request: &Request<'_>, previous: &CniResult, bridge: &str, addresses: &[IpAddr]) -> Result<()> {
    let mut host = Handle::current()?;
    let Some(bridge) = find_bridge(&mut host, bridge)? else { return Ok(()) };
    let ports = open_ports(&mut host, &bridge, request, previous)?;
    let Some(port) = ports.first() else { return Ok(()) };
    if Record::find(request).is_none() && rules_see(&mut host, &bridge, addresses)? {
        return Ok(());
    }
    let details = "containers on the bridge may reach one another: Linux before 4.18 cannot isolate ports";
    Err(Error::internal(format!("Interface {} is not isolated", port.name)).with_details(details))
}

/// Forgets what ADD has done. Its ports stay isolated: DEL of this plugin comes first, and that of
/// `bridge` may fail.
pub(super) fn del(request: &Request<'_>) -> Result<()> {
    Record::of(request).remove()
}

/// Takes back what an ADD has done to the ports that are still there.
pub(super) fn end(request: &Request<'_>) -> Result<()> {
    match Record::find(request) {
        Some(record) => record.end(),
        // A torn one goes, too.
        None => Record::of(request).remove(),
    }
}

/// Does the same for all attachments to the network that are not valid.
pub(super) fn gc(request: &Request<'_>, is_valid: &dyn Fn(&str, &str) -> bool) -> Result<()> {
    let records = Records::unlocked(DIRECTORY);
    let mut failures = Failures::default();
    for record in records.names()?.iter().filter_map(|name| Record::parse(&records.read(name)?)) {
        if record.network == request.config.name && !is_valid(&record.container, &record.ifname) {
            failures.note(record.end());
        }
    }
    failures.finish()
}

/// Tells the log if this kernel cannot isolate ports.
pub(super) fn probe() {
    log_lack_of_isolation();
}

fn find_bridge(host: &mut Handle, name: &str) -> Result<Option<Link>> {
    Ok(host.find_link(name)?.filter(|link| link.kind == "bridge"))
}

fn find_open_ports(request: &Request<'_>, previous: &CniResult, bridge: &str) -> Result<Vec<Link>> {
    let mut host = Handle::current()?;
    let bridge = find_bridge(&mut host, bridge)?;
    bridge.map_or(Ok(Vec::new()), |bridge| open_ports(&mut host, &bridge, request, previous))
}

/// The container's ports of the bridge that are not isolated: the host's ends in the result, and
/// the peers of the container's interfaces, for a host's end may have another name by now.
fn open_ports(host: &mut Handle, bridge: &Link, request: &Request<'_>, previous: &CniResult) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    for listed in previous.interfaces.iter().filter(|listed| listed.sandbox.is_empty()) {
        links.extend(host.find_link(&listed.name)?);
    }
    // Where the namespace cannot be entered, the names must do.
    for index in peers(request, previous).unwrap_or_default() {
        links.extend(host.find_link_at(index)?);
    }
    let mut ports: Vec<Link> = Vec::new();
    for link in links.into_iter().filter(|link| link.master == Some(bridge.index)) {
        if !ports.iter().any(|port| port.index == link.index) && !host.is_isolated(link.index)? {
            ports.push(link);
        }
    }
    Ok(ports)
}

/// Indices of the links of the host that are peers of the container's interfaces in the result.
fn peers(request: &Request<'_>, previous: &CniResult) -> Result<Vec<u32>> {
    let mut inside = Handle::inside(&Netns::open(&request.netns)?)?;
    let mut peers = Vec::new();
    for listed in previous.interfaces.iter().filter(|listed| !listed.sandbox.is_empty()) {
        if let Some(link) = inside.find_link(&listed.name)? {
            peers.extend(inside.lower_at_home(&link)?);
        }
    }
    Ok(peers)
}

/// The rules see the frames of all addresses that the bridge passes on.
fn rules_see(host: &mut Handle, bridge: &Link, addresses: &[IpAddr]) -> Result<bool> {
    for address in addresses {
        if !host.rules_see_frames(bridge.index, address.is_ipv4())? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Record {
    fn of(request: &Request<'_>) -> Self {
        Record {
            network: request.config.name.clone(),
            container: request.container_id.clone(),
            ifname: request.ifname.clone(),
            ports: Vec::new(),
        }
    }

    fn find(request: &Request<'_>) -> Option<Self> {
        Record::parse(&Records::unlocked(DIRECTORY).read(&Record::of(request).file_name())?)
    }

    fn file_name(&self) -> String {
        let mut name = sha512_hex(&[&self.network, "\n", &self.container, "\n", &self.ifname]);
        name.truncate(NAME_LENGTH);
        name
    }

    fn save(&self) -> Result<()> {
        let ports: String = self.ports.iter().map(|port| format!("\n{port}")).collect();
        let text = [self.network.as_str(), &self.container, &self.ifname].join("\n") + &ports;
        Records::create(DIRECTORY)?.write(&self.file_name(), &text)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split('\n');
        let mut next = || lines.next().map(str::to_string);
        let (network, container, ifname) = (next()?, next()?, next()?);
        Some(Record { network, container, ifname, ports: lines.filter_map(Port::parse).collect() })
    }

    /// This record with the ports of an earlier one.
    fn with_ports_of(&self, former: Option<&Record>) -> Self {
        let mut record = self.clone();
        let ports = former.into_iter().flat_map(|former| former.ports.iter());
        record.ports.extend(ports.filter(|port| !self.ports.contains(port)).cloned());
        record
    }

    fn end(&self) -> Result<()> {
        self.set_isolated(false).context("failed to end the isolation of ports")?;
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        Records::unlocked(DIRECTORY).remove(&self.file_name())
    }

    /// Sets the flag of the ports that are still there.
    fn set_isolated(&self, on: bool) -> Result<()> {
        let mut host = Handle::current()?;
        for port in &self.ports {
            let link = host.find_link_at(port.index)?.filter(|link| port.is(link));
            if link.is_none() || host.is_isolated(port.index)? == on {
                continue;
            }
            match host.set_isolated(port.index, on) {
                // Gone meanwhile, or no port any more.
                Err(error) if !on && (error.is(Errno::ENODEV) || error.is(Errno::EINVAL)) => {}
                set => set?,
            }
        }
        Ok(())
    }
}

impl Port {
    fn of(link: Link) -> Self {
        Port { index: link.index, mac: link.mac.to_string(), name: link.name }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        let (index, mac) = (words.next()?.parse().ok()?, words.next()?.to_string());
        Some(Port { index, mac, name: words.next()?.to_string() })
    }

    /// True for the link that the record is about.
    fn is(&self, link: &Link) -> bool {
        link.index == self.index && (link.name == self.name || link.mac.to_string() == self.mac)
    }
}

impl std::fmt::Display for Port {
    /// `INDEX MAC NAME`
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {} {}", self.index, self.mac, self.name)
    }
}
