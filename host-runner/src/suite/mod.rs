//! A plan that is run: its summary before, while and after its steps run.

pub mod regression;
pub mod runner;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use record::journal::WitnessedEnd;
use record::result::{RunId, RunResult, UnderTest, VERSION};
use record::runs;
use record::status::{Status, Verdict};
use record::store;
use record::summary::{NOT_RUN, PLAN, SUMMARY, Step, StoredPlan, Summary, is_plan};
use report::subject::Subject;

use crate::build::tool;
use crate::plan_file::{self, Plan};
use crate::recover;

/// Returns the summary of a plan before its first step.
pub fn begin(id: &str, started: String, plan: &Plan, command: Vec<String>, under_test: UnderTest) -> Summary {
    let step = |step: &plan_file::Step| Step {
        name: step.name.clone(),
        words: step.words.clone(),
        directory: None,
        verdict: Verdict::new(Status::Error, NOT_RUN),
    };
    Summary {
        version: VERSION,
        run: RunId { id: id.into(), started, finished: String::new() },
        tool: tool(),
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

/// Returns a plan as the subject of reports.
pub fn subject(stored: &StoredPlan) -> Subject<'_> {
    Subject { runs: stored.runs.iter().map(scenarios::viewed).collect(), plan: Some(&stored.summary) }
}

/// Writes the summary and the files for labs.
///
/// # Errors
///
/// If one cannot be written.
pub fn write(stored: &StoredPlan, directory: &Path) -> Result<(), store::Error> {
    stored.summary.write(directory, SUMMARY)?;
    report::formats::write_all(directory, &subject(stored))
}

/// Reads the run of a step, which is closed first where it died, and puts its verdict into the summary.
///
/// # Errors
///
/// If its directory holds no run, or cannot be written.
pub fn settle(plan: &Path, step: &mut Step, witness: &WitnessedEnd) -> Result<RunResult, recover::Error> {
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
    report::formats::write_all(&run, &Subject::from(scenarios::viewed(&result)))?;
    step.verdict = result.verdict.clone();
    Ok(result)
}

/// Closes a plan that died: its runs are closed, what it did not come to is said to be not run.
///
/// # Errors
///
/// If it is still alive, or a file cannot be read or written.
pub fn close(directory: &Path) -> Result<StoredPlan, recover::Error> {
    if store::is_alive(directory) {
        return Err(recover::Error::Alive(directory.into()));
    }
    let mut summary: Summary = store::read_versioned(&directory.join(PLAN))?;
    let mut unclaimed = runs::directories(directory).into_iter().filter_map(|path| {
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
            runs.push(settle(directory, step, &WitnessedEnd::default())?);
        }
    }
    summary.recovered = true;
    summary.run.finished = runs.last().map_or_else(|| summary.run.started.clone(), |run| run.run.finished.clone());
    summary.judge();
    store::give_up_reserve(directory);
    let stored = StoredPlan { summary, runs };
    write(&stored, directory)?;
    Ok(stored)
}

fn is_run(directory: &Path) -> bool {
    directory.join(store::RESULT).is_file() || directory.join(record::journal::FILE).is_file()
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
