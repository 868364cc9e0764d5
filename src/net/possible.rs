//! Changes to a link that every kernel refuses, told from the changes alone.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::{Errno, Error};
use crate::net::routes::Route;
use crate::net::steps::Step;

/// `RT_SCOPE_LINK`: from here on a scope is narrower than the world behind a gateway.
const LINK: u8 = 253;
/// `IP6_RT_PRIO_USER`: the metric of an IPv6 route that names none.
const PRIORITY_V6: u32 = 1024;

/// Fails for the first of these changes to a new link that no kernel makes, which is named by its
/// index. Without an address among them the addresses are not known, and any gateway may be a
/// neighbour.
pub fn check(steps: &[Step]) -> std::result::Result<(), (usize, Error)> {
    let mut neighbours = Neighbours::default();
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::Address(net) | Step::AddressAtOnce(net) => neighbours.subnets.push(*net),
            Step::AddressAlone(net) => neighbours.alone.push(*net),
            Step::Route(route) => neighbours.take(route).map_err(|error| (index, error))?,
            Step::Announce | Step::Up | Step::Unroute(_) => {}
        }
    }
    match repeated(steps) {
        Some(index) => Err((index, refused(Errno::EEXIST, "routes: the same route is there twice"))),
        None => Ok(()),
    }
}

/// The addresses that are reached without a gateway.
#[derive(Default)]
struct Neighbours {
    subnets: Vec<IpNet>,
    /// Subnets that are not on the link, but whose broadcast address is known.
    alone: Vec<IpNet>,
    /// Destinations of routes without a gateway.
    on_link: Vec<IpNet>,
    /// The next hop of the route before, which was found to be one of them: mostly all routes have the same.
    known: Option<IpAddr>,
}

impl Neighbours {
    fn take(&mut self, route: &Route) -> Result<(), Error> {
        let dst = route.dst;
        let is_v4 = dst.addr().is_ipv4();
        if is_v4 && dst.addr() != dst.network() {
            let (network, bits) = (dst.network(), dst.prefix_len());
            let msg = format!("routes: dst has host bits set; the network address is {network}/{bits}");
            return Err(refused(Errno::EINVAL, &msg));
        }
        // The kernel takes 0.0.0.0 for no gateway.
        let Some(gateway) = route.gateway.filter(|gateway| gateway.is_ipv6() || !gateway.is_unspecified()) else {
            if !is_v4 || route.scope >= LINK {
                self.on_link.push(dst);
            }
            return Ok(());
        };
        if gateway.is_ipv4() != is_v4 {
            return Err(refused(Errno::EINVAL, "routes: gw is not of the address family of dst"));
        }
        if is_v4 && route.scope >= LINK {
            return Err(refused(Errno::EINVAL, "routes: a destination of this scope has no gateway"));
        }
        if self.known != Some(gateway) {
            self.require(gateway)?;
            self.known = Some(gateway);
        }
        Ok(())
    }

    fn require(&self, gateway: IpAddr) -> Result<(), Error> {
        // Smaller subnets have no broadcast address.
        const LONGEST: u8 = 30;
        let is_broadcast =
            |net: &&IpNet| gateway.is_ipv4() && net.prefix_len() <= LONGEST && net.broadcast() == gateway;
        let is_neighbour = |net: &IpNet| net.contains(&gateway) && !is_broadcast(&net);
        let is_link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if is_link_local || self.subnets.iter().any(is_neighbour) {
            return Ok(());
        }
        if let Some(net) = self.subnets.iter().chain(&self.alone).find(is_broadcast) {
            let msg = format!("gateway {gateway} is the broadcast address of {}", net.trunc());
            return Err(refused(Errno::EINVAL, &msg));
        }
        if self.on_link.iter().any(|net| net.contains(&gateway)) {
            return Ok(());
        }
        if self.subnets.is_empty() && self.alone.is_empty() {
            return Ok(());
        }
        let errno = if gateway.is_ipv4() { Errno::ENETUNREACH } else { Errno::EHOSTUNREACH };
        Err(refused(errno, &format!("gateway {gateway} is in no subnet of the interface's addresses")))
    }
}

fn refused(errno: Errno, why: &str) -> Error {
    Error::from(errno).with_details(why)
}

/// The index of the second of two routes that are the same for the kernel.
fn repeated(steps: &[Step]) -> Option<usize> {
    let routes = steps.iter().enumerate().filter_map(|(index, step)| match step {
        Step::Route(route) => Some((comparable(route), index)),
        _ => None,
    });
    let mut routes: Vec<(Route, usize)> = routes.collect();
    routes.sort();
    let pairs = routes.iter().zip(routes.iter().skip(1));
    pairs.filter(|(one, other)| one.0 == other.0).map(|(_, (_, index))| *index).min()
}

/// The route with only what tells it from others: of IPv6 routes these are destination, next hop, table and metric.
fn comparable(route: &Route) -> Route {
    let route = Route { dst: route.dst.trunc(), table: route.effective_table(), ..route.clone() };
    if route.dst.addr().is_ipv4() {
        return route;
    }
    let priority = if route.priority == 0 { PRIORITY_V6 } else { route.priority };
    Route { priority, table: route.table, ..Route::new(route.dst, route.gateway, route.link) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route as `dst [gateway [scope]]`.
    fn route(text: &str) -> Step {
        let words: Vec<&str> = text.split(' ').collect();
        let gateway = words.get(1).and_then(|word| word.parse().ok());
        let scope = words.get(2).map_or(0, |word| word.parse().unwrap());
        Step::Route(Route { scope, ..Route::new(words[0].parse().unwrap(), gateway, 2) })
    }

    /// The verdict on routes over a link with 10.1.0.2/24 and fd00::2/64.
    fn verdict(routes: &[&str]) -> String {
        let mut steps: Vec<Step> =
            ["10.1.0.2/24", "fd00::2/64"].map(|net| Step::Address(net.parse().unwrap())).to_vec();
        steps.extend(routes.iter().map(|text| route(text)));
        match check(&steps) {
            Ok(()) => "ok".to_string(),
            Err((index, error)) => format!("{}: {error}", index - 2),
        }
    }

    #[test]
    fn what_some_kernel_takes_is_passed() {
        for routes in [
            &["0.0.0.0/0 10.1.0.1"][..],
            &["0.0.0.0/0", "10.9.0.0/16"],
            &["0.0.0.0/0 0.0.0.0"],
            &["169.254.1.1/32 - 253", "0.0.0.0/0 169.254.1.1"],
            &["10.9.0.0/16 10.1.0.0", "10.9.0.0/16 10.1.0.2", "10.9.0.0/16 10.1.0.3 200"],
            &["::/0 fe80::1", "fd09::1/64 fd00::1", "::/0 fd00::1"],
            &["fd77::1/128", "::/0 fd77::1"],
            &["10.9.0.0/16", "10.9.0.0/16 10.1.0.1"],
        ] {
            assert_eq!(verdict(routes), "ok", "{routes:?}");
        }
    }

    #[test]
    fn what_every_kernel_refuses_is_named() {
        for (routes, expected) in [
            (
                &["10.9.1.0/16"][..],
                "0: invalid argument; routes: dst has host bits set; the network address is 10.9.0.0/16",
            ),
            (&["::/0", "0.0.0.0/0 fd00::1"], "1: invalid argument; routes: gw is not of the address family of dst"),
            (&["::/0 10.1.0.1"], "0: invalid argument; routes: gw is not of the address family of dst"),
            (
                &["0.0.0.0/0 10.2.0.1"],
                "0: network is unreachable; gateway 10.2.0.1 is in no subnet of the interface's addresses",
            ),
            (&["::/0 fd01::1"], "0: no route to host; gateway fd01::1 is in no subnet of the interface's addresses"),
            (&["::/0 ::"], "0: no route to host; gateway :: is in no subnet of the interface's addresses"),
            (
                &["169.254.1.1/32", "0.0.0.0/0 169.254.1.1"],
                "1: network is unreachable; gateway 169.254.1.1 is in no subnet of the interface's addresses",
            ),
            (
                &["0.0.0.0/0 10.1.0.255"],
                "0: invalid argument; gateway 10.1.0.255 is the broadcast address of 10.1.0.0/24",
            ),
            (&["10.9.0.0/16 10.1.0.1 253"], "0: invalid argument; routes: a destination of this scope has no gateway"),
            (
                &["0.0.0.0/0 10.1.0.1", "10.9.0.0/16", "0.0.0.0/0 10.1.0.1"],
                "2: file exists; routes: the same route is there twice",
            ),
            (&["fd09::1/64", "fd09::2/64"], "1: file exists; routes: the same route is there twice"),
        ] {
            assert_eq!(verdict(routes), expected, "{routes:?}");
        }
    }
}
