//! Isolation of bridge ports for `ingressPolicy: isolated`.
//!
//! The rules of the policy only see frames between two ports of one bridge where br_netfilter hands
//! those frames to them. So the container's port is isolated too (`IFLA_BRPORT_ISOLATED`, since
//! Linux 4.18): the bridge passes no frame from one isolated port to another. Frames to and from
//! the host, and ports that are not isolated, pass.
//!
//! A file for each attachment, below [`DIRECTORY`], says which ports ADD has isolated, so that DEL
//! leaves the isolation that `bridge` gives (`portIsolation`).

use std::net::IpAddr;

use crate::cni::{CniResult, Request, Undo};
use crate::digest::sha512_hex;
use crate::error::{Context, Errno, Error, Failures, Result};
use crate::firewall::records::Records;
use crate::net::bridge_ports::log_lack_of_isolation;
use crate::net::{Handle, Link};

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
    /// Index and name of each.
    ports: Vec<(u32, String)>,
}

/// Isolates the container's ports of the bridge. A refusal of the kernel is left to CHECK: the
/// reference's ADD succeeds.
pub(super) fn add(request: &Request<'_>, previous: &CniResult, bridge: &str, undo: &mut Undo) {
    let ports = find_open_ports(previous, bridge).unwrap_or_default();
    if ports.is_empty() {
        return;
    }
    let record =
        Record { ports: ports.into_iter().map(|port| (port.index, port.name)).collect(), ..Record::of(request) };
    let _ = record.save();
    let _ = record.set_isolated(true);
    undo.push(move || record.end());
}

/// Fails when a port of the container is not isolated. Ports that ADD has not isolated (the
/// reference made the attachment) may be kept apart by the rules alone, where br_netfilter is on.
pub(super) fn check(request: &Request<'_>, previous: &CniResult, bridge: &str, addresses: &[IpAddr]) -> Result<()> {
    let mut host = Handle::current()?;
    let Some(bridge) = find_bridge(&mut host, bridge)? else { return Ok(()) };
    let ports = open_ports(&mut host, &bridge, previous)?;
    let Some(port) = ports.first() else { return Ok(()) };
    if Record::find(request).is_none() && rules_see(&mut host, &bridge, addresses)? {
        return Ok(());
    }
    let details = "containers on the bridge may reach one another: Linux before 4.18 cannot isolate ports";
    Err(Error::internal(format!("Interface {} is not isolated", port.name)).with_details(details))
}

/// Takes back what ADD has done to the ports that are still there.
pub(super) fn del(request: &Request<'_>) -> Result<()> {
    match Record::find(request) {
        Some(record) => record.end(),
        // A torn one goes, too.
        None => Records::unlocked(DIRECTORY).remove(&Record::of(request).file_name()),
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

fn find_open_ports(previous: &CniResult, bridge: &str) -> Result<Vec<Link>> {
    let mut host = Handle::current()?;
    let bridge = find_bridge(&mut host, bridge)?;
    bridge.map_or(Ok(Vec::new()), |bridge| open_ports(&mut host, &bridge, previous))
}

/// The host's ends in the result that are ports of the bridge and not isolated.
fn open_ports(host: &mut Handle, bridge: &Link, previous: &CniResult) -> Result<Vec<Link>> {
    let mut ports = Vec::new();
    for listed in previous.interfaces.iter().filter(|listed| listed.sandbox.is_empty()) {
        let link = host.find_link(&listed.name)?.filter(|link| link.master == Some(bridge.index));
        if let Some(link) = link
            && !host.is_isolated(link.index)?
        {
            ports.push(link);
        }
    }
    Ok(ports)
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
        let ports: String = self.ports.iter().map(|(index, name)| format!("\n{index} {name}")).collect();
        let text = [self.network.as_str(), &self.container, &self.ifname].join("\n") + &ports;
        Records::create(DIRECTORY)?.write(&self.file_name(), &text)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split('\n');
        let mut next = || lines.next().map(str::to_string);
        let (network, container, ifname) = (next()?, next()?, next()?);
        let port =
            |line: &str| line.split_once(' ').and_then(|(index, name)| Some((index.parse().ok()?, name.to_string())));
        Some(Record { network, container, ifname, ports: lines.filter_map(port).collect() })
    }

    fn end(&self) -> Result<()> {
        self.set_isolated(false).context("failed to end the isolation of ports")?;
        Records::unlocked(DIRECTORY).remove(&self.file_name())
    }

    /// Sets the flag of the ports that are still there.
    fn set_isolated(&self, on: bool) -> Result<()> {
        let mut host = Handle::current()?;
        for (index, name) in &self.ports {
            let link = host.find_link_at(*index)?.filter(|link| link.name == *name);
            if link.is_none() || host.is_isolated(*index)? == on {
                continue;
            }
            match host.set_isolated(*index, on) {
                // Gone meanwhile, or no port any more.
                Err(error) if !on && (error.is(Errno::ENODEV) || error.is(Errno::EINVAL)) => {}
                set => set?,
            }
        }
        Ok(())
    }
}
