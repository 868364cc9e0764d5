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

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Command;
use crate::cni::Object;
use crate::cni::cache::Cached;
use crate::cni::conflist::NetworkList;
use crate::cni::environment::validate_network_name;
use crate::cni::kept::Kept;
use crate::cni::result::Interface;
use crate::error::Result;
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
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Key,
    pub(super) cached: Option<Cached>,
    /// With the `dataDir` of each.
    pub(super) reservations: Vec<(PathBuf, Reservation)>,
}

/// Sorted.
pub(super) type Attachments = Vec<Found>;

/// The place of an attachment, which is made if it is new.
fn entry(attachments: &mut Attachments, key: Key) -> Option<&mut Found> {
    let place = attachments.binary_search_by(|found| found.key.cmp(&key));
    let at = place.unwrap_or_else(|at| {
        attachments.insert(at, Found { key, cached: None, reservations: Vec::new() });
        at
    });
    attachments.get_mut(at)
}

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
        let mut stores = Vec::new();
        // Names of networks obey the same rule as those of containers.
        for network in Kept::new(DEFAULT_DATA_DIR).containers()? {
            if Path::new(DEFAULT_DATA_DIR).join(&network).is_dir() {
                stores.push((PathBuf::from(DEFAULT_DATA_DIR), network));
            }
        }
        self.lists.iter().for_each(|list| add_stores(&mut stores, list));
        for (network, cached) in self.cache.list(None)? {
            if let Ok(list) = NetworkList::parse(&cached.config) {
                add_stores(&mut stores, &list);
            }
            let attachment = &cached.attachment;
            let (container, ifname) = (attachment.container_id.clone(), attachment.ifname.clone());
            if let Some(found) = entry(&mut attachments, Key { network, container, ifname }) {
                found.cached = Some(cached);
            }
        }
        for (data_dir, network) in stores {
            self.add_reservations(&mut attachments, &data_dir, &network)?;
        }
        Ok(attachments)
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
            if let Some(found) = entry(attachments, key) {
                found.reservations.push((data_dir.to_path_buf(), reservation));
            }
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

/// Judges an attachment anew, by what is there now.
pub(super) fn again(found: &Found) -> Result<Verdict> {
    let key = &found.key;
    let mut lives = Vec::new();
    for (data_dir, reservation) in &found.reservations {
        for one in survey(data_dir, &key.network, &[reservation.address])? {
            if one.container == key.container && one.ifname == key.ifname {
                lives.push(one.life);
            }
        }
    }
    verdict_of(found, &lives, &mut Census::default())
}

/// What follows from what was found.
pub(super) fn verdict(found: &Found, census: &mut Census) -> Result<Verdict> {
    let lives: Vec<Life> = found.reservations.iter().map(|(_, reservation)| reservation.life).collect();
    verdict_of(found, &lives, census)
}

/// `lives` is what is known of the reservations.
fn verdict_of(found: &Found, lives: &[Life], census: &mut Census) -> Result<Verdict> {
    let path = found.cached.as_ref().map_or("", |cached| cached.attachment.netns.as_str());
    if lives.contains(&Life::Lives) {
        return Ok(Verdict::Lives);
    }
    if !lives.is_empty() && lives.iter().all(|life| life.is_over()) {
        return Ok(match lives.contains(&Life::EarlierBoot) {
            true => Verdict::Gone("its boot has ended".to_string()),
            false => gone(path),
        });
    }
    match &found.cached {
        Some(cached) if !path.is_empty() => verdict_by_path(&found.key.ifname, cached, path, census),
        _ => Ok(Verdict::Unknown(String::new())),
    }
}

fn gone(path: &str) -> Verdict {
    let space = if path.is_empty() { "" } else { " " };
    Verdict::Gone(format!("namespace {path}{space}is gone"))
}

fn verdict_by_path(ifname: &str, cached: &Cached, path: &str, census: &mut Census) -> Result<Verdict> {
    if Netns::open_if_left(path).is_ok_and(|netns| netns.is_some()) {
        return Ok(Verdict::Lives);
    }
    let unknown = |why: String| Ok(Verdict::Unknown(format!("namespace {path} is not to be found, but {why}")));
    match census.presence_at(path) {
        Presence::Gone => {}
        Presence::Here => return unknown("one with its name is".to_string()),
        _ => return unknown("not all processes of this machine can be looked at".to_string()),
    }
    let told = &cached.result.interfaces;
    match host_end(told)? {
        Some((name, true)) => return unknown(format!("the host's end {name} is still there")),
        Some((_, false)) => return Ok(gone(path)),
        None => {}
    }
    let own = told.iter().find(|interface| !interface.sandbox.is_empty() && interface.name == ifname);
    let mac = own.map_or("", |interface| &interface.mac);
    match census.all_places().map(|places| places.into_iter().find(|place| holds(place, ifname, mac))) {
        Some(None) => Ok(gone(path)),
        _ => unknown(format!("an interface {ifname} like its own is somewhere")),
    }
}

/// The host's end of the veth pair that a result tells of, and whether it is there. A pair goes as a whole.
fn host_end(told: &[Interface]) -> Result<Option<(&str, bool)>> {
    let mut host = Handle::current()?;
    let mut end = None;
    for Interface { name, mac, .. } in told.iter().filter(|told| told.sandbox.is_empty()) {
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
