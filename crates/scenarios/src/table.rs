//! The table of the scenarios that time faults, and the points of their charts.

use record::case::CaseResult;
use record::memory::stage2_level;
use record::result::RunResult;
use record::verdict::relax_faults;
use record::view::{Cost, Table, View};
use units::stats::Timing;
use units::text::{thousands, time};

/// Column heads.
const HEAD: [&str; 7] = ["block", "verdict", "touch", "execution", "in host", "lines", "faults"];

/// Returns the view of a run: a table with one row for each case.
pub fn faults(run: &RunResult) -> View {
    let table = Table {
        head: HEAD.map(str::to_owned).to_vec(),
        rows: run.cases.iter().map(|case| row(run, case)).collect(),
        left: 2,
        notes: Vec::new(),
    };
    View { tables: vec![table], costs: costs(run, |_| true), ..View::default() }
}

/// Returns the cost of an exec fault in each case in which no vCPU waited for another: the cases with one vCPU, and
/// those that pass `alone`.
pub fn costs(run: &RunResult, alone: impl Fn(&CaseResult) -> bool) -> Vec<Cost> {
    let cases = run.cases.iter().filter(|case| case.block_bytes() > 0 && (case.vcpus == 1 || alone(case)));
    cases.filter_map(|case| Some(Cost { block_bytes: case.block_bytes(), exec: case.times().exec? })).collect()
}

fn row(run: &RunResult, case: &CaseResult) -> Vec<String> {
    let page_bytes = run.machine.page_bytes;
    let invalidation = case.host.as_ref().and_then(|host| host.icache);
    let tried = |text: String| if case.was_tried() { text } else { "-".into() };
    let by_line = case.predicted.map_or(0, |predicted| predicted.by_line);
    vec![
        run.label(case),
        case.verdict.status.name().into(),
        worst(case.times().touch),
        worst(case.times().exec),
        invalidation.map_or_else(|| "-".into(), |calls| time(calls.max_ns)),
        tried(thousands(by_line)),
        tried(format!("{}, level {}", relax_faults(case, page_bytes), stage2_level(case.block_bytes(), page_bytes))),
    ]
}

fn worst(timing: Option<Timing>) -> String {
    timing.map_or_else(|| "-".into(), |timing| time(timing.ns.max))
}
