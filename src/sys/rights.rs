//! Whether this process has the right to what the kernel refused (capabilities(7),
//! user_namespaces(7)).

use std::fs::{self, File};
use std::os::fd::AsRawFd;

use crate::error::{Errno, Error};

/// A capability, by its number in `linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// To change links, addresses, routes and rules.
    NetAdmin = 12,
    /// To open raw sockets and packet sockets.
    NetRaw = 13,
    /// To enter a namespace.
    SysAdmin = 21,
}

/// `_IO(NSIO, 0x1)` of `linux/nsfs.h`.
const NS_GET_USERNS: u32 = 0xb701;

/// The namespace that sockets of this thread are opened in.
const CURRENT: &str = "/proc/thread-self/ns/net";

impl Capability {
    fn name(self) -> &'static str {
        match self {
            Capability::NetAdmin => "CAP_NET_ADMIN",
            Capability::NetRaw => "CAP_NET_RAW",
            Capability::SysAdmin => "CAP_SYS_ADMIN",
        }
    }
}

/// The error of a call in the current network namespace. If the call needs this capability and the
/// process lacks it there, the details say so. `EPERM` alone proves nothing: seccomp and security
/// modules answer the same.
pub fn explain(error: Error, capability: Capability) -> Error {
    if !error.is(Errno::EPERM) {
        return error;
    }
    let current = File::open(CURRENT).ok();
    explain_in(error, capability, current.as_ref())
}

/// The same for a call on this network namespace.
pub fn explain_in(error: Error, capability: Capability, netns: Option<&File>) -> Error {
    let name = capability.name();
    if !error.is(Errno::EPERM) {
        error
    } else if holds(capability) == Some(false) {
        error.with_details(format!("this requires root or {name}, which this process lacks"))
    } else if netns.is_some_and(is_foreign) {
        let what = "the network namespace belongs to a user namespace in which this process has no";
        error.with_details(format!("{what} {name}"))
    } else {
        error
    }
}

/// Whether a capability is effective; `None` if that cannot be found out.
pub(super) fn holds(capability: Capability) -> Option<bool> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    effective.map(|effective| effective & (1 << capability as u64) != 0)
}

/// True if a namespace belongs to a user namespace that is neither this process's nor below it
/// (`ns_get_owner` in linux/kernel/user_namespace.c). Capabilities do not reach there.
fn is_foreign(netns: &File) -> bool {
    // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor, or fails.
    let owner = Errno::result(unsafe { libc::ioctl(netns.as_raw_fd(), NS_GET_USERNS as _) });
    // SAFETY: the descriptor is new, and only closed here.
    owner.map(|owner| unsafe { libc::close(owner) }) == Err(Errno::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_errors_need_no_capability() {
        assert_eq!(explain(Errno::EACCES.into(), Capability::NetAdmin), Errno::EACCES.into());
        assert!(!is_foreign(&File::open("/dev/null").unwrap()));
    }
}
