//! What plugins that give a container one interface (macvlan, ipvlan, vlan, dummy and the like) have in common, once the
//! interface is there: addresses from IPAM put on it, verifying that it is still so, and taking it away.

use crate::cni::args::Args;
use crate::cni::delegate::Delegate;
use crate::cni::names::own_name;
use crate::cni::result::Interface;
use crate::cni::{CniResult, Request, Undo};
use crate::error::{Context, Error, Failures, Result};
use crate::ipam::apply::{self, Target};
use crate::ipam::interface_record::{self, InterfaceRecord};
use crate::ipam::interface_search::{Search, Sign, Traces};
use crate::ipam::own_card::OwnCard;
use crate::ipam::own_link::{self, Evidence, Own};
use crate::ipam::plan;
use crate::ipam::verify;
use crate::net::devices::{self, Device, Wanted};
use crate::net::{Handle, Link, Mac, Netns};

/// Opens the container's namespace.
pub fn open_netns(request: &Request<'_>) -> Result<Netns> {
    Netns::open(&request.netns).with_context(|| format!("failed to open netns {:?}", request.netns))
}

/// The IPAM plugin of the configuration; `None` for a network without addresses.
pub fn find_ipam(request: &Request<'_>) -> Result<Option<Delegate>> {
    match request.config.ipam_type().context("failed to load netconf")? {
        "" => Ok(None),
        kind => Delegate::find_ipam(kind, request).map(Some),
    }
}

/// Passes the call on to the IPAM plugin, if there is one.
pub fn call_ipam(request: &Request<'_>) -> Result<()> {
    find_ipam(request)?.map_or(Ok(()), |ipam| ipam.call(request))
}

/// The IPAM plugin of a plugin that cannot do without.
pub fn required_ipam(request: &Request<'_>) -> Result<Delegate> {
    find_ipam(request)?.ok_or_else(no_ipam)
}

/// The same, when nothing but the configuration is looked at.
pub fn require_ipam_type(request: &Request<'_>) -> Result<()> {
    match request.config.ipam_type().context("failed to load netconf")? {
        "" => Err(no_ipam()),
        _ => Ok(()),
    }
}

fn no_ipam() -> Error {
    Error::internal("no plugin name provided")
}

/// The hardware address that macvlan and tap are asked for: `runtimeConfig.mac` before CNI_ARGS `MAC` before `mac`.
pub fn wanted_mac(request: &Request<'_>) -> Result<Option<Mac>> {
    let args = Args::parse(&request.args, &["MAC"])?;
    let top = request.config.top();
    let decode = || Ok::<_, Error>((top.string("mac")?, request.config.runtime()?));
    let (own, runtime) = decode().context("failed to load netconf")?;
    let runtime = runtime.map_or(Ok(""), |runtime| runtime.string("mac")).context("failed to load netconf")?;
    let wishes = [runtime, args.get("MAC").unwrap_or(""), own];
    match wishes.into_iter().find(|wish| !wish.is_empty()) {
        None => Ok(None),
        Some(wish) => Mac::parse(wish).map(Some).with_context(|| format!("invalid args {wish} for MAC addr")),
    }
}

/// Creates a device for the container, and writes to `undo` how to take it back.
pub fn create(handle: &mut Handle, wanted: &Wanted<'_>, undo: &mut Undo) -> Result<Device> {
    let container = wanted.container.clone();
    let device = devices::create(handle, wanted)?;
    let index = device.index;
    undo.push(move || Handle::inside(&container)?.delete_link(index).context("failed to delete the device"));
    Ok(device)
}

/// Asks IPAM for addresses; none at all is an error.
pub fn addresses(ipam: &Delegate, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
    let result = ipam.add(request, undo)?;
    match result.ips.is_empty() {
        true => Err(plan::no_addresses()),
        false => Ok(result),
    }
}

/// Puts the result's addresses and routes on the interface, which becomes the result's only one,
/// and sets it up. `accept_ra` as in [`Target`].
pub fn configure(
    request: &Request<'_>,
    netns: &Netns,
    device: &Device,
    mut result: CniResult,
    accept_ra: bool,
    undo: &mut Undo,
) -> Result<CniResult> {
    let Device { kind, index, name, mac } = device;
    InterfaceRecord::new(request, netns, kind, *index, mac).write(undo);
    let mut handle = Handle::inside(netns)?;
    result.interfaces = vec![Interface::new(name, mac, &request.netns)];
    if result.ips.is_empty() {
        handle.set_up(*index, true).with_context(|| format!("failed to set {name:?} UP"))?;
        return Ok(result);
    }
    result.ips.iter_mut().for_each(|ip| ip.interface = Some(0));
    let mut target = Target { netns, handle: &mut handle, index: *index, name, accept_ra };
    // As in the reference, also for addresses that are not the result's.
    apply::configure(&mut target, &result, &|| apply::announce_v6(name))?;
    Ok(result)
}

/// CHECK begins: lets IPAM check, and gives the container's namespace and what ADD has reported.
pub fn previous(request: &Request<'_>) -> Result<(Netns, CniResult)> {
    let container = open_netns(request)?;
    call_ipam(request)?;
    let previous = request.config.prev_result()?.ok_or_else(|| Error::internal("Required prevResult missing"))?;
    Ok((container, previous))
}

/// An attachment that CHECK looks at.
#[derive(Debug)]
pub struct Attached {
    /// The container's namespace.
    pub container: Netns,
    /// The interface as it is.
    pub link: Link,
    inside: Handle,
    previous: CniResult,
}

impl Attached {
    /// Lets IPAM check, and finds the interface that prevResult names: of this kind (any if empty), with the hardware
    /// address it had.
    pub fn find(request: &Request<'_>, kind: &str) -> Result<Attached> {
        let (container, previous) = previous(request)?;
        let mut inside = Handle::inside(&container)?;
        let listed = verify::container_interface(&previous, &request.ifname, &request.netns)?;
        let name = &listed.name;
        let missing = || Error::internal(format!("Container Interface name in prevResult: {name} not found"));
        let link = inside.find_link(name)?.ok_or_else(missing)?;
        if !kind.is_empty() && link.kind != kind {
            return Err(Error::internal(format!("Error: Container interface {name} not of type {kind}")));
        }
        if !listed.mac.is_empty() && listed.mac != link.mac.to_string() {
            let (wanted, found) = (&listed.mac, &link.mac);
            return Err(Error::internal(format!("Interface {name} Mac {wanted} doesn't match container Mac: {found}")));
        }
        Ok(Attached { container, link, inside, previous })
    }

    /// The interface still has its addresses, and the routes are there.
    pub fn verify_addresses(&mut self) -> Result<()> {
        verify::applied(&mut self.inside, &self.link.name, &self.previous)
    }
}

/// A DHCP lease is given back over the interface, so before that goes. `Some(false)` when the addresses are of another
/// kind, which only are given back when the interface has gone: somebody else would get them meanwhile.
pub fn release_lease(request: &Request<'_>, failures: &mut Failures) -> Option<bool> {
    match request.config.ipam_type().map(own_name) {
        Ok("dhcp") => failures.note(call_ipam(request)).map(|()| true),
        _ => Some(false),
    }
}

/// DEL: takes the interface out of what is left of the namespace, then IPAM gets the addresses back. An interface that is still
/// there, in whatever namespace, keeps them.
pub fn remove(request: &Request<'_>) -> Result<()> {
    let mut failures = Failures::default();
    let released = release_lease(request, &mut failures);
    let removed =
        remove_link(request).with_context(|| format!("failed to remove {:?} from {:?}", request.ifname, request.netns));
    let is_over = removed.and_then(|was_there| Ok(was_there || !is_still_used(request)?));
    if failures.note(is_over) == Some(true) {
        end(request, released, &mut failures);
    }
    failures.finish()
}

/// False when the interface is not in the container's namespace.
fn remove_link(request: &Request<'_>) -> Result<bool> {
    let Some(container) = Netns::open_if_left(&request.netns)? else { return Ok(false) };
    let mut inside = Handle::inside(&container)?;
    let own = Evidence::of(request)?.find(&container, &mut inside, &request.ifname)?;
    if let Own::Link(link) = &own {
        let deleted = inside.delete_link(link.index);
        deleted.with_context(|| format!("failed to delete {:?}", link.name))?;
    }
    if own != Own::Elsewhere {
        devices::delete_unfinished(&mut inside, &request.ifname)?;
    }
    Ok(matches!(own, Own::Link(_)))
}

/// True if an interface that DEL has not found is in use: the container has handed it on to another namespace, as the record of
/// ADD tells, or without a record see [`own_link::is_left_in_use`].
pub fn is_still_used(request: &Request<'_>) -> Result<bool> {
    let Some(record) = InterfaceRecord::of(request) else { return own_link::is_left_in_use(request) };
    Ok(!record.is_outdated() && has_moved_on(request, record))
}

fn has_moved_on(request: &Request<'_>, record: InterfaceRecord) -> bool {
    match OwnCard::of(&record).filter(|card| card.is_distinct()) {
        Some(card) => matches!(card.find_elsewhere(), Ok(Some(_))),
        None => Search::default().anywhere(&Traces::of_record(&request.ifname, record)) == Some(Sign::Interface),
    }
}

/// The last steps of a DEL, once the interface is gone: its record and its addresses.
pub fn end(request: &Request<'_>, released: Option<bool>, failures: &mut Failures) {
    failures.note(interface_record::forget(request));
    free_addresses(request, released, failures);
}

/// Lets IPAM free the addresses, if [`release_lease`] has left that for later.
pub fn free_addresses(request: &Request<'_>, released: Option<bool>, failures: &mut Failures) {
    if released == Some(false) {
        failures.note(call_ipam(request));
    }
}

/// GC: the records of interfaces whose attachments are not valid any more, and what the IPAM plugin has of them.
pub fn collect(request: &Request<'_>) -> Result<()> {
    let mut failures = Failures::default();
    failures.note(interface_record::collect(request));
    failures.note(call_ipam(request));
    failures.finish()
}
