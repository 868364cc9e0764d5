//! Letting the host pass packets between its interfaces (`pkg/ip/ipforward_linux.go`), and keeping
//! its own IPv6 default routes.
//!
//! When IPv6 forwarding goes on, the kernel purges the default routes that it made from router
//! advertisements, and ignores later advertisements, except on links whose `accept_ra` is 2
//! (`rt6_purge_dflt_routers`, `ipv6_accept_ra`). So links that have such a route get this value
//! first. On links with `accept_ra` 0 another program (systemd-networkd, NetworkManager) makes the
//! routes, and the kernel does not purge them.

use std::fs;

use crate::error::Result;
use crate::net::{Handle, Link, sysctls, veth};
use crate::sys::log::Step;

/// The setting that the kernel copies to all links.
const V6: &str = "net/ipv6/conf/all/forwarding";

/// The IPv6 routes of this thread's namespace, with the kernel's own flags: netlink does not show
/// them.
const ROUTES: &str = "/proc/thread-self/net/ipv6_route";

/// `RTF_DEFAULT | RTF_ADDRCONF` (`linux/ipv6_route.h`): a default route that the kernel made from
/// an advertisement.
const ADVERTISED_DEFAULT: u32 = 0x0005_0000;

/// `accept_ra` of a link that takes advertisements unless the link forwards.
const UNLESS_FORWARDING: i32 = 1;
/// `accept_ra` of a link that always takes advertisements.
const ALWAYS: i32 = 2;

/// Switches forwarding on for these families (the reference's `EnableForward`). Never undone, and
/// neither is `accept_ra`, which the host needs while it forwards.
pub fn enable(v4: bool, v6: bool) -> Result<()> {
    if v4 {
        sysctls::ensure("net/ipv4/ip_forward", "1")?;
    }
    if !v6 || !sysctls::differs(V6, "1")? {
        return Ok(());
    }
    let kept = keep_default_routes();
    sysctls::write(V6, "1").inspect_err(|_| kept.iter().for_each(|link| drop(accept(link, UNLESS_FORWARDING))))
}

/// Makes the links with an advertised default route take advertisements also while the host
/// forwards, and gives their names. A link that cannot be set loses the route, as with the
/// reference: the log says so.
fn keep_default_routes() -> Vec<String> {
    let read = Step::begin(format_args!("read {ROUTES}")).end(fs::read(ROUTES));
    let mut links = links_with_default(&String::from_utf8_lossy(&read.unwrap_or_default()));
    links.retain(|link| {
        let step = Step::begin(format_args!("keep the advertised IPv6 default route of {link:?}: accept_ra=2"));
        match is_uplink(link) {
            Ok(false) => false,
            outcome => step.end(outcome.and_then(|_| accept(link, ALWAYS))).is_ok(),
        }
    });
    links
}

/// The links of default routes that the kernel made from advertisements, each once. A line of the
/// file is destination, its prefix length, source, its prefix length, next hop, metric, references,
/// uses, flags, link; numbers are hexadecimal.
fn links_with_default(routes: &str) -> Vec<String> {
    let mut links: Vec<String> = Vec::new();
    for line in routes.lines() {
        let mut fields = line.split_whitespace();
        let (prefix, flags, link) = (fields.nth(1), fields.nth(6), fields.next());
        let flags = flags.and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or(0);
        if let (Some("00"), Some(link)) = (prefix, link)
            && flags & ADVERTISED_DEFAULT == ADVERTISED_DEFAULT
            && !links.iter().any(|known| known == link)
        {
            links.push(link.to_string());
        }
    }
    links
}

/// True for a link that leads to the host's routers and takes their advertisements unless it
/// forwards. A container must not give the host a route (CVE-2020-10749): not over the host's end
/// of a pair, nor over a bridge or a bridge's port.
fn is_uplink(name: &str) -> Result<bool> {
    let mut host = Handle::current()?;
    let Some(link) = host.find_link(name)? else { return Ok(false) };
    if link.accept_ra != Some(UNLESS_FORWARDING) || is_host_end(&link) || is_port(&mut host, &link)? {
        return Ok(false);
    }
    if link.kind != "bridge" {
        return Ok(true);
    }
    let ports = host.ports_of(link.index)?;
    let leads_outside = ports.iter().any(|port| !["tun", "dummy"].contains(&port.kind.as_str()));
    Ok(leads_outside && !ports.iter().any(is_host_end))
}

/// True for the host's end of a container's pair by its generated name, and for an end of a pair
/// whose other end is here too: that one is a bridge's port, as with the gateway of a VLAN.
fn is_host_end(link: &Link) -> bool {
    link.kind == veth::KIND && (!link.lower_is_elsewhere || is_generated(&link.name))
}

/// True for names as plugins, Docker and LXC give them: `veth` and at least six letters or digits.
fn is_generated(name: &str) -> bool {
    name.strip_prefix("veth").is_some_and(|rest| rest.len() >= 6)
}

/// True for a port of a bridge or the like. A link in a VRF is none: the VRF only chooses the table
/// of the link's routes.
fn is_port(host: &mut Handle, link: &Link) -> Result<bool> {
    let Some(master) = link.master else { return Ok(false) };
    Ok(host.find_link_at(master)?.is_none_or(|master| master.kind != "vrf"))
}

fn accept(link: &str, accept_ra: i32) -> Result<()> {
    sysctls::write(&format!("net/ipv6/conf/{link}/accept_ra"), &accept_ra.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ends_are_told_by_their_names() {
        for name in ["veth01234567", "veth1a2b3c4", "vethQW3RTY"] {
            assert!(is_generated(name), "{name}");
        }
        for name in ["eth0", "veth0", "veth-up", "up0"] {
            assert!(!is_generated(name), "{name}");
        }
    }

    #[test]
    fn default_routes_from_advertisements_are_told_by_their_flags() {
        let (any, router) = ("0".repeat(32), "fe800000000000000000000000000001");
        let line = |prefix, flags, link| {
            format!("{any} {prefix} {any} 00 {router} 00000400 00000001 00000000 {flags} {link}\n")
        };
        let routes = [
            line("00", "00450003", "    eth0"), // RTF_EXPIRES | RTF_DEFAULT | RTF_ADDRCONF | RTF_GATEWAY | RTF_UP
            line("00", "00450003", "eth1.5"),
            line("00", "08450003", "    eth0"), // a second router, of high preference
            line("00", "00400003", "daemons"),  // with a lifetime, by a program
            line("00", "00000003", "byhand"),
            line("00", "00200200", "      lo"), // the unreachable one
            line("40", "00450003", " prefix"),
        ];
        assert_eq!(links_with_default(&routes.concat()), ["eth0", "eth1.5"]);
        assert_eq!(links_with_default("cut 00 off\n\n"), [""; 0]);
    }
}
