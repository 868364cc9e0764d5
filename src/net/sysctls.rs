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

/// Sets a setting unless it has the value already, so that a read-only /proc/sys with the right
/// values does no harm.
pub fn ensure(name: &str, value: &str) -> Result<()> {
    if differs(name, value)? { write(name, value) } else { Ok(()) }
}

/// True if a setting has another value, or must not be read: the reference writes without a look.
pub fn differs(name: &str, value: &str) -> Result<bool> {
    match read(name) {
        Ok(now) => Ok(now != value),
        Err(error) if error.is_refusal() => Ok(true),
        Err(error) => Err(error),
    }
}

/// Settings of IPv6 are missing on a kernel without IPv6, too.
fn explain(name: &str, error: Error) -> Error {
    let is_missing = name.starts_with("net/ipv6/") && error.is(Errno::ENOENT);
    if is_missing { ipv6::explain(error) } else { error }
}

fn path(name: &str) -> String {
    format!("/proc/sys/{name}")
}
