//! Reading one direction of a conversation.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use ipnet::IpNet;

use super::{CmdArgs, LONGEST_HEAD, LONGEST_MESSAGE, Malformed};
use crate::cni::CniResult;
use crate::cni::result::{Dns, IpConfig, Route};
use crate::dhcp::gob::{self, BYTES, INT, Reader, STRING, Types, UINT};
use crate::error::Error;

/// One direction of a conversation, from its HTTP head on. Bytes are pushed as they come; what is complete is taken.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    /// Bytes that a message was read from.
    used: usize,
    types: Types,
}

/// What is done with a field: given the types, its name, its type and the reader, it takes the value, or says false.
type Visit<'v> = &'v mut dyn FnMut(&Types, &str, i64, &mut Reader<'_>) -> Option<bool>;

/// Something that comes in pieces; `None` until it is whole.
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

    /// The next value: the id of its type, and where its bytes are.
    fn value(&mut self) -> Arrived<(i64, Range<usize>)> {
        loop {
            let rest = self.bytes.get(self.used..).unwrap_or_default();
            let Some((start, length)) = gob::message_length(rest, LONGEST_MESSAGE)? else { return Ok(None) };
            let Some(content) = rest.get(start..start + length) else { return Ok(None) };
            self.used += start + length;
            if let Some((id, reader)) = self.types.message(content).ok_or(Malformed)? {
                return Ok(Some((id, self.used - reader.0.len()..self.used)));
            }
            if self.used > LONGEST_MESSAGE {
                return Err(Malformed);
            }
        }
    }

    /// Gives the fields of the next value to `visit`; `None` when it has not come yet.
    fn fields(&mut self, visit: Visit<'_>) -> Arrived<()> {
        let Some((id, range)) = self.value()? else { return Ok(None) };
        let mut reader = Reader(self.bytes.get(range).unwrap_or_default());
        let read = self.types.fields(id, &mut reader, &mut |name, kind, reader| visit(&self.types, name, kind, reader));
        read.ok_or(Malformed).map(Some)
    }

    /// The header of a call: method and sequence number.
    pub fn call_header(&mut self) -> Arrived<(String, u64)> {
        let mut header = (String::new(), 0);
        let read = self.fields(&mut |_, name, kind, reader| match (name, kind) {
            ("ServiceMethod", _) => read_text(kind, reader, &mut header.0),
            ("Seq", UINT) => {
                header.1 = reader.uint()?;
                Some(true)
            }
            _ => Some(false),
        })?;
        Ok(read.map(|()| header))
    }

    /// The arguments of a call.
    pub fn call_args(&mut self) -> Arrived<CmdArgs> {
        let mut args = CmdArgs::default();
        let read = self.fields(&mut |_, name, kind, reader| {
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
        Ok(read.map(|()| args))
    }

    /// The header of a reply: the daemon's error, if it is one.
    pub fn reply_header(&mut self) -> Arrived<Option<Error>> {
        let (mut msg, mut details) = (String::new(), String::new());
        let read = self.fields(&mut |_, name, kind, reader| match name {
            "Error" => read_text(kind, reader, &mut msg),
            "Details" => read_text(kind, reader, &mut details),
            _ => Some(false),
        })?;
        Ok(read.map(|()| Some(msg).filter(|msg| !msg.is_empty()).map(|msg| Error::internal(msg).with_details(details))))
    }

    /// The body of a reply: addresses, routes and name resolution, which are all that daemons fill. That of a call
    /// without a result is an empty one.
    pub fn reply_body(&mut self) -> Arrived<CniResult> {
        let mut result = CniResult::default();
        let read = self.fields(&mut |types, name, kind, reader| {
            match name {
                "IPs" => read_list(types, kind, reader, &mut |kind, reader| {
                    read_ip_config(types, kind, reader).map(|ip| result.ips.push(ip))
                })?,
                "Routes" => read_list(types, kind, reader, &mut |kind, reader| {
                    read_route(types, kind, reader).map(|route| result.routes.push(route))
                })?,
                "DNS" => result.dns = read_dns(types, kind, reader)?,
                _ => return Some(false),
            }
            Some(true)
        })?;
        Ok(read.map(|()| result))
    }
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

fn read_list(
    types: &Types,
    kind: i64,
    reader: &mut Reader<'_>,
    read: &mut dyn FnMut(i64, &mut Reader<'_>) -> Option<()>,
) -> Option<()> {
    let element = types.element(kind)?;
    reader.elements(&mut |reader| read(element, reader))
}

fn read_texts(types: &Types, kind: i64, reader: &mut Reader<'_>, texts: &mut Vec<String>) -> Option<bool> {
    if types.element(kind) != Some(STRING) {
        return Some(false);
    }
    reader.elements(&mut |reader| reader.text().map(|text| texts.push(text)))?;
    Some(true)
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
