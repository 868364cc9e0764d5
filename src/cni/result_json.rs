//! The JSON shapes of results: three families (specification 0.1.0/0.2.0, 0.3.0 to 0.4.0, 1.x), read into and written
//! from the one typed form. Order of keys, what is omitted when empty, and what a conversion drops are the reference
//! library's (`pkg/types/020`, `040`, `100`).

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::cni::config::{Object, optional_ip, routes};
use crate::cni::json::{Node, type_name};
use crate::cni::result::{CniResult, Dns, Interface, IpConfig, Route, parse_cidr};
use crate::cni::version::{self, Family};
use crate::error::{Error, Result};

type Members = Vec<(&'static str, Node)>;

impl CniResult {
    /// Reads a result object. Its own `cniVersion` chooses the family, `default_version` if it has none.
    pub fn from_json(value: &Value, default_version: &str) -> Result<CniResult> {
        let map = match value {
            Value::Object(map) => map,
            Value::Null => &Map::new(),
            other => return Err(Error::internal(format!("json: cannot unmarshal {} into a result", type_name(other)))),
        };
        let result = Object::top(map);
        let own = result.get("cniVersion").and_then(Value::as_str).filter(|own| !own.is_empty());
        let version = own.unwrap_or(default_version);
        match version::family(version) {
            Some(Family::Two) => read_slots(&result),
            Some(_) => read_lists(&result),
            None => Err(Error::internal(format!("unsupported CNI result version {version:?}"))),
        }
    }

    /// Writes the result in the shape of a known version. 0.1.0 and 0.2.0 cannot say that there is no address.
    pub fn to_json(&self, version: &str) -> Result<Node> {
        if self.ips.is_empty() && version::family(version) == Some(Family::Two) {
            return Err(Error::internal("cannot convert: no valid IP addresses"));
        }
        self.to_json_as_received(version)
    }

    /// Like [`CniResult::to_json`] for the result of another program: the reference hands on what that printed, also a
    /// result of 0.1.0 or 0.2.0 without any address.
    pub fn to_json_as_received(&self, version: &str) -> Result<Node> {
        let version = version::or_default(version);
        match version::family(version) {
            Some(Family::Two) => Ok(write_slots(self, version)),
            Some(Family::Four) => Ok(write_lists(self, version)),
            Some(Family::One) => Ok(write_sorted(self, version)),
            None => Err(Error::internal(format!("no converter for CNI result version 1.1.0 to {version}"))),
        }
    }
}

fn read_slots(result: &Object<'_>) -> Result<CniResult> {
    let mut read = CniResult { dns: dns_of(result)?, ..CniResult::default() };
    for slot in ["ip4", "ip6"] {
        let Some(slot) = result.object(slot)? else { continue };
        read.ips.push(IpConfig {
            interface: None,
            address: required_cidr(&slot, "ip")?,
            gateway: optional_ip(&slot, "gateway")?,
        });
        read.routes.extend(routes(&slot, "routes")?);
    }
    Ok(read)
}

fn read_lists(result: &Object<'_>) -> Result<CniResult> {
    let interfaces = result.objects("interfaces")?.iter().map(Interface::decode).collect::<Result<_>>()?;
    let ips = result.objects("ips")?.iter().map(IpConfig::decode).collect::<Result<_>>()?;
    Ok(CniResult { interfaces, ips, routes: routes(result, "routes")?, dns: dns_of(result)? })
}

fn dns_of(result: &Object<'_>) -> Result<Dns> {
    result.object("dns")?.map_or(Ok(Dns::default()), |dns| Dns::decode(&dns))
}

fn required_cidr(object: &Object<'_>, key: &str) -> Result<IpNet> {
    parse_cidr(object.string(key)?)
}

impl Interface {
    fn decode(object: &Object<'_>) -> Result<Interface> {
        let text = |key| object.string(key).map(str::to_string);
        Ok(Interface {
            name: text("name")?,
            mac: text("mac")?,
            mtu: object.integer("mtu")?,
            sandbox: text("sandbox")?,
            socket_path: text("socketPath")?,
            pci_id: text("pciID")?,
        })
    }

    fn members(&self) -> Members {
        let mut members = vec![("name", self.name.as_str().into())];
        push_text(&mut members, "mac", &self.mac);
        push_text(&mut members, "sandbox", &self.sandbox);
        members
    }

    fn sorted_members(&self) -> Members {
        let mut members = Members::new();
        push_text(&mut members, "mac", &self.mac);
        push_number(&mut members, "mtu", self.mtu);
        members.push(("name", self.name.as_str().into()));
        push_text(&mut members, "pciID", &self.pci_id);
        push_text(&mut members, "sandbox", &self.sandbox);
        push_text(&mut members, "socketPath", &self.socket_path);
        members
    }
}

impl IpConfig {
    fn decode(object: &Object<'_>) -> Result<IpConfig> {
        Ok(IpConfig {
            interface: object.integer_if_set("interface")?,
            address: required_cidr(object, "address")?,
            gateway: optional_ip(object, "gateway")?,
        })
    }

    fn members(&self) -> Members {
        let version = if self.address.addr().is_ipv4() { "4" } else { "6" };
        let mut members = vec![("version", version.into())];
        push_optional(&mut members, "interface", self.interface);
        members.push(("address", self.address.to_string().into()));
        push_ip(&mut members, "gateway", self.gateway);
        members
    }

    fn sorted_members(&self) -> Members {
        let mut members = vec![("address", self.address.to_string().into())];
        push_ip(&mut members, "gateway", self.gateway);
        push_optional(&mut members, "interface", self.interface);
        members
    }
}

impl Route {
    /// Decodes a route of a configuration or result.
    pub fn decode(object: &Object<'_>) -> Result<Route> {
        Ok(Route {
            dst: object.parsed("dst", parse_cidr)?,
            gw: optional_ip(object, "gw")?,
            mtu: object.integer("mtu")?,
            advmss: object.integer("advmss")?,
            priority: object.integer("priority")?,
            table: object.integer_if_set("table")?,
            scope: object.integer_if_set("scope")?,
        })
    }

    fn dst_text(&self) -> Node {
        self.dst.map_or_else(|| "<nil>".into(), |dst| dst.to_string().into())
    }

    fn members(&self) -> Members {
        let mut members = vec![("dst", self.dst_text())];
        push_ip(&mut members, "gw", self.gw);
        push_number(&mut members, "mtu", self.mtu);
        push_number(&mut members, "advmss", self.advmss);
        push_number(&mut members, "priority", self.priority);
        push_optional(&mut members, "table", self.table);
        push_optional(&mut members, "scope", self.scope);
        members
    }

    fn sorted_members(&self) -> Members {
        let mut members = self.members();
        members.sort_by_key(|(key, _)| *key);
        members
    }
}

impl Dns {
    fn members(&self) -> Members {
        let mut members = Members::new();
        push_texts(&mut members, "nameservers", &self.nameservers);
        push_text(&mut members, "domain", &self.domain);
        push_texts(&mut members, "search", &self.search);
        push_texts(&mut members, "options", &self.options);
        members
    }

    fn sorted_members(&self) -> Members {
        let mut members = self.members();
        members.sort_by_key(|(key, _)| *key);
        members
    }
}

fn write_slots(result: &CniResult, version: &str) -> Node {
    let mut members = vec![("cniVersion", version.into())];
    for (slot, v4) in [("ip4", true), ("ip6", false)] {
        if let Some(ip) = result.ips.iter().find(|ip| ip.address.addr().is_ipv4() == v4) {
            members.push((slot, Node::Object(slot_members(result, ip, v4))));
        }
    }
    members.push(("dns", Node::Object(result.dns.members())));
    Node::Object(members)
}

/// One family's address with its routes, of which only destination and next hop exist in these versions.
fn slot_members(result: &CniResult, ip: &IpConfig, v4: bool) -> Members {
    let mut members = vec![("ip", ip.address.to_string().into())];
    push_ip(&mut members, "gateway", ip.gateway);
    let of_family = result.routes.iter().filter(|route| route.dst.is_some_and(|dst| dst.addr().is_ipv4() == v4));
    let routes = of_family.map(|route| Route { dst: route.dst, gw: route.gw, ..Route::default() });
    push_list(&mut members, "routes", routes.map(|route| route.members()).collect());
    members
}

fn write_lists(result: &CniResult, version: &str) -> Node {
    let mut members = vec![("cniVersion", version.into())];
    push_list(&mut members, "interfaces", result.interfaces.iter().map(Interface::members).collect());
    push_list(&mut members, "ips", result.ips.iter().map(IpConfig::members).collect());
    push_list(&mut members, "routes", result.routes.iter().map(Route::members).collect());
    members.push(("dns", Node::Object(result.dns.members())));
    Node::Object(members)
}

fn write_sorted(result: &CniResult, version: &str) -> Node {
    let mut members = vec![("cniVersion", version.into())];
    if !result.dns.is_empty() {
        members.push(("dns", Node::Object(result.dns.sorted_members())));
    }
    push_list(&mut members, "interfaces", result.interfaces.iter().map(Interface::sorted_members).collect());
    push_list(&mut members, "ips", result.ips.iter().map(IpConfig::sorted_members).collect());
    push_list(&mut members, "routes", result.routes.iter().map(Route::sorted_members).collect());
    Node::Object(members)
}

fn push_text(members: &mut Members, key: &'static str, text: &str) {
    if !text.is_empty() {
        members.push((key, text.into()));
    }
}

fn push_texts(members: &mut Members, key: &'static str, texts: &[String]) {
    if !texts.is_empty() {
        members.push((key, texts.to_vec().into()));
    }
}

fn push_number(members: &mut Members, key: &'static str, number: i64) {
    push_optional(members, key, Some(number).filter(|number| *number != 0));
}

fn push_optional(members: &mut Members, key: &'static str, number: Option<i64>) {
    members.extend(number.map(|number| (key, number.into())));
}

fn push_ip(members: &mut Members, key: &'static str, ip: Option<IpAddr>) {
    members.extend(ip.map(|ip| (key, ip.to_string().into())));
}

fn push_list(members: &mut Members, key: &'static str, objects: Vec<Members>) {
    if !objects.is_empty() {
        members.push((key, Node::List(objects.into_iter().map(Node::Object).collect())));
    }
}
