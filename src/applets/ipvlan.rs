//! `ipvlan`: gives the container a device that shares the hardware address of one of the host's devices.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `master` | see below | the device it lies on |
//! | `mode` | `l2` | `l2`; `l3`: the host routes, without its netfilter; `l3s`: with it |
//! | `mtu` | the master's | |
//! | `linkInContainer` | false | the master is in the container |
//! | `acceptRA` | false | take advertised addresses and default routes beside those of IPAM |
//! | `ipam`, `dns` | | address management plugin; name resolution to report |
//!
//! Behind another plugin it lies on the one interface of prevResult, and without an IPAM plugin takes its addresses and
//! routes; otherwise the master is the interface of the default route.

use crate::cni::delegate::Delegate;
use crate::cni::{CniResult, Plugin, Position, Request, Undo, Verb};
use crate::error::{Context, Error, Result};
use crate::ipam::advertisements;
use crate::ipam::attach::{self, Attached};
use crate::ipam::master::Master;
use crate::ipam::plan;
use crate::net::devices::{Kind, Wanted};

/// `IPVLAN_MODE_…` of `linux/if_link.h`.
const MODES: [&str; 3] = ["l2", "l3", "l3s"];

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
master: string
mode: l2|l3|l3s
mtu: ?0..4294967295|auto
linkInContainer: bool
acceptRA: bool
ipam.type: string
";

/// The applet.
pub static IPVLAN: Ipvlan = Ipvlan;

/// See the module's description.
#[derive(Debug)]
pub struct Ipvlan;

/// A configuration that can be carried out if the master agrees.
#[derive(Debug)]
struct Conf {
    master: Master,
    /// Index into `MODES`, which is the kernel's number.
    mode: u16,
    accept_ra: bool,
}

/// Where the addresses come from.
enum Source {
    Ipam(Delegate),
    /// The plugin in front of this one.
    Previous(CniResult),
}

impl Plugin for Ipvlan {
    fn name(&self) -> &'static str {
        "ipvlan"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn position(&self) -> Position {
        Position::Anywhere
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        let master = Conf::of(request)?.master;
        request.config.dns().context("failed to load netconf")?;
        master.validate()?;
        if request.verb == Verb::Add && !request.config.top().has("prevResult") {
            attach::require_ipam_type(request)?;
        }
        match request.config.ipam_type()? {
            "" => Ok(()),
            _ => plan::check(request, master.mtu),
        }
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let mut conf = Conf::of(request)?;
        let dns = request.config.dns().context("failed to load netconf")?;
        let previous = request.config.prev_result()?;
        conf.follow(previous.as_ref())?;
        let source = Source::choose(request, previous)?;
        let container = attach::open_netns(request)?;
        let (mut handle, master) = conf.master.find(&container)?;
        let wanted = Wanted {
            kind: Kind::Ipvlan { mode: conf.mode },
            lower: Some(&master),
            mtu: u32::try_from(conf.master.mtu).unwrap_or(0),
            mac: None,
            container: &container,
            ifname: &request.ifname,
        };
        let device = attach::create(&mut handle, &wanted, undo)?;
        let addresses = match source {
            Source::Previous(result) => result,
            Source::Ipam(ipam) => attach::addresses(&ipam, request, undo)?,
        };
        Ok(CniResult { dns, ..attach::configure(request, &container, &device, addresses, conf.accept_ra, undo)? })
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let mut attached = Attached::find(request, "ipvlan")?;
        if attached.link.setting != Some(conf.mode.into()) {
            let (found, wanted) = (mode_name(attached.link.setting), mode_name(Some(conf.mode.into())));
            let msg = format!("Container IPVlan mode {found} does not match expected value: {wanted}");
            return Err(Error::internal(msg));
        }
        conf.master.verify(&attached.container, &attached.link)?;
        attached.verify_addresses()
    }

    /// Never looks for the master: the default route may be gone.
    fn del(&self, request: &Request<'_>) -> Result<()> {
        attach::remove(request)
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        attach::collect(request)
    }

    fn status(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        // Without a name the master may be the interface of another plugin's result, which is only there at ADD.
        if !conf.master.name.is_empty() {
            conf.master.probe(false)?;
        }
        attach::call_ipam(request)
    }
}

impl Conf {
    fn of(request: &Request<'_>) -> Result<Conf> {
        let top = request.config.top();
        let master = Master::decode(&request.config).context("failed to load netconf")?;
        let accept_ra = advertisements::accepted(&top).context("failed to load netconf")?;
        Ok(Conf { master, mode: mode_number(top.string("mode").context("failed to load netconf")?)?, accept_ra })
    }

    /// Without a name of its own, the master behind another plugin is what that one has made.
    fn follow(&mut self, previous: Option<&CniResult>) -> Result<()> {
        let Some(previous) = previous.filter(|_| self.master.name.is_empty()) else { return Ok(()) };
        match previous.interfaces.as_slice() {
            [one] if !one.name.is_empty() => self.master.name.clone_from(&one.name),
            _ => return Err(Error::internal("chained master failure. PrevResult lacks a single named interface")),
        }
        Ok(())
    }
}

impl Source {
    fn choose(request: &Request<'_>, previous: Option<CniResult>) -> Result<Source> {
        match (attach::find_ipam(request)?, previous) {
            (Some(ipam), _) => Ok(Source::Ipam(ipam)),
            (None, Some(previous)) if !previous.ips.is_empty() => Ok(Source::Previous(previous)),
            (None, _) => attach::required_ipam(request).map(Source::Ipam),
        }
    }
}

fn mode_number(name: &str) -> Result<u16> {
    let name = if name.is_empty() { "l2" } else { name };
    let mode = MODES.iter().position(|known| *known == name).and_then(|mode| u16::try_from(mode).ok());
    mode.ok_or_else(|| Error::internal(format!("unknown ipvlan mode: {name:?}")))
}

fn mode_name(number: Option<u32>) -> &'static str {
    number.and_then(|number| MODES.get(number as usize)).copied().unwrap_or("unknown")
}
