//! The subject of a report: one run, or the runs of a plan and their comparison with the baseline.

use record::case::CaseResult;
use record::measure::{Measure, identifier, measures, named_cases};
use record::result::RunResult;
use record::sanitizer::Sanitizer;
use record::status::Verdict;
use record::summary::{REGRESSION, Step, Summary};
use record::view::Viewed;

/// One run, or the runs of a plan.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Runs, each with its view.
    pub runs: Vec<Viewed<'a>>,
    /// The plan, if the runs belong to one.
    pub plan: Option<&'a Summary>,
}

impl<'a> From<Viewed<'a>> for Subject<'a> {
    fn from(run: Viewed<'a>) -> Self {
        Self { runs: vec![run], plan: None }
    }
}

/// A group of tests: a run, a step without a run, or the comparison with the baseline.
#[derive(Clone, Debug)]
pub(crate) struct Group<'a> {
    /// Name in every format.
    pub name: String,
    /// Verdict.
    pub verdict: &'a Verdict,
    /// The run, if the group is one.
    pub run: Option<&'a RunResult>,
    /// Tests.
    pub tests: Vec<Test<'a>>,
}

/// A test: a case of a run, or of the comparison with the baseline.
#[derive(Clone, Debug)]
pub(crate) struct Test<'a> {
    /// Name in every format.
    pub name: String,
    /// Verdict.
    pub verdict: &'a Verdict,
    /// The case, if it is one of a run.
    pub case: Option<&'a CaseResult>,
}

impl Test<'_> {
    /// Returns the measurements in nanoseconds.
    pub(crate) fn measures(&self) -> Vec<(Measure, u64)> {
        self.case.map(measures).unwrap_or_default()
    }

    /// Returns the checks and reports of the sanitizer, if it ran.
    pub(crate) fn sanitizer(&self) -> Option<&Sanitizer> {
        self.case?.sanitizer.as_ref()
    }
}

impl<'a> Subject<'a> {
    /// Returns the groups that every format has, in order.
    pub(crate) fn groups(&self) -> Vec<Group<'a>> {
        let Some(plan) = self.plan else { return self.runs.iter().map(|viewed| of_run(viewed.run)).collect() };
        let step = |step: &'a Step| match self.run_of(step) {
            Some(run) => Group { verdict: &step.verdict, ..of_run(run) },
            None => Group { name: identifier(&step.name), verdict: &step.verdict, run: None, tests: Vec::new() },
        };
        let mut groups: Vec<_> = plan.steps.iter().map(step).collect();
        groups.extend(plan.regression.as_ref().map(|found| {
            Group {
                name: REGRESSION.into(),
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

    fn run_of(&self, step: &Step) -> Option<&'a RunResult> {
        self.runs.iter().map(|viewed| viewed.run).find(|run| Some(&run.run.id) == step.directory.as_ref())
    }
}

fn of_run(run: &RunResult) -> Group<'_> {
    let tests =
        named_cases(run).into_iter().map(|(name, case)| Test { name, verdict: &case.verdict, case: Some(case) });
    Group { name: identifier(run.title()), verdict: &run.verdict, run: Some(run), tests: tests.collect() }
}
