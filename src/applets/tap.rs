//! `tap`: creates a TAP device in a container, which a program there (a virtual machine) may hold later.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `multiQueue` | false | the device has several queues |
//! | `owner`, `group` | anybody | user and group id of who may hold it without a capability |
//! | `mtu` | kernel's | `"auto"`: that of the host's default route |
//! | `mac` | random | hardware address |
//! | `bridge` | | a bridge in the container that it becomes a port of |
//! | `selinuxContext` | ours | context that the device gets |
//! | `acceptRA` | false | take advertised addresses and default routes beside those of IPAM |
//! | `ipam`, `dns` | | address management plugin, which may be missing; name resolution to report |
//!
//! The hardware address is taken from `runtimeConfig.mac`, CNI_ARGS `MAC` or `mac`.

use crate::cni::result::{Dns, Interface, IpConfig};
use crate::cni::{CniResult, Plugin, Request, Undo};
use crate::error::{Context, Error, Result, code};
use crate::ipam::advertisements;
use crate::ipam::apply::{self, Target};
use crate::ipam::attach::{self, addresses, call_ipam, collect, find_ipam, open_netns, wanted_mac};
use crate::ipam::interface_record::InterfaceRecord;
use crate::ipam::mtu::Mtu;
use crate::ipam::plan;
use crate::ipam::verify;
use crate::net::tap::{self, NewTap};
use crate::net::{Handle, Link, Mac, Netns};

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
multiQueue: bool
owner: 0..4294967295
group: 0..4294967295
mtu: ?0..4294967295|auto
mac: mac
bridge: string
selinuxContext: string
acceptRA: bool
ipam.type: string
runtimeConfig.mac: mac
";

/// The applet.
pub static TAP: Tap = Tap;

/// See the module's description.
#[derive(Debug)]
pub struct Tap;

/// A configuration that can be carried out.
#[derive(Debug)]
struct Conf {
    multi_queue: bool,
    mtu: Mtu,
    mac: Option<Mac>,
    owner: Option<u32>,
    group: Option<u32>,
    selinux_context: String,
    /// Empty for none.
    bridge: String,
    accept_ra: bool,
    dns: Dns,
}

impl Conf {
    fn of(request: &Request<'_>) -> Result<Conf> {
        let mac = wanted_mac(request)?;
        Conf::decode(request, mac).context("failed to load netconf")
    }

    fn decode(request: &Request<'_>, mac: Option<Mac>) -> Result<Conf> {
        let top = request.config.top();
        Ok(Conf {
            multi_queue: top.boolean("multiQueue")?,
            mtu: Mtu::decode(&top, i64::MIN)?,
            mac,
            owner: top.u32_if_set("owner")?,
            group: top.u32_if_set("group")?,
            selinux_context: top.string("selinuxContext")?.to_string(),
            bridge: top.string("bridge")?.to_string(),
            accept_ra: advertisements::accepted(&top)?,
            dns: request.config.dns()?,
        })
    }

    /// The reference has two ways to create the device, and a program that holds it sees which: with both ids it uses the
    /// driver's interface directly, otherwise what `ip tuntap` does.
    fn device<'a>(&self, name: &'a str) -> NewTap<'a> {
        let direct = self.owner.is_some() && self.group.is_some() && self.selinux_context.is_empty();
        NewTap {
            name,
            multi_queue: self.multi_queue,
            packet_info: direct && !self.multi_queue,
            vnet_header: direct,
            owner: self.owner,
            group: self.group,
        }
    }
}

impl Plugin for Tap {
    fn name(&self) -> &'static str {
        "tap"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        let Conf { mtu, mac, .. } = Conf::of(request)?;
        let possible = mtu.verify().and_then(|()| mac.as_ref().map_or(Ok(()), Mac::verify_assignable));
        possible.with_context(|| format!("failed to set mac or mtu of tap {:?}", request.ifname))?;
        plan::check(request, mtu.bytes().into())
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let mut conf = Conf::of(request)?;
        conf.mtu.resolve()?;
        let ipam = find_ipam(request)?;
        let container = open_netns(request)?;
        let mut inside = Handle::inside(&container)?;
        let link = create(&conf, &request.ifname, &container, &mut inside, undo)?;
        let mac = conf.mac.as_ref().unwrap_or(&link.mac);
        let record = InterfaceRecord::new(request, &container, tap::KIND, link.index, mac);
        let interfaces = vec![Interface::new(&request.ifname, mac, &request.netns)];
        let mut result = CniResult { interfaces, dns: conf.dns, ..CniResult::default() };
        let Some(ipam) = ipam else {
            record.write(undo);
            inside.set_up(link.index, true).context("failed to set tap interface up")?;
            return Ok(result);
        };
        let given = addresses(&ipam, request, undo)?;
        record.write(undo);
        result.ips = given.ips.into_iter().map(|ip| IpConfig { interface: Some(0), ..ip }).collect();
        result.routes = given.routes;
        let (index, name, accept_ra) = (link.index, &request.ifname, conf.accept_ra);
        let mut target = Target { netns: &container, handle: &mut inside, index, name, accept_ra };
        apply::configure(&mut target, &result, &|| ())?;
        Ok(result)
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let container = open_netns(request)?;
        call_ipam(request)?;
        let previous = request.config.prev_result()?.ok_or_else(|| Error::internal("Required prevResult missing"))?;
        let mine = verify::container_interface(&previous, &request.ifname, &request.netns)?;
        let mut inside = Handle::inside(&container)?;
        check_device(&mut inside, &conf, mine)?;
        verify::applied(&mut inside, &request.ifname, &previous)
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        attach::remove(request)
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        collect(request)
    }

    fn status(&self, request: &Request<'_>) -> Result<()> {
        tap::probe().map_err(|error| Error::new(code::NOT_AVAILABLE, error.to_string()))?;
        call_ipam(request)
    }
}

/// Creates the device under its final name, and makes it what the configuration says. It is still down.
fn create(conf: &Conf, name: &str, container: &Netns, inside: &mut Handle, undo: &mut Undo) -> Result<Link> {
    let device = conf.device(name);
    let created = match conf.selinux_context.as_str() {
        "" => device.create(container),
        context => device.create_as(container, context),
    };
    created.with_context(|| format!("failed to create tap {name:?}"))?;
    let (netns, own) = (container.clone(), name.to_string());
    undo.push(move || delete(&netns, &own));
    let link = inside.link(name).with_context(|| format!("failed to refetch tap {name:?}"))?;
    if conf.mac.is_some() || conf.mtu.bytes() > 0 {
        let set = inside.set_mac_and_mtu(link.index, conf.mac.as_ref(), conf.mtu.bytes());
        set.with_context(|| format!("failed to set mac or mtu of tap {name:?}"))?;
    }
    if !conf.bridge.is_empty() {
        let bridge = inside.link(&conf.bridge).with_context(|| format!("failed to get bridge {}", conf.bridge))?;
        let set = inside.set_master(link.index, bridge.index);
        set.with_context(|| format!("failed to set tap {name} as a port of bridge {}", conf.bridge))?;
    }
    Ok(link)
}

fn delete(netns: &Netns, name: &str) -> Result<()> {
    let mut inside = Handle::inside(netns)?;
    match inside.find_link(name)? {
        Some(link) => inside.delete_link(link.index).with_context(|| format!("failed to delete {name:?}")),
        None => Ok(()),
    }
}

/// The device is there, is a TAP device, has its hardware address and is a port of its bridge.
fn check_device(inside: &mut Handle, conf: &Conf, listed: &Interface) -> Result<()> {
    let name = &listed.name;
    let missing = || Error::internal(format!("Cannot find container link {name}"));
    let link = inside.find_link(name)?.ok_or_else(missing)?;
    let differs = |what: String| Err(Error::internal(format!("tap: Interface {name} {what}")));
    if link.kind != tap::KIND {
        return differs(format!("is of kind {:?}, not a tap device", link.kind));
    }
    if !listed.mac.is_empty() && listed.mac != link.mac.to_string() {
        return differs(format!("Mac {} doesn't match container Mac: {}", listed.mac, link.mac));
    }
    if conf.bridge.is_empty() {
        return Ok(());
    }
    match inside.find_link(&conf.bridge)? {
        Some(bridge) if link.master == Some(bridge.index) => Ok(()),
        _ => differs(format!("is no port of bridge {}", conf.bridge)),
    }
}
