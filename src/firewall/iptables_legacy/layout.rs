//! The structs of x_tables as byte offsets (`linux/netfilter/x_tables.h`, `linux/netfilter_ipv4/ip_tables.h`,
//! `linux/netfilter_ipv6/ip6_tables.h`). Numbers are in host order, addresses in network order.

use crate::error::{Error, Result};
use crate::firewall::Family;

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

/// Verdicts of a standard target; others are offsets of entries.
pub(super) const VERDICT_ACCEPT: i32 = -2;
/// `XT_RETURN`
pub(super) const VERDICT_RETURN: i32 = -5;

/// Name of the target that marks the start of a user chain and the end of the table.
pub(super) const ERROR_TARGET: &[u8] = b"ERROR";

/// Where things are in `struct ipt_entry` or `struct ip6t_entry`.
#[derive(Debug)]
pub(super) struct EntryLayout {
    /// Length of an address.
    pub(super) address: usize,
    /// Conditions other than addresses, up to `invert`: interfaces, protocol, traffic class, flags.
    pub(super) others: usize,
    /// Which conditions are negated.
    pub(super) invert: usize,
    /// Where the target starts, two bytes; right behind it the entry's length, two bytes.
    pub(super) target_offset: usize,
    /// Length of the struct, where matches start.
    pub(super) length: usize,
}

/// `IPT_INV_SRCIP`
pub(super) const INVERT_SOURCE: u8 = 0x08;
/// `IPT_INV_DSTIP`
pub(super) const INVERT_DESTINATION: u8 = 0x10;

const V4: EntryLayout =
    EntryLayout { address: 4, others: 16, invert: 83, target_offset: 88, length: 96 + COUNTERS_LENGTH };

const V6: EntryLayout = EntryLayout {
    address: 16,
    others: 64,
    invert: 132,
    target_offset: 140,
    length: 148usize.next_multiple_of(ALIGNMENT) + COUNTERS_LENGTH,
};

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

/// Overwrites bytes; what would lie outside is dropped.
pub(super) fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    let places = bytes.iter_mut().skip(at);
    places.zip(new).for_each(|(place, byte)| *place = *byte);
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
