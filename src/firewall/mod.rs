//! Firewall rules as data, and the backends that render them.
//!
//! A caller says which chains and rules a table shall have or lose; a backend turns that into what the kernel stores,
//! in one atomic step for each address family. Existing rules are understood by meaning, not by bytes, because programs
//! of different ages write the same rule differently; what we don't understand stays as it is.
//!
//! - [`rule`]: rules as data. [`place`]: where they are kept, what a plan sees there and does.
//! - [`session`]: the door to all of it.
//! - `nf_tables`: nf_tables over nfnetlink, with the expressions that the program `iptables-nft` writes and reads in
//!   tables of iptables, and those that `nft` writes in other tables.
//! - `x_tables`: the blob of `iptables-legacy` over socket options, under iptables' lock.
//! - [`flavour`]: which of the two kinds of iptables a host uses.
//! - [`conntrack`]: forgetting flows that rules no longer explain.
//! - [`masquerade`]: source NAT of containers (the reference's `ipMasq`).
//! - [`filter`]: whether packets of containers are forwarded (the reference's `firewall` plugin); [`firewalld`]: the same,
//!   asked of firewalld over D-Bus; [`owners`]: whose addresses that was done for.
//! - [`index`]: finding rules among thousands.
//! - [`records`]: small files below /run for facts that rules cannot hold.
//! - [`spoof_check`]: containers send with their own hardware address only (the reference's `macspoofchk`).

pub mod conntrack;
mod extensions;
pub mod filter;
pub mod firewalld;
pub mod flavour;
#[cfg(test)]
mod golden;
pub mod index;
pub mod masquerade;
pub mod names;
mod nf_tables;
pub mod owners;
pub mod place;
pub mod records;
pub mod rule;
mod rule_text;
pub mod session;
pub mod spoof_check;
#[cfg(test)]
pub(crate) mod testing;
mod x_tables;

pub use place::{Edit, Place, Table, View};
pub use rule::{Family, Match, Rule, Target};
pub use session::Session;
