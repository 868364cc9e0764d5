//! Finding all attachments of the host: those in the result cache, and those with reservations of
//! host-local. Each file is read once; the second look at an attachment reads only its own.

use std::path::{Path, PathBuf};

use super::Command;
use super::newcomers::{Newcomers, Place};
use crate::cni::attachment::Attachment;
use crate::cni::cache::{self, Cached};
use crate::cni::conflist::NetworkList;
use crate::cni::kept::Kept;
use crate::error::Result;
use crate::ipam::evidence::{Found, Key, add_stores};
use crate::ipam::store::survey::{Life, survey};
use crate::ipam::store::{DEFAULT_DATA_DIR, Store};

/// All that is known, by the keys.
pub(super) struct Attachments(Vec<Found>);

impl Attachments {
    /// From things found, each of one attachment.
    fn new(mut parts: Vec<Found>) -> Self {
        parts.sort_by(|one, other| one.key.cmp(&other.key));
        let mut whole: Vec<Found> = Vec::new();
        for part in parts {
            match whole.last_mut().filter(|last| last.key == part.key) {
                Some(last) => {
                    last.cached = part.cached.or(last.cached.take());
                    last.reservations.extend(part.reservations);
                }
                None => whole.push(part),
            }
        }
        Attachments(whole)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Found> {
        self.0.binary_search_by(|found| found.key.cmp(key)).ok().and_then(|place| self.0.get(place))
    }

    pub(super) fn as_slice(&self) -> &[Found] {
        &self.0
    }

    pub(super) fn into_vec(self) -> Vec<Found> {
        self.0
    }
}

impl Command<'_> {
    /// All attachments that are known. What comes later is noted as new. Changes nothing on a dry run.
    pub(super) fn gather(&self, newcomers: &mut Newcomers) -> Result<Attachments> {
        let mut parts = Vec::new();
        let mut stores = Vec::new();
        newcomers.watch(Path::new(DEFAULT_DATA_DIR), Place::Networks);
        newcomers.watch(Path::new(cache::DIRECTORY), Place::Cache);
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
            let (container, ifname) = (cached.attachment.container_id.clone(), cached.attachment.ifname.clone());
            parts.push(Found {
                key: Key { network, container, ifname },
                cached: Some(cached),
                reservations: Vec::new(),
            });
        }
        for (data_dir, network) in stores {
            newcomers.watch(&data_dir.join(&network), Place::Store(network.clone()));
            self.add_reservations(&mut parts, &data_dir, &network)?;
        }
        Ok(Attachments::new(parts))
    }

    fn add_reservations(&self, parts: &mut Vec<Found>, data_dir: &Path, network: &str) -> Result<()> {
        let reservations = survey(data_dir, network)?;
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
            parts.push(Found { key, cached: None, reservations: vec![(data_dir.to_path_buf(), reservation)] });
        }
        Ok(())
    }

    /// True if nothing has touched what tells of an attachment since it was found. An ADD of the
    /// same container and interface replaces the reservation first and the file of the cache last.
    pub(super) fn is_unchanged(&self, found: &Found) -> bool {
        let mut reservations = found.reservations.iter();
        reservations.all(|(data_dir, one)| one.is_unchanged(data_dir, &found.key.network))
            && matches!(self.read_cache(found), Ok(cached) if cached == found.cached)
    }

    /// True if nothing tells of an attachment but what its DEL may have left.
    pub(super) fn is_still_over(&self, found: &Found) -> bool {
        let network = &found.key.network;
        let mut reservations = found.reservations.iter();
        reservations.all(|(data_dir, one)| one.is_unchanged(data_dir, network) || !one.is_held(data_dir, network))
            && matches!(self.read_cache(found), Ok(cached) if cached.is_none() || cached == found.cached)
    }

    fn read_cache(&self, found: &Found) -> Result<Option<Cached>> {
        let Key { network, container, ifname } = &found.key;
        let (container_id, ifname) = (container.clone(), ifname.clone());
        let attachment = Attachment { container_id, ifname, ..Attachment::default() };
        // Without an interface there is no file, only reservations of old releases.
        if attachment.ifname.is_empty() { Ok(None) } else { self.cache.read(network, &attachment) }
    }
}
