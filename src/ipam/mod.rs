//! Address management: ranges (pure), the reservation store (disk, lock and index), applying an IPAM plugin's result to
//! an interface, verifying that it is still applied, and finding what is left of it. What plugins with one interface in the
//! container have in common is here too (attach, master), and what `tuning` remembers of links (tuned), because this is where
//! configurations and the kernel meet.

pub mod advertisements;
pub mod allocate;
pub mod apply;
pub mod attach;
pub mod candidates;
pub mod card;
pub mod detach;
pub mod evidence;
pub mod index;
pub mod interface_record;
pub mod interface_search;
pub mod master;
pub mod mtu;
pub mod own_card;
pub mod own_link;
pub mod plan;
pub mod point_to_point;
pub mod ranges;
mod record;
pub mod resolv_conf;
pub mod store;
mod table;
#[cfg(test)]
pub(crate) mod testing;
pub mod tuned;
pub mod verify;
