//! The scenario `boot` boots a guest that maps a region, starts all vCPUs and powers off. A pass shows that KVM works
//! here.

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

/// The scenario `boot`.
pub struct Boot;

impl Scenario for Boot {
    const NAME: &'static str = "boot";
    const ABOUT: &'static str =
        "Boot the guest, map a region, start all vCPUs and power off, to check that KVM works here";
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
