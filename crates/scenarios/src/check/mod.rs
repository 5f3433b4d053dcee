//! The scenario `check` answers one question: whether this kernel on this machine has the I-side lockup of the report.
//!
//! It measures one kind of memory after the other, from the smallest block, and stops as soon as the measurements
//! answer. So it provokes no longer stall than it must.

mod answer;
mod args;
pub mod findings;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod run;
mod view;

use record::result::RunResult;
use record::view::View;

use crate::options::Common;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use crate::runner::session::{Build, Error, Finished};
use crate::scenario::Scenario;

/// The scenario `check`.
pub struct Check;

impl Scenario for Check {
    const NAME: &'static str = "check";
    const ABOUT: &'static str = "Answer whether this kernel on this machine has the I-side lockup";
    type Args = args::Args;
    type Findings = findings::Findings;
    type Conclusion = findings::Conclusion;

    fn common(args: &args::Args) -> &Common {
        &args.common
    }

    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    fn run(args: &args::Args, build: &Build) -> Result<Finished, Error> {
        run::run(args, build)
    }

    fn view(run: &RunResult) -> View {
        view::view(run)
    }

    fn conclude_with_counts(run: &mut RunResult) {
        answer::conclude_with_counts(run);
    }
}
