//! Releases links that no mapping leads over any more: clears `route_localnet`, lowers the guard.

use std::net::IpAddr;

use crate::error::Result;
use crate::net::{Link, sysctls};

use super::state::State;
use super::uses::Uses;
use super::{Found, Hook, Localnet, is_on, setting};

/// A link that may have to be released.
#[derive(Debug)]
struct Candidate {
    link: Link,
    state: State,
}

impl Localnet<'_> {
    /// Releases all links that no mapping leads over. `freed` are the addresses of mappings that
    /// this call has deleted.
    pub(in crate::applets::portmap) fn release(&mut self, freed: &[IpAddr]) -> Result<()> {
        let guards = self.guards()?;
        let candidates = self.candidates(&guards, freed)?;
        let indices: Vec<u32> = candidates.iter().map(|candidate| candidate.link.index).collect();
        let uses = self.uses(&indices, None)?;
        let (mut kept, mut unused) = (Vec::new(), Vec::new());
        for Candidate { link, state } in candidates {
            match self.may_go(&link, state, &uses)? {
                true => unused.push(link.index),
                false => kept.push(link.name),
            }
        }
        // Only now that `route_localnet` is off. Rules for links that have gone are deleted too.
        self.lower(&guards, &kept)?;
        unused.into_iter().try_for_each(|index| self.states.forget(self.records, index))
    }

    /// Lists the links with a record, the guarded links, and the links to freed addresses.
    fn candidates(&mut self, guards: &[(Hook, Found)], freed: &[IpAddr]) -> Result<Vec<Candidate>> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for index in self.states.links(self.records)? {
            match self.host.find_link_at(index)?.zip(self.states.get(self.records, index)) {
                Some((link, state)) => candidates.push(Candidate { link, state }),
                None => self.states.forget(self.records, index)?,
            }
        }
        for name in guards.iter().flat_map(|(_, found)| &found.links) {
            if !candidates.iter().any(|known| known.link.name == *name)
                && let Some(link) = self.host.find_link(name)?
            {
                // The record is lost. A link that is closed by mistake is safer than an open one.
                candidates.push(Candidate { link, state: State::Set });
            }
        }
        for address in freed {
            self.add_freed(*address, &mut candidates)?;
        }
        Ok(candidates)
    }

    /// Adds the link to a freed address. Without a record, the reference's mapping has set its
    /// `route_localnet`, unless each new link has it.
    fn add_freed(&mut self, address: IpAddr, candidates: &mut Vec<Candidate>) -> Result<()> {
        let Some(way) = self.host.way_to(address)?.filter(|way| way.is_on_link) else { return Ok(()) };
        if let Some(known) = candidates.iter_mut().find(|known| known.link.index == way.link) {
            known.state = if known.state == State::Unknown { State::Set } else { known.state };
        } else if let Some(link) = self.host.find_link_at(way.link)?.filter(|link| !link.is_loopback())
            && is_on(&link.name).unwrap_or(false)
            && !is_on("default")?
        {
            candidates.push(Candidate { link, state: State::Set });
        }
        Ok(())
    }

    /// Restores the setting of a link that no mapping leads over. True if it needs no guard any
    /// more.
    fn may_go(&mut self, link: &Link, state: State, uses: &Uses) -> Result<bool> {
        if uses.links.contains(&link.index) {
            if state == State::Unknown {
                self.states.set(self.records, link, State::Set)?;
            }
            return Ok(false);
        }
        // The routes over a link that is down are gone, so no lookup finds the mappings over it.
        if !link.is_up() && uses.any {
            return Ok(false);
        }
        Ok(match state {
            State::Found => true,
            State::Unknown => !is_on(&link.name).unwrap_or(false),
            // A link that cannot be closed stays guarded.
            State::Set => sysctls::ensure(&setting(&link.name), "0").is_ok(),
        })
    }

    /// Guards only these links.
    fn lower(&mut self, guards: &[(Hook, Found)], kept: &[String]) -> Result<()> {
        for (hook, found) in guards {
            let gone: Vec<String> = found.links.iter().filter(|link| !kept.contains(link)).cloned().collect();
            // A chain that was flushed by hand is deleted too.
            if !gone.is_empty() || (found.is_there && found.links.is_empty()) {
                self.session.edit(hook.place, |view| Ok((hook.lower(view, &gone)?, ())))?;
            }
        }
        Ok(())
    }
}
