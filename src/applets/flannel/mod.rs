//! `flannel`: reads what flanneld has leased for this host and calls another plugin with it.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `subnetFile` | `/run/flannel/subnet.env` | flanneld's file |
//! | `waitForSubnetFile` | 0 | how many seconds, 60 at most, ADD waits for that file to be there and complete |
//! | `dataDir` | `/var/lib/cni/flannel` | where delegates' configurations are kept, a file for each container |
//! | `delegate` | none | the delegate's configuration; must not have `name` and `ipam` |
//! | `ipam` | none | the delegate's `ipam`; its `ranges` are replaced, and flannel's networks added to its `routes` |
//! | `runtimeConfig` | none | handed on |
//!
//! Unless `delegate` says otherwise its `type` is `bridge` (then with `isGateway`), its `mtu` that of flanneld's file, and
//! its `ipMasq` the opposite of flanneld's; `ipam.type` is `host-local`.
//!
//! DEL works with what ADD has kept, or else with what ADD would do now. What is kept goes when the delegate's DEL has
//! succeeded.

mod conf;
mod subnet_env;

use conf::{Conf, data_dir, ranges};
use serde_json::{Map, Value};

use crate::cni::delegate::Delegate;
use crate::cni::json;
use crate::cni::kept::Kept;
use crate::cni::names::own_name;
use crate::cni::originals;
use crate::cni::{CniResult, NetworkConfig, Object, Plugin, Request, Undo};
use crate::error::{Context, Error, Failures, Result, code};

const NAME: &str = "flannel";
/// What the reference says where it is not the delegate that fails.
const FAILED: &str = "failed to delegate add";
const PREV_RESULT: &str = "prevResult";
const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
subnetFile: string
waitForSubnetFile: 0..60
dataDir: string
delegate: plugin
ipam.type: string
ipam.routes[]: @route
ipam.*: any
runtimeConfig.*: any
";

/// The applet.
pub static FLANNEL: Flannel = Flannel;

/// See the module's description.
#[derive(Debug)]
pub struct Flannel;

/// A delegate's configuration.
type Keys = Map<String, Value>;

impl Plugin for Flannel {
    fn name(&self) -> &'static str {
        NAME
    }

    fn release(&self) -> String {
        originals::of_flannel()
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    /// True for a bridge, the default delegate.
    fn makes_interface(&self, config: &Object<'_>) -> bool {
        let delegate = config.object("delegate").ok().flatten();
        let kind = delegate.map_or("", |delegate| delegate.string("type").unwrap_or_default());
        ["", "bridge"].contains(&own_name(kind))
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        data_dir(&request.config)?;
        let conf = Conf::of(&request.config)?;
        refuse_itself(conf.kind())?;
        match find(conf.kind(), request) {
            Ok(Delegate::BuiltIn(delegate)) => {
                delegate.validate(&with_config(request, conf.delegate_without_subnet())?)
            }
            _ => Ok(()),
        }
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let conf = Conf::of(&request.config)?;
        let delegate = find(conf.kind(), request).context(FAILED)?;
        let inner = with_config(request, conf.delegate(&conf.awaited_subnet_env()?))?;
        keep(&Kept::new(&data_dir(&request.config)?), &inner, undo)?;
        delegate.add_in_version(FAILED, &inner, undo).map(|(result, _)| result)
    }

    /// Asks the delegate. A host whose subnet has changed since then is a fault: nobody sends packets to the old one.
    fn check(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(&request.config)?;
        let env = conf.subnet_env();
        let kept = kept_of(request)?.and_then(Found::ours);
        if let (Ok(env), Some(kept)) = (&env, &kept) {
            let (now, then) = (ranges(env), kept.get("ipam").and_then(|ipam| ipam.get("ranges")));
            if then.is_some_and(|then| *then != now) {
                let then = json::compact(&then.cloned().into());
                let now = json::compact(&now.into());
                return Err(Error::internal(format!(
                    "flannel's subnet of this node is {now}, the container's is {then}"
                )));
            }
        }
        let keys = kept.map_or_else(|| env.map(|env| conf.delegate(&env)), Ok)?;
        let mut keys = handed_on(keys, request, PREV_RESULT);
        let delegate = find(keys.get("type").and_then(Value::as_str).unwrap_or_default(), request)?;
        if let Delegate::Program(_) = delegate {
            hide_plain_routes(&mut keys);
        }
        delegate.call(&with_config(request, keys)?)
    }

    fn del(&self, request: &Request<'_>) -> Result<()> {
        let found = kept_of(request)?;
        let removable = !matches!(found, Some(Found::Others));
        match found.and_then(Found::ours) {
            Some(keys) => call(&with_config(request, with_prev_result(keys, request))?)?,
            None => del_by_configuration(request)?,
        }
        if removable {
            // As in the reference, no failure: the attachment is gone.
            let _ = Kept::new(&data_dir(&request.config)?).remove(&request.container_id);
        }
        Ok(())
    }

    /// The delegate's GC, with its configuration of today and each other one that is kept of attachments that are not valid
    /// any more; what is kept of these goes then.
    fn gc(&self, request: &Request<'_>) -> Result<()> {
        let kept = Kept::new(&data_dir(&request.config)?);
        let mut failures = Failures::default();
        let current = Conf::of(&request.config).and_then(|conf| Ok(conf.delegate(&conf.subnet_env()?)));
        let mut calls: Vec<Keys> =
            current.into_iter().map(|keys| handed_on(keys, request, VALID_ATTACHMENTS)).collect();
        let stale = stale(&kept, request)?;
        for (_, keys) in &stale {
            let mut keys = handed_on(keys.clone(), request, VALID_ATTACHMENTS);
            keys.remove("runtimeConfig");
            if !calls.contains(&keys) {
                calls.push(keys);
            }
        }
        for keys in calls {
            failures.note(with_config(request, keys).and_then(|inner| call(&inner)));
        }
        failures.finish()?;
        let mut failures = Failures::default();
        for (container, _) in stale {
            failures.note(kept.remove(&container));
        }
        failures.finish()
    }

    fn status(&self, request: &Request<'_>) -> Result<()> {
        let conf = Conf::of(&request.config)?;
        let ready = conf.subnet_env().and_then(|env| {
            Kept::new(&data_dir(&request.config)?).probe()?;
            Ok((find(conf.kind(), request)?, env))
        });
        let (delegate, env) = ready.map_err(|error| error.with_code(code::NOT_AVAILABLE))?;
        delegate.call(&with_config(request, conf.delegate(&env))?)
    }
}

// What is kept

/// A file in the data directory.
enum Found {
    /// A delegate's configuration in our network.
    Ours(Keys),
    /// One in another network, which shares the directory and the container.
    Others,
    /// No configuration: the reference was killed while it wrote, or the power failed. Or its flannel delegated to itself.
    Torn,
}

impl Found {
    fn parse(bytes: &[u8], network: &str) -> Found {
        let Ok(keys) = json::parse_object(bytes) else { return Found::Torn };
        match (keys.get("name").and_then(Value::as_str), keys.get("type")) {
            (Some(name), _) if name != network => Found::Others,
            (Some(_), Some(Value::String(kind))) if kind != NAME => Found::Ours(keys),
            _ => Found::Torn,
        }
    }

    fn ours(self) -> Option<Keys> {
        match self {
            Found::Ours(keys) => Some(keys),
            Found::Others | Found::Torn => None,
        }
    }
}

fn kept_of(request: &Request<'_>) -> Result<Option<Found>> {
    let bytes = Kept::new(&data_dir(&request.config)?).read(&request.container_id)?;
    Ok(bytes.map(|bytes| Found::parse(&bytes, &request.config.name)))
}

/// Keeps the delegate's configuration for DEL.
fn keep(kept: &Kept, inner: &Request<'_>, undo: &mut Undo) -> Result<()> {
    let before = kept.read(&inner.container_id).unwrap_or_default();
    if before.as_deref() == Some(inner.config.raw()) {
        return Ok(());
    }
    let (place, container) = (kept.clone(), inner.container_id.clone());
    undo.push(move || match &before {
        Some(bytes) => place.write(&container, bytes),
        None => place.remove(&container),
    });
    kept.write(&inner.container_id, inner.config.raw())
}

/// What is kept of attachments of our network that are not valid any more. A file that is no configuration may just be
/// being written.
fn stale(kept: &Kept, request: &Request<'_>) -> Result<Vec<(String, Keys)>> {
    let Some(valid) = request.config.valid_attachments().context("failed to parse config")? else {
        return Ok(Vec::new());
    };
    let mut stale = Vec::new();
    for container in kept.containers()? {
        if valid.iter().any(|(id, _)| *id == container) {
            continue;
        }
        let found = kept.read(&container).ok().flatten().map(|bytes| Found::parse(&bytes, &request.config.name));
        stale.extend(found.and_then(Found::ours).map(|keys| (container, keys)));
    }
    Ok(stale)
}

// The delegate

fn find(kind: &str, request: &Request<'_>) -> Result<Delegate> {
    refuse_itself(kind)?;
    Delegate::find(kind, request)
}

/// flannel itself would do, in the reference, until it finds its own configuration kept and never ends.
fn refuse_itself(kind: &str) -> Result<()> {
    match own_name(kind) {
        NAME => Err(Error::new(code::INVALID_CONFIG, "flannel cannot be its own delegate")),
        _ => Ok(()),
    }
}

fn call(inner: &Request<'_>) -> Result<()> {
    find(inner.config.top().string("type")?, inner)?.call(inner)
}

fn with_config<'h>(request: &Request<'h>, keys: Keys) -> Result<Request<'h>> {
    let bytes = json::compact(&Value::Object(keys).into()).into_bytes();
    Ok(Request { config: NetworkConfig::parse(bytes)?, ..request.clone() })
}

/// Adds what the runtime has told, in the version that it speaks.
fn handed_on(mut keys: Keys, request: &Request<'_>, key: &str) -> Keys {
    keys.insert("cniVersion".to_string(), request.config.cni_version.as_str().into());
    keys.extend(request.config.top().get(key).map(|value| (key.to_string(), value.clone())));
    keys
}

/// Bridges of the reference up to 1.1.1 fail a CHECK of a route without a gateway, as flannel's all are, because they have
/// given it theirs.
fn hide_plain_routes(keys: &mut Keys) {
    if let Some(Value::Array(routes)) = keys.get_mut(PREV_RESULT).and_then(|result| result.get_mut("routes")) {
        routes.retain(|route| route.get("gw").is_some());
    }
}

/// For DEL, which takes the version of the ADD: a result of another one is no help.
fn with_prev_result(keys: Keys, request: &Request<'_>) -> Keys {
    let version = keys.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if version == request.config.cni_version { handed_on(keys, request, PREV_RESULT) } else { keys }
}

/// When nothing is kept, what ADD would do now has to do. When ADD could do nothing there is nothing to delete.
fn del_by_configuration(request: &Request<'_>) -> Result<()> {
    let Ok(conf) = Conf::of(&request.config) else { return Ok(()) };
    let (Ok(delegate), Ok(env)) = (find(conf.kind(), request), conf.subnet_env()) else { return Ok(()) };
    delegate.call(&with_config(request, with_prev_result(conf.delegate(&env), request))?)
}
