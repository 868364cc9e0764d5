//! The routes of a lease, in an order in which the kernel takes them.
//!
//! Servers send more than the kernel takes as it comes: host bits, the same route twice, routers
//! that no route leads to. Other clients put that right (systemd-networkd, NetworkManager, dhcpcd),
//! so servers have been set up to rely on it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::dhcp::packet::{Options, code};

/// A destination, without host bits, and its router; [`Ipv4Addr::UNSPECIFIED`] for a destination on
/// the link.
pub type LeasedRoute = (Ipv4Net, Ipv4Addr);

/// The routes for the leased `address`. Option 121 alone counts if it is there (RFC 3442), or its
/// forerunner 249; otherwise options 33 and 3, of which `gateway` is the first.
pub fn of_lease(options: &Options, address: Ipv4Net, gateway: Option<Ipv4Addr>) -> Vec<LeasedRoute> {
    let classless = [code::CLASSLESS_ROUTES, code::OLD_CLASSLESS_ROUTES];
    let classless = classless.into_iter().find_map(|code| classless_routes(options.get(code)?));
    let routes = classless.unwrap_or_else(|| {
        let default = gateway.map(|gateway| (Ipv4Net::default(), gateway));
        static_routes(options).chain(default).collect()
    });
    in_order(routes.into_iter().map(|route| next_hop(route, address)).collect(), address)
}

/// Puts in front of each route the one to its router, if the address's own network does not lead
/// there (RFC 3442 has a /32 in mind). A route that is there already is not repeated.
fn in_order(given: Vec<LeasedRoute>, address: Ipv4Net) -> Vec<LeasedRoute> {
    let mut ordered: Vec<LeasedRoute> = Vec::new();
    for route in &given {
        let router = route.1;
        let leads_there = |(net, hop): &&LeasedRoute| hop.is_unspecified() && net.contains(&router);
        if !router.is_unspecified() && !address.contains(&router) && !ordered.iter().any(|made| leads_there(&made)) {
            let given = given.iter().find(leads_there).copied();
            ordered.push(given.unwrap_or((router.into(), Ipv4Addr::UNSPECIFIED)));
        }
        if !ordered.contains(route) {
            ordered.push(*route);
        }
    }
    ordered
}

/// The route without host bits. A router that is the destination, or the leased address, stands for
/// none: no packet can be sent to it on the way.
fn next_hop((dst, router): LeasedRoute, address: Ipv4Net) -> LeasedRoute {
    let is_none = dst == router.into() || router == address.addr();
    (dst.trunc(), if is_none { Ipv4Addr::UNSPECIFIED } else { router })
}

/// Routes of option 121; `None` when the option is empty, or not what the RFC says, which makes the
/// whole of it void.
fn classless_routes(mut rest: &[u8]) -> Option<Vec<LeasedRoute>> {
    let mut routes = Vec::new();
    while let Some((length, tail)) = rest.split_first() {
        let (significant, tail) = tail.split_at_checked(usize::from(length.div_ceil(8)))?;
        let (router, tail) = tail.split_first_chunk::<4>()?;
        let mut octets = [0; 4];
        octets.get_mut(..significant.len())?.copy_from_slice(significant);
        routes.push((Ipv4Net::new(octets.into(), *length).ok()?, Ipv4Addr::from(*router)));
        rest = tail;
    }
    Some(routes).filter(|routes| !routes.is_empty())
}

/// Option 33, whose destinations have no masks: the network of its address's class, or else a host
/// (RFC 943). 0.0.0.0 is illegal there (RFC 2132, 5.8).
fn static_routes(options: &Options) -> impl Iterator<Item = LeasedRoute> {
    let (pairs, _) = options.get(code::STATIC_ROUTES).unwrap_or_default().as_chunks::<8>();
    let routes = pairs.iter().map(|[a, b, c, d, router @ ..]| {
        let length = match a {
            0..128 => 8,
            128..192 => 16,
            _ => 24,
        };
        let dst = Ipv4Addr::new(*a, *b, *c, *d);
        let net = Ipv4Net::new(dst, length).ok().filter(|net| net.network() == dst);
        (net.unwrap_or(dst.into()), Ipv4Addr::from(*router))
    });
    routes.filter(|(dst, _)| !dst.addr().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "10.1.2.77/24";
    const CLASSLESS: u8 = code::CLASSLESS_ROUTES;

    /// The routes of a lease of `address` with these options.
    fn at(address: &str, given: &[(u8, &[u8])]) -> Vec<String> {
        let mut options = Options::default();
        for (code, value) in given {
            options.set(*code, value);
        }
        let gateway = options.addresses(code::ROUTERS).first().copied();
        let routes = of_lease(&options, address.parse().unwrap(), gateway);
        routes.iter().map(|(dst, router)| format!("{dst} {router}")).collect()
    }

    fn routes(given: &[(u8, &[u8])]) -> Vec<String> {
        at(ADDRESS, given)
    }

    const ROUTER: (u8, &[u8]) = (code::ROUTERS, &[10, 1, 2, 1, 10, 1, 2, 2]);

    #[test]
    fn classless_routes_replace_all_others() {
        let statics: (u8, &[u8]) = (code::STATIC_ROUTES, &[172, 20, 0, 0, 10, 1, 2, 8, 9, 9]);
        let given: (u8, &[u8]) = (CLASSLESS, &[0, 10, 1, 2, 9, 12, 172, 16, 0, 0, 0, 0]);
        let old: (u8, &[u8]) = (code::OLD_CLASSLESS_ROUTES, &[8, 11, 10, 1, 2, 5]);
        assert_eq!(routes(&[ROUTER, statics, given, old]), ["0.0.0.0/0 10.1.2.9", "172.16.0.0/12 0.0.0.0"]);
        assert_eq!(routes(&[ROUTER, statics, old]), ["11.0.0.0/8 10.1.2.5"]);
        let others = ["172.20.0.0/16 10.1.2.8", "0.0.0.0/0 10.1.2.1"];
        for void in [&[][..], &[33, 1, 2, 3, 4, 5, 1, 2, 3, 4], &[24, 10, 0, 0, 10, 1, 2], &[0, 10, 1, 2, 9, 8], &[255]]
        {
            assert_eq!(routes(&[ROUTER, statics, (CLASSLESS, void)]), others, "{void:?}");
        }
    }

    #[test]
    fn destinations_without_masks_are_networks_of_their_class_or_hosts() {
        let pairs = [[10, 0, 0, 0, 10, 1, 2, 5], [191, 255, 0, 0, 10, 1, 2, 5], [192, 168, 1, 0, 10, 1, 2, 5]].concat();
        let nets = ["10.0.0.0/8 10.1.2.5", "191.255.0.0/16 10.1.2.5", "192.168.1.0/24 10.1.2.5"];
        assert_eq!(routes(&[(code::STATIC_ROUTES, &pairs)]), nets);
        let pairs = [[10, 0, 0, 1, 10, 1, 2, 5], [0, 0, 0, 0, 10, 1, 2, 5], [192, 168, 1, 9, 10, 1, 2, 5]].concat();
        let hosts = ["10.0.0.1/32 10.1.2.5", "192.168.1.9/32 10.1.2.5"];
        assert_eq!(routes(&[(code::STATIC_ROUTES, &pairs)]), hosts);
        assert_eq!(routes(&[(code::ROUTERS, &[10, 1, 2, 1, 5])]), Vec::<String>::new());
    }

    #[test]
    fn host_bits_and_repetitions_go() {
        let given = [12, 172, 31, 10, 1, 2, 9, 12, 172, 16, 10, 1, 2, 9, 0, 10, 1, 2, 1, 0, 10, 1, 2, 1];
        assert_eq!(routes(&[(CLASSLESS, &given)]), ["172.16.0.0/12 10.1.2.9", "0.0.0.0/0 10.1.2.1"]);
        // Another router is another route.
        let given = [0, 10, 1, 2, 1, 0, 10, 1, 2, 2];
        assert_eq!(routes(&[(CLASSLESS, &given)]), ["0.0.0.0/0 10.1.2.1", "0.0.0.0/0 10.1.2.2"]);
    }

    #[test]
    fn a_route_to_the_router_comes_first() {
        let wanted = ["10.1.0.1/32 0.0.0.0", "0.0.0.0/0 10.1.0.1"];
        let router: (u8, &[u8]) = (code::ROUTERS, &[10, 1, 0, 1]);
        let before = [32, 10, 1, 0, 1, 0, 0, 0, 0, 0, 10, 1, 0, 1];
        let behind = [0, 10, 1, 0, 1, 32, 10, 1, 0, 1, 0, 0, 0, 0];
        let itself = [32, 10, 1, 0, 1, 10, 1, 0, 1, 0, 10, 1, 0, 1];
        for address in ["10.1.2.77/32", ADDRESS] {
            assert_eq!(at(address, &[router]), wanted);
            for given in [&before[..], &behind, &itself, &[0, 10, 1, 0, 1]] {
                assert_eq!(at(address, &[(CLASSLESS, given)]), wanted, "{given:?}");
            }
        }
        // A network on the link that the router is in will do.
        let network = [0, 10, 1, 0, 1, 16, 10, 1, 0, 0, 0, 0];
        assert_eq!(routes(&[(CLASSLESS, &network)]), ["10.1.0.0/16 0.0.0.0", "0.0.0.0/0 10.1.0.1"]);
        assert_eq!(at("10.1.2.77/16", &[router]), wanted[1..]);
        assert_eq!(routes(&[(CLASSLESS, &[8, 11, 10, 1, 2, 77])]), ["11.0.0.0/8 0.0.0.0"]);
    }
}
