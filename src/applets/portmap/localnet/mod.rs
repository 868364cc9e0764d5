//! 127.0.0.1 as a client of mapped ports. With `route_localnet` the kernel lets packets from
//! 127.0.0.0/8 leave over a link. But the kernel then also accepts packets to 127.0.0.0/8 that come
//! in by the link, and services that listen on 127.0.0.1 only are open to containers or to the LAN.
//! So the link is guarded before `route_localnet` is set.
//!
//! A link is guarded from the first mapping that leads over it to the last. After the last one its
//! `route_localnet` is what it was before the first. The rules in the kernel tell the mappings,
//! those of the reference too. ADD adds its rules before it comes here, DEL has deleted its own,
//! and both hold the lock of the records. So DEL sees the rules of each ADD that has found the link
//! guarded.

mod guard;
mod release;
mod state;
mod uses;

use std::net::IpAddr;

use crate::error::{Context, Error, Result};
use crate::firewall::Session;
use crate::firewall::flavour::Flavour;
use crate::firewall::records::Records;
use crate::net::{Handle, Link, sysctls};

use super::forward::{Kind, is_lacking};
use guard::{Found, Hook, all_hooks, hooks_for};
use state::{State, States};

/// Context of an error that keeps ADD from guarding the link.
const KEEP_OUT: &str = "unable to keep foreign packets from 127.0.0.0/8";

/// One call's work on `route_localnet` and the guard.
#[derive(Debug)]
pub(super) struct Localnet<'a> {
    session: &'a mut Session,
    records: &'a Records,
    forced: Option<Flavour>,
    host: Handle,
    states: States,
}

impl<'a> Localnet<'a> {
    pub(super) fn new(session: &'a mut Session, records: &'a Records, forced: Option<Flavour>) -> Result<Self> {
        let (host, states) = (Handle::current()?, States::of_this_namespace()?);
        Ok(Localnet { session, records, forced, host, states })
    }

    /// Lets 127.0.0.1 be a client of the container's mapped ports. The rules for the ports exist.
    pub(super) fn allow(&mut self, kind: Kind, container: IpAddr) -> Result<()> {
        let Some(link) = self.link_to(container)? else { return Ok(()) };
        // Packets that come in by `lo` are the host's own.
        if !link.is_loopback() {
            self.guard(kind, &link, container).context(KEEP_OUT)?;
        }
        sysctls::ensure(&setting(&link.name), "1").context("unable to enable route_localnet")
    }

    /// Records the link's setting before this ADD, and guards the link.
    fn guard(&mut self, kind: Kind, link: &Link, container: IpAddr) -> Result<()> {
        let found = self.guards()?;
        let is_guarded = is_guarded(&found, link);
        let state = self.state_of(link, is_guarded, container)?;
        self.states.set(self.records, link, state)?;
        if is_guarded { Ok(()) } else { self.raise(kind, link) }
    }

    /// Tells how the link came to have `route_localnet`. Without a record, mappings of the
    /// reference have set it, if there are any.
    fn state_of(&mut self, link: &Link, is_guarded: bool, container: IpAddr) -> Result<State> {
        if !is_on(&link.name)? {
            return Ok(State::Set);
        }
        let others = [link.index];
        Ok(match self.states.get(self.records, link.index) {
            Some(State::Found) => State::Found,
            Some(_) => State::Set,
            None if is_guarded || self.uses(&others, Some(container))?.links == others => State::Set,
            None => State::Found,
        })
    }

    /// Guards the link in the first table that the kernel has. Without any table ADD goes on, since
    /// the reference guards no link, and CHECK fails.
    fn raise(&mut self, kind: Kind, link: &Link) -> Result<()> {
        let links = [link.clone()];
        for hook in hooks_for(kind) {
            match self.session.edit(hook.place, |view| Ok((hook.raise(view, &links)?, ()))) {
                Err(error) if is_lacking(&error) => {}
                done => return done,
            }
        }
        Ok(())
    }

    /// Fails if clients at 127.0.0.1 do not get through, or if the guard of the link is missing.
    pub(super) fn check(&mut self, container: IpAddr) -> Result<()> {
        let Some(link) = self.link_to(container)? else { return Ok(()) };
        if !is_on(&link.name)? && !is_on("all")? {
            return Err(Error::internal(format!("route_localnet is not set on the link to {container}")));
        }
        // The reference guards no link, and makes no record.
        let was_guarded = self.states.get(self.records, link.index).is_some();
        if !was_guarded || is_guarded(&self.find_guards()?, &link) {
            return Ok(());
        }
        let msg = format!("no rule drops packets to 127.0.0.0/8 that come in by {:?}", link.name);
        Err(Error::internal(msg).with_details("was it flushed, or does the kernel lack a table for it?"))
    }

    /// The link that leads to the container; `None` when no link does.
    fn link_to(&mut self, container: IpAddr) -> Result<Option<Link>> {
        let Some(way) = self.host.way_to(container)? else { return Ok(None) };
        self.host.find_link_at(way.link)
    }

    /// Finds the guards in all tables, and replaces the rule of version 0.1.0.
    fn guards(&mut self) -> Result<Vec<(Hook, Found)>> {
        let found = self.find_guards()?;
        if !found.iter().any(|(_, found)| found.is_for_all) {
            return Ok(found);
        }
        let links = self.open_links()?;
        for link in &links {
            if self.states.get(self.records, link.index).is_none() {
                self.states.set(self.records, link, State::Unknown)?;
            }
        }
        for (hook, _) in found.iter().filter(|(_, found)| found.is_for_all) {
            self.session.edit(hook.place, |view| Ok((hook.raise(view, &links)?, ())))?;
        }
        self.find_guards()
    }

    fn find_guards(&mut self) -> Result<Vec<(Hook, Found)>> {
        let mut guards = Vec::new();
        for hook in all_hooks() {
            if self.session.has_table(hook.place, self.forced)? {
                match self.session.look(hook.place, |view| hook.find(view)) {
                    Err(error) if is_lacking(&error) => {}
                    found => guards.push((hook, found?)),
                }
            }
        }
        Ok(guards)
    }

    /// The links that have `route_localnet`.
    fn open_links(&mut self) -> Result<Vec<Link>> {
        let mut links = self.host.all_links()?;
        links.retain(|link| !link.is_loopback() && is_on(&link.name).unwrap_or(false));
        Ok(links)
    }
}

fn is_guarded(guards: &[(Hook, Found)], link: &Link) -> bool {
    guards.iter().any(|(_, found)| found.is_in_force && found.links.contains(&link.name))
}

/// The setting of a link, or of `all` and `default`.
fn setting(name: &str) -> String {
    format!("net/ipv4/conf/{name}/route_localnet")
}

fn is_on(name: &str) -> Result<bool> {
    Ok(sysctls::read(&setting(name))? != "0")
}
