//! What a runtime remembers of an attachment between ADD and DEL (`libcni/api.go`, `cachedInfo` of the reference
//! library, kind `cniCacheV1`). containerd and CRI-O keep theirs in the same directory.
//!
//! One file per attachment, `NETWORK-CONTAINER-INTERFACE`: an object on one line with, in this order, `kind`,
//! `containerId`, `config` (the list's bytes in base64), `ifName`, `networkName`, and if not empty `netns`, `cniArgs`
//! (pairs), `capabilityArgs`, `result`. Before `cniCacheV1` the whole file was a result.

use std::path::PathBuf;
use std::{fs, io};

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value};

use crate::cni::attachment::Attachment;
use crate::cni::config::Object;
use crate::cni::json::{self, Node};
use crate::cni::result::CniResult;
use crate::error::{Context, Error, Result};
use crate::sys::file;

/// Where the reference library keeps its cache.
pub const DIRECTORY: &str = "/var/lib/cni/results";

const KIND: &str = "cniCacheV1";
/// Bytes; more than any result with its configuration has.
const LARGEST: u64 = 64 << 20;
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The result cache.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

/// What is remembered of an attachment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cached {
    /// The final result.
    pub result: CniResult,
    /// The bytes of the configuration list; empty in files of the legacy format.
    pub config: Vec<u8>,
    /// The parameters of the ADD; all empty in files of the legacy format.
    pub attachment: Attachment,
}

impl Cache {
    /// The cache in a directory, which need not exist yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Cache { directory: directory.into() }
    }

    /// Verifies that a file with these bytes could be written now, so that a full or read-only disk is known before a
    /// plugin has done anything.
    pub fn prove_writable(&self, bytes: &[u8]) -> Result<()> {
        file::create_directories(&self.directory, DIRECTORY_MODE)?;
        file::probe(&self.directory, bytes)
    }

    /// Remembers an attachment. A reader sees the old file or the new one, never a part (but see [`file::create_new`]).
    pub fn write(&self, network: &str, attachment: &Attachment, config: &[u8], result: Value) -> Result<()> {
        let name = file_name(network, attachment)?;
        file::create_directories(&self.directory, DIRECTORY_MODE)?;
        let text = json::compact(&document(network, attachment, config, result));
        file::replace(&self.directory, &name, FILE_MODE, text.as_bytes())
    }

    /// Reads the file of an attachment. Returns `None` for a missing or unreadable file, for one of
    /// an unknown kind, which a later release may have written, and for the file of another
    /// attachment: since every part of the name may contain `-`, two attachments can share a name.
    pub fn read(&self, network: &str, attachment: &Attachment) -> Result<Option<Cached>> {
        let Ok(bytes) = self.bytes(&file_name(network, attachment)?) else { return Ok(None) };
        let map = json::parse_object(&bytes)?;
        let object = Object::top(&map);
        match object.string("kind") {
            Ok(KIND) => {}
            Ok(later) if !later.is_empty() => return Ok(None),
            _ => {
                let result = CniResult::from_json(&Value::Object(map), "")?;
                return Ok(Some(Cached { result, ..Cached::default() }));
            }
        }
        if is_other(&object, network, attachment) {
            return Ok(None);
        }
        Cached::decode(&object).map(Some)
    }

    /// Everything that is remembered, in the order of the files' names; of one network only, if one is named. What no
    /// reader could use (other kinds, the legacy format, half a file, names that belie their content) is left out.
    ///
    /// Fails if the directory is there and cannot be read.
    pub fn list(&self, network: Option<&str>) -> Result<Vec<(String, Cached)>> {
        let prefix = network.map_or(String::new(), |network| format!("{network}-"));
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("failed to read {}", self.directory.display()))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(&prefix) && !name.starts_with('.')).collect();
        names.sort_unstable();
        let cached = names.iter().filter_map(|name| self.read_named(name));
        Ok(cached.filter(|(found, _)| network.is_none_or(|network| found == network)).collect())
    }

    /// The network and what is remembered in a file, if the file's name is what its content asks for.
    pub fn read_named(&self, name: &str) -> Option<(String, Cached)> {
        let map = json::parse_object(&self.bytes(name).ok()?).ok()?;
        let object = Object::top(&map);
        let (kind, network) = (object.string("kind").ok()?, object.string("networkName").ok()?);
        let cached = Cached::decode(&object).ok()?;
        let fits = kind == KIND && file_name(network, &cached.attachment).is_ok_and(|wanted| wanted == name);
        fits.then(|| (network.to_string(), cached))
    }

    /// Forgets an attachment. Failures do not matter: what is left is only ever a hint.
    pub fn remove(&self, network: &str, attachment: &Attachment) {
        let Ok(name) = file_name(network, attachment) else { return };
        let map = self.bytes(&name).and_then(|bytes| json::parse_object(&bytes)).unwrap_or_default();
        let object = Object::top(&map);
        if object.string("kind") != Ok(KIND) || !is_other(&object, network, attachment) {
            let _ = fs::remove_file(self.directory.join(name));
        }
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        file::read_bounded(&self.directory.join(name), LARGEST)
    }
}

fn file_name(network: &str, attachment: &Attachment) -> Result<String> {
    let Attachment { container_id, ifname, .. } = attachment;
    if network.is_empty() || container_id.is_empty() || ifname.is_empty() {
        return Err(Error::internal(format!(
            "cache file path requires network name ({network:?}), container ID ({container_id:?}), \
             and interface name ({ifname:?})"
        )));
    }
    Ok(format!("{network}-{container_id}-{ifname}"))
}

fn document(network: &str, attachment: &Attachment, config: &[u8], result: Value) -> Node {
    let config = if config.is_empty() { Value::Null } else { Base64::encode_string(config).into() };
    let mut members: Vec<(&'static str, Node)> = vec![
        ("kind", KIND.into()),
        ("containerId", attachment.container_id.as_str().into()),
        ("config", config.into()),
        ("ifName", attachment.ifname.as_str().into()),
        ("networkName", network.into()),
    ];
    if !attachment.netns.is_empty() {
        members.push(("netns", attachment.netns.as_str().into()));
    }
    if !attachment.args.is_empty() {
        let pairs = attachment.args.iter().map(|(key, value)| vec![key.as_str(), value.as_str()].into());
        members.push(("cniArgs", Node::List(pairs.collect())));
    }
    if !attachment.capability_args.is_empty() {
        members.push(("capabilityArgs", attachment.capability_args.clone().into()));
    }
    members.push(("result", result.into()));
    Node::Object(members)
}

fn is_other(object: &Object<'_>, network: &str, attachment: &Attachment) -> bool {
    let wanted = [("networkName", network), ("containerId", &attachment.container_id), ("ifName", &attachment.ifname)];
    wanted.iter().any(|(key, value)| object.string(key) != Ok(value))
}

impl Cached {
    fn decode(object: &Object<'_>) -> Result<Cached> {
        let text = |key| object.string(key).map(str::to_string);
        let config = Base64::decode_vec(object.string("config")?);
        let config = config.map_err(|error| Error::internal(format!("failed to decode the cached config: {error}")))?;
        let attachment = Attachment {
            container_id: text("containerId")?,
            netns: text("netns")?,
            ifname: text("ifName")?,
            args: object.list("cniArgs")?.iter().filter_map(decode_pair).collect(),
            capability_args: decode_map(object, "capabilityArgs")?,
        };
        let result = CniResult::from_json(&Value::Object(decode_map(object, "result")?), "")?;
        Ok(Cached { result, config, attachment })
    }
}

fn decode_map(object: &Object<'_>, key: &str) -> Result<Map<String, Value>> {
    object.object(key)?;
    Ok(object.get(key).and_then(Value::as_object).cloned().unwrap_or_default())
}

fn decode_pair(pair: &Value) -> Option<(String, String)> {
    let text = |index: usize| pair.get(index).and_then(Value::as_str).map(str::to_string);
    Some((text(0)?, text(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::testing::TempDir;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    fn attachment(container_id: &str) -> Attachment {
        Attachment { container_id: container_id.to_string(), ifname: "eth0".to_string(), ..Attachment::default() }
    }

    fn full() -> Attachment {
        Attachment {
            netns: "/x".to_string(),
            args: vec![("K".to_string(), "V".to_string())],
            capability_args: json!({"z": 1, "a": "<"}).as_object().unwrap().clone(),
            ..attachment("c")
        }
    }

    fn cache(directory: &TempDir) -> Cache {
        Cache::new(directory.file("cni/results"))
    }

    #[test]
    fn the_file_is_that_of_the_reference() {
        let directory = TempDir::new();
        let result = json!({"ips": [], "cniVersion": "1.0.0"});
        cache(&directory).write("n", &full(), b"{}\n", result).unwrap();
        assert_eq!(
            directory.read("cni/results/n-c-eth0"),
            concat!(
                r#"{"kind":"cniCacheV1","containerId":"c","config":"e30K","ifName":"eth0","networkName":"n","#,
                r#""netns":"/x","cniArgs":[["K","V"]],"capabilityArgs":{"a":"\u003c","z":1},"#,
                r#""result":{"cniVersion":"1.0.0","ips":[]}}"#
            )
        );
        let mode = |name: &str| fs::metadata(directory.file(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("cni"), mode("cni/results"), mode("cni/results/n-c-eth0")), (0o700, 0o700, 0o600));
        assert_eq!(fs::read_dir(directory.file("cni/results")).unwrap().count(), 1);
    }

    #[test]
    fn empty_parts_are_left_out() {
        let node = document("n", &attachment("c"), b"", json!({}));
        let text =
            r#"{"kind":"cniCacheV1","containerId":"c","config":null,"ifName":"eth0","networkName":"n","result":{}}"#;
        assert_eq!(json::compact(&node), text);
    }

    #[test]
    fn what_was_written_is_read_back_and_removed() {
        let directory = TempDir::new();
        let cache = cache(&directory);
        assert_eq!(cache.read("n", &full()).unwrap(), None);
        cache.write("n", &full(), b"{}", json!({"cniVersion": "0.4.0", "dns": {"domain": "d"}})).unwrap();
        let cached = cache.read("n", &attachment("c")).unwrap().unwrap();
        assert_eq!((cached.attachment, cached.config.as_slice()), (full(), b"{}".as_slice()));
        assert_eq!(cached.result.dns.domain, "d");
        cache.remove("n", &full());
        assert!(!directory.exists("cni/results/n-c-eth0"));
    }

    #[test]
    fn a_file_of_an_unknown_kind_holds_no_result() {
        let directory = TempDir::new();
        let cache = cache(&directory);
        cache.write("n", &full(), b"{}", json!({"cniVersion": "1.0.0"})).unwrap();
        directory.write("cni/results/n-c-eth0", &directory.read("cni/results/n-c-eth0").replace("CacheV1", "CacheV2"));
        assert_eq!((cache.read("n", &full()).unwrap(), cache.list(None).unwrap()), (None, Vec::new()));
        cache.remove("n", &full());
        assert!(!directory.exists("cni/results/n-c-eth0"));
    }

    #[test]
    fn a_shared_file_name_is_no_shared_attachment() {
        let directory = TempDir::new();
        let cache = cache(&directory);
        cache.write("a-b", &attachment("c"), b"{}", json!({"cniVersion": "1.0.0"})).unwrap();
        assert_eq!(cache.read("a", &attachment("b-c")).unwrap(), None);
        cache.remove("a", &attachment("b-c"));
        assert!(cache.read("a-b", &attachment("c")).unwrap().is_some());
    }

    #[test]
    fn what_can_be_used_is_listed_by_network() {
        let directory = TempDir::new();
        let cache = cache(&directory);
        assert_eq!(cache.list(None).unwrap(), []);
        for (network, container) in [("n", "b"), ("n", "a"), ("n-a", "c"), ("m", "a")] {
            cache.write(network, &attachment(container), b"{}", json!({"cniVersion": "1.0.0"})).unwrap();
        }
        let written = directory.read("cni/results/m-a-eth0");
        nix::unistd::mkfifo(directory.file("cni/results/n-fifo-eth0").as_str(), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::os::unix::fs::symlink("/dev/zero", directory.file("cni/results/n-endless-eth0")).unwrap();
        for (name, text) in [("n-half-eth0", &written[..30]), ("n-z-eth0", &written), ("n-old-eth0", "{}"), (".x", "")]
        {
            directory.write(&format!("cni/results/{name}"), text);
        }
        let names = |network| {
            let listed = cache.list(network).unwrap().into_iter();
            listed.map(|(network, cached)| format!("{network} {}", cached.attachment.container_id)).collect::<Vec<_>>()
        };
        // By file: m-a-eth0, n-a-c-eth0, n-a-eth0, n-b-eth0.
        assert_eq!(names(None), ["m a", "n-a c", "n a", "n b"]);
        assert_eq!(names(Some("n")), ["n a", "n b"]);
        assert!(Cache::new(directory.file("cni/results/.x")).list(None).is_err());
    }

    #[test]
    fn a_bare_result_is_the_legacy_format() {
        let directory = TempDir::new();
        directory.write("cni/results/n-c-eth0", r#"{"ip4":{"ip":"10.0.0.2/24"},"dns":{}}"#);
        let cached = cache(&directory).read("n", &attachment("c")).unwrap().unwrap();
        assert_eq!(cached.result.ips.len(), 1);
        directory.write("cni/results/n-c-eth0", "");
        let error = cache(&directory).read("n", &attachment("c")).unwrap_err();
        assert_eq!(error.msg, "unexpected end of JSON input");
        cache(&directory).remove("n", &attachment("c"));
        assert!(!directory.exists("cni/results/n-c-eth0"));
    }

    #[test]
    fn the_probe_leaves_nothing_and_tells_of_a_bad_directory() {
        let directory = TempDir::new();
        cache(&directory).prove_writable(b"x").unwrap();
        assert_eq!(fs::read_dir(directory.file("cni/results")).unwrap().count(), 0);
        directory.write("file", "");
        assert!(Cache::new(directory.file("file/results")).prove_writable(b"x").is_err());
        assert!(
            cache(&directory).write("", &full(), b"", json!({})).unwrap_err().msg.contains("requires network name")
        );
    }
}
