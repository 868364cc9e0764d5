//! Errors of dhcp beside those of today's reference: the message is the reference's to the letter, since runtimes and
//! people look for it, and the cause is in the details.

use serde_json::json;

use crate::dhcp::{Network, SOCKET, config};
use crate::lab::{Call, Lab, PLUGINS, new_reference_dir, wait_for};

/// A call of the plugin in a folder for container 1.
fn plugin<'a>(network: &'a Network, folder: &str) -> Call<'a> {
    network.of_container(Call::plugin(&network.lab, folder, "dhcp").config(&config(&json!({}))), 1)
}

/// One plugin with one daemon: calls that fail, as code and message, each with its details.
fn failures(of: &str, with: &str) -> Vec<((i64, String), String)> {
    let mut network = Network::new();
    let flags = ["-timeout=200ms", "-resendtimeout=1s"];
    network.daemon = Some(network.spawn_daemon(&format!("{with}/dhcp"), &flags));
    wait_for("the daemon", || network.status().run().code == Some(0));
    network.containers(1..2);
    network.lab.ok("ip -n ns1 tuntap add tun0 mode tun");
    let call = || plugin(&network, of);
    let nonsense = config(&json!({"ipam": {"request": [{"option": "nope"}]}}));
    let calls = [
        call(),
        call().ifname("tun0"),
        call().ifname("eth7"),
        call().netns("/run/netns/none"),
        call().netns("/etc/hostname"),
        call().config(&nonsense),
    ];
    let errors = calls.iter().map(|call| call.run().error());
    errors.map(|(code, msg, details)| ((code, msg), details)).collect()
}

#[test]
fn every_plugin_and_daemon_fail_in_the_same_words() {
    let theirs = new_reference_dir();
    let wanted: Vec<_> = failures(&theirs, &theirs).into_iter().map(|(error, _)| error).collect();
    let unavailable = (999, "error calling DHCP.Allocate: no more tries".to_string());
    assert_eq!(wanted[..2], [unavailable.clone(), unavailable]);
    for (of, with) in [(PLUGINS, PLUGINS), (&theirs, PLUGINS), (PLUGINS, &theirs)] {
        let (errors, details): (Vec<_>, Vec<_>) = failures(of, with).into_iter().unzip();
        assert_eq!(errors, wanted, "{of} with {with}");
        // The reference has no place for them, neither in the plugin nor in the daemon.
        let told = ["no matching response packet received for DISCOVER", "interface \"tun0\" has no Ethernet address"];
        let told = if of == with { told } else { ["", ""] };
        assert_eq!(details[..2], told, "{of} with {with}");
    }
}

/// Plays a daemon, up to some point.
const BROKEN: &str = r#"
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/cni/dhcp.sock")
listener.listen()
WELCOME = b"HTTP/1.0 200 Connected to Go RPC\n\n"
ANSWERS = {
    "refuses": b"HTTP/1.0 405 Method Not Allowed\r\nContent-Length: 17\r\n\r\n405 must CONNECT\n",
    "is another service": b"HTTP/1.1 200 OK\r\n\r\n",
    "speaks no HTTP": b"hello\n\n",
    "is cut short": b"HTTP/1.0 200 Conn",
    "ends before the call": b"",
    "ends in the call": WELCOME,
    "loses the call": WELCOME,
}
def serve(stream, manner):
    # The kernel resets a connection that is closed with bytes unread.
    stream.recv(100, socket.MSG_PEEK)
    if manner != "loses the greeting": stream.recv(100)
    if manner in ANSWERS: stream.sendall(ANSWERS[manner])
    if manner == "ends in the call": stream.recv(100000)
    if manner == "loses the call": stream.recv(100, socket.MSG_PEEK)
while True:
    stream, _ = listener.accept()
    try: serve(stream, sys.argv[1])
    except OSError: pass # STATUS, which says nothing.
    stream.close()
"#;

#[test]
fn what_a_broken_daemon_does_is_told_in_the_references_words() {
    let manners = [
        "refuses",
        "is another service",
        "speaks no HTTP",
        "is cut short",
        "ends before the call",
        "ends in the call",
        "loses the call",
        "loses the greeting",
    ];
    let mut network = Network::new();
    network.lab.ok("mkdir -p /run/cni");
    for manner in manners {
        let broken = Call::new(&network.lab, "python3").args_list(&["-c", BROKEN, manner]).spawn();
        network.daemon = Some(broken);
        wait_for("the socket", || network.status().run().code == Some(0));
        for verb in ["ADD", "DEL"] {
            let error = |folder: &str| plugin(&network, folder).verb(verb).run().error();
            assert_eq!(error(PLUGINS), error(&new_reference_dir()), "a daemon that {manner}, {verb}");
        }
        network.kill_daemon();
        network.lab.ok(&format!("rm {SOCKET}"));
    }
}

#[test]
fn a_socket_without_a_listener_is_told_in_the_references_words() {
    let network = Network::new();
    network.lab.ok("mkdir -p /run/cni");
    let long = format!("/run/{}", "x".repeat(120));
    for path in [SOCKET, "/run/cni", "/etc/hostname", "/etc/hostname/x", long.as_str()] {
        let elsewhere = config(&json!({"ipam": {"daemonSocketPath": path}}));
        let error = |folder: &str| {
            let (code, msg, _) = plugin(&network, folder).config(&elsewhere).run().error();
            (code, msg)
        };
        assert_eq!(error(PLUGINS), error(&new_reference_dir()), "{path}");
    }
}

/// The last line of a daemon that does not start, without the time of day that the reference puts in front.
fn last_words(lab: &Lab, folder: &str, flags: &[&str]) -> String {
    let program = format!("{folder}/dhcp");
    let outcome = Call::new(lab, "timeout").args_list(&[&["10", &program, "daemon"], flags].concat()).run();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let line = outcome.stderr.lines().last().unwrap_or_default().to_string();
    line.find("Error ").map_or(line.clone(), |at| line[at..].to_string())
}

#[test]
fn a_daemon_that_does_not_start_says_so_in_the_references_words() {
    let lab = Lab::new();
    lab.ok("mkdir /run/folder");
    let long = format!("/run/{}", "x".repeat(120));
    let causes: [&[&str]; 7] = [
        &["-pidfile", "relative"],
        &["-pidfile", "/none/pid"],
        &["-socketpath", "/etc/hostname/a/b"],
        &["-socketpath", "/proc/none/a"],
        &["-socketpath", "/run/folder"],
        &["-socketpath", &long],
        &["-hostprefix", "/etc/hostname"],
    ];
    for flags in causes {
        let (ours, theirs) = (last_words(&lab, PLUGINS, flags), last_words(&lab, &new_reference_dir(), flags));
        // The cause may follow.
        assert!(ours == theirs || ours.starts_with(&format!("{theirs}; ")), "{ours:?} is not {theirs:?}");
    }
}

/// STATUS must not fail where ADD succeeds.
#[test]
fn newer_status_is_well_when_the_daemon_is_busy_or_will_be_started() {
    let mut network = Network::new();
    network.start_daemon(&[]);
    let waiting = network.container(1).spawn();
    network.wait_for_log(1, "acquiring lease");
    network.status().run().silent();
    waiting.kill();
    network.kill_daemon();
    network.lab.ok(&format!("rm {SOCKET}"));
    // The service manager listens, and starts the daemon for the first call.
    let script = format!("import socket, time; s = socket.socket(1); s.bind('{SOCKET}'); s.listen(); time.sleep(1000)");
    network.daemon = Some(Call::new(&network.lab, "python3").args_list(&["-c", &script]).spawn());
    wait_for("the service manager", || network.status().run().code == Some(0));
}
