//! `host-device`: moves a device of the host into the container, and back on DEL.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `device` | | its name on the host |
//! | `hwaddr` | | its hardware address; the first link that has it |
//! | `kernelpath` | | its folder below `/sys/devices/` |
//! | `pciBusID` | | its PCI address |
//! | `dpdkMode` | false | there is no link to move; only addresses are asked for. With a PCI device its driver decides |
//! | `ipam`, `dns` | | address management plugin; name resolution to report with addresses |
//!
//! `runtimeConfig.deviceID` takes the place of `pciBusID`; it is a PCI address or a name on the auxiliary bus. Of several
//! keys the first counts, in this order, the auxiliary bus last.
//!
//! In the container the device has its host's name as alias, by which DEL finds it: ours or the reference's.

mod device;
mod remove;

use device::Selector;

use crate::cni::delegate::Delegate;
use crate::cni::result::{Dns, Interface};
use crate::cni::{CniResult, Plugin, Request, Undo};
use crate::error::{Context, Error, Failures, Result};
use crate::ipam::apply::{self, Target};
use crate::ipam::verify;
use crate::net::moving::{self, Inside};
use crate::net::{Handle, Link, Netns};

/// The applet.
pub static HOST_DEVICE: HostDevice = HostDevice;

/// See the module's description.
#[derive(Debug)]
pub struct HostDevice;

/// A configuration that can be carried out.
#[derive(Debug)]
struct Conf {
    selector: Selector,
    /// A program in user space has the device: there is no link.
    dpdk: bool,
    dns: Dns,
}

impl Plugin for HostDevice {
    fn name(&self) -> &'static str {
        "host-device"
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let conf = Conf::of(request)?;
        let ipam = find_ipam(request)?;
        let container = open_netns(request)?;
        let mut inside = Inside::of(&container)?;
        let link = if conf.dpdk { None } else { Some(attach(&conf, request, &mut inside, undo)?) };
        let mac = link.as_ref().map_or(String::new(), |link| link.mac.to_string());
        let (name, sandbox) = (request.ifname.clone(), request.netns.clone());
        let interfaces = vec![Interface { name, mac, sandbox, ..Interface::default() }];
        // Other programs may want to send something to find an address; for our own it is early enough when the address
        // is there, and is then announced.
        if let (Some(link), None | Some(Delegate::Program(_))) = (&link, &ipam) {
            let up = inside.handle.set_up(link.index, true);
            up.with_context(|| format!("failed to set {:?} up", link.name)).map_err(in_moving)?;
        }
        let Some(ipam) = ipam else { return Ok(CniResult { interfaces, ..CniResult::default() }) };
        let mut result = CniResult { interfaces, dns: conf.dns, ..ipam.add(request, undo)? };
        if result.ips.is_empty() {
            return Err(Error::internal("IPAM plugin returned missing IP config"));
        }
        result.ips.iter_mut().for_each(|ip| ip.interface = Some(0));
        if let Some(Link { index, name, .. }) = &link {
            let mut target = Target { netns: &container, handle: &mut inside.handle, index: *index, name };
            apply::configure(&mut target, &result, || {})?;
        }
        Ok(result)
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let container = open_netns(request)?;
        call_ipam(request)?;
        let previous = request.config.prev_result()?.ok_or_else(|| Error::internal("Required prevResult missing"))?;
        if conf.dpdk {
            return Ok(());
        }
        let mut inside = Handle::inside(&container)?;
        let listed = verify::container_interface(&previous, &request.ifname, &request.netns)?;
        check_link(&mut inside, listed)?;
        verify::addresses(&mut inside, &request.ifname, &previous)?;
        verify::routes(&mut inside, &previous.routes)
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::for_del(request)?;
        let mut failures = Failures::default();
        let given_back = if conf.dpdk { Ok(()) } else { remove::give_back(&conf, request) };
        // A device that is still there keeps its address: somebody else would get it meanwhile.
        if failures.note(given_back).is_some() {
            failures.note(call_ipam(request));
        }
        failures.finish()
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        call_ipam(request)
    }

    fn status(&self, request: &Request<'_>) -> Result<()> {
        Conf::decode(request)?.selector.probe()?;
        call_ipam(request)
    }
}

impl Conf {
    fn of(request: &Request<'_>) -> Result<Conf> {
        let mut conf = Conf::decode(request)?;
        conf.selector.resolve_device_id()?;
        if conf.selector.is_empty() {
            let msg = "specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"";
            return Err(Error::internal(msg));
        }
        conf.dpdk = conf.selector.has_userspace_driver()?.unwrap_or(conf.dpdk);
        Ok(conf)
    }

    /// DEL carries on without what sysfs does not have any more.
    fn for_del(request: &Request<'_>) -> Result<Conf> {
        let mut conf = Conf::decode(request)?;
        let _ = conf.selector.resolve_device_id();
        conf.dpdk = conf.selector.has_userspace_driver().ok().flatten().unwrap_or(conf.dpdk);
        Ok(conf)
    }

    fn decode(request: &Request<'_>) -> Result<Conf> {
        let config = &request.config;
        let decode = || {
            let (selector, dpdk) = (Selector::of(config)?, config.top().boolean("dpdkMode")?);
            Ok(Conf { selector, dpdk, dns: config.dns()? })
        };
        decode().map_err(|error: Error| error.context("failed to load netconf"))
    }
}

/// Moves the device into the container and gives it as it is there.
fn attach(conf: &Conf, request: &Request<'_>, inside: &mut Inside, undo: &mut Undo) -> Result<Link> {
    let mut host = Handle::current()?;
    let device = conf.selector.find(&mut host).context("failed to find host device")?;
    let (container, ifname, was) = (inside.netns.duplicate()?, request.ifname.clone(), device.clone());
    moving::take(&mut host, &device, inside, &request.ifname).map_err(in_moving)?;
    undo.push(move || detach(&container, &ifname, &was));
    let found = inside.handle.link(&request.ifname);
    found.with_context(|| format!("failed to find {:?} in container NS", request.ifname)).map_err(in_moving)
}

/// The reference's words, which have no colon here.
fn in_moving(error: Error) -> Error {
    Error { msg: format!("failed to move link {}", error.msg), ..error }
}

/// Takes the device back to the host and makes it what it was there.
fn detach(container: &Netns, ifname: &str, was: &Link) -> Result<()> {
    let (mut host, mut inside) = (Handle::current()?, Inside::of(container)?);
    if let Some(link) = inside.handle.find_link(ifname)? {
        moving::give_back(&mut host, &link, &mut inside, &was.name, &was.alias)?;
    }
    moving::restore(&mut host, was)
}

fn check_link(inside: &mut Handle, listed: &Interface) -> Result<()> {
    let name = &listed.name;
    let missing = || Error::internal(format!("Container Interface name in prevResult: {name} not found"));
    let link = inside.find_link(name)?.ok_or_else(missing)?;
    if !listed.mac.is_empty() && listed.mac != link.mac.to_string() {
        let (wanted, found) = (&listed.mac, &link.mac);
        return Err(Error::internal(format!("Interface {name} Mac {wanted} doesn't match container Mac: {found}")));
    }
    if link.alias.is_empty() {
        let msg = format!("Interface {name} has no alias: DEL would not know its name on the host");
        return Err(Error::internal(msg));
    }
    Ok(())
}

fn open_netns(request: &Request<'_>) -> Result<Netns> {
    Netns::open(&request.netns).with_context(|| format!("failed to open netns {:?}", request.netns))
}

/// The IPAM plugin of the configuration; `None` for a device without addresses.
fn find_ipam(request: &Request<'_>) -> Result<Option<Delegate>> {
    match request.config.ipam_type().context("failed to load netconf")? {
        "" => Ok(None),
        kind => Delegate::find_ipam(kind, request).map(Some),
    }
}

/// Passes the call on to the IPAM plugin, if there is one.
fn call_ipam(request: &Request<'_>) -> Result<()> {
    find_ipam(request)?.map_or(Ok(()), |ipam| ipam.call(request))
}
