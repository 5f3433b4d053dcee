//! What a report is about: one run, or the runs of a plan and how they stand against the baseline. Pure.

use crate::result::{CaseResult, RunResult, Verdict};
use crate::suite::{Summary, regression};

use super::measure::{Measure, identifier, measures, named_cases};

/// One run, or a plan with its runs.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The runs.
    pub runs: Vec<&'a RunResult>,
    /// The plan, if they are one.
    pub plan: Option<&'a Summary>,
}

impl<'a> From<&'a RunResult> for Subject<'a> {
    fn from(run: &'a RunResult) -> Self {
        Self { runs: vec![run], plan: None }
    }
}

/// Tests that belong together: a run, a step that left none, or the comparison with the baseline.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// Its name in every format.
    pub name: String,
    /// How it came out.
    pub verdict: &'a Verdict,
    /// The run.
    pub run: Option<&'a RunResult>,
    /// Its parts.
    pub tests: Vec<Test<'a>>,
}

/// One test.
#[derive(Clone, Debug)]
pub struct Test<'a> {
    /// Its name in every format.
    pub name: String,
    /// How it came out.
    pub verdict: &'a Verdict,
    /// What was measured, where it is a case of a run.
    pub case: Option<&'a CaseResult>,
}

impl Test<'_> {
    /// Returns its measurements, in nanoseconds.
    pub fn measures(&self) -> Vec<(Measure, u64)> {
        self.case.map(measures).unwrap_or_default()
    }
}

impl<'a> Subject<'a> {
    /// Returns everything that formats count, in order.
    pub fn groups(&self) -> Vec<Group<'a>> {
        let Some(plan) = self.plan else { return self.runs.iter().map(|run| of_run(run)).collect() };
        let step = |step: &'a crate::suite::Step| match self.run_of(step) {
            Some(run) => Group { verdict: &step.verdict, ..of_run(run) },
            None => Group { name: identifier(&step.name), verdict: &step.verdict, run: None, tests: Vec::new() },
        };
        let mut groups: Vec<_> = plan.steps.iter().map(step).collect();
        groups.extend(plan.regression.as_ref().map(|found| {
            Group {
                name: regression::NAME.into(),
                verdict: &found.verdict,
                run: None,
                tests: found
                    .cases
                    .iter()
                    .map(|case| Test { name: identifier(&case.name), verdict: &case.verdict, case: None })
                    .collect(),
            }
        }));
        groups
    }

    fn run_of(&self, step: &crate::suite::Step) -> Option<&'a RunResult> {
        self.runs.iter().find(|run| Some(&run.run.id) == step.directory.as_ref()).copied()
    }
}

fn of_run(run: &RunResult) -> Group<'_> {
    let tests =
        named_cases(run).into_iter().map(|(name, case)| Test { name, verdict: &case.verdict, case: Some(case) });
    Group { name: identifier(run.title()), verdict: &run.verdict, run: Some(run), tests: tests.collect() }
}
