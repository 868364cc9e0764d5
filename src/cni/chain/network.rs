//! What concerns a network as a whole and no attachment: GC and STATUS (`libcni/api.go` `GCNetworkList`,
//! `GetStatusNetworkList` of the reference library). Plugins know both from 1.1.0 on.

use serde_json::{Value, json};

use super::{Chain, failed_above, is_interrupted};
use crate::cni::attachment::Attachment;
use crate::cni::delegate::Delegate;
use crate::cni::environment::Verb;
use crate::cni::plugin_config::PluginConfig;
use crate::cni::version;
use crate::error::{Failures, Result};
use crate::sorted::SortedSet;

/// What becomes of a remembered attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is ended.
    Stale,
    /// It is kept: the caller has named it.
    Valid,
    /// It is kept: the network's configuration has `disableGC`.
    Disabled,
}

impl Chain<'_> {
    /// Ends every remembered attachment to the network that is not a `valid` one (container id, interface name), as DEL
    /// does; then all plugins remove what else belongs to none of these. Goes on past failures, each of which becomes a
    /// line of the error.
    ///
    /// `None` is what a runtime says that keeps no account: no remembered attachment is valid, and plugins are not told.
    /// `say` hears of each remembered attachment that is kept or has been ended.
    pub fn gc(&self, valid: Option<&[(String, String)]>, say: &dyn Fn(Fate, &Attachment)) -> Result<()> {
        let mut failures = Failures::default();
        let remembered = failures.note(self.fates(valid.unwrap_or_default())).unwrap_or_default();
        let (stale, kept): (Vec<_>, Vec<_>) = remembered.iter().partition(|(fate, _)| *fate == Fate::Stale);
        kept.iter().for_each(|(fate, attachment)| say(*fate, attachment));
        if self.list.disable_gc {
            return Ok(());
        }
        let stale = stale.iter().map(|(fate, attachment)| {
            let ended = self.end_stale(attachment);
            ended.inspect(|()| say(*fate, attachment))
        });
        let told = told(valid);
        let known = if self.is_known_to_plugins() { self.list.plugins.as_slice() } else { &[] };
        let collected = known.iter().map(|plugin| self.collect(plugin, &told));
        for step in stale.chain(collected) {
            let stop = is_interrupted(&step);
            failures.note(step);
            if stop {
                break;
            }
        }
        failures.finish_joined("\n")
    }

    /// What [`Chain::gc`] does with each remembered attachment to the network.
    pub fn fates(&self, valid: &[(String, String)]) -> Result<Vec<(Fate, Attachment)>> {
        let valid: SortedSet<(&str, &str)> =
            SortedSet::new(valid.iter().map(|(id, ifname)| (&**id, &**ifname)).collect());
        let fate = |Attachment { container_id, ifname, .. }: &Attachment| match self.list.disable_gc {
            true => Fate::Disabled,
            false if valid.contains(&(&**container_id, &**ifname)) => Fate::Valid,
            false => Fate::Stale,
        };
        let remembered = self.cache.list(Some(&self.list.name))?;
        Ok(remembered.into_iter().map(|(_, cached)| (fate(&cached.attachment), cached.attachment)).collect())
    }

    fn collect(&self, plugin: &PluginConfig, told: &[(&str, Value)]) -> Result<()> {
        let collected = self.call_for_network(Verb::Gc, plugin, told);
        collected.map_err(|error| error.behind(&format!("failed to GC plugin {}", plugin.kind)))
    }

    /// Asks all plugins in order whether they could serve an ADD, up to the first that could not.
    pub fn status(&self) -> Result<()> {
        if self.is_known_to_plugins() {
            for plugin in &self.list.plugins {
                let answer = self.call_for_network(Verb::Status, plugin, &[]);
                answer.map_err(|error| failed_above(plugin, "status", error))?;
            }
        }
        Ok(())
    }

    /// True if [`Chain::gc`] also asks the plugins.
    pub fn asks_plugins_to_collect(&self) -> bool {
        self.is_known_to_plugins() && !self.list.disable_gc
    }

    fn is_known_to_plugins(&self) -> bool {
        version::at_least(&self.list.cni_version, version::WITH_GC)
    }

    fn end_stale(&self, attachment: &Attachment) -> Result<()> {
        let Attachment { container_id, ifname, .. } = attachment;
        let ended = Chain { attachment, ..*self }.del();
        ended.map_err(|error| error.behind(&format!("failed to delete stale attachment {container_id} {ifname}")))
    }

    fn call_for_network(&self, verb: Verb, plugin: &PluginConfig, told: &[(&str, Value)]) -> Result<()> {
        let nobody = Attachment::default();
        let request = Chain { attachment: &nobody, ..*self }.request_with(verb, plugin, told)?;
        Delegate::find(&plugin.kind, &request)?.call(&request)
    }
}

/// The valid attachments as plugins are told them: under the key of the specification and the older one.
fn told(valid: Option<&[(String, String)]>) -> Vec<(&'static str, Value)> {
    let Some(valid) = valid else { return Vec::new() };
    let list: Value = valid.iter().map(|(id, name)| json!({"containerID": id, "ifname": name})).collect();
    vec![("cni.dev/attachments", list.clone()), ("cni.dev/valid-attachments", list)]
}
