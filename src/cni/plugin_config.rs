//! One plugin of a network configuration: decoding its entry, and building what it is given on standard input
//! (`libcni/conf.go` `NetworkPluginConfFromBytes`, `libcni/api.go` `buildOneConfig` of the reference library).

use serde_json::{Map, Value};

use crate::cni::config::Object;
use crate::cni::json;
use crate::cni::result::Dns;
use crate::error::{Error, Result};

/// An entry of a list's `plugins`, or the whole document of a `.conf` file.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    map: Map<String, Value>,
    /// `type`: the name the plugin is found by. Never empty.
    pub kind: String,
    /// The entry's own `name`; mostly empty inside a list.
    pub name: String,
    /// The keys of `capabilities` that are true, sorted.
    pub capabilities: Vec<String>,
}

impl PluginConfig {
    /// Decodes a document.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        json::parse_object(bytes).map_err(unreadable).and_then(PluginConfig::decode)
    }

    /// Decodes an object. The keys that every runtime knows must have the right type; all others pass.
    pub fn decode(map: Map<String, Value>) -> Result<Self> {
        let top = Object::top(&map);
        check_types(&top).map_err(unreadable)?;
        let capabilities = enabled_capabilities(&top).map_err(unreadable)?;
        let (kind, name) = (top.string("type")?.to_string(), top.string("name")?.to_string());
        if kind.is_empty() {
            return Err(missing_type(&top));
        }
        Ok(PluginConfig { map, kind, name, capabilities })
    }

    /// The entry as it was written.
    pub fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// The configuration for one call, compact and with sorted keys. The list's name and version, and what the plugin is
    /// `told` (`prevResult`, attachments), replace the entry's own; of the capability arguments it gets those it has
    /// declared.
    pub fn stdin(
        &self,
        name: &str,
        cni_version: &str,
        told: &[(&str, Value)],
        capability_args: &Map<String, Value>,
    ) -> Vec<u8> {
        let mut map = self.map.clone();
        map.insert("name".to_string(), name.into());
        map.insert("cniVersion".to_string(), cni_version.into());
        map.extend(told.iter().map(|(key, value)| (key.to_string(), value.clone())));
        let supplied =
            self.capabilities.iter().filter_map(|key| Some((key.clone(), capability_args.get(key)?.clone())));
        let runtime: Map<String, Value> = supplied.collect();
        if !runtime.is_empty() {
            map.insert("runtimeConfig".to_string(), runtime.into());
        }
        json::compact(&Value::Object(map).into()).into_bytes()
    }
}

fn unreadable(error: Error) -> Error {
    Error::internal(format!("error parsing configuration: {error}"))
}

fn missing_type(top: &Object<'_>) -> Error {
    let error = unreadable(Error::internal("missing 'type'"));
    match top.get("plugins") {
        Some(_) => error.with_details("a list of plugins belongs in a file whose name ends in .conflist"),
        None => error,
    }
}

fn check_types(top: &Object<'_>) -> Result<()> {
    for key in ["cniVersion", "name", "type"] {
        top.string(key)?;
    }
    if let Some(ipam) = top.object("ipam")? {
        ipam.string("type")?;
    }
    if let Some(dns) = top.object("dns")? {
        Dns::decode(&dns)?;
    }
    top.object("prevResult")?;
    for attachment in top.objects("cni.dev/valid-attachments")? {
        attachment.string("containerID")?;
        attachment.string("ifname")?;
    }
    Ok(())
}

fn enabled_capabilities(top: &Object<'_>) -> Result<Vec<String>> {
    let Some(capabilities) = top.object("capabilities")? else { return Ok(Vec::new()) };
    let names = top.get("capabilities").and_then(Value::as_object).into_iter().flat_map(Map::keys);
    let enabled = names.map(|name| Ok(capabilities.boolean(name)?.then(|| name.clone())));
    enabled.filter_map(Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn wrong_types_and_a_missing_type_are_refused() {
        let text = |text: &str| PluginConfig::parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(text("{}"), "error parsing configuration: missing 'type'");
        assert_eq!(text("null"), "error parsing configuration: missing 'type'");
        assert_eq!(text(""), "error parsing configuration: unexpected end of JSON input");
        assert!(text(r#"{"plugins":[]}"#).starts_with("error parsing configuration: missing 'type'; a list"));
        for bad in [
            r#"{"type":1}"#,
            r#"{"type":"x","capabilities":{"a":"yes"}}"#,
            r#"{"type":"x","ipam":[]}"#,
            r#"{"type":"x","dns":{"search":1}}"#,
            r#"{"type":"x","prevResult":[]}"#,
            r#"{"type":"x","cni.dev/valid-attachments":[{"ifname":1}]}"#,
        ] {
            assert!(text(bad).starts_with("error parsing configuration: json: cannot unmarshal"), "{bad}");
        }
    }

    #[test]
    fn stdin_is_sorted_and_carries_what_the_runtime_adds() {
        let plugin = PluginConfig::parse(
            br#"{"type":"portmap","name":"own","snat":true,"capabilities":{"portMappings":true,"mac":false,"ips":true}}"#,
        );
        let supplied = object(json!({"portMappings": [{"hostPort": 80}], "mac": "x", "other": 1}));
        let prev = json!({"cniVersion": "0.4.0", "dns": {}});
        let bytes = plugin.unwrap().stdin("n<1>", "0.4.0", &[("prevResult", prev)], &supplied);
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            concat!(
                r#"{"capabilities":{"ips":true,"mac":false,"portMappings":true},"cniVersion":"0.4.0","name":"n\u003c1\u003e","#,
                r#""prevResult":{"cniVersion":"0.4.0","dns":{}},"runtimeConfig":{"portMappings":[{"hostPort":80}]},"#,
                r#""snat":true,"type":"portmap"}"#
            )
        );
    }

    #[test]
    fn without_matching_capabilities_a_configured_runtime_config_stays() {
        let plugin = PluginConfig::parse(br#"{"type":"x","runtimeConfig":{"a":9007199254740993}}"#).unwrap();
        let bytes = plugin.stdin("n", "", &[], &object(json!({"a": 2})));
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"cniVersion":"","name":"n","runtimeConfig":{"a":9007199254740993},"type":"x"}"#
        );
    }
}
