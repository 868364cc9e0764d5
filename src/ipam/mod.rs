//! Address management: ranges (pure), the reservation store (disk and lock), delegation to IPAM plugins, and applying
//! their result to an interface.

pub mod allocate;
pub mod candidates;
pub mod index;
pub mod ranges;
pub mod resolv_conf;
pub mod store;
mod table;
#[cfg(test)]
pub(crate) mod testing;
