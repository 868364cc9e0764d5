//! Address management: ranges (pure), the reservation store (disk, lock and index), applying an IPAM plugin's result to
//! an interface, and verifying that it is still applied.

pub mod allocate;
pub mod apply;
pub mod candidates;
pub mod index;
pub mod ranges;
pub mod resolv_conf;
pub mod store;
mod table;
pub mod verify;
