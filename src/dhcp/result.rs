//! What a lease means for CNI.
//!
//! | option | becomes |
//! |---|---|
//! | 1 subnet mask | prefix length of the address; there is no result without |
//! | 3 routers | the first is the gateway, and the next hop of a default route |
//! | 121 classless routes, or 249 | the routes; 3 and 33 then give none (RFC 3442) |
//! | 33 static routes | routes to networks and hosts, see [`crate::dhcp::routes`] |
//! | 6, 15, 119 | name servers, domain and search list, if `dnsFromServer` is set: the reference gives none |
//! | 26 MTU | the routes' `mtu`, if `mtuFromServer` is set |

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::cni::config::Object;
use crate::cni::result::{CniResult, Dns, IpConfig, Route};
use crate::dhcp::lease::Lease;
use crate::dhcp::packet::{Options, code};
use crate::dhcp::routes::{self, LeasedRoute};
use crate::error::{Error, Result};

/// `RT_SCOPE_LINK`.
const SCOPE_LINK: i64 = 253;
/// Options that name servers and names are in.
const DNS: [u8; 3] = [code::DNS_SERVERS, code::DOMAIN_NAME, code::DOMAIN_SEARCH];

/// What the configuration says about the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// `ipam.priority`: metric of every route; 0 leaves them alone.
    pub priority: i64,
    /// `ipam.dnsFromServer` (not in the reference): fill `dns` from options 6, 15 and 119.
    pub dns: bool,
    /// `ipam.mtuFromServer` (not in the reference): give every route the MTU of option 26.
    pub mtu: bool,
}

impl Wishes {
    /// Decodes the `ipam` object.
    pub fn decode(ipam: &Object<'_>) -> Result<Wishes> {
        Ok(Wishes {
            priority: ipam.integer("priority")?,
            dns: ipam.boolean("dnsFromServer")?,
            mtu: ipam.boolean("mtuFromServer")?,
        })
    }

    /// The options that servers must be asked for to fulfil them.
    pub fn options(self) -> impl Iterator<Item = u8> {
        let dns = DNS.into_iter().filter(move |_| self.dns);
        dns.chain(self.mtu.then_some(code::MTU))
    }
}

/// The result of ADD. Fails when the lease has no subnet mask; it is then to be released.
pub fn of_lease(lease: &Lease, wishes: Wishes) -> Result<CniResult> {
    let options = &lease.options;
    let gateway = options.addresses(code::ROUTERS).first().copied();
    let mtu = if wishes.mtu { mtu(options) } else { 0 };
    let address = address(lease)?;
    // A destination without router is on the link itself.
    let route = |(dst, gw): LeasedRoute| Route {
        dst: Some(dst.into()),
        gw: Some(gw.into()),
        mtu,
        priority: wishes.priority,
        scope: gw.is_unspecified().then_some(SCOPE_LINK),
        ..Route::default()
    };
    Ok(CniResult {
        ips: vec![IpConfig { interface: None, address: address.into(), gateway: gateway.map(IpAddr::from) }],
        routes: routes::of_lease(options, address, gateway).into_iter().map(route).collect(),
        dns: if wishes.dns { dns(options) } else { Dns::default() },
        ..CniResult::default()
    })
}

fn address(lease: &Lease) -> Result<Ipv4Net> {
    let mask = lease.options.address(code::SUBNET_MASK);
    let mask = mask.ok_or_else(|| Error::internal("DHCP option Subnet Mask not found in DHCPACK"))?;
    let net = Ipv4Net::with_netmask(lease.address, mask);
    net.map_err(|_| Error::internal(format!("DHCP option Subnet Mask in DHCPACK is no mask: {mask}")))
}

/// Option 26; 0 when it is missing or less than every link must carry (RFC 791).
fn mtu(options: &Options) -> i64 {
    const SMALLEST: u16 = 68;
    let mtu = options.exactly(code::MTU).map(u16::from_be_bytes);
    mtu.filter(|mtu| *mtu >= SMALLEST).map_or(0, i64::from)
}

fn dns(options: &Options) -> Dns {
    let domain = options.get(code::DOMAIN_NAME).and_then(|name| name_of(name.trim_ascii()));
    Dns {
        nameservers: options.addresses(code::DNS_SERVERS).iter().map(Ipv4Addr::to_string).collect(),
        domain: domain.unwrap_or_default(),
        search: search_list(options.get(code::DOMAIN_SEARCH).unwrap_or_default()),
        options: Vec::new(),
    }
}

/// Text that can be a domain name; what else a server sends must not get into anybody's resolv.conf.
fn name_of(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let name = std::str::from_utf8(bytes).ok()?.trim_end_matches('.');
    (!name.is_empty() && name.len() < 254 && name.bytes().all(|byte| allowed(&byte))).then(|| name.to_string())
}

/// Option 119 (RFC 3397): names as in DNS messages, which may end with a pointer to an earlier one. Up to the first name
/// that is not right.
fn search_list(list: &[u8]) -> Vec<String> {
    /// More than any resolver looks at.
    const MANY: usize = 32;
    let mut names = Vec::new();
    let mut at = 0;
    while at < list.len() && names.len() < MANY {
        let Some((name, next)) = read_name(list, at) else { break };
        names.extend(name_of(&name));
        at = next;
    }
    names
}

/// The name at `at` with dots, and where the next one begins. Every pointer must lead further back than the last one, so
/// there is no way around in circles.
fn read_name(list: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    const POINTER: u8 = 0xc0;
    const LONGEST_LABEL: u8 = 63;
    const LONGEST: usize = 255;
    let (mut name, mut at, mut limit, mut next) = (Vec::new(), at, at, None);
    loop {
        let length = *list.get(at)?;
        if length & POINTER == POINTER {
            let target = usize::from(u16::from_be_bytes([length & !POINTER, *list.get(at + 1)?]));
            next.get_or_insert(at + 2);
            if target >= limit {
                return None;
            }
            (at, limit) = (target, target);
            continue;
        }
        if length > LONGEST_LABEL {
            return None;
        }
        let end = at + 1 + usize::from(length);
        match list.get(at + 1..end)? {
            [] => return Some((name, next.unwrap_or(end))),
            label => name.extend(label.iter().chain(b".")),
        }
        if name.len() > LONGEST {
            return None;
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::json::compact;

    fn lease(options: &[(u8, &[u8])]) -> Lease {
        let mut lease = Lease::for_tests(Ipv4Addr::new(10, 1, 2, 77));
        lease.options.set(code::SUBNET_MASK, &[255, 255, 255, 0]);
        for (code, value) in options {
            lease.options.set(*code, value);
        }
        lease
    }

    fn text(options: &[(u8, &[u8])], wishes: Wishes) -> String {
        compact(&of_lease(&lease(options), wishes).unwrap().to_json("1.1.0").unwrap())
    }

    const ROUTER: (u8, &[u8]) = (code::ROUTERS, &[10, 1, 2, 1, 10, 1, 2, 2]);

    #[test]
    fn the_ordinary_result() {
        assert_eq!(
            text(&[ROUTER, (code::MTU, &[5, 120]), (code::DNS_SERVERS, &[10, 1, 2, 1])], Wishes::default()),
            r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.2.77/24","gateway":"10.1.2.1"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.1.2.1"}]}"#
        );
    }

    #[test]
    fn wishes_are_fulfilled() {
        let wishes = Wishes { priority: 7, dns: true, mtu: true };
        let options: &[(u8, &[u8])] =
            &[ROUTER, (code::MTU, &[5, 120]), (code::DNS_SERVERS, &[10, 1, 2, 1]), (code::DOMAIN_NAME, b"a.example\0")];
        assert_eq!(
            text(options, wishes),
            concat!(
                r#"{"cniVersion":"1.1.0","dns":{"domain":"a.example","nameservers":["10.1.2.1"]},"#,
                r#""ips":[{"address":"10.1.2.77/24","gateway":"10.1.2.1"}],"#,
                r#""routes":[{"dst":"0.0.0.0/0","gw":"10.1.2.1","mtu":1400,"priority":7}]}"#
            )
        );
        assert_eq!(wishes.options().collect::<Vec<_>>(), [6, 15, 119, 26]);
        assert_eq!(Wishes::default().options().count(), 0);
    }

    #[test]
    fn a_mask_must_be_there_and_be_one() {
        let error = |change: &dyn Fn(&mut Options)| {
            let mut lease = lease(&[]);
            change(&mut lease.options);
            of_lease(&lease, Wishes::default()).unwrap_err().msg.clone()
        };
        let missing = "DHCP option Subnet Mask not found in DHCPACK";
        assert_eq!(error(&|options| options.remove(code::SUBNET_MASK)), missing);
        assert_eq!(error(&|options| options.set(code::SUBNET_MASK, &[255; 3])), missing);
        let odd = error(&|options| options.set(code::SUBNET_MASK, &[255, 0, 255, 0]));
        assert_eq!(odd, "DHCP option Subnet Mask in DHCPACK is no mask: 255.0.255.0");
    }

    #[test]
    fn a_route_on_the_link_has_its_scope() {
        assert_eq!(
            text(&[(code::CLASSLESS_ROUTES, &[8, 11, 0, 0, 0, 0, 8, 12, 10, 1, 2, 1])], Wishes::default()),
            concat!(
                r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.2.77/24"}],"#,
                r#""routes":[{"dst":"11.0.0.0/8","gw":"0.0.0.0","scope":253},{"dst":"12.0.0.0/8","gw":"10.1.2.1"}]}"#
            )
        );
    }

    #[test]
    fn search_lists_are_read_as_dns_writes_them() {
        let list = b"\x03eng\x05apple\x03com\0\x09marketing\xc0\x04";
        assert_eq!(search_list(list), ["eng.apple.com", "marketing.apple.com"]);
        // In circles, beyond the end, forward, cut short, and a name that is none.
        assert!(search_list(b"\xc0\x00").is_empty());
        assert!(search_list(b"\x01a\xc0\x00").is_empty());
        assert!(search_list(b"\x01a\xc0\x09").is_empty());
        assert!(search_list(b"\x05ab").is_empty());
        assert!(search_list(b"\x03a\nb\0").is_empty());
        assert_eq!(search_list(b"\x01a\0\x03b c\0\x01d\0\x40"), ["a", "d"]);
    }

    /// Random options: never a panic, never a name that could not be one.
    #[test]
    fn no_options_do_harm() {
        let mut state = 1_u64;
        let mut random = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        let wishes = Wishes { priority: 0, dns: true, mtu: true };
        for _ in 0..50_000 {
            let mut lease = lease(&[]);
            for code in [1, 3, 6, 15, 26, 33, 119, 121, 249] {
                let length = random(40);
                let value: Vec<u8> =
                    (0..length).map(|_| if random(2) == 0 { random(6) } else { random(256) } as u8).collect();
                if random(2) == 0 {
                    lease.options.set(code, &value);
                }
            }
            if let Ok(result) = of_lease(&lease, wishes) {
                let names = result.dns.search.iter().chain(Some(&result.dns.domain));
                assert!(names.into_iter().all(|name| name.is_empty() || name_of(name.as_bytes()).is_some()));
                assert!(result.routes.iter().all(|route| route.gw.is_some() && route.dst.is_some()));
            }
        }
    }

    #[test]
    fn names_that_are_none_are_dropped() {
        for bad in [&b"a b"[..], b"a\nnameserver 6.6.6.6", b"", b".", b"\0", "\u{e4}".as_bytes(), &[b'a'; 254]] {
            assert_eq!(name_of(bad), None);
        }
        assert_eq!(name_of(b"a-b_c.Example."), Some("a-b_c.Example".to_string()));
        assert_eq!(mtu(&lease(&[(code::MTU, &[0, 67])]).options), 0);
    }
}
