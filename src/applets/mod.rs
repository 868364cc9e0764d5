//! The applets, one file each, and the table of them.

pub mod host_local;
pub mod static_ipam;
