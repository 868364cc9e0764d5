//! The administrator's list of sysctls that networks may set: patterns, one a line. Without the file all are allowed; an
//! empty one forbids all. There are no comments.

use std::fs;
use std::io::ErrorKind;

use super::pattern;
use crate::error::{Context, Error, Result};

const FILE: &str = "/etc/cni/tuning/allowlist.conf";

/// Every key, as it is configured, matches one of the patterns.
pub(super) fn check<'k>(mut keys: impl Iterator<Item = &'k String>) -> Result<()> {
    let text = match fs::read(FILE) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        read => read.with_context(|| format!("open {FILE}"))?,
    };
    let text = String::from_utf8_lossy(&text);
    let patterns: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    keys.try_for_each(|key| match is_allowed(key, &patterns).context(FILE)? {
        true => Ok(()),
        false => Err(denied(key, &patterns)),
    })
}

fn is_allowed(key: &str, patterns: &[&str]) -> Result<bool> {
    for pattern in patterns {
        if pattern::is_found(pattern, key)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn denied(key: &str, patterns: &[&str]) -> Error {
    let patterns = patterns.join(" ");
    let msg = format!("Sysctl {key} is not allowed. Only the following sysctls are allowed: [{patterns}]");
    Error::internal(msg).with_details(format!("none of the patterns in {FILE} matches it"))
}
