//! `random`: runs random programs of writes, maintenance, host events and looks, and judges each of them. It also runs
//! the programs in program files.

pub(crate) mod args;
mod findings;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
pub mod run;
mod table;

use record::result::RunResult;
use record::view::View;

use crate::options::Common;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use crate::runner::session::{Build, Error, Finished};
use crate::scenario::{Nothing, Scenario};

/// The scenario.
pub struct Random;

impl Scenario for Random {
    const NAME: &'static str = "random";
    const ABOUT: &'static str = "Run random programs of writes, maintenance, host events and looks, and judge each";
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
