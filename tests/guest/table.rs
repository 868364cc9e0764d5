//! Of tests/table.rs what needs links that not every kernel has: the whole life of a container, beside the reference 1.9.1.

use crate::table::compare_what_is_made;

/// One version of each shape of results: programs of Go start slowly here.
const VERSIONS: [&str; 3] = ["0.2.0", "0.4.0", "1.1.0"];

#[test]
fn newer_dummy() {
    compare_what_is_made("dummy", &VERSIONS);
}

#[test]
fn newer_ipvlan() {
    compare_what_is_made("ipvlan", &VERSIONS);
}

#[test]
fn newer_vlan() {
    compare_what_is_made("vlan", &VERSIONS);
}

#[test]
fn newer_vrf() {
    compare_what_is_made("vrf", &VERSIONS);
}
