//! How much dhcp sends: counted on the wire, which is the link of the server's namespace.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cni_box::sys::events::boottime;
use serde_json::{Value, json};

use crate::dhcp::{LOG, Network, POOL};
use crate::lab::frames::{Frame, Sniffer, most_within};
use crate::lab::{Call, PLUGINS, bridge_config, merged, wait_for};

/// A daemon that waits as long as it does by default for an answer, and gives up after this time.
fn patient_daemon(network: &mut Network, resend_timeout: &str) {
    let script = format!("exec {PLUGINS}/dhcp daemon -resendtimeout {resend_timeout} 2>> {LOG}");
    network.daemon = Some(Call::new(&network.lab, "sh").args_list(&["-c", &script]).spawn());
    wait_for("the daemon", || network.status().run().code == Some(0));
}

fn with_dhcp(changes: &Value) -> Value {
    merged(bridge_config(&json!({"ipam": {"type": "dhcp", "subnet": null}})), changes)
}

/// Networks of every plugin that this kernel has the devices for; `hd0` is for host-device and `m0` a master.
fn networks(network: &Network) -> Vec<(&'static str, Value)> {
    let lab = &network.lab;
    lab.ok("ip link add m0 up type veth peer name m1");
    lab.ok("ip link set m1 master cni0 up");
    lab.ok("ip link add hd0 type veth peer name hd1");
    lab.ok("ip link set hd1 master cni0 up");
    let master = |kind: &str, link: &str| with_dhcp(&json!({"type": kind, "bridge": null, "master": link}));
    vec![
        ("bridge", with_dhcp(&json!({}))),
        ("macvlan", master("macvlan", "m0")),
        ("host-device", with_dhcp(&json!({"type": "host-device", "bridge": null, "device": "hd0"}))),
    ]
}

/// ADD for container N with each of these networks, all at once; then `then` with each network's name and call.
fn with_all(network: &Network, networks: &[(&str, Value)], then: impl Fn(&str, Call<'_>) + Sync) {
    std::thread::scope(|scope| {
        for (n, (plugin, config)) in networks.iter().enumerate() {
            network.lab.netns(&format!("ns{n}"));
            let (call, then) = (network.of_container(network.lab.plugin(plugin).config(config), n), &then);
            scope.spawn(move || then(plugin, call));
        }
    });
}

/// The messages of each client.
fn by_client(frames: &[Frame]) -> Vec<Vec<Frame>> {
    let clients: BTreeSet<&str> = frames.iter().map(|frame| frame.client.as_str()).collect();
    let of = |client: &str| frames.iter().filter(|frame| frame.client == client).cloned().collect();
    clients.into_iter().map(of).collect()
}

#[test]
fn better_a_silent_server_hears_two_discovers_in_five_seconds() {
    let mut network = Network::new();
    let networks = networks(&network);
    patient_daemon(&mut network, "8s");
    let network = &network;
    let sniffer = Sniffer::on(&network.lab, "lan", "lan0");
    with_all(network, &networks, |_, call| {
        call.run().fails(999, "error calling DHCP.Allocate: no more tries");
    });
    wait_for("both messages of each", || sniffer.frames().len() >= 2 * networks.len());
    let frames = sniffer.frames();
    assert_eq!((by_client(&frames).len(), sniffer.count("DISCOVER")), (networks.len(), frames.len()), "{frames:?}");
    for frames in by_client(&frames) {
        assert!(frames.len() >= 2 && most_within(5_000, &frames) <= 2, "{frames:?}");
        assert!(frames.last().unwrap().at - frames[0].at >= 3_000, "{frames:?}");
    }
}

#[test]
fn better_an_add_takes_one_discover_and_one_request() {
    let mut network = Network::new();
    let networks = networks(&network);
    network.start_dnsmasq("10.1.2.0,10.1.9.255", &[]);
    patient_daemon(&mut network, "20s");
    let network = &network;
    let sniffer = Sniffer::on(&network.lab, "lan", "lan0");
    with_all(network, &networks, |plugin, call| {
        let began = Instant::now();
        call.run().result();
        // A DISCOVER that was lost would be sent again after three seconds or more.
        assert!(began.elapsed() < Duration::from_secs(3), "{plugin}: {:?}", began.elapsed());
        call.verb("DEL").run().silent();
    });
    wait_for("the messages of each", || sniffer.count("RELEASE") == networks.len());
    for frames in by_client(&sniffer.frames()) {
        let kinds: Vec<&str> = frames.iter().map(|frame| frame.kind.as_str()).collect();
        let once = ["DISCOVER", "REQUEST", "RELEASE"];
        // On kernels where looking at a link does not settle its state the first may be sent once more.
        assert!(kinds == once || kinds == [&once[..1], &once].concat(), "{kinds:?}");
    }
}

/// With spanning tree a port listens and learns before it forwards, two seconds each.
#[test]
fn better_a_bridge_port_that_forwards_late_is_used_at_once() {
    let mut network = Network::new();
    network.start_dnsmasq("10.1.2.0,10.1.9.255", &[]);
    network.daemon = Some(network.spawn_daemon(&format!("{PLUGINS}/dhcp"), &["-timeout=60s", "-resendtimeout=90s"]));
    wait_for("the daemon", || network.status().run().code == Some(0));
    network.lab.ok("ip link set cni0 type bridge forward_delay 200 stp_state 1");
    let forwards = || network.lab.link("port0")["linkinfo"]["info_slave_data"]["state"] == "forwarding";
    wait_for("the server's port", forwards);
    network.containers(1..2);
    let (sent, passed) = (Sniffer::on(&network.lab, "", "v1"), Sniffer::on(&network.lab, "lan", "lan0"));
    let began = Instant::now();
    network.call(1).run().result();
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    wait_for("the request", || passed.count("REQUEST") == 1 && sent.count("REQUEST") == 1);
    let (sent, passed) = (sent.frames(), passed.frames());
    assert_eq!((sent.len(), passed.len()), (3, 2), "{sent:?} {passed:?}");
}

/// The port never forwards, and the container makes events without end.
#[test]
fn better_a_link_that_is_never_up_is_given_up() {
    let mut network = Network::new();
    network.start_daemon(&["-resendtimeout=3s"]);
    let waiting = network.container(1);
    network.lab.ok("ip link set v1 down");
    network.lab.ok("ip link add noise type veth peer name noise1 netns ns1");
    let script = "while :; do ip link set noise up; ip link set noise down; ip link set eth0 mtu 1400; \
        ip link set eth0 mtu 1500; done";
    let _noise = Call::new(&network.lab, "ip").args_list(&["netns", "exec", "ns1", "sh", "-c", script]).spawn();
    let (_, msg, details) = waiting.run().error();
    assert_eq!(msg, "error calling DHCP.Allocate: no more tries");
    let cause = "no matching response packet received for DISCOVER; the link's operational state is ";
    assert!(details.starts_with(cause) && details.ends_with("down"), "{details}");
}

/// Offers its address to all, and answers requests with a refusal or, if told to be `silent`, not at all.
const REFUSER: &str = r#"
import socket, struct, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
raw.bind(("lan0", 0))
own = raw.getsockname()[4]
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
open("/run/lab/refuser", "w").close()
while True:
    frame = raw.recv(2000)
    if len(frame) < 282 or frame[23] != 17 or frame[36:38] != b"\0\x43": continue
    dhcp, kind = frame[42:], frame[42:][240:].split(b"\x35\x01", 1)[1][0]
    if kind not in (1, 3) or (kind == 3 and sys.argv[1] == "silent"): continue
    address = b"\x0a\x01\x03\x09" if kind == 1 else b"\0" * 4
    body = b"\x02\x01\x06\0" + dhcp[4:8] + b"\0" * 8 + address + b"\0" * 8 + dhcp[28:44] + b"\0" * 192
    body += b"\x63\x82\x53\x63\x35\x01" + bytes([2 if kind == 1 else 6]) + b"\x36\x04\x0a\x01\0\x01"
    body = (body + (b"\x33\x04\0\0\0\x3c\x01\x04\xff\xff\0\0" if kind == 1 else b"") + b"\xff").ljust(300, b"\0")
    udp = struct.pack("!HHHH", 67, 68, 8 + len(body), 0) + body
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\x0a\x01\0\x01", b"\xff" * 4)
    raw.send(dhcp[28:34] + own + b"\x08\0" + ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + udp)
"#;

/// Messages of an ADD with such a server, and the details of its error.
fn refused(manner: &str) -> (Vec<Frame>, String) {
    let mut network = Network::new();
    let words = ["netns", "exec", "lan", "python3", "-c", REFUSER, manner];
    network.server = Some(Call::new(&network.lab, "ip").args_list(&words).spawn());
    wait_for("the server", || network.lab.exists("/run/lab/refuser"));
    patient_daemon(&mut network, "6s");
    let sniffer = Sniffer::on(&network.lab, "lan", "lan0");
    let (_, msg, details) = network.container(1).run().error();
    assert_eq!(msg, "error calling DHCP.Allocate: no more tries");
    wait_for("the first request", || sniffer.count("REQUEST") > 0);
    (sniffer.frames(), details)
}

/// One more attempt at once, one after two seconds (less half a second at most), one after four (less one).
#[test]
fn better_a_server_that_refuses_everything_is_asked_less_and_less() {
    let (frames, details) = refused("refusing");
    let requests: Vec<Frame> = frames.iter().filter(|frame| frame.kind == "REQUEST").cloned().collect();
    assert!((2..=4).contains(&requests.len()) && frames.len() <= 8, "{frames:?}");
    assert!(most_within(1_000, &requests) <= 2 && most_within(4_400, &requests) <= 3, "{frames:?}");
    assert_eq!(details, "server 10.1.0.1 rejected request with Nak");
}

#[test]
fn better_a_server_that_offers_and_never_acknowledges_is_not_hurried() {
    let (frames, details) = refused("silent");
    let discovers = frames.iter().filter(|frame| frame.kind == "DISCOVER").count();
    assert!(
        discovers <= 2 && frames.len() - discovers <= 2 && most_within(2_500, &frames) <= discovers + 1,
        "{frames:?}"
    );
    assert_eq!(details, "no matching response packet received for REQUEST of 10.1.3.9 to server 10.1.0.1");
}

const LEASES: usize = 20;

/// A network with that many leases, which kea wants to be renewed after two seconds.
fn with_leases() -> Network {
    let mut network = Network::new();
    network.start_kea(POOL, [60, 2, 50]);
    network.start_daemon(&["-timeout=8s"]);
    network.containers(1..LEASES + 1);
    std::thread::scope(|scope| {
        for n in 1..=LEASES {
            let network = &network;
            scope.spawn(move || network.call(n).run().result());
        }
    });
    network
}

/// From `since` on all leases are asked for, but not together: 150 ms lie between them.
fn are_spread(sniffer: &Sniffer<'_>, since: SystemTime) {
    let since = i64::try_from(since.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let asked = || {
        let frames: Vec<Frame> = sniffer.frames().into_iter().filter(|frame| frame.at >= since).collect();
        by_client(&frames)
    };
    wait_for("all leases to be asked for", || asked().len() == LEASES);
    let first: Vec<Frame> = asked().into_iter().map(|frames| frames[0].clone()).collect();
    assert!(most_within(1_000, &first) <= LEASES / 2 + 2, "{first:?}");
}

#[test]
fn better_leases_of_a_killed_daemon_are_asked_for_one_after_the_other() {
    let mut network = with_leases();
    network.kill_daemon();
    let since = SystemTime::now();
    let script = format!("exec {PLUGINS}/dhcp daemon 2>> {LOG}");
    let lab = &network.lab;
    let sniffer = Sniffer::on(lab, "lan", "lan0");
    network.daemon = Some(Call::new(lab, "sh").args_list(&["-c", &script]).spawn());
    are_spread(&sniffer, since);
}

/// Nothing could be sent while the machine slept, so all are due when it wakes up.
#[test]
fn better_after_a_sleep_leases_are_asked_for_one_after_the_other() {
    let network = with_leases();
    let daemon = network.daemon.as_ref().unwrap().pid();
    let sniffer = Sniffer::on(&network.lab, "lan", "lan0");
    network.lab.ok(&format!("kill -STOP {daemon}"));
    let (since, stopped) = (SystemTime::now(), boottime());
    // T1, and the second from which on a lease counts as late.
    wait_for("all leases to be late", || boottime() > stopped + 3_100);
    network.lab.ok(&format!("kill -CONT {daemon}"));
    are_spread(&sniffer, since);
}
