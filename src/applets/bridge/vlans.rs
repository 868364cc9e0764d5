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
        const NETCONF: &str = "failed to load netconf";
        let id = top.integer("vlan").context(NETCONF)?;
        let preserves_default = top.boolean("preserveDefaultVlan").context(NETCONF)?;
        let trunk = top.objects("vlanTrunk").context(NETCONF)?;
        let id = vlan_id(id)
            .ok_or_else(|| Error::internal(format!("invalid VLAN ID {id} (must be between 0 and {LAST_VLAN})")))?;
        let mut members = vec![false; usize::from(LAST_VLAN) + 1];
        for item in &trunk {
            join_trunk(&mut members, item)?;
        }
        let trunk = runs(&members);
        let native = if id == 0 && !trunk.is_empty() { 1 } else { 0 };
        let joins = single(id).into_iter().chain(trunk).chain(single(native)).collect();
        Ok(Wanted { id, filters: id != 0 || top.get("vlanTrunk").is_some(), preserves_default, joins })
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

/// A number that is a VLAN id, or 0.
fn vlan_id(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|id| *id <= LAST_VLAN)
}

/// Adds the VLANs of one element of `vlanTrunk`.
fn join_trunk(members: &mut [bool], item: &Object<'_>) -> Result<()> {
    let number = |key| item.integer_if_set(key).context("failed to load netconf");
    let (first, last, id) = (number("minID")?, number("maxID")?, number("id")?);
    let checked = |number: i64, what: &str| {
        let id = vlan_id(number).filter(|id| *id != 0);
        id.ok_or_else(|| Error::internal(format!("incorrect trunk {what} parameter")))
    };
    let mut join = |first: u16, last: u16| {
        members.iter_mut().take(usize::from(last) + 1).skip(first.into()).for_each(|member| *member = true);
    };
    match (first, last) {
        (Some(first), Some(last)) => {
            let (first, last) = (checked(first, "minID")?, checked(last, "maxID")?);
            if last < first {
                return Err(Error::internal("minID is greater than maxID in trunk parameter"));
            }
            join(first, last);
        }
        (None, None) => {}
        (first, _) => {
            let missing = if first.is_none() { "minID" } else { "maxID" };
            let msg = format!("minID and maxID should be configured simultaneously, {missing} is missing");
            return Err(Error::internal(msg));
        }
    }
    // A null says nothing, so it is a mistake; the reference crashes. An empty object is as good as none.
    if let Some(id) = id.or(item.is_null().then_some(0)) {
        let id = checked(id, "id")?;
        join(id, id);
    }
    Ok(())
}

/// The VLANs that are true, tagged, consecutive ones together.
fn runs(members: &[bool]) -> Vec<Vlans> {
    let mut runs: Vec<Vlans> = Vec::new();
    for id in (0..=LAST_VLAN).zip(members).filter(|(_, member)| **member).map(|(id, _)| id) {
        match runs.last_mut() {
            Some(run) if run.last + 1 == id => run.last = id,
            _ => runs.push(Vlans { first: id, last: id, tagging: Tagging::TAGGED }),
        }
    }
    runs
}

/// A VLAN without tags; 0 is none.
fn single(id: u16) -> Option<Vlans> {
    (id != 0).then_some(Vlans { first: id, last: id, tagging: Tagging::NATIVE })
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
