//! The options of `check`.

use clap::Args as ClapArgs;
use record::memory::MemoryKind;

use crate::options::Common;

/// Options of `check`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    /// Kinds of memory to run, all of them: page, thp, memfd, file, or a hugetlb size such as 2M or 1G; without it, from
    /// the smallest block on, until the answer is there
    #[arg(long = "blocks", value_delimiter = ',', value_name = "KIND,…")]
    pub kinds: Vec<MemoryKind>,
    /// Run on a machine where a sysctl turns a stall into a panic
    #[arg(long)]
    pub may_panic: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
}
