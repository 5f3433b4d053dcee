//! `faultline reproduce`: shows the lockup on one kernel and its absence on another, or on a kernel of one's own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lab::{Options, QemuChoice, RunnerOutput};
use record::reproduction::reproduction;
use record::result::RunResult;
use record::verdict::relax_lockup;

use crate::failure::{CommandResult, Failure};
use crate::lab_runs::{self, LabRun, failure};
use crate::lab_settings::{TIME_SCALE, cpu};
use crate::output::{emit, emit_json, note_stored};
use crate::reproduction_screen::{Screen, Subject, name};

/// Arguments of `faultline reproduce`.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel that should have the lockup, as for `lab --kernel`
    #[arg(long, default_value = "debian:6.1", value_name = "KERNEL")]
    before: String,
    /// Kernel that should not have it
    #[arg(long, default_value = "debian:6.12", value_name = "KERNEL")]
    after: String,
    /// Show whether this one kernel has the lockup, in place of the two
    #[arg(long, value_name = "KERNEL", conflicts_with_all = ["before", "after"])]
    kernel: Option<String>,
    /// Directory that receives the run directories
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
    #[arg(long, default_value_t = TIME_SCALE, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=7))]
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

/// Boots the kernels, runs the same scenario on each, and says whether the lockup was reproduced.
///
/// # Errors
///
/// If one of the runs has no result.
pub fn run(args: &Args) -> CommandResult {
    let kernels = match &args.kernel {
        Some(kernel) => vec![kernel.clone()],
        None => vec![args.before.clone(), args.after.clone()],
    };
    let options = Options {
        results: args.results.clone(),
        cpu: Some(cpu(args.cpu.as_deref(), &args.qemu, args.verbosity)?),
        qemu: args.qemu.clone(),
        time_scale: Some(args.time_scale),
        append: "hugepagesz=1G hugepages=1".into(),
        dry_run: args.dry_run,
        verbosity: args.verbosity,
        ..Options::for_kernel(&args.before)
    };
    let mut options = Options { kernel: kernels, ..options };
    options.verbosity.runner_output = RunnerOutput::Progress;
    let argv = ["run", "relax", "--quiet", "--watchdog-thresh", "1", "--hugepages", "--blocks", &args.blocks]
        .map(OsString::from);
    if args.dry_run {
        lab_runs::boot(&options, &argv).map_err(failure)?;
        return Ok(0);
    }
    let runs = lab_runs::run(&options, &argv)?;
    let results = runs.iter().map(LabRun::required).collect::<Result<Vec<_>, _>>()?;
    let (reproduced, reason) = match results.as_slice() {
        [only] => one_kernel(only),
        [before, after] => {
            let found = reproduction(before, after);
            (found.reproduced, found.reason)
        }
        _ => return Err(Failure::harness("NOT REPRODUCED: two runs are needed")),
    };
    let word = if reproduced { "REPRODUCED" } else { "NOT REPRODUCED" };
    for path in runs.iter().filter_map(|run| run.path.as_ref()).filter(|_| !args.verbosity.is_quiet()) {
        note_stored(path);
    }
    if args.json {
        emit_json(&serde_json::json!({ "verdict": word, "reason": reason, "runs": runs }))?;
        return Ok(u8::from(!reproduced));
    }
    let roles: &[&str] = if args.kernel.is_some() { &["kernel"] } else { &["before", "after"] };
    let subjects = results.iter().zip(roles).zip(&runs).map(|((result, role), run)| {
        let path = run.path.as_deref().unwrap_or(Path::new(""));
        Subject { role, result, path, name: name(path) }
    });
    emit(&Screen { reproduced, reason, subjects: subjects.collect() }.text())?;
    Ok(u8::from(!reproduced))
}

/// Returns whether a kernel has the lockup, and why.
fn one_kernel(result: &RunResult) -> (bool, String) {
    match result.cases.iter().any(|case| relax_lockup(case).is_some()) {
        true => (true, "a vCPU locked up while KVM relaxed a permission".into()),
        false => (false, format!("no I-side lockup while relaxing a permission on {}", result.kernel_name())),
    }
}
