//! Runs in the emulated lab: their results, completed, and their exit codes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lab::GuestExit;
use record::exit::{HARNESS, INTERRUPTED};
use record::journal::WitnessedEnd;
use record::result::RunResult;
use record::status::Status;
use report::subject::Subject;
use serde::Serialize;

use crate::failure::Failure;
use crate::{plugin_counts, recover};

/// A run in one kernel.
#[derive(Serialize)]
pub struct LabRun {
    /// The kernel, as the user named it.
    pub kernel: String,
    /// The run directory.
    pub path: Option<PathBuf>,
    /// Exit code of the verdict, or of the guest's end where there is none.
    pub exit_code: u8,
    /// End of the guest, in words.
    pub ended: Option<String>,
    /// Wall-clock time from QEMU's start to its end.
    pub seconds: f64,
    /// Losses on the way out of the emulated host.
    pub lost: Vec<String>,
    /// The result; none where what ran inside left none, such as `doctor`.
    pub result: Option<RunResult>,
    /// End of the guest.
    #[serde(skip)]
    pub exit: Option<GuestExit>,
}

/// Boots every kernel of `options`, runs the runner with `argv` inside, and completes the results by everything that only
/// this side knows: the plugin's counts, and the files for labs, which need the run's name and this host's time.
///
/// # Errors
///
/// The obstacle that keeps the lab itself from working. A run without a result is none.
pub fn run(options: &lab::Options, argv: &[OsString]) -> Result<Vec<LabRun>, Failure> {
    let outcomes = boot(options, argv).map_err(failure)?;
    outcomes.into_iter().map(complete).collect()
}

/// Boots every kernel of `options` and runs the runner with `argv` inside; closes runs that die.
///
/// # Errors
///
/// Of the lab.
pub fn boot(options: &lab::Options, argv: &[OsString]) -> Result<Vec<lab::Outcome>, lab::Error> {
    // A run directory that cannot be written to any more stays as it is, for `faultline recover`.
    let close = |run: &Path, witness: &WitnessedEnd| drop(recover::close(run, witness));
    lab::run(options, argv, &close)
}

/// Completes the result of one run, if it left one.
///
/// # Errors
///
/// If it cannot be written.
pub fn complete(outcome: lab::Outcome) -> Result<LabRun, Failure> {
    let lab::Outcome { kernel, run_dir, exit, lost, seconds, .. } = outcome;
    let ended = exit.as_ref().map_or(0, exit_code);
    let result = match &run_dir {
        Some(directory) => plugin_counts::complete(directory).map_err(Failure::harness)?,
        None => None,
    };
    if let (Some(directory), Some(result)) = (&run_dir, &result) {
        let subject = Subject::from(scenarios::viewed(result));
        report::formats::write_all(directory, &subject).map_err(Failure::harness)?;
    }
    Ok(LabRun {
        kernel,
        path: run_dir,
        exit_code: result.as_ref().map_or(ended, |result| result.verdict.status.exit_code()),
        ended: exit.as_ref().map(ToString::to_string),
        seconds,
        lost,
        result,
        exit,
    })
}

impl LabRun {
    /// Returns the result.
    ///
    /// # Errors
    ///
    /// If there is none, which keeps a reproduction from being shown.
    pub fn required(&self) -> Result<&RunResult, Failure> {
        self.result.as_ref().ok_or_else(|| {
            let how = self.ended.as_deref().unwrap_or("it was not run");
            let (kernel, path) = (&self.kernel, self.path.as_deref().unwrap_or(Path::new("")).display());
            Failure::harness(format!("NOT REPRODUCED: {kernel} gave no result: {how} ({path})"))
        })
    }

    /// Returns whether the lab made the result of what a run left that died. A runner that gave up by itself said why.
    pub fn died(&self) -> bool {
        const KILLED: i32 = 128;
        let gave_up = matches!(self.exit, Some(GuestExit::Exited(code)) if code < KILLED);
        !gave_up && self.result.as_ref().is_some_and(|result| result.recovered)
    }
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
