//! `dummy`: gives the container a device that swallows what it is given, to hold addresses.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `acceptRA` | false | take advertised addresses and default routes beside those of IPAM |
//! | `ipam` | required | address management plugin |

use crate::cni::{CniResult, Plugin, Request, Undo};
use crate::error::{Error, Result};
use crate::ipam::advertisements;
use crate::ipam::attach::{self, Attached};
use crate::ipam::plan;
use crate::net::Handle;
use crate::net::devices::{Kind, Wanted};

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
acceptRA: bool
ipam.type: string
";

/// The applet.
pub static DUMMY: Dummy = Dummy;

/// See the module's description.
#[derive(Debug)]
pub struct Dummy;

impl Plugin for Dummy {
    fn name(&self) -> &'static str {
        "dummy"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        advertisements::accepted(&request.config.top())?;
        match request.config.ipam_type()? {
            "" => Err(no_ipam()),
            _ => plan::check(request, 0),
        }
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let accept_ra = advertisements::accepted(&request.config.top())?;
        let ipam = attach::find_ipam(request)?.ok_or_else(no_ipam)?;
        let container = attach::open_netns(request)?;
        let mut inside = Handle::inside(&container)?;
        let (container, ifname) = (&container, &request.ifname);
        let wanted = Wanted { kind: Kind::Dummy, lower: None, mtu: 0, mac: None, container, ifname };
        let device = attach::create(&mut inside, &wanted, undo)?;
        let addresses = attach::addresses(&ipam, request, undo)?;
        attach::configure(request, container, &device, addresses, accept_ra, undo)
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        attach::find_ipam(request)?.ok_or_else(no_ipam)?;
        let mut attached = Attached::find(request, "dummy")?;
        if !attached.link.is_up() {
            return Err(Error::internal(format!("Interface {} is down", attached.link.name)));
        }
        attached.verify_addresses()
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        attach::remove(request)
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        attach::collect(request)
    }

    fn status(&self, request: &Request<'_>) -> Result<()> {
        attach::required_ipam(request)?.call(request)
    }
}

fn no_ipam() -> Error {
    Error::internal("dummy interface requires an IPAM configuration")
}
