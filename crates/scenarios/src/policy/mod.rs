//! The scenario `policy` finds out which I-cache maintenance a kernel does at stage 2.

mod args;
pub mod findings;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod run;
mod table;
mod verdict;

use record::result::RunResult;
use record::view::View;

use crate::options::Common;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use crate::runner::session::{Build, Error, Finished};
use crate::scenario::Scenario;

/// The scenario `policy`.
pub struct Policy;

impl Scenario for Policy {
    const NAME: &'static str = "policy";
    const ABOUT: &'static str = "Find out which I-cache maintenance this kernel does";
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
        table::view(run)
    }

    fn conclude_with_counts(run: &mut RunResult) {
        verdict::conclude_with_counts(run);
    }
}
