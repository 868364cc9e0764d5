//! What a plugin is, and what it is asked.

use std::ffi::OsString;

use crate::cni::config::{NetworkConfig, Object};
use crate::cni::environment::Verb;
use crate::cni::originals;
use crate::cni::result::CniResult;
use crate::cni::undo::Undo;
use crate::cni::version;
use crate::error::Result;

/// A CNI plugin. It reads no environment and prints nothing, so the same code serves as a process, as a delegate inside
/// another plugin and as a link of a chain.
pub trait Plugin: Sync {
    /// The name it is found by: `type` in configurations, the file name in CNI_PATH.
    fn name(&self) -> &'static str;

    /// Line 1 of the about text: the name and release of the plugin that this one replaces.
    fn release(&self) -> String {
        originals::of_plugin(self.name())
    }

    /// Specification versions it accepts.
    fn versions(&self) -> &'static [&'static str] {
        version::ALL
    }

    /// True for plugins that manage addresses, which others may name in `ipam.type`.
    fn is_ipam(&self) -> bool {
        false
    }

    /// The keys of its configuration, a table as [`crate::cni::keys`] reads it.
    fn keys(&self) -> &'static str;

    /// The keys that have no effect unless another one is there.
    fn dependents(&self) -> &'static [Dependents] {
        &[]
    }

    /// Where in a list of plugins it stands.
    fn position(&self) -> Position {
        Position::First
    }

    /// True if each ADD of this configuration makes the interface CNI_IFNAME in the container, and
    /// fails where that is there already.
    fn makes_interface(&self, _config: &Object<'_>) -> bool {
        !self.is_ipam() && self.position() != Position::Behind
    }

    /// Fails if ADD would refuse the configuration whatever the host is like: decodes all of it, and looks at nothing else, no
    /// file and no kernel. ADD begins with this, and STATUS ends.
    fn validate(&self, request: &Request<'_>) -> Result<()>;

    /// What ADD of a plugin that manages addresses may give as far as the configuration tells, with
    /// the first address of each range in place of the one that will be chosen. Empty where the
    /// configuration does not tell. A result without addresses has those that the runtime will
    /// name. Fails as [`Plugin::validate`] does.
    fn preview(&self, request: &Request<'_>) -> Result<Vec<CniResult>> {
        self.validate(request).map(|()| Vec::new())
    }

    /// Attaches the container. Whatever is done is written to `undo` as soon as it is done.
    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult>;

    /// Verifies the attachment.
    fn check(&self, request: &Request<'_>) -> Result<()>;

    /// Removes the attachment. Succeeds when there is nothing left to remove.
    fn del(&self, request: &Request<'_>) -> Result<()>;

    /// Removes what belongs to attachments of the network that are not valid any more.
    fn gc(&self, _request: &Request<'_>) -> Result<()> {
        Ok(())
    }

    /// Fails only where the next ADD would fail, whatever its container asks for: a runtime then calls the node not ready.
    fn status(&self, _request: &Request<'_>) -> Result<()> {
        Ok(())
    }
}

/// Keys that have no effect unless another one is there.
#[derive(Debug)]
pub struct Dependents {
    /// The object that they are in.
    pub object: &'static str,
    /// The keys.
    pub keys: &'static [&'static str],
    /// The key that they need.
    pub needed: &'static str,
    /// Where in the object they belong without that one.
    pub instead: &'static str,
}

/// Where in a list of plugins one stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// It makes an interface.
    First,
    /// It works on what the plugin in front of it has made, and fails without a `prevResult`.
    Behind,
    /// Either of these.
    Anywhere,
}

/// One call of a plugin.
#[derive(Debug, Clone)]
pub struct Request<'h> {
    /// What is asked.
    pub verb: Verb,
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS; may be empty on DEL.
    pub netns: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_ARGS.
    pub args: String,
    /// CNI_PATH; empty means the built-in plugins.
    pub path: String,
    /// Standard input.
    pub config: NetworkConfig,
    /// A DEL gives back what is remembered by container id, and touches no link.
    pub spares_links: bool,
    /// The process around the call.
    pub host: &'h Host,
}

impl Request<'_> {
    /// True for an ADD without a container: `cnitool validate` asks for one.
    pub fn is_rehearsal(&self) -> bool {
        self.verb == Verb::Add && self.netns.is_empty()
    }

    /// True where the runtime has not yet named what the container asks for: in STATUS and in a
    /// rehearsal. The configuration then promises that with the capability `name`.
    pub fn awaits(&self, name: &str) -> Result<bool> {
        let capabilities = self.config.top().object("capabilities")?;
        let is_promised = capabilities.map_or(Ok(false), |all| all.boolean(name))?;
        Ok(is_promised && (self.verb == Verb::Status || self.is_rehearsal()))
    }

    /// Takes away what leads to links: a DEL then only gives back what is remembered by container id.
    pub fn hide_links(&mut self) {
        self.spares_links = true;
        self.netns.clear();
        self.config.forget_prev_result();
    }
}

/// The process that plugins run in.
pub struct Host {
    /// The environment, which delegates that are other programs inherit.
    pub environment: Vec<(OsString, OsString)>,
    /// The plugins of this executable, by file name or `type` as written (see
    /// [`crate::cni::names`]).
    pub plugins: fn(&str) -> Option<&'static dyn Plugin>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Host")
    }
}

impl Host {
    /// A variable of the environment; empty when it is missing.
    pub fn variable(&self, name: &str) -> String {
        let found = self.environment.iter().rev().find(|(key, _)| key == name);
        found.map_or(String::new(), |(_, value)| value.to_string_lossy().into_owned())
    }
}
