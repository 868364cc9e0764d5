//! Running the plugins of a network for one attachment, as a runtime does (specification 1.1.0, section 3; `libcni/api.go`
//! `AddNetworkList`, `CheckNetworkList`, `DelNetworkList` of the reference library).

mod network;

pub use network::Fate;

use serde_json::Value;

use crate::cni::attachment::Attachment;
use crate::cni::cache::Cache;
use crate::cni::config::NetworkConfig;
use crate::cni::conflist::NetworkList;
use crate::cni::delegate::Delegate;
use crate::cni::environment::Verb;
use crate::cni::json::Node;
use crate::cni::plugin::{Host, Request};
use crate::cni::plugin_config::PluginConfig;
use crate::cni::serve;
use crate::cni::undo::Undo;
use crate::cni::version;
use crate::error::{Errno, Error, Failures, Result, code};

/// A network, an attachment to it, and what it takes to call the plugins.
#[derive(Debug)]
pub struct Chain<'a> {
    /// The network.
    pub list: &'a NetworkList,
    /// The attachment.
    pub attachment: &'a Attachment,
    /// CNI_PATH; empty means the built-in plugins.
    pub path: &'a str,
    /// Where results are remembered.
    pub cache: &'a Cache,
    /// The process around the calls.
    pub host: &'a Host,
}

/// A plugin of the list and how it is called.
struct Link<'a> {
    plugin: &'a PluginConfig,
    delegate: Delegate,
}

impl<'a> Chain<'a> {
    /// Attaches: each plugin gets the result of the one before it. The last result, in the list's version, is remembered
    /// and returned. A failure anywhere takes back what all plugins did; but an ADD of what is attached already must not end
    /// that by the DEL of a program.
    pub fn add(&self) -> Result<Node> {
        let links = self.links(Verb::Add)?;
        self.cache.prove_writable(&self.list.bytes).map_err(|error| self.not_remembered(error))?;
        let repeated = matches!(self.cache.read(&self.list.name, self.attachment), Ok(Some(_)));
        let mut undo = if repeated { Undo::of_repeated_add() } else { Undo::default() };
        match self.attach(&links, &mut undo) {
            Ok(result) => {
                undo.commit();
                Ok(result)
            }
            Err(cause) => Err(take_back(undo, cause)),
        }
    }

    /// The capability arguments that no plugin gets, sorted.
    pub fn unused_capability_args(&self) -> Vec<String> {
        let is_used = |key: &String| self.list.plugins.iter().any(|plugin| plugin.capabilities.contains(key));
        self.attachment.capability_args.keys().filter(|key| !is_used(key)).cloned().collect()
    }

    /// Verifies the attachment: all plugins in order, up to the first failure, each with the remembered result and, where
    /// none are supplied now, the remembered arguments (the specification wants those of the ADD).
    pub fn check(&self) -> Result<()> {
        let NetworkList { name, cni_version, .. } = self.list;
        if version::parse(cni_version)? < version::WITH_CHECK {
            let msg = format!("configuration version {cni_version:?} does not support the CHECK command");
            return Err(Error::internal(msg));
        }
        if self.list.disable_check {
            return Ok(());
        }
        let remembered = self.remembered();
        let remembered =
            remembered.map_err(|error| error.behind(&format!("failed to get network {name:?} cached result")))?;
        let (prev_result, added) = remembered.unzip();
        let attachment = self.with_arguments_of(added.unwrap_or_default());
        let chain = Chain { attachment: &attachment, ..*self };
        for Link { plugin, delegate } in chain.links(Verb::Check)? {
            let verified = delegate.call(&chain.request(Verb::Check, plugin, prev_result.as_ref())?);
            verified.map_err(|error| failed_above(plugin, "check", error))?;
        }
        Ok(())
    }

    /// Detaches: all plugins in reverse order, past failures, which are reported together. What was remembered is
    /// forgotten when all have succeeded.
    pub fn del(&self) -> Result<()> {
        let knows_prev_result = version::parse(&self.list.cni_version)? >= version::WITH_CHECK;
        self.attachment.validate(&self.list.name)?;
        let remembered = if knows_prev_result { self.remembered_or_forgotten() } else { None };
        let mut failures = Failures::default();
        for plugin in self.list.plugins.iter().rev() {
            let step = self.detach(plugin, remembered.as_ref());
            let stop = is_interrupted(&step);
            failures.note(step.map_err(|error| failed(plugin, "delete", error)));
            if stop {
                break;
            }
        }
        failures.finish()?;
        self.cache.remove(&self.list.name, self.attachment);
        Ok(())
    }

    /// Fails unless there is all that a DEL will call, the IPAM plugins too, so that none is begun that cannot be finished.
    pub fn prove_findable(&self) -> Result<()> {
        for plugin in &self.list.plugins {
            let request = self.request(Verb::Del, plugin, None)?;
            let ipam = request.config.ipam_type()?;
            for name in [plugin.kind.as_str(), ipam].into_iter().filter(|name| !name.is_empty()) {
                Delegate::find(name, &request).map_err(|error| failed(plugin, "delete", error))?;
            }
        }
        Ok(())
    }

    /// Finds all plugins and verifies everything that can be verified before the first of them is called.
    fn links(&self, verb: Verb) -> Result<Vec<Link<'a>>> {
        let mut links = Vec::new();
        for plugin in &self.list.plugins {
            let delegate = self.admit(verb, plugin).map_err(|error| match verb {
                Verb::Add => failed(plugin, "add", error),
                _ => error,
            })?;
            links.push(Link { plugin, delegate });
        }
        Ok(links)
    }

    fn admit(&self, verb: Verb, plugin: &PluginConfig) -> Result<Delegate> {
        let request = self.request(verb, plugin, None)?;
        let delegate = Delegate::find(&plugin.kind, &request)?;
        self.attachment.validate(&self.list.name)?;
        if let Delegate::BuiltIn(plugin) = &delegate {
            serve::gate(*plugin, &request)?;
            serve::check_netns(&request)?;
        }
        Ok(delegate)
    }

    fn attach(&self, links: &[Link<'_>], undo: &mut Undo) -> Result<Node> {
        let mut last: Option<Node> = None;
        for link in links {
            let prev_result = last.map(Node::into_value);
            let result = self.attach_one(link, prev_result.as_ref(), undo);
            last = Some(result.map_err(|error| failed(link.plugin, "add", error))?);
        }
        let result = last.ok_or_else(|| Error::internal("no plugin configs found"))?;
        let remembered =
            self.cache.write(&self.list.name, self.attachment, &self.list.bytes, result.clone().into_value());
        remembered.map_err(|error| self.not_remembered(error))?;
        Ok(result)
    }

    /// The result is converted at once: the next plugin, the cache and the caller all expect the list's version, whatever
    /// another program has answered in. Only if the list has none it stays in the program's, as in the reference: the
    /// oldest version, which is meant then, could not hold most of it.
    fn attach_one(&self, link: &Link<'_>, prev_result: Option<&Value>, undo: &mut Undo) -> Result<Node> {
        let request = self.request(Verb::Add, link.plugin, prev_result)?;
        let (result, printed) = link.delegate.add_in_version("", &request, undo)?;
        let version = if self.list.cni_version.is_empty() { &printed } else { &self.list.cni_version };
        match link.delegate {
            Delegate::BuiltIn(_) => result.to_json(version),
            Delegate::Program(_) => result.to_json_as_received(version),
        }
    }

    /// In our own namespace a plugin of this executable must not touch links: it does not see any and only gives
    /// back what is remembered by container id. Other programs look after themselves.
    fn detach(&self, plugin: &PluginConfig, prev_result: Option<&Value>) -> Result<()> {
        let mut request = self.request(Verb::Del, plugin, prev_result)?;
        let delegate = Delegate::find(&plugin.kind, &request)?;
        let own = match delegate {
            Delegate::BuiltIn(_) => serve::check_netns(&request),
            Delegate::Program(_) => Ok(()),
        };
        if own.is_err() {
            request.hide_links();
        }
        delegate.call(&request)?;
        own
    }

    fn request(&self, verb: Verb, plugin: &PluginConfig, prev_result: Option<&Value>) -> Result<Request<'a>> {
        self.request_with(verb, plugin, prev_result.map(|result| ("prevResult", result.clone())).as_slice())
    }

    fn request_with(&self, verb: Verb, plugin: &PluginConfig, told: &[(&str, Value)]) -> Result<Request<'a>> {
        let NetworkList { name, cni_version, .. } = self.list;
        let stdin = plugin.stdin(name, cni_version, told, &self.attachment.capability_args);
        Ok(Request {
            verb,
            container_id: self.attachment.container_id.clone(),
            netns: self.attachment.netns.clone(),
            ifname: self.attachment.ifname.clone(),
            args: self.attachment.args_text(),
            path: self.path.to_string(),
            config: NetworkConfig::parse(stdin)?,
            spares_links: false,
            host: self.host,
        })
    }

    /// The remembered result in the list's version, and the parameters of the ADD.
    fn remembered(&self) -> Result<Option<(Value, Attachment)>> {
        let Some(cached) = self.cache.read(&self.list.name, self.attachment)? else { return Ok(None) };
        let version = &self.list.cni_version;
        let result = cached.result.to_json(version);
        let result = result
            .map_err(|error| error.behind(&format!("failed to convert cached result to config version {version:?}")))?;
        Ok(Some((result.into_value(), cached.attachment)))
    }

    /// The remembered result. A file that holds none is removed: nobody else can use it either.
    fn remembered_or_forgotten(&self) -> Option<Value> {
        let remembered = self.remembered();
        if remembered.is_err() {
            self.cache.remove(&self.list.name, self.attachment);
        }
        remembered.ok().flatten().map(|(result, _)| result)
    }

    fn with_arguments_of(&self, added: Attachment) -> Attachment {
        let mut attachment = self.attachment.clone();
        if attachment.args.is_empty() {
            attachment.args = added.args;
        }
        if attachment.capability_args.is_empty() {
            attachment.capability_args = added.capability_args;
        }
        attachment
    }

    fn not_remembered(&self, error: Error) -> Error {
        error.behind(&format!("failed to set network {:?} cached result", self.list.name))
    }
}

fn failed(plugin: &PluginConfig, action: &str, error: Error) -> Error {
    // Also errors with a CNI code: a runtime reports texts, not codes.
    error.behind(&who_failed(plugin, action))
}

/// The reference has the plugin's words alone for these verbs. They stay the last line; who says so, and the code if it is
/// one of its own, stands above it.
fn failed_above(plugin: &PluginConfig, action: &str, mut error: Error) -> Error {
    let code = match error.code {
        code::UNKNOWN | code::INTERNAL => String::new(),
        code => format!(", code {code}"),
    };
    error.msg = format!("{}{code}:\n{}", who_failed(plugin, action), error.msg);
    error
}

fn who_failed(plugin: &PluginConfig, action: &str) -> String {
    let own_name = if plugin.name.is_empty() { String::new() } else { format!(" name={:?}", plugin.name) };
    format!("plugin type={:?}{own_name} failed ({action})", plugin.kind)
}

/// Who goes on past failures stops here nevertheless: somebody wants us to end.
fn is_interrupted<T>(step: &Result<T>) -> bool {
    step.as_ref().is_err_and(|error| error.is(Errno::EINTR))
}

fn take_back(undo: Undo, cause: Error) -> Error {
    let error = undo.roll_back(cause.clone());
    if error == cause {
        return cause;
    }
    let details = format!("{}; a DEL is needed to remove the rest", error.details);
    error.with_details(details)
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
