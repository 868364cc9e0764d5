//! `macvlan`: gives the container a device with a hardware address of its own on the network of one of the host's devices.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `master` | interface of the default route | the device it lies on |
//! | `mode` | `bridge` | `bridge`: devices on one master reach each other; `private`: they don't; `vepa`: by way of the switch; `passthru`: one device takes the master over |
//! | `mtu` | the master's | at most the master's |
//! | `mac` | random | hardware address; CNI_ARGS `MAC` overrides it, `runtimeConfig.mac` both |
//! | `linkInContainer` | false | the master is in the container |
//! | `bcqueuelen` | kernel's | broadcast packets that may wait on the master (Linux 5.11) |
//! | `acceptRA` | false | take advertised addresses and default routes beside those of IPAM |
//! | `ipam`, `dns` | | address management plugin, if there are to be addresses; name resolution to report |

use crate::cni::{CniResult, Plugin, Request, Undo};
use crate::error::{Context, Error, Result};
use crate::ipam::advertisements;
use crate::ipam::attach::{self, Attached};
use crate::ipam::master::Master;
use crate::ipam::plan;
use crate::net::Mac;
use crate::net::devices::{Kind, Wanted};

/// `MACVLAN_MODE_…` of `linux/if_link.h`.
const MODES: [(&str, u32); 4] = [("bridge", 4), ("private", 1), ("vepa", 2), ("passthru", 8)];

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
master: string
mode: bridge|private|vepa|passthru
mtu: 0..4294967295|auto
mac: mac
linkInContainer: bool
bcqueuelen: 0..4294967295
acceptRA: bool
ipam.type: string
runtimeConfig.mac: mac
";

/// The applet.
pub static MACVLAN: Macvlan = Macvlan;

/// See the module's description.
#[derive(Debug)]
pub struct Macvlan;

/// A configuration that can be carried out if the master agrees.
#[derive(Debug)]
struct Conf {
    master: Master,
    mode: u32,
    queue: u32,
    mac: Option<Mac>,
    accept_ra: bool,
}

impl Plugin for Macvlan {
    fn name(&self) -> &'static str {
        "macvlan"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        let Conf { master, mac, .. } = Conf::of(request)?;
        request.config.dns().context("failed to load netconf")?;
        master.validate()?;
        mac.as_ref().map_or(Ok(()), Mac::verify_assignable).context("failed to create macvlan")?;
        plan::check(request, master.mtu)
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let conf = Conf::of(request)?;
        let dns = request.config.dns().context("failed to load netconf")?;
        let ipam = attach::find_ipam(request)?;
        let container = attach::open_netns(request)?;
        let (mut handle, master) = conf.master.find(&container)?;
        let wanted = Wanted {
            kind: Kind::Macvlan { mode: conf.mode, queue: conf.queue },
            lower: Some(&master),
            mtu: conf.master.checked_mtu(&master)?,
            mac: conf.mac.as_ref(),
            container: &container,
            ifname: &request.ifname,
        };
        let device = attach::create(&mut handle, &wanted, undo)?;
        let addresses = match ipam {
            Some(ipam) => attach::addresses(&ipam, request, undo)?,
            None => CniResult::default(),
        };
        Ok(CniResult { dns, ..attach::configure(request, &container, &device, addresses, conf.accept_ra, undo)? })
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let mut attached = Attached::find(request, "macvlan")?;
        let mode = attached.link.setting.unwrap_or(0);
        if mode != conf.mode {
            let (found, wanted) = (mode_name(mode), mode_name(conf.mode));
            let msg = format!("container macvlan mode {found} does not match expected value: {wanted}");
            return Err(Error::internal(msg));
        }
        conf.master.verify(&attached.container, &attached.link)?;
        attached.verify_addresses()
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        attach::remove(request)
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        attach::collect(request)
    }

    fn status(&self, request: &Request<'_>) -> Result<()> {
        Conf::of(request)?.master.probe(true)?;
        attach::call_ipam(request)
    }
}

impl Conf {
    fn of(request: &Request<'_>) -> Result<Conf> {
        let top = request.config.top();
        let master = Master::decode(&request.config).context("failed to load netconf")?;
        Ok(Conf {
            master,
            mode: mode_number(top.string("mode").context("failed to load netconf")?)?,
            queue: top.u32_if_set("bcqueuelen").context("failed to load netconf")?.unwrap_or(0),
            mac: attach::wanted_mac(request)?,
            accept_ra: advertisements::accepted(&top).context("failed to load netconf")?,
        })
    }
}

fn mode_number(name: &str) -> Result<u32> {
    let name = if name.is_empty() { "bridge" } else { name };
    let mode = MODES.iter().find(|(known, _)| *known == name);
    mode.map(|(_, number)| *number).ok_or_else(|| Error::internal(format!("unknown macvlan mode: {name:?}")))
}

fn mode_name(number: u32) -> String {
    let mode = MODES.iter().find(|(_, known)| *known == number);
    mode.map_or_else(|| number.to_string(), |(name, _)| (*name).to_string())
}
