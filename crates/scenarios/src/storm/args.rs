//! Options of `storm`.

use clap::Args as ClapArgs;
use record::memory::MemoryKind;
use units::size::Size;

use crate::options::Common;
use crate::storm::program::{Mode, Order};

/// Options of `storm`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    /// Kinds of memory: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, the largest block that this host has
    #[arg(long, value_delimiter = ',', value_name = "BLOCK,…")]
    pub blocks: Vec<MemoryKind>,
    /// Numbers of vCPUs that race, each at most the number of CPUs; 1 gives the cost that the model rests on
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "N,…", value_parser = clap::value_parser!(u64).range(1..=abi::channel::MAX_VCPUS as u64))]
    pub racers: Vec<u64>,
    /// Who races into which block: all into one, each into one of its own, or two into each
    #[arg(long, default_value = "shared", value_enum)]
    pub mode: Mode,
    /// What comes first: data, so that the fetch relaxes a permission, or, as a control, the fetch
    #[arg(long, default_value = "data-first", value_enum)]
    pub order: Order,
    /// Timed rounds; one more is traced
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rounds: u64,
    /// Go on with timed rounds for this long in each case
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Size of the region for each kind of memory; a multiple of its blocks, and of the blocks raced into at once
    #[arg(long, value_name = "SIZE")]
    pub region: Option<Size>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}
