//! All CNI reference plugins and cnitool in one binary. `ARCHITECTURE.md` is the map.

pub mod error;
pub mod firewall;
pub mod netlink;
pub mod sys;
