//! The scenarios: one folder each, and what they share.

#![cfg_attr(
    not(all(target_os = "linux", target_arch = "aarch64")),
    allow(dead_code, reason = "programs and verdicts are for runs, which need KVM on arm64")
)]

mod boot;
mod chaos;
mod coherence;
mod cost;
mod dside;
pub mod inspection;
mod list;
mod litmus;
mod looks;
mod memory;
pub mod options;
pub mod policy;
pub mod projection;
pub mod random;
mod relax;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub mod runner;
pub mod scenario;
pub mod schema;
pub mod storm;
mod table;
mod verdict;

pub use list::{LIST, by_name, viewed};
pub use scenario::{Entry, Scenario};
