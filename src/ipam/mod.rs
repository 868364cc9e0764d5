//! Address management: ranges (pure), the reservation store (disk and lock), applying an IPAM plugin's result to an
//! interface, and verifying that it is still applied.

pub mod apply;
pub mod verify;
