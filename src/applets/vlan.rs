//! `vlan`: gives the container a device for what is tagged with one VLAN id (802.1Q) on one of the host's devices.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `master` | required | the device it lies on |
//! | `vlanId` | 0 | the tag, 0 to 4094 |
//! | `mtu` | the master's | at most the master's |
//! | `linkInContainer` | false | the master is in the container |
//! | `acceptRA` | false | take advertised addresses and default routes beside those of IPAM |
//! | `ipam`, `dns` | required, none | address management plugin; name resolution to report |

use crate::cni::{CniResult, Plugin, Request, Undo};
use crate::error::{Context, Error, Result, code};
use crate::ipam::advertisements;
use crate::ipam::attach::{self, Attached};
use crate::ipam::master::Master;
use crate::ipam::plan;
use crate::net::devices::{Kind, Wanted};

/// The highest tag; 4095 is reserved.
const LAST_ID: u16 = 4094;

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
master: string
vlanId: 0..4094
mtu: 0..4294967295|auto
linkInContainer: bool
acceptRA: bool
ipam.type: string
";

/// The applet.
pub static VLAN: Vlan = Vlan;

/// See the module's description.
#[derive(Debug)]
pub struct Vlan;

/// A configuration that can be carried out if the master agrees.
#[derive(Debug)]
struct Conf {
    master: Master,
    id: u16,
    accept_ra: bool,
}

impl Plugin for Vlan {
    fn name(&self) -> &'static str {
        "vlan"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        let master = Conf::of(request)?.master;
        request.config.dns().context("failed to load netconf")?;
        attach::require_ipam_type(request).context(DELEGATING)?;
        master.validate()?;
        let expected = plan::expected(request).context(DELEGATING)?;
        expected.iter().try_for_each(|result| plan::check_result(request, result, master.mtu))
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let conf = Conf::of(request)?;
        let dns = request.config.dns().context("failed to load netconf")?;
        let ipam = attach::required_ipam(request).context(DELEGATING)?;
        let container = attach::open_netns(request)?;
        let (mut handle, master) = conf.master.find(&container)?;
        let wanted = Wanted {
            kind: Kind::Vlan { id: conf.id },
            lower: Some(&master),
            mtu: conf.master.checked_mtu(&master)?,
            mac: None,
            container: &container,
            ifname: &request.ifname,
        };
        let device = attach::create(&mut handle, &wanted, undo)?;
        let addresses = attach::addresses(&ipam, request, undo).context(DELEGATING)?;
        Ok(CniResult { dns, ..attach::configure(request, &container, &device, addresses, conf.accept_ra, undo)? })
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let mut attached = Attached::find(request, "vlan")?;
        let (name, found) = (&attached.link.name, attached.link.setting.unwrap_or(0));
        if found != u32::from(conf.id) {
            let msg = format!("Interface {name} VLAN id doesn't match: {}, found {found}", conf.id);
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
        let master = Conf::of(request)?.master.probe(true)?;
        // The kernel sets no VLAN device up then. A macvlan or ipvlan comes up with its master.
        if let Some(down) = master.filter(|master| !master.is_up()) {
            return Err(Error::new(code::LIMITED_CONNECTIVITY, format!("master {:?} is down", down.name)));
        }
        attach::required_ipam(request)?.call(request)
    }
}

/// What the reference says before an IPAM plugin's error.
const DELEGATING: &str = "failed to execute IPAM delegate";

impl Conf {
    fn of(request: &Request<'_>) -> Result<Conf> {
        let config = &request.config;
        let master = Master::decode(config).context("failed to load netconf")?;
        if master.name.is_empty() {
            let msg = "\"master\" field is required. It specifies the host interface name to create the VLAN for";
            return Err(Error::internal(msg));
        }
        let id = config.top().integer("vlanId").context("failed to load netconf")?;
        let valid = u16::try_from(id).ok().filter(|id| *id <= LAST_ID);
        // The reference's words: it refuses 4095 too.
        let invalid = || Error::internal(format!("invalid VLAN ID {id} (must be between 0 and 4095 inclusive)"));
        let accept_ra = advertisements::accepted(&config.top()).context("failed to load netconf")?;
        Ok(Conf { master, id: valid.ok_or_else(invalid)?, accept_ra })
    }
}
