//! The binary: everything happens in `dispatch`.
fn main() {}
