//! What the extensions of x_tables (matches and targets) and networks look like in bytes: the same in both kernels'
//! tables.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::firewall::Family;

/// Room for the text of a `comment` match (`struct xt_comment_info`).
const COMMENT_INFO_LENGTH: usize = 256;

/// `struct nf_nat_ipv4_multi_range_compat` (20 bytes, padded) that says: one range, and nothing about it.
const MASQUERADE_V4: [u8; 24] = {
    let mut info = [0; 24];
    let one = 1u32.to_ne_bytes();
    (info[0], info[1], info[2], info[3]) = (one[0], one[1], one[2], one[3]);
    info
};

/// `struct nf_nat_range` that says nothing.
const MASQUERADE_V6: [u8; 40] = [0; 40];

/// What the xt target MASQUERADE (revision 0) is given; the same bytes in both kernels.
pub(super) fn masquerade_info(family: Family) -> &'static [u8] {
    match family {
        Family::V4 => &MASQUERADE_V4,
        Family::V6 => &MASQUERADE_V6,
    }
}

/// What the xt match `comment` (revision 0) is given.
pub(super) fn comment_info(text: &str) -> [u8; COMMENT_INFO_LENGTH] {
    let mut info = [0; COMMENT_INFO_LENGTH];
    // The last byte stays NUL.
    info.iter_mut().take(COMMENT_INFO_LENGTH - 1).zip(text.bytes()).for_each(|(place, byte)| *place = byte);
    info
}

/// The information of an xt extension says the same as `plain`, whatever padding it has.
pub(super) fn is_plain(info: &[u8], plain: &[u8]) -> bool {
    let length = info.len().max(plain.len());
    let padded = |bytes: &[u8], at: usize| bytes.get(at).copied().unwrap_or(0);
    (0..length).all(|at| padded(info, at) == padded(plain, at))
}

/// Network address and mask, in network order.
pub(super) fn octets(network: &IpNet) -> (Vec<u8>, Vec<u8>) {
    match network {
        IpNet::V4(network) => (network.network().octets().to_vec(), network.netmask().octets().to_vec()),
        IpNet::V6(network) => (network.network().octets().to_vec(), network.netmask().octets().to_vec()),
    }
}

/// The length of the prefix that the mask covers; `None` when its bits are not in one run.
pub(super) fn prefix_length(mask: &[u8]) -> Option<u8> {
    let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
    let set: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let full = mask.iter().take_while(|byte| **byte == 0xff).count() as u32 * 8;
    let partial = mask.get((full / 8) as usize).map_or(0, |byte| byte.leading_ones());
    (ones == set && full + partial == set).then_some(set as u8)
}

/// The network whose address starts with these bytes.
pub(super) fn network(family: Family, bytes: &[u8], prefix: u8) -> Option<IpNet> {
    let mut address = [0u8; 16];
    address.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    let address: IpAddr = match family {
        Family::V4 => address.first_chunk::<4>().copied()?.into(),
        Family::V6 => address.into(),
    };
    Some(IpNet::new(address, prefix).ok()?.trunc())
}
