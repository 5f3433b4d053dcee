//! `faultline reproduce-patch`: the storm on kernels that differ by the patch alone.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use super::lab::failure;
use super::{Failure, Outcome};
use crate::lab::{self, Options};
use crate::report::table::{columns, headline, time};
use crate::result::RunResult;
use crate::store;
use crate::verdict::patch::{Kernels, judge, races};
use crate::verdict::relax_lockup;

/// Which kernels, and on what.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel that invalidates by line always: as for `lab --kernel`
    #[arg(long, default_value = "policy:by-line", value_name = "KERNEL")]
    by_line: String,
    /// Kernels with a fix
    #[arg(long, default_value = "policy:upton,policy:shan", value_delimiter = ',', value_name = "KERNEL,…")]
    fixed: Vec<String>,
    /// Kernel without any maintenance
    #[arg(long, default_value = "policy:none", value_name = "KERNEL")]
    none: String,
    /// Directory that receives the run directories
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// CPU model that QEMU emulates; the default has FWB, so that the D side stays out of the picture, and no DIC
    #[arg(long, default_value = "max", value_name = "MODEL")]
    cpu: String,
    /// Let every instruction take 2^N ns of virtual time
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=7))]
    time_scale: u8,
    /// Print QEMU's command lines and do nothing else
    #[arg(long)]
    dry_run: bool,
}

/// CPUs of the emulated machine, and the most racers.
const CPUS: u32 = 4;

/// Boots all kernels, runs the same storm in each, compares.
///
/// # Errors
///
/// If one of the runs came to no result.
pub fn run(args: &Args) -> Outcome {
    let kernels: Vec<String> = [&args.by_line].into_iter().chain(&args.fixed).chain([&args.none]).cloned().collect();
    let options = Options {
        kernel: kernels,
        results: args.results.clone(),
        cpu: args.cpu.clone(),
        smp: CPUS,
        time_scale: Some(args.time_scale),
        append: "hugepagesz=1G hugepages=1".into(),
        dry_run: args.dry_run,
        ..Options::for_kernel(&args.by_line)
    };
    let argv =
        ["run", "storm", "--quiet", "--watchdog-thresh", "1", "--hugepages", "--blocks", "1G", "--racers", "1,2,4"]
            .map(OsString::from);
    let outcomes = lab::run(&options, &argv).map_err(failure)?;
    if args.dry_run {
        return Ok(0);
    }
    let mut results = Vec::new();
    for outcome in &outcomes {
        let path = outcome.run_dir.as_deref().unwrap_or(&args.results);
        let mut result = store::read(path).map_err(|error| {
            let how = outcome.exit.as_ref().map(ToString::to_string).unwrap_or_default();
            Failure::harness(format!("NOT REPRODUCED: {} gave no result: {how} ({error})", outcome.kernel))
        })?;
        // All of them have the same release: what tells them apart is what was asked for.
        result.machine.kernel_release.clone_from(&outcome.kernel);
        results.push(result);
    }
    let [by_line, fixed @ .., none] = results.as_slice() else {
        return Err(Failure::harness(
            "NOT REPRODUCED: a kernel with the bug, one with a fix and one without maintenance are needed",
        ));
    };
    let findings = judge(&Kernels { by_line, fixed: fixed.iter().collect(), none });
    // A closed pipe is the reader's choice; the results are on disk.
    let _ = print(&results);
    for path in outcomes.iter().filter_map(|outcome| outcome.run_dir.as_deref()) {
        println!("{}", path.display());
    }
    println!();
    for finding in &findings {
        println!("{}{}", if finding.holds { "" } else { "FAILED: " }, finding.text);
    }
    Ok(u8::from(!findings.iter().all(|finding| finding.holds)))
}

/// Prints one line for each kernel and number of racers.
fn print(results: &[RunResult]) -> io::Result<()> {
    let out = &mut io::stdout().lock();
    for run in results.iter().take(1) {
        let line = headline(run);
        // The kernel is in the table.
        writeln!(out, "{}\n", line.split_once("; ").map_or(line.as_str(), |(_, rest)| rest))?;
    }
    let mut rows = vec![
        ["kernel", "block", "racers", "worst stall", "growth", "invalidations", "of the model", "I-side lockup"]
            .map(str::to_owned),
    ];
    for run in results {
        for (case, storm) in races(run) {
            let dash = || "-".to_owned();
            let most = storm.traced.iter().filter_map(|race| race.invalidations).max();
            rows.push([
                run.machine.kernel_release.clone(),
                case.block.to_string(),
                case.vcpus.to_string(),
                time(storm.worst_ns),
                storm.growth.map_or_else(dash, |growth| format!("{growth:.2}")),
                most.map_or_else(dash, |n| n.to_string()),
                storm.model.as_ref().map_or_else(dash, |model| format!("{:.2}", model.ratio)),
                relax_lockup(case).and_then(|(lockup, _)| lockup.event.seconds).map_or_else(dash, |s| format!("{s} s")),
            ]);
        }
    }
    columns(out, &rows)?;
    writeln!(out)
}
