//! Network configuration lists: the document of a `.conflist` file (specification 1.1.0, section 1) and the old single
//! configuration made into a list (`libcni/conf.go` of the reference library, whose texts these are).
//!
//! Unlike plugin configurations, the keys of a list are matched exactly.

use serde_json::{Map, Value};

use crate::cni::json;
use crate::cni::plugin_config::PluginConfig;
use crate::cni::version::{self, Number};
use crate::error::{Error, Result};

/// A network: its plugins in the order of ADD, and how they are called.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    /// `name`.
    pub name: String,
    /// The version of every call: `cniVersion`, or the highest usable one of `cniVersions`; may be empty.
    pub cni_version: String,
    /// `plugins`, and those of the network's folder once they are loaded.
    pub plugins: Vec<PluginConfig>,
    /// `disableCheck`: CHECK succeeds without running a plugin.
    pub disable_check: bool,
    /// `disableGC`: GC succeeds without doing anything.
    pub disable_gc: bool,
    /// `loadOnlyInlinedPlugins`: the network has no folder of further plugins.
    pub only_inlined: bool,
    /// The document, byte for byte, as the result cache keeps it.
    pub bytes: Vec<u8>,
}

impl NetworkList {
    /// Parses a list. `plugins` may be missing: then they all come from the network's folder.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let map = json::parse_object(bytes).map_err(|error| invalid(error.to_string()))?;
        let name = name(&map)?;
        let cni_version = negotiate(&map, cni_version(&map)?)?;
        let disable_check = boolean(&map, "disableCheck")?;
        let disable_gc = boolean(&map, "disableGC")?;
        let only_inlined = boolean(&map, "loadOnlyInlinedPlugins")?;
        let plugins = plugins(&map, only_inlined)?;
        Ok(NetworkList { name, cni_version, plugins, disable_check, disable_gc, only_inlined, bytes: bytes.to_vec() })
    }

    /// Parses a single plugin configuration and makes a list of it. Only name and version are lifted out of it.
    pub fn from_single(bytes: &[u8]) -> Result<Self> {
        let plugin = PluginConfig::parse(bytes)?;
        let document = serde_json::json!({
            "cniVersion": crate::cni::Object::top(plugin.map()).string("cniVersion")?,
            "name": plugin.name,
            "plugins": [plugin.map()],
        });
        NetworkList::parse(json::compact(&document.into()).as_bytes())
    }
}

fn invalid(what: impl std::fmt::Display) -> Error {
    Error::internal(format!("error parsing configuration list: {what}"))
}

fn name(map: &Map<String, Value>) -> Result<String> {
    match map.get("name") {
        None => Err(invalid("no name")),
        Some(Value::String(name)) => Ok(name.clone()),
        Some(other) => Err(invalid(format!("invalid name type {}", go_type(other)))),
    }
}

fn cni_version(map: &Map<String, Value>) -> Result<&str> {
    match map.get("cniVersion") {
        None => Ok(""),
        Some(Value::String(version)) => Ok(version),
        Some(other) => Err(invalid(format!("invalid cniVersion type {}", go_type(other)))),
    }
}

/// Chooses the highest version of `cniVersions` and `cniVersion` that we know. It takes its usual spelling, because
/// plugins know versions by name only. Without `cniVersions` the version stays as it is written.
fn negotiate(map: &Map<String, Value>, written: &str) -> Result<String> {
    let entries = match map.get("cniVersions") {
        None => return Ok(written.to_string()),
        Some(Value::Array(entries)) => entries,
        // The reference prints the type that it wanted here.
        Some(_) => return Err(invalid("invalid type for cniVersions: []interface {}")),
    };
    let mut offered = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        offered.push(listed_version(index, entry)?);
    }
    if !written.is_empty() {
        let number = version::parse(written);
        let number = number.map_err(|error| invalid(format!("invalid cniVersion {written}: {error}")))?;
        offered.push((number, written));
    }
    let newest = version::parse(version::CURRENT)?;
    let chosen = offered.into_iter().filter(|(number, _)| *number <= newest).max_by_key(|(number, _)| *number);
    Ok(chosen.map_or(written, |(number, spelling)| usual_spelling(number).unwrap_or(spelling)).to_string())
}

fn listed_version(index: usize, entry: &Value) -> Result<(Number, &str)> {
    let Value::String(spelling) = entry else {
        return Err(invalid(format!("invalid type for cniVersions index {index}: {}", go_type(entry))));
    };
    let number = version::parse(spelling);
    let number =
        number.map_err(|error| invalid(format!("invalid cniVersions entry {spelling} at index {index}: {error}")))?;
    Ok((number, spelling))
}

fn usual_spelling(number: Number) -> Option<&'static str> {
    version::ALL.iter().copied().find(|known| version::parse(known).is_ok_and(|known| known == number))
}

/// A truth value that may also be written as a string, in any letter case.
fn boolean(map: &Map<String, Value>, key: &str) -> Result<bool> {
    let text = match map.get(key) {
        None => return Ok(false),
        Some(Value::Bool(value)) => return Ok(*value),
        Some(Value::String(text)) => text.to_lowercase(),
        Some(other) => return Err(invalid(format!("invalid type {} for {key}", go_type(other)))),
    };
    text.parse().map_err(|_| invalid(format!("invalid value {text:?} for {key}")))
}

fn plugins(map: &Map<String, Value>, only_inlined: bool) -> Result<Vec<PluginConfig>> {
    match map.get("plugins") {
        None if only_inlined => Err(invalid("`loadOnlyInlinedPlugins` is true, and no 'plugins' key")),
        None => Ok(Vec::new()),
        Some(Value::Array(entries)) if entries.is_empty() => Err(invalid("no plugins in list")),
        Some(Value::Array(entries)) => entries.iter().enumerate().map(plugin).collect(),
        Some(other) => Err(invalid(format!("invalid 'plugins' type {}", go_type(other)))),
    }
}

fn plugin((index, entry): (usize, &Value)) -> Result<PluginConfig> {
    let decoded = match entry {
        Value::Object(map) => PluginConfig::decode(map.clone()),
        Value::Null => PluginConfig::decode(Map::new()),
        other => {
            let what = format!("json: cannot unmarshal {} into a plugin", json::type_name(other));
            Err(Error::internal(format!("error parsing configuration: {what}")))
        }
    };
    decoded.map_err(|error| error.behind(&format!("failed to parse plugin config {index}")))
}

/// What Go calls the type of a generically decoded value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        NetworkList::parse(text.as_bytes()).unwrap_err().to_string()
    }

    fn version(members: &str) -> String {
        NetworkList::parse(format!(r#"{{"name":"n",{members}}}"#).as_bytes()).unwrap().cni_version
    }

    #[test]
    fn each_mistake_has_the_text_of_the_reference() {
        for (members, text) in [
            (r#""x":1"#, "no name"),
            (r#""NAME":"n""#, "no name"),
            (r#""name":1"#, "invalid name type float64"),
            (r#""name":"n","cniVersion":1"#, "invalid cniVersion type float64"),
            (r#""name":"n","cniVersions":"x""#, "invalid type for cniVersions: []interface {}"),
            (r#""name":"n","cniVersions":[1]"#, "invalid type for cniVersions index 0: float64"),
            (
                r#""name":"n","cniVersions":["x"]"#,
                "invalid cniVersions entry x at index 0: failed to convert major version part \"x\": \
                 strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            (
                r#""name":"n","cniVersion":"1.1.1.1","cniVersions":[]"#,
                "invalid cniVersion 1.1.1.1: invalid version \"1.1.1.1\": too many parts",
            ),
            (r#""name":"n","disableCheck":1"#, "invalid type float64 for disableCheck"),
            (r#""name":"n","disableCheck":"MAYBE""#, "invalid value \"maybe\" for disableCheck"),
            (r#""name":"n","disableGC":null"#, "invalid type <nil> for disableGC"),
            (r#""name":"n","loadOnlyInlinedPlugins":[]"#, "invalid type []interface {} for loadOnlyInlinedPlugins"),
            (r#""name":"n","loadOnlyInlinedPlugins":"True""#, "`loadOnlyInlinedPlugins` is true, and no 'plugins' key"),
            (r#""name":"n","plugins":{}"#, "invalid 'plugins' type map[string]interface {}"),
            (r#""name":"n","plugins":null"#, "invalid 'plugins' type <nil>"),
            (r#""name":"n","plugins":[]"#, "no plugins in list"),
        ] {
            assert_eq!(error(&format!("{{{members}}}")), format!("error parsing configuration list: {text}"));
        }
        assert_eq!(error(""), "error parsing configuration list: unexpected end of JSON input");
        assert_eq!(error("null"), "error parsing configuration list: no name");
        assert_eq!(
            error(r#"{"name":"n","plugins":[{"type":"a"},{}]}"#),
            "failed to parse plugin config 1: error parsing configuration: missing 'type'"
        );
    }

    #[test]
    fn the_highest_known_version_is_chosen_and_spelled_out() {
        assert_eq!(version(r#""cniVersion":"2.0.0""#), "2.0.0");
        assert_eq!(version(r#""cniVersion":"1.0""#), "1.0");
        assert_eq!(version(r#""cniVersions":["0.3.1","1.0","1.2.0"]"#), "1.0.0");
        assert_eq!(version(r#""cniVersion":"1.1.0","cniVersions":["0.10.0","0.4.0"]"#), "1.1.0");
        assert_eq!(version(r#""cniVersion":"2.0.0","cniVersions":["3.0.0"]"#), "2.0.0");
        assert_eq!(version(r#""cniVersions":["0.9.0","0.10.0"]"#), "0.10.0");
        assert_eq!(version(r#""x":1"#), "");
    }

    #[test]
    fn a_single_configuration_becomes_a_list_of_one() {
        let list = NetworkList::from_single(br#"{"type":"a","Name":"n","disableCheck":true}"#).unwrap();
        assert_eq!((list.name.as_str(), list.disable_check, list.plugins.len()), ("n", false, 1));
        assert_eq!(
            String::from_utf8(list.bytes).unwrap(),
            r#"{"cniVersion":"","name":"n","plugins":[{"Name":"n","disableCheck":true,"type":"a"}]}"#
        );
    }
}
