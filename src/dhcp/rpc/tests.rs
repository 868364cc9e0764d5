//! What is written is read again, and what is broken is not.

use super::*;
use crate::cni::result::{Dns, IpConfig, Route};

type Arrived<T> = Result<Option<T>, Malformed>;

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
    Ok(incoming.reply_body()?.map(|result| error.map_or(Ok(result), Err)))
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
    let error = Error::internal("no more tries");
    let explained = error.clone().with_details("no answer");
    for reply in [Ok(result()), Ok(CniResult::default()), Err(error), Err(explained)] {
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
    assert_eq!(incoming.call_header(), Ok(None));
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
