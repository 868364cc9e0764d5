//! `bandwidth` where there is something already: other limits of the same container, of another plugin in the chain, of
//! somebody else, or another call at the same time.

use serde_json::{Value, json};

use crate::bandwidth::{IFB, attached, both, call, host_end, limits, run, traffic_control};
use crate::cross::Side::{Ours, Theirs};
use crate::kills::{changing_calls, kill_at, of_the_kernel, refuse_at};
use crate::lab::{Lab, merged};

/// One of the two directions.
fn only(direction: &str) -> Value {
    let other = if direction == "ingress" { "egress" } else { "ingress" };
    json!({format!("{other}Rate"): null, format!("{other}Burst"): null})
}

/// Without the numbers that the kernel gives to actions.
fn limits_of(lab: &Lab) -> Vec<String> {
    traffic_control(lab).into_iter().filter(|line| !line.starts_with("index ")).collect()
}

/// What `tc` tells of the qdisc at a link's root.
fn root(lab: &Lab, link: &str) -> Value {
    let text = lab.ok(&format!("tc -s -j qdisc show dev {link}"));
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    all.into_iter().find(|qdisc| qdisc["root"] == json!(true)).unwrap_or_default()
}

#[test]
fn tc_reads_the_configured_numbers() {
    let (lab, config) = attached(&both());
    run(&lab, Ours, "ADD", &config).result();
    for (link, rate, burst) in [(host_end(&config).as_str(), 2_500_000, 50_000), (IFB, 1_250_000, 25_000)] {
        let tbf = root(&lab, link);
        assert_eq!((&tbf["kind"], &tbf["handle"]), (&json!("tbf"), &json!("1:")), "{tbf}");
        assert_eq!((&tbf["options"]["rate"], &tbf["options"]["burst"]), (&json!(rate), &json!(burst)), "{tbf}");
        assert_eq!(tbf["options"]["lat"], json!(25_000), "{tbf}");
        assert_eq!(tbf["drops"], json!(0), "{tbf}");
    }
}

#[test]
fn better_a_second_add_takes_away_what_is_not_wanted_any_more() {
    for wanted in [only("ingress"), only("egress"), merged(only("ingress"), &only("egress"))] {
        for first in [Ours, Theirs] {
            let (lab, config) = attached(&both());
            run(&lab, first, "ADD", &config).result();
            let second = merged(config, &wanted);
            let told = run(&lab, Ours, "ADD", &second).result()["interfaces"].clone();
            let (fresh, config) = attached(&merged(both(), &wanted));
            let fresh_told = run(&fresh, Ours, "ADD", &config).result()["interfaces"].clone();
            assert_eq!(told.as_array().unwrap().len(), fresh_told.as_array().unwrap().len(), "{wanted}");
            assert_eq!(traffic_control(&lab), traffic_control(&fresh), "{wanted}");
            run(&lab, Ours, "CHECK", &second).silent();
        }
    }
}

#[test]
fn better_a_failed_second_add_brings_back_what_it_has_taken_away() {
    for wanted in [only("ingress"), only("egress")] {
        let (lab, config) = attached(&both());
        run(&lab, Ours, "ADD", &config).result();
        let before = limits_of(&lab);
        let add = call(&lab, Ours, "ADD", &merged(config.clone(), &wanted));
        assert_eq!(add.under(&["sh", "-c", "exec \"$0\" \"$@\" >/dev/full"]).run().code, Some(1));
        assert_eq!(limits_of(&lab), before, "{wanted}");
        run(&lab, Ours, "CHECK", &config).silent();
    }
}

/// Second ADDs with something else to replace or take away each, on a host that has had the first.
fn second_adds(suffer: impl Fn(&Lab, &Value, &Value)) {
    for changes in [only("ingress"), only("egress"), json!({"shapedSubnets": ["10.0.0.0/8"], "ingressRate": 7_000_000})]
    {
        let (lab, config) = attached(&both());
        run(&lab, Ours, "ADD", &config).result();
        suffer(&lab, &config, &changes);
    }
}

#[test]
fn better_a_second_add_that_is_refused_any_of_its_changes_leaves_the_first() {
    second_adds(|lab, config, changes| {
        let (before, add) = (limits_of(lab), call(lab, Ours, "ADD", &merged(config.clone(), changes)));
        let points = changing_calls(lab, &add);
        run(lab, Ours, "ADD", config).result();
        let refused = points.iter().filter(|(name, _)| of_the_kernel(name)).filter(|point| {
            eprintln!("{changes} refused {point:?}");
            let fails = refuse_at(&add, point);
            if !fails {
                run(lab, Ours, "ADD", config).result();
            }
            assert_eq!(limits_of(lab), before);
            fails
        });
        assert!(refused.count() > 5);
    });
}

#[test]
fn better_del_and_another_add_mend_a_killed_second_add() {
    second_adds(|lab, config, changes| {
        let (before, add) = (limits_of(lab), call(lab, Ours, "ADD", &merged(config.clone(), changes)));
        run(lab, Ours, "DEL", config).silent();
        let without = limits_of(lab);
        run(lab, Ours, "ADD", config).result();
        let points = changing_calls(lab, &add);
        run(lab, Ours, "ADD", config).result();
        for point in points.into_iter().filter(|(name, _)| of_the_kernel(name)) {
            eprintln!("{changes} killed before {point:?}");
            kill_at(&add, &point);
            run(lab, Ours, "ADD", config).result();
            assert_eq!(limits_of(lab), before);
            kill_at(&add, &point);
            run(lab, Ours, "DEL", &merged(config.clone(), &json!({"prevResult": null}))).silent();
            assert_eq!(limits_of(lab), without);
            run(lab, Ours, "ADD", config).result();
        }
    });
}

#[test]
fn two_in_one_chain_complete_each_other() {
    for (first, second) in [("ingress", "egress"), ("egress", "ingress")] {
        let made = [Ours, Theirs].map(|side| {
            let (lab, config) = attached(&both());
            let again = if side == Ours { 2 } else { 1 };
            for _ in 0..again {
                let result = run(&lab, side, "ADD", &merged(config.clone(), &only(first))).result();
                let next = merged(merged(config.clone(), &json!({"prevResult": result})), &only(second));
                let next = merged(next.clone(), &json!({"prevResult": run(&lab, side, "ADD", &next).result()}));
                run(
                    &lab,
                    side,
                    "ADD",
                    &merged(
                        next,
                        &json!({"ingressRate": 0, "ingressBurst": 0,
                    "egressRate": 0, "egressBurst": 0}),
                    ),
                )
                .result();
            }
            run(&lab, Ours, "CHECK", &config).silent();
            traffic_control(&lab)
        });
        assert_eq!(made[0], made[1], "{first} first");
    }
}

#[test]
fn better_an_add_towards_the_container_alone_after_the_references_del_lets_it_speak() {
    let (lab, config) = attached(&both());
    run(&lab, Theirs, "ADD", &config).result();
    run(&lab, Theirs, "DEL", &config).silent();
    run(&lab, Ours, "ADD", &merged(config, &only("ingress"))).result();
    lab.ok("ip netns exec ns1 ping -n -c 1 -W 5 10.1.2.1");
}

#[test]
fn better_an_ifb_that_is_told_already_keeps_its_place() {
    let (lab, config) = attached(&both());
    let mut result = run(&lab, Ours, "ADD", &config).result();
    let mac = result["interfaces"][3]["mac"].take();
    let interfaces = result["interfaces"].as_array_mut().unwrap();
    let ifb = interfaces.remove(3);
    interfaces.insert(0, ifb);
    for ip in result["ips"].as_array_mut().unwrap() {
        assert_eq!(ip["interface"], 2);
        ip["interface"] = json!(3);
    }
    let second = run(&lab, Ours, "ADD", &merged(config, &json!({"prevResult": result}))).result();
    assert_eq!((&second["interfaces"][0]["mac"], &second["ips"]), (&mac, &result["ips"]));
    assert_eq!(second["interfaces"][3]["name"], "eth0");
}

#[test]
fn one_container_is_limited_once_by_many_adds_at_once() {
    let (lab, config) = attached(&both());
    let (before, links) = (traffic_control(&lab), lab.snapshot());
    std::thread::scope(|scope| {
        (0..10).for_each(|_| drop(scope.spawn(|| run(&lab, Ours, "ADD", &config).result())));
    });
    run(&lab, Ours, "CHECK", &config).silent();
    let (fresh, other) = attached(&both());
    run(&fresh, Ours, "ADD", &other).result();
    assert_eq!(limits_of(&lab), limits_of(&fresh));
    run(&lab, Ours, "DEL", &config).silent();
    assert_eq!(traffic_control(&lab), before);
    links.assert_same(&lab.snapshot());
}

#[test]
fn better_somebody_elses_hierarchy_is_left_alone() {
    let (lab, config) = attached(&both());
    let veth = host_end(&config);
    for words in [
        "qdisc add dev VETH root handle 1: htb default 30",
        "class add dev VETH parent 1: classid 1:1 htb rate 100mbit",
        "class add dev VETH parent 1:1 classid 1:10 htb rate 1mbit",
        "class add dev VETH parent 1:1 classid 1:30 htb rate 5mbit",
    ] {
        lab.ok(&format!("tc {}", words.replace("VETH", &veth)));
    }
    let state = || (traffic_control(&lab), lab.ok(&format!("tc class show dev {veth}")).lines().count());
    let before = state();
    let subnets = merged(config.clone(), &json!({"shapedSubnets": ["10.0.0.0/8"]}));
    for config in [&config, &subnets] {
        run(&lab, Ours, "ADD", config).fails(999, "create qdisc: file exists");
        assert_eq!(state(), before);
    }
    run(&lab, Ours, "CHECK", &subnets).fails_with(999, &["Failed to find qdisc"]);
    run(&lab, Ours, "DEL", &subnets).silent();
    assert_eq!(state(), before);
}

#[test]
fn better_a_failed_second_add_brings_limits_on_networks_back() {
    let subnets = json!({"unshapedSubnets": ["10.0.0.0/8", "fd00:7::/40"]});
    let (lab, config) = attached(&merged(both(), &subnets));
    run(&lab, Ours, "ADD", &config).result();
    let state = || {
        let of = |link: &str| {
            [format!("tc class show dev {link}"), format!("tc filter show dev {link}")].map(|words| lab.ok(&words))
        };
        let text = traffic_control(&lab).join("\n") + &of(&host_end(&config)).concat() + &of(IFB).concat();
        // The kernel numbers the queues, from 0x8000 on, of all namespaces together; and it counts packets.
        let words = text.replace("direct_packets_stat ", "direct_packets_stat-");
        let is_number = |word: &&str| {
            let handle = word.strip_suffix(':').and_then(|number| u32::from_str_radix(number, 16).ok());
            word.starts_with("direct_packets_stat") || handle.is_some_and(|handle| (0x8000..0xffff).contains(&handle))
        };
        words.split_whitespace().filter(|word| !is_number(word)).map(str::to_string).collect::<Vec<_>>()
    };
    let before = state();
    for changes in
        [json!({"unshapedSubnets": null}), json!({"unshapedSubnets": ["10.1.0.0/16"], "ingressRate": 7_000_000})]
    {
        let add = call(&lab, Ours, "ADD", &merged(config.clone(), &changes));
        assert_eq!(add.under(&["sh", "-c", "exec \"$0\" \"$@\" >/dev/full"]).run().code, Some(1));
        assert_eq!(state(), before);
        run(&lab, Ours, "CHECK", &config).silent();
    }
}

#[test]
fn better_a_derived_burst_lets_the_longest_packet_through() {
    let (lab, config) = attached(&json!({"ingressRate": 1_000_000, "egressRate": 1_000_000}));
    let veth = host_end(&config);
    lab.ok(&format!("ip link set {veth} mtu 65535"));
    lab.ok("ip -n ns1 link set eth0 mtu 65535");
    lab.ok("ip link set cni0 mtu 65535");
    run(&lab, Ours, "ADD", &config).result();
    lab.ok("ip netns exec ns1 ping -n -c 1 -W 5 -M do -s 65000 10.1.2.1");
    run(&lab, Ours, "CHECK", &config).silent();
    for link in [&veth, IFB] {
        assert_eq!(root(&lab, link)["drops"], json!(0));
    }
}

#[test]
fn better_check_wants_the_ifb_up() {
    let (lab, config) = attached(&both());
    run(&lab, Ours, "ADD", &config).result();
    lab.ok(&format!("ip link set {IFB} down"));
    run(&lab, Ours, "CHECK", &config).fails_with(999, &["ifb", "down"]);
    run(&lab, Ours, "ADD", &config).result();
    run(&lab, Ours, "CHECK", &config).silent();
}

#[test]
fn newer_gc_of_one_network_takes_nothing_from_a_living_container_of_another() {
    const COUNT: usize = 20;
    let lab = Lab::new();
    let netns = |one: usize| format!("many{one}");
    let configs: Vec<Value> = (0..COUNT)
        .map(|one| {
            lab.netns(&netns(one));
            let config = limits(&lab, &format!("c{one}"), &netns(one), "eth0", &both());
            merged(config, &json!({"name": "other"}))
        })
        .collect();
    let gc = json!({"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", "cni.dev/valid-attachments": []});
    let call_of = |one: usize, verb| {
        let call = call(&lab, Ours, verb, &configs[one]).container(&format!("c{one}"));
        call.netns(&format!("/var/run/netns/{}", netns(one)))
    };
    // While they are attached as well as afterwards.
    std::thread::scope(|scope| {
        let adds: Vec<_> =
            (0..COUNT).map(|one| scope.spawn(move || drop(call_of(one, "ADD").run().result()))).collect();
        while !adds.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            run(&lab, Ours, "GC", &gc).silent();
        }
    });
    run(&lab, Ours, "GC", &gc).silent();
    assert_eq!(lab.ok("ip -o link show type ifb").lines().count(), COUNT);
    (0..COUNT).for_each(|one| drop(call_of(one, "CHECK").run().silent()));
    // A container that was forgotten: the network whose GC comes first cleans up.
    lab.ok(&format!("ip link del {}", host_end(&configs[0])));
    run(&lab, Ours, "GC", &gc).silent();
    assert_eq!(lab.ok("ip -o link show type ifb").lines().count(), COUNT - 1);
}
