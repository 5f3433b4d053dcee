//! `litmus`: races the published litmus tests on instruction fetch, plain and across stage-2 events.

mod args;
mod findings;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod run;
mod table;
mod verdict;

use record::result::RunResult;
use record::view::View;

use crate::options::Common;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use crate::runner::session::{Build, Error, Finished};
use crate::scenario::{Nothing, Scenario};

/// The scenario.
pub struct Litmus;

impl Scenario for Litmus {
    const NAME: &'static str = "litmus";
    const ABOUT: &'static str = "Race the published instruction-fetch litmus tests, plain and across stage-2 events, and count forbidden outcomes";
    type Args = args::Args;
    type Findings = findings::Findings;
    type Conclusion = Nothing;

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
}
