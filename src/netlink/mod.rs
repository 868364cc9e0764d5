//! Netlink: the bytes of messages and attributes, and the one door through which requests go to the kernel. No unsafe
//! code; sockets come from `sys`.
//!
//! Wire format (`linux/netlink.h`): every datagram is a run of messages, each a 16-byte header (length, type, flags,
//! sequence, port) and a body; bodies hold a fixed struct and then attributes, each a 4-byte header (length, type) and a
//! payload, padded to 4 bytes. All numbers are in host byte order unless a constant's comment says otherwise.

pub mod attributes;
pub mod connection;
pub mod conntrack;
mod family;
mod hints;
pub mod message;
mod names;
pub mod nftables;
pub mod route;
pub mod traffic;

pub use attributes::{Attribute, Attributes};
pub use connection::{Connection, Reply};
pub use message::Message;
