//! The scenarios: one folder each, and what they share.

pub mod boot;
pub mod chaos;
pub mod coherence;
mod cost;
pub mod dside;
pub mod inspection;
mod list;
pub mod litmus;
mod looks;
pub mod memory;
pub mod options;
pub mod policy;
pub mod projection;
pub mod random;
pub mod relax;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub mod runner;
pub mod scenario;
pub mod schema;
pub mod storm;
mod table;
#[cfg_attr(not(all(target_os = "linux", target_arch = "aarch64")), expect(dead_code, reason = "only runs need it"))]
mod verdict;

pub use list::{LIST, by_name, viewed};
pub use scenario::{Entry, Scenario};
