//! The configuration, and the delegate's that is made of it.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::subnet_env::SubnetEnv;
use crate::cni::kept::wait_for;
use crate::cni::names::own_name;
use crate::cni::result::Route;
use crate::cni::{NetworkConfig, Object};
use crate::error::{Context, Error, Result, code};

/// An object of the configuration whose keys are handed on.
type Keys = Map<String, Value>;

/// Runtimes give up after minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A configuration that a delegate's can be made of.
#[derive(Debug)]
pub(super) struct Conf {
    subnet_file: String,
    patience: Duration,
    /// `delegate` with all that does not depend on the subnet.
    delegate: Keys,
    /// `ipam`, its `routes` being a list.
    ipam: Keys,
}

impl Conf {
    /// Decodes, and refuses what flannel must not be told.
    pub(super) fn of(config: &NetworkConfig) -> Result<Conf> {
        let mut conf =
            Conf::load(&config.top()).context("failed to load flannel netconf file: failed to load netconf")?;
        if conf.patience > LONGEST_WAIT {
            let msg = format!("waitForSubnetFile is more than {} seconds", LONGEST_WAIT.as_secs());
            return Err(Error::new(code::INVALID_CONFIG, msg));
        }
        refuse_foreign(&conf.delegate)?;
        check_routes(&mut conf.ipam).context("failed to assemble Delegate IPAM: failed to read IPAM routes")?;
        conf.delegate.insert("name".to_string(), config.name.as_str().into());
        if !config.cni_version.is_empty() {
            conf.delegate.insert("cniVersion".to_string(), config.cni_version.as_str().into());
        }
        put_default(&mut conf.delegate, "type", "bridge".into());
        put_default(&mut conf.ipam, "type", "host-local".into());
        Ok(conf)
    }

    fn load(top: &Object<'_>) -> Result<Conf> {
        let mut delegate = keys(top, "delegate")?.unwrap_or_default();
        delegate.extend(keys(top, "runtimeConfig")?.map(|runtime| ("runtimeConfig".to_string(), runtime.into())));
        Ok(Conf {
            subnet_file: text(top, "subnetFile", "/run/flannel/subnet.env")?,
            patience: Duration::from_secs(top.u32_if_set("waitForSubnetFile")?.unwrap_or(0).into()),
            delegate,
            ipam: keys(top, "ipam")?.unwrap_or_default(),
        })
    }

    /// What flanneld has leased. Does not wait.
    pub(super) fn subnet_env(&self) -> Result<SubnetEnv> {
        let read = SubnetEnv::read(&self.subnet_file);
        read.map_err(|mut error| {
            error.msg = format!(
                "failed to load flannel 'subnet.env' file: {}. Check the flannel pod log for this node.",
                error.msg
            );
            error
        })
    }

    /// The same; waits as long as the configuration says.
    pub(super) fn awaited_subnet_env(&self) -> Result<SubnetEnv> {
        wait_for(&self.subnet_file, self.patience, || self.subnet_env())
    }

    /// The delegate's `type`.
    pub(super) fn kind(&self) -> &str {
        self.delegate.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The delegate's configuration.
    pub(super) fn delegate(&self, env: &SubnetEnv) -> Keys {
        let mut delegate = self.delegate.clone();
        put_default(&mut delegate, "ipMasq", (!env.masquerades).into());
        put_default(&mut delegate, "mtu", env.mtu.into());
        if own_name(self.kind()) == "bridge" {
            put_default(&mut delegate, "isGateway", true.into());
        }
        let mut ipam = self.ipam.clone();
        ipam.insert("ranges".to_string(), ranges(env));
        if let Some(Value::Array(routes)) = ipam.get_mut("routes") {
            routes.extend(env.networks.iter().map(|network| json!({"dst": network.to_string()})));
        }
        delegate.insert("ipam".to_string(), ipam.into());
        delegate
    }

    /// The delegate's configuration with addresses of which nothing is known, for a look at all else.
    pub(super) fn delegate_without_subnet(&self) -> Keys {
        let mut delegate = self.delegate.clone();
        delegate.insert("ipam".to_string(), json!({"type": "dhcp"}));
        delegate
    }
}

/// `ranges` of the delegate's `ipam`: a set for each family.
pub(super) fn ranges(env: &SubnetEnv) -> Value {
    env.subnets.iter().map(|subnet| json!([{"subnet": subnet.to_string()}])).collect()
}

/// `dataDir`, which DEL needs of a configuration that has become invalid otherwise.
pub(super) fn data_dir(config: &NetworkConfig) -> Result<String> {
    text(&config.top(), "dataDir", "/var/lib/cni/flannel").context("failed to load netconf")
}

fn text(top: &Object<'_>, key: &str, default: &str) -> Result<String> {
    let text = top.string(key)?;
    Ok(if top.get(key).is_some() { text } else { default }.to_string())
}

fn keys(top: &Object<'_>, key: &str) -> Result<Option<Keys>> {
    top.object(key)?;
    Ok(top.get(key).and_then(Value::as_object).cloned())
}

fn refuse_foreign(delegate: &Keys) -> Result<()> {
    if delegate.get("type").is_some_and(|kind| !kind.is_string()) {
        return Err(Error::internal("'delegate' dictionary, if present, must have (string) 'type' field"));
    }
    if let Some(key) = ["name", "ipam"].into_iter().find(|key| delegate.contains_key(*key)) {
        let msg = format!("'delegate' dictionary must not have '{key}' field, it'll be set by flannel");
        return Err(Error::internal(msg));
    }
    Ok(())
}

/// The routes must be routes; they are handed on as they are written.
fn check_routes(ipam: &mut Keys) -> Result<()> {
    if ipam.get("routes").is_none_or(Value::is_null) {
        ipam.insert("routes".to_string(), Value::Array(Vec::new()));
    }
    let routes = Object::top(ipam).objects("routes");
    let routes = routes.and_then(|routes| routes.iter().try_for_each(|route| Route::decode(route).map(drop)));
    routes.context("failed to parse ipam.routes")
}

/// Also null is an answer: it stands for the delegate's own default.
fn put_default(keys: &mut Keys, key: &str, value: Value) {
    if !keys.contains_key(key) {
        keys.insert(key.to_string(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::json::compact;

    fn conf(more: Value) -> Result<Conf> {
        let mut config = json!({"name": "cni-flannel", "type": "flannel"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Conf::of(&NetworkConfig::parse(config.to_string().into_bytes()).unwrap())
    }

    fn env(networks: &[&str], subnets: &[&str]) -> SubnetEnv {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        SubnetEnv { networks: nets(networks), subnets: nets(subnets), mtu: 1472, masquerades: true }
    }

    fn v4() -> SubnetEnv {
        env(&["10.1.0.0/16"], &["10.1.17.0/24"])
    }

    fn dual() -> SubnetEnv {
        env(&["10.1.0.0/16", "fc00::/48"], &["10.1.17.0/24", "fc00::/64"])
    }

    /// What the original's own tests expect to be saved.
    #[test]
    fn without_a_word_the_delegate_is_a_bridge_with_host_local() {
        let delegate = |env| Value::Object(conf(json!({})).unwrap().delegate(&env));
        let expected = |routes: Value, ranges: Value| {
            json!({"ipMasq": false, "ipam": {"routes": routes, "ranges": ranges, "type": "host-local"},
                "isGateway": true, "mtu": 1472, "name": "cni-flannel", "type": "bridge"})
        };
        let (r4, r6) = (json!({"dst": "10.1.0.0/16"}), json!({"dst": "fc00::/48"}));
        let (s4, s6) = (json!([{"subnet": "10.1.17.0/24"}]), json!([{"subnet": "fc00::/64"}]));
        assert_eq!(delegate(v4()), expected(json!([r4]), json!([s4])));
        assert_eq!(delegate(env(&["fc00::/48"], &["fc00::/64"])), expected(json!([r6]), json!([s6])));
        assert_eq!(delegate(dual()), expected(json!([r4, r6]), json!([s4, s6])));
        let two = env(&["10.1.0.0/16", "192.168.0.0/16"], &["10.1.17.0/24"]);
        assert_eq!(delegate(two), expected(json!([r4, {"dst": "192.168.0.0/16"}]), json!([s4])));
    }

    /// The same, where an `ipam` is given.
    #[test]
    fn ipam_keeps_its_keys_and_routes_and_loses_its_ranges() {
        let routes = json!([{"dst": "10.96.0.0/12"}, {"dst": "192.168.244.0/24", "gw": "10.1.17.20"}]);
        let given =
            json!({"ipam": {"type": "my-ipam", "unknown-param": "unknown-value", "routes": routes, "ranges": 1}});
        let delegate = conf(given).unwrap().delegate(&dual());
        let mut all = routes.as_array().unwrap().clone();
        all.extend([json!({"dst": "10.1.0.0/16"}), json!({"dst": "fc00::/48"})]);
        let expected = json!({"type": "my-ipam", "unknown-param": "unknown-value", "routes": all,
            "ranges": [[{"subnet": "10.1.17.0/24"}], [{"subnet": "fc00::/64"}]]});
        assert_eq!(delegate.get("ipam"), Some(&expected));
        let null = conf(json!({"ipam": {"routes": null}})).unwrap().delegate(&v4());
        assert_eq!(null.get("ipam").unwrap().get("routes"), Some(&json!([{"dst": "10.1.0.0/16"}])));
    }

    /// Bytes that the original (rancher's build) was seen to send and save.
    #[test]
    fn the_bytes_are_the_references() {
        let given = json!({"cniVersion": "0.3.1", "name": "cbr0",
            "delegate": {"hairpinMode": true, "isDefaultGateway": true, "cniVersion": "0.1.0"}});
        let nets = env(&["10.42.0.0/16", "2001:cafe:42::/56"], &["10.42.0.0/24", "2001:cafe:42::/64"]);
        let delegate = conf(given).unwrap().delegate(&SubnetEnv { mtu: 1450, ..nets });
        let expected = concat!(
            r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.42.0.0/24"}],"#,
            r#"[{"subnet":"2001:cafe:42::/64"}]],"routes":[{"dst":"10.42.0.0/16"},{"dst":"2001:cafe:42::/56"}],"#,
            r#""type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#
        );
        assert_eq!(compact(&Value::Object(delegate).into()), expected);
    }

    #[test]
    fn what_the_delegate_says_is_left_alone() {
        let delegate = json!({"type": "ipvlan", "ipMasq": true, "mtu": null, "a": "<b>", "runtimeConfig": {"old": 1}});
        let built = conf(json!({"delegate": delegate, "runtimeConfig": {"mac": "m"}})).unwrap().delegate(&v4());
        let mut expected = json!({"type": "ipvlan", "ipMasq": true, "mtu": null, "a": "<b>", "name": "cni-flannel",
            "runtimeConfig": {"mac": "m"}});
        expected["ipam"] = built.get("ipam").unwrap().clone();
        assert_eq!(Value::Object(built), expected);
        let built = conf(json!({"delegate": {"isGateway": false}})).unwrap();
        let env = SubnetEnv { masquerades: false, ..v4() };
        let built = built.delegate(&env);
        assert_eq!((built.get("isGateway"), built.get("ipMasq")), (Some(&json!(false)), Some(&json!(true))));
    }

    #[test]
    fn what_flannel_must_not_be_told_is_refused() {
        let cases = [
            (json!({"delegate": {"type": 1}}), "'delegate' dictionary, if present, must have (string) 'type' field"),
            (json!({"delegate": {"type": null}}), "'delegate' dictionary, if present, must have (string) 'type' field"),
            (
                json!({"delegate": {"name": null}}),
                "'delegate' dictionary must not have 'name' field, it'll be set by flannel",
            ),
            (
                json!({"delegate": {"ipam": {}}}),
                "'delegate' dictionary must not have 'ipam' field, it'll be set by flannel",
            ),
            (
                json!({"ipam": {"routes": [{"dst": "x"}]}}),
                "failed to assemble Delegate IPAM: failed to read IPAM routes: failed to parse ipam.routes: invalid CIDR \
                 address: x",
            ),
            (json!({"waitForSubnetFile": 61}), "waitForSubnetFile is more than 60 seconds"),
        ];
        for (more, expected) in cases {
            assert_eq!(conf(more).unwrap_err().msg, expected);
        }
        for key in ["delegate", "ipam", "runtimeConfig", "subnetFile", "waitForSubnetFile"] {
            let error = conf(json!({key: []})).unwrap_err();
            let start = "failed to load flannel netconf file: failed to load netconf: json: cannot unmarshal array";
            assert!(error.msg.starts_with(start) && error.msg.contains(key), "{error}");
        }
    }
}
