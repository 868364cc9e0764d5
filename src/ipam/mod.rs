//! Address management: ranges (pure), the reservation store (disk and lock), delegation to IPAM plugins, and applying
//! their result to an interface.
