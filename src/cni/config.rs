//! Decoding configuration with the habits of Go's encoding/json: keys match in any letter case, `null` means default,
//! unknown keys are ignored, a wrong type is an error. The errors name the key and the type.
//!
//! Where keys differ only in letter case the exact spelling wins, then the one that sorts last.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::cni::json::{self, type_name};
use crate::cni::result::{CniResult, Dns, Route, parse_ip};
use crate::cni::version;
use crate::error::{Context, Error, Result, code};

/// A JSON object being decoded.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    /// `None` for an object that is null: nothing is set.
    map: Option<&'a Map<String, Value>>,
    /// Where it stands in the document, with a final dot: `ipam.`; empty at the top.
    path: String,
}

impl<'a> Object<'a> {
    /// The top of a document.
    pub fn top(map: &'a Map<String, Value>) -> Self {
        Object { map: Some(map), path: String::new() }
    }

    /// An object in which nothing is set.
    pub fn null() -> Self {
        Object { map: None, path: String::new() }
    }

    /// True for null in place of an object.
    pub fn is_null(&self) -> bool {
        self.map.is_none()
    }

    /// The value of a key, unless it is missing or null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        #[cfg(test)]
        asked::note(&self.path, key);
        let map = self.map?;
        let exact = map.get(key);
        let folded = || map.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        exact.or_else(folded).filter(|value| !value.is_null())
    }

    /// True when a key is there, be it null.
    pub fn has(&self, key: &str) -> bool {
        #[cfg(test)]
        asked::note(&self.path, key);
        self.map.is_some_and(|map| map.keys().any(|name| name.eq_ignore_ascii_case(key)))
    }

    /// A string; empty when missing.
    pub fn string(&self, key: &str) -> Result<&'a str> {
        self.get(key).map_or(Ok(""), |value| value.as_str().ok_or_else(|| self.mistyped(key, value, "string")))
    }

    /// A truth value; `None` when missing.
    pub fn boolean_if_set(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|value| value.as_bool().ok_or_else(|| self.mistyped(key, value, "bool"))).transpose()
    }

    /// A truth value; false when missing.
    pub fn boolean(&self, key: &str) -> Result<bool> {
        Ok(self.boolean_if_set(key)?.unwrap_or(false))
    }

    /// A whole number; `None` when missing.
    pub fn integer_if_set(&self, key: &str) -> Result<Option<i64>> {
        self.get(key).map(|value| value.as_i64().ok_or_else(|| self.mistyped(key, value, "int"))).transpose()
    }

    /// A whole number; 0 when missing.
    pub fn integer(&self, key: &str) -> Result<i64> {
        Ok(self.integer_if_set(key)?.unwrap_or(0))
    }

    /// A whole number of 32 bits without a sign; `None` when missing.
    pub fn u32_if_set(&self, key: &str) -> Result<Option<u32>> {
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        self.get(key).map(|value| number(value).ok_or_else(|| self.mistyped(key, value, "uint32"))).transpose()
    }

    /// A whole number of 64 bits without a sign; 0 when missing.
    pub fn u64(&self, key: &str) -> Result<u64> {
        self.get(key).map_or(Ok(0), |value| value.as_u64().ok_or_else(|| self.mistyped(key, value, "uint64")))
    }

    /// An object; `None` when missing.
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>> {
        self.get(key).map(|value| self.enter(key, value)).transpose()
    }

    /// A list; empty when missing.
    pub fn list(&self, key: &str) -> Result<&'a [Value]> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(self.mistyped(key, other, "list")),
        }
    }

    /// A list of strings; a null element is an empty string.
    pub fn strings(&self, key: &str) -> Result<Vec<String>> {
        let element = |value: &Value| match value {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text.clone()),
            other => Err(self.mistyped(key, other, "string")),
        };
        self.list(key)?.iter().map(element).collect()
    }

    /// A list of objects.
    pub fn objects(&self, key: &str) -> Result<Vec<Object<'a>>> {
        self.objects_in(key, self.list(key)?)
    }

    /// The elements of `items`, which stand below `key`, as objects.
    pub fn objects_in(&self, key: &str, items: &'a [Value]) -> Result<Vec<Object<'a>>> {
        let indexed = items.iter().enumerate();
        indexed.map(|(index, value)| self.enter(&format!("{key}[{index}]"), value)).collect()
    }

    /// A value parsed from a string by `parse`; `None` when missing.
    pub fn parsed<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T>) -> Result<Option<T>> {
        match self.string(key)? {
            "" if self.get(key).is_none() => Ok(None),
            text => parse(text).map(Some),
        }
    }

    /// The error for a value of the wrong type.
    pub fn mistyped(&self, key: &str, value: &Value, wanted: &str) -> Error {
        let found = match value {
            Value::Number(number) => format!("number {number}"),
            other => type_name(other).to_string(),
        };
        Error::internal(format!(
            "json: cannot unmarshal {found} into key {:?} of type {wanted}",
            self.path.clone() + key
        ))
    }

    fn enter(&self, key: &str, value: &'a Value) -> Result<Object<'a>> {
        let path = format!("{}{key}.", self.path);
        match value {
            Value::Object(map) => Ok(Object { map: Some(map), path }),
            Value::Null => Ok(Object { map: None, path }),
            other => Err(self.mistyped(key, other, "object")),
        }
    }
}

/// The network configuration a plugin is given on standard input.
#[derive(Debug, Clone, Default)]
pub struct NetworkConfig {
    map: Map<String, Value>,
    raw: Vec<u8>,
    /// `cniVersion` as written; empty when missing.
    pub cni_version: String,
    /// Network name; empty when missing.
    pub name: String,
}

impl NetworkConfig {
    /// Decodes what every plugin needs. `raw` is kept for delegates that are other programs.
    pub fn parse(raw: Vec<u8>) -> Result<Self> {
        let map = json::parse_object(&raw)?;
        let top = Object::top(&map);
        let name = top.string("name")?.to_string();
        // A code of its own, because the reference decodes the version apart from the rest.
        let cni_version = top.string("cniVersion").map_err(|error| {
            Error::new(code::DECODING_FAILURE, format!("decoding version from network config: {error}"))
        })?;
        let cni_version = cni_version.to_string();
        Ok(NetworkConfig { map, raw, cni_version, name })
    }

    /// The whole configuration.
    pub fn top(&self) -> Object<'_> {
        Object::top(&self.map)
    }

    /// The bytes it was parsed from.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// `cniVersion`, or the version that its absence stands for.
    pub fn version(&self) -> &str {
        version::or_default(&self.cni_version)
    }

    /// `ipam.type`; empty when the network has no address management.
    pub fn ipam_type(&self) -> Result<&str> {
        self.top().object("ipam")?.map_or(Ok(""), |ipam| ipam.string("type"))
    }

    /// `dns`.
    pub fn dns(&self) -> Result<Dns> {
        self.top().object("dns")?.map_or(Ok(Dns::default()), |dns| Dns::decode(&dns))
    }

    /// `dns` if any of its keys is set, even to an empty list: bridge and ptp then report it in place of what the IPAM says.
    pub fn dns_if_set(&self) -> Result<Option<Dns>> {
        let dns = self.dns()?;
        let lists = ["nameservers", "search", "options"];
        let object = self.top().object("dns")?;
        let set = object.is_some_and(|dns| lists.iter().any(|key| dns.get(key).is_some()));
        Ok((set || !dns.domain.is_empty()).then_some(dns))
    }

    /// `runtimeConfig`, which runtimes fill from the capabilities.
    pub fn runtime(&self) -> Result<Option<Object<'_>>> {
        self.top().object("runtimeConfig")
    }

    /// `args.cni`, the conventional place for per-attachment wishes.
    pub fn args_cni(&self) -> Result<Option<Object<'_>>> {
        self.top().object("args")?.map_or(Ok(None), |args| args.object("cni"))
    }

    /// The attachments that GC has to leave alone: container ids with interface names. `None` when the runtime does not
    /// say, which is not the same as none.
    pub fn valid_attachments(&self) -> Result<Option<Vec<(String, String)>>> {
        const KEY: &str = "cni.dev/valid-attachments";
        let top = self.top();
        if top.get(KEY).is_none() {
            return Ok(None);
        }
        let names = |one: &Object<'_>| Ok((one.string("containerID")?.to_string(), one.string("ifname")?.to_string()));
        top.objects(KEY)?.iter().map(names).collect::<Result<_>>().map(Some)
    }

    /// Makes `prevResult` absent.
    pub fn forget_prev_result(&mut self) {
        self.map.retain(|key, _| !key.eq_ignore_ascii_case("prevResult"));
    }

    /// `prevResult` in any known version; one without a version is taken to have the configuration's.
    pub fn prev_result(&self) -> Result<Option<CniResult>> {
        match self.top().get("prevResult") {
            None => Ok(None),
            Some(value) => CniResult::from_json(value, self.version()).map(Some).context("could not parse prevResult"),
        }
    }
}

impl Dns {
    /// Decodes a `dns` object.
    pub fn decode(object: &Object<'_>) -> Result<Dns> {
        Ok(Dns {
            nameservers: object.strings("nameservers")?,
            domain: object.string("domain")?.to_string(),
            search: object.strings("search")?,
            options: object.strings("options")?,
        })
    }
}

/// Decodes the list of routes at `key`.
pub fn routes(object: &Object<'_>, key: &str) -> Result<Vec<Route>> {
    object.objects(key)?.iter().map(Route::decode).collect()
}

/// Decodes an address; `None` when it is missing or empty.
pub fn optional_ip(object: &Object<'_>, key: &str) -> Result<Option<IpAddr>> {
    match object.string(key)? {
        "" => Ok(None),
        text => parse_ip(text).map(Some),
    }
}

/// For the test that holds tables of keys against what is decoded: the keys that this thread has asked for.
#[cfg(test)]
pub(crate) mod asked {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static KEYS: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub(super) fn note(path: &str, key: &str) {
        KEYS.with_borrow_mut(|keys| keys.insert(format!("{path}{key}")));
    }

    /// Their paths; forgets them.
    pub(crate) fn take() -> BTreeSet<String> {
        KEYS.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> NetworkConfig {
        NetworkConfig::parse(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn keys_match_in_any_case_and_null_is_absent() {
        let config = config(r#"{"CNIVERSION":"0.4.0","name":"n","MTU":null,"IPAM":{"Type":"static"}}"#);
        assert_eq!(config.version(), "0.4.0");
        assert_eq!(config.ipam_type().unwrap(), "static");
        assert_eq!(config.top().integer_if_set("mtu").unwrap(), None);
    }

    #[test]
    fn no_word_about_valid_attachments_is_not_an_empty_list() {
        let valid = |text: &str| config(text).valid_attachments().unwrap();
        assert_eq!(valid("{}"), None);
        assert_eq!(valid(r#"{"cni.dev/valid-attachments":[]}"#), Some(Vec::new()));
        let one = r#"{"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]}"#;
        assert_eq!(valid(one), Some(vec![("c1".to_string(), "eth0".to_string())]));
    }

    #[test]
    fn a_wrong_type_of_the_version_has_the_references_code_and_text() {
        let error = NetworkConfig::parse(br#"{"name":"n","cniVersion":4}"#.to_vec()).unwrap_err();
        assert_eq!(error.code, code::DECODING_FAILURE);
        assert!(error.msg.starts_with("decoding version from network config: json: cannot unmarshal number 4"));
        assert_eq!(NetworkConfig::parse(br#"{"name":4}"#.to_vec()).unwrap_err().code, code::INTERNAL);
    }

    #[test]
    fn a_wrong_type_names_key_and_type() {
        let config = config(r#"{"mtu":"9","ipam":{"type":1},"dns":{"search":[1]},"x":1.5}"#);
        let text = |result: Result<()>| result.unwrap_err().msg.clone();
        let top = config.top();
        assert_eq!(text(top.integer("mtu").map(drop)), r#"json: cannot unmarshal string into key "mtu" of type int"#);
        assert_eq!(text(top.integer("x").map(drop)), r#"json: cannot unmarshal number 1.5 into key "x" of type int"#);
        assert_eq!(
            text(config.ipam_type().map(drop)),
            r#"json: cannot unmarshal number 1 into key "ipam.type" of type string"#
        );
        assert!(text(config.dns().map(drop)).contains(r#""dns.search""#));
    }
}
