//! Whether an attachment is dead, for `cni-box gc`, which removes what is left of the dead, and for `cnitool list`.
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

use crate::cni::Object;
use crate::cni::cache::{self, Cached};
use crate::cni::conflist::NetworkList;
use crate::cni::environment::validate_network_name;
use crate::error::Result;
use crate::ipam::interface_record::InterfaceRecord;
use crate::ipam::interface_search::{self, Search, Sign, Traces};
use crate::ipam::store::DEFAULT_DATA_DIR;
use crate::ipam::store::survey::{Life, Reservation, survey};
use crate::net::{Handle, Netns};
use crate::sorted::{Groups, SortedSet};
use crate::sys::file;
use crate::sys::namespaces::Presence;

/// What names an attachment. In order of network, container, interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Name of the network.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// The interface in the container. Empty for the reservations of old releases, which are a container's.
    pub ifname: String,
}

impl Key {
    /// Attachments that have one of these in common may have something of the same name: saved
    /// settings by container and interface; chains and ifbs by network and container in one word
    /// (`firewall::names::hashed`).
    pub fn shared_names(&self) -> [(bool, String); 2] {
        let Key { network, container, ifname } = self;
        [(true, format!("{container}/{ifname}")), (false, format!("{network}{container}"))]
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key { network, container, ifname } = self;
        let space = if ifname.is_empty() { "" } else { " " };
        write!(out, "{network} {container}{space}{ifname}")
    }
}

/// What tells of an attachment.
#[derive(Debug)]
pub struct Found {
    /// Which attachment it is.
    pub key: Key,
    /// What the result cache tells.
    pub cached: Option<Cached>,
    /// With the `dataDir` of each.
    pub reservations: Vec<(PathBuf, Reservation)>,
}

impl Found {
    /// The addresses of which the cache tells.
    pub fn told(&self) -> impl Iterator<Item = IpAddr> {
        self.cached.iter().flat_map(|cached| cached.result.ips.iter().map(|ip| ip.address.addr()))
    }

    /// The addresses that are reserved.
    pub fn reserved(&self) -> impl Iterator<Item = IpAddr> {
        self.reservations.iter().map(|(_, reservation)| reservation.address)
    }

    /// The cache tells of an address that is reserved.
    fn tells_reserved(&self) -> bool {
        self.reserved().any(|address| self.told().any(|told| told == address))
    }

    /// Its addresses in words.
    fn addresses(&self) -> String {
        let all = SortedSet::new(self.told().chain(self.reserved()).collect());
        all.as_slice().iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// What follows from it.
#[derive(Debug)]
pub enum Verdict {
    /// It lives.
    Lives,
    /// It is dead; the proof in words.
    Gone(String),
    /// Nothing tells; why, if it may be dead.
    Unknown(String),
}

impl Found {
    /// A cached attachment, with the reservations in the stores that its configuration names.
    pub fn of_cached(network: &str, cached: Cached, surveys: &mut Surveys) -> Result<Found> {
        let attachment = &cached.attachment;
        let (container, ifname) = (attachment.container_id.clone(), attachment.ifname.clone());
        let mut stores = vec![(PathBuf::from(DEFAULT_DATA_DIR), network.to_string())];
        if let Ok(list) = NetworkList::parse(&cached.config) {
            add_stores(&mut stores, &list);
        }
        let key = Key { network: network.to_string(), container, ifname };
        let mut reservations = Vec::new();
        for store in stores {
            reservations.extend(surveys.of(store, &key)?);
        }
        Ok(Found { key, cached: Some(cached), reservations })
    }
}

/// The reservations of all stores that were asked for, each of which is read once.
#[derive(Debug, Default)]
pub struct Surveys(Vec<Survey>);

/// A store (`dataDir` and network), and the holders of its addresses.
type Survey = ((PathBuf, String), Groups<Key, Reservation>);

impl Surveys {
    /// The reservations of an attachment in a store, with its `dataDir`.
    fn of(&mut self, store: (PathBuf, String), key: &Key) -> Result<Vec<(PathBuf, Reservation)>> {
        let known = self.0.iter().position(|(known, _)| *known == store);
        let place = known.unwrap_or(self.0.len());
        if known.is_none() {
            let held = survey(&store.0, &store.1)?.into_iter().map(|reservation| {
                let (container, ifname) = (reservation.container.clone(), reservation.ifname.clone());
                (Key { network: store.1.clone(), container, ifname }, reservation)
            });
            self.0.push((store.clone(), Groups::new(held.collect())));
        }
        let held = self.0.get(place).into_iter().flat_map(|(_, held)| held.get(key));
        Ok(held.map(|reservation| (store.0.clone(), reservation.clone())).collect())
    }
}

/// True if host-local has a directory for the network where configurations leave the place to
/// host-local.
pub fn has_store(network: &str) -> bool {
    validate_network_name(network).is_ok() && Path::new(DEFAULT_DATA_DIR).join(network).is_dir()
}

/// Adds the `dataDir`s of all `ipam` in a configuration, however deep.
pub fn add_stores(stores: &mut Vec<(PathBuf, String)>, list: &NetworkList) {
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
pub fn verdict(found: &Found, search: &mut Search) -> Verdict {
    let lives = || found.reservations.iter().map(|(_, reservation)| reservation.life);
    let is_over = !found.reservations.is_empty() && lives().all(Life::is_over);
    let path = found.cached.as_ref().map_or("", |cached| cached.attachment.netns.as_str());
    let reason = match lives().any(|life| life == Life::EarlierBoot) {
        true => "its boot has ended".to_string(),
        false => format!("namespace {path}{}is gone", if path.is_empty() { "" } else { " " }),
    };
    match &found.cached {
        _ if lives().any(|life| life == Life::Lives) => Verdict::Lives,
        None if is_over => Verdict::Gone(reason),
        None => Verdict::Unknown(without_cache(found)),
        Some(cached) => {
            let is_proved = is_over && found.tells_reserved();
            sign_of_life(found, cached, is_proved, search).unwrap_or(Verdict::Gone(reason))
        }
    }
}

/// Why an attachment stays of which only reservations tell.
fn without_cache(found: &Found) -> String {
    let why = match found.key.ifname.as_str() {
        "" => "its reservation names no interface",
        _ => "no record proves that its interface is gone",
    };
    format!("no result is in the cache, and {why} (addresses: {})", found.addresses())
}

/// Why an attachment in the cache lives, or may live. It `is_proved` if records say that it is
/// dead.
fn sign_of_life(found: &Found, cached: &Cached, is_proved: bool, search: &mut Search) -> Option<Verdict> {
    let (path, ifname, told) = (&cached.attachment.netns, &found.key.ifname, &cached.result.interfaces);
    let own = told.iter().find(|interface| !interface.sandbox.is_empty() && interface.name == *ifname);
    let leads_somewhere = Netns::open_if_left(path).is_ok_and(|netns| netns.is_some());
    if leads_somewhere && holds(path, ifname, own.map_or("", |interface| &interface.mac)) {
        return Some(Verdict::Lives);
    }
    let missing = |why| Some(Verdict::Unknown(format!("namespace {path} is not to be found, but {why}")));
    let traces = traces(found, cached);
    let host_end = interface_search::host_end(&traces).map(|sign| in_words(&sign, ifname));
    if is_proved {
        return host_end.and_then(missing);
    }
    if leads_somewhere || path.is_empty() {
        return Some(without_proof(found, path, host_end));
    }
    if let Some(why) = host_end {
        return missing(why);
    }
    let is_own_cache = File::open(cache::DIRECTORY).is_ok_and(|directory| file::is_local(&directory));
    match search.presence_at(path) {
        Presence::Here => missing("one with its name is".to_string()),
        Presence::Gone if !is_own_cache => missing("other machines may have the cache, too".to_string()),
        Presence::Gone => search.anywhere(&traces).and_then(|sign| missing(in_words(&sign, ifname))),
        _ => missing(in_words(&Sign::Hidden, ifname)),
    }
}

/// An attachment without a record whose path leads to a namespace without its interface, or that
/// has no path.
fn without_proof(found: &Found, path: &str, host_end: Option<String>) -> Verdict {
    let (ifname, addresses) = (&found.key.ifname, found.addresses());
    let place = match path {
        "" => "the result in the cache names no namespace".to_string(),
        path => format!("namespace {path} is there without its interface {ifname}"),
    };
    let why = host_end.unwrap_or_else(|| "no record proves that it had another one".to_string());
    Verdict::Unknown(format!("{place}, and {why} (addresses: {addresses})"))
}

/// What the cached result tells, and the record of the same ADD.
fn traces(found: &Found, cached: &Cached) -> Traces {
    let Key { network, container, ifname } = &found.key;
    let record = InterfaceRecord::read(network, container, ifname);
    Traces::of_result(ifname, &cached.result).with_record_of_same_mac(record)
}

fn in_words(sign: &Sign, ifname: &str) -> String {
    match sign {
        Sign::HostEnd(end) => format!("the host's end {end} is still there"),
        Sign::Interface => format!("an interface {ifname} like its own is somewhere"),
        Sign::Hidden => "not all processes of this machine can be looked at".to_string(),
    }
}

/// Whether the namespace has an interface of this name and hardware address (empty: any). One that cannot be asked might.
fn holds(place: &str, ifname: &str, mac: &str) -> bool {
    let link = Netns::open_if_left(place).and_then(|netns| match netns {
        Some(netns) => Handle::inside(&netns)?.find_link(ifname),
        None => Ok(None),
    });
    link.map_or(true, |link| link.is_some_and(|link| mac.is_empty() || link.mac.is_written(mac)))
}
