//! One lease as a server granted it: what of an answer is believed, and how it is kept on disk.

use std::net::Ipv4Addr;

use crate::cni::config::Object;
use crate::cni::json::Node;
use crate::dhcp::packet::{Options, Packet, code};
use crate::dhcp::{Clock, Moment, hexadecimal};
use crate::error::{Error, Result};

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The leased address.
    pub address: Ipv4Addr,
    /// Server identifier.
    pub server: Ipv4Addr,
    /// Hardware address that the server's (or its relay's) answer came from.
    pub server_mac: Option<[u8; 6]>,
    /// When the request that it answers was sent.
    pub obtained: Moment,
    /// Length in seconds; `u32::MAX` is for ever.
    pub seconds: u32,
    /// Seconds until it is renewed (T1).
    pub renew_after: u32,
    /// Seconds until any server will do (T2).
    pub rebind_after: u32,
    /// The options that [`crate::dhcp::result`] reads.
    pub options: Options,
}

/// What a server that does not say so grants, as in the reference.
const DEFAULT_SECONDS: u32 = 3600;
/// A lease that must be renewed every other second is a mistake or an attack.
const SHORTEST: u32 = 4;
/// No end.
const INFINITE: u32 = u32::MAX;
/// What [`crate::dhcp::result`] reads, and nothing more: the daemon holds many leases.
const KEPT: [u8; 9] = [
    code::SUBNET_MASK,
    code::ROUTERS,
    code::DNS_SERVERS,
    code::DOMAIN_NAME,
    code::MTU,
    code::STATIC_ROUTES,
    code::DOMAIN_SEARCH,
    code::CLASSLESS_ROUTES,
    code::OLD_CLASSLESS_ROUTES,
];

impl Lease {
    /// The lease that an OFFER or ACK speaks of. Fails, with the reason in words, when the lease makes
    /// no sense: an address that no host can have, no server, or a time too short for renewals.
    pub fn granted(packet: &Packet, from: Option<[u8; 6]>, obtained: Moment) -> std::result::Result<Lease, String> {
        let options = &packet.options;
        let seconds = match options.get(code::LEASE_TIME) {
            Some(_) => options.number(code::LEASE_TIME).ok_or("its lease time (option 51) is no number")?,
            None => DEFAULT_SECONDS,
        };
        let address = Some(packet.yours).filter(|address| can_be_a_hosts(*address));
        let address = address.ok_or_else(|| format!("no host can have the address {}", packet.yours))?;
        let server = options.address(code::SERVER_ID).ok_or("it names no server (server id)")?;
        if !can_be_a_hosts(server) {
            return Err(format!("no server can have the address {server} (server id)"));
        }
        if seconds < SHORTEST {
            return Err(format!("lease of {seconds} s"));
        }
        let (renew_after, rebind_after) = times(seconds, options);
        let options = options.only(&KEPT);
        Ok(Lease { address, server, server_mac: from, obtained, seconds, renew_after, rebind_after, options })
    }

    /// The new lease after this one was renewed. Some servers then say nothing but the times.
    #[must_use]
    pub fn followed_by(self, next: Lease) -> Lease {
        let complete = next.options.get(code::SUBNET_MASK).is_some();
        Lease { options: if complete { next.options } else { self.options }, ..next }
    }

    /// When it ends; `Moment::MAX` for an infinite one.
    pub fn expires(&self) -> Moment {
        self.after(self.seconds)
    }

    /// When to renew it; `Moment::MAX` for an infinite one.
    pub fn renews(&self) -> Moment {
        self.after(self.renew_after)
    }

    /// When to ask any server; `Moment::MAX` for an infinite one.
    pub fn rebinds(&self) -> Moment {
        self.after(self.rebind_after)
    }

    fn after(&self, seconds: u32) -> Moment {
        let end = || self.obtained.saturating_add(Moment::from(seconds) * 1000);
        if self.seconds == INFINITE { Moment::MAX } else { end() }
    }

    /// Members of a JSON object, see [`Lease::read`].
    pub fn members(&self, clock: Clock) -> Vec<(&'static str, Node)> {
        let obtained = clock.kept.saturating_sub(clock.now.saturating_sub(self.obtained));
        vec![
            ("dhcpAddress", self.address.to_string().into()),
            ("dhcpServer", self.server.to_string().into()),
            ("dhcpServerMac", hexadecimal::write(self.server_mac.as_ref().map_or(&[], |mac| &mac[..])).into()),
            ("dhcpObtained", obtained.into()),
            ("dhcpSeconds", self.seconds.into()),
            ("dhcpRenewAfter", self.renew_after.into()),
            ("dhcpRebindAfter", self.rebind_after.into()),
            ("dhcpLeased", hexadecimal::write(self.options.as_bytes()).into()),
        ]
    }

    /// What [`Lease::members`] wrote. A lease from the future (which no clock explains) counts as obtained now.
    pub fn read(record: &Object<'_>, clock: Clock) -> Result<Lease> {
        let options = hexadecimal::read(record.string("dhcpLeased")?);
        let age = clock.kept.saturating_sub(record.integer("dhcpObtained")?).max(0);
        Ok(Lease {
            address: address(record, "dhcpAddress")?,
            server: address(record, "dhcpServer")?,
            server_mac: hexadecimal::read(record.string("dhcpServerMac")?).and_then(|mac| mac.try_into().ok()),
            obtained: clock.now.saturating_sub(age),
            seconds: seconds(record, "dhcpSeconds")?,
            renew_after: seconds(record, "dhcpRenewAfter")?,
            rebind_after: seconds(record, "dhcpRebindAfter")?,
            options: options.and_then(|bytes| Options::from_bytes(&bytes)).ok_or_else(|| unreadable("dhcpLeased"))?,
        })
    }

    /// An hour at this address.
    #[cfg(test)]
    pub(crate) fn for_tests(address: Ipv4Addr) -> Lease {
        let server = Ipv4Addr::new(10, 1, 2, 1);
        let (renew_after, rebind_after) = times(3600, &Options::default());
        let options = Options::default();
        Lease { address, server, server_mac: None, obtained: 0, seconds: 3600, renew_after, rebind_after, options }
    }
}

/// The error for a member of a record that cannot be read.
pub(super) fn unreadable(key: &str) -> Error {
    Error::internal(format!("recorded lease has an unreadable {key:?}"))
}

fn address(record: &Object<'_>, key: &str) -> Result<Ipv4Addr> {
    record.string(key)?.parse().map_err(|_| unreadable(key))
}

fn seconds(record: &Object<'_>, key: &str) -> Result<u32> {
    u32::try_from(record.integer(key)?).map_err(|_| unreadable(key))
}

/// Neither "this network", loopback, multicast, reserved nor broadcast.
fn can_be_a_hosts(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !matches!(first, 0 | 127 | 224..)
}

/// T1 and T2 as the server wants them if they make sense, otherwise a half and 85 hundredths of the lease.
fn times(seconds: u32, options: &Options) -> (u32, u32) {
    let defaults = (seconds / 2, (u64::from(seconds) * 85 / 100) as u32);
    let sensible = |(renew, rebind): &(u32, u32)| 0 < *renew && renew < rebind && *rebind < seconds;
    let (renew, rebind) = (options.number(code::RENEWAL_TIME), options.number(code::REBINDING_TIME));
    let wanted = [
        (renew.unwrap_or(defaults.0), rebind.unwrap_or(defaults.1)),
        (renew.unwrap_or(defaults.0), defaults.1),
        (defaults.0, rebind.unwrap_or(defaults.1)),
    ];
    wanted.into_iter().find(sensible).unwrap_or(defaults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::packet::kind;
    use serde_json::Value;

    fn packet(options: &[(u8, &[u8])]) -> Packet {
        let mut packet = Packet::to_server(kind::ACK, 1, [2; 6]);
        packet.yours = Ipv4Addr::new(10, 1, 2, 77);
        packet.options.set(code::SERVER_ID, &[10, 1, 2, 1]);
        for (code, value) in options {
            packet.options.set(*code, value);
        }
        packet
    }

    fn granted(options: &[(u8, &[u8])]) -> Option<Lease> {
        Lease::granted(&packet(options), None, 5000).ok()
    }

    fn time(code: u8, seconds: u32) -> (u8, Vec<u8>) {
        (code, seconds.to_be_bytes().to_vec())
    }

    fn times_of(options: &[(u8, Vec<u8>)]) -> (u32, u32, u32) {
        let options: Vec<_> = options.iter().map(|(code, value)| (*code, value.as_slice())).collect();
        let lease = granted(&options).unwrap();
        (lease.seconds, lease.renew_after, lease.rebind_after)
    }

    #[test]
    fn times_have_defaults_and_limits() {
        assert_eq!(times_of(&[]), (3600, 1800, 3060));
        assert_eq!(times_of(&[time(51, 1000)]), (1000, 500, 850));
        assert_eq!(times_of(&[time(51, 1000), time(58, 100), time(59, 200)]), (1000, 100, 200));
        assert_eq!(times_of(&[time(51, 1000), time(58, 0), time(59, 600)]), (1000, 500, 600));
        assert_eq!(times_of(&[time(51, 1000), time(58, 700), time(59, 600)]), (1000, 700, 850));
        assert_eq!(times_of(&[time(51, 1000), time(58, 900)]), (1000, 500, 850));
        assert_eq!(times_of(&[time(51, 1000), time(58, 2000), time(59, 3000)]), (1000, 500, 850));
        assert_eq!(times_of(&[time(51, 1000), time(59, 400)]), (1000, 500, 850));
        assert_eq!(times_of(&[time(51, 0xffff_fffe)]), (0xffff_fffe, 0x7fff_ffff, 3_650_722_199));
        assert_eq!(times_of(&[time(51, 4)]), (4, 2, 3));
    }

    #[test]
    fn a_lease_counts_from_its_request_and_may_have_no_end() {
        let lease = granted(&[(51, &[0, 0, 3, 232])]).unwrap();
        assert_eq!((lease.renews(), lease.rebinds(), lease.expires()), (505_000, 855_000, 1_005_000));
        let lease = granted(&[(51, &[255; 4])]).unwrap();
        assert_eq!((lease.renews(), lease.rebinds(), lease.expires()), (Moment::MAX, Moment::MAX, Moment::MAX));
    }

    #[test]
    fn what_makes_no_sense_is_not_believed() {
        for bad in [&[0, 0, 0, 0][..], &[0, 0, 0, 3], &[1, 0], &[]] {
            assert_eq!(granted(&[(51, bad)]), None, "{bad:?}");
        }
        for bad in [&[0; 4][..], &[255; 4], &[127, 0, 0, 1], &[224, 0, 0, 1], &[1, 2, 3], &[1; 8]] {
            assert_eq!(granted(&[(54, bad)]), None, "{bad:?}");
        }
        for bad in [[0; 4], [255; 4], [127, 0, 0, 1], [240, 0, 0, 1], [0, 1, 2, 3]] {
            let mut packet = packet(&[]);
            packet.yours = Ipv4Addr::from(bad);
            let reason = format!("no host can have the address {}", packet.yours);
            assert_eq!(Lease::granted(&packet, None, 0), Err(reason), "{bad:?}");
        }
    }

    #[test]
    fn only_what_is_needed_is_kept() {
        let lease = granted(&[(1, &[255; 4]), (43, &[0; 200]), (56, b"hello")]).unwrap();
        assert_eq!(lease.options.as_bytes(), [1, 0, 4, 255, 255, 255, 255]);
        let renewed = lease.clone().followed_by(granted(&[(3, &[10, 0, 0, 1])]).unwrap());
        assert_eq!(renewed.options, lease.options);
        let renewed = lease.followed_by(granted(&[(1, &[255, 0, 0, 0])]).unwrap());
        assert_eq!(renewed.options.as_bytes(), [1, 0, 4, 255, 0, 0, 0]);
    }

    #[test]
    fn a_record_is_read_again() {
        let mut lease = granted(&[(1, &[255, 255, 255, 0]), (51, &[0, 0, 3, 232])]).unwrap();
        let record = |lease: &Lease, clock| {
            let Value::Object(map) = Node::Object(lease.members(clock)).into_value() else { panic!("no object") };
            map
        };
        let read = |map: &serde_json::Map<String, Value>, clock| Lease::read(&Object::top(map), clock);
        let before = Clock { now: 9000, kept: 1_700_000_009_000 };
        for mac in [None, Some([2, 0, 0, 0, 0, 9])] {
            lease.server_mac = mac;
            let map = record(&lease, before);
            assert_eq!(map["dhcpObtained"], 1_700_000_005_000_i64);
            assert_eq!(read(&map, before).unwrap(), lease);
            // Another boot, a minute later.
            let after = Clock { now: 1000, kept: 1_700_000_069_000 };
            assert_eq!(read(&map, after).unwrap().obtained, -63_000);
            // The clock was set back by a day.
            assert_eq!(read(&map, Clock { now: 10_000, kept: 1_699_900_000_000 }).unwrap().obtained, 10_000);
        }
        for (key, bad) in [("dhcpAddress", "10.0.0"), ("dhcpServer", ""), ("dhcpLeased", "0g"), ("dhcpLeased", "0100")]
        {
            let mut map = record(&lease, before);
            map.insert(key.to_string(), bad.into());
            let text = format!("recorded lease has an unreadable {key:?}");
            assert_eq!(read(&map, before).unwrap_err().msg, text);
        }
        let mut map = record(&lease, before);
        map.insert("dhcpSeconds".to_string(), (-1).into());
        assert!(read(&map, before).is_err());
    }
}
