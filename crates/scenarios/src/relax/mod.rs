//! The scenario `relax` touches each block as data and then executes it. It times the permission fault of the second
//! step.

mod args;
mod findings;
mod program;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod run;
mod table;

use std::path::Path;

use record::result::RunResult;
use record::view::View;

use crate::options::Common;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use crate::runner::session::{Build, Error, Finished};
use crate::scenario::{Nothing, Scenario};

/// The scenario `relax`.
pub struct Relax;

impl Scenario for Relax {
    const NAME: &'static str = "relax";
    const ABOUT: &'static str = "Touch each block as data, then execute it, and time the permission fault";
    type Args = args::Args;
    type Findings = findings::Findings;
    type Conclusion = Nothing;

    fn common(args: &args::Args) -> &Common {
        &args.common
    }

    fn resumes(args: &args::Args) -> Option<&Path> {
        args.resume.as_deref()
    }

    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    fn run(args: &args::Args, build: &Build) -> Result<Finished, Error> {
        run::run(args, build)
    }

    fn view(run: &RunResult) -> View {
        table::view(run)
    }
}
