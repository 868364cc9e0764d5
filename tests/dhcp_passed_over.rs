//! Servers whose answers do not count: error and log tell which answers these were, and why.

use crate::dhcp::Network;
use crate::lab::{Call, PLUGINS, wait_for};

/// Answers every DISCOVER with an OFFER and every REQUEST with an ACK, with one fault.
const SERVER: &str = r#"
import socket, struct, sys
manner = sys.argv[1]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
raw.bind(("lan0", 0))
own = raw.getsockname()[4]
def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def send(mac, message):
    udp = struct.pack("!HHHH", 67, 68, 8 + len(message), 0) + message
    if manner == "checksum": udp = udp[:6] + b"\x12\x34" + udp[8:]
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\x0a\x01\0\x01", b"\xff" * 4)
    raw.send(mac + own + b"\x08\0" + ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + udp)
open("/run/lab/server", "w").close()
while True:
    frame = raw.recv(2000)
    if len(frame) < 282 or frame[23] != 17 or frame[36:38] != b"\0\x43": continue
    dhcp, kind = frame[42:], frame[42:][240:].split(b"\x35\x01", 1)[1][0]
    if kind not in (1, 3): continue
    xid = bytes([dhcp[4] ^ 1]) + dhcp[5:8] if manner == "xid" else dhcp[4:8]
    address = b"\0\0\0\0" if manner == "address" else b"\x0a\x01\x03\x09"
    server = b"\x0a\x01\0\x02" if manner == "ack" and kind == 3 else b"\x0a\x01\0\x01"
    seconds = b"\0\0\0\x03" if manner == "seconds" else b"\0\0\0\x3c"
    said = 5 if kind == 3 else 2
    options = b"\x35\x01" + bytes([said]) + b"\x33\x04" + seconds + b"\x01\x04\xff\xff\0\0"
    if manner != "server": options += b"\x36\x04" + server
    options += b"\x0c\xff" if manner == "options" else b"\xff"
    if manner != "options": options = options.ljust(60, b"\0")
    send(dhcp[28:34], b"\x02\x01\x06\0" + xid + b"\0" * 8 + address + b"\0" * 8 + dhcp[28:44] + b"\0" * 192 + b"\x63\x82\x53\x63" + options)
"#;

/// The details of an ADD with such a server. The daemon's log says the same.
fn told(manner: &str) -> String {
    let mut network = Network::new();
    let words = ["netns", "exec", "lan", "python3", "-c", SERVER, manner];
    network.server = Some(Call::new(&network.lab, "ip").args_list(&words).spawn());
    wait_for("the server", || network.lab.exists("/run/lab/server"));
    let flags = ["-timeout=300ms", "-resendmax=300ms", "-resendtimeout=2s"];
    network.daemon = Some(network.spawn_daemon(&format!("{PLUGINS}/dhcp"), &flags));
    wait_for("the daemon", || network.status().run().code == Some(0));
    let outcome = network.container(1).run();
    let (code, msg, details) = outcome.error();
    assert_eq!((code, msg.as_str()), (999, "error calling DHCP.Allocate: no more tries"));
    let reason = details.rsplit("; ").next().unwrap();
    assert!(network.log().contains(&format!("c1/net/eth0: {reason}\n")), "{details}");
    details
}

#[test]
fn better_an_offer_that_was_passed_over_is_told_with_the_reason() {
    let offer = "offer of 10.1.3.9 from 10.1.0.1 passed over: ";
    let reasons = [
        ("seconds", format!("{offer}lease of 3 s")),
        ("xid", format!("{offer}it answers another message (xid)")),
        ("server", "offer of 10.1.3.9 passed over: it names no server (server id)".to_string()),
        ("address", "offer from 10.1.0.1 passed over: no host can have the address 0.0.0.0".to_string()),
        ("checksum", "an answer was passed over: its UDP checksum is wrong".to_string()),
        ("options", "an answer was passed over: it is no complete DHCP message".to_string()),
    ];
    for (manner, reason) in reasons {
        assert_eq!(told(manner), format!("no matching response packet received for DISCOVER; {reason}"), "{manner}");
    }
}

#[test]
fn better_an_ack_that_was_passed_over_is_told_with_the_reason() {
    let silence = "no matching response packet received for REQUEST of 10.1.3.9 to server 10.1.0.1";
    let ack = "ACK of 10.1.3.9 from 10.1.0.2 passed over: server 10.1.0.1 was asked";
    assert_eq!(told("ack"), format!("{silence}; {ack}"));
}
