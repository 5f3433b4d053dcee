//! `faultline reproduce`: the lockup on one kernel, its absence on another.

use std::ffi::OsString;
use std::path::PathBuf;

use klog::quiet::quiet;
use lab::{Options, QemuChoice};
use record::reproduction::reproduction;

use crate::answer::{Failure, Outcome, emit_json};
use crate::lab_runs::{self, cpu, failure};

/// Which kernels, and on what.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel that should have the lockup: as for `lab --kernel`
    #[arg(long, default_value = "debian:6.1", value_name = "KERNEL")]
    before: String,
    /// Kernel that should not
    #[arg(long, default_value = "debian:6.12", value_name = "KERNEL")]
    after: String,
    /// Directory that receives both run directories
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// CPU model that QEMU emulates; the default has no DIC and, with a QEMU before 8, FWB, so that the D side stays out of
    /// the picture
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// The QEMU to use, as for `lab`
    #[arg(long, default_value = lab::OWN_QEMU, value_name = "PROGRAM|VERSION")]
    qemu: QemuChoice,
    /// Let every instruction take 2^N ns of virtual time
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=7))]
    time_scale: u8,
    /// Block to run on, besides the others that show how the cost grows
    #[arg(long, default_value = "page,thp,1G", value_name = "BLOCK,…")]
    blocks: String,
    /// Print QEMU's command lines and do nothing else
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    #[command(flatten)]
    verbosity: lab::Verbosity,
}

/// Boots both kernels, runs the same plan in each, compares.
///
/// # Errors
///
/// If one of the runs came to no result.
pub fn run(args: &Args) -> Outcome {
    let options = Options {
        kernel: vec![args.before.clone(), args.after.clone()],
        results: args.results.clone(),
        cpu: cpu(args.cpu.as_deref(), &args.qemu, args.verbosity)?,
        qemu: args.qemu.clone(),
        time_scale: Some(args.time_scale),
        append: "hugepagesz=1G hugepages=1".into(),
        dry_run: args.dry_run,
        verbosity: args.verbosity,
        ..Options::for_kernel(&args.before)
    };
    let argv = ["run", "relax", "--quiet", "--watchdog-thresh", "1", "--hugepages", "--blocks", &args.blocks]
        .map(OsString::from);
    if args.dry_run {
        lab_runs::boot(&options, &argv).map_err(failure)?;
        return Ok(0);
    }
    let runs = lab_runs::run(&options, &argv)?;
    let results = runs.iter().map(lab_runs::LabRun::required).collect::<Result<Vec<_>, _>>()?;
    let [before, after] = results.as_slice() else {
        return Err(Failure::harness("NOT REPRODUCED: two runs are needed"));
    };
    let reproduction = reproduction(before, after);
    let word = if reproduction.reproduced { "REPRODUCED" } else { "NOT REPRODUCED" };
    let code = u8::from(!reproduction.reproduced);
    if args.json {
        emit_json(&serde_json::json!({ "verdict": word, "reason": reproduction.reason, "runs": runs }))?;
        return Ok(code);
    }
    // A closed pipe is the reader's choice; both results are on disk.
    let _ = report::table::print(&mut std::io::stdout(), &[scenarios::viewed(before), scenarios::viewed(after)]);
    for run in &runs {
        println!("{}", run.path.as_deref().unwrap_or(&args.results).display());
    }
    println!();
    println!("{word}: {}", quiet(&reproduction.reason));
    Ok(code)
}
