//! The structs of x_tables as byte offsets (`linux/netfilter/x_tables.h`, `linux/netfilter_ipv4/ip_tables.h`,
//! `linux/netfilter_ipv6/ip6_tables.h`). Numbers are in host order, addresses in network order.

use crate::error::{Error, Result};
use crate::firewall::rule::Family;

/// `_XT_ALIGN`: where entries, matches and targets start.
pub(super) const ALIGNMENT: usize = align_of::<u64>();

/// Length of a table's name, of an interface's and of an extension's with its revision byte.
pub(super) const TABLE_NAME_LENGTH: usize = 32;
/// Length of the chain name in an error target (`XT_FUNCTION_MAXNAMELEN`).
pub(super) const CHAIN_NAME_LENGTH: usize = 30;
/// Hooks of a table (`NF_INET_NUMHOOKS`).
pub(super) const HOOKS: usize = 5;
/// Length of `struct xt_counters`.
pub(super) const COUNTERS_LENGTH: usize = 16;
/// Length of the header of `struct xt_entry_match` and `struct xt_entry_target`: size, name, revision.
pub(super) const EXTENSION_HEADER: usize = 32;

/// `struct ipt_getinfo`: name, valid hooks, entry points, underflows, number of entries, size.
pub(super) const INFO_LENGTH: usize = TABLE_NAME_LENGTH + 4 + 4 * HOOKS * 2 + 8;
/// Where the entries start in `struct ipt_get_entries` and the counters in `struct xt_counters_info`.
pub(super) const BEHIND_NAME_AND_COUNT: usize = (TABLE_NAME_LENGTH + 4).next_multiple_of(ALIGNMENT);
/// Where `struct ipt_replace` has its pointer to counters.
pub(super) const REPLACE_POINTER: usize = TABLE_NAME_LENGTH + 12 + 4 * HOOKS * 2 + 4;
/// Length of `struct ipt_replace`, where the entries start.
pub(super) const REPLACE_LENGTH: usize = (REPLACE_POINTER + size_of::<usize>()).next_multiple_of(ALIGNMENT);

/// Verdicts of a standard target (`-NF_… - 1`); others are offsets of entries.
pub(super) const VERDICT_ACCEPT: i32 = -2;
/// `-NF_DROP - 1`
pub(super) const VERDICT_DROP: i32 = -1;
/// `XT_RETURN`
pub(super) const VERDICT_RETURN: i32 = -5;

/// Name of the target that marks the start of a user chain and the end of the table.
pub(super) const ERROR_TARGET: &str = "ERROR";

/// Where things are in `struct ipt_entry` or `struct ip6t_entry`. Addresses come first (source, destination, their
/// masks), then interface names (in, out, their masks).
#[derive(Debug)]
pub(super) struct EntryLayout {
    /// Length of an address.
    pub(super) address: usize,
    /// The protocol, two bytes.
    pub(super) protocol: usize,
    /// What else there is about the packet; one bit says that it goes to a chain and does not come back.
    pub(super) flags: usize,
    /// The bit in `flags` that `-g` sets.
    pub(super) goto: u8,
    /// The bits in `flags` that `-p` sets.
    pub(super) has_protocol: u8,
    /// Which conditions are negated.
    pub(super) invert: usize,
    /// Where the target starts, two bytes; right behind it the entry's length, two bytes.
    pub(super) target_offset: usize,
    /// Length of the struct, where matches start.
    pub(super) length: usize,
}

/// Length of an interface name and of its mask (`IFNAMSIZ`).
pub(super) const INTERFACE_NAME_LENGTH: usize = 16;

/// `IPT_INV_VIA_IN`
pub(super) const INVERT_IN: u8 = 0x01;
/// `IPT_INV_VIA_OUT`
pub(super) const INVERT_OUT: u8 = 0x02;
/// `IPT_INV_SRCIP`
pub(super) const INVERT_SOURCE: u8 = 0x08;
/// `IPT_INV_DSTIP`
pub(super) const INVERT_DESTINATION: u8 = 0x10;

const V4: EntryLayout = EntryLayout {
    address: 4,
    protocol: 80,
    flags: 82,
    goto: 0x02,
    has_protocol: 0,
    invert: 83,
    target_offset: 88,
    length: 96 + COUNTERS_LENGTH,
};

const V6: EntryLayout = EntryLayout {
    address: 16,
    protocol: 128,
    flags: 131,
    goto: 0x04,
    has_protocol: 0x01,
    invert: 132,
    target_offset: 140,
    length: 148usize.next_multiple_of(ALIGNMENT) + COUNTERS_LENGTH,
};

impl EntryLayout {
    /// Where the names of the interfaces start.
    pub(super) fn interfaces(&self) -> usize {
        4 * self.address
    }
}

/// The layout of a family's entries.
pub(super) fn entry(family: Family) -> &'static EntryLayout {
    match family {
        Family::V4 => &V4,
        Family::V6 => &V6,
    }
}

/// Two bytes in host order.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map(u16::from_ne_bytes).ok_or_else(malformed)
}

/// Four bytes in host order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().map(u32::from_ne_bytes).ok_or_else(malformed)
}

/// Four bytes in host order, signed.
pub(super) fn i32_at(bytes: &[u8], at: usize) -> Result<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

/// A name up to the first NUL of a field of fixed length. Nobody promises that it is UTF-8.
pub(super) fn name_at(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    let field = bytes.get(at..at + length).ok_or_else(malformed)?;
    Ok(field.split(|byte| *byte == 0).next().unwrap_or_default())
}

/// The blob is not what the kernel's headers describe.
pub(super) fn malformed() -> Error {
    Error::internal("malformed iptables table from the kernel")
}
