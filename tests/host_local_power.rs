//! host-local when the power fails at any moment, with many writers at once, the Go plugin among them, and with very many
//! reservations.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::host_local::{call, del};
use crate::host_local_life::{reboot, up};
use crate::kills::{changing_calls, kill_at};
use crate::lab::{Call, Lab, host_local_config};

/// A range of one address.
fn one() -> Value {
    json!({"subnet": "10.1.2.0/30"})
}

/// Every system call after the input was read, as name and ordinal.
fn points(lab: &Lab, call: &Call<'_>) -> Vec<(String, usize)> {
    call.clone().under(&["strace", "-f", "-qq", "-o", "/run/lab/trace"]).run().success();
    let mut counts: HashMap<String, usize> = HashMap::new();
    let (mut points, mut has_read) = (Vec::new(), false);
    for line in lab.read("/run/lab/trace").lines() {
        let (name, rest) = line.split_once(' ').unwrap().1.trim_start().split_once('(').unwrap_or_default();
        let ordinal = counts.entry(name.to_string()).and_modify(|count| *count += 1).or_insert(1);
        if has_read && !name.is_empty() {
            points.push((name.to_string(), *ordinal));
        }
        has_read |= name == "read" && rest.starts_with("0,");
    }
    assert!(points.len() > 20, "only {points:?}");
    points
}

/// c2's ADD; true when it got the address.
fn second(lab: &Lab) -> bool {
    let outcome = call(lab, &one()).container("c2").netns("/run/netns/ns2").run();
    if outcome.code == Some(0) {
        return true;
    }
    outcome.fails(999, "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.1-10.1.2.2");
    false
}

#[test]
fn better_after_a_power_cut_at_any_system_call_of_add_the_address_is_owned_or_free() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.netns("ns2");
    let add = call(&lab, &one());
    let points = points(&lab, &add);
    del(&lab, "c1", &one());
    let (mut owned, mut late, mut boot) = (0, 0, 1);
    for point in &points {
        kill_at(&add, point);
        let text = lab.list("/var/lib/cni/networks/net").contains(&"10.1.2.2".to_string());
        let mine = text && lab.read("/var/lib/cni/networks/net/10.1.2.2") == "c1\r\neth0";
        // Nobody else gets the address of a container that may live.
        assert_eq!(second(&lab), !mine, "{point:?}");
        if mine {
            owned += 1;
            lab.sh("ip netns del ns1; ip netns add ns1").success();
            if !second(&lab) {
                // Killed before it was written down where c1 lives: after the next boot it is clear that it does not.
                late += 1;
                boot += 1;
                reboot(&lab, boot);
                assert!(second(&lab), "{point:?}");
            }
        }
        del(&lab, "c1", &one());
        assert_eq!(lab.read("/var/lib/cni/networks/net/10.1.2.2"), "c2\r\neth0", "{point:?}");
        del(&lab, "c2", &one());
        assert_eq!(lab.reserved("net"), [""; 0], "{point:?}");
        assert_eq!(lab.list("/var/lib/cni/networks/.cni-box"), ["net.index"], "{point:?}");
    }
    assert!(owned > 5 && late < 10, "owned after {owned}, recognised late after {late} of {}", points.len());
}

#[test]
fn better_after_a_power_cut_at_any_system_call_of_del_the_next_one_frees_the_address() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.netns("ns2");
    let add = call(&lab, &one());
    let delete = add.clone().verb("DEL");
    add.run().result();
    for point in points(&lab, &delete) {
        add.run().result();
        kill_at(&delete, &point);
        let mine = lab.reserved("net") == ["10.1.2.2"];
        assert_eq!(second(&lab), !mine, "{point:?}");
        delete.run().silent();
        assert_eq!(lab.reserved("net").len(), usize::from(!mine), "{point:?}: c2's stays");
        assert!(!mine || second(&lab), "{point:?}");
        del(&lab, "c2", &one());
    }
}

#[test]
fn better_a_restart_may_be_cut_short_before_any_of_its_changes() {
    let lab = Lab::new();
    lab.netns("ns2");
    let add = call(&lab, &one());
    let fresh = "ip netns del ns1 2>/dev/null || true; ip netns add ns1";
    lab.sh(fresh).success();
    add.run().result();
    lab.sh(fresh).success();
    // To see that the first namespace is gone takes more system calls than can be tried.
    for point in changing_calls(&lab, &add) {
        del(&lab, "c1", &one());
        lab.sh(fresh).success();
        add.run().result();
        lab.sh(fresh).success();
        kill_at(&add, &point);
        // Whatever was reached, a new namespace of the container gets the address, or c2 does if it was free.
        lab.sh(fresh).success();
        let outcome = add.run();
        if outcome.code != Some(0) {
            outcome.fails_with(999, &["duplicate allocation is not allowed"]);
            del(&lab, "c1", &one());
        }
        del(&lab, "c1", &one());
        assert!(second(&lab), "{point:?}");
        del(&lab, "c2", &one());
    }
}

/// Plugin number `index` of two kinds.
fn either<'a>(lab: &'a Lab, ipam: &Value, index: usize) -> Call<'a> {
    let call = if index.is_multiple_of(2) { lab.plugin("host-local") } else { lab.reference("host-local") };
    call.config(&host_local_config(ipam)).container(&format!("c{index}"))
}

#[test]
fn sixty_four_writers_half_of_which_are_the_go_plugin() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.reference("host-local");
    // Just enough addresses for all.
    let ipam = json!({"subnet": "10.1.2.0/25", "rangeStart": "10.1.2.2", "rangeEnd": "10.1.2.65"});
    for _ in 0..2 {
        let given: BTreeSet<String> = std::thread::scope(|scope| {
            let ask = |index| {
                let (lab, ipam) = (&lab, &ipam);
                scope.spawn(move || either(lab, ipam, index).run().result()["ips"][0]["address"].to_string())
            };
            let threads: Vec<_> = (0..64).map(ask).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!((given.len(), lab.reserved("net").len()), (64, 64));
        // Each kind removes what the other has made, while the rest adds and is refused.
        std::thread::scope(|scope| {
            for index in 0..64 {
                let (lab, ipam) = (&lab, &ipam);
                scope.spawn(move || {
                    let one = either(lab, ipam, index + 1).container(&format!("c{index}"));
                    one.verb("DEL").run().silent();
                });
            }
            for index in 100..116 {
                let (lab, ipam) = (&lab, &ipam);
                scope.spawn(move || {
                    either(lab, ipam, index).run();
                    either(lab, ipam, index + 1).container(&format!("c{index}")).verb("DEL").run().silent();
                });
            }
        });
        assert_eq!(lab.reserved("net"), [""; 0]);
    }
}

#[test]
fn each_kind_sees_what_the_other_has_just_done() {
    let lab = Lab::new();
    lab.netns("ns1");
    let ipam = json!({"subnet": "10.1.2.0/27"});
    let mut given = BTreeSet::new();
    for index in 0..20 {
        let result = either(&lab, &ipam, index).run().result();
        assert!(given.insert(result["ips"][0]["address"].to_string()));
        either(&lab, &ipam, index + 1).container(&format!("c{index}")).verb("CHECK").run().silent();
    }
    for index in 0..20 {
        either(&lab, &ipam, index + 1).container(&format!("c{index}")).verb("DEL").run().silent();
        assert_eq!(lab.reserved("net").len(), 19 - index);
    }
}

/// The system calls of a call.
fn count(lab: &Lab, call: &Call<'_>) -> usize {
    call.clone().under(&["strace", "-qq", "-o", "/run/lab/trace"]).run().success();
    lab.read("/run/lab/trace").lines().count()
}

#[test]
fn better_the_work_is_the_same_with_65000_reservations() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.0.0.0/16"});
    assert_eq!(up(&lab, "a", &ipam), "10.0.0.2/16");
    lab.netns("b");
    let add = call(&lab, &ipam).container("b").netns("/run/netns/b");
    let delete = add.clone().verb("DEL");
    let status = call(&lab, &ipam).verb("STATUS").config(&json!({"cniVersion": "1.1.0", "name": "net",
        "ipam": {"type": "host-local", "subnet": "10.0.0.0/16"}}));
    let measure = || [count(&lab, &add), count(&lab, &status), count(&lab, &delete)];
    measure();
    let few = measure();
    lab.sh(r#"cd /var/lib/cni/networks/net
        awk 'BEGIN { for (n = 3; n < 65003; n++) {
            file = "10.0." int(n / 256) "." n % 256; printf "c%d\r\neth0", n > file; close(file) } }'
        printf 10.0.253.234 > last_reserved_ip.0"#)
        .success();
    assert_eq!(up(&lab, "c", &ipam), "10.0.253.235/16");
    measure();
    let many = measure();
    // A few places more or less in the table.
    assert!(
        many.iter().zip(few).all(|(many, few)| *many <= few + 8),
        "{few:?} system calls before, {many:?} with 65,000"
    );
    // And it is as right.
    lab.netns("d");
    let d = call(&lab, &ipam).container("c40000").netns("/run/netns/d");
    d.clone().verb("CHECK").run().silent();
    d.run().fails_with(999, &["10.0.156.64 has been allocated to c40000"]);
    d.clone().verb("DEL").run().silent();
    assert_eq!(lab.reserved("net").len(), 65000 + 2 - 1);
}
