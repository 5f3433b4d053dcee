//! The options of `storm`.

use clap::Args as ClapArgs;
use record::memory::MemoryKind;
use units::size::Size;

use crate::options::Common;
use crate::storm::program::{Mode, Order};

/// Options of `storm`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    /// Kinds of memory: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, the kind with the
    /// largest block that this host has
    #[arg(long = "blocks", value_delimiter = ',', value_name = "KIND,…")]
    pub kinds: Vec<MemoryKind>,
    /// Numbers of racing vCPUs, one case for each, at most the number of CPUs; include 1, with which the others are
    /// compared
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "N,…", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub racers: Vec<u64>,
    /// Assignment of blocks to racers
    #[arg(long, default_value = "shared", value_enum)]
    pub mode: Mode,
    /// First access to a block
    #[arg(long, default_value = "data-first", value_enum)]
    pub order: Order,
    /// Number of timed rounds; one more round is traced
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    /// Repeat timed rounds for this long in each case
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Size of the region for each kind of memory; a multiple of its blocks, and large enough for one race
    #[arg(long, value_name = "SIZE")]
    pub region: Option<Size>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}
