//! Address families: which entries answer a question, and the kernel that has no IPv6.

use crate::error::{Errno, Error};
use crate::netlink::Message;
use crate::netlink::route::{AF_INET6, AF_UNSPEC};
use crate::sys::ipv6;

/// True if an entry is of the family that the request asks for. If the kernel does not have that
/// family, rtnetlink gives the question to the handler for all families (`rtnetlink_rcv_msg`),
/// which lists the entries of the others.
pub(super) fn is_asked_for(request: &Message, entry: &[u8]) -> bool {
    request.family() == AF_UNSPEC || entry.first() == Some(&request.family())
}

/// True if the kernel refused a question because it does not have IPv6: then there are no entries.
pub(super) fn has_no_entries(request: &Message, error: &Error) -> bool {
    request.family() == AF_INET6 && lacks_family(error)
}

/// The error of the request at this index. If that is about IPv6, the details say why the kernel
/// refused it.
pub(super) fn explain(requests: &[Message], index: usize, error: Error) -> Error {
    match error.errno {
        _ if requests.get(index).map(Message::family) != Some(AF_INET6) => error,
        _ if lacks_family(&error) => ipv6::explain(error),
        // inet6_rtm_newaddr and fib6_nh_init. A caller without the right to a change gets EPERM.
        Some(Errno::EACCES) => {
            error.with_details("is IPv6 disabled on the interface (sysctl net.ipv6.conf.INTERFACE.disable_ipv6)?")
        }
        _ => error,
    }
}

fn lacks_family(error: &Error) -> bool {
    error.is(Errno::EAFNOSUPPORT) || error.is(Errno::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::route::{AF_INET, RTM_GETROUTE};

    fn request(family: u8) -> Message {
        let mut request = Message::new(RTM_GETROUTE, 0);
        request.raw(&[family, 0, 0, 0]);
        request
    }

    #[test]
    fn entries_of_other_families_are_no_answer() {
        let is_asked_for = |family, entry: &[u8]| is_asked_for(&request(family), entry);
        assert!(is_asked_for(AF_INET6, &[AF_INET6, 0]) && is_asked_for(AF_UNSPEC, &[AF_INET, 0]));
        assert!(!is_asked_for(AF_INET6, &[AF_INET, 0]) && !is_asked_for(AF_INET6, &[]));
    }

    #[test]
    fn only_ipv6_may_be_missing() {
        let refused = |family, errno: Errno| has_no_entries(&request(family), &errno.into());
        assert!(refused(AF_INET6, Errno::EAFNOSUPPORT) && refused(AF_INET6, Errno::EOPNOTSUPP));
        assert!(!refused(AF_INET, Errno::EOPNOTSUPP) && !refused(AF_INET6, Errno::EPERM));
    }

    #[test]
    fn the_request_that_was_refused_is_explained() {
        let requests = [request(AF_INET), request(AF_INET6)];
        let details = |index| explain(&requests, index, Errno::EACCES.into()).details.clone();
        assert_eq!((details(0), details(2)), (String::new(), String::new()));
        assert!(details(1).contains("disable_ipv6"));
    }
}
