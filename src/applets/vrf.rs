//! `vrf`: puts the container's interface into a VRF, which has a routing table of its own. Runs behind the plugin that attached
//! the container; its result is passed on unchanged.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `vrfname` | | the VRF, in the container; created with its first interface, deleted with its last |
//! | `table` | the lowest that is free | its routing table |
//!
//! The kernel takes an interface down and up again when it enters a VRF. What it loses by that (routes, IPv6 addresses) is
//! given back: routes into the VRF's table.

use crate::cni::environment::validate_ifname;
use crate::cni::{CniResult, Plugin, Position, Request, Undo};
use crate::error::{Context, Errno, Error, Result, code};
use crate::ipam::own_link::{Evidence, Own};
use crate::ipam::verify;
use crate::net::routes::MAIN;
use crate::net::{Handle, Link, Netns, SharedLinks};

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
vrfname: string
table: 0..4294967295
";

/// The applet.
pub static VRF: Vrf = Vrf;

/// See the module's description.
#[derive(Debug)]
pub struct Vrf;

/// A configuration that can be carried out.
#[derive(Debug)]
struct Conf {
    name: String,
    /// 0 for any.
    table: u32,
}

impl Plugin for Vrf {
    fn name(&self) -> &'static str {
        "vrf"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn position(&self) -> Position {
        Position::Behind
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        let name = Conf::of(request)?.name;
        // The text alone: its code is that of CNI_IFNAME.
        validate_ifname(&name).map_err(|error| Error::internal(format!("could not add VRF {name}: {error}")))
    }

    fn versions(&self) -> &'static [&'static str] {
        &["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let conf = Conf::of(request)?;
        let previous = previous(request)?;
        conf.add(request, &previous, undo).context("cmdAdd failed")?;
        Ok(previous)
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let previous = previous(request)?;
        let mut inside = Handle::inside(&Netns::open(&request.netns)?)?;
        let vrf = inside.link(&conf.name)?;
        conf.accept(&vrf)?;
        let (ifname, name) = (&request.ifname, &conf.name);
        let link = inside.find_link(ifname)?.filter(|link| link.master == Some(vrf.index));
        let missing = || Error::internal(format!("failed to find {ifname} associated to vrf {name}"));
        verify(&mut inside, &link.ok_or_else(missing)?, &vrf, &previous)
    }

    /// Without a name there is nothing that ADD could have done.
    fn del(&self, request: &Request<'_>) -> Result<()> {
        let Ok(name) = name_of(request) else { return Ok(()) };
        let Some(container) = Netns::open_if_left(&request.netns)? else { return Ok(()) };
        let lock = SharedLinks::vrfs();
        lock.hold_alone();
        let mut inside = Handle::inside(&container)?;
        let Some(vrf) = inside.find_link(&name)?.filter(|link| link.kind == "vrf") else { return Ok(()) };
        match Evidence::of(request)?.find(&container, &mut inside, &request.ifname)? {
            Own::Elsewhere => return Ok(()),
            Own::Link(link) if link.master == Some(vrf.index) => leave(&mut inside, &link, &vrf)?,
            _ => {}
        }
        delete_if_empty(&mut inside, &vrf)
    }

    /// Tries a VRF in a new namespace, with which the VRF goes. Where no namespace can be made for the
    /// trial, nothing speaks against an ADD.
    fn status(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let probe = || match Netns::scratch()? {
            Some(scratch) => Handle::inside(&scratch)?.create_vrf(&conf.name, conf.table.max(1)),
            None => Ok(()),
        };
        probe().map_err(|error| {
            let msg = format!("could not add VRF {}: {}", conf.name, error.msg);
            Error::new(code::NOT_AVAILABLE, msg)
        })
    }
}

impl Conf {
    fn of(request: &Request<'_>) -> Result<Conf> {
        let table = request.config.top().u32_if_set("table").context("failed to load netconf")?.unwrap_or(0);
        Ok(Conf { name: name_of(request)?, table })
    }

    fn add(&self, request: &Request<'_>, previous: &CniResult, undo: &mut Undo) -> Result<()> {
        let container = Netns::open(&request.netns)?;
        // Others may be choosing a table, or about to delete the VRF.
        let lock = SharedLinks::vrfs();
        lock.hold_alone();
        let mut inside = Handle::inside(&container)?;
        let ifname = &request.ifname;
        let existing = inside.find_link(&self.name)?;
        existing.as_ref().map_or(Ok(()), |vrf| self.accept(vrf))?;
        let link = inside.find_link(ifname)?;
        let link = link.ok_or_else(|| Error::internal(format!("could not get link by name {ifname}")))?;
        match (link.master, &existing) {
            // An ADD that was killed may have lost some of what the link had.
            (Some(master), Some(vrf)) if master == vrf.index => return verify(&mut inside, &link, vrf, previous),
            (Some(master), _) => {
                let master = inside.find_link_at(master)?.map_or_else(|| master.to_string(), |master| master.name);
                return Err(Error::internal(format!("interface {ifname} has already a master set: {master}")));
            }
            (None, _) => {}
        }
        let vrf = match existing {
            Some(vrf) => vrf,
            None => self.create(&container, &mut inside, undo)?,
        };
        enter(&container, &mut inside, &link, &vrf, undo)
    }

    /// An existing link may be the one that is meant.
    fn accept(&self, link: &Link) -> Result<()> {
        let (name, table) = (&self.name, link.setting.unwrap_or(0));
        if link.kind != "vrf" {
            return Err(Error::internal(format!("Netlink {name} is not a VRF")));
        }
        if self.table != 0 && self.table != table {
            let msg = format!("VRF {name} already exist with different routing table {table}");
            return Err(Error::internal(msg));
        }
        Ok(())
    }

    fn create(&self, container: &Netns, inside: &mut Handle, undo: &mut Undo) -> Result<Link> {
        let table = if self.table == 0 { inside.free_table()? } else { self.table };
        let words = || format!("could not add VRF {}", self.name);
        let (container, name) = (container.clone(), self.name.clone());
        match inside.create_vrf(&self.name, table) {
            // Somebody was faster where the lock could not be had.
            Err(error) if error.is(Errno::EEXIST) => {
                let vrf = inside.link(&self.name)?;
                return self.accept(&vrf).map(|()| vrf);
            }
            created => created.with_context(words)?,
        }
        undo.push(move || {
            let lock = SharedLinks::vrfs();
            lock.hold_alone();
            let mut inside = Handle::inside(&container)?;
            inside.find_link(&name)?.map_or(Ok(()), |vrf| delete_if_empty(&mut inside, &vrf))
        });
        inside.link(&self.name).with_context(words)
    }
}

fn name_of(request: &Request<'_>) -> Result<String> {
    match request.config.top().string("vrfname").context("failed to load netconf")? {
        "" => Err(Error::internal("configuration is expected to have a valid vrf name")),
        name => Ok(name.to_string()),
    }
}

fn previous(request: &Request<'_>) -> Result<CniResult> {
    request.config.prev_result()?.ok_or_else(|| Error::internal("missing prevResult from earlier plugin"))
}

/// The link of a VRF has the addresses and routes of the result, and the VRF passes packets.
fn verify(inside: &mut Handle, link: &Link, vrf: &Link, previous: &CniResult) -> Result<()> {
    if !vrf.is_up() {
        return Err(Error::internal(format!("VRF {} is down", vrf.name)));
    }
    let present = inside.addresses(link.index)?;
    let is_mine = |interface: Option<i64>| {
        let named = interface.and_then(|index| previous.interfaces.get(usize::try_from(index).ok()?));
        named.is_some_and(|named| named.name == link.name)
    };
    for ip in previous.ips.iter().filter(|ip| is_mine(ip.interface)) {
        if !present.iter().any(|address| address.net == ip.address) {
            let (address, ifname) = (ip.address, &link.name);
            return Err(Error::internal(format!("Failed to match addr {address} on interface {ifname}")));
        }
    }
    let mut routes = previous.routes.clone();
    routes.retain(|route| route.table.is_none_or(|table| table == 0 || table == i64::from(MAIN)));
    routes.iter_mut().for_each(|route| route.table = vrf.setting.map(i64::from));
    verify::routes(inside, link.index, &routes)
}

fn enter(container: &Netns, inside: &mut Handle, link: &Link, vrf: &Link, undo: &mut Undo) -> Result<()> {
    let snapshot = inside.snapshot(link.index, MAIN)?;
    let (index, before, container) = (link.index, snapshot.clone(), container.clone());
    undo.push(move || {
        let lock = SharedLinks::vrfs();
        lock.hold_alone();
        let mut inside = Handle::inside(&container)?;
        inside.set_master(index, 0).context("failed to take the interface out of the VRF")?;
        inside.restore(&before, MAIN)
    });
    let entered = inside.set_master(link.index, vrf.index);
    entered.with_context(|| format!("could not set vrf {} as master of {}", vrf.name, link.name))?;
    inside.restore(&snapshot, vrf.setting.unwrap_or(0))
}

/// What cannot be given back is no reason to fail: mostly the interface is about to go.
fn leave(inside: &mut Handle, link: &Link, vrf: &Link) -> Result<()> {
    let snapshot = inside.snapshot(link.index, vrf.setting.unwrap_or(0));
    let left = inside.set_master(link.index, 0);
    left.with_context(|| format!("resetMaster: could reset master to {}", link.name))?;
    let _ = snapshot.and_then(|snapshot| inside.restore(&snapshot, MAIN));
    Ok(())
}

fn delete_if_empty(inside: &mut Handle, vrf: &Link) -> Result<()> {
    match inside.ports_of(vrf.index)?.is_empty() {
        true => inside.delete_link(vrf.index).with_context(|| format!("failed to delete VRF {}", vrf.name)),
        false => Ok(()),
    }
}
