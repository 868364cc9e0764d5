//! Making up for the DEL of an attachment that is dead.

use super::Command;
use crate::cni::attachment::Attachment;
use crate::cni::cache::Cache;
use crate::cni::chain::Chain;
use crate::cni::conflist::NetworkList;
use crate::cni::delegate::Delegate;
use crate::cni::{NetworkConfig, Request, Verb, json};
use crate::error::{Error, Failures, Result};
use crate::firewall::Session;
use crate::firewall::masquerade::Masquerade;
use crate::ipam::evidence::{Found, Key};
use crate::ipam::store::Store;

/// Plugins of ours whose DEL finds by the names of network, container and interface alone what they have made. They are
/// asked even if the configuration of today does not have them any more.
const SWEEPERS: [&str; 3] = ["portmap", "bandwidth", "firewall"];

impl Command<'_> {
    /// Removes all there is of an attachment, in an order that leaves enough to find it by should we be killed: rules, what
    /// the plugins of the configuration have made, with the file of the cache last, and addresses that no configuration
    /// leads to. (Killed between the last address and the file, that file alone is left, for the path in it to tell.)
    /// Nothing is begun while a plugin is missing. If an address `is_shared` with a container that stays, no plugin is told
    /// the result: there are those that go by addresses alone.
    pub(super) fn remove(&self, found: &Found, list: Option<&NetworkList>, is_shared: bool) -> Result<()> {
        let attachment = attachment(found);
        let (Command { host, path, .. }, nothing) = (self, Cache::new("/dev/null"));
        let cache = if is_shared { &nothing } else { &self.cache };
        let chain = list.map(|list| Chain { list, attachment: &attachment, path, cache, host });
        match &chain {
            Some(chain) => chain.prove_findable()?,
            None if found.cached.is_some() => return Err(Error::internal("no configuration of the network is left")),
            None => {}
        }
        self.sweep(&found.key, &attachment)?;
        chain.map_or(Ok(()), |chain| chain.del())?;
        if is_shared {
            self.cache.remove(&found.key.network, &attachment);
        }
        release(found)
    }

    fn sweep(&self, Key { network, container, ifname }: &Key, attachment: &Attachment) -> Result<()> {
        let mut failures = Failures::default();
        for kind in SWEEPERS {
            failures.note(
                self.request(network, kind, attachment)
                    .and_then(|request| Delegate::find(kind, &request)?.call(&request)),
            );
        }
        failures.note(Masquerade { network, container, ifname }.del(&mut Session::default(), None, None));
        failures.finish()
    }

    /// A DEL that leaves everything to be found by the plugin. Without CNI_PATH it is ours.
    fn request(&self, network: &str, kind: &str, attachment: &Attachment) -> Result<Request<'_>> {
        let config = serde_json::json!({"cniVersion": "1.0.0", "name": network, "type": kind});
        Ok(Request {
            verb: Verb::Del,
            container_id: attachment.container_id.clone(),
            netns: String::new(),
            ifname: attachment.ifname.clone(),
            args: String::new(),
            path: String::new(),
            config: NetworkConfig::parse(json::compact(&config.into()).into_bytes())?,
            spares_links: false,
            host: self.host,
        })
    }
}

/// As it was added, but without a namespace: what stands at its path by now, if anything does, is another one.
fn attachment(found: &Found) -> Attachment {
    let cached = found.cached.as_ref().map(|cached| cached.attachment.clone()).unwrap_or_default();
    let (container_id, ifname) = (found.key.container.clone(), found.key.ifname.clone());
    Attachment { container_id, ifname, netns: String::new(), ..cached }
}

/// Gives back the addresses that are still reserved, each only if it is still over.
fn release(found: &Found) -> Result<()> {
    let mut failures = Failures::default();
    for (data_dir, reservation) in &found.reservations {
        let released = Store::open_existing(data_dir, &found.key.network)
            .and_then(|store| store.map_or(Ok(false), |mut store| store.reclaim_of_others(reservation.address)));
        failures.note(released);
    }
    failures.finish()
}
