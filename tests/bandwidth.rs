//! `bandwidth`: what it makes, beside what the reference makes, and what really passes.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::cross::Side::{self, Ours, Theirs};
use crate::lab::{Call, Configurations, Lab, Outcome, bridge_config, merged, wait_for, without_random_names};

/// The name of the ifb of container `c1` on the network `net`.
pub const IFB: &str = "bwp623e1c388032";

/// A host with a container behind a dual-stack bridge, and the configuration that limits it.
pub fn attached(changes: &Value) -> (Lab, Value) {
    let lab = Lab::new();
    lab.netns("ns1");
    let config = limits(&lab, "c1", "ns1", "eth0", changes);
    (lab, config)
}

/// Attaches one more interface and gives the configuration that limits it.
pub fn limits(lab: &Lab, container: &str, netns: &str, ifname: &str, changes: &Value) -> Value {
    let ranges = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]);
    let version = changes.get("cniVersion").and_then(Value::as_str).unwrap_or("1.0.0");
    let bridge = json!({"cniVersion": version, "isGateway": true, "ipam": {"subnet": null, "ranges": ranges}});
    let bridge = bridge_config(&bridge);
    let call = lab.plugin("bridge").container(container).netns(&format!("/var/run/netns/{netns}")).ifname(ifname);
    let result = call.config(&bridge).run().result();
    let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "bandwidth", "prevResult": result});
    merged(config, changes)
}

/// Both directions.
pub fn both() -> Value {
    json!({"ingressRate": 20_000_000, "ingressBurst": 400_000, "egressRate": 10_000_000, "egressBurst": 200_000})
}

pub fn call<'a>(lab: &'a Lab, side: Side, verb: &str, config: &Value) -> Call<'a> {
    let call = if side == Ours { lab.plugin("bandwidth") } else { lab.reference("bandwidth") };
    call.verb(verb).config(config)
}

pub fn run(lab: &Lab, side: Side, verb: &str, config: &Value) -> Outcome {
    call(lab, side, verb, config).run()
}

/// The host's end of a limited container.
pub fn host_end(config: &Value) -> String {
    config["prevResult"]["interfaces"][1]["name"].as_str().unwrap().to_string()
}

/// All that `tc` and `ip` know of limits, without random names.
pub fn traffic_control(lab: &Lab) -> Vec<String> {
    let mut text = lab.ok("tc -d qdisc show") + &lab.ok("ip -d -o link show type ifb");
    for veth in lab.veths() {
        text += &lab.ok(&format!("tc -d filter show dev {veth} parent ffff:"));
    }
    let lines = without_random_names(&text);
    // The reference's own number of the link, and the queues, which are those of the version.
    let lines = lines.lines().map(|line| line.split_once(": bwp").map_or(line, |(_, rest)| rest).trim().to_string());
    lines.filter(|line| !line.is_empty()).collect()
}

fn configurations() -> Configurations {
    let runtime = json!({"runtimeConfig": {"bandwidth": both()}});
    vec![
        ("both", both()),
        ("to the container", json!({"ingressRate": 1_000_000, "ingressBurst": 160_000})),
        ("from the container", json!({"egressRate": 8000, "egressBurst": 80_000})),
        (
            "fast",
            json!({"ingressRate": 40_000_000_000_u64, "ingressBurst": 8_000_000, "egressRate": 34_359_738_368_u64, "egressBurst": 2_147_483_647}),
        ),
        ("of the runtime", runtime.clone()),
        ("of both", merged(runtime.clone(), &json!({"egressRate": 3_000_000, "egressBurst": 30_000}))),
        ("none by a null", merged(runtime, &json!({"ingressRate": 0}))),
        ("none", json!({"ingressRate": 0, "egressBurst": 0})),
        ("old version", merged(both(), &json!({"cniVersion": "0.4.0"}))),
    ]
}

#[test]
fn both_make_the_same_result_and_the_same_host() {
    for (name, changes) in configurations() {
        let made = [Ours, Theirs].map(|side| {
            let (lab, config) = attached(&changes);
            let result = without_random_names(&run(&lab, side, "ADD", &config).success().stdout);
            let mut result: Value = serde_json::from_str(&result).unwrap();
            result.as_object_mut().unwrap().retain(|key, value| key != "dns" || *value != json!({}));
            (result, traffic_control(&lab))
        });
        let [ours, theirs] = made;
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn what_one_adds_the_other_checks_and_deletes() {
    for (adds, removes) in [(Ours, Theirs), (Theirs, Ours)] {
        for (name, changes) in configurations() {
            let (lab, mut config) = attached(&changes);
            let before = lab.snapshot();
            config["prevResult"] = run(&lab, adds, "ADD", &config).result();
            run(&lab, removes, "CHECK", &config).silent();
            run(&lab, removes, "DEL", &config).silent();
            eprintln!("{adds:?} added, {removes:?} removed: {name}");
            before.assert_same(&lab.snapshot());
            run(&lab, adds, "DEL", &config).silent();
        }
    }
}

#[test]
fn the_ifb_is_told_behind_the_interfaces_and_has_the_mtu_of_the_pair() {
    let (lab, config) = attached(&both());
    lab.ok(&format!("ip link set {} mtu 1400", host_end(&config)));
    let result = run(&lab, Ours, "ADD", &config).result();
    let ifb = lab.link(IFB);
    assert_eq!(result["interfaces"][3], json!({"name": IFB, "mac": ifb["address"]}));
    assert_eq!((&ifb["mtu"], &ifb["linkinfo"]["info_kind"]), (&json!(1400), &json!("ifb")));
    assert_eq!(result["ips"], config["prevResult"]["ips"]);
}

#[test]
fn better_a_rate_without_a_burst_gets_one_of_20_ms() {
    let derived = json!({"ingressRate": 20_000_000, "egressRate": 1_000_000});
    let given = merged(derived.clone(), &json!({"ingressBurst": 400_000, "egressBurst": 120_000}));
    let [derived, given] = [derived, given].map(|changes| {
        let (lab, config) = attached(&changes);
        run(&lab, Ours, "ADD", &config).result();
        run(&lab, Ours, "CHECK", &config).silent();
        traffic_control(&lab)
    });
    assert_eq!(derived, given);
}

#[test]
fn better_numbers_beyond_32_bits_are_the_greatest_possible() {
    let (lab, config) =
        attached(&json!({"ingressRate": u64::MAX, "ingressBurst": 8_000_000, "egressRate": 8, "egressBurst": 160_000}));
    run(&lab, Ours, "ADD", &config).result();
    let text = lab.ok(&format!("tc qdisc show dev {}", host_end(&config)));
    assert!(text.contains("rate 18446744Tbit"), "{text}");
    run(&lab, Ours, "CHECK", &config).silent();
}

const RATE: f64 = 20_000_000.0;
/// Bytes that are counted: more than a second at that rate.
const COUNTED: usize = 3_000_000;

/// Runs something in a namespace.
pub fn inside<T: Send>(lab: &Lab, netns: &str, work: impl FnOnce() -> T + Send) -> T {
    let path = if netns.is_empty() {
        format!("/proc/{}/ns/net", lab.pid()).into()
    } else {
        lab.path(&format!("/run/netns/{netns}"))
    };
    let file = std::fs::File::open(path).unwrap();
    let enter = || {
        setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

/// Bits a second that come through from one namespace to an address in another: with the burst, and from before the first,
/// so that nobody who has to wait for the processor measures too much.
pub fn throughput(lab: &Lab, from: &str, to: &str, address: &str) -> f64 {
    let address: IpAddr = address.parse().unwrap();
    let listener = inside(lab, to, || TcpListener::bind((address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let start = Instant::now();
    let mut sender = inside(lab, from, || TcpStream::connect_timeout(&target, Duration::from_secs(10)).unwrap());
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let writer = std::thread::spawn(move || while sender.write_all(&[0; 16_384]).is_ok() {});
    let mut buffer = vec![0; 65_536];
    let mut seen = 0;
    while seen < COUNTED {
        seen += receiver.read(&mut buffer).unwrap();
    }
    let took = start.elapsed();
    receiver.shutdown(Shutdown::Both).ok();
    drop(receiver);
    writer.join().unwrap();
    seen as f64 * 8.0 / took.as_secs_f64()
}

/// Waits until all addresses can be used.
pub fn settle(lab: &Lab) {
    wait_for("addresses", || {
        lab.ok("ip -n ns1 -o addr show tentative").is_empty() && lab.ok("ip -o addr show tentative").is_empty()
    });
}

/// Within 15 %, once at least: a busy machine makes a transfer slower now and then, but never faster.
pub fn assert_limited(lab: &Lab, from: &str, to: &str, address: &str) {
    let mut rates = Vec::new();
    while rates.len() < 4 {
        let rate = throughput(lab, from, to, address);
        assert!(rate < RATE * 1.15, "{rate} bit/s to {address}");
        rates.push(rate);
        if rate > RATE * 0.85 {
            eprintln!("to {address}: {rates:?}");
            return;
        }
    }
    panic!("to {address}: {rates:?}");
}

#[test]
fn twenty_megabit_a_second_are_twenty_megabit_a_second() {
    let (lab, config) = attached(
        &json!({"ingressRate": 20_000_000, "egressRate": 20_000_000, "ingressBurst": 400_000, "egressBurst": 400_000}),
    );
    run(&lab, Ours, "ADD", &config).result();
    settle(&lab);
    for (from, to, address) in
        [("", "ns1", "10.1.2.2"), ("", "ns1", "fd00:1:2::2"), ("ns1", "", "10.1.2.1"), ("ns1", "", "fd00:1:2::1")]
    {
        assert_limited(&lab, from, to, address);
    }
    run(&lab, Ours, "DEL", &config).silent();
    assert!(throughput(&lab, "", "ns1", "10.1.2.2") > 2.0 * RATE);
    assert!(throughput(&lab, "ns1", "", "10.1.2.1") > 2.0 * RATE);
}
