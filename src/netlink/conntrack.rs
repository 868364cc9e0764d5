//! Numbers of connection tracking over nfnetlink (`linux/netfilter/nfnetlink_conntrack.h`; the filter's flags are in the
//! kernel's `net/netfilter/nf_internals.h`), named as the kernel names them. Numbers in attributes are in network order
//! unless said otherwise.
#![allow(missing_docs)] // The kernel's headers are the documentation.

/// The subsystem's number is the upper byte of its message types.
pub const NFNL_SUBSYS_CTNETLINK: u16 = 1;

pub const IPCTNL_MSG_CT_GET: u16 = (NFNL_SUBSYS_CTNETLINK << 8) + 1;
pub const IPCTNL_MSG_CT_DELETE: u16 = (NFNL_SUBSYS_CTNETLINK << 8) + 2;

pub const CTA_TUPLE_ORIG: u16 = 1;
pub const CTA_ID: u16 = 12;
pub const CTA_ZONE: u16 = 18;
pub const CTA_FILTER: u16 = 25;

pub const CTA_TUPLE_IP: u16 = 1;
pub const CTA_TUPLE_PROTO: u16 = 2;
pub const CTA_IP_V4_DST: u16 = 2;
pub const CTA_IP_V6_DST: u16 = 4;
pub const CTA_PROTO_NUM: u16 = 1;
pub const CTA_PROTO_DST_PORT: u16 = 3;

/// In host order.
pub const CTA_FILTER_ORIG_FLAGS: u16 = 1;
pub const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;

pub const IPPROTO_UDP: u8 = 17;
