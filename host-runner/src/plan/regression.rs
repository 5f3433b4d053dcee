//! Compares the runs of a plan with the baseline: one test for each case that both have.

use std::slice::from_ref;

use record::measure::identifier;
use record::result::RunResult;
use record::status::{Status, Verdict};
use record::summary::{REGRESSION, Regression, RegressionCase};
use report::compare::baseline::{Baseline, key};
use report::compare::{Change, Comparison, Fact, Options, compare, print};

/// Maximum number of runs that are compared with the baseline together: this one, and earlier ones of the same kernel.
const MAX_NIGHTS: usize = 10;

/// Compares each of `runs` with the baseline from `file`. Runs among `earlier` with the same kernel and machine are added
/// to it, because a single run on hardware cannot show that times changed.
pub fn check(
    file: &str,
    baseline: &Baseline,
    runs: &[RunResult],
    earlier: &[RunResult],
    options: Options,
) -> Regression {
    // Each run is compared on its own, and a false alarm in any of them is one of the whole plan.
    let options = Options { alpha: options.alpha / runs.len().max(1) as f64, ..options };
    let cases: Vec<_> = runs.iter().flat_map(|run| cases(baseline, run, earlier, options)).collect();
    Regression { baseline: file.into(), verdict: overall(&cases), cases }
}

fn cases(baseline: &Baseline, run: &RunResult, earlier: &[RunResult], options: Options) -> Vec<RegressionCase> {
    let skipped = |why: String| {
        vec![RegressionCase {
            name: format!("{REGRESSION}.{}", identifier(run.title())),
            verdict: Verdict::new(Status::Skip, why),
        }]
    };
    let before = match baseline.matching(from_ref(run)) {
        Ok(before) => before,
        Err(error) => return skipped(error.to_string()),
    };
    let tonight = compare(&before, from_ref(run), options);
    match tonight.and_then(|tonight| Ok((tonight, compare(&before, &together(baseline, run, earlier), options)?))) {
        Ok((tonight, pooled)) => by_case(run, &with_facts_of(&tonight, pooled)),
        Err(error) => skipped(error.to_string()),
    }
}

/// Replaces the facts of a comparison over several nights that one occurrence decides by those of tonight. Such a fact was
/// already reported in the night in which it occurred.
fn with_facts_of(tonight: &Comparison, mut pooled: Comparison) -> Comparison {
    let same = |fact: &Fact| tonight.facts.iter().find(|other| (&other.case, other.what) == (&fact.case, fact.what));
    let replaced = |fact: Fact| if fact.p.is_some() { Some(fact) } else { same(&fact).cloned() };
    pooled.facts = pooled.facts.into_iter().filter_map(replaced).collect();
    pooled
}

/// Returns the run, followed by the newest of the earlier runs of the same kernel on the same machine.
fn together(baseline: &Baseline, run: &RunResult, earlier: &[RunResult]) -> Vec<RunResult> {
    let kernel = |run: &RunResult| {
        let machine = &run.machine;
        let in_lab = run.lab_kernel().map(str::to_owned);
        (machine.kernel_release.clone(), machine.kernel_version.clone(), in_lab, run.under_test.clone())
    };
    // If instructions are counted, times repeat exactly and one run is enough.
    let counted = run.machine.lab.as_ref().is_some_and(|lab| lab.time_scale.is_some());
    let alike = |other: &&RunResult| {
        !counted
            && other.run.id != run.run.id
            && key(other) == key(run)
            && kernel(other) == kernel(run)
            && !baseline.contains(other)
    };
    let newest = earlier.iter().rev().filter(alike).take(MAX_NIGHTS - 1).cloned();
    std::iter::once(run.clone()).chain(newest).collect()
}

fn by_case(run: &RunResult, comparison: &Comparison) -> Vec<RegressionCase> {
    let named = comparison.facts.iter().map(|fact| &fact.case).chain(comparison.metrics.iter().map(|m| &m.case));
    let mut names: Vec<&String> = Vec::new();
    for name in named {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let of = |name: &&String| RegressionCase {
        name: format!("{REGRESSION}.{}.{}", identifier(run.title()), identifier(name)),
        verdict: judge(comparison, name),
    };
    names.iter().map(of).collect()
}

fn judge(comparison: &Comparison, case: &str) -> Verdict {
    let facts = || comparison.facts.iter().filter(|fact| fact.case == case);
    let metrics = || comparison.metrics.iter().filter(|metric| metric.case == case && metric.decides());
    let worse: Vec<_> = facts()
        .filter(|fact| fact.change == Change::Worse)
        .map(|fact| format!("{}: {} -> {}", fact.what, fact.before, fact.after))
        .chain(
            metrics()
                .filter(|metric| metric.change == Change::Worse)
                .map(|metric| format!("{} {}", metric.measure, print::relative(metric.relative))),
        )
        .collect();
    if !worse.is_empty() {
        return Verdict::new(Status::Fail, format!("worse than the baseline: {}", worse.join("; ")));
    }
    let all = || facts().map(|fact| fact.change).chain(metrics().map(|metric| metric.change));
    let unclear = all().filter(|change| *change == Change::Inconclusive).count();
    if unclear > 0 {
        let of = all().count();
        let yet = if comparison.exact { "" } else { " yet: more nights will" };
        return Verdict::new(Status::Skip, format!("{unclear} of {of} cannot be told{yet}"));
    }
    let better = all().filter(|change| *change == Change::Better).count();
    Verdict::new(Status::Pass, format!("{} compared, none worse, {better} better", all().count()))
}

fn overall(cases: &[RegressionCase]) -> Verdict {
    let failed: Vec<_> = cases.iter().filter(|case| case.verdict.status == Status::Fail).collect();
    if let Some(first) = failed.first() {
        let more = if failed.len() > 1 { format!(" and {} more", failed.len() - 1) } else { String::new() };
        return Verdict::new(Status::Fail, format!("{} {}{more}", first.name, first.verdict.reason));
    }
    let passed = cases.iter().filter(|case| case.verdict.status == Status::Pass).count();
    match (passed, cases.first()) {
        (0, Some(first)) => Verdict::new(Status::Skip, first.verdict.reason.clone()),
        (0, None) => Verdict::new(Status::Skip, "nothing to compare"),
        (passed, _) => Verdict::new(Status::Pass, format!("none of {passed} cases is worse than the baseline")),
    }
}
