//! Results: one typed form for every specification version. `result_json` reads and writes the versions' shapes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::{Error, Result};

/// What an ADD achieved (`types/100.Result` of the reference library, which all other versions convert to and from).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CniResult {
    /// Interfaces created, on the host and in the container.
    pub interfaces: Vec<Interface>,
    /// Addresses assigned.
    pub ips: Vec<IpConfig>,
    /// Routes set in the container.
    pub routes: Vec<Route>,
    /// Name resolution that the container should use.
    pub dns: Dns,
}

/// An interface of a result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Interface {
    /// Interface name.
    pub name: String,
    /// Hardware address, lower-case hexadecimal with colons; may be empty.
    pub mac: String,
    /// Maximum transmission unit in bytes; 0 when not told.
    pub mtu: i64,
    /// The `CNI_NETNS` it is in; empty for the host.
    pub sandbox: String,
    /// Socket file of a virtual machine's device; may be empty.
    pub socket_path: String,
    /// PCI address; may be empty.
    pub pci_id: String,
}

impl Interface {
    /// An interface of which no more is known. `mac` is what is to be printed of it; `sandbox` is empty for the host.
    pub fn new(name: &str, mac: impl ToString, sandbox: &str) -> Self {
        Interface { name: name.to_string(), mac: mac.to_string(), sandbox: sandbox.to_string(), ..Interface::default() }
    }
}

/// An address of a result.
#[derive(Debug, Clone, PartialEq)]
pub struct IpConfig {
    /// Index into the result's interfaces.
    pub interface: Option<i64>,
    /// Address with prefix length.
    pub address: IpNet,
    /// Gateway of the address's subnet.
    pub gateway: Option<IpAddr>,
}

/// A route of a result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Route {
    /// Destination. The reference accepts a route without one and prints it as `<nil>`.
    pub dst: Option<IpNet>,
    /// Next hop.
    pub gw: Option<IpAddr>,
    /// Path MTU in bytes; 0 when not told.
    pub mtu: i64,
    /// Maximum segment size to advertise, in bytes; 0 when not told.
    pub advmss: i64,
    /// Metric; 0 when not told.
    pub priority: i64,
    /// Routing table.
    pub table: Option<i64>,
    /// Scope (`rt_scope_t`).
    pub scope: Option<i64>,
}

/// Name resolution of a result or configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dns {
    /// Servers, in order of preference.
    pub nameservers: Vec<String>,
    /// Local domain.
    pub domain: String,
    /// Search domains.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

impl Dns {
    /// True when nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Dns::default()
    }
}

impl CniResult {
    /// The interface that `ip` names by index, if the index is in range.
    pub fn interface_of(&self, ip: &IpConfig) -> Option<&Interface> {
        self.interfaces.get(usize::try_from(ip.interface?).ok()?)
    }
}

/// Parses `address/prefix`, keeping host bits; a v4-mapped v6 address becomes v4. The text of the error is Go's.
pub fn parse_cidr(text: &str) -> Result<IpNet> {
    const MAPPED_BITS: u8 = 96;
    read_cidr(text, MAPPED_BITS).ok_or_else(|| Error::internal(format!("invalid CIDR address: {text}")))
}

fn read_cidr(text: &str, mapped_bits: u8) -> Option<IpNet> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    let canonical = address.to_canonical();
    let dropped = if canonical == address { 0 } else { mapped_bits };
    IpNet::new(canonical, prefix.checked_sub(dropped)?).ok()
}

/// Parses an address; a v4-mapped v6 address becomes v4. The text of the error is Go's.
pub fn parse_ip(text: &str) -> Result<IpAddr> {
    let parsed: std::result::Result<IpAddr, _> = text.parse();
    parsed.map(|ip| ip.to_canonical()).map_err(|_| Error::internal(format!("invalid IP address: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_go_reads_them() {
        assert_eq!(parse_cidr("::ffff:10.0.0.1/120").unwrap().to_string(), "10.0.0.1/24");
        assert_eq!(parse_cidr("2001:DB8::0:1/64").unwrap().to_string(), "2001:db8::1/64");
        assert_eq!(parse_cidr("10.0.0.5/24").unwrap().to_string(), "10.0.0.5/24");
        for bad in ["10.0.0.1", "010.0.0.1/8", "fe80::1%eth0/64", "10.0.0.1/33", ""] {
            assert_eq!(parse_cidr(bad).unwrap_err().msg, format!("invalid CIDR address: {bad}"));
        }
        assert_eq!(parse_ip("::ffff:1.2.3.4").unwrap().to_string(), "1.2.3.4");
    }
}
