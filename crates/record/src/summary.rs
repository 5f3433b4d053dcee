//! A plan that was run: `plan.json` and `summary.json`, version 1.
//!
//! ```text
//! results/<time>-<kernel>-<plan>-<short id>/
//!     plan.json       what was to be run and how far it came; replaced before and after every step
//!     summary.json    last, by rename: the verdict; without it the plan died
//!     results.ktap, junit.xml, kcidb.json, result.txt, faultline.prom    of all runs together
//!     <run>/          one directory for each step, as `faultline run` leaves it
//! ```

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::result::{RunId, RunResult, Tool, UnderTest};
use crate::status::{Status, Verdict};
use crate::store;

/// File of a plan under way.
pub const PLAN: &str = "plan.json";
/// File of a plan that came to its end.
pub const SUMMARY: &str = "summary.json";

/// Name of the comparison with the baseline in every format.
pub const REGRESSION: &str = "regression";

/// Reason of a step that the plan did not come to.
pub const NOT_RUN: &str = "not run: the plan ended before";

/// `plan.json` and `summary.json`, version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// [`VERSION`](crate::result::VERSION).
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

/// How the runs of a plan stand against the baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Regression {
    /// The baseline's file.
    pub baseline: String,
    /// Over all cases.
    pub verdict: Verdict,
    /// Each case.
    pub cases: Vec<RegressionCase>,
}

/// One case, or a run that could not be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegressionCase {
    /// `regression.<run>.<case>`.
    pub name: String,
    /// Fail: something got worse; skip: nothing can be told yet.
    pub verdict: Verdict,
}

impl Summary {
    /// Judges the whole from its steps and the comparison: the worst of them, error before timeout before fail; skipped
    /// only where every step was.
    pub fn judge(&mut self) {
        let steps = self.steps.iter().map(|step| (&*step.name, &step.verdict));
        let regression = self.regression.as_ref().map(|regression| (REGRESSION, &regression.verdict));
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

    /// Writes the summary as `file` ([`PLAN`] or [`SUMMARY`]) of the plan's directory, by rename.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, directory: &Path, file: &str) -> Result<(), store::Error> {
        store::write_json(&directory.join(file), self)
    }
}

/// A plan on disk, with its runs.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its summary.
    pub summary: Summary,
    /// The runs of the steps that left one, in order.
    pub runs: Vec<RunResult>,
}

/// Says whether this is the directory of a plan.
pub fn is_plan(directory: &Path) -> bool {
    directory.join(PLAN).is_file() || directory.join(SUMMARY).is_file()
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
