//! `faultline reproduce`: the lockup on one kernel, its absence on another.

use std::ffi::OsString;
use std::path::PathBuf;

use super::lab::{Run, complete, cpu, failure};
use super::{Failure, Outcome, emit_json};
use crate::lab::{self, Options, Qemu};
use crate::report::words::quiet;
use crate::{report, store, verdict};

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
    qemu: Qemu,
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
    volume: lab::Volume,
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
        cpu: cpu(args.cpu.as_deref(), &args.qemu, args.volume)?,
        qemu: args.qemu.clone(),
        time_scale: Some(args.time_scale),
        append: "hugepagesz=1G hugepages=1".into(),
        dry_run: args.dry_run,
        volume: args.volume,
        ..Options::for_kernel(&args.before)
    };
    let argv = ["run", "relax", "--quiet", "--watchdog-thresh", "1", "--hugepages", "--blocks", &args.blocks]
        .map(OsString::from);
    let outcomes = lab::run(&options, &argv).map_err(failure)?;
    if args.dry_run {
        return Ok(0);
    }
    complete(&outcomes)?;
    let mut results = Vec::new();
    for outcome in &outcomes {
        let Some(path) = &outcome.run_dir else { continue };
        match store::read(path) {
            Ok(result) => results.push(result),
            Err(error) => {
                let how = outcome.exit.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(Failure::harness(format!(
                    "NOT REPRODUCED: {} gave no result: {how} ({error})",
                    outcome.kernel
                )));
            }
        }
    }
    let [before, after] = results.as_slice() else {
        return Err(Failure::harness("NOT REPRODUCED: two runs are needed"));
    };
    let reproduction = verdict::reproduction(before, after);
    let word = if reproduction.reproduced { "REPRODUCED" } else { "NOT REPRODUCED" };
    let code = u8::from(!reproduction.reproduced);
    if args.json {
        let runs: Vec<_> = outcomes.iter().map(Run::new).collect();
        emit_json(&serde_json::json!({ "verdict": word, "reason": reproduction.reason, "runs": runs }))?;
        return Ok(code);
    }
    // A closed pipe is the reader's choice; both results are on disk.
    let _ = report::table::print(&mut std::io::stdout(), &[before, after]);
    for outcome in &outcomes {
        println!("{}", outcome.run_dir.as_deref().unwrap_or(&args.results).display());
    }
    println!();
    println!("{word}: {}", quiet(&reproduction.reason));
    Ok(code)
}
