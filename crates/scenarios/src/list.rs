//! The list of scenarios, one line each.

use record::result::RunResult;
use record::view::{View, Viewed};

use crate::random::Random;
use crate::random::args::REPLAY;
use crate::scenario::{AnyScenario, Scenario};

/// All scenarios, in the order of the help text.
pub static LIST: &[&dyn AnyScenario] = &[
    &crate::check::Check,
    &crate::relax::Relax,
    &crate::storm::Storm,
    &crate::policy::Policy,
    &crate::dside::DSide,
    &crate::coherence::Coherence,
    &crate::litmus::Litmus,
    &crate::random::Random,
    &crate::boot::Boot,
    &crate::chaos::Chaos,
    &crate::exec::Exec,
];

/// Returns the scenario with this name.
///
/// A run of the programs in a file is stored under the name `replay`. That name returns `random`, which runs them.
pub fn by_name(name: &str) -> Option<&'static dyn AnyScenario> {
    let name = if name == REPLAY { Random::NAME } else { name };
    LIST.iter().copied().find(|scenario| scenario.name() == name)
}

/// Returns a stored run with the view that its scenario gives of it. The view is empty if the scenario is unknown.
pub fn viewed(run: &RunResult) -> Viewed<'_> {
    let view = by_name(&run.scenario).map_or_else(View::default, |scenario| scenario.view(run));
    Viewed { run, view }
}
