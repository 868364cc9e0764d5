//! The configuration of `tuning`: what is asked for where, and what cannot be.

use serde_json::Value;

use crate::cni::Request;
use crate::cni::args::Args;
use crate::cni::config::Object;
use crate::cni::json;
use crate::error::{Context, Error, Result};
use crate::net::Mac;
use crate::net::tuning::Property;

/// What is to be set.
#[derive(Debug)]
pub(super) struct Conf {
    /// Keys as configured, with their values, in the order of the file; those of `args.cni` last.
    pub(super) sysctls: Vec<(String, String)>,
    /// Properties of the link, in the order in which the reference sets them.
    pub(super) wanted: Vec<Property>,
    /// The hardware address as it was written; empty for none.
    pub(super) mac: String,
}

impl Conf {
    /// Decodes and refuses what nobody could set.
    pub(super) fn of(request: &Request<'_>) -> Result<Conf> {
        let order = keys_in_order(request.config.raw())?;
        let env = Args::parse(&request.args, &["MAC"])?;
        let decoded = decode(request, env.get("MAC").unwrap_or(""), &order);
        let (sysctls, mac, rest) = decoded.context("failed to load netconf")?;
        let address = match mac.as_str() {
            "" => None,
            text => Some(Mac::parse(text).with_context(|| format!("invalid args {text} for MAC addr"))?),
        };
        let wanted = address.map(Property::Mac).into_iter().chain(rest).collect();
        Ok(Conf { sysctls, wanted, mac })
    }

    /// The MTU that is to be set.
    pub(super) fn mtu(&self) -> Option<u32> {
        self.wanted.iter().find_map(|property| if let Property::Mtu(mtu) = property { Some(*mtu) } else { None })
    }
}

/// What stands for the interface in a key.
const IFNAME: &str = "IFNAME";

/// Where originals are saved.
pub(super) fn data_directory<'c>(request: &'c Request<'_>) -> Result<&'c str> {
    let directory = request.config.top().string("dataDir").context("failed to load netconf")?;
    Ok(if directory.is_empty() { "/run/cni/tuning" } else { directory })
}

type Decoded = (Vec<(String, String)>, String, Vec<Property>);

/// `args.cni` outdoes everything, `runtimeConfig` CNI_ARGS, and these the configuration's own keys.
fn decode(request: &Request<'_>, env_mac: &str, order: &[String]) -> Result<Decoded> {
    let top = request.config.top();
    let empty = Object::null();
    let args = request.config.args_cni()?.unwrap_or_else(|| empty.clone());
    let runtime = request.config.runtime()?.unwrap_or(empty);
    let of_runtime = runtime.string("mac")?;
    let wishes = [top.string("mac")?, env_mac, of_runtime];
    let mac = wishes.into_iter().rfind(|wish| !wish.is_empty()).unwrap_or("");
    let mac = if args.get("mac").is_some() { args.string("mac")? } else { mac };
    let promiscuous = args.boolean_if_set("promisc")?.or(top.boolean_if_set("promisc")?).unwrap_or(false);
    let mtu = number(&args, "mtu")?.or(number(&top, "mtu")?).filter(|mtu| *mtu != 0);
    let all_multicast = args.boolean_if_set("allmulti")?.or(top.boolean_if_set("allmulti")?);
    let queue = number(&args, "txQLen")?.or(number(&top, "txQLen")?);
    let wanted = [
        promiscuous.then_some(Property::Promiscuous(true)),
        mtu.map(Property::Mtu),
        all_multicast.map(Property::AllMulticast),
        queue.map(Property::Queue),
    ];
    Ok((sysctls(&top, &args, order)?, mac.to_string(), wanted.into_iter().flatten().collect()))
}

/// The kernel would take a negative number for a very large one.
fn number(object: &Object<'_>, key: &str) -> Result<Option<u32>> {
    let Some(number) = object.integer_if_set(key)? else { return Ok(None) };
    let checked = u32::try_from(number).ok().filter(|number| i32::try_from(*number).is_ok() || key != "mtu");
    checked.map(Some).ok_or_else(|| Error::internal(format!("invalid {key} {number}: numerical result out of range")))
}

fn sysctls(top: &Object<'_>, args: &Object<'_>, order: &[String]) -> Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for object in [top, args] {
        object.object("sysctl")?;
        for (key, value) in object.get("sysctl").and_then(Value::as_object).into_iter().flatten() {
            let mistyped = || object.mistyped(&format!("sysctl.{key}"), value, "string");
            let text = if value.is_null() { "" } else { value.as_str().ok_or_else(mistyped)? };
            pairs.retain(|(known, _)| known != key);
            pairs.push((key.clone(), text.to_string()));
        }
    }
    pairs.sort_by_key(|(key, _)| order.iter().position(|known| known == key).unwrap_or(usize::MAX));
    Ok(pairs)
}

/// The keys of the document's `sysctl` in its order, which decoding loses; none may be there twice. The document is known
/// to be JSON.
fn keys_in_order(document: &[u8]) -> Result<Vec<String>> {
    let keys = json::keys_in_order(&String::from_utf8_lossy(document)).into_iter();
    let keys: Vec<_> = keys.filter(|(path, _)| path.eq_ignore_ascii_case("sysctl")).map(|(_, key)| key).collect();
    let first = |(at, key): (usize, &String)| keys.iter().position(|other| other == key) == Some(at);
    match keys.iter().enumerate().all(first) {
        true => Ok(keys),
        false => Err(Error::internal("duplicated sysctl keys are not allowed")),
    }
}

/// The names below /proc/sys that a key may stand for; the first that exists counts. The reference takes every dot for a
/// slash. For sysctl(8) the separator is what comes first, so that the other may be a dot in an interface's name. The first
/// `IFNAME` is the interface, in both.
pub(super) fn names_of(key: &str, ifname: &str) -> Result<Vec<String>> {
    let slashed = key.replace('.', "/");
    let first = below_net(&slashed, ifname).ok_or_else(|| {
        let named = slashed.replacen(IFNAME, ifname, 1);
        Error::internal(format!("invalid net sysctl key: {named:?}"))
    })?;
    let swapped = |sign| match sign {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let as_written = match key.find(['.', '/']) < key.find('/') {
        true => key.chars().map(swapped).collect(),
        false => key.to_string(),
    };
    let second = below_net(&as_written, ifname).filter(|second| *second != first);
    Ok(std::iter::once(first).chain(second).collect())
}

/// A key with slashes as a clean name; `None` for what is not below `net`.
fn below_net(slashed: &str, ifname: &str) -> Option<String> {
    let named = slashed.replacen(IFNAME, ifname, 1);
    let parts: Vec<&str> = named.split('/').filter(|part| !part.is_empty()).collect();
    let is_net = parts.len() > 1 && parts.first() == Some(&"net");
    let leads_away = parts.iter().any(|part| matches!(*part, "." | "..")) || named.contains('\0');
    (is_net && !leads_away).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_the_order_of_the_file_and_once() {
        let keys = |text: &str| keys_in_order(text.as_bytes());
        let text = r#"{"a":{"sysctl":{"x":1}},"SysCtl" : {"net.b":"}\"{","net.a":"\\","n\u0065t.c":null},"z":["q"]}"#;
        assert_eq!(keys(text).unwrap(), ["net.b", "net.a", "net.c"]);
        let twice = keys(r#"{"sysctl":{"net.a":"1","n\u0065t.a":"2"}}"#).unwrap_err();
        assert_eq!(twice.msg, "duplicated sysctl keys are not allowed");
        assert!(keys(r#"{"sysctl":{"net.a":"1","net/a":"2"}}"#).is_ok());
        assert!(keys("null").unwrap().is_empty());
    }

    #[test]
    fn names_stay_below_net() {
        let name = |key| names_of(key, "eth0.1").map(|names| names[0].clone());
        assert_eq!(name("net.ipv4.conf.IFNAME.arp_filter").unwrap(), "net/ipv4/conf/eth0.1/arp_filter");
        assert_eq!(name("/net//ipv4/conf/all/x").unwrap(), "net/ipv4/conf/all/x");
        assert_eq!(name("net/../kernel/x").unwrap(), "net/kernel/x", "dots are slashes");
        for bad in ["kernel.hostname", "net", "net.", "", "../net/x", "..", "netx.a", "fs/../net/x"] {
            let is_net = bad == "../net/x";
            assert_eq!(name(bad).is_ok(), is_net, "{bad}");
        }
        assert_eq!(name("kernel.x").unwrap_err().msg, "invalid net sysctl key: \"kernel/x\"");
        assert!(names_of("net.IFNAME.x", "..").is_err());
        assert_eq!(names_of("net.core.x", "eth0").unwrap(), ["net/core/x"]);
        assert_eq!(names_of("net.a.b/1.IFNAME", "c.2").unwrap(), ["net/a/b/1/c.2", "net/a/b.1/c.2"]);
        assert_eq!(names_of("net/a.1", "eth0").unwrap(), ["net/a/1", "net/a.1"]);
        assert_eq!(names_of("net.//.x", "eth0").unwrap(), ["net/x"], "never net/../x");
    }
}
