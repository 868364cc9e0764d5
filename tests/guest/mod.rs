//! What needs another kernel than the host may have: `make test-vm` runs these tests, and only these, in a virtual machine
//! with Debian's kernel (scripts/test-vm.sh). The host runs all others.
//!
//! A test goes here if it makes a vlan, ipvlan, dummy or vrf link or filters VLANs on a bridge. It is written like any
//! other; if it calls a program, loads a module or compares with a reference plugin that no test here has needed before,
//! scripts/vm-image.sh must be told. Programs start slowly in the guest: few calls, small loops.

mod advertisements;
mod again;
mod bridge_vlans;
mod chains;
mod devices;
mod host_device;
mod kernel;
mod modes;
mod portmap;
mod table;
mod traffic;
mod vrf;
