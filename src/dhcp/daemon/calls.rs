//! What plugins ask for.

use crate::cni::{CniResult, NetworkConfig};
use crate::dhcp::daemon::keeper::{Keeper, missing_ipam};
use crate::dhcp::daemon::place::{Place, is_gone};
use crate::dhcp::daemon::{Daemon, log};
use crate::dhcp::result::Wishes;
use crate::dhcp::rpc::{self, Call, CmdArgs};
use crate::dhcp::settings::client_id;
use crate::error::{Context, Error, Result};

impl Daemon {
    /// Serves a call: answers it, or makes it wait for its lease.
    pub(super) fn serve_call(&mut self, slot: usize, call: &Call) {
        let served = match call.method.as_str() {
            rpc::ALLOCATE => self.allocate(slot, &call.args),
            rpc::CHECK => self.check(&call.args).map(Some),
            rpc::RELEASE => self.give_back(&call.args).map(Some),
            rpc::COLLECT => self.collect(&call.args).map(Some),
            other => Err(Error::internal(format!("{}{other}", rpc::NO_METHOD))),
        };
        match served.transpose() {
            Some(reply) => self.reply(slot, &reply),
            // The plugin may have gone meanwhile.
            None => self.converse(slot),
        }
    }

    /// The lease that is held, or a new one, which is waited for (`None`).
    fn allocate(&mut self, slot: usize, args: &CmdArgs) -> Result<Option<CniResult>> {
        let config = parse(args)?;
        let wishes = wishes(&config)?;
        let key = client_id(&args.container_id, &config.name, &args.ifname);
        let path = format!("{}{}", self.options.host_prefix, args.netns);
        let held = self.find(&key);
        let gone = match held.map(|held| self.revisit(held, &path)) {
            None => None,
            Some(Ok(())) => return self.join(held.unwrap_or_default(), slot, wishes),
            Some(Err(error)) if !is_gone(&error) => return Err(error),
            Some(Err(gone)) => Some(gone),
        };
        let (timing, broadcast) = (self.options.timing, self.options.broadcast);
        let keeper = Keeper::start(args, &config, (&self.options.host_prefix, timing, broadcast))?;
        if let (Some(held), Some(gone)) = (held, gone) {
            self.replace(held, &keeper.place, &gone);
        }
        let held = self.keepers.insert(keeper);
        self.join(held, slot, wishes)?;
        self.watch_link(held);
        self.advance(held);
        Ok(None)
    }

    /// Forgets a lease in favour of a new one for the link at `place`. The link of old may still be
    /// in use under another name or in another namespace, with the address that the new one gets.
    fn replace(&mut self, held: usize, place: &Place, gone: &Error) {
        let Some(old) = self.keepers.get(held) else { return };
        log(&old.key, &format!("{gone}: a new lease replaces the old one"));
        if !old.place.is_same_link(place) {
            // A link that cannot be found has no address any more.
            let _ = old.withdraw();
        }
        self.drop_keeper(held, gone);
    }

    /// Looks whether a lease is still for the link in the namespace at `path` that has the name of
    /// old.
    fn revisit(&mut self, held: usize, path: &str) -> Result<()> {
        let gone = || Error::internal("the lease is for another network namespace");
        let keeper = self.keepers.get_mut(held).ok_or_else(gone)?;
        if !keeper.place.is_in(path) {
            return Err(gone());
        }
        keeper.place.has_its_name()?;
        keeper.verify()
    }

    /// The result of a lease, or, if it is still being acquired, a place among those who wait for it.
    fn join(&mut self, held: usize, slot: usize, wishes: Wishes) -> Result<Option<CniResult>> {
        let Some(keeper) = self.keepers.get_mut(held) else { return Err(Error::internal("there is no lease")) };
        if keeper.client.lease().is_some() {
            return keeper.result(wishes).map(Some);
        }
        keeper.waiting.push((slot, wishes));
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.waits_for = Some(held);
        }
        Ok(None)
    }

    fn check(&mut self, args: &CmdArgs) -> Result<CniResult> {
        let config = parse(args)?;
        let wishes = wishes(&config)?;
        let key = client_id(&args.container_id, &config.name, &args.ifname);
        let path = format!("{}{}", self.options.host_prefix, args.netns);
        let none = || Error::internal(format!("there is no lease for {}", String::from_utf8_lossy(&key)));
        let held = self.find(&key).ok_or_else(none)?;
        self.revisit(held, &path)?;
        self.keepers.get(held).ok_or_else(none)?.result(wishes)
    }

    /// Gives a lease back. A lease that we do not hold has been given back already, or a later
    /// release has recorded it.
    fn give_back(&mut self, args: &CmdArgs) -> Result<CniResult> {
        let config = parse(args)?;
        let key = client_id(&args.container_id, &config.name, &args.ifname);
        match self.find(&key) {
            Some(held) => self.release(held),
            None => self.records.remove(&key),
        }
        Ok(CniResult::default())
    }

    /// Gives back the leases of a network whose attachments are not valid any more.
    fn collect(&mut self, args: &CmdArgs) -> Result<CniResult> {
        let config = parse(args)?;
        let Some(valid) = config.valid_attachments()? else { return Ok(CniResult::default()) };
        let valid: Vec<Vec<u8>> = valid.iter().map(|(id, ifname)| client_id(id, &config.name, ifname)).collect();
        let is_stale = |keeper: &Keeper| {
            let network = keeper.key.split(|byte| *byte == b'/').nth(1);
            network == Some(config.name.as_bytes()) && !valid.contains(&keeper.key)
        };
        for held in self.keepers.due(is_stale) {
            self.release(held);
        }
        Ok(CniResult::default())
    }

    fn find(&self, key: &[u8]) -> Option<usize> {
        self.keepers.iter().find(|(_, keeper)| keeper.key == key).map(|(slot, _)| slot)
    }
}

fn parse(args: &CmdArgs) -> Result<NetworkConfig> {
    NetworkConfig::parse(args.stdin.clone()).context("error parsing netconf")
}

fn wishes(config: &NetworkConfig) -> Result<Wishes> {
    let ipam = config.top().object("ipam").context("error parsing netconf")?;
    Wishes::decode(&ipam.ok_or_else(missing_ipam)?)
}
