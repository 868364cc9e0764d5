//! Kernel settings below /proc/sys. `/proc/sys/net` shows the namespace of the thread that looks.

use std::fs::{self, OpenOptions};
use std::io::Write;

use crate::error::{Context, Errno, Error, Result};
use crate::sys::ipv6;
use crate::sys::log::Step;

/// Writes a setting, such as `net/ipv6/conf/eth0/accept_ra`.
pub fn write(name: &str, value: &str) -> Result<()> {
    let step = Step::begin(format_args!("sysctl {name}={value}"));
    let written = OpenOptions::new().write(true).open(path(name)).and_then(|mut file| file.write_all(value.as_bytes()));
    let written = step.end(written).with_context(|| format!("failed to set {name} to {value}"));
    written.map_err(|error| explain(name, error))
}

/// Reads a setting without the newline at its end.
pub fn read(name: &str) -> Result<String> {
    let text = fs::read_to_string(path(name)).with_context(|| format!("failed to read {name}"));
    Ok(text.map_err(|error| explain(name, error))?.trim_end().to_string())
}

/// Sets a setting unless it has the value already, so that a read-only /proc/sys with the right values does no harm. A value
/// that must not be read is written, as by the reference.
pub fn ensure(name: &str, value: &str) -> Result<()> {
    match read(name) {
        Ok(now) if now == value => Ok(()),
        Err(error) if !error.is_refusal() => Err(error),
        _ => write(name, value),
    }
}

/// Lets the host pass packets between its interfaces: the reference's `EnableForward`. Never undone.
pub fn enable_forwarding(v4: bool, v6: bool) -> Result<()> {
    if v4 {
        ensure("net/ipv4/ip_forward", "1")?;
    }
    if v6 {
        ensure("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Settings of IPv6 are missing on a kernel without IPv6, too.
fn explain(name: &str, error: Error) -> Error {
    let is_missing = name.starts_with("net/ipv6/") && error.is(Errno::ENOENT);
    if is_missing { ipv6::explain(error) } else { error }
}

fn path(name: &str) -> String {
    format!("/proc/sys/{name}")
}
