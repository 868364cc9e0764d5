//! Verifying that a result is still applied to a container's interface (`pkg/ip/utils_linux.go`), comparing what matters:
//! only the addresses of this interface, and each route in its own table. Routes without one may have been moved to another
//! table by a later plugin of the chain (`sbr`, `vrf`).

use std::net::IpAddr;

use crate::cni::CniResult;
use crate::cni::result::{Interface, Route};
use crate::error::{Context, Error, Result};
use crate::net::Handle;
use crate::net::routes::{MAIN, Route as KernelRoute};

/// The container's interface in a previous result: the last one with this name and namespace.
pub fn container_interface<'r>(result: &'r CniResult, ifname: &str, netns: &str) -> Result<&'r Interface> {
    let mine = |interface: &&Interface| interface.name == ifname && interface.sandbox == netns;
    result.interfaces.iter().rfind(mine).ok_or_else(|| {
        // The double space is where the reference prints the empty sandbox of an interface it did not find.
        Error::internal(format!("Sandbox in prevResult  doesn't match configured netns: {netns}"))
    })
}

/// Every address of this interface is on the link, its network can be reached, and every route is there.
pub fn applied(handle: &mut Handle, ifname: &str, result: &CniResult) -> Result<()> {
    let link = addresses(handle, ifname, result)?;
    routes(handle, link, &result.routes)
}

fn addresses(handle: &mut Handle, ifname: &str, result: &CniResult) -> Result<u32> {
    let link = handle.find_link(ifname)?;
    let link = link.ok_or_else(|| Error::internal(format!("Cannot find container link {ifname}")))?;
    let present = handle.addresses(link.index).context("Cannot obtain List of IP Addresses")?;
    for ip in &result.ips {
        if result.interface_of(ip).is_some_and(|interface| interface.name != ifname) {
            continue;
        }
        if !present.iter().any(|address| address.net == ip.address) {
            let address = ip.address;
            return Err(Error::internal(format!("Failed to match addr {address} on interface {ifname}")));
        }
        let network = ip.address.trunc();
        let single = network.prefix_len() == network.max_prefix_len();
        if !single && !is_there(handle, link.index, network.addr(), &|route| route.dst == network)? {
            let gateway = ip.gateway.map_or("<nil>".to_string(), |gateway| gateway.to_string());
            return Err(Error::internal(format!("Failed to find Gateway {gateway} for interface {ifname}")));
        }
    }
    Ok(link.index)
}

/// Every route is in its table. For default routes any default route of the family will do.
pub fn routes(handle: &mut Handle, link: u32, expected: &[Route]) -> Result<()> {
    for route in expected {
        // As the kernel has them: no host bits, and 0.0.0.0 as the gateway is none.
        let Some(dst) = route.dst.map(|dst| dst.trunc()) else { continue };
        let gateway = route.gw.filter(|gateway| !gateway.is_unspecified());
        let table = route.table.and_then(|table| u32::try_from(table).ok()).filter(|table| *table != 0);
        let is_default = dst.prefix_len() == 0;
        let matches =
            |found: &KernelRoute| found.dst == dst && (is_default || gateway.is_none() || found.gateway == gateway);
        let found = match table {
            Some(table) => handle.routes(dst.addr(), table)?.iter().any(matches),
            None => is_there(handle, link, dst.addr(), &matches)?,
        };
        if !found {
            let table = table.unwrap_or(MAIN);
            let gateway = gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
            return Err(Error::internal(format!("Expected Route {dst}{gateway} not found in routing table {table}")));
        }
    }
    Ok(())
}

/// Such a route of the family of `like` is in the main table, or leads over this link in another one.
fn is_there(handle: &mut Handle, link: u32, like: IpAddr, matches: &dyn Fn(&KernelRoute) -> bool) -> Result<bool> {
    Ok(handle.routes(like, MAIN)?.iter().any(matches) || handle.routes_over(link, like)?.iter().any(matches))
}
