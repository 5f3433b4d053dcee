//! The options of `relax`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use record::memory::MemoryKind;
use units::size::Size;

use crate::options::Common;
use crate::relax::program::Sharing;

/// Options of `relax`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    /// Kinds of memory: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, page, thp and every
    /// hugetlb size of this kernel
    #[arg(long = "blocks", value_delimiter = ',', value_name = "KIND,…")]
    pub kinds: Vec<MemoryKind>,
    /// Number of vCPUs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub vcpus: u64,
    /// Assignment of blocks to vCPUs
    #[arg(long, default_value = "distinct", value_enum)]
    pub sharing: Sharing,
    /// Number of timed rounds; one more round is traced
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    /// Size of the region for each kind of memory; a multiple of its blocks
    #[arg(long, value_name = "SIZE")]
    pub region: Option<Size>,
    /// Directory of a run that the machine or faultline did not survive; continue it after the case that ended it. Give
    /// the other options of that run again
    #[arg(long, value_name = "RUN", conflicts_with = "kinds")]
    pub resume: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}
