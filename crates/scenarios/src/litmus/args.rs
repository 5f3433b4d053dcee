//! Options of `litmus`.

use clap::Args as ClapArgs;
use programs::litmus::event::Across;

use crate::options::Common;

/// Options of `litmus`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    /// Tests, by their published names; without it, all: docs/litmus.md
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub tests: Vec<String>,
    /// What happens at stage 2 in each iteration, each a case of its own
    #[arg(long, value_delimiter = ',', default_value = "plain", value_enum, value_name = "EVENT,…")]
    pub events: Vec<Across>,
    /// Iterations of each case
    #[arg(long, default_value_t = 4_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub iterations: u64,
    /// Go on with each case for this long instead
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// vCPUs that race, at most the number of CPUs: plain, as many copies of a test as they hold. Without it, up to 4
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub vcpus: Option<u64>,
    /// Seed of the skew between threads
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}
