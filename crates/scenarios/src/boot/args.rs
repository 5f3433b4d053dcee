//! The options of `boot`.

use clap::Args as ClapArgs;
use units::size::Size;

use crate::options::Common;

/// Options of `boot`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    /// Number of vCPUs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub vcpus: u64,
    /// Size of the region that the guest maps; the guest does not touch it, so it takes no memory
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    pub region: Size,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}
