//! All integration tests, in one binary: the built program is spawned on private hosts made of namespaces.
//!
//! `CNI_BOX_BIN` names the program (default: cargo's debug build), `CNI_REFERENCE_DIR` the reference plugins (default
//! `/usr/lib/cni`), `CNI_REFERENCE_NEW` those of today (default `target/reference-new`). `CNI_TEST_PLUGINS=reference`
//! puts the reference plugins in the place of ours; tests whose name starts with `better_` (we do better on purpose) or
//! `newer_` (Debian's reference is 1.1.1), and those of programs that it does not have (cnitool, dispatch, gc_command, tap,
//! the flags of today's dhcp daemon), then fail by design.
//!
//! The tests below `previous` need the previous release (`CNI_BOX_PREVIOUS`, default
//! `target/previous`), which `scripts/previous-release.sh` builds.
//!
//! What is below `guest` needs devices that not every kernel has, and what is below `without_ipv6`
//! a kernel without IPv6: `make test-vm` runs them in virtual machines. What is below `runtimes` needs
//! container runtimes: `make test-runtimes` fetches them and runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "clippy.toml allows them in tests, but does not recognise the helpers of an integration test"
)]
#![allow(missing_docs, unreachable_pub, reason = "nobody links against a test binary")]
#![allow(unsafe_code, reason = "entering the lab's namespaces between fork and exec: see lab::enter_before_exec")]

mod about;
mod accidents;
mod advertisements;
mod announce;
mod architecture;
mod bandwidth;
mod bandwidth_after;
mod bandwidth_again;
mod bandwidth_foreign;
mod bandwidth_subnets;
mod bridge;
mod bridge_addresses;
mod bridge_after;
mod bridge_mac;
mod bridge_ranges;
mod bridge_vlans;
mod chained_evidence;
mod chains;
mod chains_of_runtimes;
mod cnitool;
mod cnitool_failures;
mod cnitool_lists;
mod cnitool_network;
mod cnitool_texts;
mod costs;
mod cross;
mod devices;
mod dhcp;
mod dhcp_client;
mod dhcp_daemon;
mod dhcp_errors;
mod dhcp_frames;
mod dhcp_go;
mod dhcp_passed_over;
mod dhcp_renamed;
mod dhcp_routes;
mod dhcp_servers;
mod dispatch;
mod file_systems;
mod firewall;
mod firewall_after;
mod firewall_isolation;
mod firewall_owners;
mod firewall_policy;
mod firewalld;
mod flannel;
mod flannel_after;
mod forwarding;
mod gc_command;
mod gc_safety;
mod gc_words;
mod golden_state;
mod guest;
mod hints;
mod host_device;
mod host_device_after;
mod host_device_evidence;
mod host_local;
mod host_local_life;
mod host_local_power;
mod host_local_store;
mod impossible;
mod interface_moved;
mod iptables_flavours;
mod ipv6_disabled;
mod kills;
mod lab;
mod log;
mod loopback;
mod macvlan;
mod masquerade;
mod masquerade_nft;
mod mtu;
mod named_by_add;
mod portmap;
mod portmap_foreign;
mod portmap_guard;
mod portmap_input;
mod portmap_interfaces;
mod portmap_life;
mod portmap_localnet;
mod portmap_nft;
mod portmap_traffic;
mod prefixed_names;
mod previous;
mod protocol;
mod ptp;
mod ptp_after;
mod read_back;
mod refusals;
mod results;
mod runtimes;
mod sbr;
mod sbr_after;
mod sbr_interfaces;
mod sbr_routes;
mod security;
mod shared_bridge;
mod spoof_check;
mod static_ipam;
mod status;
mod table;
mod tap;
mod tuning;
mod tuning_after;
mod tuning_sysctls;
mod upgrade;
mod validate;
mod validate_errors;
mod validate_input;
mod vrf;
mod walkthroughs;
mod without_ipv6;
