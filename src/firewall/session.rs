//! One command's door to the rules of the namespace that it runs in.

use crate::error::{Errno, Error, Result};
use crate::firewall::flavour::{Flavour, legacy_tables};
use crate::firewall::nf_tables::{Location, Nftables};
use crate::firewall::place::{Edit, Place, Table, View};
use crate::firewall::rule::Family;
use crate::firewall::x_tables;

/// The connection of one command to nf_tables, opened when first needed, in the namespace that is current then.
#[derive(Debug, Default)]
pub struct Session {
    /// `Some(None)`: the kernel has no nf_tables.
    nftables: Option<Option<Nftables>>,
}

impl Session {
    /// Shows `plan` the table and does what it answers, in one transaction. When others change the table meanwhile, the
    /// plan is asked again, a bounded number of times, so it must not keep anything from one time to the next.
    pub fn edit<T>(&mut self, place: Place, plan: impl FnMut(&mut dyn View) -> Result<(Vec<Edit>, T)>) -> Result<T> {
        match Location::of(place) {
            Some(location) => self.require_nftables()?.edit(&location, plan),
            None => x_tables::edit(place, plan),
        }
    }

    /// The same for several tables, of nf_tables in one transaction: what the kernel has to tidy up after deleted rules
    /// it then does once, and nobody waits for it in between. Each table of x_tables has a transaction of its own.
    pub fn edit_all<T>(
        &mut self,
        places: &[Place],
        mut plan: impl FnMut(Place, &mut dyn View) -> Result<(Vec<Edit>, T)>,
    ) -> Result<Vec<T>> {
        let located = places.iter().filter_map(|place| Some((*place, Location::of(*place)?)));
        let (of_nftables, locations): (Vec<Place>, Vec<Location>) = located.unzip();
        let mut outcomes = Vec::with_capacity(places.len());
        if !locations.is_empty() {
            let at = |index: usize| of_nftables.get(index).copied().ok_or_else(|| Error::internal("no such place"));
            outcomes = self.require_nftables()?.edit_all(&locations, |index, view| plan(at(index)?, view))?;
        }
        for place in places.iter().filter(|place| Location::of(**place).is_none()) {
            outcomes.push(x_tables::edit(*place, |view| plan(*place, view))?);
        }
        Ok(outcomes)
    }

    /// Shows `look` the table.
    pub fn look<T>(&mut self, place: Place, look: impl FnOnce(&mut dyn View) -> Result<T>) -> Result<T> {
        match Location::of(place) {
            Some(location) => self.require_nftables()?.look(&location, look),
            None => x_tables::look(place, look),
        }
    }

    /// Does what needs no look at the rules first. It fails, having changed nothing, when a user chain to be created
    /// exists; [`Session::edit`] is the answer then.
    pub fn write(&mut self, place: Place, edits: &[Edit]) -> Result<()> {
        match Location::of(place) {
            Some(location) => self.require_nftables()?.write(&location, edits),
            None => x_tables::edit(place, |_| Ok((edits.to_vec(), ()))),
        }
    }

    /// Asks the kernel whether it would take these changes, and changes nothing. In x_tables it only asks for the table.
    pub fn probe(&mut self, place: Place, edits: &[Edit]) -> Result<()> {
        match Location::of(place) {
            Some(location) => self.require_nftables()?.probe(&location, edits),
            None => x_tables::look(place, |_| Ok(())),
        }
    }

    /// The places, in either flavour of iptables, where this table has this chain. x_tables is searched also where its
    /// tables cannot be listed if `forced` says that they are used.
    pub fn places_of_chain(
        &mut self,
        family: Family,
        table: Table,
        chain: &str,
        forced: Option<Flavour>,
    ) -> Result<Vec<Place>> {
        let place = |flavour| Place::Iptables { flavour, family, table };
        let mut places = Vec::new();
        // Looking needs no lock, so a host whose x_tables are not ours never waits for it.
        let is_used = match legacy_tables(family)? {
            Some(names) => names.iter().any(|name| name == table.name()),
            None => forced == Some(Flavour::Legacy),
        };
        if is_used && x_tables::has_chain(family, table.name(), |name| name == chain)? {
            places.push(place(Flavour::Legacy));
        }
        let nft = place(Flavour::Nft);
        if let (Some(nftables), Some(location)) = (self.nftables()?, Location::of(nft))
            && nftables.chain_use(&location, chain)?.is_some()
        {
            places.push(nft);
        }
        Ok(places)
    }

    /// nf_tables, if the kernel has it.
    pub(super) fn nftables(&mut self) -> Result<Option<&mut Nftables>> {
        if self.nftables.is_none() {
            self.nftables = Some(Nftables::open_if_supported()?);
        }
        Ok(self.nftables.as_mut().and_then(Option::as_mut))
    }

    /// nf_tables, for a caller that cannot do without.
    fn require_nftables(&mut self) -> Result<&mut Nftables> {
        self.nftables()?.ok_or_else(|| Error::from(Errno::EOPNOTSUPP).context("the kernel has no nf_tables"))
    }

    /// True when the kernel has nf_tables.
    pub fn has_nftables(&mut self) -> Result<bool> {
        Ok(self.nftables()?.is_some())
    }
}
