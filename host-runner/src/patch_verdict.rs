//! The verdict of `faultline reproduce-patch`: on kernels that differ by the patch alone, after the same runs on each.

use record::case::CaseResult;
use record::reproduction::{Reproduction, reproduction};
use record::result::RunResult;
use record::verdict::relax_lockup;
use scenarios::storm::findings::Findings;
use scenarios::storm::verdict::{GROWTH_SHARE, lacks_maintenance};

/// Minimum growth of the stall from one to four racers on the unfixed kernel. Complete serialisation gives 4.
const GROWTH_OF_FOUR: f64 = 3.5;

/// A statement about the kernels.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// True if the statement is what the patch has to show.
    pub holds: bool,
    /// The statement.
    pub text: String,
}

/// Results of the same runs on each kernel.
pub struct Kernels<'a> {
    /// The kernel that always invalidates by line, which has the bug.
    pub by_line: &'a RunResult,
    /// The kernels with a fix. Each is compared with the one that has the bug.
    pub fixed: &'a [RunResult],
    /// The kernel without maintenance, if it was run.
    pub none: Option<&'a RunResult>,
}

/// Returns the cases of a run that are races, with their findings.
pub fn races(run: &RunResult) -> impl Iterator<Item = (&CaseResult, Findings)> {
    run.cases.iter().filter_map(|case| Some((case, case.findings.get()?)))
}

/// Returns the largest number of racers, and the growth of the stall with them.
fn growth(run: &RunResult) -> Option<(u64, f64)> {
    let (case, storm) = races(run).filter(|(case, _)| case.vcpus > 1).max_by_key(|(case, _)| case.vcpus)?;
    Some((case.vcpus, storm.growth?))
}

/// Judges the kernels: the lockup and its absence and, after a storm, growth and missing maintenance.
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
