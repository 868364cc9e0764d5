//! What can be done about a refused request, where the kernel's answer leaves no doubt.

use crate::error::{Errno, Error};
use crate::netlink::route::{RTM_NEWLINK, RTM_SETLINK};
use crate::sys::rights::{self, Capability};

/// The kernel's text for a link of a kind that is not there (`rtnl_newlink`).
const UNKNOWN_KIND: &str = "Unknown device type";

/// The error of a request of this type, with the extended acknowledgement's text.
pub(super) fn explain(error: Error, kind: u16, text: &str) -> Error {
    match (error.errno, kind) {
        (Some(Errno::EPERM), _) => rights::explain(error, Capability::NetAdmin),
        (Some(Errno::EOPNOTSUPP), RTM_NEWLINK) if text == UNKNOWN_KIND => {
            error.with_details("this kernel has no devices of this kind, or their module is not loaded (modprobe)")
        }
        // br_add_if, linux/net/bridge/br_if.c. Only bridges number their ports.
        (Some(Errno::EXFULL), RTM_NEWLINK | RTM_SETLINK) => error.with_details("a bridge can have at most 1,023 ports"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::route::RTM_NEWADDR;

    #[test]
    fn an_errno_alone_is_no_hint() {
        let details = |errno: Errno, kind, text| explain(errno.into(), kind, text).details.clone();
        assert!(details(Errno::EOPNOTSUPP, RTM_NEWLINK, UNKNOWN_KIND).contains("modprobe"));
        assert!(details(Errno::EXFULL, RTM_SETLINK, "").contains("1,023 ports"));
        for (errno, kind, text) in [
            (Errno::EOPNOTSUPP, RTM_NEWLINK, ""),
            (Errno::EOPNOTSUPP, RTM_NEWLINK, "Device does not support enslaving"),
            (Errno::EOPNOTSUPP, RTM_NEWADDR, UNKNOWN_KIND),
            (Errno::EINVAL, RTM_NEWLINK, UNKNOWN_KIND),
            (Errno::EXFULL, RTM_NEWADDR, ""),
            (Errno::EACCES, RTM_NEWLINK, ""),
        ] {
            assert_eq!(details(errno, kind, text), "", "{errno} {text}");
        }
    }
}
