//! The options of `dside`.

use clap::Args as ClapArgs;
use record::memory::MemoryKind;
use units::size::Size;

use crate::options::Common;

/// Options of `dside`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    /// Kinds of memory: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, page, thp and every
    /// hugetlb size of this kernel
    #[arg(long = "blocks", value_delimiter = ',', value_name = "KIND,…")]
    pub kinds: Vec<MemoryKind>,
    /// Number of timed rounds; one more round is traced
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    /// Size of the region for each kind of memory [default: 1G, but at most 16384 blocks]
    #[arg(long, value_name = "SIZE")]
    pub region: Option<Size>,
    /// Let the guest map the region Non-cacheable, so that the host cleans up behind it
    #[arg(long)]
    pub uncached: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}
