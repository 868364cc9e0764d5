//! Router advertisements on a container's interface, and the key `acceptRA`.
//!
//! The kernel takes addresses and a default route from advertisements. Where IPAM gives IPv6
//! addresses these are to be the interface's only ones, and so is IPAM's default route: the result
//! names no others, no reservation or firewall rule knows them, and of two default routes the
//! kernel chooses one. Without IPv6 addresses from IPAM, and with `acceptRA`, the interface takes
//! what the namespace's settings say.

use crate::cni::result::Route;
use crate::cni::{CniResult, Object};
use crate::error::{Context, Errno, Result};
use crate::ipam::apply::{self, Target};
use crate::net::routes::MAIN;
use crate::net::sysctls;
use crate::net::tables::{self, Change, Listed};

/// The value of the key `acceptRA`.
pub fn accepted(top: &Object<'_>) -> Result<bool> {
    top.boolean("acceptRA")
}

/// Keeps advertisements from giving an interface addresses, and a default route if IPAM has given
/// one. Runs inside the namespace, before the interface goes up. Best effort: a read-only /proc/sys
/// does not fail the call, and the log tells.
pub(super) fn limit(name: &str, routes: &[Route]) {
    let _ = sysctls::write(&format!("net/ipv6/conf/{name}/autoconf"), "0");
    if has_default(routes) {
        let _ = sysctls::write(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
    }
}

/// Advertisements give a route in the main table, so one in another table (for routing by source)
/// does not stand for it.
fn has_default(routes: &[Route]) -> bool {
    let is_in_main = |route: &Route| route.table.is_none_or(|table| [0, i64::from(MAIN)].contains(&table));
    let is_default = |route: &Route| apply::is_v6(route) && route.dst.is_some_and(|dst| dst.prefix_len() == 0);
    routes.iter().any(|route| is_in_main(route) && is_default(route))
}

/// Applies the same limits to an interface that had to be up before IPAM gave addresses, and takes
/// from it what it has taken by then. It stays up: addresses and routes of the IPAM program's own
/// live on.
pub fn limit_late(target: &mut Target<'_>, result: &CniResult) -> Result<()> {
    if target.accept_ra || !result.ips.iter().any(|ip| ip.address.addr().is_ipv6()) {
        return Ok(());
    }
    let name = target.name;
    target.netns.run(|| limit(name, &result.routes))?;
    for address in target.handle.addresses(target.index)?.iter().filter(|address| address.is_advertised()) {
        let deleted = target.handle.delete_address(target.index, address.net);
        deleted.with_context(|| format!("failed to delete IP addr {} from {name:?}", address.net))?;
    }
    if has_default(&result.routes) { delete_default(target) } else { Ok(()) }
}

/// Deletes the default routes that the kernel made from advertisements.
fn delete_default(target: &mut Target<'_>) -> Result<()> {
    let routing = target.handle.routing()?;
    let is_default = |route: &&Listed| route.is_advertised() && route.dst.prefix_len() == 0;
    for route in tables::main_of(&routing, target.index).filter(is_default) {
        match target.handle.change(&[Change::Remove(route.clone())]) {
            // Its lifetime has ended.
            Err((_, error)) if error.is(Errno::ESRCH) => {}
            deleted => deleted
                .map_err(|(_, error)| error)
                .with_context(|| format!("failed to delete route '{}' of {:?}", route.dst, target.name))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_is_one_whatever_its_zeros_look_like() {
        let is_in = |dst: &str, table| has_default(&[Route { dst: dst.parse().ok(), table, ..Route::default() }]);
        let is_default = |dst| is_in(dst, None);
        for dst in ["::/0", "0::/0", "0:0:0:0:0:0:0:0/0", "::0.0.0.0/0", "fd00::1/0"] {
            assert!(is_default(dst), "{dst}");
        }
        for dst in ["0.0.0.0/0", "::/1", "2000::/3", "::/128", ""] {
            assert!(!is_default(dst), "{dst}");
        }
        assert!(is_in("::/0", Some(0)) && is_in("::/0", Some(254)));
        assert!(!is_in("::/0", Some(100)) && !is_in("::/0", Some(253)) && !is_in("::/0", Some(255)));
    }
}
