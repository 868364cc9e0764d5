//! `host-device`: moves a device of the host into the container, and back on DEL.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `device` | | its name on the host |
//! | `hwaddr` | | its hardware address; the first link that has it |
//! | `kernelpath` | | its folder below `/sys/devices/` |
//! | `pciBusID` | | its PCI address |
//! | `dpdkMode` | false | there is no link to move; only addresses are asked for. With a PCI device its driver decides |
//! | `acceptRA` | false | take advertised addresses and default routes beside those of IPAM |
//! | `ipam`, `dns` | | address management plugin; name resolution to report with addresses |
//!
//! `runtimeConfig.deviceID` takes the place of `pciBusID`; it is a PCI address or a name on the auxiliary bus. Of several
//! keys the first counts, in this order, the auxiliary bus last.
//!
//! In the container the device has its host's name as alias, by which the reference's DEL names it. Ours goes by the record of
//! ADD.

mod device;
mod remove;

use device::Selector;
use remove::Outcome;

use crate::cni::delegate::Delegate;
use crate::cni::result::{Dns, Interface};
use crate::cni::{CniResult, Object, Plugin, Request, Undo, Verb};
use crate::error::{Context, Error, Failures, Result};
use crate::ipam::advertisements;
use crate::ipam::apply::{self, Target};
use crate::ipam::attach::{self, Attached};
use crate::ipam::card::Card;
use crate::ipam::interface_record::InterfaceRecord;
use crate::ipam::plan;
use crate::net::moving::{self, Side};
use crate::net::{Link, Netns};

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
device: string
hwaddr: mac
kernelpath: string
pciBusID: string
dpdkMode: bool
acceptRA: bool
ipam.type: string
runtimeConfig.deviceID: string
";

/// The applet.
pub static HOST_DEVICE: HostDevice = HostDevice;

/// See the module's description.
#[derive(Debug)]
pub struct HostDevice;

/// A configuration that can be carried out.
#[derive(Debug)]
struct Conf<'a> {
    selector: Selector<'a>,
    /// A program in user space has the device: there is no link.
    dpdk: bool,
    dns: Dns,
}

impl Plugin for HostDevice {
    fn name(&self) -> &'static str {
        "host-device"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    /// False for a device that may have a driver in user space, and then has no interface. A PCI
    /// device's driver is only known on its host.
    fn makes_interface(&self, config: &Object<'_>) -> bool {
        let is_true = |key: &str| config.boolean(key).unwrap_or(true);
        let named_by_runtime = ["capabilities", "runtimeConfig"]
            .into_iter()
            .any(|key| config.object(key).ok().flatten().is_some_and(|object| object.has("deviceID")));
        !is_true("dpdkMode") && !config.has("pciBusID") && !named_by_runtime
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::decode(request)?;
        accept_ra(request)?;
        // STATUS is not told what a container will ask for.
        let is_named_later = request.verb != Verb::Add || runtime_names_device(request)?;
        if !is_named_later && !conf.selector.has_device_id() {
            conf.require_device()?;
        }
        // Without a link no route is set. A PCI device's driver tells ADD whether there is one.
        match self.makes_interface(&request.config.top()) {
            true => plan::check(request, 0),
            false => plan::expected(request).map(drop),
        }
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let (conf, accept_ra) = (Conf::of(request)?, accept_ra(request)?);
        if !conf.dpdk {
            plan::check(request, 0)?;
        }
        let ipam = attach::find_ipam(request)?;
        let container = attach::open_netns(request)?;
        let mut inside = Side::of(&container)?;
        let link = if conf.dpdk { None } else { Some(move_in(&conf, request, &container, &mut inside, undo)?) };
        let card = link.as_ref().map(|(card, link)| InterfaceRecord::of_card(request, &container, link, card.clone()));
        let link = link.map(|(_, link)| link);
        let mac = link.as_ref().map_or(String::new(), |link| link.mac.to_string());
        let interfaces = vec![Interface::new(&request.ifname, mac, &request.netns)];
        // Other programs may want to send something to find an address; for our own it is early enough when the address
        // is there, and is then announced.
        let is_up_early = matches!(ipam, None | Some(Delegate::Program(_)));
        if let (Some(link), true) = (&link, is_up_early) {
            let up = inside.handle.set_up(link.index, true);
            up.with_context(|| format!("failed to set {:?} up", link.name)).map_err(in_moving)?;
        }
        // As early as can be: a DEL of a killed ADD goes by it, too.
        let (early, late) = if InterfaceRecord::of(request).is_none() { (card, None) } else { (None, card) };
        early.inspect(|card| card.write(undo));
        let given = ipam.as_ref().map(|ipam| attach::addresses(ipam, request, undo)).transpose()?;
        late.inspect(|card| card.write(undo));
        let Some(given) = given else { return Ok(CniResult { interfaces, ..CniResult::default() }) };
        let mut result = CniResult { interfaces, dns: conf.dns, ..given };
        result.ips.iter_mut().for_each(|ip| ip.interface = Some(0));
        if let Some(Link { index, name, .. }) = &link {
            let mut target = Target { netns: &container, handle: &mut inside.handle, index: *index, name, accept_ra };
            if is_up_early {
                advertisements::limit_late(&mut target, &result)?;
            }
            apply::configure(&mut target, &result, &|| {})?;
        }
        Ok(result)
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        if Conf::of(request)?.dpdk {
            return attach::previous(request).map(drop);
        }
        let mut attached = Attached::find(request, "")?;
        let Link { name, alias, .. } = &attached.link;
        if alias.is_empty() {
            let msg = format!("Interface {name} has no alias: DEL would not know its name on the host");
            return Err(Error::internal(msg));
        }
        attached.verify_addresses()
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::for_del(request)?;
        let mut failures = Failures::default();
        let released = attach::release_lease(request, &mut failures);
        let given_back = if conf.dpdk { Ok(Outcome::Home) } else { remove::give_back(&conf, request) };
        // A device that is still there keeps its address: another container would get it meanwhile.
        match failures.note(given_back) {
            Some(Outcome::Missing) if failures.note(attach::is_still_used(request)) != Some(false) => {}
            Some(Outcome::Home | Outcome::Missing) => attach::end(request, released, &mut failures),
            // The record stays: the next DEL may be able to name it.
            Some(Outcome::Unnamed) => attach::free_addresses(request, released, &mut failures),
            None => {}
        }
        failures.finish()
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        attach::collect(request)
    }

    fn status(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::decode(request)?;
        conf.selector.probe(conf.dpdk, runtime_names_device(request)?)?;
        attach::call_ipam(request)
    }
}

/// Not part of [`Conf`]: DEL does without.
fn accept_ra(request: &Request<'_>) -> Result<bool> {
    advertisements::accepted(&request.config.top()).context("failed to load netconf")
}

/// True if runtimes name the PCI or auxiliary device, which they do with an ADD.
fn runtime_names_device(request: &Request<'_>) -> Result<bool> {
    let capabilities = request.config.top().object("capabilities")?;
    capabilities.map_or(Ok(false), |all| all.boolean("deviceID"))
}

impl<'a> Conf<'a> {
    fn of(request: &'a Request<'_>) -> Result<Self> {
        let mut conf = Conf::decode(request)?;
        conf.selector.resolve_device_id()?;
        conf.require_device()?;
        conf.dpdk = conf.selector.has_userspace_driver()?.unwrap_or(conf.dpdk);
        Ok(conf)
    }

    fn require_device(&self) -> Result<()> {
        let msg = "specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"";
        if self.selector.is_empty() { Err(Error::internal(msg)) } else { Ok(()) }
    }

    /// DEL carries on without what sysfs does not have any more.
    fn for_del(request: &'a Request<'_>) -> Result<Self> {
        let mut conf = Conf::decode(request)?;
        let _ = conf.selector.resolve_device_id();
        conf.dpdk = conf.selector.has_userspace_driver().ok().flatten().unwrap_or(conf.dpdk);
        Ok(conf)
    }

    fn decode(request: &'a Request<'_>) -> Result<Self> {
        let config = &request.config;
        let decode = || {
            let (selector, dpdk) = (Selector::of(config)?, config.top().boolean("dpdkMode")?);
            Ok(Conf { selector, dpdk, dns: config.dns()? })
        };
        decode().map_err(|error: Error| error.context("failed to load netconf"))
    }
}

/// Moves the device into the container and gives it as it is there, and what DEL has to know of it.
fn move_in(
    conf: &Conf<'_>,
    request: &Request<'_>,
    container: &Netns,
    inside: &mut Side<'_>,
    undo: &mut Undo,
) -> Result<(Card, Link)> {
    let mut host = Side::host()?;
    let device = conf.selector.find(&mut host.handle).context("failed to find host device")?;
    let (container, ifname) = (container.clone(), request.ifname.clone());
    moving::take(&mut host, &device, inside, &ifname).map_err(in_moving)?;
    let name = device.name.clone();
    undo.push(move || move_back(&container, &ifname, &device));
    let found = inside.handle.link(&request.ifname);
    let found = found.with_context(|| format!("failed to find {:?} in container NS", request.ifname));
    let link = found.map_err(in_moving)?;
    Ok((Card::new(&name, &mut inside.handle, &link)?, link))
}

/// The reference's words, which have no colon here.
fn in_moving(mut error: Error) -> Error {
    error.msg.insert_str(0, "failed to move link ");
    error
}

/// Takes the device back to the host and makes it what it was there.
fn move_back(container: &Netns, ifname: &str, was: &Link) -> Result<()> {
    let (mut host, mut inside) = (Side::host()?, Side::of(container)?);
    if let Some(link) = inside.handle.find_link(ifname)? {
        moving::give_back(&mut inside, &link, &mut host, &was.name, &was.alias)?;
    }
    moving::restore(&mut host.handle, was)
}
