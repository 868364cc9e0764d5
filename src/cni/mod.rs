//! The CNI protocol: what runtimes send, what plugins answer, and how plugins call one another. Knows nothing of links,
//! rules or addresses in the kernel; `sys` gives it files, processes and namespace identity.

pub mod args;
pub mod config;
pub mod delegate;
pub mod environment;
pub mod json;
pub mod plugin;
pub mod result;
mod result_json;
pub mod serve;
pub mod undo;
pub mod version;

pub use config::{NetworkConfig, Object};
pub use environment::Verb;
pub use plugin::{Host, Plugin, Request};
pub use result::CniResult;
pub use undo::Undo;
