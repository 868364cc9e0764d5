//! What there is of a dead attachment, in words, found without changing anything.

use std::net::IpAddr;
use std::path::Path;

use super::gather::Attachments;
use crate::cni::Object;
use crate::cni::cache;
use crate::cni::conflist::NetworkList;
use crate::cni::names::own_name;
use crate::error::Result;
use crate::firewall::masquerade::Masquerade;
use crate::firewall::owners::{Owner, Owners};
use crate::firewall::{Session, names};
use crate::ipam::evidence::{Found, Key};
use crate::ipam::store::survey::Reservation;
use crate::net::Handle;
use crate::sorted::Groups;

/// Longest name of a chain, and of a link.
const CHAIN_NAME: usize = 28;
const LINK_NAME: usize = 15;

/// Where `tuning` and `flannel` keep what DEL needs, unless their configuration says otherwise.
const SAVED: [(&str, &str); 2] = [("tuning", "/run/cni/tuning"), ("flannel", "/var/lib/cni/flannel")];

/// The addresses for which the firewall has rules, by attachment.
pub(super) type FirewallAddresses = Groups<Key, IpAddr>;

/// See [`FirewallAddresses`].
pub(super) fn firewall_addresses() -> Result<FirewallAddresses> {
    let owned = Owners::open().all()?.into_iter();
    let keyed =
        owned.map(|(address, Owner { network, container, ifname, .. })| (Key { network, container, ifname }, address));
    Ok(Groups::new(keyed.collect()))
}

/// An indented line for each part.
pub(super) fn describe(
    found: &Found,
    attachments: &Attachments,
    firewall: &FirewallAddresses,
    list: Option<&NetworkList>,
) -> Result<String> {
    let key @ Key { network, container, ifname } = &found.key;
    let mut lines = Vec::new();
    if found.cached.is_some() {
        lines.push(format!("result cache {}/{network}-{container}-{ifname}", cache::DIRECTORY));
    }
    // Its own, and those of old releases for its container.
    let old = attachments.get(&Key { ifname: String::new(), ..key.clone() });
    for holder in old.into_iter().chain([found]) {
        for (data_dir, Reservation { address, .. }) in &holder.reservations {
            lines.push(format!("address {address} ({}/{network}/{address})", data_dir.display()));
        }
    }
    rules(key, &mut lines)?;
    lines.extend(firewall.get(key).map(|address| format!("firewall rules of {address}")));
    let mut host = Handle::current()?;
    for name in [container.clone(), format!("{container}/{ifname}")] {
        let name = names::hashed("bwp", network, &name, LINK_NAME);
        if host.find_link(&name)?.is_some_and(|link| link.kind == "ifb") {
            lines.push(format!("ifb {name}"));
        }
    }
    if let Some(list) = list {
        saved(key, list, &mut lines);
        let kinds: Vec<&str> = list.plugins.iter().map(|plugin| plugin.kind.as_str()).collect();
        lines.push(format!("whatever else DEL of {} finds", kinds.join(", ")));
    }
    Ok(lines.into_iter().map(|line| format!("  {line}\n")).collect())
}

fn rules(Key { network, container, ifname }: &Key, lines: &mut Vec<String>) -> Result<()> {
    let mut session = Session::default();
    if (Masquerade { network, container, ifname }).is_there(&mut session)? {
        lines.push("masquerade rules".to_string());
    }
    let chain = names::hashed("CNI-DN-", network, container, CHAIN_NAME);
    if session.has_nat_chain(&chain)? {
        lines.push(format!("port mappings {chain}"));
    }
    Ok(())
}

/// What only the plugins of the configuration know of.
fn saved(Key { container, ifname, .. }: &Key, list: &NetworkList, lines: &mut Vec<String>) {
    for plugin in &list.plugins {
        let top = Object::top(plugin.map());
        let ipam = top.object("ipam").ok().flatten();
        if ipam.is_some_and(|ipam| ipam.string("type").map(own_name) == Ok("dhcp")) {
            lines.push("lease, if the dhcp daemon has it still".to_string());
        }
        let default = SAVED.iter().find(|(name, _)| *name == own_name(&plugin.kind)).map(|(_, folder)| *folder);
        let Some(default) = default else { continue };
        let folder = top.string("dataDir").ok().filter(|folder| !folder.is_empty()).unwrap_or(default);
        let files = [format!("{folder}/{container}_{ifname}.json"), format!("{folder}/{container}")];
        let there = files.into_iter().filter(|file| Path::new(file).is_file());
        lines.extend(there.map(|file| format!("saved settings {file}")));
    }
}
