//! Options of `relax`.

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
    /// Kinds of memory: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, all that this host has
    #[arg(long, value_delimiter = ',', value_name = "BLOCK,…")]
    pub blocks: Vec<MemoryKind>,
    /// Number of vCPUs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub vcpus: u64,
    /// Whether vCPUs have blocks of their own or execute the same ones
    #[arg(long, default_value = "distinct", value_enum)]
    pub sharing: Sharing,
    /// Timed rounds; one more is traced
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    /// Size of the region for each kind of memory; a multiple of its blocks
    #[arg(long, value_name = "SIZE")]
    pub region: Option<Size>,
    /// Go on with a run that the machine or the runner did not survive, after the case that ended it; give the same
    /// other options as then
    #[arg(long, value_name = "RUN", conflicts_with = "blocks")]
    pub resume: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}
