//! A veth pair between this namespace and a container, as bridge and ptp make it (`pkg/ip/link_linux.go`, `SetupVeth`).

use crate::error::{Context, Errno, Error, Result};
use crate::net::links::{self, NewVeth, random_name};
use crate::net::{Handle, Mac, Netns, sysctls};

/// The kernel's name for the kind.
pub const KIND: &str = "veth";

/// Random names that are tried when one is taken.
const NAME_TRIES: u32 = 10;

/// What the pair shall be.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Namespace of the container's end.
    pub container: &'a Netns,
    /// Name of the container's end.
    pub ifname: &'a str,
    /// Hardware address of the container's end; `None` for a random one.
    pub mac: Option<&'a Mac>,
    /// Bridge that the host's end joins.
    pub master: Option<u32>,
    /// Maximum transmission unit of both ends in bytes; 0 for the kernel's default.
    pub mtu: u32,
}

/// A pair that exists: the host's end is up, the container's end is down.
#[derive(Debug)]
pub struct Pair {
    /// Name of the host's end.
    pub host_name: String,
    /// Hardware address of the host's end.
    pub host_mac: Mac,
    /// Index of the container's end in the container.
    pub container_index: u32,
    /// Hardware address of the container's end.
    pub container_mac: Mac,
}

/// Creates the pair. Both hardware addresses are chosen here, so nothing that follows random addresses (udev) changes
/// them behind our back, and nobody has to ask for them. If anything fails the pair is removed again.
pub fn create(host: &mut Handle, wanted: &Wanted<'_>) -> Result<Pair> {
    let container_mac = wanted.mac.map_or_else(Mac::random, |mac| Ok(mac.clone()))?;
    let host_mac = Mac::random_high()?;
    let host_name = create_links(host, wanted, &host_mac, &container_mac)?;
    // The host takes no router advertisements from containers (CVE-2020-10749). A wish, as in the reference: /proc/sys may
    // be read-only.
    let _ = sysctls::write(&format!("net/ipv6/conf/{host_name}/accept_ra"), "0");
    match links::index_of(wanted.container, wanted.ifname) {
        Ok(Some(container_index)) => Ok(Pair { host_name, host_mac, container_index, container_mac }),
        missing => {
            let _ = delete(&host_name);
            let error = missing.err().unwrap_or_else(|| Errno::ENODEV.into());
            Err(error.context(&format!("failed to lookup {:?}", wanted.ifname)))
        }
    }
}

/// Deletes the pair by the name of the host's end.
pub fn delete(name: &str) -> Result<()> {
    let mut host = Handle::current()?;
    match host.find_link(name)? {
        Some(link) => host.delete_link(link.index).with_context(|| format!("failed to delete link {name:?}")),
        None => Ok(()),
    }
}

fn create_links(host: &mut Handle, wanted: &Wanted<'_>, mac: &Mac, container_mac: &Mac) -> Result<String> {
    for _ in 0..NAME_TRIES {
        let name = random_name()?;
        let created = host.create_veth(&NewVeth {
            name: &name,
            mac,
            master: wanted.master,
            peer_netns: wanted.container,
            peer_name: wanted.ifname,
            peer_mac: container_mac,
            mtu: wanted.mtu,
        });
        match created {
            Ok(()) => return Ok(name),
            Err(error) if !error.is(Errno::EEXIST) => return Err(error.context("failed to make veth pair")),
            Err(_) if links::index_of(wanted.container, wanted.ifname)?.is_some() => {
                let ifname = wanted.ifname;
                let msg = format!("container veth name ({ifname:?}) peer provided ({name:?}) already exists");
                return Err(Error::internal(msg).with_errno(Errno::EEXIST));
            }
            // The random name was taken: another one will do.
            Err(_) => {}
        }
    }
    Err(Error::internal("failed to find a unique veth name"))
}
