//! IPv4 and UDP around a DHCP message (RFC 791, RFC 768), as a packet socket without link-layer header carries them.

use std::net::Ipv4Addr;

/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;
/// Where servers listen.
pub const SERVER_PORT: u16 = 67;

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
const TTL: u8 = 64;
/// Bits of "fragment offset" and "more fragments".
const FRAGMENTED: u16 = 0x3fff;

/// The frame that carries `payload` from a client to a server.
pub fn encode(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let udp_length = (UDP_HEADER + payload.len()) as u16;
    let total = udp_length.saturating_add(IP_HEADER as u16);
    let [high, low] = total.to_be_bytes();
    let addresses = [source.octets(), destination.octets()].concat();
    // Version and header length, type of service, length, identification, fragment, time to live, protocol.
    let begin = [0x45, 0, high, low, 0, 0, 0, 0, TTL, UDP];
    let mut frame = Vec::with_capacity(usize::from(total));
    frame.extend(begin);
    frame.extend((!folded(sum(&begin) + sum(&addresses))).to_be_bytes());
    frame.extend(&addresses);
    for half in [CLIENT_PORT, SERVER_PORT, udp_length, udp_checksum(&addresses, payload, udp_length)] {
        frame.extend(half.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

fn udp_checksum(addresses: &[u8], payload: &[u8], udp_length: u16) -> u16 {
    let header = u32::from(CLIENT_PORT) + u32::from(SERVER_PORT) + u32::from(udp_length);
    let pseudo = sum(addresses) + u32::from(UDP) + u32::from(udp_length);
    match !folded(pseudo + header + sum(payload)) {
        // Zero would mean "not computed".
        0 => u16::MAX,
        checksum => checksum,
    }
}

/// The payload of a frame to [`CLIENT_PORT`]; `None` when it is not that, is cut short or damaged, or a fragment.
/// `checksum_pending` is what the kernel says of a frame from a neighbour on the same machine: the network card that would
/// have written the UDP checksum was never there.
pub fn decode(frame: &[u8], checksum_pending: bool) -> Option<&[u8]> {
    let ([first, _, high, low, _, _, fragment_high, fragment_low, _, protocol], _) = frame.split_first_chunk()?;
    let (version, header_length) = (first >> 4, usize::from(first & 0x0f) * 4);
    let total = usize::from(u16::from_be_bytes([*high, *low]));
    let fragment = u16::from_be_bytes([*fragment_high, *fragment_low]);
    if version != 4 || header_length < IP_HEADER || *protocol != UDP || fragment & FRAGMENTED != 0 {
        return None;
    }
    // What follows the packet is padding of the link layer.
    let (header, datagram) = frame.get(..total)?.split_at_checked(header_length)?;
    if folded(sum(header)) != u16::MAX {
        return None;
    }
    let (_, addresses) = header.get(..IP_HEADER)?.split_last_chunk::<8>()?;
    decode_udp(datagram, addresses, checksum_pending)
}

fn decode_udp<'a>(datagram: &'a [u8], addresses: &[u8], checksum_pending: bool) -> Option<&'a [u8]> {
    let ([_, _, port_high, port_low, high, low, sum_high, sum_low], _) = datagram.split_first_chunk()?;
    let length = u16::from_be_bytes([*high, *low]);
    let datagram = datagram.get(..usize::from(length))?;
    let payload = datagram.get(UDP_HEADER..)?;
    let unchecked = checksum_pending || (*sum_high, *sum_low) == (0, 0);
    let checksum = sum(addresses) + u32::from(UDP) + u32::from(length) + sum(datagram);
    let intact = unchecked || folded(checksum) == u16::MAX;
    (intact && u16::from_be_bytes([*port_high, *port_low]) == CLIENT_PORT).then_some(payload)
}

/// Sum of the 16-bit words; an odd byte counts as if a zero followed. No frame is long enough for it to overflow.
fn sum(bytes: &[u8]) -> u32 {
    let (words, odd) = bytes.as_chunks::<2>();
    let words: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    words + odd.first().map_or(0, |byte| u32::from(*byte) << 8)
}

/// The one's complement sum that a checksum is the complement of.
fn folded(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
    const THERE: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 1);

    /// What a server would send: the same frame with the ports exchanged, which leaves the sums as they are.
    fn answer(payload: &[u8]) -> Vec<u8> {
        let mut frame = encode(THERE, HERE, payload);
        frame[20..24].copy_from_slice(&[0, 67, 0, 68]);
        frame
    }

    #[test]
    fn a_frame_has_the_right_checksums() {
        // Computed with another program.
        let frame = encode(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, b"abc");
        assert_eq!(frame[..20], [0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0x7a, 0xcf, 0, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(frame[20..28], [0, 68, 0, 67, 0, 11, 0x3a, 0xef]);
        assert_eq!(folded(sum(&frame[..20])), u16::MAX);
    }

    #[test]
    fn what_is_encoded_can_be_decoded() {
        for length in 0..600 {
            let payload: Vec<u8> = (0..length).map(|index| (index * 7) as u8).collect();
            let mut frame = answer(&payload);
            assert_eq!(decode(&frame, false), Some(payload.as_slice()));
            frame.extend([0; 18]);
            assert_eq!(decode(&frame, false), Some(payload.as_slice()), "padding");
        }
    }

    #[test]
    fn a_damaged_bit_is_noticed() {
        let frame = answer(b"some message");
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged, false), None, "bit {bit}");
        }
    }

    #[test]
    fn a_checksum_that_nobody_has_written_is_not_looked_at() {
        let mut frame = answer(b"some message");
        frame[26..28].copy_from_slice(&[1, 2]);
        assert_eq!(decode(&frame, false), None);
        assert!(decode(&frame, true).is_some());
        frame[26..28].copy_from_slice(&[0, 0]);
        assert!(decode(&frame, false).is_some());
    }

    #[test]
    fn what_is_not_for_us_is_refused() {
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = answer(b"some message");
            change(&mut frame);
            // Let the header's checksum be right again, so that it is not the reason.
            if frame.len() >= 20 {
                frame[10..12].copy_from_slice(&[0, 0]);
                let checksum = !folded(sum(&frame[..20]));
                frame[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            assert_eq!(decode(&frame, true), None);
        };
        refused(&|frame| frame[0] = 0x65); // version
        refused(&|frame| frame[0] = 0x44); // header of 16 bytes
        refused(&|frame| frame[0] = 0x4f); // options that are not there
        refused(&|frame| frame[3] += 1); // longer than what came
        refused(&|frame| frame[3] = 27); // no room for UDP
        refused(&|frame| frame[6] = 0x20); // first fragment
        refused(&|frame| frame[7] = 1); // later fragment
        refused(&|frame| frame[9] = 6); // TCP
        refused(&|frame| frame[23] = 67); // to a server
        refused(&|frame| frame[25] = 7); // UDP length
        refused(&|frame| frame[24] = 9);
        for length in 0..40 {
            refused(&|frame| frame.truncate(length));
        }
    }

    /// Random bytes over a right frame, cut anywhere: never a panic, and never more than came.
    #[test]
    fn no_frame_does_harm() {
        let mut state = 1_u64;
        let mut random = |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % limit
        };
        let whole = answer(&[7; 300]);
        let mut decoded = 0;
        for _ in 0..200_000 {
            let mut frame = whole.clone();
            for _ in 0..random(4) {
                frame[random(60)] = random(256) as u8;
            }
            frame.truncate(whole.len() - random(3) * random(whole.len() / 2));
            decoded += usize::from(decode(&frame, random(2) == 0).is_some());
        }
        assert!(decoded > 10_000, "{decoded}");
    }

    #[test]
    fn ip_options_are_skipped() {
        let mut frame = answer(b"x");
        frame.splice(20..20, [1, 1, 1, 1]);
        frame[0] = 0x46;
        frame[3] += 4;
        frame[10..12].copy_from_slice(&[0, 0]);
        let checksum = !folded(sum(&frame[..24]));
        frame[10..12].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(decode(&frame, false), Some(b"x".as_slice()));
    }
}
