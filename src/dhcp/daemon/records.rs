//! Leases on disk: a file each, so that a change costs the same however many there are. They are below /run because
//! nothing that they speak of outlives a reboot; the boot's id is in them for hosts that keep /run.
//!
//! In `<hostprefix>/run/cni-box/dhcp/<path of the socket with % for />`, mode 0600: `<digest of the key>.json`, written
//! aside and put in place in one step. Each daemon has a directory of its own.
//!
//! A record may have a number `version`; a record without one is of version 1. The daemon leaves a
//! record of a later version alone, for the later release that may come back, and does not renew
//! its lease meanwhile.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::cni::json::{self, Node};
use crate::digest::sha512_hex;
use crate::error::{Errno, Error, Result};
use crate::sys::file;

const DIRECTORY: &str = "/run/cni-box/dhcp";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Latest version that we can read.
const VERSION: i64 = 1;
/// Digits of the digest in a file's name.
const DIGITS: usize = 32;

#[derive(Debug)]
pub(super) struct Records {
    directory: PathBuf,
    boot: String,
}

impl Records {
    /// The records of the daemon that listens at `socket`.
    pub(super) fn open(prefix: &str, socket: &str) -> Records {
        let directory = Path::new(&format!("{prefix}{DIRECTORY}")).join(socket.replace('/', "%"));
        // Without one every boot is the same; the namespaces' identities still tell.
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_string();
        Records { directory, boot }
    }

    /// Writes the record of a lease; `None` when there is nothing to keep.
    pub(super) fn save(&self, key: &[u8], members: Option<Vec<(&'static str, Node)>>) -> Result<()> {
        let Some(mut members) = members else { return Ok(()) };
        members.push(("boot", self.boot.as_str().into()));
        let text = json::compact(&Node::Object(members));
        let write = || file::replace(&self.directory, &name_of(key), 0o600, text.as_bytes());
        match write() {
            Err(error) if error.is(Errno::ENOENT) => {
                file::create_directories(&self.directory, 0o700)?;
                write()
            }
            written => written,
        }
    }

    pub(super) fn remove(&self, key: &[u8]) {
        self.remove_file(&name_of(key));
    }

    /// Removes a file of the directory. One that stays is found out when it is read: its place is gone.
    pub(super) fn remove_file(&self, name: &str) {
        let _ = fs::remove_file(self.directory.join(name));
    }

    /// Reads all records of this boot, with the names of their files. Skips records of later
    /// versions, and removes all other files.
    pub(super) fn load(&self) -> Vec<(String, Map<String, Value>)> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let mut records = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match self.read(&name) {
                Ok(record) if is_later(&record) => {}
                Ok(record) => records.push((name, record)),
                Err(_) => self.remove_file(&name),
            }
        }
        records
    }

    fn read(&self, name: &str) -> Result<Map<String, Value>> {
        let record = json::parse_object(&fs::read(self.directory.join(name))?)?;
        let boot = record.get("boot").and_then(Value::as_str);
        match boot == Some(&self.boot) && name.ends_with(".json") {
            true => Ok(record),
            false => Err(Error::internal("not of this boot")),
        }
    }
}

fn is_later(record: &Map<String, Value>) -> bool {
    record.get("version").and_then(Value::as_i64).is_some_and(|version| version > VERSION)
}

fn name_of(key: &[u8]) -> String {
    let digest = sha512_hex(&[&String::from_utf8_lossy(key)]);
    format!("{}.json", digest.get(..DIGITS).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_everything_else_goes() {
        let root = std::env::temp_dir().join(format!("cni-box-records-{}", std::process::id()));
        let records = Records::open(root.to_str().unwrap(), "/run/cni/dhcp.sock");
        assert!(records.load().is_empty());
        let members = |address: &str| Some(vec![("address", Node::from(address))]);
        records.save(b"c1/net/eth0", members("10.0.0.1")).unwrap();
        records.save(b"c1/net/eth0", members("10.0.0.2")).unwrap();
        records.save(b"c2/net/eth0", members("10.0.0.3")).unwrap();
        records.save(b"c3/net/eth0", None).unwrap();
        records.remove(b"c2/net/eth0");
        let directory = root.join("run/cni-box/dhcp/%run%cni%dhcp.sock");
        for (name, text) in [("torn.json", "{\"boot\""), ("old.json", "{\"boot\": \"x\"}"), (".0.tmp", "{}")] {
            fs::write(directory.join(name), text).unwrap();
        }
        let loaded = records.load();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].1["address"], "10.0.0.2");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn records_of_later_versions_stay_and_are_not_loaded() {
        let root = std::env::temp_dir().join(format!("cni-box-later-records-{}", std::process::id()));
        let records = Records::open(root.to_str().unwrap(), "/run/cni/dhcp.sock");
        let members = |version: i64| Some(vec![("version", Node::from(version)), ("address", "10.0.0.1".into())]);
        records.save(b"c1/net/eth0", members(VERSION)).unwrap();
        records.save(b"c2/net/eth0", members(VERSION + 1)).unwrap();
        let loaded: Vec<String> = records.load().into_iter().map(|(name, _)| name).collect();
        assert_eq!(loaded, [name_of(b"c1/net/eth0")]);
        let directory = root.join("run/cni-box/dhcp/%run%cni%dhcp.sock");
        assert!(directory.join(name_of(b"c2/net/eth0")).exists());
        fs::remove_dir_all(&root).unwrap();
    }
}
