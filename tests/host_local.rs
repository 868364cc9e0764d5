//! host-local: which address, what is on disk, and every text of `ipam.md` part A.

use serde_json::{Value, json};

use crate::lab::{Call, Lab, host_local_config};

/// host-local called directly, as by a plugin in the container's namespace of c1.
pub fn call<'a>(lab: &'a Lab, ipam: &Value) -> Call<'a> {
    lab.plugin("host-local").config(&host_local_config(ipam))
}

/// Addresses of a result.
fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().to_string()).collect()
}

pub fn add(lab: &Lab, container: &str, ipam: &Value) -> Vec<String> {
    addresses(&call(lab, ipam).container(container).run().result())
}

pub fn del(lab: &Lab, container: &str, ipam: &Value) {
    call(lab, ipam).container(container).verb("DEL").run().silent();
}

#[test]
fn the_first_address_is_the_one_after_the_gateway() {
    let lab = Lab::new();
    let result = call(&lab, &json!({"subnet": "10.1.2.0/24", "routes": [{"dst": "0.0.0.0/0"}]})).run().result();
    assert_eq!(addresses(&result), ["10.1.2.2/24"]);
    assert_eq!(result["ips"][0]["gateway"], "10.1.2.1");
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0"}]));
    assert_eq!(result["ips"][0].get("interface"), None);
    assert_eq!(result.get("interfaces"), None);
}

#[test]
fn released_addresses_wait_for_the_wrap_around() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.12"});
    assert_eq!(add(&lab, "a", &ipam), ["10.1.2.10/24"]);
    del(&lab, "a", &ipam);
    assert_eq!(add(&lab, "b", &ipam), ["10.1.2.11/24"]);
    assert_eq!(add(&lab, "c", &ipam), ["10.1.2.12/24"]);
    assert_eq!(add(&lab, "d", &ipam), ["10.1.2.10/24"]);
    let error = "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.10-10.1.2.12";
    call(&lab, &ipam).container("e").run().fails(999, error);
    del(&lab, "b", &ipam);
    assert_eq!(add(&lab, "e", &ipam), ["10.1.2.11/24"]);
}

#[test]
fn a_gateway_inside_the_range_is_never_given_away() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/29", "gateway": "10.1.2.3"});
    for (container, address) in [("a", "10.1.2.1/29"), ("b", "10.1.2.2/29"), ("c", "10.1.2.4/29")] {
        assert_eq!(add(&lab, container, &ipam), [address]);
    }
}

#[test]
fn network_and_broadcast_are_given_away_when_they_are_asked_for() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/30", "rangeStart": "10.1.2.0", "rangeEnd": "10.1.2.3"});
    for (container, address) in [("a", "10.1.2.0/30"), ("b", "10.1.2.2/30"), ("c", "10.1.2.3/30")] {
        assert_eq!(add(&lab, container, &ipam), [address]);
    }
}

#[test]
fn one_address_per_range_set_in_order() {
    let lab = Lab::new();
    let ipam = json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/64"}],
        [{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.7"}, {"subnet": "10.8.0.0/24"}]]});
    assert_eq!(add(&lab, "c1", &ipam), ["10.1.2.2/24", "2001:db8::2/64", "10.9.0.7/24"]);
    assert_eq!(lab.read("/var/lib/cni/networks/net/last_reserved_ip.2"), "10.9.0.7");
    call(&lab, &ipam).verb("CHECK").run().silent();
    del(&lab, "c1", &ipam);
    assert_eq!(lab.reserved("net"), [""; 0]);
}

#[test]
fn the_single_range_comes_before_the_ranges_and_runtime_ranges_before_both() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24", "ranges": [[{"subnet": "10.3.0.0/24"}]]});
    let mut config = host_local_config(&ipam);
    config["runtimeConfig"] = json!({"ipRanges": [[{"subnet": "10.5.0.0/24"}]]});
    let result = lab.plugin("host-local").config(&config).run().result();
    assert_eq!(addresses(&result), ["10.5.0.2/24", "10.1.2.2/24", "10.3.0.2/24"]);
}

#[test]
fn a_range_set_continues_in_its_next_range() {
    let lab = Lab::new();
    let ipam = json!({"ranges": [[{"subnet": "10.1.2.0/30"}, {"subnet": "10.1.4.0/30"}]]});
    assert_eq!(add(&lab, "a", &ipam), ["10.1.2.2/30"]);
    assert_eq!(add(&lab, "b", &ipam), ["10.1.4.2/30"]);
    let set = "10.1.2.1-10.1.2.2,10.1.4.1-10.1.4.2";
    let error = format!("failed to allocate for range 0: no IP addresses available in range set: {set}");
    call(&lab, &ipam).container("c").run().fails(999, &error);
}

#[test]
fn addresses_may_be_requested_in_three_ways() {
    let lab = Lab::new();
    let ipam =
        json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.3.0.0/24"}], [{"subnet": "10.5.0.0/24"}]]});
    let mut config = host_local_config(&ipam);
    config["args"] = json!({"cni": {"ips": ["10.3.0.50/24"]}});
    config["runtimeConfig"] = json!({"ips": ["10.5.0.60"]});
    let call = lab.plugin("host-local").config(&config).args("IP=10.1.2.40");
    assert_eq!(addresses(&call.run().result()), ["10.1.2.40/24", "10.3.0.50/24", "10.5.0.60/24"]);
    assert_eq!(lab.read("/var/lib/cni/networks/net/last_reserved_ip.0"), "10.1.2.40");
}

#[test]
fn requests_that_cannot_be_met_say_why_and_reserve_nothing() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    assert_eq!(add(&lab, "other", &ipam), ["10.1.2.2/24"]);
    let set = "10.1.2.1-10.1.2.254";
    let taken =
        format!("failed to allocate for range 0: requested IP address 10.1.2.2 is not available in range set {set}");
    for (args, error) in [
        ("IP=10.1.2.2", taken.as_str()),
        ("IP=10.1.2.1", "failed to allocate for range 0: requested ip 10.1.2.1 is subnet's gateway"),
        ("IP=10.9.9.9", "failed to allocate all requested IPs: 10.9.9.9"),
        ("IP=zz", "ARGS: error parsing value of pair \"IP=zz\": invalid IP address zz"),
    ] {
        call(&lab, &ipam).args(args).run().fails(999, error);
        assert_eq!(lab.reserved("net"), ["10.1.2.2"], "{args}");
    }
}

#[test]
fn the_same_attachment_gets_no_second_address() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    let again =
        "failed to allocate for range 0: 10.1.2.2 has been allocated to c1, duplicate allocation is not allowed";
    lab.netns("ns1");
    assert_eq!(add(&lab, "c1", &ipam), ["10.1.2.2/24"]);
    call(&lab, &ipam).run().fails(999, again);
    let other = call(&lab, &ipam).ifname("net1").run().result();
    assert_eq!(addresses(&other), ["10.1.2.3/24"]);
}

#[test]
fn better_a_failed_second_add_keeps_the_live_containers_addresses() {
    let lab = Lab::new();
    lab.netns("ns1");
    let ipam = json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.3.0.0/24"}]]});
    add(&lab, "c1", &ipam);
    let before = lab.reserved("net");
    call(&lab, &ipam).args("IP=10.1.2.77").run().error();
    assert_eq!(lab.reserved("net"), before);
}

#[test]
fn a_second_set_that_is_full_undoes_the_first() {
    let lab = Lab::new();
    let full = json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.3.0.0/30"}]]});
    add(&lab, "other", &full);
    let before = lab.reserved("net");
    let set = "10.3.0.1-10.3.0.2";
    let error = format!("failed to allocate for range 1: no IP addresses available in range set: {set}");
    call(&lab, &full).run().fails(999, &error);
    assert_eq!(lab.reserved("net"), before);
}

#[test]
fn configurations_that_make_no_sense_are_refused_with_the_references_words() {
    let lab = Lab::new();
    let network_texts = [
        (json!({}), "no IP ranges specified"),
        (json!({"ranges": [[]]}), "invalid range set 0: empty range set"),
        (json!({"ranges": [[{}]]}), "invalid range set 0: IP <nil> not v4 nor v6"),
        (json!({"subnet": "10.0.1.0/31"}), "invalid range set 0: Network 10.0.1.0/31 too small to allocate from"),
        (json!({"subnet": "2001:db8::/127"}), "invalid range set 0: Network 2001:db8::/127 too small to allocate from"),
        (
            json!({"subnet": "10.0.1.2/24"}),
            "invalid range set 0: Network has host bits set. For a subnet mask of length 24 the network address is 10.0.1.0",
        ),
        (
            json!({"subnet": "10.0.1.0/24", "rangeStart": "10.0.2.1"}),
            "invalid range set 0: RangeStart 10.0.2.1 not in network 10.0.1.0/24",
        ),
        (
            json!({"subnet": "10.0.1.0/24", "rangeEnd": "10.0.2.1"}),
            "invalid range set 0: RangeEnd 10.0.2.1 not in network 10.0.1.0/24",
        ),
        (
            json!({"subnet": "10.0.1.0/24", "rangeStart": "10.0.1.9", "rangeEnd": "10.0.1.5"}),
            "invalid range set 0: RangeStart 10.0.1.9 not in network 10.0.1.0/24",
        ),
        (
            json!({"ranges": [[{"subnet": "10.0.1.0/24"}, {"subnet": "2001:db8::/64"}]]}),
            "invalid range set 0: mixed address families",
        ),
        (
            json!({"ranges": [[{"subnet": "10.0.1.0/24"}, {"subnet": "10.0.0.0/16"}]]}),
            "invalid range set 0: subnets 10.0.1.1-10.0.1.254 and 10.0.0.1-10.0.255.254 overlap",
        ),
        (json!({"ranges": [[{"subnet": "10.0.1.0/24"}], [{"subnet": "10.0.0.0/16"}]]}), "range set 0 overlaps with 1"),
    ];
    for (ipam, text) in network_texts {
        call(&lab, &ipam).run().fails(999, text);
    }
    assert_eq!(lab.list("/var/lib/cni/networks"), [""; 0], "nothing was reserved");
}

#[test]
fn configurations_of_other_shapes_are_refused() {
    let lab = Lab::new();
    let missing = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge"});
    lab.plugin("host-local").config(&missing).run().fails(999, "IPAM config missing 'ipam' key");
    let mut old = host_local_config(&json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.3.0.0/24"}]]}));
    old["cniVersion"] = json!("0.2.0");
    let text = "CNI version 0.2.0 does not support more than 1 address per family";
    lab.plugin("host-local").config(&old).run().fails(999, text);
    for ipam in [json!({"subnet": 5}), json!({"ranges": {}}), json!({"subnet": "10.1.2.0"}), json!({"dataDir": []})] {
        call(&lab, &ipam).run().fails_with(999, &[]);
    }
}

#[test]
fn two_sets_may_share_a_subnet_when_their_windows_are_apart() {
    let lab = Lab::new();
    let ipam = json!({"ranges": [[{"subnet": "10.1.2.0/24", "rangeEnd": "10.1.2.99"}],
        [{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.100"}]]});
    assert_eq!(add(&lab, "c1", &ipam), ["10.1.2.2/24", "10.1.2.100/24"]);
}

#[test]
fn resolv_conf_becomes_dns() {
    let lab = Lab::new();
    let text = "# a comment\n; another\nnameserver 192.0.2.1 trailing\n\nnameserver 2001:db8::53\ndomain first\n\
                domain second.example\nsearch a.example b.example\nsearch c.example\noptions ndots:2\nother x\nlonely\n";
    lab.write("/run/lab/resolv.conf", text);
    let result = call(&lab, &json!({"subnet": "10.1.2.0/24", "resolvConf": "/run/lab/resolv.conf"})).run().result();
    let expected = json!({"nameservers": ["192.0.2.1", "2001:db8::53"], "domain": "second.example",
        "search": ["a.example", "b.example", "c.example"], "options": ["ndots:2"]});
    assert_eq!(result["dns"], expected);
}

#[test]
fn a_resolv_conf_that_is_missing_fails_before_anything_is_reserved() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24", "resolvConf": "/nope"});
    call(&lab, &ipam).run().fails(999, "open /nope: no such file or directory");
    assert_eq!(lab.reserved("net"), [""; 0]);
}

#[test]
fn check_fails_for_a_container_without_address() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    let text = "host-local: Failed to find address added by container c1";
    call(&lab, &ipam).verb("CHECK").run().fails(999, text);
    add(&lab, "c1", &ipam);
    call(&lab, &ipam).verb("CHECK").run().silent();
    call(&lab, &ipam).verb("CHECK").ifname("net1").run().fails(999, text);
}

#[test]
fn del_of_what_is_not_there_succeeds_every_time() {
    let lab = Lab::new();
    let ipam = json!({"subnet": "10.1.2.0/24"});
    del(&lab, "c1", &ipam);
    add(&lab, "c1", &ipam);
    add(&lab, "c2", &ipam);
    del(&lab, "c1", &ipam);
    del(&lab, "c1", &ipam);
    call(&lab, &ipam).without("CNI_NETNS").container("c1").verb("DEL").run().silent();
    assert_eq!(lab.reserved("net"), ["10.1.2.3"]);
}

#[test]
fn del_releases_addresses_of_ranges_that_are_no_longer_configured() {
    let lab = Lab::new();
    add(&lab, "c1", &json!({"subnet": "10.1.2.0/24"}));
    del(&lab, "c1", &json!({"subnet": "10.9.0.0/24"}));
    assert_eq!(lab.reserved("net"), [""; 0]);
}

#[test]
fn better_del_needs_only_name_and_data_dir() {
    let lab = Lab::new();
    add(&lab, "c1", &json!({"subnet": "10.1.2.0/24"}));
    call(&lab, &json!({})).verb("DEL").args("nonsense").run().silent();
    assert_eq!(lab.reserved("net"), [""; 0]);
}

/// A FIFO, or a device, whose reading never ends.
#[test]
fn better_a_resolv_conf_that_never_ends_is_an_error() {
    let lab = Lab::new();
    lab.netns("ns1");
    lab.ok("mkfifo /run/fifo");
    for (path, text) in
        [("/run/fifo", "/run/fifo is not a regular file"), ("/dev/zero", "/dev/zero is not a regular file")]
    {
        let config = host_local_config(&json!({"subnet": "10.1.2.0/24", "resolvConf": path}));
        lab.plugin("host-local").config(&config).run().fails_with(999, &[text]);
    }
    assert_eq!(lab.list("/var/lib/cni/networks/net").iter().filter(|name| name.starts_with("10.")).count(), 0);
    let config = host_local_config(&json!({"subnet": "10.1.2.0/24", "resolvConf": "/dev/null"}));
    lab.plugin("host-local").config(&config).run().result();
}
