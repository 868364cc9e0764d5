//! Specification versions: the list, parsing and comparison (`pkg/version` of the reference library).

use crate::error::{Error, Result};

/// The version of our own answers.
pub const CURRENT: &str = "1.1.0";

/// Every version, oldest first.
pub const ALL: &[&str] = &["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Major, minor, micro.
pub type Number = [i64; 3];

/// First version with CHECK, and with `prevResult` on DEL.
pub const WITH_CHECK: Number = [0, 4, 0];
/// First version with GC and STATUS.
pub const WITH_GC: Number = [1, 1, 0];
/// First version with several addresses of one family in a result.
pub const WITH_LISTS: Number = [0, 3, 0];

/// Shape of the result JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 0.1.0 and 0.2.0: `ip4`, `ip6`.
    Two,
    /// 0.3.0 to 0.4.0: lists, `ips[].version`.
    Four,
    /// 1.0.0 and later.
    One,
}

/// The version a configuration or result stands for when it names none.
pub fn or_default(version: &str) -> &str {
    if version.is_empty() { "0.1.0" } else { version }
}

/// The family of a known version.
pub fn family(version: &str) -> Option<Family> {
    match or_default(version) {
        "0.1.0" | "0.2.0" => Some(Family::Two),
        "0.3.0" | "0.3.1" | "0.4.0" => Some(Family::Four),
        "1.0.0" | "1.1.0" => Some(Family::One),
        _ => None,
    }
}

/// Parses one to three dotted numbers; missing ones are 0, an empty text is 0.1.0. The texts are the reference's.
pub fn parse(version: &str) -> Result<Number> {
    let mut number = [0; 3];
    let names = ["major", "minor", "micro"];
    let parts: Vec<&str> = or_default(version).split('.').collect();
    if parts.len() > number.len() {
        return Err(Error::internal(format!("invalid version {version:?}: too many parts")));
    }
    for ((part, name), place) in parts.iter().zip(names).zip(number.iter_mut()) {
        *place = part.parse().map_err(|_| {
            Error::internal(format!(
                "failed to convert {name} version part {part:?}: strconv.Atoi: parsing {part:?}: invalid syntax"
            ))
        })?;
    }
    Ok(number)
}

/// True when `version` parses and is at least `least`.
pub fn at_least(version: &str, least: Number) -> bool {
    parse(version).is_ok_and(|number| number >= least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_as_the_reference_does() {
        assert_eq!(parse("").unwrap(), [0, 1, 0]);
        assert_eq!(parse("1").unwrap(), [1, 0, 0]);
        assert_eq!(parse("0.-42.+1").unwrap(), [0, -42, 1]);
        assert_eq!(parse("1.1.0.0").unwrap_err().msg, "invalid version \"1.1.0.0\": too many parts");
        assert_eq!(
            parse("1.x").unwrap_err().msg,
            "failed to convert minor version part \"x\": strconv.Atoi: parsing \"x\": invalid syntax"
        );
    }

    #[test]
    fn compares_by_number_but_knows_versions_by_name() {
        assert!(at_least("1.1", WITH_GC));
        assert_eq!(family("1.1"), None);
        assert_eq!(family(""), Some(Family::Two));
    }
}
