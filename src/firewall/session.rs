//! One command's door to the rules of the namespace that it runs in.

use crate::error::{Errno, Error, Result};
use crate::firewall::flavour::{Flavour, legacy_tables};
use crate::firewall::nf_tables::{Location, Nftables};
use crate::firewall::place::{Edit, Place, Table, View};
use crate::firewall::rule::Family;
use crate::firewall::x_tables;

/// What to change in the place of this index, given what is there.
pub(super) type Plan<'a> = &'a mut dyn FnMut(usize, &mut dyn View) -> Result<Vec<Edit>>;

/// The same for one place.
pub(super) type PlanOfOne<'a> = &'a mut dyn FnMut(&mut dyn View) -> Result<Vec<Edit>>;

/// Looks at what is there.
pub(super) type Look<'a> = &'a mut dyn FnMut(&mut dyn View) -> Result<()>;

/// The connection of one command to nf_tables, opened when first needed, in the namespace that is current then.
#[derive(Debug, Default)]
pub struct Session {
    /// `Some(None)`: the kernel has no nf_tables.
    nftables: Option<Option<Nftables>>,
}

impl Session {
    /// Shows `plan` the table and does what it answers, in one transaction. When others change the table meanwhile, the
    /// plan is asked again, a bounded number of times, so it must not keep anything from one time to the next.
    pub fn edit<T>(
        &mut self,
        place: Place,
        mut plan: impl FnMut(&mut dyn View) -> Result<(Vec<Edit>, T)>,
    ) -> Result<T> {
        let mut outcome = None;
        self.edit_by(&[place], &mut |_, view| {
            let (edits, value) = plan(view)?;
            outcome = Some(value);
            Ok(edits)
        })?;
        outcome.ok_or_else(|| Error::internal("a plan was not asked"))
    }

    /// The same for several tables, of nf_tables in one transaction: what the kernel has to tidy up after deleted rules
    /// it then does once, and nobody waits for it in between. Each table of x_tables has a transaction of its own. The
    /// outcomes are in the order of the places.
    pub fn edit_all<T>(
        &mut self,
        places: &[Place],
        mut plan: impl FnMut(Place, &mut dyn View) -> Result<(Vec<Edit>, T)>,
    ) -> Result<Vec<T>> {
        let mut outcomes: Vec<Option<T>> = places.iter().map(|_| None).collect();
        self.edit_by(places, &mut |index, view| {
            let (place, outcome) = places.get(index).zip(outcomes.get_mut(index)).ok_or(Errno::EINVAL)?;
            let (edits, value) = plan(*place, view)?;
            *outcome = Some(value);
            Ok(edits)
        })?;
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Shows `look` the table.
    pub fn look<T>(&mut self, place: Place, look: impl FnOnce(&mut dyn View) -> Result<T>) -> Result<T> {
        let (mut look, mut outcome) = (Some(look), None);
        self.look_by(place, &mut |view| {
            outcome = look.take().map(|look| look(view)).transpose()?;
            Ok(())
        })?;
        outcome.ok_or_else(|| Error::internal("a table was not shown"))
    }

    // The work is done by functions that are there once, not once for every plan.

    fn edit_by(&mut self, places: &[Place], plan: Plan<'_>) -> Result<()> {
        let located = places.iter().enumerate().filter_map(|(index, place)| Some((index, Location::of(*place)?)));
        let located: Vec<(usize, Location)> = located.collect();
        if !located.is_empty() {
            self.require_nftables()?.edit(&located, plan)?;
        }
        for (index, place) in places.iter().enumerate().filter(|(_, place)| Location::of(**place).is_none()) {
            x_tables::edit(*place, &mut |view| plan(index, view))?;
        }
        Ok(())
    }

    fn look_by(&mut self, place: Place, look: Look<'_>) -> Result<()> {
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
            None => x_tables::edit(place, &mut |_| Ok(edits.to_vec())),
        }
    }

    /// Asks the kernel whether it would take these changes, and changes nothing. In x_tables it only asks for the table.
    pub fn probe(&mut self, place: Place, edits: &[Edit]) -> Result<()> {
        match Location::of(place) {
            Some(location) => self.require_nftables()?.probe(&location, edits),
            None => x_tables::look(place, &mut |_| Ok(())),
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
        let is_used = has_legacy_table(family, table, forced)?;
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

    /// True if the table exists, so that a look does not make it: x_tables makes the table it is
    /// asked for. With `forced`, see [`Session::places_of_chain`], the table may be missing.
    pub fn has_table(&mut self, place: Place, forced: Option<Flavour>) -> Result<bool> {
        match place {
            Place::Iptables { flavour: Flavour::Legacy, family, table } => has_legacy_table(family, table, forced),
            _ => self.has_nftables(),
        }
    }

    /// True when a table `nat` of either family, in either flavour of iptables, has this chain.
    pub fn has_nat_chain(&mut self, chain: &str) -> Result<bool> {
        for family in Family::BOTH {
            if !self.places_of_chain(family, Table::Nat, chain, None)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
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
        let missing = || Error::from(Errno::EOPNOTSUPP).context("the kernel has no nf_tables");
        let why = "its module nf_tables is not loaded (modprobe nf_tables), or the kernel was built without it";
        self.nftables()?.ok_or_else(|| missing().with_details(why))
    }

    /// True when the kernel has nf_tables.
    pub fn has_nftables(&mut self) -> Result<bool> {
        Ok(self.nftables()?.is_some())
    }
}

fn has_legacy_table(family: Family, table: Table, forced: Option<Flavour>) -> Result<bool> {
    Ok(match legacy_tables(family)? {
        Some(names) => names.iter().any(|name| name == table.name()),
        None => forced == Some(Flavour::Legacy),
    })
}
