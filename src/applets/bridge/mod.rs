//! `bridge`: connects a container to a Linux bridge on the host by a veth pair.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `bridge` | `cni0` | the bridge; created when it is missing |
//! | `isGateway` | false | the bridge gets each network's gateway address; the host forwards |
//! | `isDefaultGateway` | false | `isGateway`, and the container's default routes lead there |
//! | `forceAddress` | false | a different gateway address on the bridge is replaced |
//! | `ipMasq` | false | traffic leaving the network is masqueraded |
//! | `ipMasqBackend` | what the kernel has, `iptables` first | `iptables` or `nftables`: what keeps the rules for that |
//! | `macspoofchk` | false | what the container sends with another hardware address than its own is dropped |
//! | `mtu` | kernel's | of both veth ends, and of a bridge created here; `"auto"`: that of the host's default route |
//! | `hairpinMode` | false | the port sends packets back to where they came from |
//! | `portIsolation` | false | nothing passes between this port and other isolated ones |
//! | `vlan` | 0 | the container's VLAN, whose packets have no tag in the container; 0 for none |
//! | `vlanTrunk` | none | VLANs whose packets have their tag in the container: a list of `{id}` and `{minID, maxID}` |
//! | `preserveDefaultVlan` | false | with one of these two, the port stays in the bridge's default VLAN too |
//! | `promiscMode` | false | the bridge takes all packets |
//! | `enabledad` | false | IPv6 duplicate address detection in the container |
//! | `disableContainerInterface` | false | the container's end stays down |
//! | `acceptRA` | false | take advertised addresses and default routes beside those of IPAM |
//! | `ipam`, `dns` | | address management plugin; name resolution to report |
//!
//! The container's hardware address is taken from `runtimeConfig.mac`, `args.cni.mac` or CNI_ARGS `MAC`.
//!
//! With `vlan` the gateway addresses are those of the interface `BRIDGE.VLAN`, one end of a pair whose other end is a port
//! of the bridge. A bridge that is created here filters VLANs if one of the keys is there; one that exists keeps its setting,
//! and if it does not filter then all its ports hear one another, as with the reference.
//!
//! A bridge that was there keeps its hardware address if it becomes a gateway; any other follows its ports' addresses.
//!
//! Left behind on purpose, as by the reference: the bridge with its address, `BRIDGE.VLAN`, and forwarding.

mod changes;
mod check;
mod firewall;
mod plan;
mod setup;
mod shared;
mod vlans;

use std::net::IpAddr;

use firewall::Wishes;
use ipnet::IpNet;

use crate::cni::args::Args;
use crate::cni::environment::validate_ifname;
use crate::cni::result::Dns;
use crate::cni::{CniResult, NetworkConfig, Plugin, Request, Undo};
use crate::error::{Context, Error, Failures, Result};
use crate::firewall::Session;
use crate::ip_masq;
use crate::ipam::advertisements;
use crate::ipam::attach::{self, call_ipam, find_ipam, open_netns, release_lease};
use crate::ipam::detach::Attachment;
use crate::ipam::interface_record;
use crate::ipam::mtu::Mtu;
use crate::net::Mac;
use crate::net::bridge_ports::PortSettings;

/// Longest interface name in bytes.
const LONGEST_NAME: usize = 15;

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
bridge: string
isGateway: bool
isDefaultGateway: bool
forceAddress: bool
ipMasq: bool
ipMasqBackend: ?iptables|nftables
macspoofchk: bool
mtu: ?0..4294967295|auto
hairpinMode: bool
portIsolation: bool
vlan: 0..4094
vlanTrunk[].id: 1..4094
vlanTrunk[].minID: 1..4094
vlanTrunk[].maxID: 1..4094
preserveDefaultVlan: bool
promiscMode: bool
enabledad: bool
disableContainerInterface: bool
acceptRA: bool
ipam.type: string
runtimeConfig.mac: mac
args.cni.mac: mac
";

/// The applet.
pub static BRIDGE: Bridge = Bridge;

/// See the module's description.
#[derive(Debug)]
pub struct Bridge;

/// A configuration that can be carried out.
#[derive(Debug)]
struct Conf {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    firewall: Wishes,
    mtu: Mtu,
    hairpin: bool,
    isolated: bool,
    promiscuous: bool,
    vlans: vlans::Wanted,
    enable_dad: bool,
    disable_container_interface: bool,
    accept_ra: bool,
    mac: Option<Mac>,
    ipam: String,
    /// `dns` if the configuration sets anything there.
    dns: Option<Dns>,
}

impl Plugin for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::valid(request)?;
        conf.firewall.validate(request)?;
        plan::check(&conf, request)
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let conf = Conf::for_add(request)?;
        let ipam = find_ipam(request)?;
        let manner = conf.firewall.validate(request)?;
        let container = open_netns(request)?;
        let session = Session::default();
        setup::Attaching { conf: &conf, request, container: &container, ipam, manner, session, undo }.attach()
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let container = open_netns(request)?;
        call_ipam(request)?;
        check::check(&conf, request, &container)
    }

    /// Carries on past each failure, so that nothing is kept because something else could not be removed. Masquerading goes
    /// first: what the kernel still has to tidy up after it then overlaps with the removal of the link, and a DEL that is
    /// killed in between still finds the addresses when it is repeated. The spoof check goes after the link, which must
    /// not be able to send without it.
    fn del(&self, request: &Request<'_>) -> Result<()> {
        let wishes = Wishes::of(&request.config).context("failed to load netconf")?;
        let mut failures = Failures::default();
        let mut session = Session::default();
        let released = release_lease(request, &mut failures);
        let removed = failures.note(Attachment::find(request)).and_then(|mut attachment| {
            if wishes.masquerade {
                failures.note(ip_masq::end(&mut session, request, &mut attachment));
            }
            failures.note(attachment.remove(request))
        });
        // An interface that is still there keeps its address: somebody else would get it meanwhile.
        if removed == Some(true) {
            if wishes.spoof_check {
                failures.note(firewall::spoof_check(request).del(&mut session));
            }
            failures.note(interface_record::forget(request));
            if released == Some(false) {
                failures.note(call_ipam(request));
            }
        }
        failures.finish()
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        let wishes = Wishes::of(&request.config).context("failed to load netconf")?;
        let mut failures = Failures::default();
        failures.note(wishes.collect_garbage(request));
        failures.note(attach::collect(request));
        failures.finish()
    }

    fn status(&self, request: &Request<'_>) -> Result<()> {
        Wishes::of(&request.config).context("failed to load netconf")?.probe(request)?;
        call_ipam(request)
    }
}

impl Conf {
    /// Decodes and refuses what ADD cannot do, before anything is touched.
    fn for_add(request: &Request<'_>) -> Result<Conf> {
        let mut conf = Conf::valid(request)?;
        conf.mtu.resolve()?;
        Ok(conf)
    }

    /// What can be known without asking the kernel.
    fn valid(request: &Request<'_>) -> Result<Conf> {
        let conf = Conf::of(request)?;
        if conf.disable_container_interface && !conf.ipam.is_empty() {
            return Err(Error::internal("cannot use IPAM when DisableContainerInterface flag is set"));
        }
        if conf.hairpin && conf.promiscuous {
            return Err(Error::internal("cannot set hairpin mode and promiscuous mode at the same time"));
        }
        // The kernel would make another name of one with a `%`.
        if validate_ifname(&conf.bridge).is_err() || conf.bridge.contains('%') {
            return Err(Error::internal(format!("failed to create bridge {:?}: invalid interface name", conf.bridge)));
        }
        if let Some(name) = conf.vlan_gateway().filter(|name| name.len() > LONGEST_NAME) {
            return Err(Error::internal(format!("failed to create vlan interface: invalid interface name {name:?}")));
        }
        conf.mtu.verify().context("failed to make veth pair")?;
        conf.mac.as_ref().map_or(Ok(()), Mac::verify_assignable).context("failed to make veth pair")?;
        Ok(conf)
    }

    fn of(request: &Request<'_>) -> Result<Conf> {
        let vlans = vlans::Wanted::of(&request.config.top())?;
        let mac = container_mac(request)?;
        Conf::decode(&request.config, vlans, mac).context("failed to load netconf")
    }

    fn decode(config: &NetworkConfig, vlans: vlans::Wanted, mac: Option<Mac>) -> Result<Conf> {
        let top = config.top();
        let is_default_gateway = top.boolean("isDefaultGateway")?;
        let bridge = if top.get("bridge").is_some() { top.string("bridge")? } else { "cni0" };
        Ok(Conf {
            bridge: bridge.to_string(),
            is_gateway: top.boolean("isGateway")? || is_default_gateway,
            is_default_gateway,
            force_address: top.boolean("forceAddress")?,
            firewall: Wishes::of(config)?,
            mtu: Mtu::decode(&top, 0)?,
            hairpin: top.boolean("hairpinMode")?,
            isolated: top.boolean("portIsolation")?,
            promiscuous: top.boolean("promiscMode")?,
            vlans,
            enable_dad: top.boolean("enabledad")?,
            disable_container_interface: top.boolean("disableContainerInterface")?,
            accept_ra: advertisements::accepted(&top)?,
            mac,
            ipam: config.ipam_type()?.to_string(),
            dns: config.dns_if_set()?,
        })
    }

    /// What the host's end of the pair is to be, as a port of the bridge.
    fn port(&self) -> PortSettings<'_> {
        PortSettings { hairpin: self.hairpin, isolated: self.isolated, ..self.vlans.port() }
    }

    /// True if the bridge itself has the gateway addresses of this network.
    fn bridge_is_gateway(&self) -> bool {
        self.has_gateway() && self.vlans.id == 0
    }

    /// Name of the interface that has the VLAN's gateway addresses, if this network has any.
    fn vlan_gateway(&self) -> Option<String> {
        let has_one = self.has_gateway() && self.vlans.id != 0;
        has_one.then(|| format!("{}.{}", self.bridge, self.vlans.id))
    }

    fn has_gateway(&self) -> bool {
        self.is_gateway && !self.ipam.is_empty()
    }
}

/// The hardware address asked for: the most specific wish wins.
fn container_mac(request: &Request<'_>) -> Result<Option<Mac>> {
    let args = Args::parse(&request.args, &["MAC"])?;
    let config = &request.config;
    let mut wish = args.get("MAC").unwrap_or("");
    for object in [config.args_cni()?, config.runtime()?].into_iter().flatten() {
        let mac = object.string("mac")?;
        wish = if mac.is_empty() { wish } else { mac };
    }
    match wish {
        "" => Ok(None),
        wish => Mac::parse(wish).map(Some).context("failed to make veth pair"),
    }
}

/// The default route of an address's family.
fn default_route(like: IpAddr) -> IpNet {
    let any: IpAddr = if like.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
    IpNet::new_assert(any, 0)
}
