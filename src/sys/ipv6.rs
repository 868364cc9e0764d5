//! Whether the kernel has IPv6.

use std::path::Path;

use crate::error::Error;

/// Each namespace of a kernel with IPv6 has these settings.
const SETTINGS: &str = "/proc/sys/net/ipv6";

/// True if the kernel has IPv6, whether or not it is disabled on interfaces.
pub fn is_there() -> bool {
    Path::new(SETTINGS).exists()
}

/// The same error, with the reason in its details if the kernel has no IPv6.
pub fn explain(error: Error) -> Error {
    const REASON: &str = "this kernel has no IPv6: it was booted with ipv6.disable=1 or built without IPv6, \
        or the module ipv6 is not loaded";
    if is_there() { error } else { error.with_details(REASON) }
}
