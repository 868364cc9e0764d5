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
use crate::cni::{Plugin, Request, Undo, Verb};
use crate::error::{Error, Result};
use crate::ipam::plan;
use crate::ipam::ranges::verify_families;

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
ipam.addresses[].address: cidr
ipam.addresses[].gateway: ip
ipam.routes[]: @route
ipam.dns: @dns
runtimeConfig.ips[]: cidr
args.cni.ips[]: cidr
";

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

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        Config::decode(request).map(drop)
    }

    /// Each ADD can bring other addresses, also without the capability: in CNI_ARGS and
    /// `args.cni.ips`.
    fn preview(&self, request: &Request<'_>) -> Result<Vec<CniResult>> {
        let Config { addresses, routes, .. } = Config::decode(request)?;
        let ips = match request.verb == Verb::Status || request.awaits("ips")? {
            true => Vec::new(),
            false if addresses.is_empty() => return Err(plan::no_addresses()),
            false => addresses,
        };
        Ok(vec![CniResult { ips, routes, ..CniResult::default() }])
    }

    fn is_ipam(&self) -> bool {
        true
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

    /// There is nothing to give back, and nothing for GC either.
    fn del(&self, _request: &Request<'_>) -> Result<()> {
        Ok(())
    }

    /// The configuration must be one that ADD takes.
    fn status(&self, request: &Request<'_>) -> Result<()> {
        Config::decode(request).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::testing::request;
    use serde_json::{Value, json};

    fn add(ipam: Value, more: Value, args: &str) -> std::result::Result<String, String> {
        let result = STATIC.add(&request("1.0.0", ipam, more, args), &mut Undo::default());
        let via = |ip: &IpConfig| ip.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
        let texts = |result: CniResult| result.ips.iter().map(|ip| format!("{}{}", ip.address, via(ip))).collect();
        result
            .map(|result| {
                let texts: Vec<String> = texts(result);
                texts.join(", ")
            })
            .map_err(|error| error.msg.clone())
    }

    fn addresses() -> Value {
        json!({"addresses": [{"address": "10.1.0.5/24", "gateway": "10.9.9.9"}, {"address": "::ffff:10.2.0.5/120"}]})
    }

    #[test]
    fn the_runtime_overrides_what_is_configured() {
        let configured = "10.1.0.5/24 via 10.9.9.9, 10.2.0.5/24";
        let args_cni = json!({"args": {"cni": {"ips": ["10.4.0.1/8"]}}});
        let both = json!({"args": {"cni": {"ips": ["10.4.0.1/8"]}}, "runtimeConfig": {"ips": ["fd00::1/64"]}});
        let args = "IP=10.3.0.1/24, 10.3.0.2/24;GATEWAY=10.3.0.9, 10.3.0.8 ,10.1.0.1";
        assert_eq!(add(addresses(), json!({}), ""), Ok(configured.into()));
        let added = format!("{configured}, 10.3.0.1/24 via 10.3.0.8, 10.3.0.2/24 via 10.3.0.8");
        assert_eq!(add(addresses(), json!({}), args), Ok(added));
        assert_eq!(add(addresses(), args_cni, args), Ok("10.4.0.1/8".into()));
        assert_eq!(add(addresses(), both, args), Ok("fd00::1/64".into()));
        assert_eq!(add(json!({}), json!({}), "IP=;GATEWAY="), Ok(String::new()));
    }

    #[test]
    fn errors_are_the_references_and_in_its_order() {
        let bad = json!({"addresses": [{"address": "x"}]});
        let list = |ip: &str| json!({"args": {"cni": {"ips": [ip]}}});
        let cases = [
            (json!(null), json!({}), "", "IPAM config missing 'ipam' key"),
            (bad.clone(), list("y"), "A=B", "ARGS: unknown args [\"A=B\"]"),
            (bad.clone(), list("y"), "IP= z ", "the 'ip' field is expected to be in CIDR notation, got: 'z'"),
            (bad.clone(), list("y"), "GATEWAY= z", "invalid gateway address:  z"),
            (bad.clone(), list("y"), "", "an entry in the 'ips' field is NOT in CIDR notation, got: 'y'"),
            (bad.clone(), json!({}), "", "the 'address' field is expected to be in CIDR notation, got: 'x'"),
        ];
        for (ipam, more, args, expected) in cases {
            assert_eq!(add(ipam, more, args).unwrap_err(), expected);
        }
        assert!(add(bad, list("10.0.0.1/8"), "").is_ok(), "what is replaced is not parsed");
        let old = STATIC.add(&request("0.2.0", addresses(), json!({}), ""), &mut Undo::default()).unwrap_err();
        assert_eq!(old.msg, "CNI version 0.2.0 does not support more than 1 address per family");
    }

    #[test]
    fn routes_and_dns_are_copied() {
        let ipam = json!({"routes": [{"dst": "0.0.0.0/0", "mtu": 1400}], "dns": {"nameservers": ["1.1.1.1"]}});
        let result = STATIC.add(&request("1.0.0", ipam, json!({}), ""), &mut Undo::default()).unwrap();
        assert_eq!((result.routes[0].mtu, result.dns.nameservers[0].as_str()), (1400, "1.1.1.1"));
    }

    #[test]
    fn check_compares_address_and_gateway() {
        let check = |ips: Value| {
            let more = json!({"prevResult": {"cniVersion": "1.0.0", "ips": ips}});
            STATIC.check(&request("1.0.0", addresses(), more, "")).map_err(|error| error.msg.clone())
        };
        let failed = |ip| Err(format!("static: Failed to match addr {ip} on interface eth0"));
        let second = json!({"address": "10.2.0.5/16", "gateway": "10.2.0.1"});
        assert_eq!(check(json!([second, {"address": "10.1.0.5/24", "gateway": "10.9.9.9"}])), Ok(()));
        assert_eq!(check(json!([second, {"address": "10.1.0.5/24"}])), failed("10.1.0.5"));
        assert_eq!(check(json!([{"address": "10.1.0.5/24", "gateway": "10.9.9.9"}])), failed("10.2.0.5"));
        let none = STATIC.check(&request("1.0.0", addresses(), json!({}), "")).unwrap_err();
        assert_eq!(none.msg, "Required prevResult missing");
        assert!(STATIC.del(&request("1.0.0", json!(null), json!({}), "")).is_ok());
    }
}
