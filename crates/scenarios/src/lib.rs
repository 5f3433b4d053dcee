//! The scenarios of faultline.
//!
//! A scenario is a kind of run. It has options, a program for the guest, a rule for the verdict, and a view of its
//! stored results. Each scenario is one folder, which implements [`Scenario`], and one line of [`LIST`]. The modules
//! beside the folders hold the code that several scenarios share. Runs need KVM on arm64 Linux. Everything else works on
//! any host.
//!
//! Do not put here:
//!
//! - code of one scenario that another one uses. No scenario knows another: code for two of them goes beside the
//!   folders.
//! - access to the machine outside of `runner/` and the `run.rs` of a scenario. The other files are pure.
//! - a layout of results. A scenario returns its part as a `record::view::View`, and the crate `report` prints it.
//!
//! ```
//! use faultline_scenarios::{LIST, by_name};
//!
//! for scenario in LIST {
//!     println!("{}", scenario.name());
//! }
//! let relax = by_name("relax").expect("`relax` is in the list");
//! assert!(relax.command().get_arguments().any(|option| option.get_long() == Some("blocks")));
//! assert!(by_name("no-such-scenario").is_none());
//! ```

#![cfg_attr(
    not(all(target_os = "linux", target_arch = "aarch64")),
    allow(dead_code, reason = "only runs use programs and verdicts, and runs need KVM on arm64")
)]

mod boot;
mod budget;
mod chaos;
pub mod check;
mod coherence;
mod cost;
mod dside;
mod exec;
mod icache;
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
pub use scenario::{AnyScenario, Scenario};
