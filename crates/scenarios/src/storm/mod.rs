//! The scenario `storm` lets several vCPUs execute the same block at the same time, and measures the stall against the
//! number of vCPUs.

mod args;
pub mod findings;
mod program;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod run;
mod table;
pub mod verdict;

use record::result::RunResult;
use record::view::View;

use crate::options::Common;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use crate::runner::session::{Build, Error, Finished};
use crate::scenario::Scenario;

/// The scenario `storm`.
pub(crate) struct Storm;

impl Scenario for Storm {
    const NAME: &'static str = "storm";
    const ABOUT: &'static str =
        "Let several vCPUs execute the same block at once, and measure the stall against their number";
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
}
