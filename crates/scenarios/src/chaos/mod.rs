//! The scenario `chaos` runs hostile guests, which write random values to everything that they can reach. It tests
//! faultline, not the kernel.

mod args;
mod findings;
mod program;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod run;

use record::result::RunResult;
use record::view::View;

use crate::options::Common;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use crate::runner::session::{Build, Error, Finished};
use crate::scenario::{Nothing, Scenario};

/// The scenario `chaos`.
pub struct Chaos;

impl Scenario for Chaos {
    const NAME: &'static str = "chaos";
    const ABOUT: &'static str =
        "Run guests that write random values to everything they can reach, to check that faultline survives them";
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

    fn view(_: &RunResult) -> View {
        View::default()
    }
}
