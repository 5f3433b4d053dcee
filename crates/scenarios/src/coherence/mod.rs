//! `coherence`: changes code, lets the host do an event to its memory, and looks at the code.

mod args;
mod findings;
mod program;
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
pub struct Coherence;

impl Scenario for Coherence {
    const NAME: &'static str = "coherence";
    const ABOUT: &'static str = "Change code, let the host do an event to its memory, and look: KVM's maintenance must make the new code visible";
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
