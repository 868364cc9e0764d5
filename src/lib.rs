//! All CNI reference plugins and cnitool in one binary. `ARCHITECTURE.md` is the map.

pub mod applets;
pub mod cni;
mod collect;
pub mod dhcp;
pub mod digest;
pub mod dispatch;
pub mod error;
pub mod firewall;
mod install;
pub mod ip_masq;
pub mod ipam;
pub mod net;
pub mod netlink;
pub mod sorted;
pub mod sys;
