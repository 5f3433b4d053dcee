//! Runs the steps of a plan, one after another, whatever becomes of each.

use std::path::{Path, PathBuf};

use record::journal::{Entry, WitnessedEnd};
use record::result::RunResult;
use record::runs;
use record::status::{Status, Verdict};
use record::store::{self, RunDir};
use record::summary::{PLAN, Step, StoredPlan, Summary};
use report::compare::baseline::{self, Baseline};
use report::compare::{ALPHA, Options, Platforms};

use crate::suite::regression::{check, hold_against};
use crate::suite::{settle, write};

/// Changes up to this share of the baseline are none: as `faultline compare` has it.
const THRESHOLD: f64 = 0.05;

/// Why a plan came to no verdict.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its directory could not be written or read.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// A baseline was asked for that is none.
    #[error("{0}")]
    Baseline(#[from] baseline::Error),
}

/// How one step ended.
pub enum Ended {
    /// In a run directory of this name below the plan's; what else is known of its end.
    Run(String, WitnessedEnd),
    /// Without any, for this reason.
    Nothing(String),
    /// The plan ends with this step, for this reason: the user wants it, or no further step could do better. The
    /// step's directory, if it left one.
    Stopped(Option<String>, String),
}

/// What runs a step: this machine, or the lab.
pub trait Steps {
    /// Returns the name of the directory that the step will use, where that is known beforehand.
    fn directory(&mut self, step: &Step) -> Option<String>;

    /// Runs a step below the plan's directory `plan`.
    fn run(&mut self, plan: &Path, step: &Step) -> Ended;
}

/// How a plan ended.
pub struct Done {
    /// Its directory.
    pub directory: PathBuf,
    /// Everything in it.
    pub stored: StoredPlan,
    /// It was ended before its last step.
    pub stopped: bool,
}

/// Runs every step of `summary` in a new directory of `results`, then compares with `baseline`: the file given, or else
/// the one in `results`, if it is there.
///
/// # Errors
///
/// If the plan's own files cannot be written or read. What a step dies of is that step's verdict.
pub fn run(
    mut summary: Summary,
    results: &Path,
    baseline: Option<&Path>,
    steps: &mut dyn Steps,
) -> Result<Done, Error> {
    // Read first: a night that cannot be judged in the morning need not begin.
    let own = results.join(baseline::FILE);
    let file = baseline.or_else(|| own.is_file().then_some(&*own));
    let baseline = file.map(|file| Ok::<_, Error>((file, Baseline::read(file)?))).transpose()?;
    let mut directory = RunDir::create(results, &summary.run.id)?;
    let path = directory.path().to_owned();
    let mut runs = Vec::new();
    let mut stopped = false;
    for n in 0..summary.steps.len() {
        summary.steps[n].directory = steps.directory(&summary.steps[n]);
        summary.write(&path, PLAN)?;
        let step = &mut summary.steps[n];
        let ended = steps.run(&path, step);
        stopped = matches!(ended, Ended::Stopped(..));
        runs.extend(take(&path, step, ended));
        summary.write(&path, PLAN)?;
        if stopped {
            break;
        }
    }
    summary.run.finished = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    summary.judge();
    if let Some((file, baseline)) = baseline {
        let options = Options { threshold: THRESHOLD, platforms: Platforms::Same, alpha: ALPHA };
        let found = check(&file.display().to_string(), &baseline, &runs, &earlier(results), options);
        hold_against(&mut summary, found);
    }
    store::give_up_reserve(&path);
    let stored = StoredPlan { summary, runs };
    write(&stored, &path)?;
    directory.journal(&Entry::End)?;
    Ok(Done { directory: path, stored, stopped })
}

/// Takes a step's end into the summary, and returns its run. A run that cannot be read leaves its step an error, and the
/// others alone.
fn take(plan: &Path, step: &mut Step, ended: Ended) -> Option<RunResult> {
    let (name, witness) = match ended {
        Ended::Run(name, witness) => (Some(name), witness),
        Ended::Stopped(name, why) => (name, WitnessedEnd { cause: Some(why), ..WitnessedEnd::default() }),
        Ended::Nothing(why) => (None, WitnessedEnd { cause: Some(why), ..WitnessedEnd::default() }),
    };
    step.directory = name;
    let settled = step.directory.is_some().then(|| settle(plan, step, &witness));
    if let Some(Ok(run)) = settled {
        return Some(run);
    }
    let why = witness.cause.or_else(|| settled?.err().map(|error| error.to_string()));
    step.verdict = Verdict::new(Status::Error, why.unwrap_or_else(|| "the run left no result".into()));
    step.directory = None;
    None
}

/// Returns the runs of earlier nights. One that cannot be read is no reason not to judge this one.
fn earlier(results: &Path) -> Vec<RunResult> {
    runs::directories(results).iter().filter_map(|run| store::read(run).ok()).collect()
}
