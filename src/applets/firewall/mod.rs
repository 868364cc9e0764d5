//! `firewall`: lets the packets of containers pass the host, for hosts that don't forward by themselves. Runs behind the
//! plugin that attached the container; its result is passed on unchanged.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `backend` | firewalld if it runs, else iptables | `iptables`, `firewalld` or `nftables`; any other value: the default |
//! | `iptablesAdminChainName` | `CNI-ADMIN` | the administrator's chain, asked first (`iptables` and `nftables`) |
//! | `firewalldZone` | `trusted` | the zone that the container's addresses are put into |
//! | `ingressPolicy` | `open` | `open`; `same-bridge`: nothing comes in from other bridges with a policy; `isolated`: nor from the same bridge |
//!
//! An ingress policy belongs to the bridge that is the first interface of the result. It is kept in iptables, or with the
//! backend `nftables` in nf_tables; it stays until the bridge is gone. `isolated` also isolates the
//! container's port of the bridge, see [`isolation`]: the rules alone need br_netfilter to keep
//! containers of one bridge apart.
//!
//! `nftables`, which the reference lacks, keeps the same rules in tables of its own, `ip cni_firewall` and
//! `ip6 cni_firewall`. A drop there is final, but an accept is not: if another table (iptables' FORWARD with policy DROP,
//! firewalld) drops the packet, it stays dropped. So use it where nftables is the only firewall and does not drop what is
//! forwarded, or where its owner's rules let containers pass.
//!
//! Left behind on purpose, as by the reference: the chains, which are shared, and a bridge's ingress policy.

mod attach;
mod isolation;
mod remove;

use std::net::IpAddr;
use std::rc::Rc;

use crate::cni::environment::validate_ifname;
use crate::cni::{CniResult, Plugin, Position, Request, Undo};
use crate::error::{Context, Error, Result, code};
use crate::firewall::Session;
use crate::firewall::filter::{Filter, Ingress, Store, unusable_chain_name};
use crate::firewall::firewalld::Firewalld;
use crate::firewall::flavour::{Flavour, Preference, choose};
use crate::firewall::owners::{Owner, Owners};
use crate::sorted::unique;

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
backend: ?iptables|firewalld|nftables
iptablesAdminChainName: string
firewalldZone: string
ingressPolicy: open|same-bridge|isolated
";

/// The applet.
pub static FIREWALL: Firewall = Firewall;

/// See the module's description.
#[derive(Debug)]
pub struct Firewall;

/// What the configuration says about the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Auto,
    Iptables,
    Firewalld,
    Nftables,
}

/// A configuration that can be carried out.
#[derive(Debug)]
struct Conf {
    wish: Wish,
    admin_chain: String,
    zone: String,
    /// `None` for `open`; otherwise whether containers of one bridge are kept apart too.
    isolated: Option<bool>,
}

/// What lets addresses through.
#[derive(Debug)]
enum Backend {
    /// With a connection to its bus.
    Firewalld(Firewalld),
    /// Rules of our own.
    Rules,
}

impl Plugin for Firewall {
    fn name(&self) -> &'static str {
        "firewall"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn position(&self) -> Position {
        Position::Behind
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        Conf::of(request).map(drop)
    }

    fn versions(&self) -> &'static [&'static str] {
        &["0.4.0", "1.0.0", "1.1.0"]
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let conf = Conf::of(request)?;
        let previous = previous(request)?;
        let ingress = conf.ingress(&previous)?;
        let forced = forced(request)?;
        let (addresses, leaves_sources) = (&addresses(&previous), Rc::default());
        attach::Attaching { conf: &conf, request, addresses, ingress, forced, undo, leaves_sources }.attach()?;
        match isolated_bridge(ingress) {
            Some(bridge) => isolation::add(request, &previous, bridge, undo),
            // An earlier ADD may have had another policy.
            None => drop(isolation::end(request)),
        }
        Ok(previous)
    }

    /// Reads only.
    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let previous = previous(request)?;
        let ingress = conf.ingress(&previous)?;
        let addresses = addresses(&previous);
        let backend = conf.backend_of(request, &addresses)?;
        let mut filter = Filter { addresses: &addresses, admin_chain: Some(&conf.admin_chain), ingress };
        if let Backend::Firewalld(firewalld) = backend {
            filter.admin_chain = None;
            check_sources(firewalld, &conf.zone, &addresses)?;
        }
        let store = if conf.wish == Wish::Nftables { Store::Native } else { Store::Iptables(Flavour::Nft) };
        filter.check(&mut Session::default(), store, forced(request)?)?;
        match isolated_bridge(ingress) {
            Some(bridge) => isolation::check(request, &previous, bridge, &addresses),
            None => Ok(()),
        }
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        remove::del(request)
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        remove::gc(request)
    }

    /// Asks what ADD will ask.
    fn status(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        conf.probe(request).map_err(|mut error| {
            if error.code == code::INTERNAL {
                error.code = code::NOT_AVAILABLE;
            }
            error
        })
    }
}

impl Conf {
    /// Decodes and refuses what ADD cannot do, before anything is touched.
    fn of(request: &Request<'_>) -> Result<Conf> {
        let top = request.config.top();
        let decoded = || {
            let text = |key: &str, default: &str| {
                top.string(key).map(|text| if text.is_empty() { default } else { text }.to_string())
            };
            Ok((
                wish(request)?,
                zone(request)?,
                text("iptablesAdminChainName", "CNI-ADMIN")?,
                text("ingressPolicy", "open")?,
            ))
        };
        let (wish, zone, admin_chain, policy) =
            decoded().map_err(|error: Error| error.context("failed to load netconf"))?;
        if let Some(why) = unusable_chain_name(&admin_chain) {
            let msg = format!("invalid iptablesAdminChainName {admin_chain:?}: {why}");
            return Err(Error::new(code::INVALID_CONFIG, msg));
        }
        let isolated = match policy.as_str() {
            "open" => None,
            "same-bridge" => Some(false),
            "isolated" => Some(true),
            _ => return Err(Error::internal(format!("unknown ingress policy: {policy:?}"))),
        };
        Ok(Conf { wish, admin_chain, zone, isolated })
    }

    /// The policy for the bridge, which is the first interface of the result.
    fn ingress<'a>(&self, previous: &'a CniResult) -> Result<Option<Ingress<'a>>> {
        let Some(isolated) = self.isolated else { return Ok(None) };
        let policy = if isolated { "isolated" } else { "same-bridge" };
        let msg = format!(
            "interface needs to be set for ingress policy {policy:?}, make sure to chain \"firewall\" plugin with \"bridge\""
        );
        match previous.interfaces.first().map(|interface| interface.name.as_str()) {
            None => Err(Error::internal(msg)),
            Some("") => Err(Error::internal("got empty bridge name")),
            Some(bridge) => {
                // The kernel would cut a longer name, and the rule would be about another bridge.
                let checked = validate_ifname(bridge);
                checked.map_err(|error| Error::internal(format!("invalid bridge name {bridge:?}: {error}")))?;
                Ok(Some(Ingress { bridge, isolated }))
            }
        }
    }

    /// firewalld if the configuration asks for it or, where it leaves the choice to us, if it runs.
    fn backend(&self, request: &Request<'_>) -> Result<Backend> {
        let bus = bus_address(request);
        match self.wish {
            Wish::Iptables | Wish::Nftables => Ok(Backend::Rules),
            Wish::Firewalld => running(Firewalld::connect(&bus)?),
            Wish::Auto => Ok(find_firewalld(&bus)?.map_or(Backend::Rules, Backend::Firewalld)),
        }
    }

    /// What let these addresses through: ADD has written it down, and firewalld may have come or gone since.
    fn backend_of(&self, request: &Request<'_>, addresses: &[IpAddr]) -> Result<Backend> {
        let owners = addresses.first().map_or_else(Vec::new, |address| Owners::open().of(*address));
        let owner = owners.into_iter().find(|owner| is_of(owner, request));
        match owner.filter(|_| self.wish == Wish::Auto).map(|owner| owner.backend) {
            Some(name) if name == FIREWALLD => running(Firewalld::connect(&bus_address(request))?),
            Some(_) => Ok(Backend::Rules),
            None => self.backend(request),
        }
    }

    /// Where rules are kept.
    fn store(&self, session: &mut Session, request: &Request<'_>, forced: Option<Flavour>) -> Result<Store> {
        match self.wish {
            Wish::Nftables => Ok(Store::Native),
            _ => {
                let path = request.host.variable("PATH");
                choose(session, &Preference { forced, path: &path }).map(Store::Iptables)
            }
        }
    }

    fn probe(&self, request: &Request<'_>) -> Result<()> {
        // Reserved for documentation (RFC 5737): never anybody's.
        let addresses = [IpAddr::from([192, 0, 2, 1])];
        let ingress = self.isolated.map(|isolated| Ingress { bridge: "cni0", isolated });
        if isolated_bridge(ingress).is_some() {
            isolation::probe();
        }
        let mut filter = Filter { addresses: &addresses, admin_chain: Some(&self.admin_chain), ingress };
        if let Backend::Firewalld(_) = self.backend(request)? {
            filter.admin_chain = None;
        }
        if filter.admin_chain.is_none() && filter.ingress.is_none() {
            return Ok(());
        }
        let mut session = Session::default();
        let store = self.store(&mut session, request, forced(request)?)?;
        filter.probe(&mut session, store).context("failed to probe firewall rules")
    }
}

/// The name of the backend in records.
const FIREWALLD: &str = "firewalld";

/// firewalld, or an error if it does not run.
fn running(mut firewalld: Firewalld) -> Result<Backend> {
    match firewalld.is_running()? {
        true => Ok(Backend::Firewalld(firewalld)),
        false => Err(Error::internal("firewalld is not running").with_details("start it, or choose another backend")),
    }
}

/// firewalld if it runs. A bus that is absent, or not for us, means that it does not. One that does not answer is an
/// error: firewalld may run all the same, and would drop what rules of our own accept.
fn find_firewalld(bus: &str) -> Result<Option<Firewalld>> {
    let found = Firewalld::connect(bus).and_then(|mut firewalld| Ok(firewalld.is_running()?.then_some(firewalld)));
    match found {
        Err(error) if error.timed_out() => {
            let hint = "without \"backend\" it depends on firewalld; set it to \"iptables\" if there is none";
            Err(error.with_details(hint))
        }
        Err(_) => Ok(None),
        found => found,
    }
}

fn check_sources(mut firewalld: Firewalld, zone: &str, addresses: &[IpAddr]) -> Result<()> {
    for address in addresses {
        if !firewalld.query_source(zone, *address)? {
            let msg = format!(
                "failed to find the address {address}/{} in {zone} zone",
                if address.is_ipv4() { 32 } else { 128 }
            );
            return Err(Error::internal(msg).with_details("firewalld forgets addresses when it is reloaded: ADD again"));
        }
    }
    Ok(())
}

fn wish(request: &Request<'_>) -> Result<Wish> {
    Ok(match request.config.top().string("backend")? {
        "iptables" => Wish::Iptables,
        FIREWALLD => Wish::Firewalld,
        "nftables" => Wish::Nftables,
        _ => Wish::Auto,
    })
}

fn zone(request: &Request<'_>) -> Result<String> {
    let zone = request.config.top().string("firewalldZone")?;
    Ok(if zone.is_empty() { "trusted" } else { zone }.to_string())
}

fn previous(request: &Request<'_>) -> Result<CniResult> {
    let missing = || Error::internal("missing prevResult from earlier plugin");
    request.config.prev_result()?.ok_or_else(missing)
}

/// All addresses of a result, whatever interface they belong to, as the reference takes them.
fn addresses(result: &CniResult) -> Vec<IpAddr> {
    unique(result.ips.iter().map(|ip| ip.address.addr()).collect())
}

fn bus_address(request: &Request<'_>) -> String {
    request.host.variable("DBUS_SYSTEM_BUS_ADDRESS")
}

fn forced(request: &Request<'_>) -> Result<Option<Flavour>> {
    Flavour::forced(&request.host.variable("CNI_BOX_IPTABLES"))
}

/// The record is about the attachment of this request.
fn is_of(owner: &Owner, request: &Request<'_>) -> bool {
    owner.is(&request.config.name, &request.container_id, &request.ifname)
}

/// The bridge whose containers are kept apart too.
fn isolated_bridge(ingress: Option<Ingress<'_>>) -> Option<&str> {
    ingress.filter(|ingress| ingress.isolated).map(|ingress| ingress.bridge)
}

/// firewalld has let the owner's address through.
fn is_in_zone(owner: &Owner) -> bool {
    owner.backend == FIREWALLD
}

/// Rules of our own have let the owner's address through.
fn has_rules(owner: &Owner) -> bool {
    !is_in_zone(owner)
}
