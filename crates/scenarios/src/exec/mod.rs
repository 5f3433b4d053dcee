//! The scenario `exec` runs any program while the kernel log and, in the lab, the sanitizer watch: a test of KVM by
//! others, or another VMM with its guest.

mod args;
mod findings;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod run;

use record::result::RunResult;
use record::view::View;

use crate::options::Common;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
use crate::runner::session::{Build, Error, Finished};
use crate::scenario::{Nothing, Scenario};

/// The scenario `exec`.
pub struct Exec;

impl Scenario for Exec {
    const NAME: &'static str = "exec";
    const ABOUT: &'static str =
        "Run any program, such as another test of KVM or another VMM, while the kernel log is watched";
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
