//! What plugin and daemon say to each other: Go's net/rpc over HTTP CONNECT, in [`gob`](super::gob), on a socket of the
//! unix family, so that either may be the Go program. One call a connection.

mod read;

use std::net::IpAddr;

use ipnet::IpNet;
pub use read::Incoming;

pub use crate::dhcp::gob::Malformed;

use crate::cni::CniResult;
use crate::dhcp::gob::{self, BYTES, Definition, Fields, INT, STRING, Shape, UINT};
use crate::error::Error;

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

/// A reply: a result (an empty one where none is due) or the daemon's error, of which message and details arrive.
pub type Reply = Result<CniResult, Error>;

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

const REQUEST: Definition =
    Definition { id: HEADER_ID, name: "Request", shape: Shape::Struct(&[("ServiceMethod", STRING), ("Seq", UINT)]) };
/// Go programs pass over `Details`, which their type lacks, and print `Error` as it is.
const RESPONSE: Definition = Definition {
    id: HEADER_ID,
    name: "Response",
    shape: Shape::Struct(&[("ServiceMethod", STRING), ("Seq", UINT), ("Error", STRING), ("Details", STRING)]),
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
const RESULT: [Definition; 8] = [
    Definition {
        id: BODY_ID,
        name: "Result",
        shape: Shape::Struct(&[("IPs", IPS_ID), ("Routes", ROUTES_ID), ("DNS", DNS_ID)]),
    },
    Definition { id: IPS_ID, name: "[]*types100.IPConfig", shape: Shape::Slice(IP_ID) },
    Definition { id: IP_ID, name: "IPConfig", shape: Shape::Struct(&[("Address", NET_ID), ("Gateway", BYTES)]) },
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
        if let Err(error) = reply {
            fields.bytes(3, error.msg.as_bytes());
            fields.bytes(4, error.details.as_bytes());
        }
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
    fields.list(1, result.ips.len(), |index, fields| {
        let Some(ip) = result.ips.get(index) else { return };
        fields.nested(1, |fields| push_net(fields, ip.address));
        push_ip(fields, 2, ip.gateway);
    });
    fields.list(2, result.routes.len(), |index, fields| {
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
        fields.nested(3, |fields| {
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

#[cfg(test)]
mod tests;
