//! The options of `chaos`.

use clap::Args as ClapArgs;

use crate::options::Common;

/// Options of `chaos`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    /// Number of guests
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub runs: u64,
    /// Seed of the first guest; each later guest has the next number
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(..1 << 62))]
    pub seed: u64,
    /// Number of vCPUs
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub vcpus: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}
