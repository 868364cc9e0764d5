//! static: the addresses, routes and name servers that the configuration says. It keeps no state.
//!
//! Keys inside `ipam`:
//!
//! | key | type | default |
//! |---|---|---|
//! | `addresses` | list of `{"address": "ip/prefix", "gateway": "ip"}` | none |
//! | `routes` | list of routes, copied to the result | none |
//! | `dns` | name resolution, copied to the result | none |
//!
//! From the runtime: `IP` in CNI_ARGS (`ip/prefix`, separated by commas) adds addresses, and `GATEWAY` (addresses,
//! separated by commas) gives those their gateways; `args.cni.ips` and, before that, `runtimeConfig.ips` (`ip/prefix`)
//! take the place of all addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::args::Args;
use crate::cni::config::{Object, optional_ip, routes};
use crate::cni::result::{CniResult, Dns, IpConfig, Route, parse_cidr, parse_ip};
use crate::cni::{Plugin, Request, Undo};
use crate::error::{Error, Result};
use crate::ipam::ranges::verify_families;

/// The applet.
pub struct Static;

/// The applet, for the table.
pub static STATIC: Static = Static;

// Configuration

struct Config {
    addresses: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Dns,
}

impl Config {
    fn decode(request: &Request<'_>) -> Result<Config> {
        let config = &request.config;
        let texts = |object: Option<Object<'_>>| object.map_or(Ok(Vec::new()), |object| object.strings("ips"));
        let (from_runtime, from_args) = (texts(config.runtime()?)?, texts(config.args_cni()?)?);
        let ipam = config.top().object("ipam")?.ok_or_else(|| Error::internal("IPAM config missing 'ipam' key"))?;
        let written = ipam.objects("addresses")?.iter().map(Written::decode).collect::<Result<Vec<_>>>()?;
        let routes = routes(&ipam, "routes")?;
        let dns = ipam.object("dns")?.map_or(Ok(Dns::default()), |dns| Dns::decode(&dns))?;
        // From here on the order is that of the reference's checks.
        let from_environment = from_environment(&request.args)?;
        let from_args = parse_list(&from_args)?;
        let from_runtime = parse_list(&from_runtime)?;
        let addresses = match (from_runtime.is_empty(), from_args.is_empty()) {
            (false, _) => from_runtime,
            (true, false) => from_args,
            (true, true) => {
                let written: Vec<IpConfig> = written.iter().map(Written::parse).collect::<Result<_>>()?;
                written.into_iter().chain(from_environment).collect()
            }
        };
        verify_families(addresses.iter().map(|ip| ip.address.addr().is_ipv4()), &config.cni_version)?;
        Ok(Config { addresses, routes, dns })
    }
}

/// An element of `addresses`. Its address is only parsed if nothing takes its place.
struct Written<'a> {
    address: &'a str,
    gateway: Option<IpAddr>,
}

impl<'a> Written<'a> {
    fn decode(object: &Object<'a>) -> Result<Written<'a>> {
        Ok(Written { address: object.string("address")?, gateway: optional_ip(object, "gateway")? })
    }

    fn parse(&self) -> Result<IpConfig> {
        let complaint = "the 'address' field is expected to be in CIDR notation, got:";
        Ok(IpConfig { gateway: self.gateway, ..parse(self.address, complaint)? })
    }
}

/// `IP` and `GATEWAY` of CNI_ARGS. A gateway is that of every address whose subnet contains it; the last one counts.
fn from_environment(args: &str) -> Result<Vec<IpConfig>> {
    let args = Args::parse(args, &["IP", "GATEWAY"])?;
    let items = |key| args.get(key).filter(|text| !text.is_empty()).into_iter().flat_map(|text| text.split(','));
    let complaint = "the 'ip' field is expected to be in CIDR notation, got:";
    let mut addresses = items("IP").map(|item| parse(item.trim(), complaint)).collect::<Result<Vec<_>>>()?;
    for item in items("GATEWAY") {
        let invalid = |_| Error::internal(format!("invalid gateway address: {item}"));
        let gateway = parse_ip(item.trim()).map_err(invalid)?;
        for ip in addresses.iter_mut().filter(|ip| ip.address.contains(&gateway)) {
            ip.gateway = Some(gateway);
        }
    }
    Ok(addresses)
}

fn parse_list(texts: &[String]) -> Result<Vec<IpConfig>> {
    texts.iter().map(|text| parse(text, "an entry in the 'ips' field is NOT in CIDR notation, got:")).collect()
}

fn parse(text: &str, complaint: &str) -> Result<IpConfig> {
    let address: IpNet = parse_cidr(text).map_err(|_| Error::internal(format!("{complaint} '{text}'")))?;
    Ok(IpConfig { interface: None, address, gateway: None })
}

// Verbs

impl Plugin for Static {
    fn name(&self) -> &'static str {
        "static"
    }

    fn add(&self, request: &Request<'_>, _undo: &mut Undo) -> Result<CniResult> {
        let Config { addresses, routes, dns } = Config::decode(request)?;
        Ok(CniResult { ips: addresses, routes, dns, ..CniResult::default() })
    }

    /// Each configured address must be in `prevResult`, with the gateway that is configured for it, if one is. The prefix
    /// length does not count.
    fn check(&self, request: &Request<'_>) -> Result<()> {
        let config = Config::decode(request)?;
        let previous = request.config.prev_result()?;
        let previous = previous.ok_or_else(|| Error::internal("Required prevResult missing"))?;
        for wanted in &config.addresses {
            let address = wanted.address.addr();
            let found = previous.ips.iter().find(|ip| ip.address.addr() == address);
            if !found.is_some_and(|found| wanted.gateway.is_none() || wanted.gateway == found.gateway) {
                let ifname = &request.ifname;
                return Err(Error::internal(format!("static: Failed to match addr {address} on interface {ifname}")));
            }
        }
        Ok(())
    }

    /// There is nothing to give back.
    fn del(&self, _request: &Request<'_>) -> Result<()> {
        Ok(())
    }
}
