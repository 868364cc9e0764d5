//! The DHCP daemon: its command line and socket, clients that misbehave, and what it remembers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::scope;

use serde_json::{Value, json};

use crate::dhcp::{LOG, Network, POOL, RECORDS, SOCKET, address, config};
use crate::lab::{Call, PLUGINS, wait_for};

fn daemon<'a>(network: &'a Network, flags: &[&str]) -> Call<'a> {
    Call::new(&network.lab, &format!("{PLUGINS}/dhcp")).args_list(&[&["daemon"], flags].concat())
}

/// Sends a signal and waits for the end; gives the exit code.
fn end(network: &mut Network, signal: &str) -> Option<i32> {
    let daemon = network.daemon.take().unwrap();
    network.lab.ok(&format!("kill -{signal} {}", daemon.pid()));
    daemon.wait().code()
}

#[test]
fn the_command_line_is_that_of_the_reference() {
    let network = Network::new();
    for flag in ["-h", "--help"] {
        let outcome = daemon(&network, &[flag]).run().silent();
        assert!(outcome.stderr.contains("Usage of daemon:") && outcome.stderr.contains("-resendtimeout duration"));
    }
    let wrong = daemon(&network, &["-nope"]).run();
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.starts_with("flag provided but not defined: -nope\nUsage of daemon:"), "{wrong:?}");
    let relative = daemon(&network, &["-pidfile", "dhcp.pid"]).run();
    relative.dies("Error writing pidfile \"dhcp.pid\": path not absolute");
    assert!(!network.lab.exists(SOCKET));
}

#[test]
fn signals_end_it_and_take_socket_and_pid_file_along() {
    for signal in ["TERM", "INT"] {
        let mut network = Network::new();
        network.start_daemon(&["-pidfile", "/run/dhcp.pid", "--broadcast"]);
        wait_for("the pid file", || network.lab.sh("test -s /run/dhcp.pid").code == Some(0));
        assert_eq!(network.lab.read("/run/dhcp.pid"), network.daemon.as_ref().unwrap().pid().to_string());
        assert_eq!(end(&mut network, signal), Some(0));
        assert!(!network.lab.exists(SOCKET) && !network.lab.exists("/run/dhcp.pid"));
    }
}

#[test]
fn better_a_stale_socket_is_replaced_and_a_live_daemon_is_not() {
    let mut network = Network::new();
    network.start_daemon(&[]);
    let second = daemon(&network, &[]).run();
    let text = format!("Error getting listener: listen unix {SOCKET}: bind: address already in use");
    second.dies(&text);
    network.status().run().silent();
    network.kill_daemon();
    assert!(network.lab.exists(SOCKET));
    network.start_daemon(&[]);
}

/// Its successor is there while it still removes its files, each half a second late.
#[test]
fn better_a_daemon_that_ends_leaves_its_successors_files() {
    let mut network = Network::new();
    let late = format!("strace -qq -o /dev/null -e inject=unlink:delay_enter=500000 {PLUGINS}/dhcp");
    let old = network.spawn_daemon(&late, &["-pidfile", "/run/dhcp.pid"]);
    wait_for("the daemon", || network.status().run().code == Some(0));
    end_by_pid_file(&network);
    let script = format!("until {PLUGINS}/dhcp daemon -pidfile /run/dhcp.pid; do :; done");
    network.daemon = Some(Call::new(&network.lab, "sh").args_list(&["-c", &script]).spawn());
    old.wait();
    wait_for("the next daemon", || network.status().run().code == Some(0));
    end_by_pid_file(&network);
    network.daemon.take().unwrap().wait();
}

/// The daemon listens before it writes the file.
fn end_by_pid_file(network: &Network) {
    wait_for("the pid file", || network.lab.sh("kill -TERM $(cat /run/dhcp.pid)").code == Some(0));
}

/// The first sees a stale socket, which it removes half a second later.
#[test]
fn better_of_two_daemons_that_find_a_stale_socket_one_stays() {
    let mut network = Network::new();
    network.start_daemon(&[]);
    network.kill_daemon();
    let late = format!("strace -qq -o /dev/null -e inject=unlink:delay_enter=500000 {PLUGINS}/dhcp");
    network.daemon = Some(network.spawn_daemon(&late, &["-pidfile", "/run/dhcp.pid"]));
    network.lab.ok("sleep 0.2");
    let text = format!("Error getting listener: listen unix {SOCKET}: bind: address already in use");
    let program = format!("{PLUGINS}/dhcp");
    Call::new(&network.lab, "timeout").args_list(&["5", &program, "daemon"]).run().dies(&text);
    wait_for("the first", || network.status().run().code == Some(0));
    end_by_pid_file(&network);
    network.daemon.take().unwrap().wait();
}

#[test]
fn a_listener_may_come_from_the_service_manager() {
    let mut network = Network::new();
    let script = "import os, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind('/run/passed.sock')
listener.listen()
os.dup2(listener.fileno(), 9)
os.dup2(9, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')
os.execv('/opt/cni/bin/dhcp', ['dhcp', 'daemon'])";
    network.daemon = Some(Call::new(&network.lab, "python3").args_list(&["-c", script]).spawn());
    let passed = config(&json!({"ipam": {"daemonSocketPath": "/run/passed.sock"}}));
    let served = || network.call(1).verb("CHECK").config(&passed).run().error().1;
    wait_for("the daemon", || served() == "error calling DHCP.Check: there is no lease for c1/net/eth0");
    assert!(!network.lab.exists(SOCKET));
    assert_eq!(end(&mut network, "TERM"), Some(0));
    assert!(network.lab.exists("/run/passed.sock"), "it belongs to the service manager");
    let pass = |count: &str| {
        let script = format!("LISTEN_PID=$$ LISTEN_FDS={count} exec {PLUGINS}/dhcp daemon");
        network.lab.run(&["sh", "-c", &script])
    };
    pass("2").dies("Error getting listener: Too many (2) FDs passed through socket activation");
    pass("1").dies("Error getting listener: LISTEN_FDS=1 but no FD found");
}

#[test]
fn a_prefix_leads_to_the_hosts_files() {
    let mut network = Network::new();
    network.start_dnsmasq("10.1.2.0,10.1.9.255", &[]);
    network.lab.ok("ln -s / /run/host");
    network.daemon =
        Some(network.spawn_daemon("/opt/cni/bin/dhcp", &["-hostprefix=/run/host", "-socketpath", "/run/p.sock"]));
    wait_for("the daemon", || network.lab.exists("/run/p.sock"));
    network.containers(1..2);
    let call = network.call(1).config(&config(&json!({"ipam": {"daemonSocketPath": "/run/p.sock"}})));
    call.run().result();
    assert_eq!(network.lab.list("/run/cni-box/dhcp"), ["%run%host%run%p.sock"]);
    call.verb("DEL").run().silent();
}

/// `/run/cni` exists, as `tuning` makes it, and everyone may enter.
#[test]
fn better_other_users_cannot_reach_the_daemon_whatever_the_umask() {
    let mut network = Network::new();
    network.lab.ok("mkdir -m 755 -p /run/cni");
    for (umask, mode) in [("000", "775"), ("022", "755"), ("077", "700")] {
        let script = format!("umask {umask}; exec {PLUGINS}/dhcp daemon");
        network.daemon = Some(Call::new(&network.lab, "sh").args_list(&["-c", &script]).spawn());
        wait_for("the daemon", || network.status().run().code == Some(0));
        assert_eq!(network.lab.ok(&format!("stat -c %a {SOCKET}")).trim(), mode, "umask {umask}");
        assert_eq!(end(&mut network, "TERM"), Some(0));
    }
}

/// A connection to the daemon from outside of the lab.
fn connect(network: &Network) -> UnixStream {
    UnixStream::connect(network.lab.path(SOCKET)).unwrap()
}

#[test]
fn better_clients_that_hang_or_talk_nonsense_disturb_nobody() {
    let network = Network::with_dnsmasq(&[]);
    let hanging: Vec<UnixStream> = (0..20)
        .map(|n| {
            let mut stream = connect(&network);
            let said: &[u8] = if n % 2 == 0 { b"" } else { b"CONNECT /_goRPC_ HTTP/1.0\n\n\x40\xff" };
            stream.write_all(said).unwrap();
            stream
        })
        .collect();
    let nonsense: [&[u8]; 4] = [
        b"CONNECT /_goRPC_ HTTP/1.0\n\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"CONNECT /_goRPC_ HTTP/1.0\n\n\x03\x01\x02\x03\x03\x01\x02\x03",
        b"CONNECT /_goRPC_ HTTP/1.0\n\n\xf8\xff\xff\xff\xff\xff\xff\xff\xff",
        &[b'x'; 10_000],
    ];
    for said in nonsense {
        let mut stream = connect(&network);
        // The daemon may close before it has heard all.
        let _ = stream.write_all(said);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    let mut other = connect(&network);
    other.write_all(b"GET / HTTP/1.0\n\n").unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 405 Method Not Allowed\r\n"), "{answer}");
    network.container(1).run().result();
    drop(hanging);
}

#[test]
fn better_a_lease_that_nobody_waits_for_any_more_is_given_up() {
    let mut network = Network::new();
    network.start_daemon(&[]);
    let waiting = network.container(1).spawn();
    network.wait_for_log(1, "acquiring lease");
    waiting.kill();
    network.wait_for_log(1, "nobody waits for the lease any more");
}

#[test]
fn better_an_add_without_a_server_fails_in_time_and_says_why() {
    let mut network = Network::new();
    network.daemon = Some(network.spawn_daemon("/opt/cni/bin/dhcp", &["-timeout=100ms", "-resendtimeout=1s"]));
    wait_for("the daemon", || network.status().run().code == Some(0));
    let (code, msg, details) = network.container(1).run().error();
    assert_eq!((code, msg.as_str()), (999, "error calling DHCP.Allocate: no more tries"));
    assert_eq!(details, "no matching response packet received for DISCOVER");
    assert_eq!(network.records(), 0);
}

/// All containers' results at once.
fn add_all(network: &Network, count: usize) -> Vec<Value> {
    network.containers(1..count + 1);
    scope(|scope| {
        let calls: Vec<_> = (1..=count).map(|n| scope.spawn(move || network.call(n).run().result())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

fn memory(network: &Network, key: &str) -> u64 {
    let status = network.lab.read(&format!("/proc/{}/status", network.daemon.as_ref().unwrap().pid()));
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(network: &Network) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", network.daemon.as_ref().unwrap().pid())).unwrap().count()
}

/// `CNI_TEST_LEASES` is another number than the 100 that CI has time for.
#[test]
fn better_many_leases_at_once_need_little_memory_and_few_descriptors() {
    let count = std::env::var("CNI_TEST_LEASES").map_or(100, |count| count.parse().unwrap());
    let network = Network::with_dnsmasq(&[]);
    let (before, idle) = (memory(&network, "VmRSS"), descriptors(&network));
    let results = add_all(&network, count);
    let addresses: std::collections::BTreeSet<String> = results.iter().map(address).collect();
    assert_eq!((addresses.len(), network.leases(), network.records()), (count, count, count));
    wait_for("the sockets to be closed", || descriptors(&network) <= idle);
    let (after, most) = (memory(&network, "VmRSS"), memory(&network, "VmHWM"));
    eprintln!("{count} leases: {before} kB before, {after} kB after, {most} kB at most; {idle} descriptors");
    assert!(most < 64 * 1024, "{most} kB");
}

/// Who sets it must not make a lease longer or shorter.
#[test]
fn better_records_do_not_know_the_time_of_day() {
    let network = Network::with_dnsmasq(&[]);
    network.container(1).run().result();
    let record = network.lab.read(&format!("{RECORDS}/{}", network.lab.list(RECORDS)[0]));
    let obtained = serde_json::from_str::<Value>(&record).unwrap()["dhcpObtained"].as_i64().unwrap();
    let now = cni_box::sys::events::boottime();
    assert!((now - 60_000..=now).contains(&obtained), "{obtained} at {now}");
}

#[test]
fn better_a_killed_daemons_leases_are_kept_by_the_next() {
    const COUNT: usize = 50;
    let mut network = Network::with_dnsmasq(&[]);
    let results = add_all(&network, COUNT);
    network.kill_daemon();
    network.lab.ok("ip netns delete ns1");
    network.lab.ok("ip -n ns2 link delete eth0");
    network.lab.ok("ip -n ns3 link set eth0 address 02:00:00:00:00:03");
    network.start_daemon(&[]);
    for (n, reason) in [(1, "no such file or directory"), (2, "Link not found"), (3, "another hardware address")] {
        wait_for("the lease to be dropped", || network.log().contains(reason));
        network.call(n).verb("CHECK").run().fails_with(999, &["there is no lease"]);
    }
    for n in 4..=COUNT {
        network.wait_for_log(n, "lease renewed");
        let prev = config(&json!({"prevResult": results[n - 1]}));
        network.call(n).verb("CHECK").config(&prev).run().silent();
    }
    assert_eq!((network.records(), network.acquired()), (COUNT - 3, COUNT));
    network.call(COUNT).verb("DEL").run().silent();
    wait_for("the server to hear of the release", || network.leases() == COUNT - 1);
    assert_eq!(end(&mut network, "TERM"), Some(0));
    assert_eq!((network.records(), network.leases()), (COUNT - 4, COUNT - 1), "leases outlive the daemon");
}

#[test]
fn better_a_namespace_that_is_deleted_goes_at_once_and_its_lease_when_it_is_due() {
    let mut network = Network::new();
    network.start_kea(POOL, [60, 2, 50]);
    network.start_daemon(&[]);
    network.container(1).run().result();
    network.lab.ok("ip netns delete ns1");
    // With the namespace goes its end of the pair, and with that the other.
    wait_for("the end of the namespace", || network.lab.link("v1").is_null());
    network.wait_for_log(1, "the lease is not kept any more");
    assert_eq!(network.records(), 0);
    network.call(1).verb("DEL").run().silent();
}

/// The answer to a request is awaited for a second (`-timeout`); the next request is sent some seconds later.
#[test]
fn better_a_namespace_that_is_deleted_while_no_server_answers_goes_soon() {
    let mut network = Network::new();
    network.start_kea(POOL, [30, 2, 10]);
    network.start_daemon(&[]);
    network.container(1).run().result();
    network.stop_server();
    let idle = descriptors(&network);
    wait_for("the first request to be renewed", || descriptors(&network) > idle);
    network.lab.ok("ip netns delete ns1");
    wait_for("the end of the namespace", || network.lab.link("v1").is_null());
    network.wait_for_log(1, "the lease is not kept any more");
}

#[test]
fn better_a_container_that_comes_back_in_another_namespace_gets_a_lease_there() {
    let network = Network::with_dnsmasq(&[]);
    let first = network.container(1).run().result();
    network.lab.ok("ip netns delete ns1");
    wait_for("the end of the namespace", || network.lab.link("v1").is_null());
    let second = network.container(1).run().result();
    assert_eq!(first, second, "the client id is the same");
    assert_eq!(network.acquired(), 2);
    assert!(network.lab.read(LOG).contains("a new lease replaces the old one"));
}

#[test]
fn better_a_changed_hardware_address_is_no_other_interface_if_the_address_is_there() {
    let network = Network::with_dnsmasq(&[]);
    let call = network.container(1);
    let result = call.run().result();
    network.lab.ok(&format!("ip -n ns1 addr add {} dev eth0", address(&result)));
    network.lab.ok("ip -n ns1 link set eth0 address 02:00:00:00:00:03");
    call.verb("CHECK").run().silent();
}

/// The open socket hears what is for the old address only.
#[test]
fn better_a_changed_hardware_address_is_heard_at_while_the_lease_is_renewed() {
    let mut network = Network::new();
    network.start_kea(POOL, [30, 2, 10]);
    network.start_daemon(&[]);
    let call = network.container(1);
    let result = call.run().result();
    network.lab.ok(&format!("ip -n ns1 addr add {} dev eth0", address(&result)));
    network.stop_server();
    let idle = descriptors(&network);
    wait_for("the first request to be renewed", || descriptors(&network) > idle);
    network.lab.ok("ip -n ns1 link set eth0 address 02:00:00:00:00:03");
    network.call(1).verb("CHECK").run().silent();
    network.start_kea(POOL, [30, 2, 10]);
    network.wait_for_log(1, "lease renewed");
}
