//! The applets, one file each, and the table of them.

pub mod cnitool;
