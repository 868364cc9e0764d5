//! Masquerading in a table of nf_tables of our own (the reference's `pkg/ip/ipmasq_nftables_linux.go`).
//!
//! `masq_checks` has a rule for each address of each container: what comes from it and leaves its subnet is masqueraded.
//! `postrouting` sends everything there but multicast. The comment of a rule says whose it is, and begins with what a
//! program can compare.
//!
//! A kernel built without IPv6 has no tables of the family `inet` (`CONFIG_NF_TABLES_INET`). There
//! the table is of the family `ip`.

use ipnet::IpNet;

use super::{Masquerade, multicast};
use crate::digest::sha512_hex;
use crate::error::{Errno, Error, Result};
use crate::firewall::index::RuleIndex;
use crate::firewall::place::{
    BaseChain, ChainKind, Edit, Hook, NativeFamily, NativeTable, Place, StoredChain, StoredRule, View,
};
use crate::firewall::rule::{Family, Match, Rule, Target};
use crate::firewall::session::Session;
use crate::sys::ipv6;

/// Whose packets are masqueraded.
const CHECKS: &str = "masq_checks";
/// Where packets come from.
const POSTROUTING: &str = "postrouting";
/// Hexadecimal digits of each of the two hashes in a comment.
const HASH_LENGTH: usize = 16;
/// Longest comment that nft reads back from its own listing, in bytes.
const COMMENT_LENGTH: usize = 128;

/// A table, and the families of the packets that pass it.
struct Home {
    place: Place,
    families: &'static [Family],
}

static INET: NativeTable = table(NativeFamily::Inet);
static IP: NativeTable = table(NativeFamily::Ip);

/// The table for packets of both families.
const BOTH: Home = Home { place: Place::Native(&INET), families: &Family::BOTH };
/// The table for packets of IPv4.
const V4: Home = Home { place: Place::Native(&IP), families: &[Family::V4] };

const fn table(family: NativeFamily) -> NativeTable {
    NativeTable {
        family,
        name: "cni_plugins_masquerade",
        comment: "Masquerading for plugins from github.com/containernetworking/plugins",
        chain_comments: &[(
            CHECKS,
            "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet",
        )],
        base_chains: &[BaseChain { name: POSTROUTING, kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 100 }],
    }
}

/// Adds the rules, and what they need, in one transaction; gives those of them that were not there. What an earlier
/// attachment of this name has left goes. To find that, the rules of all containers are read: nothing but their comments
/// says whose they are, and their form is the reference's.
pub(super) fn add(session: &mut Session, masquerade: &Masquerade<'_>, addresses: &[IpNet]) -> Result<Vec<Rule>> {
    match session.edit(BOTH.place, |view| addition(&BOTH, view, masquerade, addresses)) {
        Err(error) if lacks_inet(&error) && addresses.iter().all(|address| Family::of(address) == Family::V4) => {
            session.edit(V4.place, |view| addition(&V4, view, masquerade, addresses))
        }
        added => added,
    }
}

/// The kernel refused the table's family.
fn lacks_inet(error: &Error) -> bool {
    (error.is(Errno::EOPNOTSUPP) || error.is(Errno::EAFNOSUPPORT)) && !ipv6::is_there()
}

/// Deletes these rules.
pub(super) fn undo(session: &mut Session, rules: &[Rule]) -> Result<()> {
    let index = RuleIndex::new(rules);
    delete_where(session, |found| index.holds_stored(found))
}

/// Deletes all rules of this attachment, whatever its addresses are.
pub(super) fn del(session: &mut Session, masquerade: &Masquerade<'_>) -> Result<()> {
    let mark = mark(masquerade);
    delete_where(session, |found| starts_with(found, &mark))
}

/// Deletes the network's rules of attachments that are not valid.
pub(super) fn gc(session: &mut Session, network: &str, valid: &[Masquerade<'_>]) -> Result<()> {
    let network = format!("{}-", hash(&[network]));
    let valid: Vec<String> = valid.iter().map(mark).collect();
    delete_where(session, |found| starts_with(found, &network) && !valid.iter().any(|mark| starts_with(found, mark)))
}

/// True when there are rules of this attachment.
pub(super) fn has_any(session: &mut Session, masquerade: &Masquerade<'_>) -> Result<bool> {
    let mark = mark(masquerade);
    for home in homes(session)? {
        let checks = session.look(home.place, |view| view.chain(CHECKS))?;
        if checks.is_some_and(|checks| checks.rules.iter().any(|found| starts_with(found, &mark))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The tables that may hold rules: none, if the kernel has no nf_tables.
fn homes(session: &mut Session) -> Result<&'static [Home]> {
    Ok(match session.has_nftables()? {
        false => &[],
        true if ipv6::is_there() => &[BOTH],
        true => &[BOTH, V4],
    })
}

/// What the table lacks of these addresses' rules; `None` when it has all.
pub(super) fn lacks(session: &mut Session, masquerade: &Masquerade<'_>, addresses: &[IpNet]) -> Result<Option<String>> {
    let mut lack = "the kernel has no nf_tables".to_string();
    for home in homes(session)? {
        let found = session.look(home.place, |view| lack_of(view, masquerade, addresses))?;
        let Some(found) = found else { return Ok(None) };
        // A table that exists and lacks something tells more than one that does not exist.
        if home.families == BOTH.families || found != no_table() {
            lack = found;
        }
    }
    Ok(Some(lack))
}

fn no_table() -> String {
    format!("there is no table inet {:?} with its chains", INET.name)
}

fn lack_of(view: &mut dyn View, masquerade: &Masquerade<'_>, addresses: &[IpNet]) -> Result<Option<String>> {
    let (checks, postrouting) = (view.chain(CHECKS)?, view.chain(POSTROUTING)?);
    let (Some(checks), Some(postrouting)) = (checks, postrouting) else {
        return Ok(Some(no_table()));
    };
    if !postrouting.rules.iter().any(|found| found.rule.target == Some(Target::Goto(CHECKS.to_string()))) {
        return Ok(Some(format!("chain {POSTROUTING:?} does not lead to chain {CHECKS:?}")));
    }
    let index = RuleIndex::of_stored(&checks.rules);
    let missing = addresses.iter().find(|address| !index.holds(&rule(masquerade, **address)));
    Ok(missing.map(|address| format!("chain {CHECKS:?} has no rule of this attachment for {address}")))
}

/// Asks the kernel whether it would take such rules.
pub(super) fn probe(session: &mut Session, masquerade: &Masquerade<'_>, addresses: &[IpNet]) -> Result<()> {
    match probe_home(&BOTH, session, masquerade, addresses) {
        Err(error) if lacks_inet(&error) => probe_home(&V4, session, masquerade, addresses),
        probed => probed,
    }
}

fn probe_home(home: &Home, session: &mut Session, masquerade: &Masquerade<'_>, addresses: &[IpNet]) -> Result<()> {
    let fits = |address: &&IpNet| home.families.contains(&Family::of(address));
    let addresses: Vec<IpNet> = addresses.iter().filter(fits).copied().collect();
    let edits = session.look(home.place, |view| Ok(addition(home, view, masquerade, &addresses)?.0))?;
    session.probe(home.place, &edits)
}

fn addition(
    home: &Home,
    view: &mut dyn View,
    masquerade: &Masquerade<'_>,
    addresses: &[IpNet],
) -> Result<(Vec<Edit>, Vec<Rule>)> {
    let mark = mark(masquerade);
    let (checks, postrouting) = (view.chain(CHECKS)?, view.chain(POSTROUTING)?);
    let mut rules: Vec<Rule> = addresses.iter().map(|address| rule(masquerade, *address)).collect();
    let mut edits = Vec::new();
    match &checks {
        None => edits.push(Edit::create(CHECKS)),
        Some(checks) => {
            let wanted = RuleIndex::new(&rules);
            edits.extend(checks.deletions(CHECKS, |found| starts_with(found, &mark) && !wanted.holds_stored(found)));
            let index = RuleIndex::of_stored(&checks.rules);
            rules.retain(|rule| !index.holds(rule));
        }
    }
    edits.extend(fill_postrouting(home, postrouting.as_ref()));
    edits.extend(rules.iter().map(|rule| Edit::append(CHECKS, rule.clone())));
    Ok((edits, rules))
}

/// The rules of postrouting. The reference writes them anew each time; we write them only if the
/// chain holds anything else.
fn fill_postrouting(home: &Home, found: Option<&StoredChain>) -> Vec<Edit> {
    let passes = |family: &Family| Rule::new(vec![Match::destination(multicast(*family))], Target::Return);
    let mut rules: Vec<Rule> = home.families.iter().map(passes).collect();
    rules.push(Rule::new(vec![], Target::Goto(CHECKS.to_string())));
    let is_right = |chain: &StoredChain| {
        chain.rules.len() == rules.len() && chain.rules.iter().zip(&rules).all(|(found, rule)| found.is(rule))
    };
    if found.is_some_and(is_right) {
        return Vec::new();
    }
    let flush = found.filter(|chain| !chain.rules.is_empty()).map(|_| Edit::Flush(POSTROUTING.to_string()));
    let appends = rules.into_iter().map(|rule| Edit::append(POSTROUTING, rule));
    flush.into_iter().chain([Edit::create(POSTROUTING)]).chain(appends).collect()
}

/// Deletes rules of `masq_checks`. One question, if the chain does not exist or is empty.
fn delete_where(session: &mut Session, chosen: impl Fn(&StoredRule) -> bool) -> Result<()> {
    for home in homes(session)? {
        if session.look(home.place, |view| view.uses(CHECKS))?.is_none_or(|uses| uses == 0) {
            continue;
        }
        session.edit(home.place, |view| {
            let checks = view.chain(CHECKS)?;
            Ok((checks.map_or_else(Vec::new, |checks| checks.deletions(CHECKS, &chosen)), ()))
        })?;
    }
    Ok(())
}

fn rule(masquerade: &Masquerade<'_>, address: IpNet) -> Rule {
    let matches = vec![Match::source(IpNet::from(address.addr())), Match::not_destination(address)];
    Rule::new(matches, Target::Masquerade).commented(&comment(masquerade))
}

/// `<N>-<I>`: hashes of the network, and of interface and container.
fn mark(masquerade: &Masquerade<'_>) -> String {
    format!("{}-{}", hash(&[masquerade.network]), hash(&[masquerade.ifname, ":", masquerade.container]))
}

fn hash(parts: &[&str]) -> String {
    let mut digits = sha512_hex(parts);
    digits.truncate(HASH_LENGTH);
    digits
}

/// The mark and, as far as there is room, what it stands for.
fn comment(masquerade: &Masquerade<'_>) -> String {
    let [network, ifname, container] =
        [masquerade.network, masquerade.ifname, masquerade.container].map(|text| text.replace('"', ""));
    let mut text = format!("{}, net: {network}, if: {ifname}, id: {container}", mark(masquerade));
    text.truncate(text.floor_char_boundary(COMMENT_LENGTH));
    text
}

fn starts_with(found: &StoredRule, mark: &str) -> bool {
    found.rule.comment.as_deref().is_some_and(|comment| comment.starts_with(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_those_of_the_reference() {
        let masquerade = Masquerade { network: "mynet", container: "cid1", ifname: "eth0" };
        let text = "d23676b4f2d9fe04-0b65a318f52e521b, net: mynet, if: eth0, id: cid1";
        assert_eq!(comment(&masquerade), text);
        let other = Masquerade { network: "unit-test", container: "one", ifname: "eth0" };
        assert_eq!(mark(&other), "6fd94d501e58f0aa-287fc69eff0574a2");
        let long = "c".repeat(200);
        assert_eq!(comment(&Masquerade { container: &long, ..masquerade }).len(), 128);
        assert!(comment(&Masquerade { ifname: "\"x\"", ..masquerade }).contains("if: x,"));
    }
}
