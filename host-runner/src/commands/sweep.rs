//! `faultline sweep`: runs one command on a row of kernels, and says at which kernel a case changed.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use klog::quiet::quiet;
use lab::{RunnerOutput, kernels};
use record::store;
use report::sweep::{Sweep, Swept};

use crate::failure::{CommandResult, Failure};
use crate::lab_runs::{self, LabRun, failure};
use crate::output::{emit, emit_json};

/// Arguments of `faultline sweep`.
#[derive(clap::Args)]
#[command(mut_arg("kernel", |arg| arg.required(false).hide(true)))]
pub struct Args {
    /// Kernels, oldest first: FROM..TO (5.10..latest: the newest of each of Debian's versions), a suite (all of its kernels),
    /// or names as for `lab --kernel`; several with commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "KERNELS,…")]
    kernels: Vec<String>,
    /// Only the last N of them
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    #[command(flatten)]
    options: lab::Options,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Command for each emulated host: run SCENARIO…
    #[arg(last = true, required = true, value_name = "ARGS")]
    argv: Vec<OsString>,
}

/// Time scale if none is given. With one, the verdicts do not depend on the load, and each CPU runs one kernel.
const TIME_SCALE: u8 = 4;

/// Boots the kernels, and prints the table. The exit code is that of the worst kernel.
///
/// # Errors
///
/// If the lab itself does not work, or a name has no known form.
pub fn run(args: &Args) -> CommandResult {
    let options = &args.options;
    let mut names = kernels::expand(&args.kernels, options.verbosity).map_err(failure)?;
    let first = names.len() - args.last.unwrap_or(names.len()).min(names.len());
    names.drain(..first);
    if args.argv.first().is_none_or(|word| word != "run") {
        return Err(Failure::usage("a sweep compares results: give `-- run SCENARIO…`"));
    }
    let mut options = lab::Options {
        kernel: names,
        keep_going: true,
        time_scale: Some(options.time_scale.unwrap_or(TIME_SCALE)),
        ..options.clone()
    };
    options.verbosity.runner_output = RunnerOutput::Progress;
    let mut argv = args.argv.clone();
    argv.insert(argv.len().min(2), "--quiet".into());
    let runs = lab_runs::run(&options, &argv)?;
    let words = |argv: &[OsString]| argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let sweep = Sweep { command: words(&args.argv), kernels: runs.iter().map(swept).collect() };
    if !options.dry_run {
        let write = |name: &str, bytes: &[u8]| {
            let path: PathBuf = options.results.join(name);
            store::replace(&path, bytes).map_err(|error| Failure::harness(store::Error::Write(path, error)))
        };
        fs::create_dir_all(&options.results).map_err(Failure::harness)?;
        write("sweep.html", sweep.html().as_bytes())?;
        write("sweep.json", &serde_json::to_vec_pretty(&sweep).map_err(Failure::harness)?)?;
    }
    if args.json {
        emit_json(&serde_json::json!({ "sweep": sweep, "changes": sweep.changes() }))?;
    } else if !options.dry_run {
        emit(&format!("{}\nAll hosts are emulated.\n", sweep.text()))?;
        if !options.verbosity.is_quiet() {
            units::note!("stored in {}", options.results.join("sweep.html").display());
        }
    }
    Ok(runs.iter().map(|run| run.exit_code).fold(0, lab_runs::worse))
}

fn swept(run: &LabRun) -> Swept {
    let path = run.path.as_ref().map(|path| path.display().to_string());
    match run.shown() {
        Some(result) => Swept::ran(&run.kernel, path, result),
        None => Swept::absent(&run.kernel, path, quiet(run.ended.as_deref().unwrap_or("it was not run")).to_string()),
    }
}
