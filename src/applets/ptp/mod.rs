//! `ptp`: connects a container to the host by a veth pair of its own, with the host as its gateway.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `ipMasq` | false | traffic leaving the network is masqueraded |
//! | `ipMasqBackend` | what the kernel has, `iptables` first | `iptables` or `nftables`: what keeps the rules for that |
//! | `mtu` | kernel's | of both ends; `"auto"`: that of the host's default route |
//! | `acceptRA` | false | take advertised addresses and default routes beside those of IPAM |
//! | `ipam`, `dns` | | address management plugin (required); name resolution to report |
//!
//! The host's end has the gateway's address, and the host a route to each address of the container. The container sends
//! everything to the gateway, its neighbours' packets too.
//!
//! Left behind on purpose, as by the reference: forwarding.

mod check;

use crate::cni::result::{Dns, Interface};
use crate::cni::{CniResult, NetworkConfig, Plugin, Request, Undo};
use crate::error::{Context, Error, Failures, Result};
use crate::firewall::Session;
use crate::ip_masq;
use crate::ipam::advertisements;
use crate::ipam::apply::Target;
use crate::ipam::attach::{self, open_netns, required_ipam};
use crate::ipam::detach::Attachment;
use crate::ipam::interface_record::{self, InterfaceRecord};
use crate::ipam::mtu::Mtu;
use crate::ipam::plan;
use crate::ipam::point_to_point;
use crate::net::{Handle, Netns, forwarding, links, veth};

/// Index of the container's interface in the result.
const CONTAINER: i64 = 1;

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
ipMasq: bool
ipMasqBackend: ?iptables|nftables
mtu: ?0..4294967295|auto
acceptRA: bool
ipam.type: string
";

/// The applet.
pub static PTP: Ptp = Ptp;

/// See the module's description.
#[derive(Debug)]
pub struct Ptp;

/// A configuration that can be carried out.
#[derive(Debug)]
struct Conf {
    masquerade: bool,
    mtu: Mtu,
    /// `dns` if the configuration sets anything there.
    dns: Option<Dns>,
}

impl Conf {
    fn of(request: &Request<'_>) -> Result<Conf> {
        Conf::decode(&request.config).context("failed to load netconf")
    }

    fn decode(config: &NetworkConfig) -> Result<Conf> {
        let top = config.top();
        Ok(Conf { masquerade: top.boolean("ipMasq")?, mtu: Mtu::decode(&top, 0)?, dns: config.dns_if_set()? })
    }
}

impl Plugin for Ptp {
    fn name(&self) -> &'static str {
        "ptp"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        conf.mtu.verify().context("failed to make veth pair")?;
        accept_ra(request)?;
        attach::require_ipam_type(request)?;
        ip_masq::manner(request, conf.masquerade)?;
        plan::expected(request)?.iter().try_for_each(|result| {
            plan::verify_mtu(result, conf.mtu.bytes().into())?;
            point_to_point::check(&request.ifname, result)
        })
    }

    /// The IPAM comes first, as in the reference: a second ADD of the same interface gets its refusal.
    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let mut conf = Conf::of(request)?;
        accept_ra(request)?;
        conf.mtu.resolve()?;
        let ipam = required_ipam(request)?;
        let manner = ip_masq::manner(request, conf.masquerade)?;
        let container = open_netns(request)?;
        let mut result = ipam.add(request, undo)?;
        if result.ips.is_empty() {
            return Err(plan::no_addresses());
        }
        point_to_point::require_gateways(&result)?;
        let has = |v6: bool| result.ips.iter().any(|ip| ip.address.addr().is_ipv6() == v6);
        forwarding::enable(has(false), has(true)).with_context(|| {
            let addresses: Vec<String> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
            format!("Could not enable IP forwarding for {}", addresses.join(", "))
        })?;
        connect(&conf, request, &container, &mut result, undo)?;
        if let Some(manner) = manner {
            ip_masq::begin(&manner, &mut Session::default(), request, &result, undo)?;
        }
        if let Some(dns) = conf.dns {
            result.dns = dns;
        }
        Ok(result)
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let container = open_netns(request)?;
        call_ipam(request)?;
        check::check(&conf, request, &container)
    }

    /// Carries on past each failure. Masquerading goes first: a DEL that is killed after it still finds the addresses when
    /// it is repeated. An interface that is still there keeps its address: somebody else would get it meanwhile.
    fn del(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let mut failures = Failures::default();
        let removed = failures.note(Attachment::find(request)).and_then(|mut attachment| {
            if conf.masquerade {
                failures.note(ip_masq::end(&mut Session::default(), request, &mut attachment));
            }
            failures.note(attachment.remove(request))
        });
        if removed == Some(true) {
            failures.note(interface_record::forget(request));
            failures.note(call_ipam(request));
        }
        failures.finish()
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        let mut failures = Failures::default();
        if conf.masquerade {
            failures.note(ip_masq::collect_garbage(&mut Session::default(), request));
        }
        failures.note(attach::collect(request));
        failures.finish()
    }

    fn status(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(request)?;
        if let Some(manner) = ip_masq::manner(request, conf.masquerade)? {
            manner.probe(&mut Session::default())?;
        }
        call_ipam(request)
    }
}

/// Creates the pair and configures both ends. The host's comes first: the container's first packet finds its gateway there.
fn connect(
    conf: &Conf,
    request: &Request<'_>,
    container: &Netns,
    result: &mut CniResult,
    undo: &mut Undo,
) -> Result<()> {
    let mut host = Handle::current()?;
    let name = &request.ifname;
    let wanted = veth::Wanted { container, ifname: name, mac: None, master: None, mtu: conf.mtu.bytes() };
    let pair = veth::create(&mut host, &wanted)?;
    let host_name = pair.host_name.clone();
    undo.push(move || veth::delete(&host_name));
    InterfaceRecord::of_pair(request, container, &pair).write(undo);
    result.interfaces = vec![
        Interface::new(&pair.host_name, &pair.host_mac, ""),
        Interface::new(name, &pair.container_mac, &request.netns),
    ];
    for ip in &mut result.ips {
        ip.interface = Some(CONTAINER);
    }
    let port = links::index_of(Netns::home()?, &pair.host_name)?;
    let port = port.ok_or_else(|| Error::internal(format!("failed to lookup {:?}: Link not found", pair.host_name)))?;
    point_to_point::configure_host(&mut host, port, result)?;
    let mut inside = Handle::inside(container)?;
    let (index, accept_ra) = (pair.container_index, accept_ra(request)?);
    let mut target = Target { netns: container, handle: &mut inside, index, name, accept_ra };
    point_to_point::configure_container(&mut target, result)
}

/// Not part of [`Conf`]: DEL does without.
fn accept_ra(request: &Request<'_>) -> Result<bool> {
    advertisements::accepted(&request.config.top()).context("failed to load netconf")
}

/// Passes the call on to the IPAM plugin, which there must be.
fn call_ipam(request: &Request<'_>) -> Result<()> {
    required_ipam(request)?.call(request)
}
