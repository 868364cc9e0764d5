use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Small and always the same (Steele and others, "Fast splittable pseudorandom number generators").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// What dnsmasq 2.90 answers to a request, with the lists that it can send besides.
fn offer() -> Packet {
    let mut packet = Packet::to_server(kind::OFFER, 0x1234_5678, MAC);
    packet.op = REPLY;
    packet.yours = Ipv4Addr::new(10, 1, 2, 77);
    for (code, value) in [
        (code::SUBNET_MASK, &[255, 255, 255, 0][..]),
        (code::ROUTERS, &[10, 1, 2, 1, 10, 1, 2, 2]),
        (code::DNS_SERVERS, &[10, 1, 2, 1]),
        (code::DOMAIN_NAME, b"example.org"),
        (code::LEASE_TIME, &[0, 0, 0, 120]),
        (code::SERVER_ID, &[10, 1, 2, 1]),
        (code::RENEWAL_TIME, &[0, 0, 0, 60]),
        (code::REBINDING_TIME, &[0, 0, 0, 105]),
        (code::CLASSLESS_ROUTES, &[24, 192, 168, 7, 10, 1, 2, 9, 0, 10, 1, 2, 1]),
    ] {
        packet.options.set(code, value);
    }
    packet
}

/// Where the options of a message begin.
const OPTIONS: usize = 240;

/// A reply with these raw options.
fn raw(options: &[u8]) -> Vec<u8> {
    let mut bytes = offer().encode();
    bytes.splice(OPTIONS.., options.iter().copied());
    bytes
}

#[test]
fn options_are_kept_in_order_and_once() {
    let mut options = Options::default();
    options.set(54, &[1, 2, 3, 4]);
    options.set(1, &[9]);
    options.set(54, &[5]);
    options.append(1, &[8]);
    options.append(12, b"");
    options.append(0, b"pad");
    options.append(255, b"end");
    let all: Vec<_> = options.iter().collect();
    assert_eq!(all, [(1, &[9, 8][..]), (12, b""), (54, &[5])]);
    assert_eq!((options.get(12), options.get(13)), (Some(&[][..]), None));
    assert_eq!(Options::from_bytes(options.as_bytes()).as_ref(), Some(&options));
    options.remove(12);
    assert_eq!(options.as_bytes(), [1, 0, 2, 9, 8, 54, 0, 1, 5]);
    assert_eq!(options.only(&[54]).as_bytes(), [54, 0, 1, 5]);
    for length in [1, 2, 3, 4, 6, 8] {
        assert_eq!(Options::from_bytes(&options.as_bytes()[..length]), None);
    }
}

#[test]
fn values_have_types() {
    let options = offer().options;
    assert_eq!(options.number(code::LEASE_TIME), Some(120));
    assert_eq!(options.address(code::ROUTERS), None);
    assert_eq!(options.addresses(code::ROUTERS).len(), 2);
    assert!(options.addresses(code::DOMAIN_NAME).is_empty() && options.addresses(code::MTU).is_empty());
}

#[test]
fn a_message_is_laid_out_as_the_rfc_says() {
    let mut packet = Packet::to_server(kind::DISCOVER, 0x0102_0304, MAC);
    packet.flags = BROADCAST;
    let bytes = packet.encode();
    assert_eq!(bytes.len(), 300);
    assert_eq!(bytes[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0]);
    assert_eq!(bytes[28..34], MAC);
    assert_eq!(bytes[236..244], [99, 130, 83, 99, 53, 1, 1, 255]);
}

#[test]
fn a_long_option_comes_in_pieces() {
    let mut packet = offer();
    let long: Vec<u8> = (0..700).map(|index| index as u8).collect();
    for length in [254, 255, 256, 510, 511, 700] {
        packet.options.set(code::DOMAIN_SEARCH, &long[..length]);
        assert_eq!(Packet::decode(&packet.encode()).as_ref(), Some(&packet), "{length}");
    }
    // Pieces need not be neighbours.
    let scattered = Packet::decode(&raw(&[15, 1, b'a', 53, 1, 2, 0, 15, 2, b'b', b'c', 255, 15, 1, b'd'])).unwrap();
    assert_eq!(scattered.options.get(15), Some(&b"abc"[..]));
}

#[test]
fn names_may_hold_options() {
    let with = |overload: u8| {
        let mut bytes = raw(&[15, 1, b'a', 52, 1, overload, 255]);
        bytes[44..48].copy_from_slice(&[15, 1, b's', 255]);
        bytes[108..112].copy_from_slice(&[15, 1, b'f', 255]);
        Packet::decode(&bytes).unwrap().options
    };
    let value = |overload| with(overload).get(15).map(<[u8]>::to_vec).unwrap();
    assert_eq!([value(0), value(1), value(2), value(3)], [&b"a"[..], b"af", b"as", b"afs"]);
    assert_eq!(with(3).get(code::OVERLOAD), None);
    // A field that says it holds options must hold whole ones.
    let mut bytes = raw(&[52, 1, 1, 255]);
    bytes[108..110].copy_from_slice(&[15, 200]);
    assert_eq!(Packet::decode(&bytes), None);
}

#[test]
fn what_is_cut_short_is_no_message() {
    let whole = offer().encode();
    let end = whole.iter().rposition(|byte| *byte == code::END).unwrap();
    for length in 0..=end {
        assert_eq!(Packet::decode(&whole[..length]), None, "{length}");
    }
    assert!(Packet::decode(&whole[..=end]).is_some());
    for bad in [&[1, 5, 1, 255][..], &[1], &[53, 1, 2], &[]] {
        assert_eq!(Packet::decode(&raw(bad)), None);
    }
    for place in [1, 2, 236] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        assert_eq!(Packet::decode(&bytes), None, "htype, hlen, cookie");
    }
}

fn random_packet(random: &mut Random) -> Packet {
    let mut packet = offer();
    packet.options = Options::default();
    for _ in 0..random.below(8) {
        let length = [0, 1, 4, 8, 255, 256, 600][random.below(7)];
        let value = random.bytes(length);
        packet.options.set(random.next() as u8, &value);
    }
    packet.options.remove(code::OVERLOAD);
    (packet.op, packet.xid, packet.flags) = (random.next() as u8, random.next() as u32, random.next() as u16);
    (packet.client, packet.yours) = (Ipv4Addr::from(random.next() as u32), Ipv4Addr::from(random.next() as u32));
    packet
}

#[test]
fn what_is_encoded_can_be_decoded() {
    let mut random = Random(1);
    for _ in 0..5_000 {
        let packet = random_packet(&mut random);
        assert_eq!(Packet::decode(&packet.encode()).as_ref(), Some(&packet));
    }
}

/// Real messages with bits flipped, bytes replaced, cut, lengthened, and pieces of one put into another: none may panic or
/// take long, and what is understood means the same when written again.
#[test]
fn no_message_does_harm() {
    let mut random = Random(2);
    let seeds: Vec<Vec<u8>> = (0..64).map(|_| random_packet(&mut random).encode()).chain([offer().encode()]).collect();
    let mut understood = 0;
    for _ in 0..120_000 {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut bytes, &mut random, &seeds);
        }
        if let Some(packet) = Packet::decode(&bytes) {
            understood += 1;
            assert_eq!(Packet::decode(&packet.encode()), Some(packet));
        }
    }
    assert!(understood > 12_000, "{understood}: the mutations are too wild to test anything");
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random, seeds: &[Vec<u8>]) {
    let at = if random.below(4) == 0 { random.below(bytes.len() + 1) } else { OPTIONS + random.below(70) };
    let at = at.min(bytes.len());
    match random.below(6) {
        0 => bytes.truncate(at),
        1 => {
            let other = &seeds[random.below(seeds.len())];
            let piece = other[at.min(other.len())..].iter().copied().take(random.below(40));
            bytes.splice(at..at, piece.collect::<Vec<_>>());
        }
        2 => drop(bytes.splice(at..at, [52, 1, random.next() as u8])),
        3 => bytes.extend(std::iter::repeat_n(random.next() as u8, random.below(300))),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = if random.below(2) == 0 { *byte ^ (1 << random.below(8)) } else { random.next() as u8 };
            }
        }
    }
}
