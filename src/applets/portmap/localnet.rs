//! 127.0.0.1 as a client of mapped ports. With `route_localnet` the kernel lets packets from 127.0.0.0/8 leave over a link,
//! but then it also takes packets to 127.0.0.0/8 that come in there, from containers for instance, and services of the
//! host that listen on 127.0.0.1 because they trust nobody would be open to them. So these packets are dropped first.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::error::{Context, Result};
use crate::firewall::flavour::Flavour;
use crate::firewall::rule::Direction;
use crate::firewall::{Edit, Family, Match, Place, Rule, Session, Table, Target};
use crate::net::{Handle, sysctls};

/// Length of the prefix of 127.0.0.0/8.
const PREFIX: u8 = 8;
const LOOPBACK: &str = "lo";
/// iptables' chain in its table `raw`, which comes before connection tracking: the answers to translated connections
/// still have another destination there.
const CHAIN: &str = "PREROUTING";

/// The rule in a table of nf_tables of our own.
pub(super) fn native_rule() -> Rule {
    let network = IpNet::new_assert(IpAddr::V4(Ipv4Addr::LOCALHOST), PREFIX);
    let foreign = Match::Interface { direction: Direction::In, negated: true, name: LOOPBACK.to_string() };
    Rule::new(vec![foreign, Match::destination(network)], Target::Drop).commented("CNI portmap: 127.0.0.0/8 is local")
}

/// Puts the rule into iptables' table `raw` unless it is there. All containers share it, and it stays: the setting that
/// makes it necessary is never undone either.
pub(super) fn guard(session: &mut Session, flavour: Flavour) -> Result<()> {
    let place = Place::Iptables { flavour, family: Family::V4, table: Table::Raw };
    let rule = native_rule();
    let is_there = session.look(place, |view| Ok(view.chain(CHAIN)?.is_some_and(|chain| chain.holds(&rule))))?;
    if is_there {
        return Ok(());
    }
    session.edit(place, |view| {
        let missing = !view.chain(CHAIN)?.is_some_and(|chain| chain.holds(&rule));
        let edits = missing.then(|| Edit::prepend(CHAIN, rule.clone())).into_iter().collect();
        Ok((edits, ()))
    })
}

/// The setting of the link that leads to the container; `None` when no link does.
fn setting(host: &mut Handle, container: IpAddr) -> Result<Option<String>> {
    let Some(way) = host.way_to(container)? else { return Ok(None) };
    let link = host.find_link_at(way.link)?;
    Ok(link.map(|link| format!("net/ipv4/conf/{}/route_localnet", link.name)))
}

/// Lets packets from 127.0.0.1 leave towards the container. Foreign packets have to be dropped before that.
pub(super) fn enable(host: &mut Handle, container: IpAddr) -> Result<()> {
    match setting(host, container)? {
        None => Ok(()),
        Some(name) => sysctls::ensure(&name, "1").context("unable to enable route_localnet"),
    }
}

/// Whether they may leave.
pub(super) fn is_enabled(host: &mut Handle, container: IpAddr) -> Result<bool> {
    let Some(name) = setting(host, container)? else { return Ok(true) };
    Ok(sysctls::read(&name)? == "1" || sysctls::read("net/ipv4/conf/all/route_localnet")? == "1")
}
