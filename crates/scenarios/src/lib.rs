//! The scenarios: one folder each, and what they share.

pub mod boot;
pub mod chaos;
pub mod coherence;
mod cost;
pub mod dside;
pub mod inspection;
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

use record::result::RunResult;
use record::view::{View, Viewed};

pub use scenario::{Entry, Scenario};

/// Every scenario, in the order of the help text.
pub static LIST: [&dyn Entry; 9] = [
    &relax::Relax,
    &storm::Storm,
    &policy::Policy,
    &dside::DSide,
    &coherence::Coherence,
    &litmus::Litmus,
    &random::Random,
    &boot::Boot,
    &chaos::Chaos,
];

/// Returns the scenario of this name; `replay` runs the programs of `random` from a file.
pub fn by_name(name: &str) -> Option<&'static dyn Entry> {
    let name = if name == random::REPLAY { random::Random::NAME } else { name };
    LIST.into_iter().find(|scenario| scenario.name() == name)
}

/// Returns a stored run with its view. A run of an unknown scenario has an empty one.
pub fn viewed(run: &RunResult) -> Viewed<'_> {
    let view = by_name(&run.scenario).map_or_else(View::default, |scenario| scenario.view(run));
    Viewed { run, view }
}
