//! `faultline lab`.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Serialize;

use super::{Failure, HARNESS, INTERRUPTED, Outcome, emit_json, plan, replay};
use crate::lab::{self, GuestExit};
use crate::report::subject::Subject;
use crate::report::words::quiet;
use crate::result::{RunResult, Status};
use crate::{counting, report, store};

/// Which kernels, and what to run inside.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: lab::Options,
    /// Exit as `git bisect run` wants it: 0 good, 1 bad, 125 for anything that shows neither
    #[arg(long)]
    bisect: bool,
    /// Print JSON in place of what the runner inside prints; of a plan, its summary
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    /// What to run inside: run SCENARIO…, or run PLAN…, which boots the kernel afresh for each step
    #[arg(last = true, required = true, value_name = "ARGS")]
    argv: Vec<OsString>,
}

impl Args {
    /// Says whether the exit code is for `git bisect run`; inside or outside, the wish is the same.
    pub fn bisect(&self) -> bool {
        self.bisect || self.argv.iter().any(|word| word == BISECT)
    }
}

#[cfg(test)]
impl Args {
    /// Returns the command line inside.
    pub fn inside(&self) -> &[OsString] {
        &self.argv
    }
}

/// The option, which is the lab's own wherever it stands: the runner inside says what it found, and the lab judges.
const BISECT: &str = "--bisect";

/// Runs the lab; the exit code is the worst of the runs inside.
///
/// # Errors
///
/// What keeps the lab itself from working.
pub fn run(args: &Args) -> Outcome {
    let argv: Vec<_> = args.argv.iter().filter(|word| *word != BISECT).cloned().collect();
    let mut options = args.options.clone();
    if args.json {
        options.volume.output = lab::Output::Kept;
    }
    if let Some(request) = plan::Request::in_words(&argv)? {
        return plan::run_in_lab(&if args.json { request.in_json() } else { request }, &options);
    }
    let argv = match replay::for_lab(&argv)? {
        Some((inside, file)) => {
            options.with.push(file);
            inside
        }
        None => argv,
    };
    let outcomes = lab::run(&options, &argv).map_err(failure)?;
    complete(&outcomes)?;
    if args.json {
        let runs: Vec<_> = outcomes.iter().map(Run::new).collect();
        emit_json(&serde_json::json!({ "runs": runs }))?;
        return Ok(runs.iter().map(|run| run.exit_code).fold(0, worse));
    }
    let mut worst = 0;
    for outcome in &outcomes {
        let Some(exit) = &outcome.exit else { continue };
        let mut code = exit_code(exit);
        if code != 0 {
            eprintln!("{}: {}", outcome.kernel, quiet(&exit.to_string()));
        }
        if let Some(result) = recovered(outcome) {
            // A closed pipe is the reader's choice; the result is on disk.
            let _ = report::table::print(&mut std::io::stdout(), &[&result]);
            code = result.verdict.status.exit_code();
        }
        if let Some(result) = counted(args, outcome) {
            // As above.
            let _ = report::table::print_counts(&mut std::io::stdout(), &result);
            code = result.verdict.status.exit_code();
        }
        worst = worse(worst, code);
        if let Some(path) = &outcome.run_dir {
            println!("{}", path.display());
        }
    }
    Ok(worst)
}

/// What became of one kernel, for programs.
#[derive(Serialize)]
pub struct Run {
    kernel: String,
    /// The run directory.
    path: Option<PathBuf>,
    /// That of the verdict, or what stands for how the guest ended.
    exit_code: u8,
    ended: Option<String>,
    /// Wall-clock time from QEMU's start to its end.
    seconds: f64,
    /// What could not be carried out of the guest.
    lost: Vec<String>,
    /// None where what ran inside left none, such as `doctor`.
    result: Option<RunResult>,
}

impl Run {
    /// Takes the result from disk, where it is complete.
    pub fn new(outcome: &lab::Outcome) -> Self {
        let result = outcome.run_dir.as_deref().and_then(|path| store::read(path).ok());
        let ended = outcome.exit.as_ref().map_or(0, exit_code);
        Self {
            kernel: outcome.kernel.clone(),
            path: outcome.run_dir.clone(),
            exit_code: result.as_ref().map_or(ended, |result| result.verdict.status.exit_code()),
            ended: outcome.exit.as_ref().map(ToString::to_string),
            seconds: outcome.seconds,
            lost: outcome.lost.clone(),
            result,
        }
    }
}

/// Returns the result that the lab made of a run that died. A runner that gave up by itself has said why.
fn recovered(outcome: &lab::Outcome) -> Option<RunResult> {
    const KILLED: i32 = 128;
    if matches!(outcome.exit, Some(GuestExit::Exited(code)) if code < KILLED) {
        return None;
    }
    store::read(outcome.run_dir.as_deref()?).ok().filter(|result| result.recovered)
}

/// Returns the result that counts were put into, and whose verdict may rest on them.
fn counted(args: &Args, outcome: &lab::Outcome) -> Option<RunResult> {
    store::read(outcome.run_dir.as_deref()?).ok().filter(|result| args.options.count && !result.recovered)
}

/// Completes the results by what only the host knows: the plugin's counts, and the files for labs, which the guest wrote
/// before it could know the run's name and the host's time.
///
/// # Errors
///
/// If one cannot be written. A run without a result has none.
pub fn complete(outcomes: &[lab::Outcome]) -> Result<(), Failure> {
    for dir in outcomes.iter().filter_map(|outcome| outcome.run_dir.as_deref()) {
        counting::complete(dir).map_err(Failure::harness)?;
        if let Ok(result) = store::read(dir) {
            report::formats::write_all(dir, &Subject::from(&result)).map_err(Failure::harness)?;
        }
    }
    Ok(())
}

/// Returns the CPU model asked for, or the one on which that QEMU shows the I side best.
///
/// # Errors
///
/// If the QEMU cannot be had.
pub fn cpu(asked: Option<&str>, qemu: &lab::Qemu, volume: lab::Volume) -> Result<String, Failure> {
    match asked {
        Some(model) => Ok(model.to_owned()),
        None => Ok(lab::emulator(qemu, volume).map_err(failure)?.cpu_without_dic().to_owned()),
    }
}

/// Returns the failure that an error of the lab means.
pub fn failure(error: lab::Error) -> Failure {
    let code = if matches!(error, lab::Error::Interrupted) { INTERRUPTED } else { HARNESS };
    Failure::new(code, error)
}

/// Returns the exit code that stands for what became of a guest.
pub fn exit_code(exit: &GuestExit) -> u8 {
    match exit {
        GuestExit::Exited(code) => u8::try_from(*code).unwrap_or(HARNESS),
        GuestExit::TimedOut { .. } => Status::Timeout.exit_code(),
        _ => HARNESS,
    }
}

/// Returns the worse of two exit codes.
pub fn worse(one: u8, other: u8) -> u8 {
    if severity(other) > severity(one) { other } else { one }
}

/// Orders exit codes: pass, skip, fail, timeout, anything else.
fn severity(code: u8) -> usize {
    [Status::Pass, Status::Skip, Status::Fail, Status::Timeout]
        .iter()
        .position(|status| status.exit_code() == code)
        .unwrap_or(usize::MAX)
}
