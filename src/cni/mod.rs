//! The CNI protocol: what runtimes send, what plugins answer, and how plugins call one another. Knows nothing of links,
//! rules or addresses in the kernel; `sys` gives it files, processes and namespace identity.

pub mod args;
pub mod attachment;
pub mod cache;
pub mod chain;
pub mod config;
pub mod conflist;
pub mod conflist_files;
pub mod delegate;
pub mod environment;
pub mod json;
pub mod kept;
pub mod keys;
pub mod names;
pub mod originals;
pub mod other_programs;
pub mod plugin;
pub mod plugin_config;
pub mod report;
pub mod result;
mod result_json;
pub mod serve;
#[cfg(test)]
mod testing;
pub mod undo;
pub mod validate;
pub mod version;

pub use config::{NetworkConfig, Object};
pub use environment::Verb;
pub use plugin::{Dependents, Host, Plugin, Position, Request};
pub use result::CniResult;
pub use undo::Undo;
