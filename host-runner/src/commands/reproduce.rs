//! `faultline reproduce`: shows the lockup on one kernel and its absence on another.

use std::ffi::OsString;
use std::path::PathBuf;

use klog::quiet::quiet;
use lab::{Options, QemuChoice};
use record::reproduction::reproduction;

use crate::failure::{CommandResult, Failure};
use crate::lab_runs::{self, cpu, failure};
use crate::output::emit_json;

/// Arguments of `faultline reproduce`.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel that should have the lockup, as for `lab --kernel`
    #[arg(long, default_value = "debian:6.1", value_name = "KERNEL")]
    before: String,
    /// Kernel that should not have it
    #[arg(long, default_value = "debian:6.12", value_name = "KERNEL")]
    after: String,
    /// Directory that receives both run directories
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// CPU model that QEMU emulates; the default has no DIC and, with a QEMU before version 8, has FWB, which removes the
    /// maintenance of the D side
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// QEMU to use, as for `lab`
    #[arg(long, default_value = lab::OWN_QEMU, value_name = "PROGRAM|VERSION")]
    qemu: QemuChoice,
    /// Let every instruction take 2^N ns of virtual time
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=7))]
    time_scale: u8,
    /// Blocks to run on
    #[arg(long, default_value = "page,thp,1G", value_name = "BLOCK,…")]
    blocks: String,
    /// Only print QEMU's command lines
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    #[command(flatten)]
    verbosity: lab::Verbosity,
}

/// Boots both kernels, runs the same scenario on each, and compares the results.
///
/// # Errors
///
/// If one of the runs has no result.
pub fn run(args: &Args) -> CommandResult {
    let options = Options {
        kernel: vec![args.before.clone(), args.after.clone()],
        results: args.results.clone(),
        cpu: Some(cpu(args.cpu.as_deref(), &args.qemu, args.verbosity)?),
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
    // Ignores a reader that closes the pipe: both results are on disk.
    let _ = report::table::print(&mut std::io::stdout(), &[scenarios::viewed(before), scenarios::viewed(after)]);
    for run in &runs {
        println!("{}", run.path.as_deref().unwrap_or(&args.results).display());
    }
    println!();
    println!("{word}: {}", quiet(&reproduction.reason));
    Ok(code)
}
