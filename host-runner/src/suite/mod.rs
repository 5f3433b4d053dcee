//! A plan that was run: its directory, what is known of it so far, and its summary.
//!
//! ```text
//! results/<time>-<kernel>-<plan>-<short id>/
//!     plan.json       what was to be run and how far it came; replaced before and after every step
//!     summary.json    last, by rename: the verdict; without it the plan died
//!     results.ktap, junit.xml, kcidb.json, result.txt, faultline.prom    of all runs together
//!     <run>/          one directory for each step, as `faultline run` leaves it
//! ```

pub mod regression;
pub mod runner;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::regression::Regression;
use crate::plan::suite::Suite;
use crate::recover::{self, Witness};
use crate::report::{self, subject::Subject};
use crate::result::{RunId, RunResult, Status, Tool, UnderTest, VERSION, Verdict};
use crate::store;

/// What was to be run, and how far it came.
pub const PLAN: &str = "plan.json";
/// What came of it.
pub const SUMMARY: &str = "summary.json";

/// `plan.json` and `summary.json`, version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// [`VERSION`].
    pub version: u32,
    /// Which plan directory this is and when it was.
    pub run: RunId,
    /// The tool that ran.
    pub tool: Tool,
    /// Its arguments.
    pub command: Vec<String>,
    /// What the operator said about the kernel.
    #[serde(skip_serializing_if = "UnderTest::is_empty", default)]
    pub under_test: UnderTest,
    /// Name of the plan.
    pub plan: String,
    /// Why one runs it.
    pub about: String,
    /// Verdict over all steps and the comparison with the baseline.
    pub verdict: Verdict,
    /// The runs, in order.
    pub steps: Vec<Step>,
    /// How the runs stand against the baseline, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub regression: Option<Regression>,
    /// The plan did not live to write this: `faultline recover` made it of what it had left.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub recovered: bool,
}

/// One run of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// What reports call it.
    pub name: String,
    /// What was run.
    pub words: Vec<String>,
    /// Its directory, below the plan's; none before it began.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub directory: Option<String>,
    /// How it came out.
    pub verdict: Verdict,
}

impl Summary {
    /// Returns what is known of a plan before its first step.
    pub fn begin(id: &str, started: String, plan: &Suite, command: Vec<String>, under_test: UnderTest) -> Self {
        let step = |step: &crate::plan::suite::Step| Step {
            name: step.name.clone(),
            words: step.words.clone(),
            directory: None,
            verdict: Verdict::new(Status::Error, NOT_RUN),
        };
        Self {
            version: VERSION,
            run: RunId { id: id.into(), started, finished: String::new() },
            tool: Tool {
                version: env!("CARGO_PKG_VERSION").into(),
                commit: env!("FAULTLINE_COMMIT").into(),
                peak_resident_kib: None,
            },
            command,
            under_test,
            plan: plan.name.clone(),
            about: plan.about.clone(),
            verdict: Verdict::new(Status::Error, NOT_RUN),
            steps: plan.steps.iter().map(step).collect(),
            regression: None,
            recovered: false,
        }
    }

    /// Judges the whole from its steps and the comparison: the worst of them, error before timeout before fail; skipped
    /// only where every step was.
    pub fn judge(&mut self) {
        let steps = self.steps.iter().map(|step| (&*step.name, &step.verdict));
        let regression = self.regression.as_ref().map(|regression| (regression::NAME, &regression.verdict));
        let all: Vec<_> = steps.chain(regression).collect();
        let named = |(name, verdict): &(&str, &Verdict)| format!("{name}: {}", verdict.reason);
        let worst = all.iter().filter(|(_, verdict)| verdict.status > Status::Skip).max_by_key(|(_, v)| v.status);
        let passed = self.steps.iter().filter(|step| step.verdict.status == Status::Pass).count();
        self.verdict = match worst {
            Some(worst) => {
                // The first of the worst, and whatever the baseline says besides: both are news.
                let first = all.iter().find(|(_, verdict)| verdict.status == worst.1.status).unwrap_or(worst);
                let also = all.last().filter(|last| last.1.status == Status::Fail && last.0 != first.0);
                let also = also.map(|last| format!("; {}", named(last))).unwrap_or_default();
                Verdict::new(worst.1.status, named(first) + &also)
            }
            None if passed == 0 => {
                Verdict::new(Status::Skip, all.first().map_or_else(|| "nothing was run".to_owned(), named))
            }
            None if passed == self.steps.len() => Verdict::new(Status::Pass, format!("all {passed} steps pass")),
            None => {
                let of = self.steps.len();
                Verdict::new(Status::Pass, format!("{passed} of {of} steps pass, the others were skipped"))
            }
        };
    }
}

/// Said of a step that the plan did not come to.
const NOT_RUN: &str = "not run: the plan ended before";

/// A plan on disk, with its runs.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its summary.
    pub summary: Summary,
    /// The runs of the steps that left one, in order.
    pub runs: Vec<RunResult>,
}

impl Stored {
    /// Returns it as what reports are made of.
    pub fn subject(&self) -> Subject<'_> {
        Subject { runs: self.runs.iter().collect(), plan: Some(&self.summary) }
    }

    /// Writes the summary and the files for labs.
    ///
    /// # Errors
    ///
    /// If one cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), store::Error> {
        save(&directory.join(SUMMARY), &self.summary)?;
        report::formats::write_all(directory, &self.subject())
    }
}

/// Says whether this is the directory of a plan.
pub fn is_plan(directory: &Path) -> bool {
    directory.join(PLAN).is_file() || directory.join(SUMMARY).is_file()
}

fn save(path: &Path, summary: &Summary) -> Result<(), store::Error> {
    let failed = |error| store::Error::Write(path.to_owned(), error);
    let text = serde_json::to_string_pretty(summary).map_err(io::Error::from).map_err(failed)? + "\n";
    store::replace(path, text.as_bytes()).map_err(failed)
}

/// Reads a plan that came to its end.
///
/// # Errors
///
/// If it has no summary, or a file is not readable.
pub fn read(directory: &Path) -> Result<Stored, store::Error> {
    let summary: Summary = store::read_versioned(&directory.join(SUMMARY))?;
    let directories = summary.steps.iter().filter_map(|step| step.directory.as_ref());
    let runs = directories.map(|name| store::read(&directory.join(name))).collect::<Result<_, _>>()?;
    Ok(Stored { summary, runs })
}

/// Reads the run of a step, which is closed first where it died, and puts its verdict into the summary.
///
/// # Errors
///
/// If its directory holds no run, or cannot be written.
pub fn settle(plan: &Path, step: &mut Step, witness: &Witness) -> Result<RunResult, recover::Error> {
    let run = plan.join(step.directory.as_deref().unwrap_or_default());
    let mut result =
        if run.join(store::RESULT).is_file() { store::read(&run)? } else { recover::close(&run, witness)? };
    let scenario = step.words.first().cloned().unwrap_or_default();
    let own_name = (step.name != scenario).then(|| step.name.clone());
    if result.recovered && (result.scenario != scenario || result.step != own_name) {
        // It died before it could say what it was.
        (result.scenario, result.step) = (scenario, own_name);
        store::write_result(&run, &result)?;
    }
    report::formats::write_all(&run, &Subject::from(&result))?;
    step.verdict = result.verdict.clone();
    Ok(result)
}

/// Closes a plan that died: its runs are closed, what it did not come to is said to be not run.
///
/// # Errors
///
/// If it is still alive, or a file cannot be read or written.
pub fn close(directory: &Path) -> Result<Stored, recover::Error> {
    if store::is_alive(directory) {
        return Err(recover::Error::Alive(directory.into()));
    }
    let mut summary: Summary = store::read_versioned(&directory.join(PLAN))?;
    let mut unclaimed = report::runs::directories(directory).into_iter().filter_map(|path| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        (!summary.steps.iter().any(|step| step.directory.as_ref() == Some(&name))).then_some(name)
    });
    // In the lab a run's name is known only once it is over: the one left belongs to the step that was under way.
    let orphan = unclaimed.next();
    if let Some(step) = summary.steps.iter_mut().find(|step| step.directory.is_none()) {
        step.directory = orphan;
    }
    let mut runs = Vec::new();
    for step in &mut summary.steps {
        if step.directory.as_ref().is_some_and(|name| !is_run(&directory.join(name))) {
            step.directory = None;
        }
        if step.directory.is_some() {
            runs.push(settle(directory, step, &Witness::default())?);
        }
    }
    summary.recovered = true;
    summary.run.finished = runs.last().map_or_else(|| summary.run.started.clone(), |run| run.run.finished.clone());
    summary.judge();
    store::give_up_reserve(directory);
    let stored = Stored { summary, runs };
    stored.write(directory)?;
    Ok(stored)
}

fn is_run(directory: &Path) -> bool {
    directory.join(store::RESULT).is_file() || directory.join(crate::journal::FILE).is_file()
}

/// Returns the plans below `results` that came to no end, in the order of their names.
///
/// # Errors
///
/// If it cannot be read.
pub fn dead(results: &Path) -> io::Result<Vec<PathBuf>> {
    let is_dead = |path: &PathBuf| path.join(PLAN).is_file() && !path.join(SUMMARY).is_file();
    if is_plan(results) {
        return Ok(Some(results.to_owned()).into_iter().filter(is_dead).collect());
    }
    let mut plans: Vec<_> = fs::read_dir(results)?.flatten().map(|entry| entry.path()).filter(is_dead).collect();
    plans.sort();
    Ok(plans)
}

#[cfg(test)]
mod tests;
