//! host-local: hands out addresses from ranges, one per range set, and remembers them in files on this host.
//!
//! Keys inside `ipam`:
//!
//! | key | type | default |
//! |---|---|---|
//! | `ranges` | list of range sets, each a list of ranges | none |
//! | `subnet`, `rangeStart`, `rangeEnd`, `gateway` | a single range; goes before `ranges` | none |
//! | `routes` | list of routes, copied to the result | none |
//! | `dataDir` | path | `/var/lib/cni/networks` |
//! | `resolvConf` | path of a resolv.conf(5) whose contents become the result's `dns` | none |
//!
//! A range has `subnet` (required), `rangeStart` (network address + 1), `rangeEnd` (last address; not the broadcast
//! address) and `gateway` (network address + 1).
//!
//! From the runtime: `runtimeConfig.ipRanges` (go before all others); particular addresses by `IP` in CNI_ARGS,
//! `args.cni.ips` and `runtimeConfig.ips`, all three together; the attachments that GC leaves alone by
//! `cni.dev/valid-attachments`.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::cni::args::{self, Args};
use crate::cni::config::{NetworkConfig, routes};
use crate::cni::result::{CniResult, Dns, IpConfig, Route, parse_cidr, parse_ip};
use crate::cni::{Dependents, Plugin, Request, Undo};
use crate::error::{Context, Error, Result, code};
use crate::ipam::allocate::{allocate, exhausted, has_room};
use crate::ipam::ranges::{self, Draft, Range, RangeSet};
use crate::ipam::resolv_conf;
use crate::ipam::store::{self, Attachment, DEFAULT_DATA_DIR, Store};

/// Its keys, see [`crate::cni::keys`].
const KEYS: &str = "\
ipam.ranges[][]: @range
ipam.subnet: cidr
ipam.rangeStart: ip
ipam.rangeEnd: ip
ipam.gateway: ip
ipam.routes[]: @route
ipam.dataDir: string
ipam.resolvConf: string
runtimeConfig.ipRanges[][]: @range
runtimeConfig.ips[]: ip|cidr
args.cni.ips[]: ip|cidr
";

/// The applet.
pub struct HostLocal;

/// The applet, for the table.
pub static HOST_LOCAL: HostLocal = HostLocal;

// Configuration

struct Config {
    network: String,
    data_dir: PathBuf,
    sets: Vec<RangeSet>,
    /// Particular addresses, without duplicates.
    requested: Vec<IpAddr>,
    routes: Vec<Route>,
    /// Empty when there is none.
    resolv_conf: String,
}

impl Config {
    /// Everything is decoded before anything is verified, as in the reference.
    fn decode(request: &Request<'_>) -> Result<Config> {
        let config = &request.config;
        let (runtime, args_cni) = (config.runtime()?, config.args_cni()?);
        let mut drafts = runtime.as_ref().map_or(Ok(Vec::new()), |runtime| Draft::decode_sets(runtime, "ipRanges"))?;
        let mut ips = Vec::new();
        for (object, key) in [(&args_cni, "ips"), (&runtime, "ips")] {
            let texts = object.as_ref().map_or(Ok(Vec::new()), |object| object.strings(key))?;
            ips.extend(texts.iter().map(|text| parse_requested(text)).collect::<Result<Vec<_>>>()?);
        }
        let ipam = config.top().object("ipam")?.ok_or_else(|| Error::internal("IPAM config missing 'ipam' key"))?;
        let legacy = Draft::decode(&ipam)?;
        drafts.extend(legacy.has_subnet().then(|| vec![legacy]));
        drafts.extend(Draft::decode_sets(&ipam, "ranges")?);
        Ok(Config {
            network: config.name.clone(),
            data_dir: data_dir(config)?,
            routes: routes(&ipam, "routes")?,
            resolv_conf: ipam.string("resolvConf")?.to_string(),
            // From here on the order is that of the reference's checks.
            requested: requested(&request.args, ips)?,
            sets: match drafts.is_empty() && awaits_ranges(request)? {
                true => Vec::new(),
                false => ranges::complete(&drafts, &config.cni_version)?,
            },
        })
    }
}

impl Config {
    /// A set of nothing but gateways has no address to give.
    fn verify_room(&self) -> Result<()> {
        if let Some((index, set)) = self.sets.iter().enumerate().find(|(_, set)| set.size() == 0) {
            return Err(exhausted(set).context(&format!("failed to allocate for range {index}")));
        }
        Ok(())
    }

    /// The result with the first addresses of these ranges.
    fn result_of<'r>(&self, ranges: impl Iterator<Item = &'r Range>) -> CniResult {
        let first = |range: &Range| {
            let address = range.with_prefix(range.start());
            IpConfig { interface: None, address, gateway: Some(range.gateway()) }
        };
        CniResult { ips: ranges.map(first).collect(), routes: self.routes.clone(), ..CniResult::default() }
    }

    /// A result for each range of the longest set, with one address of every set: a container has
    /// no more.
    fn alternatives(&self) -> Vec<CniResult> {
        let ranges: Vec<&[Range]> = self.sets.iter().map(RangeSet::ranges).collect();
        let longest = ranges.iter().map(|set| set.len()).max().unwrap_or_default();
        let nth = |index| ranges.iter().filter_map(move |set| set.get(index).or(set.last()));
        (0..longest).map(|index| self.result_of(nth(index))).collect()
    }
}

/// True when runtimes will name ranges, which go before those of the configuration.
fn awaits_ranges(request: &Request<'_>) -> Result<bool> {
    let are_named = request.config.runtime()?.is_some_and(|runtime| runtime.get("ipRanges").is_some());
    Ok(!are_named && request.awaits("ipRanges")?)
}

fn data_dir(config: &NetworkConfig) -> Result<PathBuf> {
    let ipam = config.top().object("ipam")?;
    let path = ipam.map_or(Ok(""), |ipam| ipam.string("dataDir"))?;
    Ok(if path.is_empty() { DEFAULT_DATA_DIR } else { path }.into())
}

/// The address in CNI_ARGS, then those of the configuration; `None` among these stands for an empty text.
fn requested(args: &str, ips: Vec<Option<IpAddr>>) -> Result<Vec<IpAddr>> {
    let text = Args::parse(args, &["IP"])?.get("IP").unwrap_or_default();
    let from_args = parse_requested(text).map_err(|error| args::bad_value("IP", text, &error))?;
    let mut requested: Vec<IpAddr> = from_args.into_iter().collect();
    for ip in ips {
        let ip = ip.ok_or_else(|| Error::internal("cannot understand ip: IP <nil> not v4 nor v6"))?;
        if !requested.contains(&ip) {
            requested.push(ip);
        }
    }
    Ok(requested)
}

/// Reads `ip` or `ip/prefix`, of which the prefix is dropped; `None` when the text is empty.
fn parse_requested(text: &str) -> Result<Option<IpAddr>> {
    let parsed = match text {
        "" => return Ok(None),
        _ if text.contains('/') => parse_cidr(text).map(|net| net.addr()),
        _ => parse_ip(text),
    };
    parsed.map(Some).map_err(|_| Error::internal(format!("invalid IP address {text}")))
}

// Plan

/// What is asked of each range set, in order: a particular address, or any.
fn plan(config: &Config) -> Result<Vec<Option<IpAddr>>> {
    let mut left = config.requested.clone();
    let choose = |set: &RangeSet| {
        let chosen = left.iter().position(|ip| set.contains(*ip));
        chosen.map(|position| left.remove(position))
    };
    let wanted = config.sets.iter().map(choose).collect();
    if left.is_empty() {
        return Ok(wanted);
    }
    let texts: Vec<String> = left.iter().map(IpAddr::to_string).collect();
    Err(Error::internal(format!("failed to allocate all requested IPs: {}", texts.join(" "))))
}

// Verbs

impl Plugin for HostLocal {
    fn name(&self) -> &'static str {
        "host-local"
    }

    fn keys(&self) -> &'static str {
        KEYS
    }

    fn dependents(&self) -> &'static [Dependents] {
        &[Dependents {
            object: "ipam",
            keys: &["rangeStart", "rangeEnd", "gateway"],
            needed: "subnet",
            instead: "ranges[0][0]",
        }]
    }

    fn validate(&self, request: &Request<'_>) -> Result<()> {
        Config::decode(request)?.verify_room()
    }

    /// `cnitool validate` looks at each range of a set. ADD and STATUS refuse only what works with
    /// none of them: all ranges stand in one result.
    fn preview(&self, request: &Request<'_>) -> Result<Vec<CniResult>> {
        let config = Config::decode(request)?;
        config.verify_room()?;
        Ok(match request.is_rehearsal() {
            _ if awaits_ranges(request)? => vec![config.result_of(std::iter::empty())],
            true => config.alternatives(),
            false => vec![config.result_of(config.sets.iter().flat_map(RangeSet::ranges))],
        })
    }

    fn is_ipam(&self) -> bool {
        true
    }

    fn add(&self, request: &Request<'_>, undo: &mut Undo) -> Result<CniResult> {
        let config = Config::decode(request)?;
        let dns = match config.resolv_conf.as_str() {
            "" => Dns::default(),
            path => resolv_conf::read(path)?,
        };
        let wanted = plan(&config)?;
        let attachment = attachment(request).living_at(&request.netns);
        let mut store = Store::open(&config.data_dir, &config.network)?;
        let held = store.held_by(&attachment)?;
        let mut ips = Vec::with_capacity(config.sets.len());
        for (index, (set, wanted)) in config.sets.iter().zip(wanted).enumerate() {
            let ip = allocate(&mut store, set, index, wanted, &attachment, &held)
                .with_context(|| format!("failed to allocate for range {index}"))?;
            undo_reservation(undo, &config, ip.address.addr(), &attachment);
            ips.push(ip);
        }
        Ok(CniResult { ips, routes: config.routes, dns, ..CniResult::default() })
    }

    /// Besides what the reference does, every address of `prevResult` that lies in the ranges must be reserved.
    fn check(&self, request: &Request<'_>) -> Result<()> {
        let config = Config::decode(request)?;
        let id = &request.container_id;
        let previous = request.config.prev_result()?.unwrap_or_default();
        let held: Vec<IpAddr> =
            Store::open(&config.data_dir, &config.network)?.held_by(&attachment(request))?.all().collect();
        if held.is_empty() {
            return Err(Error::internal(format!("host-local: Failed to find address added by container {id}")));
        }
        let ours = |ip: &IpAddr| config.sets.iter().any(|set| set.contains(*ip));
        let mut previous = previous.ips.iter().map(|ip| ip.address.addr()).filter(ours);
        match previous.find(|ip| !held.contains(ip)) {
            None => Ok(()),
            Some(ip) => {
                Err(Error::internal(format!("host-local: Failed to find address {ip} added by container {id}")))
            }
        }
    }

    /// Needs the network's name and `dataDir` only, so that a configuration that has become invalid leaks nothing.
    fn del(&self, request: &Request<'_>) -> Result<()> {
        let data_dir = data_dir(&request.config)?;
        Store::open(&data_dir, &request.config.name)?.release_all(&attachment(request))
    }

    /// What the runtime's list lacks goes. Without a list nothing goes but what cannot be alive.
    fn gc(&self, request: &Request<'_>) -> Result<()> {
        let valid = request.config.valid_attachments().context("failed to parse config")?;
        let valid: Option<Vec<Attachment>> =
            valid.map(|all| all.iter().map(|(id, ifname)| Attachment::new(id, ifname)).collect());
        match Store::open_existing(&data_dir(&request.config)?, &request.config.name)? {
            Some(mut store) => store.collect(valid.as_deref()),
            None => Ok(()),
        }
    }

    /// The configuration must be one that ADD takes, files can be made, and each range set has an address left or to take
    /// back. Changes nothing that anybody sees.
    fn status(&self, request: &Request<'_>) -> Result<()> {
        let config = Config::decode(request)?;
        let as_code = |code| move |error: Error| Error::new(code, error.to_string());
        if !config.resolv_conf.is_empty() {
            resolv_conf::read(&config.resolv_conf).map_err(as_code(code::NOT_AVAILABLE))?;
        }
        let unusable = as_code(code::LIMITED_CONNECTIVITY);
        store::probe(&config.data_dir, &config.network).map_err(unusable)?;
        let Some(mut store) = Store::open_existing(&config.data_dir, &config.network).map_err(unusable)? else {
            return Ok(());
        };
        for (index, set) in config.sets.iter().enumerate() {
            if !has_room(&mut store, set, index).map_err(unusable)? {
                let error = exhausted(set).context(&format!("failed to allocate for range {index}"));
                return Err(error.with_code(code::NOT_AVAILABLE));
            }
        }
        Ok(())
    }
}

fn attachment(request: &Request<'_>) -> Attachment {
    Attachment::new(&request.container_id, &request.ifname)
}

/// Takes back this reservation alone: the attachment may hold others from before.
fn undo_reservation(undo: &mut Undo, config: &Config, address: IpAddr, attachment: &Attachment) {
    let (data_dir, network, attachment) = (config.data_dir.clone(), config.network.clone(), attachment.clone());
    undo.push(move || Store::open(&data_dir, &network)?.release(address, &attachment));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::testing::{self, Directory};
    use serde_json::{Value, json};

    /// A request for container c1; `ipam` lacks the data directory, `more` goes to the top of the configuration.
    fn request(data: &Directory, mut ipam: Value, more: Value, args: &str) -> Request<'static> {
        if ipam.is_object() {
            ipam["dataDir"] = data.path().to_str().into();
        }
        testing::request("1.0.0", ipam, more, args)
    }

    /// Does what the frame does: commits, or rolls back.
    fn add(request: &Request<'_>) -> std::result::Result<String, String> {
        let mut undo = Undo::default();
        match HOST_LOCAL.add(request, &mut undo) {
            Ok(result) => {
                undo.commit();
                let ips = result.ips.iter().map(|ip| format!("{} via {}", ip.address, ip.gateway.unwrap()));
                Ok(ips.collect::<Vec<_>>().join(", "))
            }
            Err(error) => Err(undo.roll_back(error).to_string()),
        }
    }

    fn names(data: &Directory) -> Vec<String> {
        data.files("net").into_iter().map(|(name, _)| name).filter(|name| !name.starts_with("last")).collect()
    }

    fn two_sets() -> Value {
        json!({"subnet": "10.0.0.0/29", "ranges": [[{"subnet": "fd00::/126"}]]})
    }

    #[test]
    fn one_address_of_each_set_in_order() {
        let data = Directory::new();
        let runtime = json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.7.0.0/29"}]]}});
        let given = add(&request(&data, two_sets(), runtime, "")).unwrap();
        assert_eq!(given, "10.7.0.2/29 via 10.7.0.1, 10.0.0.2/29 via 10.0.0.1, fd00::2/126 via fd00::1");
        let pointers = data.files("net").into_iter().filter(|(name, _)| name.starts_with("last")).collect::<Vec<_>>();
        assert_eq!(pointers.iter().map(|(_, ip)| ip.as_str()).collect::<Vec<_>>(), ["10.7.0.2", "10.0.0.2", "fd00::2"]);
    }

    #[test]
    fn requested_addresses_are_merged() {
        let data = Directory::new();
        let more = json!({"args": {"cni": {"ips": ["fd00::3/64"]}}, "runtimeConfig": {"ips": ["10.0.0.5", "fd00::3"]}});
        let request = request(&data, two_sets(), more, "IgnoreUnknown=1;IP=10.0.0.5/8");
        assert_eq!(add(&request).unwrap(), "10.0.0.5/29 via 10.0.0.1, fd00::3/126 via fd00::1");
    }

    #[test]
    fn a_failed_add_takes_back_what_it_reserved_and_nothing_else() {
        let data = Directory::new();
        let wish = |ip: &str| request(&data, two_sets(), json!({}), &format!("IP={ip}"));
        assert!(add(&wish("10.0.0.5")).is_ok());
        let error = add(&wish("10.0.0.6")).unwrap_err();
        let duplicate = "fd00::2 has been allocated to c1, duplicate allocation is not allowed";
        assert_eq!(error, format!("failed to allocate for range 1: {duplicate}"));
        assert_eq!(names(&data), ["10.0.0.5", "fd00::2"]);
    }

    #[test]
    fn nothing_is_reserved_before_everything_is_verified() {
        let data = Directory::new();
        let none = json!({});
        let cases = [
            (json!(null), none.clone(), "", "IPAM config missing 'ipam' key"),
            (json!({}), none.clone(), "", "no IP ranges specified"),
            (json!({"rangeStart": "10.0.0.1"}), none.clone(), "", "no IP ranges specified"),
            (json!({}), none.clone(), "IP=z", "ARGS: error parsing value of pair \"IP=z\": invalid IP address z"),
            (json!({}), none.clone(), "A=B", "ARGS: unknown args [\"A=B\"]"),
            (json!({}), json!({"runtimeConfig": {"ips": [""]}}), "", "cannot understand ip: IP <nil> not v4 nor v6"),
            (json!({}), json!({"runtimeConfig": {"ips": ["zz"]}}), "A=B", "invalid IP address zz"),
            (two_sets(), none.clone(), "IP=10.9.0.1", "failed to allocate all requested IPs: 10.9.0.1"),
            (
                json!({"subnet": "10.0.0.0/24", "resolvConf": "/nope"}),
                none,
                "",
                "open /nope: no such file or directory",
            ),
        ];
        for (ipam, more, args, expected) in cases {
            assert_eq!(add(&request(&data, ipam, more, args)).unwrap_err(), expected);
        }
        assert!(!data.path().join("net").exists());
    }

    #[test]
    fn check_compares_the_previous_result() {
        let data = Directory::new();
        let check = |ips: Value| {
            let more = json!({"prevResult": {"cniVersion": "1.0.0", "ips": ips}});
            HOST_LOCAL.check(&request(&data, two_sets(), more, "")).map_err(|error| error.msg.clone())
        };
        let missing = |what: &str| Err(format!("host-local: Failed to find address {what}added by container c1"));
        assert_eq!(check(json!([])), missing(""));
        add(&request(&data, two_sets(), json!({}), "")).unwrap();
        assert_eq!(check(json!([{"address": "10.0.0.2/29"}, {"address": "9.9.9.9/8"}])), Ok(()));
        assert_eq!(check(json!([{"address": "10.0.0.3/29"}])), missing("10.0.0.3 "));
    }

    #[test]
    fn del_needs_no_valid_ranges_and_succeeds_twice() {
        let data = Directory::new();
        add(&request(&data, two_sets(), json!({}), "")).unwrap();
        let broken = request(&data, json!({"ranges": [[{"subnet": "nonsense"}]]}), json!({}), "what");
        assert!(HOST_LOCAL.del(&broken).is_ok() && HOST_LOCAL.del(&broken).is_ok());
        assert!(names(&data).is_empty());
    }
}
