//! The stored execution of a plan: `plan.json` and `summary.json`, version 1.
//!
//! ```text
//! results/<time>-<kernel>-<plan>-<short id>/
//!     plan.json       the steps and their verdicts so far, replaced before and after each step
//!     summary.json    the same with the verdict of the plan, written last; if it is absent, the plan died
//!     results.ktap, junit.xml, kcidb.json, result.txt, faultline.prom    formats for all runs together
//!     <run>/          one run directory for each step
//! ```

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::result::{RunId, RunResult, Tool, UnderTest};
use crate::status::{Status, Verdict};
use crate::store;
use crate::verdict::without_failure;

/// File of a plan, written from its start on.
pub const PLAN: &str = "plan.json";
/// File of a plan that has ended.
pub const SUMMARY: &str = "summary.json";

/// Name of the comparison with the baseline, in all formats.
pub const REGRESSION: &str = "regression";

/// Reason of a step that did not begin before the plan ended.
pub const NOT_RUN: &str = "not run: the plan ended before";

/// `plan.json` and `summary.json`, version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Version of the format: [`VERSION`](crate::result::VERSION).
    pub version: u32,
    /// Name of the plan directory, and the times of start and end.
    pub run: RunId,
    /// The program that executed the plan.
    pub tool: Tool,
    /// The arguments of the command.
    pub command: Vec<String>,
    /// The user's description of the kernel.
    #[serde(skip_serializing_if = "UnderTest::is_empty", default)]
    pub under_test: UnderTest,
    /// Name of the plan.
    pub plan: String,
    /// Purpose of the plan.
    pub about: String,
    /// Verdict over all steps and the comparison with the baseline.
    pub verdict: Verdict,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Comparison of the runs with the baseline, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub regression: Option<Regression>,
    /// True if the plan died, and `faultline recover` wrote this file from the files that the plan had left.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub recovered: bool,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Name of the step in reports.
    pub name: String,
    /// The words of its `faultline run` command.
    pub words: Vec<String>,
    /// Name of its run directory in the plan directory. Absent before the step begins.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub directory: Option<String>,
    /// The verdict of the run.
    pub verdict: Verdict,
}

/// The comparison of the runs of a plan with a baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Regression {
    /// File of the baseline.
    pub baseline: String,
    /// Verdict over all cases.
    pub verdict: Verdict,
    /// The verdict on each case.
    pub cases: Vec<RegressionCase>,
}

/// One case, or one run that could not be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegressionCase {
    /// `regression.<run>.<case>`.
    pub name: String,
    /// A fail means that something got worse. A skip means that the numbers do not allow a statement yet.
    pub verdict: Verdict,
}

impl Summary {
    /// Sets the verdict of the plan from those of its steps and of the comparison. The worst of them counts. The plan
    /// is skipped only if every step was.
    pub fn judge(&mut self) {
        let steps = self.steps.iter().map(|step| (&*step.name, &step.verdict));
        let regression = self.regression.as_ref().map(|regression| (REGRESSION, &regression.verdict));
        let all: Vec<_> = steps.chain(regression).collect();
        let named = |(name, verdict): &(&str, &Verdict)| format!("{name}: {}", verdict.reason);
        let worst = all.iter().filter(|(_, verdict)| verdict.status > Status::Skip).max_by_key(|(_, v)| v.status);
        let passed = self.steps.iter().filter(|step| step.verdict.status == Status::Pass).count();
        self.verdict = match worst {
            Some(worst) => {
                // The reason names the first of the worst, and also a regression.
                let first = all.iter().find(|(_, verdict)| verdict.status == worst.1.status).unwrap_or(worst);
                let also = all.last().filter(|last| last.1.status == Status::Fail && last.0 != first.0);
                let also = also.map(|last| format!("; {}", named(last))).unwrap_or_default();
                Verdict::new(worst.1.status, named(first) + &also)
            }
            None => {
                let skipped = self.steps.iter().filter(|step| step.verdict.status == Status::Skip);
                let skipped: Vec<_> = skipped.map(|step| named(&(&step.name, &step.verdict))).collect();
                let overall = without_failure("steps", passed, self.steps.len(), all.first().map(named));
                match (passed, skipped.as_slice()) {
                    (0, _) | (_, []) => overall,
                    (_, skipped) => Verdict::new(
                        overall.status,
                        format!("{passed} of {} steps pass; skipped: {}", self.steps.len(), skipped.join("; ")),
                    ),
                }
            }
        };
    }

    /// Writes the summary to `file` ([`PLAN`] or [`SUMMARY`]) in the plan directory, by rename.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be written.
    pub fn write(&self, directory: &Path, file: &str) -> Result<(), store::Error> {
        store::write_json(&directory.join(file), self)
    }
}

/// A stored plan with its runs.
#[derive(Clone, Debug)]
pub struct StoredPlan {
    /// The summary of the plan.
    pub summary: Summary,
    /// The runs of those steps that have one, in order.
    pub runs: Vec<RunResult>,
}

/// Returns whether `directory` is that of a plan.
pub fn is_plan(directory: &Path) -> bool {
    directory.join(PLAN).is_file() || directory.join(SUMMARY).is_file()
}

/// Reads a plan that ended by itself or was recovered.
///
/// # Errors
///
/// Fails if the plan has no summary, or if a file cannot be read.
pub fn read(directory: &Path) -> Result<StoredPlan, store::Error> {
    let summary: Summary = store::read_versioned(&directory.join(SUMMARY))?;
    let directories = summary.steps.iter().filter_map(|step| step.directory.as_ref());
    let runs = directories.map(|name| store::read(&directory.join(name))).collect::<Result<_, _>>()?;
    Ok(StoredPlan { summary, runs })
}
