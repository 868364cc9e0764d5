//! The firewall plugin with a real firewalld on a real bus, and with buses that fail.

use serde_json::{Value, json};

use crate::firewall::{DUAL, V4, config, lab, tables};
use crate::lab::{Background, Call, Lab, merged, wait_for};

/// A bus that starts nothing by itself: on the machine's own, firewalld would have polkit started, which would stay.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
    "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default">POLICY</policy></busconfig>"#;
const ALLOW: &str = r#"<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow receive_type="error"/>
    <allow send_requested_reply="true"/><allow receive_requested_reply="true"/><allow send_type="signal"/>"#;

/// A bus with this policy.
fn bus(lab: &Lab, policy: &str) -> Background {
    lab.write("/run/dbus/bus.conf", BUS.replace("POLICY", policy));
    let arguments = ["--config-file=/run/dbus/bus.conf", "--nofork", "--nopidfile"];
    let daemon = Call::new(lab, "dbus-daemon").args_list(&arguments).spawn();
    wait_for("the bus", || lab.exists("/run/dbus/system_bus_socket"));
    daemon
}

/// A host with firewalld. Fields end in this order.
struct Host {
    firewalld: Option<Background>,
    _bus: Background,
    lab: Lab,
}

impl Host {
    fn new(backend: &str) -> Host {
        Host::with_policy(backend, ALLOW)
    }

    /// A bus with this policy.
    fn with_policy(backend: &str, policy: &str) -> Host {
        let lab = lab("nft");
        // firewalld keeps a log, and has no option for its place that keeps standard error too.
        lab.ok("mount -t tmpfs tmpfs /var/log");
        lab.ok("mkdir /run/dbus");
        let settings = "-e s/^FirewallBackend=.*/FirewallBackend=BACKEND/ -e s/^DefaultZone=.*/DefaultZone=block/";
        lab.ok(&format!("sed -i {} /etc/firewalld/firewalld.conf", settings.replace("BACKEND", backend)));
        let bus = bus(&lab, policy);
        let mut host = Host { firewalld: None, _bus: bus, lab };
        host.start();
        host
    }

    fn start(&mut self) {
        self.firewalld = Some(Call::new(&self.lab, "firewalld").args_list(&["--nofork", "--nopid"]).spawn());
        wait_for("firewalld", || self.lab.run(&["firewall-cmd", "--state"]).code == Some(0));
    }

    fn stop(&mut self) {
        self.firewalld.take().unwrap().kill();
        wait_for("the end of firewalld", || self.lab.run(&["firewall-cmd", "--state"]).code != Some(0));
    }

    fn sources(&self, zone: &str) -> Vec<String> {
        let text = self.lab.ok(&format!("firewall-cmd --zone={zone} --list-sources"));
        let mut sources: Vec<_> = text.split_whitespace().map(str::to_string).collect();
        sources.sort();
        sources
    }

    fn run(&self, verb: &str, config: &Value) -> crate::lab::Outcome {
        self.lab.plugin("firewall").verb(verb).config(config).run()
    }

    fn reference(&self, verb: &str, config: &Value) -> crate::lab::Outcome {
        self.lab.reference("firewall").verb(verb).config(config).run()
    }
}

const BACKENDS: [&str; 2] = ["nftables", "iptables"];
const BOTH: [&str; 2] = ["10.0.0.2/32", "2001:db8::2/128"];

fn firewalld(changes: &Value) -> Value {
    merged(config(DUAL, &json!({"backend": "firewalld"})), changes)
}

#[test]
fn addresses_are_sources_of_the_zone() {
    for backend in BACKENDS {
        let host = Host::new(backend);
        for (zone, changes) in [("trusted", json!({})), ("internal", json!({"firewalldZone": "internal"}))] {
            let config = firewalld(&changes);
            let before = host.lab.rules();
            for _ in 0..2 {
                host.run("ADD", &config).result();
                assert_eq!(host.sources(zone), BOTH);
            }
            host.run("CHECK", &config).silent();
            for _ in 0..2 {
                host.run("DEL", &config).silent();
                assert_eq!(host.sources(zone), [""; 0]);
            }
            let cni = |lines: &[String]| lines.iter().filter(|line| line.contains("CNI-")).count();
            assert_eq!((cni(&before), cni(&host.lab.rules())), (0, 0), "no rules of our own");
            assert_eq!(host.lab.list("/run/cni-box/firewall"), [""; 0]);
        }
    }
}

/// Two networks with the same subnet.
#[test]
fn better_an_address_stays_in_its_zone_until_its_last_owner_ends() {
    let host = Host::new("nftables");
    let second = host.lab.netns("ns2");
    let config = firewalld(&json!({}));
    let other = merged(config.clone(), &json!({"name": "other"}));
    let of_second = host.lab.plugin("firewall").container("c2").netns(&second).config(&other);
    host.run("ADD", &config).result();
    of_second.run().result();
    of_second.clone().verb("DEL").run().silent();
    assert_eq!(host.sources("trusted"), BOTH);
    host.run("CHECK", &config).silent();
    of_second.run().result();
    host.run("DEL", &config).silent();
    assert_eq!(host.sources("trusted"), BOTH);
    of_second.verb("DEL").run().silent();
    assert_eq!((host.sources("trusted").len(), host.lab.list("/run/cni-box/firewall").len()), (0, 0));
}

#[test]
fn what_one_adds_the_other_checks_and_deletes_in_firewalld() {
    let host = Host::new("nftables");
    for changes in [json!({}), json!({"backend": null})] {
        let config = firewalld(&changes);
        host.reference("ADD", &config).result();
        host.run("CHECK", &config).silent();
        host.run("ADD", &config).result();
        host.run("DEL", &config).silent();
        assert_eq!(host.sources("trusted"), [""; 0]);
        host.run("ADD", &config).result();
        host.reference("CHECK", &config).silent();
        host.reference("DEL", &config).silent();
        assert_eq!(host.sources("trusted"), [""; 0]);
    }
}

#[test]
fn better_check_finds_that_a_reload_has_dropped_the_addresses() {
    for backend in BACKENDS {
        let host = Host::new(backend);
        let config = firewalld(&json!({}));
        host.run("ADD", &config).result();
        host.lab.ok("firewall-cmd --reload");
        host.reference("CHECK", &config).silent();
        let missing = host.run("CHECK", &config).fails(999, "failed to find the address 10.0.0.2/32 in trusted zone");
        assert!(missing.error().2.contains("reload"), "{missing:?}");
        host.run("ADD", &config).result();
        host.run("CHECK", &config).silent();
        assert_eq!(host.sources("trusted"), BOTH);
        host.lab.ok("firewall-cmd --reload");
        host.run("DEL", &config).silent();
    }
}

#[test]
fn containers_get_out_through_firewalld() {
    for backend in BACKENDS {
        let host = Host::new(backend);
        let lab = &host.lab;
        lab.netns("outside");
        lab.sh("ip link add out0 type veth peer name eth0 netns outside
            ip addr add 192.0.2.1/24 dev out0; ip link set out0 up
            ip -n outside addr add 192.0.2.2/24 dev eth0; ip -n outside link set eth0 up
            ip -n outside route add default via 192.0.2.1")
            .success();
        let bridge = crate::lab::bridge_config(&json!({"isDefaultGateway": true}));
        let previous = lab.plugin("bridge").config(&bridge).run().result();
        // Without this, zone `block` lets packets pass from one of its interfaces to the next.
        lab.ok("firewall-cmd --zone=external --change-interface=out0");
        let reaches = || {
            let ping = ["ip", "netns", "exec", "ns1", "ping", "-n", "-c", "1", "-W", "0.5", "192.0.2.2"];
            lab.run(&ping).code == Some(0)
        };
        assert!(!reaches(), "{backend}: firewalld forwards before ADD");
        let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "firewall", "prevResult": previous});
        host.run("ADD", &config).result();
        wait_for(&format!("{backend}: a way out"), reaches);
        host.run("DEL", &config).silent();
        assert!(!reaches(), "{backend}: firewalld forwards after DEL");
    }
}

#[test]
fn better_what_firewalld_refuses_is_told_and_leaves_nothing() {
    let host = Host::new("nftables");
    let call = "org.fedoraproject.FirewallD1.zone.addSource: org.fedoraproject.FirewallD1.Exception: ";
    let unknown = format!("failed to add the address 10.0.0.2/32 to nozone zone: {call}INVALID_ZONE: nozone");
    host.run("ADD", &firewalld(&json!({"firewalldZone": "nozone"}))).fails(999, &unknown);
    host.lab.ok("firewall-cmd --zone=internal --add-source=2001:db8::2/128");
    let conflict = format!("failed to add the address 2001:db8::2/128 to trusted zone: {call}ZONE_CONFLICT: ");
    host.run("ADD", &firewalld(&json!({}))).fails_with(999, &[&conflict]);
    assert_eq!(host.sources("trusted"), [""; 0], "the first address is taken back");
    assert_eq!(host.lab.list("/run/cni-box/firewall"), [""; 0]);
    host.run("DEL", &firewalld(&json!({}))).silent();
    assert_eq!(host.sources("internal"), ["2001:db8::2/128"], "it is somebody else's");
}

#[test]
fn better_a_failed_add_takes_the_addresses_out_of_firewalld() {
    let host = Host::new("nftables");
    let lab = &host.lab;
    lab.executable("/opt/cni/bin/fails", "#!/bin/sh\necho '{\"code\":99,\"msg\":\"no\"}'\nexit 1\n");
    let list = |last: &str| {
        let bridge = json!({"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}});
        json!({"cniVersion": "1.0.0", "name": last, "plugins": [bridge, {"type": "firewall"}, {"type": last}]})
            .to_string()
    };
    for last in ["fails", "loopback"] {
        lab.write(&format!("/etc/cni/net.d/{last}.conflist"), list(last));
    }
    let add = |last: &str| lab.cnitool(&["add", last, "/var/run/netns/ns1"]).run();
    add("fails").dies_with(&["no"]);
    assert_eq!(host.sources("trusted"), [""; 0]);
    add("loopback").success();
    assert_eq!(host.sources("trusted"), ["10.1.2.2/32"]);
}

#[test]
fn better_del_succeeds_for_who_may_not_use_firewalld() {
    let denied = ["addSource", "removeSource"]
        .map(|member| format!(r#"<deny send_interface="org.fedoraproject.FirewallD1.zone" send_member="{member}"/>"#));
    let host = Host::with_policy("nftables", &(ALLOW.to_string() + &denied.concat()));
    for changes in [json!({}), json!({"backend": null})] {
        let config = firewalld(&changes);
        host.run("ADD", &config).fails_with(999, &["org.freedesktop.DBus.Error.AccessDenied"]);
        host.run("DEL", &config).silent();
    }
}

#[test]
fn better_an_ingress_policy_is_kept_and_checked_in_iptables() {
    let host = Host::new("nftables");
    let config = firewalld(&json!({"ingressPolicy": "same-bridge"}));
    host.run("ADD", &config).result();
    host.run("CHECK", &config).silent();
    let rules = tables(&host.lab);
    assert!(rules.iter().any(|line| line.contains("-i br0 ! -o br0")), "{rules:?}");
    assert!(!rules.iter().any(|line| line.contains("CNI-FORWARD")), "{rules:?}");
    host.lab.ok("iptables-nft -F CNI-ISOLATION-STAGE-1");
    host.run("CHECK", &config).fails_with(999, &["expected CNI-ISOLATION-STAGE-1 rule"]);
}

#[test]
fn better_firewalld_may_come_and_go_between_add_and_del() {
    let mut host = Host::new("nftables");
    let config = firewalld(&json!({"backend": null}));
    host.run("ADD", &config).result();
    host.stop();
    host.run("CHECK", &config).fails_with(999, &["firewalld is not running"]);
    host.run("DEL", &config).silent();
    host.run("ADD", &config).result();
    host.run("CHECK", &config).silent();
    host.start();
    // firewalld has flushed iptables' tables, and CHECK says so.
    host.run("CHECK", &config).fails_with(999, &["expected FORWARD rule"]);
    for backend in ["iptables", "firewalld"] {
        host.reference("ADD", &firewalld(&json!({"backend": backend}))).result();
    }
    assert!(tables(&host.lab).iter().any(|line| line.contains("10.0.0.2")));
    assert_eq!(host.sources("trusted"), BOTH);
    host.run("DEL", &config).silent();
    assert_eq!(host.sources("trusted"), [""; 0]);
    assert!(!tables(&host.lab).iter().any(|line| line.contains("10.0.0.2")));
}

#[test]
fn better_gc_and_a_del_that_knows_nothing_reach_firewalld() {
    let host = Host::new("nftables");
    let zone = json!({"firewalldZone": "internal", "cniVersion": "1.1.0"});
    let unknowing = merged(firewalld(&json!({})), &json!({"prevResult": null, "backend": null, "cniVersion": "1.1.0"}));
    for (verb, more) in [("DEL", json!({})), ("GC", json!({"cni.dev/valid-attachments": []}))] {
        host.run("ADD", &firewalld(&zone)).result();
        host.run(verb, &merged(unknowing.clone(), &more)).silent();
        assert_eq!(host.sources("internal"), [""; 0], "{verb}");
    }
    host.run("STATUS", &firewalld(&json!({"cniVersion": "1.1.0"}))).silent();
}

// Buses that fail.

/// A host without a bus.
fn without_bus() -> Lab {
    let lab = lab("nft");
    lab.ok("mkdir /run/dbus");
    lab
}

fn run(lab: &Lab, verb: &str, config: &Value) -> crate::lab::Outcome {
    lab.plugin("firewall").verb(verb).config(config).run()
}

/// ADD and CHECK of `firewalld` fail with these words; without a choice of backend it is iptables that serves. DEL always
/// succeeds, unless the address is known to be firewalld's.
fn is_no_firewalld(lab: &Lab, words: &[&str]) {
    let wanted = firewalld(&json!({}));
    for verb in ["ADD", "CHECK"] {
        run(lab, verb, &wanted).fails_with(999, words);
    }
    assert_eq!(lab.list("/run/cni-box/firewall"), [""; 0]);
    let auto = config(V4, &json!({"backend": null}));
    run(lab, "ADD", &auto).result();
    run(lab, "CHECK", &auto).silent();
    assert!(tables(lab).iter().any(|line| line.contains("-s 10.0.0.2/32 -j ACCEPT")));
    run(lab, "DEL", &auto).silent();
    assert!(!tables(lab).iter().any(|line| line.contains("10.0.0.2")));
}

#[test]
fn better_without_a_bus_there_is_no_firewalld() {
    let lab = without_bus();
    let place = "failed to connect to the bus at unix:path=/run/dbus/system_bus_socket: no such file or directory";
    is_no_firewalld(&lab, &[place]);
    run(&lab, "DEL", &firewalld(&json!({}))).silent();
    let elsewhere = lab.plugin("firewall").config(&firewalld(&json!({})));
    let elsewhere = elsewhere.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/a%20b;unix:abstract=nobody");
    elsewhere.run().fails(999, "failed to connect to the bus at unix:abstract=nobody: connection refused");
}

#[test]
fn better_a_bus_without_firewalld_is_told() {
    let lab = without_bus();
    let _bus = bus(&lab, ALLOW);
    is_no_firewalld(&lab, &["firewalld is not running"]);
    run(&lab, "DEL", &firewalld(&json!({}))).silent();
}

#[test]
fn better_the_bus_is_found_where_the_environment_says() {
    let host = Host::new("nftables");
    host.lab.ok("mv /run/dbus/system_bus_socket /run/other");
    let call = host.lab.plugin("firewall").config(&firewalld(&json!({})));
    call.run().fails_with(999, &["failed to connect to the bus"]);
    let call = call.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere;unix:path=/run/%6fther,guid=00");
    call.run().result();
    call.clone().verb("CHECK").run().silent();
    call.verb("DEL").run().silent();
}

#[test]
fn better_a_bus_that_refuses_us_is_told() {
    let lab = without_bus();
    let _bus = bus(&lab, r#"<deny user="root"/>"#);
    is_no_firewalld(&lab, &["failed to call org.freedesktop.DBus.Hello on the bus at unix:path=", "the bus hung up"]);
    // Nobody but firewalld itself could say whether it knows these addresses.
    run(&lab, "DEL", &firewalld(&json!({}))).fails_with(999, &["the bus hung up"]);
}

/// Takes connections and says the given lines, if any, to each.
const FAKE_BUS: &str = r#"import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/dbus/system_bus_socket")
listener.listen()
kept = []
while True:
    connection, _ = listener.accept()
    kept.append(connection)
    connection.sendall(sys.argv[1].encode().decode("unicode_escape").encode())
"#;

fn fake_bus(lab: &Lab, lines: &str) -> Background {
    let daemon = Call::new(lab, "python3").args_list(&["-c", FAKE_BUS, lines]).spawn();
    wait_for("the bus", || lab.exists("/run/dbus/system_bus_socket"));
    daemon
}

#[test]
fn better_a_bus_that_refuses_our_authentication_is_told() {
    let lab = without_bus();
    let _bus = fake_bus(&lab, r"REJECTED EXTERNAL\r\n");
    is_no_firewalld(&lab, &["failed to authenticate with the bus at unix:path=", "the bus refuses this user"]);
}

/// What is asked of a bus that stops answering after these lines.
fn silence(lines: &str) {
    let lab = without_bus();
    let _bus = fake_bus(&lab, lines);
    let (wanted, auto) = (firewalld(&json!({})), config(V4, &json!({"backend": null})));
    std::thread::scope(|scope| {
        for (verb, config) in [("ADD", &wanted), ("ADD", &auto), ("CHECK", &auto), ("DEL", &wanted)] {
            let words = ["no answer within 10 seconds", "unix:path=/var/run/dbus/system_bus_socket"];
            let lab = &lab;
            scope.spawn(move || drop(run(lab, verb, config).fails_with(999, &words)));
        }
        scope.spawn(|| drop(run(&lab, "DEL", &auto).silent()));
    });
    run(&lab, "ADD", &config(V4, &json!({}))).result();
}

#[test]
fn better_a_bus_that_never_answers_is_given_up() {
    std::thread::scope(|scope| {
        scope.spawn(|| silence(""));
        scope.spawn(|| silence(r"DATA\r\nOK 00\r\n"));
    });
}

/// A bus on which firewalld takes one address and then falls silent. Says in a file how often somebody connected.
const FALLING_SILENT: &str = r#"import socket, struct, time
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/dbus/system_bus_socket")
listener.listen()
count = 0
while True:
    connection, _ = listener.accept()
    count += 1
    open("/run/connections", "w").write(str(count))
    stream = connection.makefile("rb")
    [stream.readline() for _ in range(2)]
    connection.sendall(b"DATA\r\nOK 00\r\n")
    stream.readline()
    for serial in 1, 2, 3:
        body, _, fields = struct.unpack("<4xIII", stream.read(16))
        stream.read((fields + 7) // 8 * 8 + body)
        connection.sendall(struct.pack("<4BIII4BI", 108, 2, 0, 1, 0, 9, 8, 5, 1, 117, 0, serial))
    time.sleep(100)
"#;

/// In the whole call, the undoing of what was done included, one connection is made and waited for.
#[test]
fn better_a_bus_that_falls_silent_is_waited_for_once_and_del_knows_what_it_may_have_kept() {
    let lab = without_bus();
    let _bus = Call::new(&lab, "python3").args_list(&["-c", FALLING_SILENT]).spawn();
    wait_for("the bus", || lab.exists("/run/dbus/system_bus_socket"));
    let words = ["zone.addSource on the bus at", "no answer within 10 seconds"];
    run(&lab, "ADD", &firewalld(&json!({}))).fails_with(999, &words);
    assert_eq!(lab.read("/run/connections"), "1");
    assert_eq!(lab.list("/run/cni-box/firewall"), ["10.0.0.2", "2001:db8::2"]);
}
