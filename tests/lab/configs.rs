//! Network configurations that tests vary.

use serde_json::{Value, json};

/// What a test goes through, each with a name for its report.
pub type Configurations = Vec<(&'static str, Value)>;

/// Of these configurations the ones with these names.
pub fn chosen(configurations: Configurations, names: &[&str]) -> Configurations {
    let chosen: Vec<_> = configurations.into_iter().filter(|(name, _)| names.contains(name)).collect();
    assert_eq!(chosen.len(), names.len(), "{names:?}");
    chosen
}

/// `base` with the keys of `changes` put over it, at every level; null removes a key.
pub fn merged(mut base: Value, changes: &Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        match (value, base.get(key)) {
            (Value::Null, _) => drop(base.as_object_mut().unwrap().remove(key)),
            (Value::Object(_), Some(Value::Object(_))) => base[key] = merged(base[key].take(), value),
            _ => base[key] = value.clone(),
        }
    }
    base
}

/// bridge + host-local: `net` on `cni0`, 10.1.2.0/24, version 1.0.0.
pub fn bridge_config(changes: &Value) -> Value {
    let base = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0",
        "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}});
    merged(base, changes)
}

/// host-local alone; `ipam` is merged into its `ipam` key.
pub fn host_local_config(ipam: &Value) -> Value {
    let base = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": {"type": "host-local"}});
    merged(base, &json!({"ipam": ipam}))
}

/// static alone; `ipam` is merged into its `ipam` key.
pub fn static_config(ipam: &Value) -> Value {
    let base = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": {"type": "static"}});
    merged(base, &json!({"ipam": ipam}))
}
