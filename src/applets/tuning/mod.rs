//! `tuning`: sets sysctls in the container's namespace and properties of its interface. Runs behind the plugin that made
//! the interface; its result is passed on with the new hardware address and MTU.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `sysctl` | | keys with values: `net.` only, with dots or slashes; the first `IFNAME` in a key is the interface |
//! | `mac` | | hardware address; CNI_ARGS `MAC` overrides it, `runtimeConfig.mac` both |
//! | `promisc` | false | true: take all packets |
//! | `mtu` | 0: leave it | |
//! | `allmulti` | leave it | take all multicast packets, or only those for it |
//! | `txQLen` | leave it | packets that may wait to be sent |
//! | `dataDir` | `/run/cni/tuning` | where the interface's original properties are kept until DEL |
//!
//! `args.cni` may hold all of them but `dataDir`, and overrides the rest. If /etc/cni/tuning/allowlist.conf exists, ADD sets
//! only sysctls that match one of the patterns in it. DEL restores the interface, not the sysctls.

mod allowlist;
mod conf;
mod pattern;

use conf::{Conf, data_directory, names_of};

use crate::cni::{CniResult, Plugin, Position, Request, Undo};
use crate::error::{Context, Errno, Error, Result, code};
use crate::ipam::own_link::{Evidence, Own};
use crate::ipam::tuned::{self, Originals};
use crate::net::tuning::Property;
use crate::net::{Handle, Netns, sysctls};

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
sysctl.*: string
mac: mac
promisc: bool
mtu: 0..2147483647
allmulti: bool
txQLen: 0..4294967295
dataDir: string
runtimeConfig.mac: mac
args.cni.sysctl.*: string
args.cni.mac: mac
args.cni.promisc: bool
args.cni.mtu: 0..2147483647
args.cni.allmulti: bool
args.cni.txQLen: 0..4294967295
";

/// The applet.
pub static TUNING: Tuning = Tuning;

/// See the module's description.
#[derive(Debug)]
pub struct Tuning;

/// A sysctl of the namespace we are in.
#[derive(Debug)]
struct Setting {
    name: String,
    value: String,
    /// What it is now; `None` for those that can only be written.
    before: Option<String>,
}

impl Plugin for Tuning {
    fn name(&self) -> &'static str {
        "tuning"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn position(&self) -> Position {
        Position::Behind
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        data_directory(request)?;
        let conf = Conf::of(request)?;
        for property in &conf.wanted {
            if let Property::Mac(mac) = property {
                let what = || format!("failed to set {} to {property}", property.name());
                mac.verify_assignable().with_context(what)?;
            }
        }
        names(&conf, &request.ifname).map(drop)
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let conf = Conf::of(request)?;
        allowlist::check(conf.sysctls.iter().map(|(key, _)| key))?;
        let result = previous(request)?;
        let names = names(&conf, &request.ifname)?;
        let netns = Netns::open(&request.netns)?;
        let settings = netns.run(|| names.into_iter().map(Setting::look).collect::<Result<Vec<_>>>())??;
        if conf.wanted.is_empty() {
            netns.run(|| set_all(settings, &netns, undo))??;
            return Ok(result);
        }
        let mut inside = Handle::inside(&netns)?;
        let link = inside.link(&request.ifname).with_context(|| format!("failed to get {:?}", request.ifname))?;
        let now: Vec<Property> = conf.wanted.iter().map(|property| property.of(&link)).collect();
        Originals::of(request, data_directory(request)?).save(request, &netns, &now, undo)?;
        netns.run(|| set_all(settings, &netns, undo))??;
        let again = netns.clone();
        undo.push(move || tune(&mut Handle::inside(&again)?, link.index, &now));
        tune(&mut inside, link.index, &conf.wanted)?;
        Ok(updated(result, &conf, request))
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        previous(request)?;
        let names = names(&conf, &request.ifname)?;
        let netns = Netns::open(&request.netns)?;
        netns.run(|| names.into_iter().try_for_each(|name| Setting::look(name)?.verify()))??;
        let missing = || Error::internal(format!("Cannot find container link {}", request.ifname));
        let mut inside = Handle::inside(&netns)?;
        let Own::Link(link) = Evidence::of(request)?.find(&netns, &mut inside, &request.ifname)? else {
            return Err(missing());
        };
        if link.name != request.ifname {
            return Err(missing());
        }
        conf.wanted.iter().try_for_each(|wanted| verify(wanted, &wanted.of(&link), &request.ifname))
    }

    /// Restores the interface. Nothing that prevents it is an error, as in the reference: the plugins before this one have
    /// still to be called.
    fn del(&self, request: &Request<'_>) -> Result<()> {
        let originals = Originals::of(request, data_directory(request)?);
        let found = Netns::open_if_left(&request.netns).and_then(|netns| Ok((netns, Evidence::of(request)?)));
        if let Ok((netns, evidence)) = found {
            let _ = originals.restore(netns.as_ref(), &request.ifname, &evidence);
        }
        Ok(())
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        tuned::collect(request, data_directory(request)?)
    }

    /// Whether the sysctls are allowed, and originals could be saved.
    fn status(&self, request: &Request<'_>) -> Result<()> {
        let probed = Conf::of(request).and_then(|conf| {
            allowlist::check(conf.sysctls.iter().map(|(key, _)| key))?;
            names(&conf, "eth0")?;
            if conf.wanted.is_empty() { Ok(()) } else { tuned::probe(data_directory(request)?) }
        });
        probed.map_err(|error| error.with_code(code::NOT_AVAILABLE))
    }
}

fn previous(request: &Request<'_>) -> Result<CniResult> {
    request.config.prev_result()?.ok_or_else(|| Error::internal("Required prevResult missing"))
}

/// The names that sysctls may have below /proc/sys, with the values they are to have.
fn names(conf: &Conf, ifname: &str) -> Result<Vec<(Vec<String>, String)>> {
    conf.sysctls.iter().map(|(key, value)| Ok((names_of(key, ifname)?, value.clone()))).collect()
}

/// Sets what is not yet as it should be.
fn set_all(settings: Vec<Setting>, netns: &Netns, undo: &mut Undo) -> Result<()> {
    for setting in settings {
        let is_written = setting.write()?;
        if let (true, Setting { name, before: Some(before), .. }) = (is_written, setting) {
            let netns = netns.clone();
            undo.push(move || netns.run(|| sysctls::write(&name, &before))?);
        }
    }
    Ok(())
}

impl Setting {
    /// Looks at a sysctl before anything is changed: one that does not exist is found out here.
    fn look((names, value): (Vec<String>, String)) -> Result<Self> {
        let is_missing = |read: &Result<String>| read.as_ref().is_err_and(|error| error.is(Errno::ENOENT));
        let mut names = names.into_iter();
        let mut name = names.next().unwrap_or_default();
        let mut read = sysctls::read(&name);
        if is_missing(&read) {
            let mut others = names.map(|name| (sysctls::read(&name), name));
            if let Some(found) = others.find(|(read, _)| !is_missing(read)) {
                (read, name) = found;
            }
        }
        let before = match read {
            // Not to be read, or not as long as it has no value.
            Err(error) if is_hidden(&error) || error.is(Errno::EIO) => None,
            read => Some(read.map_err(|error| refused("failed to set sysctl: open", &name, error))?),
        };
        Ok(Setting { name, value, before })
    }

    /// Sets it. What has the value already (now: an earlier key may have changed it) is not written, so that a read-only
    /// /proc/sys does no harm; but `all` is, because the kernel gives its value to every interface, whatever theirs are. True
    /// if something was written.
    fn write(&self) -> Result<bool> {
        let is_set = sysctls::read(&self.name).is_ok_and(|now| same(&now, &self.value));
        if is_set && !self.name.contains("/conf/all/") {
            return Ok(false);
        }
        match sysctls::write(&self.name, &self.value) {
            Err(error) if is_set && (is_hidden(&error) || error.is(Errno::EROFS)) => Ok(false),
            Err(error) => Err(refused("failed to set sysctl: write", &self.name, error)),
            Ok(()) => Ok(true),
        }
    }

    fn verify(&self) -> Result<()> {
        let (name, value) = (&self.name, &self.value);
        match sysctls::read(name) {
            Ok(now) if !same(&now, value) => Err(Error::internal(format!(
                "Error: Tuning configured value of /proc/sys/{name} is {value}, current value is {now}"
            ))),
            Err(error) if !is_hidden(&error) => Err(refused("failed to verify sysctl: read", name, error)),
            _ => Ok(()),
        }
    }
}

fn is_hidden(error: &Error) -> bool {
    error.is(Errno::EACCES) || error.is(Errno::EPERM)
}

/// The kernel separates several values by tabs.
fn same(one: &str, other: &str) -> bool {
    one.split_whitespace().eq(other.split_whitespace())
}

/// In the reference's words, behind ours.
fn refused(what: &str, name: &str, error: Error) -> Error {
    let cause = error.errno.map_or_else(|| error.clone(), Error::from);
    cause.context(&format!("{what} /proc/sys/{name}")).with_details(error.details.as_str())
}

fn tune(inside: &mut Handle, link: u32, wanted: &[Property]) -> Result<()> {
    inside.tune(link, wanted).map_err(|(at, error)| match wanted.get(at) {
        Some(property) => error.context(&format!("failed to set {} to {property}", property.name())),
        None => error,
    })
}

/// The hardware address as it was written, as the reference passes it on.
fn updated(mut result: CniResult, conf: &Conf, request: &Request<'_>) -> CniResult {
    for interface in result.interfaces.iter_mut().filter(|interface| interface.name == request.ifname) {
        if !conf.mac.is_empty() {
            interface.mac.clone_from(&conf.mac);
        }
        // Results had no MTU before.
        let is_told = request.config.version() == "1.1.0" && !interface.sandbox.is_empty();
        if let Some(mtu) = conf.mtu().filter(|_| is_told) {
            interface.mtu = i64::from(mtu);
        }
    }
    result
}

fn verify(wanted: &Property, found: &Property, ifname: &str) -> Result<()> {
    if wanted == found {
        return Ok(());
    }
    let what = match wanted {
        Property::Promiscuous(_) => {
            let msg = format!("Error: Tuning link {ifname} configured promisc is true, current value is 0");
            return Err(Error::internal(msg));
        }
        Property::Mac(_) => "Ethernet",
        Property::Mtu(_) => "MTU",
        Property::AllMulticast(_) => "all-multicast mode",
        Property::Queue(_) => "Transmit Queue Length",
    };
    Err(Error::internal(format!("Error: Tuning configured {what} of {ifname} is {wanted}, current value is {found}")))
}
