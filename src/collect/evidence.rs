//! Which attachments there are, and which of them are dead for certain.
//!
//! An attachment is known from the result cache, from reservations of host-local, or from both. It is dead when
//!
//! - all its reservations are over by their records (`ipam/record.rs`): the boot or the namespace by its number and
//!   cookie. If there is a cache file, it must be the same attachment's, one with an address of theirs: the container
//!   may have come back since, on a network whose addresses are managed otherwise by now.
//! - or, where no record tells (the Go plugin, other address management), the path in the cache leads nowhere, for no
//!   process of the machine, and the interface is in none of the namespaces that are in use. Who sees only a part of the
//!   machine's processes cannot know that, nor who shares the cache with another machine.
//!
//! Whatever that says, it lives if the host's end of its veth pair is there, or its interface where the path leads: a
//! namespace may be held by a socket alone, and files and boot ids may come from elsewhere.
//!
//! Times prove nothing: clocks may begin in 1970 at each boot, so a file that looks older than this boot need not be. What
//! the cache alone tells of, and whose path leads to a namespace, therefore stays.

use std::fmt;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Command;
use crate::cni::Object;
use crate::cni::cache::{self, Cached};
use crate::cni::conflist::NetworkList;
use crate::cni::environment::validate_network_name;
use crate::cni::kept::Kept;
use crate::cni::result::Interface;
use crate::error::Result;
use crate::ipam::store::survey::{Life, Reservation, survey};
use crate::ipam::store::{DEFAULT_DATA_DIR, Store};
use crate::net::{Handle, Netns};
use crate::sys::file;
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
    /// Something of theirs may have the same name. Those of chains and ifbs are hashes of network and container in one word
    /// (`firewall::names::hashed`).
    pub(super) fn shares_names_with(&self, other: &Key) -> bool {
        let word = |key: &Key| key.network.clone() + &key.container;
        self.container == other.container && self.ifname == other.ifname || word(self) == word(other)
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

impl Found {
    /// The cache tells of this address.
    fn tells(&self, address: IpAddr) -> bool {
        self.cached.iter().any(|cached| cached.result.ips.iter().any(|ip| ip.address.addr() == address))
    }

    /// The cache tells of an address that is reserved for the other.
    fn tells_reserved(&self, other: &Found) -> bool {
        other.reservations.iter().any(|(_, reservation)| self.tells(reservation.address))
    }

    /// An address that the cache tells of is another container's, too.
    pub(super) fn shares_address_with(&self, other: &Found) -> bool {
        let told_of_other = other.cached.iter().flat_map(|cached| &cached.result.ips);
        self.key.container != other.key.container
            && (self.tells_reserved(other) || told_of_other.map(|ip| ip.address.addr()).any(|ip| self.tells(ip)))
    }
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
    /// All attachments that are known, or one container's, of every network. Changes nothing on a dry run.
    pub(super) fn gather(&self, only: Option<&str>) -> Result<Attachments> {
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
            if only.is_none_or(|only| only == container)
                && let Some(found) = entry(&mut attachments, Key { network, container, ifname })
            {
                found.cached = Some(cached);
            }
        }
        for (data_dir, network) in stores {
            self.add_reservations(&mut attachments, &data_dir, &network, only)?;
        }
        Ok(attachments)
    }

    fn add_reservations(
        &self,
        attachments: &mut Attachments,
        data_dir: &Path,
        network: &str,
        only: Option<&str>,
    ) -> Result<()> {
        let reservations = survey(data_dir, network, only)?;
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

/// What follows from what was found.
pub(super) fn verdict(found: &Found, census: &mut Census) -> Result<Verdict> {
    let lives = || found.reservations.iter().map(|(_, reservation)| reservation.life);
    let is_over = !found.reservations.is_empty() && lives().all(Life::is_over);
    let path = found.cached.as_ref().map_or("", |cached| cached.attachment.netns.as_str());
    let reason = match lives().any(|life| life == Life::EarlierBoot) {
        true => "its boot has ended".to_string(),
        false => format!("namespace {path}{}is gone", if path.is_empty() { "" } else { " " }),
    };
    match &found.cached {
        _ if lives().any(|life| life == Life::Lives) => Ok(Verdict::Lives),
        None if is_over => Ok(Verdict::Gone(reason)),
        None => Ok(Verdict::Unknown(String::new())),
        Some(cached) => Ok(match sign_of_life(found, cached, is_over && found.tells_reserved(found), census)? {
            None => Verdict::Gone(reason),
            Some(why) if why.is_empty() => Verdict::Lives,
            Some(why) => Verdict::Unknown(format!("namespace {path} is not to be found, but {why}")),
        }),
    }
}

/// Why an attachment in the cache may live; empty if there is nothing to wonder about. It `is_proved` if records say that it
/// is dead.
fn sign_of_life(found: &Found, cached: &Cached, is_proved: bool, census: &mut Census) -> Result<Option<String>> {
    let (path, ifname, told) = (&cached.attachment.netns, &found.key.ifname, &cached.result.interfaces);
    let own = told.iter().find(|interface| !interface.sandbox.is_empty() && interface.name == *ifname);
    let holds = |place: &str| holds(place, ifname, own.map_or("", |interface| &interface.mac));
    let leads_somewhere = Netns::open_if_left(path).is_ok_and(|netns| netns.is_some());
    if leads_somewhere && (!is_proved || holds(path)) || path.is_empty() && !is_proved {
        return Ok(Some(String::new()));
    }
    if let Some(end) = host_end(told)? {
        return Ok(Some(format!("the host's end {end} is still there")));
    }
    if is_proved {
        return Ok(None);
    }
    let is_own_cache = File::open(cache::DIRECTORY).is_ok_and(|directory| file::is_local(&directory));
    Ok(match census.presence_at(path) {
        Presence::Here => Some("one with its name is".to_string()),
        Presence::Gone if !is_own_cache => Some("other machines may have the cache, too".to_string()),
        Presence::Gone => match census.all_places() {
            Some(places) if !places.iter().any(|place| holds(place)) => None,
            _ => Some(format!("an interface {ifname} like its own is somewhere")),
        },
        _ => Some("not all processes of this machine can be looked at".to_string()),
    })
}

/// The host's end of the veth pair that a result tells of, if it is there.
fn host_end(told: &[Interface]) -> Result<Option<&str>> {
    let mut host = Handle::current()?;
    for Interface { name, mac, .. } in told.iter().filter(|told| told.sandbox.is_empty()) {
        // Other kinds are the bridge, or whatever else the plugins may have told of.
        let end = host.find_link(name)?.filter(|link| link.kind == "veth");
        if end.is_some_and(|link| mac.is_empty() || *mac == link.mac.to_string()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether the namespace has an interface of this name and hardware address (empty: any). One that cannot be asked might.
fn holds(place: &str, ifname: &str, mac: &str) -> bool {
    let link = Netns::open_if_left(place).and_then(|netns| match netns {
        Some(netns) => Handle::inside(&netns)?.find_link(ifname),
        None => Ok(None),
    });
    link.map_or(true, |link| link.is_some_and(|link| mac.is_empty() || mac == link.mac.to_string()))
}
