//! What plugin and daemon say to each other: Go's net/rpc over HTTP CONNECT, in [`gob`](super::gob), on a socket of the
//! unix family, so that either may be the Go program. One call a connection.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::cni::CniResult;
use crate::cni::result::{Dns, Interface, IpConfig, Route};
use crate::dhcp::gob::{self, BYTES, Definition, Fields, INT, Reader, STRING, Shape, Types, UINT};

/// Acquires a lease, or tells the one that is held. Arguments: [`CmdArgs`], reply: a result.
pub const ALLOCATE: &str = "DHCP.Allocate";
/// Gives a lease back. Empty reply.
pub const RELEASE: &str = "DHCP.Release";
/// Tells the lease that is held, or fails. The Go daemon lacks it and the next. Reply: a result.
pub const CHECK: &str = "DHCP.Check";
/// Gives back the leases of a network whose attachments are not in the configuration's list. Empty reply.
pub const COLLECT: &str = "DHCP.CollectGarbage";

/// How the Go daemon starts to say that it lacks a method.
pub const NO_METHOD: &str = "rpc: can't find method ";

/// What a client says first.
pub const GREETING: &[u8] = b"CONNECT /_goRPC_ HTTP/1.0\n\n";
/// What a daemon answers.
pub const WELCOME: &[u8] = b"HTTP/1.0 200 Connected to Go RPC\n\n";
/// What a daemon answers to anything else.
pub const UNWELCOME: &[u8] = b"HTTP/1.0 405 Method Not Allowed\r\nContent-Length: 17\r\n\r\n405 must CONNECT\n";

/// Longest head of an HTTP request or answer.
const LONGEST_HEAD: usize = 4096;
/// Longest message: a configuration may hold results of other plugins.
const LONGEST_MESSAGE: usize = 1 << 20;

/// What a plugin was called with (`skel.CmdArgs`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CmdArgs {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS, absolute.
    pub netns: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_ARGS.
    pub args: String,
    /// CNI_PATH.
    pub path: String,
    /// The network configuration.
    pub stdin: Vec<u8>,
}

/// A call as the daemon receives it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// `Service.Method`.
    pub method: String,
    /// To be repeated in the reply.
    pub sequence: u64,
    /// The arguments.
    pub args: CmdArgs,
}

/// A reply: a result (an empty one where none is due) or the daemon's error text.
pub type Reply = Result<CniResult, String>;

/// Bytes that are no call, no reply, or too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

// Types. The ids are unique among all that one side sends.

const HEADER_ID: i64 = 64;
const BODY_ID: i64 = 65;
const IPS_ID: i64 = 66;
const IP_ID: i64 = 67;
const NET_ID: i64 = 68;
const ROUTES_ID: i64 = 69;
const ROUTE_ID: i64 = 70;
const DNS_ID: i64 = 71;
const TEXTS_ID: i64 = 72;
const INTERFACES_ID: i64 = 73;
const INTERFACE_ID: i64 = 74;

const REQUEST: Definition =
    Definition { id: HEADER_ID, name: "Request", shape: Shape::Struct(&[("ServiceMethod", STRING), ("Seq", UINT)]) };
const RESPONSE: Definition = Definition {
    id: HEADER_ID,
    name: "Response",
    shape: Shape::Struct(&[("ServiceMethod", STRING), ("Seq", UINT), ("Error", STRING)]),
};
const CMD_ARGS: Definition = Definition {
    id: BODY_ID,
    name: "CmdArgs",
    shape: Shape::Struct(&[
        ("ContainerID", STRING),
        ("Netns", STRING),
        ("IfName", STRING),
        ("Args", STRING),
        ("Path", STRING),
        ("StdinData", BYTES),
    ]),
};
const EMPTY: Definition = Definition { id: BODY_ID, name: "", shape: Shape::Struct(&[]) };
const RESULT: [Definition; 10] = [
    Definition {
        id: BODY_ID,
        name: "Result",
        shape: Shape::Struct(&[("Interfaces", INTERFACES_ID), ("IPs", IPS_ID), ("Routes", ROUTES_ID), ("DNS", DNS_ID)]),
    },
    Definition { id: INTERFACES_ID, name: "[]*types100.Interface", shape: Shape::Slice(INTERFACE_ID) },
    Definition {
        id: INTERFACE_ID,
        name: "Interface",
        shape: Shape::Struct(&[("Name", STRING), ("Mac", STRING), ("Mtu", INT), ("Sandbox", STRING)]),
    },
    Definition { id: IPS_ID, name: "[]*types100.IPConfig", shape: Shape::Slice(IP_ID) },
    Definition {
        id: IP_ID,
        name: "IPConfig",
        shape: Shape::Struct(&[("Interface", INT), ("Address", NET_ID), ("Gateway", BYTES)]),
    },
    Definition { id: NET_ID, name: "IPNet", shape: Shape::Struct(&[("IP", BYTES), ("Mask", BYTES)]) },
    Definition { id: ROUTES_ID, name: "[]*types.Route", shape: Shape::Slice(ROUTE_ID) },
    Definition {
        id: ROUTE_ID,
        name: "Route",
        shape: Shape::Struct(&[
            ("Dst", NET_ID),
            ("GW", BYTES),
            ("MTU", INT),
            ("AdvMSS", INT),
            ("Priority", INT),
            ("Table", INT),
            ("Scope", INT),
        ]),
    },
    Definition {
        id: DNS_ID,
        name: "DNS",
        shape: Shape::Struct(&[
            ("Nameservers", TEXTS_ID),
            ("Domain", STRING),
            ("Search", TEXTS_ID),
            ("Options", TEXTS_ID),
        ]),
    },
    Definition { id: TEXTS_ID, name: "[]string", shape: Shape::Slice(STRING) },
];

// Writing

/// The bytes of a call, to be sent once the daemon has answered the greeting.
pub fn call_bytes(method: &str, args: &CmdArgs) -> Vec<u8> {
    let mut out = Vec::new();
    gob::push_definition(&mut out, &REQUEST);
    push_struct(&mut out, HEADER_ID, &|fields| fields.bytes(1, method.as_bytes()));
    gob::push_definition(&mut out, &CMD_ARGS);
    push_struct(&mut out, BODY_ID, &|fields| {
        let texts = [&args.container_id, &args.netns, &args.ifname, &args.args, &args.path];
        for (number, text) in (1..).zip(texts) {
            fields.bytes(number, text.as_bytes());
        }
        fields.bytes(6, &args.stdin);
    });
    out
}

/// The bytes of a reply. Errors, and calls that have no result, carry an empty body.
pub fn reply_bytes(call: &Call, reply: &Reply) -> Vec<u8> {
    let mut out = Vec::new();
    gob::push_definition(&mut out, &RESPONSE);
    push_struct(&mut out, HEADER_ID, &|fields| {
        fields.bytes(1, call.method.as_bytes());
        fields.uint(2, call.sequence);
        fields.bytes(3, reply.as_ref().err().map_or(&[], |text| text.as_bytes()));
    });
    match reply {
        Ok(result) if call.method == ALLOCATE || call.method == CHECK => {
            RESULT.iter().for_each(|definition| gob::push_definition(&mut out, definition));
            push_struct(&mut out, BODY_ID, &|fields| push_result(fields, result));
        }
        _ => {
            gob::push_definition(&mut out, &EMPTY);
            push_struct(&mut out, BODY_ID, &|_| {});
        }
    }
    out
}

fn push_struct(out: &mut Vec<u8>, id: i64, write: &dyn Fn(&mut Fields<'_>)) {
    let mut payload = Vec::new();
    let mut fields = Fields::of(&mut payload);
    write(&mut fields);
    fields.end();
    gob::push_message(out, id, &payload);
}

/// What a lease has: addresses, routes, name resolution.
fn push_result(fields: &mut Fields<'_>, result: &CniResult) {
    fields.list(2, result.ips.len(), |index, fields| {
        let Some(ip) = result.ips.get(index) else { return };
        fields.nested(2, |fields| push_net(fields, ip.address));
        push_ip(fields, 3, ip.gateway);
    });
    fields.list(3, result.routes.len(), |index, fields| {
        let Some(route) = result.routes.get(index) else { return };
        if let Some(dst) = route.dst {
            fields.nested(1, |fields| push_net(fields, dst));
        }
        push_ip(fields, 2, route.gw);
        let numbers = [route.mtu, route.advmss, route.priority, route.table.unwrap_or(0), route.scope.unwrap_or(0)];
        for (number, value) in (3..).zip(numbers) {
            fields.int(number, value);
        }
    });
    if !result.dns.is_empty() {
        fields.nested(4, |fields| {
            fields.texts(1, &result.dns.nameservers);
            fields.bytes(2, result.dns.domain.as_bytes());
            fields.texts(3, &result.dns.search);
            fields.texts(4, &result.dns.options);
        });
    }
}

fn push_net(fields: &mut Fields<'_>, net: IpNet) {
    push_ip(fields, 1, Some(net.addr()));
    push_ip(fields, 2, Some(net.netmask()));
}

fn push_ip(fields: &mut Fields<'_>, number: u64, ip: Option<IpAddr>) {
    match ip {
        Some(IpAddr::V4(ip)) => fields.bytes(number, &ip.octets()),
        Some(IpAddr::V6(ip)) => fields.bytes(number, &ip.octets()),
        None => {}
    }
}

// Reading

/// One direction of a conversation, from its HTTP head on. Bytes are pushed as they come; what is complete is taken.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    /// Bytes that a message was read from.
    used: usize,
    types: Types,
}

/// A value that has arrived: the type's id and where it is.
type Arrived<T> = Result<Option<T>, Malformed>;

impl Incoming {
    /// More bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The first line of the HTTP head, once the head is whole.
    pub fn head(&mut self) -> Arrived<String> {
        let ends = |end: &[u8]| self.bytes.windows(end.len()).position(|window| window == end).map(|at| at + end.len());
        let Some(end) = ends(b"\n\n").or_else(|| ends(b"\n\r\n")) else {
            return if self.bytes.len() > LONGEST_HEAD { Err(Malformed) } else { Ok(None) };
        };
        let head: Vec<u8> = self.bytes.drain(..end).collect();
        let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(line).trim_end().to_string()))
    }

    /// The next value, read by `read` from the types, the value's type and its bytes.
    fn value<T>(&mut self, read: impl FnOnce(&Types, i64, &mut Reader<'_>) -> Option<T>) -> Arrived<T> {
        loop {
            let rest = self.bytes.get(self.used..).unwrap_or_default();
            let (start, length) = match gob::message_length(rest, LONGEST_MESSAGE) {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(None),
                Err(()) => return Err(Malformed),
            };
            let Some(content) = rest.get(start..start + length) else { return Ok(None) };
            self.used += start + length;
            match self.types.message(content) {
                None => return Err(Malformed),
                Some(None) => {}
                Some(Some((id, mut reader))) => {
                    return read(&self.types, id, &mut reader).ok_or(Malformed).map(Some);
                }
            }
            if self.used > LONGEST_MESSAGE {
                return Err(Malformed);
            }
        }
    }

    /// The header of a call: method and sequence number.
    pub fn call_header(&mut self) -> Arrived<(String, u64)> {
        self.value(|types, id, reader| {
            let mut header = (String::new(), 0);
            types.fields(id, reader, &mut |name, kind, reader| match (name, kind) {
                ("ServiceMethod", STRING) => reader.text().map(|text| header.0 = text).map(yes),
                ("Seq", UINT) => reader.uint().map(|number| header.1 = number).map(yes),
                _ => Some(false),
            })?;
            Some(header)
        })
    }

    /// The arguments of a call.
    pub fn call_args(&mut self) -> Arrived<CmdArgs> {
        self.value(|types, id, reader| {
            let mut args = CmdArgs::default();
            types.fields(id, reader, &mut |name, kind, reader| {
                let text = match name {
                    "ContainerID" => &mut args.container_id,
                    "Netns" => &mut args.netns,
                    "IfName" => &mut args.ifname,
                    "Args" => &mut args.args,
                    "Path" => &mut args.path,
                    "StdinData" if kind == BYTES => {
                        args.stdin = reader.bytes()?.to_vec();
                        return Some(true);
                    }
                    _ => return Some(false),
                };
                read_text(kind, reader, text)
            })?;
            Some(args)
        })
    }

    /// The header of a reply: the daemon's error text, empty for none.
    pub fn reply_header(&mut self) -> Arrived<String> {
        self.value(|types, id, reader| {
            let mut error = String::new();
            types.fields(id, reader, &mut |name, kind, reader| match name {
                "Error" => read_text(kind, reader, &mut error),
                _ => Some(false),
            })?;
            Some(error)
        })
    }

    /// The body of a reply. That of a call without a result is an empty one.
    pub fn reply_body(&mut self) -> Arrived<CniResult> {
        self.value(|types, id, reader| {
            let mut result = CniResult::default();
            types.fields(id, reader, &mut |name, kind, reader| {
                match name {
                    "Interfaces" => {
                        read_list(types, kind, reader, &mut result.interfaces, &read_interface)?;
                    }
                    "IPs" => {
                        read_list(types, kind, reader, &mut result.ips, &read_ip_config)?;
                    }
                    "Routes" => {
                        read_list(types, kind, reader, &mut result.routes, &read_route)?;
                    }
                    "DNS" => result.dns = read_dns(types, kind, reader)?,
                    _ => return Some(false),
                }
                Some(true)
            })?;
            Some(result)
        })
    }
}

/// In place of `true`, for chains.
fn yes(_taken: ()) -> bool {
    true
}

fn read_text(kind: i64, reader: &mut Reader<'_>, text: &mut String) -> Option<bool> {
    if kind != STRING {
        return Some(false);
    }
    *text = reader.text()?;
    Some(true)
}

fn read_number(kind: i64, reader: &mut Reader<'_>, number: &mut i64) -> Option<bool> {
    if kind != INT {
        return Some(false);
    }
    *number = reader.int()?;
    Some(true)
}

fn read_list<T>(
    types: &Types,
    kind: i64,
    reader: &mut Reader<'_>,
    list: &mut Vec<T>,
    read: &dyn Fn(&Types, i64, &mut Reader<'_>) -> Option<T>,
) -> Option<()> {
    let element = types.element(kind)?;
    reader.elements(&mut |reader| read(types, element, reader).map(|one| list.push(one)))
}

fn read_texts(types: &Types, kind: i64, reader: &mut Reader<'_>, texts: &mut Vec<String>) -> Option<bool> {
    if types.element(kind) != Some(STRING) {
        return Some(false);
    }
    reader.elements(&mut |reader| reader.text().map(|text| texts.push(text)))?;
    Some(true)
}

fn read_interface(types: &Types, kind: i64, reader: &mut Reader<'_>) -> Option<Interface> {
    let mut interface = Interface::default();
    types.fields(kind, reader, &mut |name, kind, reader| match name {
        "Name" => read_text(kind, reader, &mut interface.name),
        "Mac" => read_text(kind, reader, &mut interface.mac),
        "Sandbox" => read_text(kind, reader, &mut interface.sandbox),
        "Mtu" => read_number(kind, reader, &mut interface.mtu),
        _ => Some(false),
    })?;
    Some(interface)
}

fn read_ip_config(types: &Types, kind: i64, reader: &mut Reader<'_>) -> Option<IpConfig> {
    let (mut address, mut gateway) = (None, None);
    types.fields(kind, reader, &mut |name, kind, reader| {
        match name {
            "Address" => address = Some(read_net(types, kind, reader)?),
            "Gateway" => gateway = Some(read_ip(kind, reader)?),
            _ => return Some(false),
        }
        Some(true)
    })?;
    Some(IpConfig { interface: None, address: address?, gateway })
}

fn read_route(types: &Types, kind: i64, reader: &mut Reader<'_>) -> Option<Route> {
    let (mut route, mut table, mut scope) = (Route::default(), 0, 0);
    types.fields(kind, reader, &mut |name, kind, reader| {
        match name {
            "Dst" => route.dst = Some(read_net(types, kind, reader)?),
            "GW" => route.gw = Some(read_ip(kind, reader)?),
            "MTU" => return read_number(kind, reader, &mut route.mtu),
            "AdvMSS" => return read_number(kind, reader, &mut route.advmss),
            "Priority" => return read_number(kind, reader, &mut route.priority),
            "Table" => return read_number(kind, reader, &mut table),
            "Scope" => return read_number(kind, reader, &mut scope),
            _ => return Some(false),
        }
        Some(true)
    })?;
    // Gob does not tell a pointer to zero from none.
    let set = |number: i64| Some(number).filter(|number| *number != 0);
    Some(Route { table: set(table), scope: set(scope), ..route })
}

fn read_net(types: &Types, kind: i64, reader: &mut Reader<'_>) -> Option<IpNet> {
    let (mut address, mut mask) = (None, None);
    types.fields(kind, reader, &mut |name, kind, reader| {
        match name {
            "IP" => address = Some(read_ip(kind, reader)?),
            "Mask" => mask = Some(read_ip(kind, reader)?),
            _ => return Some(false),
        }
        Some(true)
    })?;
    IpNet::with_netmask(address?, mask?).ok()
}

fn read_ip(kind: i64, reader: &mut Reader<'_>) -> Option<IpAddr> {
    let bytes = (kind == BYTES).then(|| reader.bytes())??;
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Some(Ipv4Addr::from(v4).into()),
        Err(_) => <[u8; 16]>::try_from(bytes).ok().map(|v6| IpAddr::from(v6).to_canonical()),
    }
}

fn read_dns(types: &Types, kind: i64, reader: &mut Reader<'_>) -> Option<Dns> {
    let mut dns = Dns::default();
    types.fields(kind, reader, &mut |name, kind, reader| match name {
        "Nameservers" => read_texts(types, kind, reader, &mut dns.nameservers),
        "Domain" => read_text(kind, reader, &mut dns.domain),
        "Search" => read_texts(types, kind, reader, &mut dns.search),
        "Options" => read_texts(types, kind, reader, &mut dns.options),
        _ => Some(false),
    })?;
    Some(dns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> CmdArgs {
        CmdArgs {
            container_id: "c1".to_string(),
            netns: "/run/netns/x".to_string(),
            ifname: "eth0".to_string(),
            args: "K=V".to_string(),
            path: "/opt/cni/bin".to_string(),
            stdin: vec![b'{'; 300],
        }
    }

    fn result() -> CniResult {
        let route = Route {
            dst: Some("0.0.0.0/0".parse().unwrap()),
            gw: Some("10.0.0.1".parse().unwrap()),
            priority: 7,
            scope: Some(253),
            ..Route::default()
        };
        CniResult {
            ips: vec![IpConfig {
                interface: None,
                address: "10.0.0.5/24".parse().unwrap(),
                gateway: Some("10.0.0.1".parse().unwrap()),
            }],
            routes: vec![route, Route { dst: Some("10.9.1.2/16".parse().unwrap()), ..Route::default() }],
            dns: Dns { nameservers: vec!["10.0.0.1".to_string()], domain: "x".to_string(), ..Dns::default() },
            ..CniResult::default()
        }
    }

    fn read_call(bytes: &[u8]) -> Arrived<(String, CmdArgs)> {
        let mut incoming = Incoming::default();
        incoming.push(bytes);
        let Some((method, _)) = incoming.call_header()? else { return Ok(None) };
        Ok(incoming.call_args()?.map(|args| (method, args)))
    }

    fn read_reply(bytes: &[u8]) -> Arrived<Reply> {
        let mut incoming = Incoming::default();
        incoming.push(bytes);
        let Some(error) = incoming.reply_header()? else { return Ok(None) };
        Ok(incoming.reply_body()?.map(|result| if error.is_empty() { Ok(result) } else { Err(error) }))
    }

    #[test]
    fn a_call_arrives_as_it_was_made_however_it_is_cut() {
        let bytes = call_bytes(ALLOCATE, &args());
        let mut incoming = Incoming::default();
        incoming.push(GREETING);
        let mut header = None;
        assert_eq!(incoming.head().unwrap().unwrap(), "CONNECT /_goRPC_ HTTP/1.0");
        for (at, byte) in bytes.iter().enumerate() {
            incoming.push(&[*byte]);
            if header.is_none() {
                header = incoming.call_header().unwrap();
                continue;
            }
            let arrived = incoming.call_args().unwrap();
            assert_eq!(arrived, (at + 1 == bytes.len()).then(args));
        }
        assert_eq!(header, Some((ALLOCATE.to_string(), 0)));
    }

    #[test]
    fn a_reply_arrives_as_it_was_made() {
        let call = Call { method: ALLOCATE.to_string(), sequence: 3, ..Call::default() };
        for reply in [Ok(result()), Ok(CniResult::default()), Err("no more tries".to_string())] {
            assert_eq!(read_reply(&reply_bytes(&call, &reply)), Ok(Some(reply)));
        }
        let release = Call { method: RELEASE.to_string(), ..call };
        assert_eq!(read_reply(&reply_bytes(&release, &Ok(result()))), Ok(Some(Ok(CniResult::default()))));
    }

    #[test]
    fn heads_end_with_an_empty_line_and_are_bounded() {
        let mut incoming = Incoming::default();
        incoming.push(b"HTTP/1.1 200 Connected to Go RPC\r\nX: y\r\n\r");
        assert_eq!(incoming.head(), Ok(None));
        incoming.push(b"\n\x05");
        assert_eq!(incoming.head().unwrap().unwrap(), "HTTP/1.1 200 Connected to Go RPC");
        assert_eq!(incoming.bytes, [5]);
        incoming.push(&vec![b'x'; LONGEST_HEAD]);
        assert_eq!(incoming.head(), Err(Malformed));
    }

    /// Whatever the bytes: no panic, and no more memory than a few times their number.
    #[test]
    fn mutated_messages_do_no_harm() {
        let call = call_bytes(ALLOCATE, &args());
        let reply = reply_bytes(&Call { method: ALLOCATE.to_string(), ..Call::default() }, &Ok(result()));
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % below as u64).unwrap()
        };
        for _ in 0..60_000 {
            let mut bytes = if random(2) == 0 { call.clone() } else { reply.clone() };
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                    1 => bytes[at] ^= 1 << random(8),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, u8::try_from(random(256)).unwrap()),
                }
            }
            let _ = (read_call(&bytes), read_reply(&bytes));
        }
    }

    #[test]
    fn too_long_messages_are_refused_before_they_have_come() {
        let mut bytes = Vec::new();
        gob::push_uint(&mut bytes, LONGEST_MESSAGE as u64 + 1);
        assert_eq!(read_call(&bytes), Err(Malformed));
    }
}
