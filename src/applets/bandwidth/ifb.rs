//! Which ifb is whose.

use crate::cni::Request;
use crate::digest::sha512_hex;
use crate::error::Result;
use crate::net::{Handle, Link};

/// What all names begin with.
pub(super) const PREFIX: &str = "bwp";
/// Digits of the hash in a name, which has 15 bytes.
const DIGITS: usize = 12;

/// The name that the reference gives, which knows of one interface a container, and the one for further interfaces.
pub(super) fn names(network: &str, container: &str, ifname: &str) -> [String; 2] {
    let name = |parts: &[&str]| PREFIX.to_string() + sha512_hex(parts).get(..DIGITS).unwrap_or_default();
    [name(&[network, container]), name(&[network, container, "/", ifname])]
}

/// The two of an attachment.
pub(super) fn names_for(request: &Request<'_>) -> [String; 2] {
    names(&request.config.name, &request.container_id, &request.ifname)
}

/// The ifb of this attachment that the host's end sends its packets to.
pub(super) fn of(host: &mut Handle, request: &Request<'_>, link: u32) -> Result<Option<Link>> {
    let targets: Vec<u32> = host.redirects(link)?.iter().map(|redirect| redirect.target).collect();
    for name in names_for(request) {
        let ifb = find(host, &name)?.filter(|ifb| targets.contains(&ifb.index));
        if ifb.is_some() {
            return Ok(ifb);
        }
    }
    Ok(None)
}

/// There is an ifb of this attachment, whether anything is sent to it or not.
pub(super) fn any(host: &mut Handle, request: &Request<'_>) -> Result<bool> {
    let [plain, further] = names_for(request);
    Ok(find(host, &plain)?.is_some() || find(host, &further)?.is_some())
}

/// The ifb with this name; other devices don't count.
pub(super) fn find(host: &mut Handle, name: &str) -> Result<Option<Link>> {
    Ok(host.find_link(name)?.filter(|link| link.kind == "ifb"))
}

/// Pairs of all links of the host that send what comes in elsewhere, and where they send it.
pub(super) fn redirections(host: &mut Handle) -> Result<Vec<(u32, u32)>> {
    let mut pairs = Vec::new();
    for link in host.links_with_ingress()? {
        pairs.extend(host.redirects(link)?.iter().map(|redirect| (link, redirect.target)));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_references() {
        let [plain, further] = names("mynet", "abc123", "eth0");
        assert_eq!(plain, "bwp70a29d9dc18b");
        assert_eq!(further.len(), 15);
        assert_ne!(further, names("mynet", "abc123", "eth1")[1]);
    }
}
