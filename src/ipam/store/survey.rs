//! Looking at a network's reservations without changing a byte, for who wants to say what could go.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;

use super::reclaim::LOOKS;
use super::{Found, Store, address_of};
use crate::cni::environment::{validate_container_id, validate_ifname};
use crate::error::{Context, Result};
use crate::ipam::index::Index;
use crate::ipam::record::{FileId, Host, Judge, Record, Suspect};
use crate::sys::file;
use crate::sys::lock::{Lock, Mode};

pub use crate::ipam::record::Life;

/// A reservation that a plugin has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// What is reserved.
    pub address: IpAddr,
    /// The container's id.
    pub container: String,
    /// The interface in the container; empty in reservations of old releases.
    pub ifname: String,
    /// What is known of the attachment.
    pub life: Life,
    /// Which file it is.
    file: FileId,
}

impl Reservation {
    /// True if the file is the one that was read, untouched. Reads nothing else.
    pub fn is_unchanged(&self, data_dir: &Path, network: &str) -> bool {
        let found = Found::read(&data_dir.join(network).join(self.address.to_string()));
        found.is_some_and(|found| found.file == self.file)
    }

    /// True if both were read from one file, which nothing has touched in between.
    pub fn is_same_file(&self, other: &Reservation) -> bool {
        self.file == other.file
    }

    /// True if the address is reserved for this attachment by now. Reads nothing else.
    pub fn is_held(&self, data_dir: &Path, network: &str) -> bool {
        let found = Found::read(&data_dir.join(network).join(self.address.to_string()));
        found.is_some_and(|found| found.content == format!("{}\r\n{}", self.container, self.ifname).as_bytes())
    }
}

/// The container and the interface (empty in those of old releases) that a file holds an address
/// for; `None` if it is no reservation.
pub fn holder(path: &Path) -> Option<(String, String)> {
    address_of(path.file_name()?)?;
    let text = String::from_utf8(Found::read(path)?.content).ok()?;
    let (container, ifname) = text.split_once("\r\n").unwrap_or((&text, ""));
    Some((container.to_string(), ifname.to_string()))
}

/// The reservations of a network, in order of address. None when there is no store. What names no
/// attachment is left out.
pub fn survey(data_dir: &Path, network: &str) -> Result<Vec<Reservation>> {
    match data_dir.join(network).try_exists() {
        Ok(false) => Ok(Vec::new()),
        _ => Store::open_to_read(data_dir, network)?.reservations(),
    }
}

impl Store {
    fn open_to_read(data_dir: &Path, network: &str) -> Result<Store> {
        let path = data_dir.join(network);
        let directory = File::open(&path).with_context(|| format!("failed to open {path:?}"))?;
        // Without a file to lock nobody else has locked it either.
        let lock = file::open_plain(&path.join("lock")).or_else(|_| Ok(directory.try_clone()?));
        let lock = lock.and_then(|file| Lock::acquire_where_possible(file, Mode::Exclusive));
        let lock = lock.with_context(|| format!("failed to lock {:?}", path.join("lock")))?;
        let index = Index::open_to_read(data_dir, network);
        Ok(Store { path, directory, index, host: Host::this(), lock })
    }

    fn reservations(&self) -> Result<Vec<Reservation>> {
        let mut addresses = self.addresses()?;
        addresses.sort_unstable();
        let mut found: Vec<_> = addresses.into_iter().filter_map(|address| self.reservation(address)).collect();
        for look in 0..LOOKS {
            let mut judge = Judge::new(self.host, file::is_local(&self.directory));
            for (reservation, record) in &mut found {
                let Some(record) = record.as_ref().filter(|_| look == 0 || reservation.life.is_over()) else {
                    continue;
                };
                let content = format!("{}\r\n{}", reservation.container, reservation.ifname);
                let suspect = Suspect::new(self.network(), content.as_bytes(), reservation.address);
                reservation.life = judge.life(record, suspect);
            }
        }
        Ok(found.into_iter().map(|(reservation, _)| reservation).collect())
    }

    fn reservation(&self, address: IpAddr) -> Option<(Reservation, Option<Record>)> {
        let Found { content, file } = self.read(address)?;
        let text = std::str::from_utf8(&content).ok()?;
        let (container, ifname) = text.split_once("\r\n").unwrap_or((text, ""));
        validate_container_id(container).ok()?;
        let record = if ifname.is_empty() {
            None
        } else {
            validate_ifname(ifname).ok()?;
            self.index.words(&content, address).and_then(|words| Record::read(words, &content, address, file))
        };
        let (container, ifname) = (container.to_string(), ifname.to_string());
        Some((Reservation { address, container, ifname, life: Life::Unknown, file }, record))
    }
}
