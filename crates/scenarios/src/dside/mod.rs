//! The scenario `dside` times the first touch and the teardown of large memory. At the first touch, a host without FWB
//! cleans the D-cache.

mod args;
mod findings;
mod program;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod run;
mod verdict;

use record::result::RunResult;
use record::view::View;

use crate::options::Common;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use crate::runner::session::{Build, Error, Finished};
use crate::scenario::{Nothing, Scenario};

/// The scenario `dside`.
pub struct DSide;

impl Scenario for DSide {
    const NAME: &'static str = "dside";
    const ABOUT: &'static str =
        "Time first touch and teardown of large memory, where the host cleans the D-cache, patched or not";
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
        crate::table::faults(run)
    }
}
