//! Options that all scenarios share.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use guest::ctr::GuestCtr;
use record::format::Format;
use record::result::UnderTest;

/// Default of `--time-limit`, in seconds.
pub const TIME_LIMIT_S: u64 = 300;

/// Options that all scenarios share.
#[derive(ClapArgs, Clone, Debug)]
pub struct Common {
    /// Directory in which the run directory is created
    #[arg(long, default_value = "results", value_name = "DIR")]
    pub results: PathBuf,
    /// Stop a guest that runs longer than this
    #[arg(long, default_value_t = TIME_LIMIT_S, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub time_limit: u64,
    /// Set kernel.watchdog_thresh until the run ends; the kernel reports a soft lockup after twice this time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub watchdog_thresh: Option<u32>,
    /// Enlarge hugetlb pools that are too small, and restore them when the run ends
    #[arg(long)]
    pub hugepages: bool,
    /// Show guests a different CTR_EL0: imin=BYTES, dmin=BYTES, idc=0 and dic=0, separated by commas, or a whole value
    /// 0x…; needs Linux 6.11 or later, and KVM can refuse a value
    #[arg(long, value_name = "FIELD=VALUE,…")]
    pub guest_ctr: Option<GuestCtr>,
    /// Do not trace; without evidence of the faults, a case that needs them cannot pass
    #[arg(long)]
    pub no_trace: bool,
    /// Format of the printed result; all formats except the table are for programs
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Print JSON
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub under_test: UnderTest,
    /// Do not print the result; it is stored in the run directory
    #[arg(short, long)]
    pub quiet: bool,
    /// Print each case that begins, each changed setting and each kernel message; measured times get slightly longer
    #[arg(short, long)]
    pub verbose: bool,
    /// Exit with the codes of `git bisect run`: 0 for good, 1 for bad, 125 for a result that shows neither
    #[arg(long)]
    pub bisect: bool,
    /// Name of the run in its plan
    #[arg(long, hide = true, value_name = "NAME")]
    pub step: Option<String>,
    /// Run this guest image instead of the built-in one
    #[arg(long, value_name = "FILE")]
    pub payload: Option<PathBuf>,
}

impl Common {
    /// Returns the format of the printed result.
    pub fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}
