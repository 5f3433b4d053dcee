//! Options of `random`.

use clap::Args as ClapArgs;
use record::memory::MemoryKind;

use crate::options::Common;

/// Name of a run of a program file.
pub const REPLAY: &str = "replay";

/// Options of `random`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    /// Seed of the first program; each program has the next seed
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(..1 << 62))]
    pub seed: u64,
    /// Duration of the run; 10 unless there is a number of programs
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Number of programs to run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub programs: Option<u64>,
    /// Kind of memory: page, thp, memfd, file, or a hugetlb size such as 2M
    #[arg(long, default_value = "page", value_name = "BLOCK")]
    pub block: MemoryKind,
    /// Number of vCPUs
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4))]
    pub vcpus: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}
