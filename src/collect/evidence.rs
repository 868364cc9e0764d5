//! Which attachments there are, and which of them are dead for certain.
//!
//! An attachment is known from the result cache, from reservations of host-local, or from both. It is dead when
//!
//! - all its reservations are over by their records (`ipam/record.rs`): the boot or the namespace by its number and
//!   cookie. That is proof whatever path the cache names, and whatever stands there by now.
//! - or, where no record tells (the Go plugin, other address management), the path in the cache leads nowhere, for no
//!   process of the machine, and the interface is gone: the host's end of its veth pair, or, where it has none, from all
//!   namespaces that are in use. Who sees only a part of the machine's processes cannot know that.
//!
//! Times prove nothing: clocks may begin in 1970 at each boot, so a file that looks older than this boot need not be. What
//! the cache alone tells of, and whose path leads to a namespace, therefore stays.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind::NotFound;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Command;
use crate::cni::Object;
use crate::cni::cache::Cached;
use crate::cni::conflist::NetworkList;
use crate::cni::environment::validate_network_name;
use crate::cni::result::Interface;
use crate::error::{Context, Result};
use crate::ipam::store::survey::{Life, Reservation, survey};
use crate::ipam::store::{DEFAULT_DATA_DIR, Store};
use crate::net::{Handle, Netns};
use crate::sys::namespaces::{Census, Presence};

/// What names an attachment. In order of network, container, interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) network: String,
    pub(super) container: String,
    /// Empty for the reservations of old releases, which are a container's.
    pub(super) ifname: String,
}

impl Key {
    /// Something of theirs may have the same name.
    pub(super) fn shares_names_with(&self, other: &Key) -> bool {
        self.container == other.container && (self.network == other.network || self.ifname == other.ifname)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.network, self.container, self.ifname)
    }
}

/// What tells of an attachment.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) cached: Option<Cached>,
    /// With the `dataDir` of each.
    pub(super) reservations: Vec<(PathBuf, Reservation)>,
}

pub(super) type Attachments = BTreeMap<Key, Found>;

/// What follows from it.
#[derive(Debug)]
pub(super) enum Verdict {
    Lives,
    /// It is dead; the proof in words.
    Gone(String),
    /// Nothing tells; why, if it may be dead.
    Unknown(String),
}

impl Command<'_> {
    /// All attachments that are known, of every network. Changes nothing on a dry run.
    pub(super) fn gather(&self) -> Result<Attachments> {
        let mut attachments = Attachments::new();
        let mut stores = self.default_stores()?;
        self.lists.iter().for_each(|list| add_stores(&mut stores, list));
        for (network, cached) in self.cache.list(None)? {
            if let Ok(list) = NetworkList::parse(&cached.config) {
                add_stores(&mut stores, &list);
            }
            let attachment = &cached.attachment;
            let (container, ifname) = (attachment.container_id.clone(), attachment.ifname.clone());
            attachments.entry(Key { network, container, ifname }).or_default().cached = Some(cached);
        }
        for (data_dir, network) in stores {
            self.add_reservations(&mut attachments, &data_dir, &network)?;
        }
        Ok(attachments)
    }

    /// The networks that have a folder where host-local keeps its reservations by default.
    fn default_stores(&self) -> Result<Vec<(PathBuf, String)>> {
        let context = || format!("failed to read directory {DEFAULT_DATA_DIR:?}");
        let entries = match fs::read_dir(DEFAULT_DATA_DIR) {
            Err(error) if error.kind() == NotFound => return Ok(Vec::new()),
            entries => entries.with_context(context)?,
        };
        let mut stores = Vec::new();
        for entry in entries {
            let entry = entry.with_context(context)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if validate_network_name(&name).is_ok() && entry.file_type().with_context(context)?.is_dir() {
                stores.push((PathBuf::from(DEFAULT_DATA_DIR), name));
            }
        }
        Ok(stores)
    }

    fn add_reservations(&self, attachments: &mut Attachments, data_dir: &Path, network: &str) -> Result<()> {
        let reservations = survey(data_dir, network, &[])?;
        if !self.dry_run
            && self.wants(network)
            && reservations.iter().any(|one| one.life == Life::Unknown && !one.ifname.is_empty())
        {
            // Those of the Go plugin are noted as seen in this boot, so that the next one knows that they are over.
            Store::open_existing(data_dir, network)?.map(|mut store| store.reclaimable()).transpose()?;
        }
        for reservation in reservations {
            let (container, ifname) = (reservation.container.clone(), reservation.ifname.clone());
            let key = Key { network: network.to_string(), container, ifname };
            attachments.entry(key).or_default().reservations.push((data_dir.to_path_buf(), reservation));
        }
        Ok(())
    }
}

/// Adds the `dataDir`s of all `ipam` in a configuration, however deep.
fn add_stores(stores: &mut Vec<(PathBuf, String)>, list: &NetworkList) {
    let mut directories = Vec::new();
    list.plugins.iter().for_each(|plugin| find_data_dirs(plugin.map(), &mut directories));
    for directory in directories {
        let store = (PathBuf::from(directory), list.name.clone());
        if store.0.is_absolute() && validate_network_name(&store.1).is_ok() && !stores.contains(&store) {
            stores.push(store);
        }
    }
}

fn find_data_dirs(map: &Map<String, Value>, found: &mut Vec<String>) {
    let named = Object::top(map).object("ipam").ok().flatten().and_then(|ipam| ipam.string("dataDir").ok());
    found.extend(named.filter(|text| !text.is_empty()).map(|text| text.trim_end_matches('/').to_string()));
    let lists = map.values().filter_map(Value::as_array).flatten();
    map.values().chain(lists).filter_map(Value::as_object).for_each(|inner| find_data_dirs(inner, found));
}

/// Judges all of them.
pub(super) fn judge(attachments: &Attachments) -> Result<Vec<(&Key, Verdict)>> {
    let mut census = Census::default();
    let named = attachments.iter().filter(|(key, _)| !key.ifname.is_empty());
    named.map(|(key, found)| Ok((key, verdict(key, found, &mut census)?))).collect()
}

/// Judges one of them anew, by what is there now.
pub(super) fn again(key: &Key, found: &Found) -> Result<Verdict> {
    let mut now = Found { cached: found.cached.clone(), reservations: Vec::new() };
    for (data_dir, reservation) in &found.reservations {
        let found = survey(data_dir, &key.network, &[reservation.address])?.into_iter();
        let own = found.filter(|one| one.container == key.container && one.ifname == key.ifname);
        now.reservations.extend(own.map(|one| (data_dir.clone(), one)));
    }
    verdict(key, &now, &mut Census::default())
}

fn verdict(key: &Key, found: &Found, census: &mut Census) -> Result<Verdict> {
    let lives = || found.reservations.iter().map(|(_, reservation)| reservation.life);
    let path = found.cached.as_ref().map_or("", |cached| cached.attachment.netns.as_str());
    if lives().any(|life| life == Life::Lives) {
        return Ok(Verdict::Lives);
    }
    if lives().next().is_some() && lives().all(Life::is_over) {
        let is_of_earlier_boot = lives().any(|life| life == Life::EarlierBoot);
        return Ok(Verdict::Gone(match is_of_earlier_boot {
            true => "its boot has ended".to_string(),
            false => format!("namespace {}is gone", if path.is_empty() { String::new() } else { format!("{path} ") }),
        }));
    }
    match &found.cached {
        Some(cached) if !path.is_empty() => verdict_by_path(key, cached, path, census),
        _ => Ok(Verdict::Unknown(String::new())),
    }
}

fn verdict_by_path(key: &Key, cached: &Cached, path: &str, census: &mut Census) -> Result<Verdict> {
    if Netns::open_if_left(path).is_ok_and(|netns| netns.is_some()) {
        return Ok(Verdict::Lives);
    }
    let unknown = |why: String| Ok(Verdict::Unknown(format!("namespace {path} is not to be found, but {why}")));
    match census.presence_at(path) {
        Presence::Gone => {}
        Presence::Here => return unknown("one with its name is".to_string()),
        _ => return unknown("not all processes of this machine can be looked at".to_string()),
    }
    let inside = |interface: &&Interface| !interface.sandbox.is_empty();
    let (own, ends): (Vec<_>, Vec<_>) = cached.result.interfaces.iter().partition(inside);
    match host_end(&ends)? {
        Some((name, true)) => return unknown(format!("the host's end {name} is still there")),
        Some((_, false)) => return Ok(Verdict::Gone(format!("namespace {path} is gone"))),
        None => {}
    }
    let mac = own.iter().find(|interface| interface.name == key.ifname).map_or("", |interface| &interface.mac);
    match census.all_places().map(|places| places.into_iter().find(|place| holds(place, &key.ifname, mac))) {
        Some(None) => Ok(Verdict::Gone(format!("namespace {path} is gone"))),
        _ => unknown(format!("an interface {} like its own is somewhere", key.ifname)),
    }
}

/// The host's end of the veth pair that a result tells of, and whether it is there. A pair goes as a whole.
fn host_end<'a>(told: &[&'a Interface]) -> Result<Option<(&'a str, bool)>> {
    let mut host = Handle::current()?;
    let mut end = None;
    for Interface { name, mac, .. } in told {
        match host.find_link(name)? {
            // The bridge, or whatever else the plugins may have told of.
            Some(link) if link.kind != "veth" => {}
            Some(link) if mac.is_empty() || *mac == link.mac.to_string() => return Ok(Some((name, true))),
            _ => end = Some((name.as_str(), false)),
        }
    }
    Ok(end)
}

/// Whether the namespace has an interface of this name and hardware address (empty: any). One that cannot be asked might.
fn holds(place: &str, ifname: &str, mac: &str) -> bool {
    let link = Netns::open_if_left(place).and_then(|netns| match netns {
        Some(netns) => Handle::inside(&netns)?.find_link(ifname),
        None => Ok(None),
    });
    link.map_or(true, |link| link.is_some_and(|link| mac.is_empty() || mac == link.mac.to_string()))
}

/// The addresses that are listed for an attachment: its own, and those of old releases for its container.
pub(super) fn addresses<'a>(
    key: &'a Key,
    found: &'a Found,
    attachments: &'a Attachments,
) -> impl Iterator<Item = (&'a Path, IpAddr)> {
    let old = attachments.get(&Key { ifname: String::new(), ..key.clone() });
    let all = found.reservations.iter().chain(old.into_iter().flat_map(|old| &old.reservations));
    all.map(|(data_dir, reservation)| (data_dir.as_path(), reservation.address))
}
