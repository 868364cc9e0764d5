//! `portmap`: leads ports of the host to ports of the container. It comes behind a plugin that gives the container
//! addresses, and passes that plugin's result on.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `runtimeConfig.portMappings` | none | list of `hostPort`, `containerPort`, `protocol` (tcp, udp, sctp), `hostIP` |
//! | `backend` | what the kernel can | `iptables`, or `nftables`: a table of our own |
//! | `snat` | true | sources are translated where the answers would not come back otherwise |
//! | `masqAll` | false | all sources are |
//! | `markMasqBit` | 13 | bit of the mark for such packets (iptables only) |
//! | `externalSetMarkChain` | none | somebody else's chain that marks, and masquerades (iptables only) |
//! | `conditionsV4`, `conditionsV6` | none | further conditions, as words of iptables or nft |
//!
//! `CNI_BOX_IPTABLES` chooses the kind of iptables. Left behind on purpose: chains that all
//! containers share.

mod conditions;
mod conf;
#[cfg(test)]
mod costs;
mod forward;
mod interfaces;
mod iptables;
mod localnet;
mod nftables;
mod remove;

use std::net::IpAddr;

use crate::cni::{CniResult, Plugin, Position, Request, Undo};
use crate::error::{Context, Error, Result, code};
use crate::firewall::flavour::{Flavour, Preference, choose};
use crate::firewall::{Family, Place, Session, Table, conntrack};
use crate::net::Handle;

use conf::{Backend, Conf};
use forward::Forwarding;

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
backend: iptables|nftables
snat: bool
masqAll: bool
markMasqBit: 0..31
externalSetMarkChain: string
conditionsV4[]: string
conditionsV6[]: string
runtimeConfig.portMappings[].hostPort: 1..65535
runtimeConfig.portMappings[].containerPort: 1..65535
runtimeConfig.portMappings[].protocol: string
runtimeConfig.portMappings[].hostIP: ip
";

/// Records about interfaces and links, see [`crate::firewall::records`].
const DIRECTORY: &str = "/run/cni-box/portmap";

/// The applet.
pub static PORTMAP: Portmap = Portmap;

/// See the module's description.
#[derive(Debug)]
pub struct Portmap;

impl Plugin for Portmap {
    fn name(&self) -> &'static str {
        "portmap"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn position(&self) -> Position {
        Position::Behind
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        Conf::of(&request.config).map(drop).context("failed to parse config")
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let conf = Conf::of(&request.config).context("failed to parse config")?;
        let previous = request.config.prev_result().context("failed to parse config")?;
        let previous = previous.ok_or_else(|| Error::internal("must be called as chained plugin"))?;
        if conf.mappings.is_empty() {
            return Ok(previous);
        }
        let addresses = conf::container_addresses(&previous, &request.ifname);
        Forwarding::to_add(request, &conf, forced_flavour(request)?)?.add_all(&addresses, undo)?;
        Ok(previous)
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(&request.config)?;
        let previous = request.config.prev_result()?;
        let previous = previous.ok_or_else(|| Error::internal("Required prevResult missing"))?;
        if conf.mappings.is_empty() {
            return Ok(());
        }
        let addresses = conf::container_addresses(&previous, &request.ifname);
        let mut forwarding = Forwarding::to_check(request, &conf, forced_flavour(request)?);
        addresses.into_iter().try_for_each(|(_, address)| forwarding.check(address))
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        remove::del(request)
    }

    fn gc(&self, request: &Request<'_>) -> Result<()> {
        remove::gc(request)
    }

    /// Asks the kernel for what ADD will need. Runtimes name the ports only with an ADD, and most containers have none, so as
    /// a rule there is nothing to ask for. A family that the host does not have need not be served.
    fn status(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(&request.config)?;
        if conf.mappings.is_empty() {
            return Ok(());
        }
        let forced = forced_flavour(request)?;
        let unavailable =
            |error: Error| Error::new(code::NOT_AVAILABLE, format!("ports cannot be mapped: {}", error.msg));
        let mut session = Session::default();
        let path = request.host.variable("PATH");
        let probe = |session: &mut Session, backend| match backend {
            Backend::Nftables => session.probe(nftables::place(Family::V4), &nftables::probe(Family::V4)),
            Backend::Iptables => {
                let flavour = choose(session, &Preference { forced, path: &path })?;
                session.probe(iptables_place(flavour, Family::V4), &iptables::probe(Family::V4))
            }
        };
        match conf.backend {
            Some(backend) => probe(&mut session, backend),
            None => probe(&mut session, Backend::Iptables)
                .or_else(|error| probe(&mut session, Backend::Nftables).map_err(|_| error)),
        }
        .map_err(unavailable)
    }
}

/// The iptables flavour that the administrator demands, if any.
fn forced_flavour(request: &Request<'_>) -> Result<Option<Flavour>> {
    Flavour::forced(&request.host.variable("CNI_BOX_IPTABLES"))
}

/// How the attachment's rules are known in our own tables.
fn owner(request: &Request<'_>) -> nftables::Owner {
    nftables::Owner::new(&request.config.name, &request.container_id, &request.ifname)
}

/// Where iptables' rules of a family are.
fn iptables_place(flavour: Flavour, family: Family) -> Place {
    Place::Iptables { flavour, family, table: Table::Nat }
}

/// Forgets UDP flows to these destinations.
fn forget(family: Family, destinations: &[conntrack::Destination]) -> Result<usize> {
    if destinations.is_empty() {
        return Ok(0);
    }
    let mut host: Option<Handle> = None;
    conntrack::forget_udp(family, destinations, |address: IpAddr| {
        let host = match &mut host {
            Some(host) => host,
            none => none.insert(Handle::current()?),
        };
        Ok(host.way_to(address)?.is_some_and(|way| way.is_local))
    })
}
