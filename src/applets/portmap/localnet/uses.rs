//! Finds links that mappings lead over whose clients may come from 127.0.0.1. The rules in the
//! kernel tell, those of the reference too.

use std::net::IpAddr;

use crate::error::Result;
use crate::firewall::{Family, Place, Table};

use super::super::{iptables, nftables};
use super::Localnet;

/// The mappings that were found.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// The wanted links that a mapping leads over.
    pub(super) links: Vec<u32>,
    /// At least one mapping exists.
    pub(super) any: bool,
}

impl Localnet<'_> {
    /// Looks for mappings that lead over these links to other addresses than `except`. Stops when
    /// all of these links are found.
    pub(super) fn uses(&mut self, links: &[u32], except: Option<IpAddr>) -> Result<Uses> {
        let mut uses = Uses::default();
        if links.is_empty() {
            return Ok(uses);
        }
        let mut places = self.session.places_of_chain(Family::V4, Table::Nat, iptables::TOP, self.forced)?;
        if self.session.has_nftables()? {
            places.push(nftables::place(Family::V4));
        }
        let host = &mut self.host;
        let mut see = |addresses: Vec<IpAddr>| -> Result<bool> {
            for address in addresses.into_iter().filter(|address| Some(*address) != except) {
                uses.any = true;
                let link = host.way_to(address)?.map_or(0, |way| way.link);
                if links.contains(&link) && !uses.links.contains(&link) {
                    uses.links.push(link);
                }
            }
            Ok(uses.links.len() < links.len())
        };
        for place in places {
            let goes_on = self.session.look(place, |view| match place {
                Place::Native(_) => see(nftables::masqueraded(view)?),
                Place::Iptables { .. } => iptables::each_marked(view, &mut see),
            })?;
            if !goes_on {
                break;
            }
        }
        Ok(uses)
    }
}
