//! The list of scenarios: one line each.

use record::result::RunResult;
use record::view::{View, Viewed};

use crate::scenario::{Entry, Scenario};
use crate::{boot, chaos, coherence, dside, litmus, policy, random, relax, storm};

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
    let name = if name == random::args::REPLAY { random::Random::NAME } else { name };
    LIST.into_iter().find(|scenario| scenario.name() == name)
}

/// Returns a stored run with its view. A run of an unknown scenario has an empty one.
pub fn viewed(run: &RunResult) -> Viewed<'_> {
    let view = by_name(&run.scenario).map_or_else(View::default, |scenario| scenario.view(run));
    Viewed { run, view }
}
