//! `vlan`, `vlanTrunk` and `preserveDefaultVlan`: what they say, what a port has to be for it, and whether it is.

use crate::cni::Object;
use crate::error::{Context, Error, Result};
use crate::net::Handle;
use crate::net::bridge_ports::{LAST_VLAN, PortSettings, Tagging, Vlans};

/// The VLANs of a network.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// `vlan`: the container's own VLAN, whose packets have no tag there; 0 for none.
    pub(super) id: u16,
    /// `vlan` or `vlanTrunk` is there: a bridge that is created filters VLANs. An empty list is enough.
    pub(super) filters: bool,
    /// `preserveDefaultVlan`
    preserves_default: bool,
    /// What the container's port joins, in order.
    joins: Vec<Vlans>,
}

impl Wanted {
    pub(super) fn of(top: &Object<'_>) -> Result<Wanted> {
        let keys = Keys::of(top).context("failed to load netconf")?;
        let id = vlan_id(keys.vlan).ok_or_else(|| {
            let msg = format!("invalid VLAN ID {} (must be between 0 and {LAST_VLAN})", keys.vlan);
            Error::internal(msg)
        })?;
        let mut members = vec![false; usize::from(LAST_VLAN) + 1];
        for item in keys.trunk.iter().flatten() {
            item.join(&mut members)?;
        }
        let mut joins = Vec::new();
        if id != 0 {
            joins.push(single(id));
        }
        push_runs(&members, &mut joins);
        if id == 0 && !joins.is_empty() {
            joins.push(single(1));
        }
        let filters = id != 0 || keys.trunk.is_some();
        Ok(Wanted { id, filters, preserves_default: keys.preserves_default, joins })
    }

    /// The settings of a container's port.
    pub(super) fn port(&self) -> PortSettings<'_> {
        let no_default = !self.joins.is_empty() && !self.preserves_default;
        PortSettings { no_default, vlans: &self.joins, ..PortSettings::default() }
    }

    /// The settings of the port that the VLAN's gateway is behind.
    pub(super) fn gateway_port(&self) -> PortSettings<'_> {
        // The first is `vlan`, and only with it there is such a gateway.
        PortSettings { vlans: self.joins.get(..1).unwrap_or_default(), ..self.port() }
    }

    /// CHECK: the port is in these VLANs and in no others. One that only lets packets out is the bridge's default: older
    /// versions of the reference leave it.
    pub(super) fn verify(&self, host: &mut Handle, index: u32, port: &str) -> Result<()> {
        if self.joins.is_empty() {
            return Ok(());
        }
        let (wanted, found) = (by_id(&self.joins), by_id(&host.vlans_of(index)?));
        let is_default = |tagging: Option<Tagging>| tagging == Some(Tagging { pvid: false, untagged: true });
        for (id, (wanted, found)) in wanted.into_iter().zip(found).enumerate() {
            if wanted != found && !(wanted.is_none() && is_default(found)) {
                let (wanted, found) = (words(wanted), words(found));
                let msg = format!("Interface {port} VLAN {id} doesn't match: {wanted}, found {found}");
                return Err(Error::internal(msg));
            }
        }
        Ok(())
    }
}

/// The keys, as they are.
struct Keys {
    vlan: i64,
    preserves_default: bool,
    trunk: Option<Vec<Item>>,
}

/// An element of `vlanTrunk`.
struct Item {
    min: Option<i64>,
    max: Option<i64>,
    id: Option<i64>,
}

impl Keys {
    fn of(top: &Object<'_>) -> Result<Keys> {
        let (vlan, preserves_default) = (top.integer("vlan")?, top.boolean("preserveDefaultVlan")?);
        let trunk = top.objects("vlanTrunk")?.iter().map(Item::of).collect::<Result<_>>()?;
        Ok(Keys { vlan, preserves_default, trunk: top.get("vlanTrunk").and(Some(trunk)) })
    }
}

impl Item {
    /// A null says nothing, so it is a mistake; the reference crashes. An empty object is as good as none.
    fn of(item: &Object<'_>) -> Result<Item> {
        let number = |key| item.integer_if_set(key);
        let id = if item.is_null() { Some(0) } else { number("id")? };
        Ok(Item { min: number("minID")?, max: number("maxID")?, id })
    }

    /// Adds its VLANs.
    fn join(&self, members: &mut [bool]) -> Result<()> {
        match (self.min, self.max) {
            (Some(min), Some(max)) => {
                let (min, max) = (trunk_id(min, "minID")?, trunk_id(max, "maxID")?);
                if max < min {
                    return Err(Error::internal("minID is greater than maxID in trunk parameter"));
                }
                set(members, min, max, true);
            }
            (None, None) => {}
            (min, _) => {
                let missing = if min.is_none() { "minID" } else { "maxID" };
                let msg = format!("minID and maxID should be configured simultaneously, {missing} is missing");
                return Err(Error::internal(msg));
            }
        }
        if let Some(id) = self.id {
            let id = trunk_id(id, "id")?;
            set(members, id, id, true);
        }
        Ok(())
    }
}

/// A number that is a VLAN id, or 0.
fn vlan_id(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|id| *id <= LAST_VLAN)
}

fn trunk_id(number: i64, what: &str) -> Result<u16> {
    let id = vlan_id(number).filter(|id| *id != 0);
    id.ok_or_else(|| Error::internal(format!("incorrect trunk {what} parameter")))
}

/// The VLANs that are true, tagged, consecutive ones together.
fn push_runs(members: &[bool], runs: &mut Vec<Vlans>) {
    let mut begun = None;
    for (id, member) in (0..).zip(members.iter().chain([&false])) {
        match begun {
            None if *member => begun = Some(id),
            Some(first) if !*member => {
                runs.push(Vlans { first, last: id - 1, tagging: Tagging::TAGGED });
                begun = None;
            }
            _ => {}
        }
    }
}

/// A VLAN without tags.
fn single(id: u16) -> Vlans {
    Vlans { first: id, last: id, tagging: Tagging::NATIVE }
}

fn set<T: Copy>(table: &mut [T], first: u16, last: u16, value: T) {
    if let Some(places) = table.get_mut(usize::from(first)..=usize::from(last)) {
        places.fill(value);
    }
}

/// What becomes of each VLAN when these are joined in order.
fn by_id(vlans: &[Vlans]) -> Vec<Option<Tagging>> {
    let mut table = vec![None; usize::from(LAST_VLAN) + 1];
    for Vlans { first, last, tagging } in vlans {
        table
            .iter_mut()
            .take(usize::from(*last) + 1)
            .skip(usize::from(*first))
            .for_each(|place| *place = Some(*tagging));
    }
    table
}

fn words(tagging: Option<Tagging>) -> &'static str {
    match tagging {
        None => "no member",
        Some(Tagging::TAGGED) => "tagged",
        Some(Tagging::NATIVE) => "pvid untagged",
        Some(Tagging { pvid: true, .. }) => "pvid",
        Some(_) => "untagged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn decode(config: &Value) -> Result<Wanted> {
        Wanted::of(&Object::top(config.as_object().unwrap()))
    }

    fn joins(config: &Value) -> Vec<(u16, u16, bool)> {
        let wanted = decode(config).unwrap();
        assert_eq!(wanted.port().no_default, !wanted.joins.is_empty());
        wanted.joins.iter().map(|vlans| (vlans.first, vlans.last, vlans.tagging == Tagging::NATIVE)).collect()
    }

    #[test]
    fn the_trunk_is_sorted_without_doubles_and_in_ranges() {
        let trunk =
            json!([{"minID": 20, "maxID": 22}, {"id": 7}, {"id": 23, "minID": 21, "maxID": 22}, {"id": 4094}, {}]);
        assert_eq!(
            joins(&json!({"vlan": 100, "vlanTrunk": trunk})),
            [(100, 100, true), (7, 7, false), (20, 23, false), (4094, 4094, false)]
        );
        assert_eq!(joins(&json!({"vlanTrunk": [{"id": 5}]})), [(5, 5, false), (1, 1, true)]);
        let all = joins(&json!({"vlan": 9, "vlanTrunk": [{"minID": 1, "maxID": 4094}]}));
        assert_eq!(all, [(9, 9, true), (1, 4094, false)]);
    }

    #[test]
    fn an_empty_trunk_only_makes_a_new_bridge_filter() {
        for (trunk, filters) in [(json!([]), true), (json!([{}]), true), (json!(null), false)] {
            let wanted = decode(&json!({"vlanTrunk": trunk})).unwrap();
            assert_eq!((wanted.filters, wanted.joins.len(), wanted.port().no_default), (filters, 0, false));
        }
        assert!(!decode(&json!({"vlan": 5, "preserveDefaultVlan": true})).unwrap().port().no_default);
    }

    #[test]
    fn nonsense_is_refused_in_the_references_words() {
        let both = "minID and maxID should be configured simultaneously,";
        for (trunk, msg) in [
            (json!([{"minID": 0, "maxID": 5}]), "incorrect trunk minID parameter".to_string()),
            (json!([{"minID": 1, "maxID": 4095}]), "incorrect trunk maxID parameter".to_string()),
            (json!([{"id": 5}, {"id": 70000}]), "incorrect trunk id parameter".to_string()),
            (json!([{"id": -1}]), "incorrect trunk id parameter".to_string()),
            (json!([null]), "incorrect trunk id parameter".to_string()),
            (json!([{"minID": 6, "maxID": 5}]), "minID is greater than maxID in trunk parameter".to_string()),
            (json!([{"maxID": 5}]), format!("{both} minID is missing")),
            (json!([{"minID": 5, "id": 5}]), format!("{both} maxID is missing")),
        ] {
            assert_eq!(decode(&json!({"vlanTrunk": trunk})).unwrap_err().msg, msg, "{trunk}");
        }
        for id in [-1, 4095] {
            let msg = format!("invalid VLAN ID {id} (must be between 0 and 4094)");
            assert_eq!(decode(&json!({"vlan": id})).unwrap_err().msg, msg);
        }
        let error = decode(&json!({"vlanTrunk": [{"id": "5"}]})).unwrap_err();
        assert!(
            error.msg.starts_with("failed to load netconf: json: cannot unmarshal string into key \"vlanTrunk[0].id\"")
        );
    }

    #[test]
    fn a_trunk_that_holds_the_own_vlan_tags_it() {
        let wanted = decode(&json!({"vlan": 5, "vlanTrunk": [{"minID": 4, "maxID": 6}]})).unwrap();
        let table = by_id(&wanted.joins);
        assert_eq!(table[4..=6], [Some(Tagging::TAGGED); 3]);
        assert_eq!(wanted.gateway_port().vlans, [Vlans { first: 5, last: 5, tagging: Tagging::NATIVE }]);
    }
}
