//! Source NAT of containers: the `ipMasq` of the reference's bridge and ptp. Packets of a container that leave its subnet
//! get the host's address, unless they go to many. The rules are kept by one of two backends: in iptables' tables, or in
//! a table of nf_tables of our own. Whoever looks for them looks in both.

mod iptables;
mod manner;
mod nftables;
mod plan;
#[cfg(test)]
mod tests;

pub use manner::Manner;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{Context, Errno, Error, Failures, Result};
use crate::firewall::flavour::{Flavour, Preference};
use crate::firewall::names;
use crate::firewall::rule::{Family, Rule};
use crate::firewall::session::Session;

/// The length of a chain's name in the reference; the kernel's limit is 28 characters too.
const CHAIN_NAME_LENGTH: usize = 28;

/// The chain of a container's attachments to a network: `CNI-` and 24 hexadecimal digits.
pub fn chain_name(network: &str, container: &str) -> String {
    names::hashed("CNI-", network, container, CHAIN_NAME_LENGTH)
}

/// The comment of all rules of a container's attachments to a network.
pub fn comment(network: &str, container: &str) -> String {
    names::comment(network, container)
}

/// What keeps the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Tables of iptables, in the flavour that the host uses.
    Iptables,
    /// A table of nf_tables that is no table of iptables.
    Nftables,
}

impl Backend {
    /// The backend that a configuration names.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "iptables" => Ok(Backend::Iptables),
            "nftables" => Ok(Backend::Nftables),
            _ => Err(Error::internal(format!("unknown ipmasq backend {name:?}"))),
        }
    }
}

/// An attachment whose traffic is masqueraded.
#[derive(Debug, Clone, Copy)]
pub struct Masquerade<'a> {
    /// Name of the network.
    pub network: &'a str,
    /// The container's id.
    pub container: &'a str,
    /// The container's interface.
    pub ifname: &'a str,
}

/// What one [`Masquerade::add`] has added, no more: what was there before it stays when it is undone.
#[derive(Debug, Clone)]
#[must_use = "an ADD that fails later has to undo this"]
pub struct Added(Kept);

#[derive(Debug, Clone)]
enum Kept {
    Iptables(iptables::Added),
    Nftables(Vec<Rule>),
}

impl Added {
    /// Takes away what was added. Rules that others share by now stay, and so does what all share.
    pub fn undo(self, session: &mut Session) -> Result<()> {
        match self.0 {
            Kept::Iptables(added) => iptables::undo(session, added),
            Kept::Nftables(rules) => nftables::undo(session, &rules),
        }
    }
}

impl Masquerade<'_> {
    /// Makes packets from these addresses (each with the prefix length of its subnet) leave with the host's address.
    /// What is there already is not added again. All or nothing. Without a wish the backend is iptables, or nf_tables where
    /// the kernel cannot do it as iptables does.
    pub fn add(
        &self,
        session: &mut Session,
        addresses: &[IpNet],
        backend: Option<Backend>,
        preference: &Preference<'_>,
    ) -> Result<Added> {
        if addresses.is_empty() {
            return Ok(Added(Kept::Nftables(Vec::new())));
        }
        let added = with_backend(session, backend, preference, |session, backend| match backend {
            Backend::Iptables => iptables::add(session, self, addresses, preference).map(Kept::Iptables),
            Backend::Nftables => nftables::add(session, self, addresses).map(Kept::Nftables),
        });
        added.map(Added).with_context(|| self.failed_to("add"))
    }

    /// Ends it, in both backends. Rules of iptables are found by these addresses, or, when nobody knows them any more, all
    /// of the container's go. Both flavours are searched, x_tables also where its tables cannot be listed if `forced` says
    /// that they are used. What is missing is no failure; failures are reported together.
    pub fn del(&self, session: &mut Session, addresses: Option<&[IpAddr]>, forced: Option<Flavour>) -> Result<()> {
        let mut failures = Failures::default();
        failures.note(iptables::del(session, self, addresses, forced));
        failures.note(nftables::del(session, self));
        failures.finish().with_context(|| self.failed_to("delete"))
    }

    /// True when either backend has rules of the container for this network.
    pub fn is_there(&self, session: &mut Session) -> Result<bool> {
        let chain = chain_name(self.network, self.container);
        Ok(session.has_nat_chain(&chain)? || nftables::has_any(session, self)?)
    }

    /// Fails, saying what is missing, unless one of the backends has all rules for these addresses.
    pub fn verify(&self, session: &mut Session, addresses: &[IpNet], forced: Option<Flavour>) -> Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        let (iptables, nftables) = (
            iptables::lacks(session, self, addresses, forced).with_context(|| self.failed_to("verify"))?,
            nftables::lacks(session, self, addresses).with_context(|| self.failed_to("verify"))?,
        );
        match (iptables, nftables) {
            (Some(iptables), Some(nftables)) => {
                let lack = format!("in iptables, {iptables}; in nftables, {nftables}");
                Err(Error::internal(lack).context(&self.failed_to("find")))
            }
            _ => Ok(()),
        }
    }

    fn failed_to(&self, verb: &str) -> String {
        format!("failed to {verb} masquerade rules of container {:?} in network {:?}", self.container, self.network)
    }
}

/// Deletes, in both backends, the network's rules of attachments that are not among the valid ones (container and
/// interface). Past failures, which are reported together.
pub fn gc(session: &mut Session, network: &str, valid: &[(String, String)], forced: Option<Flavour>) -> Result<()> {
    let valid: Vec<_> = valid.iter().map(|(container, ifname)| Masquerade { network, container, ifname }).collect();
    let mut failures = Failures::default();
    failures.note(iptables::gc(session, network, &valid, forced));
    failures.note(nftables::gc(session, network, &valid));
    failures.finish().with_context(|| format!("failed to delete old masquerade rules of network {network:?}"))
}

/// Fails if the kernel would not take masquerade rules. Changes nothing.
pub fn probe(session: &mut Session, backend: Option<Backend>, preference: &Preference<'_>) -> Result<()> {
    // No container has such names.
    let nobody = Masquerade { network: "", container: "", ifname: "" };
    let addresses = Family::BOTH.map(|family| IpNet::from(multicast(family).addr()));
    let probed = with_backend(session, backend, preference, |session, backend| match backend {
        Backend::Iptables => iptables::probe(session, &nobody, &addresses, preference),
        Backend::Nftables => nftables::probe(session, &nobody, &addresses),
    });
    probed.context("masquerading is not possible")
}

/// Does it with the wanted backend. Without a wish: with iptables, and if the kernel lacks what that needs, with nf_tables.
/// An administrator who demands a flavour of iptables gets that or nothing.
fn with_backend<T>(
    session: &mut Session,
    wanted: Option<Backend>,
    preference: &Preference<'_>,
    mut act: impl FnMut(&mut Session, Backend) -> Result<T>,
) -> Result<T> {
    let done = act(session, wanted.unwrap_or(Backend::Iptables));
    match done {
        Err(error) if wanted.is_none() && preference.forced.is_none() && is_lack(&error) => {
            // Where neither is to be had, the first one's reason is what people know.
            act(session, Backend::Nftables).map_err(|_| error)
        }
        done => done,
    }
}

/// The kernel lacks a facility: a table, a match or target of x_tables, or a protocol family.
fn is_lack(error: &Error) -> bool {
    let errnos = [Errno::ENOENT, Errno::ENOPROTOOPT, Errno::EOPNOTSUPP, Errno::EPROTONOSUPPORT, Errno::EAFNOSUPPORT];
    errnos.into_iter().any(|errno| error.is(errno))
}

/// Addresses of groups, which are never masqueraded.
fn multicast(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8).into(),
    }
}
