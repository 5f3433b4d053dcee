//! Runs the steps of a plan one after another. A step that fails does not end the plan.

use std::path::{Path, PathBuf};

use record::journal::{Entry, WitnessedEnd};
use record::result::RunResult;
use record::runs;
use record::status::{Status, Verdict};
use record::store::{self, RunDir};
use record::summary::{PLAN, Step, StoredPlan, Summary};
use report::compare::Options;
use report::compare::baseline::{self, Baseline};

use crate::plan::regression;
use crate::plan::summary::{settle, write};

/// Error of a plan that ends without a verdict.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan's directory could not be written or read.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// The baseline that the user named could not be read.
    #[error("{0}")]
    Baseline(#[from] baseline::Error),
}

/// End of a step.
pub enum StepEnd {
    /// The step left a run.
    Run {
        /// Name of the run's directory, below the plan's.
        directory: String,
        /// Knowledge about the end of the run that its directory does not hold.
        witness: WitnessedEnd,
    },
    /// The step left no run, for this reason.
    NoRun(String),
    /// The plan ends with this step, because the user interrupted it or because every further step would fail.
    Stop {
        /// Name of the run's directory, if the step left one.
        directory: Option<String>,
        /// Reason for ending the plan.
        reason: String,
    },
}

/// Runs single steps: on this machine, or in the lab.
pub trait StepRunner {
    /// Returns the name of the directory that the step will use, if it is known before the run.
    fn directory(&mut self, step: &Step) -> Option<String>;

    /// Runs a step below the plan's directory `plan`.
    fn run(&mut self, plan: &Path, step: &Step) -> StepEnd;
}

/// A plan that ended.
pub struct FinishedPlan {
    /// Directory of the plan.
    pub directory: PathBuf,
    /// Contents of the directory.
    pub stored: StoredPlan,
    /// True if the plan ended before its last step.
    pub stopped: bool,
}

/// Runs every step of `summary` in a new directory of `results`, then compares the runs with the baseline: the file
/// `baseline`, or otherwise the one in `results` if there is one.
///
/// # Errors
///
/// If the plan's own files cannot be written or read. The failure of a step is the verdict of that step.
pub fn run(
    mut summary: Summary,
    results: &Path,
    baseline: Option<&Path>,
    runner: &mut dyn StepRunner,
) -> Result<FinishedPlan, Error> {
    // Reads the baseline first: if it cannot be read, the plan must not begin.
    let own = results.join(baseline::FILE);
    let file = baseline.or_else(|| own.is_file().then_some(&*own));
    let baseline = file.map(|file| Ok::<_, Error>((file, Baseline::read(file)?))).transpose()?;
    let mut directory = RunDir::create(results, &summary.run.id)?;
    let path = directory.path().to_owned();
    let mut runs = Vec::new();
    let mut stopped = false;
    for n in 0..summary.steps.len() {
        summary.steps[n].directory = runner.directory(&summary.steps[n]);
        summary.write(&path, PLAN)?;
        let step = &mut summary.steps[n];
        let end = runner.run(&path, step);
        stopped = matches!(end, StepEnd::Stop { .. });
        let run = close_step(&path, step, end);
        if let (Some(run), Some((_, baseline))) = (&run, &baseline)
            && step.verdict.status == Status::Fail
            && baseline.expects(run)
        {
            step.verdict = Verdict::new(Status::Pass, format!("{}, as the baseline expects", step.verdict.reason));
        }
        runs.extend(run);
        summary.write(&path, PLAN)?;
        if stopped {
            break;
        }
    }
    summary.run.finished = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    summary.judge();
    if let Some((file, baseline)) = baseline {
        let file = file.display().to_string();
        summary.regression = Some(regression::check(&file, &baseline, &runs, &earlier(results), Options::default()));
        summary.judge();
    }
    store::give_up_reserve(&path);
    let stored = StoredPlan { summary, runs };
    write(&stored, &path)?;
    directory.journal(&Entry::End)?;
    Ok(FinishedPlan { directory: path, stored, stopped })
}

/// Puts the end of a step into the summary, and returns its run. If the run cannot be read, the verdict of the step is an
/// error.
fn close_step(plan: &Path, step: &mut Step, end: StepEnd) -> Option<RunResult> {
    let caused_by = |reason| WitnessedEnd { cause: Some(reason), ..WitnessedEnd::default() };
    let (directory, witness) = match end {
        StepEnd::Run { directory, witness } => (Some(directory), witness),
        StepEnd::Stop { directory, reason } => (directory, caused_by(reason)),
        StepEnd::NoRun(reason) => (None, caused_by(reason)),
    };
    step.directory = directory;
    let settled = step.directory.is_some().then(|| settle(plan, step, &witness));
    if let Some(Ok(run)) = settled {
        return Some(run);
    }
    let why = witness.cause.or_else(|| settled?.err().map(|error| error.to_string()));
    step.verdict = Verdict::new(Status::Error, why.unwrap_or_else(|| "the run left no result".into()));
    step.directory = None;
    None
}

/// Returns the runs of earlier nights. Runs that cannot be read are left out.
fn earlier(results: &Path) -> Vec<RunResult> {
    runs::directories(results).iter().filter_map(|run| store::read(run).ok()).collect()
}
