//! host-local on disk: bytes and modes, old and foreign files, full and read-only disks, many callers at once.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::host_local::{add, call, del};
use crate::lab::Lab;

#[test]
fn newer_reservations_have_the_references_bytes_and_modes() {
    let lab = Lab::new();
    assert_eq!(add(&lab, "c1", &json!({"subnet": "10.1.2.0/24"})), ["10.1.2.2/24"]);
    let folder = "/var/lib/cni/networks/net";
    assert_eq!(lab.read(&format!("{folder}/10.1.2.2")), "c1\r\neth0");
    assert_eq!(lab.read(&format!("{folder}/last_reserved_ip.0")), "10.1.2.2");
    assert_eq!(lab.read(&format!("{folder}/lock")), "");
    let mode = |name: &str| std::fs::metadata(lab.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder), 0o755);
    assert_eq!(mode(&format!("{folder}/10.1.2.2")), 0o600);
    assert_eq!(mode(&format!("{folder}/last_reserved_ip.0")), 0o600);
    assert_eq!(mode(&format!("{folder}/lock")), 0o750);
}

#[test]
fn ipv6_reservations_keep_their_colons() {
    let lab = Lab::new();
    assert_eq!(add(&lab, "c1", &json!({"subnet": "2001:DB8:1::/64"})), ["2001:db8:1::2/64"]);
    assert_eq!(lab.reserved("net"), ["2001:db8:1::2"]);
}

#[test]
fn data_dir_moves_the_reservations() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24", "dataDir": "/run/lab/data"});
    add(&lab, "c1", &ipam);
    assert_eq!(lab.read("/run/lab/data/net/10.1.2.2"), "c1\r\neth0");
    assert!(!lab.exists("/var/lib/cni/networks"));
    del(&lab, "c1", &ipam);
    assert!(!lab.exists("/run/lab/data/net/10.1.2.2"));
}

#[test]
fn files_of_old_releases_that_hold_only_the_id_are_honoured() {
    let lab = Lab::new();
    lab.netns("ns1");
    let ipam = json!({"subnet": "10.1.2.0/24"});
    lab.write("/var/lib/cni/networks/net/10.1.2.2", "c1");
    call(&lab, &ipam).verb("CHECK").run().silent();
    assert_eq!(add(&lab, "c2", &ipam), ["10.1.2.3/24"]);
    let again =
        "failed to allocate for range 0: 10.1.2.2 has been allocated to c1, duplicate allocation is not allowed";
    call(&lab, &ipam).run().fails(999, again);
    del(&lab, "c1", &ipam);
    assert_eq!(lab.reserved("net"), ["10.1.2.3"]);
}

#[test]
fn a_spoiled_pointer_starts_again_at_the_beginning() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    lab.write("/var/lib/cni/networks/net/last_reserved_ip.0", "10.1.2.50\n");
    assert_eq!(add(&lab, "a", &ipam), ["10.1.2.2/24"]);
    lab.write("/var/lib/cni/networks/net/last_reserved_ip.0", "10.1.2.50");
    assert_eq!(add(&lab, "b", &ipam), ["10.1.2.51/24"]);
    lab.write("/var/lib/cni/networks/net/last_reserved_ip.0", "192.0.2.1");
    assert_eq!(add(&lab, "c", &ipam), ["10.1.2.3/24"]);
}

#[test]
fn foreign_and_corrupted_files_harm_nobody() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    lab.write("/var/lib/cni/networks/net/10.1.2.2", [0xff, 0xfe, 0, 1]);
    lab.write("/var/lib/cni/networks/net/notes.txt", "c1\r\neth0 was here");
    lab.write("/var/lib/cni/networks/net/folder/file", "x");
    assert_eq!(add(&lab, "c1", &ipam), ["10.1.2.3/24"]);
    call(&lab, &ipam).verb("CHECK").run().silent();
    del(&lab, "c1", &ipam);
    assert_eq!(lab.reserved("net"), ["10.1.2.2"]);
    assert!(lab.exists("/var/lib/cni/networks/net/notes.txt"));
}

#[test]
fn better_an_empty_reservation_is_the_trace_of_a_crash_and_counts_as_free() {
    let lab = Lab::new();
    lab.write("/var/lib/cni/networks/net/10.1.2.2", "");
    assert_eq!(add(&lab, "c1", &json!({"subnet": "10.1.2.0/24"})), ["10.1.2.2/24"]);
    assert_eq!(lab.read("/var/lib/cni/networks/net/10.1.2.2"), "c1\r\neth0");
}

#[test]
fn better_a_container_named_like_the_pointers_content_deletes_only_its_own() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    add(&lab, "a", &ipam);
    del(&lab, "10.1.2.2", &ipam);
    assert_eq!(lab.read("/var/lib/cni/networks/net/last_reserved_ip.0"), "10.1.2.2");
}

#[test]
fn fifty_containers_at_once_get_fifty_addresses() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    let mut given: Vec<_> = std::thread::scope(|scope| {
        let ask = |index: usize| {
            let (lab, ipam) = (&lab, &ipam);
            scope.spawn(move || add(lab, &format!("c{index}"), ipam))
        };
        let threads: Vec<_> = (0..50).map(ask).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 50);
    assert_eq!(lab.reserved("net").len(), 50);
}

#[test]
fn one_container_asking_fifty_times_at_once_gets_one_address() {
    let lab = Lab::new();
    lab.netns("ns1");
    let ipam = json!({"subnet": "10.1.2.0/24"});
    let codes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50).map(|_| scope.spawn(|| call(&lab, &ipam).run().code)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(lab.reserved("net").len(), 1);
}

#[test]
fn one_container_with_fifty_interfaces_at_once_gets_fifty_addresses() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    std::thread::scope(|scope| {
        for index in 0..50 {
            let call = call(&lab, &ipam).ifname(&format!("net{index}"));
            scope.spawn(move || drop(call.run().result()));
        }
    });
    assert_eq!(lab.reserved("net").len(), 50);
}

#[test]
fn a_read_only_state_folder_is_named_in_the_error() {
    let lab = Lab::new();
    lab.sh("mkdir -p /var/lib/cni/networks; mount -t tmpfs -o ro tmpfs /var/lib/cni/networks").success();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    call(&lab, &ipam).run().fails_with(999, &["read-only file system", "/var/lib/cni/networks"]);
}

#[test]
fn a_full_disk_fails_the_add_and_leaves_no_torn_reservation() {
    let lab = Lab::new();
    lab.sh("mkdir -p /run/lab/small/net; mount -t tmpfs -o size=16k,nr_inodes=64 tmpfs /run/lab/small").success();
    lab.sh("mkdir /run/lab/small/net; head -c 100000 /dev/zero > /run/lab/small/filler || true").success();
    let ipam = json!({"subnet": "10.1.2.0/24", "dataDir": "/run/lab/small"});
    call(&lab, &ipam).run().fails_with(999, &["no space left on device"]);
    let left: Vec<_> = lab.list("/run/lab/small/net").into_iter().filter(|name| name.starts_with("10.")).collect();
    assert_eq!(left, [""; 0]);
    lab.sh("rm /run/lab/small/filler").success();
    assert_eq!(add(&lab, "c1", &ipam), ["10.1.2.2/24"]);
}

#[test]
fn ten_thousand_old_reservations_are_stepped_over() {
    let lab = Lab::new();
    lab.sh(r#"mkdir -p /var/lib/cni/networks/net; cd /var/lib/cni/networks/net; i=0
        while [ $i -lt 250 ]; do
            for j in $(seq 0 39); do printf "c$i-$j\r\neth0" > 10.0.$i.$j; done; i=$((i+1))
        done"#)
        .success();
    let result = add(&lab, "c1", &json!({"subnet": "10.0.0.0/16"}));
    assert_eq!(result, ["10.0.0.40/16"]);
}
