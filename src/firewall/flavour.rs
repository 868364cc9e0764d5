//! Which of the two iptables a host uses. Rules of both would apply, in an order that nobody asked for, so we follow
//! what is there.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result, code};
use crate::firewall::rule::Family;
use crate::firewall::session::Session;
use crate::firewall::x_tables;

/// A kind of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `iptables-nft`: tables of nf_tables.
    Nft,
    /// `iptables-legacy`: x_tables.
    Legacy,
}

/// What the caller knows that bears on the choice.
#[derive(Debug, Clone, Copy)]
pub struct Preference<'a> {
    /// The administrator's word; no question is asked then.
    pub forced: Option<Flavour>,
    /// Directories of programs as in `PATH`, where an installed `iptables` is looked for.
    pub path: &'a str,
}

/// What one of the two holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Contents {
    /// Rules or user chains.
    pub(super) rules: bool,
    /// Chains of CNI plugins.
    pub(super) cni: bool,
}

/// How chains of CNI plugins start.
pub(super) const CNI_PREFIX: &str = "CNI-";

/// Where iptables is looked for when `PATH` does not have it; service managers often give plugins a short one.
const FALLBACK_PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// Links that lead from one to the next (the kernel's own limit).
const MOST_LINKS: u32 = 40;

impl Flavour {
    /// What an administrator demands with this text (the variable CNI_BOX_IPTABLES): nothing when it is empty.
    pub fn forced(text: &str) -> Result<Option<Self>> {
        if text.is_empty() { Ok(None) } else { Flavour::parse(text).map(Some).context("CNI_BOX_IPTABLES") }
    }

    /// The same for verbs that only look for rules: a flavour that does not exist is for ADD to refuse, and must not keep
    /// anything from being found.
    pub fn forced_if_valid(text: &str) -> Option<Self> {
        Flavour::forced(text).ok().flatten()
    }

    /// The flavour that an administrator named: `nft` or `legacy`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "nft" => Ok(Flavour::Nft),
            "legacy" => Ok(Flavour::Legacy),
            _ => {
                let msg = format!("invalid iptables flavour {text:?}: must be \"nft\" or \"legacy\"");
                Err(Error::new(code::INVALID_CONFIG, msg))
            }
        }
    }
}

/// The flavour for new rules: the forced one, else the only one that holds rules, else (both do) the only one that
/// holds chains of CNI plugins, else the one that the installed program `iptables` is, else nft.
pub fn choose(session: &mut Session, preference: &Preference<'_>) -> Result<Flavour> {
    if let Some(forced) = preference.forced {
        return Ok(forced);
    }
    if !legacy_holds_rules()? {
        return without_legacy_rules(session, preference.path);
    }
    let nft = nft_contents(session)?;
    if !nft.rules {
        return Ok(Flavour::Legacy);
    }
    Ok(match (legacy_holds_cni()?, nft.cni) {
        (true, false) => Flavour::Legacy,
        (false, true) => Flavour::Nft,
        _ => installed(preference.path).unwrap_or(Flavour::Nft),
    })
}

/// The common case. Whatever nf_tables holds, an installed iptables-nft settles it, and nothing is asked.
fn without_legacy_rules(session: &mut Session, path: &str) -> Result<Flavour> {
    let legacy_unless = |nft: bool| if nft { Flavour::Nft } else { Flavour::Legacy };
    match installed(path) {
        Some(Flavour::Nft) => Ok(Flavour::Nft),
        Some(Flavour::Legacy) => Ok(legacy_unless(nft_contents(session)?.rules)),
        None => Ok(legacy_unless(session.nftables()?.is_some())),
    }
}

/// Tables that x_tables holds. Asking it for any other would make that table. `None` when that cannot be known: a namespace
/// that was made in one step with its user namespace (`unshare -Urn`, rootless containers) has the file that names them,
/// but it belongs to the host's root and nobody inside may read it.
pub(super) fn legacy_tables(family: Family) -> Result<Option<Vec<String>>> {
    let path = match family {
        Family::V4 => "/proc/self/net/ip_tables_names",
        Family::V6 => "/proc/self/net/ip6_tables_names",
    };
    match std::fs::read_to_string(path) {
        Ok(names) => Ok(Some(names.lines().map(str::to_string).collect())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(Vec::new())),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(Error::from(error).context(&format!("failed to read {path:?}"))),
    }
}

fn legacy_holds_rules() -> Result<bool> {
    any_legacy_table(x_tables::holds_rules)
}

fn legacy_holds_cni() -> Result<bool> {
    any_legacy_table(|family, table| x_tables::has_chain(family, table, |name| name.starts_with(CNI_PREFIX)))
}

fn any_legacy_table(holds: impl Fn(Family, &str) -> Result<bool>) -> Result<bool> {
    for family in Family::BOTH {
        // What cannot be known counts as nothing: hardly anybody has rules of that kind in such a namespace.
        for table in legacy_tables(family)?.unwrap_or_default() {
            if holds(family, &table)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn nft_contents(session: &mut Session) -> Result<Contents> {
    let Some(nftables) = session.nftables()? else { return Ok(Contents::default()) };
    let (v4, v6) = (nftables.contents(Family::V4)?, nftables.contents(Family::V6)?);
    Ok(Contents { rules: v4.rules || v6.rules, cni: v4.cni || v6.cni })
}

/// What the program `iptables` is, by the name of the file that its links lead to: `xtables-nft-multi`,
/// `xtables-legacy-multi`, or before version 1.8, when there was nothing but legacy, `xtables-multi`.
fn installed(path: &str) -> Option<Flavour> {
    let directories = path.split(':').chain(FALLBACK_PATH.split(':')).filter(|directory| directory.starts_with('/'));
    let program = directories.map(|directory| Path::new(directory).join("iptables")).find_map(final_name)?;
    let legacy = program.contains("legacy") || program == "xtables-multi";
    Some(if legacy { Flavour::Legacy } else { Flavour::Nft })
}

/// The name of the file that a path leads to. Only links in the last component are followed: one system call for each,
/// where resolving all components takes dozens.
fn final_name(mut path: PathBuf) -> Option<String> {
    for _ in 0..MOST_LINKS {
        match path.read_link() {
            Ok(target) => path = path.parent()?.join(target),
            // It exists and is no link.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                return Some(path.file_name()?.to_string_lossy().into_owned());
            }
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_flavours_have_names() {
        assert_eq!(Flavour::parse("nft"), Ok(Flavour::Nft));
        assert_eq!(Flavour::parse("legacy"), Ok(Flavour::Legacy));
        let error = Flavour::parse("ipfw").unwrap_err();
        assert_eq!(error.code, code::INVALID_CONFIG);
        assert_eq!(error.msg, "invalid iptables flavour \"ipfw\": must be \"nft\" or \"legacy\"");
    }

    #[test]
    fn the_installed_program_is_known_by_its_final_name() {
        let directory = std::env::temp_dir().join(format!("cni-box-flavour-{}", std::process::id()));
        for (target, flavour) in [
            ("xtables-legacy-multi", Flavour::Legacy),
            ("xtables-multi", Flavour::Legacy),
            ("xtables-nft-multi", Flavour::Nft),
        ] {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(target), "").unwrap();
            std::os::unix::fs::symlink(target, directory.join("alternative")).unwrap();
            std::os::unix::fs::symlink("alternative", directory.join("iptables")).unwrap();
            assert_eq!(installed(&format!(".:/nowhere:{}", directory.display())), Some(flavour));
            std::fs::remove_dir_all(&directory).unwrap();
        }
    }
}
