//! The socket options of legacy iptables (`linux/netfilter_ipv4/ip_tables.h`, `linux/netfilter_ipv6/ip6_tables.h`):
//! whole tables are read and replaced as blobs on a raw socket.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::{Context, Errno, Result};
use crate::sys::log::Step;
use crate::sys::rights::{self, Capability};

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `ip_tables`.
    V4,
    /// `ip6_tables`.
    V6,
}

/// `IPT_SO_SET_REPLACE`.
const SET_REPLACE: libc::c_int = 64;
/// `IPT_SO_SET_ADD_COUNTERS`.
const SET_ADD_COUNTERS: libc::c_int = 65;
/// `IPT_SO_GET_INFO`.
pub const GET_INFO: libc::c_int = 64;
/// `IPT_SO_GET_ENTRIES`.
pub const GET_ENTRIES: libc::c_int = 65;

/// A raw socket on which one family's tables are read and written.
#[derive(Debug)]
pub struct TableSocket {
    socket: OwnedFd,
    level: libc::c_int,
}

impl TableSocket {
    /// Opens the socket in the current network namespace. Needs `CAP_NET_RAW`; using it needs `CAP_NET_ADMIN`.
    pub fn open(family: Family) -> Result<Self> {
        let (domain, level) = match family {
            Family::V4 => (libc::AF_INET, libc::IPPROTO_IP),
            Family::V6 => (libc::AF_INET6, libc::IPPROTO_IPV6),
        };
        // SAFETY: socket(2) takes no memory of ours.
        let raw = unsafe { libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
        let raw = Errno::result(raw).context("failed to open a raw socket");
        let raw = raw.map_err(|error| rights::explain(error, Capability::NetRaw))?;
        // SAFETY: `raw` is a descriptor that socket(2) has just given us and that nobody else owns.
        Ok(TableSocket { socket: unsafe { OwnedFd::from_raw_fd(raw) }, level })
    }

    /// getsockopt(2): `bytes` holds the request and receives the answer; the number of bytes the kernel used.
    pub fn get(&self, option: libc::c_int, bytes: &mut [u8]) -> std::result::Result<usize, Errno> {
        let mut length = bytes.len() as libc::socklen_t;
        let step = Step::begin(format_args!("x_tables read table"));
        // SAFETY: pointer and length describe `bytes`, which is writable and lives through the call; the kernel writes
        // at most `length` bytes.
        let result = unsafe {
            libc::getsockopt(self.socket.as_raw_fd(), self.level, option, bytes.as_mut_ptr().cast(), &raw mut length)
        };
        step.end(Errno::result(result)).map(|_| length as usize)
    }

    /// `IPT_SO_SET_ADD_COUNTERS`: the request is a `struct xt_counters_info`.
    pub fn add_counters(&self, request: &[u8]) -> std::result::Result<(), Errno> {
        self.set(SET_ADD_COUNTERS, request)
    }

    /// setsockopt(2). Not for everybody: `IPT_SO_SET_REPLACE` makes the kernel write where the request points to.
    fn set(&self, option: libc::c_int, bytes: &[u8]) -> std::result::Result<(), Errno> {
        let length = bytes.len() as libc::socklen_t;
        // SAFETY: pointer and length describe `bytes`, which lives through the call. Where `bytes` holds a pointer itself,
        // `replace` has put it there and vouches for it.
        let result =
            unsafe { libc::setsockopt(self.socket.as_raw_fd(), self.level, option, bytes.as_ptr().cast(), length) };
        Errno::result(result).map(drop)
    }

    /// `IPT_SO_SET_REPLACE`: the request starts with a `struct ipt_replace` whose `counters` pointer (at
    /// `pointer_offset`) is filled in here; the kernel writes the old table's counters there, 16 bytes for each of its
    /// entries.
    pub fn replace(
        &self,
        request: &mut [u8],
        pointer_offset: usize,
        counters: &mut [u8],
    ) -> std::result::Result<(), Errno> {
        let pointer = (counters.as_mut_ptr() as usize).to_ne_bytes();
        let place = request.get_mut(pointer_offset..pointer_offset + pointer.len()).ok_or(Errno::EINVAL)?;
        place.copy_from_slice(&pointer);
        // The kernel writes num_counters * 16 bytes behind the pointer: the request must not promise more than there is.
        let promised = pointer_offset.checked_sub(4).and_then(|at| request.get(at..at + 4)).ok_or(Errno::EINVAL)?;
        let promised = u32::from_ne_bytes(promised.try_into().map_err(|_| Errno::EINVAL)?);
        if promised as usize * 16 > counters.len() {
            return Err(Errno::EINVAL);
        }
        Step::begin(format_args!("x_tables replace table")).end(self.set(SET_REPLACE, request))
    }
}
