//! The verdict on kernels that differ by the patch alone, after the same storm in each. Pure.

use record::case::CaseResult;
use record::reproduction::{Reproduction, reproduction};
use record::result::RunResult;
use record::verdict::relax_lockup;
use scenarios::storm::findings::Findings;
use scenarios::storm::verdict::{GROWTH_SHARE, lacks_maintenance};

/// Growth from one to four racers that the unfixed kernel has to show: complete serialisation gives 4.
const GROWTH_OF_FOUR: f64 = 3.5;

/// One statement about the kernels.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Whether it came out as it has to.
    pub holds: bool,
    /// What was found.
    pub text: String,
}

/// Results of the kernels.
pub struct Kernels<'a> {
    /// By line always: the bug.
    pub by_line: &'a RunResult,
    /// The fixes, each against the bug.
    pub fixed: &'a [RunResult],
    /// No maintenance, where it was run.
    pub none: Option<&'a RunResult>,
}

/// Returns the races of a run with their cases.
pub fn races(run: &RunResult) -> impl Iterator<Item = (&CaseResult, Findings)> {
    run.cases.iter().filter_map(|case| Some((case, case.findings.get()?)))
}

/// Returns the growth with the most racers, and how many these were.
pub fn growth(run: &RunResult) -> Option<(u64, f64)> {
    let (case, storm) = races(run).filter(|(case, _)| case.vcpus > 1).max_by_key(|(case, _)| case.vcpus)?;
    Some((case.vcpus, storm.growth?))
}

/// Judges them: the lockup and its absence, and, after a storm, growth and missing maintenance.
pub fn judge(kernels: &Kernels<'_>) -> Vec<Finding> {
    let compare = |fixed: &RunResult| {
        let Reproduction { reproduced, reason } = reproduction(kernels.by_line, fixed);
        let word = if reproduced { "REPRODUCED" } else { "NOT REPRODUCED" };
        Finding { holds: reproduced, text: format!("{word}: {reason}") }
    };
    let mut findings: Vec<_> = kernels.fixed.iter().map(compare).collect();
    if let Some(none) = kernels.none {
        findings.push(grows(kernels.by_line));
        findings.extend(kernels.fixed.iter().chain([none]).map(does_not_grow));
        findings.push(no_maintenance(none));
    }
    findings
}

fn name(run: &RunResult) -> &str {
    &run.machine.kernel_release
}

fn grows(run: &RunResult) -> Finding {
    let Some((racers, growth)) = growth(run) else {
        return Finding { holds: false, text: format!("{}: growth was not measured", name(run)) };
    };
    let least = GROWTH_OF_FOUR / 4.0 * racers as f64;
    let holds = growth >= least;
    let compared = if holds { "at least" } else { "less than" };
    Finding {
        holds,
        text: format!("{}: {racers} racers stall {growth:.2} times as long as one, {compared} {least:.2}", name(run)),
    }
}

fn does_not_grow(run: &RunResult) -> Finding {
    let Some((racers, growth)) = growth(run) else {
        return Finding { holds: false, text: format!("{}: growth was not measured", name(run)) };
    };
    let holds = growth < GROWTH_SHARE * racers as f64;
    let word = if holds { "does not grow" } else { "grows" };
    Finding { holds, text: format!("{}: the stall {word} with the racers: {growth:.2} times with {racers}", name(run)) }
}

fn no_maintenance(run: &RunResult) -> Finding {
    let shown = !run.cases.is_empty()
        && run.cases.iter().all(|case| case.findings.get::<Findings>().is_some_and(|storm| lacks_maintenance(&storm)));
    let lockup = run.cases.iter().any(|case| relax_lockup(case).is_some());
    let text = match (shown, lockup) {
        (true, false) => format!("{}: fails as \"no maintenance\", though it never locks up", name(run)),
        _ => format!("{}: not shown to do no maintenance: {}", name(run), run.verdict.reason),
    };
    Finding { holds: shown, text }
}
