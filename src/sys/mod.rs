//! System calls. The only layer with `unsafe`, each block with the reason it is sound.
#![allow(unsafe_code)] // This is the layer that the rest of the crate forbids it for.

pub mod background;
pub mod changes;
mod child;
mod ending;
pub mod events;
pub mod file;
mod heap;
pub mod ipv6;
pub mod listen;
pub mod lock;
pub mod log;
pub mod namespaces;
pub mod netns;
pub mod output;
pub mod packet_socket;
pub mod process;
pub mod random;
pub mod rights;
pub mod socket;
pub mod tun;
pub mod unix;
pub mod watch;
pub mod xtables;
