//! The configuration of `portmap`, and what follows from it and from the previous result.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::result::{IpConfig, parse_ip};
use crate::cni::{CniResult, NetworkConfig, Object, Request};
use crate::error::{Context, Error, Result, code};
use crate::firewall::conntrack::Destination;
use crate::firewall::rule::Protocol;
use crate::firewall::{Family, Match};
use crate::sorted::unique;

use super::conditions;

/// Bit of the packet's mark that asks for masquerading. Kubernetes uses 14 and 15, Calico 20 to 31.
const DEFAULT_MARK_BIT: i64 = 13;
/// Longest name of a chain (`XT_EXTENSION_MAXNAMELEN` without the NUL).
const LONGEST_CHAIN_NAME: usize = 28;

/// A configuration that can be carried out.
#[derive(Debug)]
pub(super) struct Conf {
    /// What rules are made of; `None` when the configuration leaves it to us.
    pub(super) backend: Option<Backend>,
    /// Source addresses are translated where the answers would not come back otherwise.
    pub(super) snat: bool,
    /// Whoever the client is.
    pub(super) masq_all: bool,
    /// How packets whose source has to be translated are marked (iptables only).
    pub(super) marking: Marking,
    /// Further conditions, for each family.
    conditions: [Vec<Match>; 2],
    /// In the order of the configuration.
    pub(super) mappings: Vec<Mapping>,
}

/// What rules are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    /// The table `nat` of iptables.
    Iptables,
    /// Tables of nf_tables of our own.
    Nftables,
}

/// How a packet is marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Marking {
    /// By our own chain, with this one bit set.
    Mark(u32),
    /// By somebody else's chain, who also masquerades.
    Chain(String),
}

/// A port of the host that leads to a port of the container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mapping {
    /// On the host.
    pub(super) host_port: u16,
    /// In the container.
    pub(super) container_port: u16,
    pub(super) protocol: Protocol,
    /// As configured: an unspecified address stands for all of its family.
    host_ip: Option<IpAddr>,
}

impl Backend {
    const fn name(self) -> &'static str {
        match self {
            Backend::Iptables => "iptables",
            Backend::Nftables => "nftables",
        }
    }
}

impl Conf {
    /// Decodes what ADD and CHECK need. The reference's checks come first, in its order.
    pub(super) fn of(config: &NetworkConfig) -> Result<Conf> {
        let top = config.top();
        let keys = Keys::decode(&top).context("failed to parse network configuration")?;
        let mappings = raw_mappings(config).context("failed to parse network configuration")?;
        config.prev_result()?;
        let marking = keys.marking()?;
        let backend = keys.backend()?;
        mappings.iter().try_for_each(RawMapping::validate)?;
        let mappings = mappings.iter().map(RawMapping::parse).collect::<Result<Vec<Mapping>>>()?;
        refuse_unreachable(&mappings)?;
        Ok(Conf {
            backend,
            snat: top.boolean_if_set("snat")?.unwrap_or(true),
            masq_all: top.boolean("masqAll")?,
            marking,
            conditions: [
                conditions::parse("conditionsV4", Family::V4, &keys.conditions_v4)?,
                conditions::parse("conditionsV6", Family::V6, &keys.conditions_v6)?,
            ],
            mappings: unique(mappings),
        })
    }

    /// Further conditions on packets of a family.
    pub(super) fn conditions(&self, family: Family) -> &[Match] {
        let [v4, v6] = &self.conditions;
        if family == Family::V4 { v4 } else { v6 }
    }

    /// True if clients at 127.0.0.1 may use mappings for packets of this family.
    pub(super) fn needs_localnet(&self, family: Family) -> bool {
        self.snat && family == Family::V4 && self.mappings_of(family).next().is_some()
    }

    /// The mappings for packets of a family.
    pub(super) fn mappings_of(&self, family: Family) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(move |mapping| mapping.applies_to(family))
    }
}

impl Mapping {
    /// For packets of this family: the host address must be of it, or none be given.
    pub(super) fn applies_to(&self, family: Family) -> bool {
        self.host_ip.is_none_or(|address| Family::of_address(address) == family)
    }

    /// The one address of the host that is meant; `None` for all.
    pub(super) fn destination(&self) -> Option<IpAddr> {
        self.host_ip.filter(|address| !address.is_unspecified())
    }

    /// Where packets are sent to, if they are UDP.
    fn udp_destination(&self) -> Option<Destination> {
        let destination = Destination { port: self.host_port, address: self.destination() };
        (self.protocol == Protocol::Udp).then_some(destination)
    }

    /// Packets that `self` takes leave none for `other`, in some family, and `other` leads elsewhere.
    fn hides(&self, other: &Mapping) -> bool {
        let same_port = (self.protocol, self.host_port) == (other.protocol, other.host_port);
        let both = |family| self.applies_to(family) && other.applies_to(family);
        let covers = self.destination().is_none() || self.destination() == other.destination();
        same_port && Family::BOTH.into_iter().any(both) && covers && self.container_port != other.container_port
    }

    fn host_text(&self) -> String {
        let address = self.host_ip.map_or(String::new(), |address| format!("{address} "));
        format!("{address}{} {}", self.protocol.name(), self.host_port)
    }
}

/// The container's address of each family, with the length of its network's prefix.
pub(super) fn container_addresses(previous: &CniResult, ifname: &str) -> Vec<(Family, IpNet)> {
    let is_containers = |ip: &IpConfig| {
        previous.interface_of(ip).is_none_or(|interface| interface.name == ifname && !interface.sandbox.is_empty())
    };
    let addresses: Vec<IpNet> = previous.ips.iter().filter(|ip| is_containers(ip)).map(|ip| ip.address).collect();
    let first = |family| addresses.iter().copied().find(|address| Family::of(address) == family);
    Family::BOTH.into_iter().filter_map(|family| Some((family, first(family)?))).collect()
}

/// Where packets of a family are mapped from, if they are UDP.
pub(super) fn udp_destinations(mappings: &[Mapping], family: Family) -> Vec<Destination> {
    mappings.iter().filter(|mapping| mapping.applies_to(family)).filter_map(Mapping::udp_destination).collect()
}

/// The mappings as far as the configuration says them: DEL does not fail for one that has become invalid.
pub(super) fn valid_mappings(request: &Request<'_>) -> Vec<Mapping> {
    let mappings = raw_mappings(&request.config).unwrap_or_default();
    mappings.iter().filter_map(|raw| raw.validate().and_then(|()| raw.parse()).ok()).collect()
}

/// Keys that are judged together.
struct Keys {
    backend: Option<String>,
    mark_bit: Option<i64>,
    external_chain: Option<String>,
    conditions_v4: Vec<String>,
    conditions_v6: Vec<String>,
}

impl Keys {
    fn decode(top: &Object<'_>) -> Result<Keys> {
        let text = |key: &str| Ok::<_, Error>(top.get(key).is_some().then_some(top.string(key)?.to_string()));
        top.boolean("snat")?;
        top.boolean("masqAll")?;
        Ok(Keys {
            backend: text("backend")?,
            mark_bit: top.integer_if_set("markMasqBit")?,
            external_chain: text("externalSetMarkChain")?,
            conditions_v4: top.strings("conditionsV4")?,
            conditions_v6: top.strings("conditionsV6")?,
        })
    }

    fn marking(&self) -> Result<Marking> {
        if self.mark_bit.is_some() && self.external_chain.is_some() {
            return Err(Error::internal("Cannot specify externalSetMarkChain and markMasqBit"));
        }
        let bit = u32::try_from(self.mark_bit.unwrap_or(DEFAULT_MARK_BIT)).ok().and_then(|bit| 1u32.checked_shl(bit));
        let mark = bit.ok_or_else(|| Error::internal("MasqMarkBit must be between 0 and 31"))?;
        match &self.external_chain {
            None => Ok(Marking::Mark(mark)),
            Some(name) => chain_name(name).map(Marking::Chain),
        }
    }

    /// The backend asked for, or the only one that understands the conditions.
    fn backend(&self) -> Result<Option<Backend>> {
        let external = self.external_chain.as_ref().map(|_| Backend::Iptables);
        let options = [
            ("externalSetMarkChain", external),
            ("conditionsV4", conditions::backend_of(&self.conditions_v4)),
            ("conditionsV6", conditions::backend_of(&self.conditions_v6)),
        ];
        // When they contradict each other iptables counts, as in the reference.
        let speaks = |backend| options.iter().any(|(_, spoken)| *spoken == Some(backend)).then_some(backend);
        let spoken = speaks(Backend::Iptables).or_else(|| speaks(Backend::Nftables));
        let (requested, name) = match self.backend.as_deref() {
            None => (spoken, spoken.map_or("", Backend::name)),
            Some(name) => ([Backend::Iptables, Backend::Nftables].into_iter().find(|known| known.name() == name), name),
        };
        // As in the reference, an unknown backend is told so only when nothing contradicts it.
        let wrong = if requested == Some(Backend::Iptables) { Backend::Nftables } else { Backend::Iptables };
        let conflicts: Vec<_> =
            options.iter().filter(|(_, backend)| *backend == Some(wrong)).map(|(option, _)| *option).collect();
        if !conflicts.is_empty() {
            return Err(Error::internal(format!(
                "{name} backend was requested but configuration contains {}-specific options [{}]",
                wrong.name(),
                conflicts.join(" ")
            )));
        }
        match (requested, &self.backend) {
            (None, Some(name)) => Err(Error::internal(format!("unrecognized backend {name:?}"))),
            (requested, _) => Ok(requested),
        }
    }
}

fn chain_name(name: &str) -> Result<String> {
    let fits = !name.is_empty() && name.len() <= LONGEST_CHAIN_NAME;
    if fits && !name.starts_with(['-', '!']) && !name.contains(|letter: char| letter.is_whitespace()) {
        return Ok(name.to_string());
    }
    let msg = format!("invalid externalSetMarkChain {name:?}: a chain's name has 1 to {LONGEST_CHAIN_NAME} characters");
    Err(Error::new(code::INVALID_CONFIG, msg))
}

/// A mapping as decoded.
struct RawMapping<'a> {
    host_port: i64,
    container_port: i64,
    protocol: &'a str,
    host_ip: &'a str,
}

fn raw_mappings(config: &NetworkConfig) -> Result<Vec<RawMapping<'_>>> {
    let Some(runtime) = config.runtime()? else { return Ok(Vec::new()) };
    runtime.objects("portMappings")?.iter().map(RawMapping::decode).collect()
}

impl<'a> RawMapping<'a> {
    fn decode(object: &Object<'a>) -> Result<RawMapping<'a>> {
        Ok(RawMapping {
            host_port: object.integer("hostPort")?,
            container_port: object.integer("containerPort")?,
            protocol: object.string("protocol")?,
            host_ip: object.string("hostIP")?,
        })
    }

    /// What the reference checks, and that the numbers are ports.
    fn validate(&self) -> Result<()> {
        port("container", self.container_port)?;
        port("host", self.host_port).map(drop)
    }

    fn parse(&self) -> Result<Mapping> {
        let invalid = |text: String| Error::new(code::INVALID_CONFIG, format!("invalid port mapping: {text}"));
        let protocol = Protocol::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(self.protocol));
        let unknown = || invalid(format!("unknown protocol {:?}: must be tcp, udp or sctp", self.protocol));
        let host_ip = (!self.host_ip.is_empty()).then(|| parse_ip(self.host_ip)).transpose();
        Ok(Mapping {
            host_port: port("host", self.host_port)?,
            container_port: port("container", self.container_port)?,
            protocol: protocol.ok_or_else(unknown)?,
            host_ip: host_ip.map_err(|_| invalid(format!("hostIP {:?} is no address", self.host_ip)))?,
        })
    }
}

fn port(whose: &str, number: i64) -> Result<u16> {
    let fits = u16::try_from(number).ok().filter(|port| *port > 0);
    fits.ok_or_else(|| Error::internal(format!("Invalid {whose} port number: {number}")))
}

/// A mapping that no packet can reach, because an earlier one takes them all, is a mistake.
fn refuse_unreachable(mappings: &[Mapping]) -> Result<()> {
    let port = |mapping: &Mapping| (mapping.protocol, mapping.host_port);
    let mut by_port: Vec<&Mapping> = mappings.iter().collect();
    by_port.sort_by_key(|mapping| port(mapping));
    by_port.chunk_by(|one, next| port(one) == port(next)).try_for_each(refuse_hidden)
}

/// The mappings have one port, in their order.
fn refuse_hidden(mappings: &[&Mapping]) -> Result<()> {
    for (number, later) in mappings.iter().enumerate() {
        if let Some(earlier) = mappings.iter().take(number).find(|earlier| earlier.hides(later)) {
            let (port, other) = (later.container_port, earlier.container_port);
            let msg = format!(
                "overlapping port mappings: {} to container port {port} is taken by {} to container port {other}",
                later.host_text(),
                earlier.host_text()
            );
            return Err(Error::new(code::INVALID_CONFIG, msg));
        }
    }
    Ok(())
}
