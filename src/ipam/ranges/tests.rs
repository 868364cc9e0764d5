use serde_json::{Value, json};

use super::*;

fn complete_json(sets: Value, cni_version: &str) -> Result<Vec<RangeSet>> {
    let document = json!({ "ranges": sets });
    let top = Object::top(document.as_object().unwrap());
    complete(&Draft::decode_sets(&top, "ranges")?, cni_version)
}

fn text(sets: Value) -> String {
    complete_json(sets, "1.0.0").unwrap_err().msg.clone()
}

/// One range set of one range.
fn one(range: Value) -> RangeSet {
    complete_json(json!([[range]]), "1.0.0").unwrap().remove(0)
}

#[test]
fn what_is_missing_is_filled_in() {
    let set = one(json!({"subnet": "10.1.2.0/24"}));
    assert_eq!(
        (set.to_string(), set.ranges()[0].gateway().to_string()),
        ("10.1.2.1-10.1.2.254".into(), "10.1.2.1".into())
    );
    let set = one(json!({"subnet": "2001:DB8:1::/64", "gateway": "", "rangeStart": null}));
    assert_eq!(set.to_string(), "2001:db8:1::1-2001:db8:1:0:ffff:ffff:ffff:ffff");
    assert_eq!(one(json!({"subnet": "0.0.0.0/0"})).to_string(), "0.0.0.1-255.255.255.254");
    assert_eq!(one(json!({"subnet": "::/0"})).to_string(), "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
}

#[test]
fn network_broadcast_and_foreign_gateways_are_allowed_when_asked_for() {
    let range =
        json!({"subnet": "10.0.0.0/30", "rangeStart": "10.0.0.0", "rangeEnd": "10.0.0.3", "gateway": "fe80::1"});
    let set = one(range);
    assert_eq!(set.to_string(), "10.0.0.0-10.0.0.3");
    assert_eq!(set.ranges()[0].gateway().to_string(), "fe80::1");
    assert_eq!(set.ranges()[0].with_prefix("10.0.0.3".parse().unwrap()).to_string(), "10.0.0.3/30");
}

#[test]
fn a_range_that_makes_no_sense_is_refused_with_the_references_words() {
    let host_bits = "Network has host bits set. For a subnet mask of length 24 the network address is 10.0.1.0";
    let cases = [
        (json!({}), "IP <nil> not v4 nor v6"),
        (json!(null), "IP <nil> not v4 nor v6"),
        (json!({"subnet": "10.0.1.0/31"}), "Network 10.0.1.0/31 too small to allocate from"),
        (json!({"subnet": "10.0.1.1/32"}), "Network 10.0.1.1/32 too small to allocate from"),
        (json!({"subnet": "10.0.1.1/31"}), "Network 10.0.1.1/31 too small to allocate from"),
        (json!({"subnet": "fd00::/127"}), "Network fd00::/127 too small to allocate from"),
        (json!({"subnet": "::ffff:10.0.0.0/127"}), "Network 10.0.0.0/31 too small to allocate from"),
        (json!({"subnet": "::ffff:10.0.0.0/120"}), "IPNet IP and Mask version mismatch"),
        (json!({"subnet": "::ffff:10.0.0.0/64"}), "IPNet IP and Mask version mismatch"),
        (json!({"subnet": "10.0.1.9/24"}), host_bits),
        (json!({"subnet": "10.0.1.0/24", "rangeStart": "10.0.2.1"}), "RangeStart 10.0.2.1 not in network 10.0.1.0/24"),
        (json!({"subnet": "10.0.1.0/24", "rangeStart": "fd00::1"}), "RangeStart fd00::1 not in network 10.0.1.0/24"),
        (
            json!({"subnet": "10.0.1.0/24", "rangeStart": "10.0.1.9", "rangeEnd": "10.0.1.8"}),
            "RangeStart 10.0.1.9 not in network 10.0.1.0/24",
        ),
        (json!({"subnet": "10.0.1.0/24", "rangeEnd": "10.0.2.1"}), "RangeEnd 10.0.2.1 not in network 10.0.1.0/24"),
        (json!({"subnet": "10.0.1.0/24", "rangeEnd": "10.0.1.0"}), "RangeEnd 10.0.1.0 not in network 10.0.1.0/24"),
        (
            json!({"subnet": "10.0.1.0/24", "rangeStart": "10.0.1.9", "rangeEnd": "fd00::"}),
            "RangeEnd fd00:: not in network 10.0.1.0/24",
        ),
    ];
    for (range, expected) in cases {
        assert_eq!(text(json!([[{"subnet": "10.9.0.0/24"}], [range]])), format!("invalid range set 1: {expected}"));
    }
}

#[test]
fn sets_are_refused_with_the_references_words() {
    assert_eq!(text(json!([])), "no IP ranges specified");
    assert_eq!(text(json!([[]])), "invalid range set 0: empty range set");
    assert_eq!(text(json!([null])), "invalid range set 0: empty range set");
    assert_eq!(
        text(json!([[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]])),
        "invalid range set 0: mixed address families"
    );
    assert_eq!(
        text(json!([[{"subnet": "10.0.0.0/16"}, {"subnet": "10.1.0.0/24"}, {"subnet": "10.0.1.0/24"}]])),
        "invalid range set 0: subnets 10.0.0.1-10.0.255.254 and 10.0.1.1-10.0.1.254 overlap"
    );
    assert_eq!(
        text(json!([[{"subnet": "10.0.0.0/16"}], [{"subnet": "fd00::/64"}], [{"subnet": "10.0.1.0/24"}]])),
        "range set 0 overlaps with 2"
    );
}

#[test]
fn decoding_comes_before_everything_else() {
    assert_eq!(text(json!([[], [{"subnet": "x"}]])), "invalid CIDR address: x");
    assert_eq!(text(json!([[], [{"subnet": ""}]])), "invalid CIDR address: ");
    assert_eq!(text(json!([[], [{"gateway": "zz"}]])), "invalid IP address: zz");
    assert_eq!(text(json!([3])), "json: cannot unmarshal number 3 into key \"ranges\" of type list");
    assert!(text(json!([[{"subnet": 1}]])).contains("\"ranges[0][0].subnet\""));
}

#[test]
fn disjoint_windows_of_one_subnet_do_not_overlap() {
    let low = json!({"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.9"});
    let high = json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.10"});
    assert_eq!(complete_json(json!([[low], [high]]), "0.3.0").unwrap().len(), 2);
    let set = complete_json(json!([[low, high]]), "").unwrap().remove(0);
    assert_eq!(set.to_string(), "10.0.0.1-10.0.0.9,10.0.0.10-10.0.0.254");
    assert!(set.contains("10.0.0.10".parse().unwrap()) && !set.contains("::ffff:10.0.0.10".parse().unwrap()));
}

#[test]
fn old_versions_have_one_address_of_each_family() {
    let mixed = json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]);
    assert!(complete_json(mixed, "0.2.0").is_ok());
    let both = json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/24"}]]);
    let limit = "CNI version 0.2.0 does not support more than 1 address per family";
    assert_eq!(complete_json(both.clone(), "0.2.0").unwrap_err().msg, limit);
    assert_eq!(complete_json(both, "0.3.0").unwrap_err().msg, "range set 0 overlaps with 1");
}
