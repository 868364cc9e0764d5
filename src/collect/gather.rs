//! Finding all attachments of the host: those in the result cache, and those with reservations of host-local.

use std::path::{Path, PathBuf};

use super::Command;
use crate::cni::conflist::NetworkList;
use crate::cni::kept::Kept;
use crate::error::Result;
use crate::ipam::evidence::{Found, Key, add_stores};
use crate::ipam::store::survey::{Life, survey};
use crate::ipam::store::{DEFAULT_DATA_DIR, Store};

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
