//! DHCP servers that are slow, change their minds, vanish or lie.

use cni_box::sys::events::boottime;
use serde_json::{Value, json};

use crate::dhcp::{Network, POOL, RECORDS, address};
use crate::lab::{Call, wait_for};

/// Kea, which may take its time on a busy machine, and our daemon.
fn with_kea(lifetimes: [u32; 3]) -> Network {
    let mut network = Network::new();
    network.start_kea(POOL, lifetimes);
    network.start_daemon(&["-timeout=4s"]);
    network
}

#[test]
fn better_kea_grants_renews_and_hears_the_release() {
    let network = with_kea([60, 1, 50]);
    let call = network.container(1);
    let result = call.run().result();
    assert_eq!(result["ips"], json!([{"address": "10.1.2.10/16", "gateway": "10.1.0.1"}]));
    network.lab.ok("ip -n ns1 addr add 10.1.2.10/16 dev eth0");
    network.wait_for_log(1, "lease renewed, 10.1.2.10 from 10.1.0.1 for 60 s");
    call.clone().verb("CHECK").run().silent();
    call.verb("DEL").run().silent();
    wait_for("the server to hear of the release", || network.said("DHCP4_RELEASE ") == 1);
}

#[test]
fn a_server_that_was_away_is_asked_again() {
    let lifetimes = [30, 1, 10];
    let mut network = with_kea(lifetimes);
    network.container(1).run().result();
    network.stop_server();
    // It has forgotten the lease, and grants it to whoever asks for it.
    network.start_kea(POOL, lifetimes);
    network.wait_for_log(1, "lease renewed, 10.1.2.10");
    network.call(1).verb("CHECK").run().silent();
}

#[test]
fn without_a_server_the_link_goes_down_when_the_lease_ends() {
    let mut network = with_kea([5, 1, 2]);
    let call = network.container(1);
    call.run().result();
    assert!(network.is_up(1));
    network.stop_server();
    let network = &network;
    network.wait_for_log(1, "lease expired, bringing interface DOWN");
    wait_for("the link to be down", || !network.is_up(1));
    assert_eq!(network.records(), 0);
    network.call(1).verb("CHECK").run().fails_with(999, &["there is no lease"]);
}

/// As a machine that was asleep: nobody could ask while there was time.
#[test]
fn better_a_lease_that_ended_while_everything_slept_is_asked_for_again() {
    let network = with_kea([4, 2, 3]);
    network.container(1).run().result();
    let daemon = network.daemon.as_ref().unwrap().pid();
    network.lab.ok(&format!("kill -STOP {daemon}"));
    let record = network.lab.read(&format!("{RECORDS}/{}", network.lab.list(RECORDS)[0]));
    let obtained = serde_json::from_str::<Value>(&record).unwrap()["dhcpObtained"].as_i64().unwrap();
    wait_for("the end of the lease", || boottime() > obtained + 4_000);
    network.lab.ok(&format!("kill -CONT {daemon}"));
    network.wait_for_log(1, "lease renewed, 10.1.2.10");
    assert!(network.is_up(1) && !network.log().contains("DOWN"));
}

#[test]
fn better_a_lease_taken_back_is_asked_for_until_it_ends() {
    let mut network = with_kea([30, 2, 12]);
    let call = network.container(1);
    let first = address(&call.run().result());
    network.stop_server();
    // (Kea says nothing to those who ask for what it does not have.)
    network.start_dnsmasq("10.1.200.0,10.1.200.255", &["--dhcp-authoritative"]);
    network.wait_for_log(1, "the server took the lease back (NAK)");
    network.wait_for_log(1, "which is not taken: a container's address does not change");
    let held = network.call(1).run().result();
    assert_eq!(address(&held), first);
}

#[test]
fn better_a_link_that_comes_up_late_is_awaited() {
    let network = Network::with_dnsmasq(&[]);
    network.containers(1..2);
    network.lab.ok("ip link set v1 down");
    let network = &network;
    std::thread::scope(|scope| {
        let call = scope.spawn(|| network.call(1).run().result());
        network.wait_for_log(1, "acquiring lease");
        network.lab.ok("ip link set v1 up");
        call.join().unwrap();
    });
}

/// Answers every DISCOVER and REQUEST with what no client may believe, and then, the second time it is asked, properly.
const LIAR: &str = r#"
import random, socket, struct
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
raw.bind(("lan0", 0))
own = raw.getsockname()[4]
def checksum(data):
    if len(data) % 2: data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def reply(kind, xid, mac, address, options, tail=b"\xff", op=2):
    head = struct.pack("!BBBBIHH4s4s4s4s16s", op, 1, 6, 0, xid, 0, 0, b"", socket.inet_aton(address), b"", b"", mac)
    body = head + b"\0" * 192 + b"\x63\x82\x53\x63" + b"\x35\x01" + bytes([kind]) + options + tail
    return body.ljust(300, b"\0")
def send(mac, payload):
    udp = struct.pack("!HHHH", 67, 68, 8 + len(payload), 0) + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton("10.1.0.1"), b"\xff" * 4)
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    raw.send(mac + own + b"\x08\x00" + ip + udp)
SERVER = b"\x36\x04\x0a\x01\x00\x01"
MASK = b"\x01\x04\xff\xff\x00\x00"
LEASE = b"\x33\x04\x00\x00\x00\x3c"
asked = {}
open("/run/lab/liar", "w").close()
while True:
    frame = raw.recv(2000)
    if len(frame) < 282 or frame[23] != 17 or frame[36:38] != b"\0\x43": continue
    dhcp = frame[42:]
    xid, mac = struct.unpack("!I", dhcp[4:8])[0], dhcp[28:34]
    kind = dhcp[240:].split(b"\x35\x01", 1)[1][0]
    if kind not in (1, 3): continue
    answer = 2 if kind == 1 else 5
    good = SERVER + LEASE + MASK
    count = asked[mac, kind] = asked.get((mac, kind), 0) + 1
    lies = [
        reply(answer, xid ^ 1, mac, "10.1.3.9", good),
        reply(answer, xid, mac[:5] + bytes([mac[5] ^ 1]), "10.1.3.9", good),
        reply(answer, xid, mac, "10.1.3.9", good, op=1),
        reply(answer, xid, mac, "10.1.3.9", good + b"\x0c\xff" + b"x" * 20, tail=b""),
        reply(answer, xid, mac, "10.1.3.9", good)[:100],
        reply(answer, xid, mac, "10.1.3.9", good)[:240],
        reply(answer, xid, mac, "0.0.0.0", good),
        reply(answer, xid, mac, "255.255.255.255", good),
        reply(answer, xid, mac, "10.1.3.9", LEASE + MASK),
        reply(answer, xid, mac, "10.1.3.9", SERVER + MASK + b"\x33\x04\0\0\0\0"),
        reply(6, xid ^ 2, mac, "0.0.0.0", SERVER),
        b"", b"\x02" * 17,
    ]
    for lie in lies: send(mac, lie)
    base = reply(answer, xid ^ 1, mac, "10.1.3.9", good)
    for _ in range(200):
        lie = bytearray(base)
        for _ in range(3): lie[random.randrange(240, len(lie))] = random.randrange(256)
        send(mac, bytes(lie[:random.randrange(len(lie))]))
    if count > 1: send(mac, reply(answer, xid, mac, "10.1.3.%d" % mac[5], good))
"#;

#[test]
fn better_a_lying_server_does_no_harm() {
    let mut network = Network::new();
    let lying = Call::new(&network.lab, "ip").args_list(&["netns", "exec", "lan", "python3", "-c", LIAR]).spawn();
    network.server = Some(lying);
    wait_for("the liar", || network.lab.exists("/run/lab/liar"));
    network.daemon = Some(network.spawn_daemon("/opt/cni/bin/dhcp", &["-timeout=200ms"]));
    wait_for("the daemon", || network.status().run().code == Some(0));
    network.containers(1..4);
    for n in 1..4 {
        network.lab.ok(&format!("ip -n ns{n} link set eth0 address 02:00:00:00:00:0{n}"));
    }
    let network = &network;
    std::thread::scope(|scope| {
        for n in 1..4 {
            scope.spawn(move || {
                let result = network.call(n).run().result();
                assert_eq!(address(&result), format!("10.1.3.{n}/16"));
            });
        }
    });
    network.status().run().silent();
}
