//! Runs in the emulated lab: their completed results, and their exit codes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lab::{Boot, HostEnd};
use record::answer::Answer;
use record::exit::{HARNESS, INTERRUPTED, USAGE};
use record::journal::WitnessedEnd;
use record::result::RunResult;
use record::status::Status;
use record::store;
use report::subject::Subject;
use serde::Serialize;

use crate::failure::Failure;
use crate::{plugin_counts, recover, sanitizer_reports};

/// A run in one kernel.
#[derive(Serialize)]
pub struct LabRun {
    /// The user's name for the kernel.
    pub kernel: String,
    /// The run directory.
    pub path: Option<PathBuf>,
    /// The answer of `check`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// Other things that `check` saw. They do not change the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also: Option<Vec<String>>,
    /// The exit code of the verdict, or else of the end of the emulated host.
    pub exit_code: u8,
    /// The end of the emulated host, in words.
    pub ended: Option<String>,
    /// Wall-clock time from QEMU's start to its end, in seconds.
    pub seconds: f64,
    /// Files that could not be copied out of the emulated host, one line each.
    pub lost: Vec<String>,
    /// The result. A command such as `doctor` leaves none.
    pub result: Option<RunResult>,
    /// The end of the emulated host.
    #[serde(skip)]
    pub end: Option<HostEnd>,
}

/// Boots every kernel of `options`, runs the runner with the arguments `argv` in it, and completes the results.
///
/// # Errors
///
/// The obstacle that keeps the lab itself from working. A run without a result is no error.
pub fn run(options: &lab::Options, argv: &[OsString]) -> Result<Vec<LabRun>, Failure> {
    let boots = boot(options, argv).map_err(failure)?;
    boots.into_iter().map(complete).collect()
}

/// Boots every kernel of `options`, and runs the runner with the arguments `argv` in it. A run that dies is closed.
///
/// # Errors
///
/// The error of the lab.
pub fn boot(options: &lab::Options, argv: &[OsString]) -> Result<Vec<Boot>, lab::Error> {
    // A run directory that cannot be written stays as it is, and `faultline recover` can close it later.
    let close_run = |run: &Path, witness: &WitnessedEnd| drop(recover::close(run, witness));
    lab::run(options, argv, &close_run)
}

/// Completes the result of one boot, if it left one.
///
/// Only this side knows the plugin's counts. The files for test labs need the name of the run and the time of this
/// machine.
///
/// # Errors
///
/// An error if the counts cannot be used or a file cannot be written.
pub fn complete(boot: Boot) -> Result<LabRun, Failure> {
    let Boot { kernel, run_dir, end, absent, lost, seconds, provenance, .. } = boot;
    let without_end = if absent.is_some() { Status::Skip.exit_code() } else { 0 };
    let ended = end.as_ref().map_or(without_end, exit_code);
    let mut result = match &run_dir {
        Some(directory) => plugin_counts::complete(directory).map_err(Failure::harness)?,
        None => None,
    };
    if let (Some(directory), Some(result)) = (&run_dir, &mut result) {
        sanitizer_reports::complete(directory, result).map_err(Failure::harness)?;
        result.provenance = std::mem::take(&mut result.provenance).or(provenance);
        store::write_result(directory, result).map_err(Failure::harness)?;
    }
    if let (Some(directory), Some(result)) = (&run_dir, &result) {
        let subject = Subject::from(scenarios::viewed(result));
        report::formats::write_all(directory, &subject).map_err(Failure::harness)?;
    }
    let answer = result.as_ref().and_then(RunResult::answer);
    let also = result.as_ref().filter(|_| answer.is_some()).map(|result| scenarios::viewed(result).view.also);
    Ok(LabRun {
        answer,
        also,
        kernel,
        path: run_dir,
        exit_code: match &result {
            Some(result) if !gave_up(result, end.as_ref()) => exit_code_with(result, ended),
            _ => ended,
        },
        ended: end.as_ref().map(ToString::to_string).or(absent),
        seconds,
        lost,
        result,
        end,
    })
}

/// Returns the exit code of a run with a result. A runner that lived to write it and failed afterwards has failed.
fn exit_code_with(result: &RunResult, ended: u8) -> u8 {
    let verdict = result.verdict.status.exit_code();
    let of_verdict = [Status::Pass, Status::Fail, Status::Skip].iter().any(|status| status.exit_code() == ended);
    // The lab's result, or its counts, may have changed the verdict that the runner gave.
    match ended {
        _ if of_verdict || result.recovered => verdict,
        INTERRUPTED => INTERRUPTED,
        _ => worse(verdict, ended),
    }
}

/// Returns whether the runner gave up before a result, for a reason that it has printed. The lab wrote the result.
fn gave_up(result: &RunResult, end: Option<&HostEnd>) -> bool {
    result.recovered && ended_by_itself(end)
}

/// Returns whether the runner ended by itself.
fn ended_by_itself(end: Option<&HostEnd>) -> bool {
    const KILLED: i32 = 128;
    matches!(end, Some(HostEnd::Exited(code)) if *code < KILLED)
}

impl LabRun {
    /// Returns the result, unless the runner gave up and has printed the reason.
    pub fn shown(&self) -> Option<&RunResult> {
        self.result.as_ref().filter(|result| !gave_up(result, self.end.as_ref()))
    }

    /// Returns the result.
    ///
    /// # Errors
    ///
    /// An error if there is none, because then a reproduction cannot be shown.
    pub fn required(&self) -> Result<&RunResult, Failure> {
        self.result.as_ref().ok_or_else(|| {
            let how = self.ended.as_deref().unwrap_or("it was not run");
            let (kernel, path) = (&self.kernel, self.path.as_deref().unwrap_or(Path::new("")).display());
            Failure::harness(format!("NOT REPRODUCED: {kernel} gave no result: {how} ({path})"))
        })
    }

    /// Returns the exit code, as `git bisect run` needs it if `bisect` is true.
    pub fn exit_code_for(&self, bisect: bool) -> u8 {
        match &self.result {
            Some(result) if self.exit_code == Status::Pass.exit_code() => exit_code_of(result, bisect),
            _ => self.exit_code,
        }
    }
}

/// Returns the failure of the command after an error of the lab.
pub fn failure(error: impl Into<lab::Error>) -> Failure {
    let error = error.into();
    let code = match error {
        lab::Error::Interrupted => INTERRUPTED,
        _ if error.is_usage() => USAGE,
        _ => HARNESS,
    };
    Failure::new(code, error)
}

/// Returns the exit code for a result. For `git bisect run`, a pass beside skipped cases is a skip: what was skipped may
/// have shown the bug. An answer holds whatever was skipped.
pub fn exit_code_of(result: &RunResult, bisect: bool) -> u8 {
    let skipped = result.cases.iter().any(|case| case.verdict.status == Status::Skip);
    match result.verdict.status {
        Status::Pass if bisect && skipped && result.answer().is_none() => Status::Skip.exit_code(),
        status => status.exit_code(),
    }
}

/// Returns the exit code for the end of an emulated host.
pub fn exit_code(end: &HostEnd) -> u8 {
    match end {
        HostEnd::Exited(code) => u8::try_from(*code).unwrap_or(HARNESS),
        HostEnd::TimedOut { .. } => Status::Timeout.exit_code(),
        _ => HARNESS,
    }
}

/// Returns the worse of two exit codes.
pub fn worse(one: u8, other: u8) -> u8 {
    if severity(other) > severity(one) { other } else { one }
}

/// Returns the rank of an exit code: pass, skip, fail, timeout, then any other.
fn severity(code: u8) -> usize {
    [Status::Pass, Status::Skip, Status::Fail, Status::Timeout]
        .iter()
        .position(|status| status.exit_code() == code)
        .unwrap_or(usize::MAX)
}
