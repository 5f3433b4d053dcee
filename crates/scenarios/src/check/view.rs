//! The view of a stored run: the answer, the table of block sizes, the evidence and the limits of the machine.

use record::answer::Answer;
use record::case::CaseResult;
use record::result::RunResult;
use record::view::{Table, View};
use units::size::Size;
use units::text::{counted, thousands, time};

use crate::check::answer::judge;
use crate::check::findings::{Conclusion, Findings};

const HEAD: [&str; 6] = ["block", "verdict", "mapped as", "I-cache lines", "first execution", "later ones"];

/// Returns the view of a run.
pub fn view(run: &RunResult) -> View {
    let Some(conclusion) = run.conclusion.get::<Conclusion>() else { return View::default() };
    let rows: Vec<_> = run.cases.iter().map(|case| row(run, case)).collect();
    let table = Table { head: HEAD.map(str::to_owned).to_vec(), rows, left: 2, notes: Vec::new() };
    View {
        headline: Some(judge(&conclusion).reason),
        also: conclusion.also.clone(),
        tables: if run.cases.is_empty() { Vec::new() } else { vec![table] },
        passes_in_table: true,
        findings: findings(&conclusion),
        costs: crate::table::costs(run, |_| true),
        ..View::default()
    }
}

fn row(run: &RunResult, case: &CaseResult) -> Vec<String> {
    let measured = case.findings.get::<Findings>().map(|Findings(measured)| measured);
    let line_bytes = run.vcpus.first().map_or(0, |vcpu| vcpu.imin_line_bytes);
    let of = |text: &dyn Fn() -> String| if measured.is_some() { text() } else { "-".into() };
    let longest = |timing: Option<units::stats::Timing>| timing.map_or_else(|| "-".into(), |t| time(t.ns.max));
    vec![
        case.name.clone(),
        case.verdict.status.name().into(),
        of(&|| Size(case.block_bytes()).to_string()),
        of(&|| thousands(case.block_bytes().checked_div(line_bytes).unwrap_or(0))),
        longest(case.times().exec),
        longest(case.times().resident),
    ]
}

fn findings(conclusion: &Conclusion) -> Vec<String> {
    let mut lines = conclusion.evidence.clone();
    if let Some(ns) = conclusion.longest_ns {
        lines.push(format!("The longest stall here took {}.", time(ns)));
    }
    if conclusion.answer == Answer::Affected && !conclusion.passed_from.is_empty() {
        let from = conclusion
            .passed_from
            .iter()
            .rev()
            .map(|limit| format!("{} on one block of {}", counted(limit.racers, "vCPU"), Size(limit.block_bytes)));
        let threshold = match conclusion.threshold_ns {
            Some(ns) => format!("The threshold of {} s", ns / 1_000_000_000),
            None => "This machine reports no soft lockup. The default threshold of 20 s".into(),
        };
        lines.push(format!("{threshold} is passed from {}.", from.collect::<Vec<_>>().join(", or ")));
    }
    lines.extend(conclusion.remedy.iter().map(|command| format!("To get an answer: {command}")));
    lines
}
