//! Links as they were before `tuning` changed them, for DEL to put back.
//!
//! `<dataDir>/<container>_<ifname>.json` is the reference's file, byte for byte. It does not say whose it is, so beside it,
//! in `.cni-box/`, lies a record of ours: network, container, interface, namespace and its path, a line each. GC goes by
//! that, and it tells the file of an attachment from that of an earlier one with the same names.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::cni::config::Object;
use crate::cni::{Request, Undo, json};
use crate::error::{Context, Errno, Error, Failures, Result};
use crate::ipam::own_link::{Evidence, Own};
use crate::net::tuning::Property;
use crate::net::{Handle, Mac, Netns};
use crate::sys::file;

/// The folder of our records.
const RECORDS: &str = ".cni-box";

/// The keys of the reference's file, in its order.
const KEYS: [&str; 5] = ["mac", "promisc", "mtu", "allmulti", "txQLen"];

/// Where the originals of one attachment are.
#[derive(Debug, Clone)]
pub struct Originals {
    file: PathBuf,
    record: PathBuf,
}

/// Whose originals they are.
#[derive(Debug)]
struct Record {
    network: String,
    container: String,
    ifname: String,
    /// Identity and cookie.
    netns: String,
    path: String,
}

impl Originals {
    /// Those of this attachment.
    pub fn of(request: &Request<'_>, directory: &str) -> Self {
        Originals::named(Path::new(directory), &format!("{}_{}.json", request.container_id, request.ifname))
    }

    fn named(directory: &Path, name: &str) -> Self {
        Originals { file: directory.join(name), record: directory.join(RECORDS).join(name) }
    }

    /// Remembers what properties were before a change. What an earlier ADD of the same attachment has saved stays: the
    /// properties that it changed are not the original ones any more.
    pub fn save(&self, request: &Request<'_>, netns: &Netns, now: &[Property], undo: &mut Undo) -> Result<()> {
        let Some(directory) = self.file.parent() else { return Ok(()) };
        let record = Record::new(request, netns)?;
        let saved = if self.is_of(&record) { self.read() } else { Vec::new() };
        let text = text(&[&saved, now].concat());
        let (files, before) = (self.clone(), [fs::read(&self.record).ok(), fs::read(&self.file).ok()]);
        undo.push(move || files.put_back(before));
        // The record first: what it leads to is found by GC.
        match self.write_record(&record) {
            // A policy for the reference may allow its file only.
            Err(error) if error.is_refusal() && directory.is_dir() => {}
            written => written?,
        }
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let saved = file::replace(directory, &name, 0o600, text.as_bytes());
        saved.with_context(|| format!("failed to save file {}.json", request.ifname))
    }

    fn write_record(&self, record: &Record) -> Result<()> {
        make(&self.record).context("failed to create backup directory")?;
        let written = file::write_over(&self.record, 0o600, record.text().as_bytes());
        written.with_context(|| format!("failed to save file {}.json", record.ifname))
    }

    /// Gives the link back what was saved, and forgets it; also if the link or its namespace (`None`) is gone. What the
    /// kernel refuses stays saved.
    pub fn restore(&self, netns: Option<&Netns>, ifname: &str, evidence: &Evidence) -> Result<()> {
        let saved = self.read();
        if let Some(netns) = netns.filter(|netns| !saved.is_empty() && self.record().is_none_or(|of| of.is_in(netns))) {
            let mut handle = Handle::inside(netns)?;
            if let Own::Link(link) = evidence.find(netns, &mut handle, ifname)? {
                let restored = handle.tune(link.index, &saved);
                restored.map_err(|(_, error)| error).with_context(|| format!("failed to restore {ifname:?}"))?;
            }
        }
        self.put_back([None, None])
    }

    /// What was saved; nothing when there is no file, or one that cannot be understood.
    fn read(&self) -> Vec<Property> {
        fs::read(&self.file).map_or(Err(Errno::ENOENT.into()), |bytes| parse(&bytes)).unwrap_or_default()
    }

    fn record(&self) -> Option<Record> {
        Record::parse(&fs::read_to_string(&self.record).ok()?)
    }

    /// Without a record the reference has written the file, and for this attachment.
    fn is_of(&self, record: &Record) -> bool {
        self.record().is_none_or(|saved| saved.netns == record.netns)
    }

    fn put_back(&self, before: [Option<Vec<u8>>; 2]) -> Result<()> {
        let mut failures = Failures::default();
        // The file first: as long as it is there GC has to find it.
        for (path, before) in [&self.record, &self.file].into_iter().zip(before).rev() {
            failures.note(match before {
                Some(bytes) => file::write_over(path, 0o600, &bytes),
                None => match fs::remove_file(path) {
                    Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(()),
                    removed => removed.with_context(|| format!("failed to remove file {path:?}")),
                },
            });
        }
        failures.finish()
    }
}

/// Restores all links of a network whose attachments are not among the valid ones, as far as we have changed them.
pub fn collect(request: &Request<'_>, directory: &str) -> Result<()> {
    let valid = request.config.valid_attachments().context("failed to load netconf")?;
    let Some(valid) = valid else { return Ok(()) };
    let Ok(entries) = fs::read_dir(Path::new(directory).join(RECORDS)) else { return Ok(()) };
    let mut failures = Failures::default();
    for entry in entries.flatten() {
        let originals = Originals::named(Path::new(directory), &entry.file_name().to_string_lossy());
        let Some(record) = originals.record().filter(|record| record.network == request.config.name) else { continue };
        if !valid.iter().any(|(id, ifname)| record.container == *id && record.ifname == *ifname) {
            let netns = Netns::open_if_left(&record.path).ok().flatten();
            let evidence = Evidence::recorded(&record.network, &record.container, &record.ifname);
            let restored = evidence.and_then(|evidence| originals.restore(netns.as_ref(), &record.ifname, &evidence));
            failures.note(restored);
        }
    }
    failures.finish()
}

/// Fails if nothing could be saved here.
pub fn probe(directory: &str) -> Result<()> {
    file::probe(Path::new(directory), b"x").context("failed to create backup directory")
}

/// Makes the folder of a record, and with it the one of the reference's files.
fn make(record: &Path) -> Result<()> {
    let Some(records) = record.parent().filter(|records| !records.is_dir()) else { return Ok(()) };
    // Others have files beside the reference's.
    records.ancestors().nth(2).map_or(Ok(()), |above| file::create_directories(above, 0o755))?;
    file::create_directories(records, 0o700)
}

impl Record {
    fn new(request: &Request<'_>, netns: &Netns) -> Result<Self> {
        Ok(Record {
            network: request.config.name.clone(),
            container: request.container_id.clone(),
            ifname: request.ifname.clone(),
            netns: name_of(netns)?,
            path: request.netns.clone(),
        })
    }

    fn text(&self) -> String {
        [&self.network, &self.container, &self.ifname, &self.netns, &self.path].map(String::as_str).join("\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.splitn(5, '\n').map(str::to_string);
        let mut line = || lines.next();
        let (network, container, ifname, netns, path) = (line()?, line()?, line()?, line()?, line()?);
        Some(Record { network, container, ifname, netns, path })
    }

    fn is_in(&self, netns: &Netns) -> bool {
        name_of(netns).is_ok_and(|name| name == self.netns)
    }
}

/// The kernel uses inodes again; kernels before 5.14 have no cookies.
fn name_of(netns: &Netns) -> Result<String> {
    Ok(format!("{} {}", netns.identity()?, netns.cookie().unwrap_or(0)))
}

fn key_of(property: &Property) -> &'static str {
    let [mac, promisc, mtu, allmulti, queue] = KEYS;
    match property {
        Property::Mac(_) => mac,
        Property::Promiscuous(_) => promisc,
        Property::Mtu(_) => mtu,
        Property::AllMulticast(_) => allmulti,
        Property::Queue(_) => queue,
    }
}

/// As Go's `MarshalIndent` with one space writes it; of several values of a property the first counts.
fn text(saved: &[Property]) -> String {
    let mut lines = Vec::new();
    for key in KEYS {
        match saved.iter().find(|property| key_of(property) == key) {
            Some(Property::Mac(mac)) if mac.bytes().is_empty() => {}
            Some(Property::Mac(mac)) => lines.push(format!("\n \"{key}\": \"{mac}\"")),
            Some(property) => lines.push(format!("\n \"{key}\": {property}")),
            None => {}
        }
    }
    match lines.is_empty() {
        true => "{}".to_string(),
        false => format!("{{{}\n}}", lines.join(",")),
    }
}

/// In the order in which the reference restores: the MTU first.
fn parse(bytes: &[u8]) -> Result<Vec<Property>> {
    let map = json::parse_object(bytes)?;
    let object = Object::top(&map);
    let [mac, promisc, mtu, allmulti, queue] = KEYS;
    let number = |key: &str| object.u32_if_set(key);
    let found: [Option<Property>; 5] = [
        number(mtu)?.filter(|mtu| *mtu > 0).map(Property::Mtu),
        object.parsed(mac, Mac::parse)?.map(Property::Mac),
        object.boolean_if_set(promisc)?.map(Property::Promiscuous),
        object.boolean_if_set(allmulti)?.map(Property::AllMulticast),
        number(queue)?.map(Property::Queue),
    ];
    Ok::<_, Error>(found.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_references() {
        let all = [
            Property::Mtu(1500),
            Property::Mac(Mac::parse("82:45:3c:97:cc:a8").unwrap()),
            Property::Promiscuous(false),
            Property::AllMulticast(false),
            Property::Queue(1000),
        ];
        let golden = "{\n \"mac\": \"82:45:3c:97:cc:a8\",\n \"promisc\": false,\n \"mtu\": 1500,\n \"allmulti\": false,\n \"txQLen\": 1000\n}";
        assert_eq!(text(&all), golden);
        assert_eq!(parse(golden.as_bytes()).unwrap(), all);
        assert_eq!(text(&[Property::Queue(0), Property::Queue(7)]), "{\n \"txQLen\": 0\n}");
        assert_eq!(text(&[]), "{}");
        assert_eq!(parse(b"{}").unwrap(), []);
        assert!(parse(b"{\"mac\": 1}").is_err());
    }
}
