//! Options of every scenario.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use guest::ctr::GuestCtr;
use record::format::Format;
use record::result::UnderTest;

/// Time that a guest gets unless the command line says otherwise, in seconds.
pub const TIME_LIMIT_S: u64 = 300;

/// Options of every scenario.
#[derive(ClapArgs, Clone, Debug)]
pub struct Common {
    /// Directory that receives the run's directory
    #[arg(long, default_value = "results", value_name = "DIR")]
    pub results: PathBuf,
    /// Stop a guest that takes longer
    #[arg(long, default_value_t = TIME_LIMIT_S, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub time_limit: u64,
    /// Set kernel.watchdog_thresh for the run; soft lockups are reported after twice this time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub watchdog_thresh: Option<u32>,
    /// Fill hugetlb pools that are too small, for the run
    #[arg(long)]
    pub hugepages: bool,
    /// Show guests another CTR_EL0: imin=BYTES, dmin=BYTES, idc=0, dic=0, several with commas, or a whole value 0x…; KVM has
    /// to agree, which it may since Linux 6.11
    #[arg(long, value_name = "FIELD=VALUE,…")]
    pub guest_ctr: Option<GuestCtr>,
    /// Do not trace: no evidence of the faults taken, so nothing can pass
    #[arg(long)]
    pub no_trace: bool,
    /// What to print at the end; all but the table for programs
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Print JSON
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub under_test: UnderTest,
    /// Do not print the result, which is in the run's directory
    #[arg(short, long)]
    pub quiet: bool,
    /// Tell on the way which case begins, what is set and what the kernel says; times suffer a little
    #[arg(short, long)]
    pub verbose: bool,
    /// Exit as `git bisect run` wants it: 0 good, 1 bad, 125 for anything that shows neither
    #[arg(long)]
    pub bisect: bool,
    /// What a plan calls this run
    #[arg(long, hide = true, value_name = "NAME")]
    pub step: Option<String>,
    /// Use this image in place of the one inside this program
    #[arg(long, value_name = "FILE")]
    pub payload: Option<PathBuf>,
}

impl Common {
    /// Returns what to print at the end.
    pub fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}
