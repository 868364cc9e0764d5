//! Tests of the host once more, on the older kernel: the same bodies, with what matters most of their configurations.

use crate::cross::Side::{Ours, Theirs};
use crate::lab::chosen;
use crate::{
    bandwidth_after, bandwidth_subnets, bridge_mac, cross, firewall, gc_command, host_local_life, masquerade, portmap,
    portmap_life, portmap_localnet, portmap_nft, ptp, tap,
};

#[test]
fn masquerade_both_flavours_hold_the_rules_that_the_reference_writes() {
    masquerade::both_flavours_hold_the_rules_that_the_reference_writes();
}

#[test]
fn masqueraded_traffic_comes_back_from_a_place_without_a_route() {
    masquerade::masqueraded_traffic_comes_back_from_a_place_without_a_route();
}

#[test]
fn bridge_the_reference_adds_and_we_check_and_delete() {
    cross::round_trip(Theirs, Ours, &chosen(cross::configurations(), &["dual stack"]));
}

#[test]
fn bridge_we_add_and_the_reference_checks_and_deletes() {
    cross::round_trip(Ours, Theirs, &chosen(cross::configurations(), &["dual stack"]));
}

#[test]
fn bridge_both_make_the_same_result_and_the_same_host() {
    cross::both_make_the_same(&chosen(cross::configurations(), &["walk-through", "dual stack"]));
}

#[test]
fn bridge_containers_that_come_at_once_leave_the_address_of_the_bridge_alone() {
    bridge_mac::better_containers_that_come_at_once_leave_the_address_of_the_bridge_alone();
}

#[test]
fn bridge_one_that_has_its_gateways_address_already_keeps_its_hardware_address() {
    bridge_mac::better_a_bridge_that_has_its_gateways_address_already_keeps_its_hardware_address();
}

#[test]
fn firewall_both_leave_the_same_tables_and_print_the_same_result() {
    firewall::both_leave_the_same(&chosen(firewall::configurations(), &["same-bridge dual", "admin chain"]));
}

#[test]
fn firewall_what_one_adds_the_other_checks_and_deletes() {
    firewall::round_trips(&chosen(firewall::configurations(), &["same-bridge dual"]));
}

#[test]
fn portmap_the_rules_are_those_of_the_reference() {
    portmap::the_rules_are_those_of_the_reference();
}

#[test]
fn portmap_either_cleans_up_after_the_other() {
    portmap_life::newer_either_cleans_up_after_the_other();
}

#[test]
fn portmap_the_tables_are_those_of_the_reference() {
    portmap_nft::newer_the_tables_are_those_of_the_reference_and_two_rules_more();
}

#[test]
fn portmap_a_link_is_guarded_from_the_first_mapping_to_the_last() {
    portmap_localnet::better_a_link_is_guarded_from_the_first_mapping_to_the_last();
}

#[test]
fn ptp_traffic_with_the_host_between_containers_and_masqueraded_to_the_outside() {
    ptp::traffic("iptables", "legacy");
    ptp::traffic("nftables", "nft");
}

#[test]
fn ptp_both_make_the_same_result_host_and_container() {
    ptp::both_make_the_same(chosen(ptp::configurations(), &["dual stack", "masqueraded, old version"]));
}

#[test]
fn tap_the_device_is_what_the_reference_makes() {
    tap::the_device_is_what_the_reference_makes();
}

#[test]
fn tap_frames_pass_between_two_containers_and_with_the_host() {
    tap::frames_pass_between_two_containers_whose_taps_somebody_holds();
    tap::frames_pass_between_a_container_and_the_host();
}

// This kernel does not say whether a namespace is there: it must be looked for.

#[test]
fn host_local_a_namespace_lives_as_long_as_anything_uses_it() {
    host_local_life::pinned_namespaces(&host_local_life::PINS[..3]);
}

#[test]
fn host_local_who_sees_other_processes_takes_nothing_back() {
    host_local_life::other_processes_in_sight();
}

#[test]
fn host_local_a_restarted_container_gets_its_address_again() {
    host_local_life::better_a_restarted_container_gets_its_address_again();
}

// Qdiscs are asked for by number, and told of in another way.

#[test]
fn bandwidth_limits_are_replaced_checked_and_removed() {
    bandwidth_after::better_check_names_what_is_wrong();
    bandwidth_after::better_two_interfaces_of_one_container_are_limited_apart();
    bandwidth_after::better_del_leaves_nothing_on_the_hosts_end();
    bandwidth_subnets::newer_a_second_add_changes_between_the_kinds();
}

#[test]
fn gc_command_another_networks_attachments_stay_when_one_is_named() {
    gc_command::another_networks_attachments_stay_when_one_is_named();
}

#[test]
fn gc_command_attachments_of_the_go_plugins_are_found_by_their_path() {
    gc_command::attachments_of_the_go_plugins_are_found_by_their_path();
}

#[test]
fn gc_command_another_interface_of_the_same_container_loses_nothing() {
    gc_command::another_interface_of_the_same_container_loses_nothing();
}
