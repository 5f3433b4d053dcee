//! The view of a stored run: the table of faults, the cost of tracing, and the points of the charts.

use record::case::CaseResult;
use record::result::RunResult;
use record::view::{Stall, View};
use units::text::time;

use crate::relax::findings::Findings;
use crate::relax::program::Sharing;

/// Returns the view of a run.
pub fn view(run: &RunResult) -> View {
    let sharing = |case: &CaseResult| case.findings.get::<Findings>().map(|findings| findings.sharing);
    View {
        details: run.cases.iter().map(|case| tracing_cost(case).into_iter().collect()).collect(),
        costs: crate::table::costs(run, |case| sharing(case) == Some(Sharing::Distinct)),
        stalls: stalls(run, |case| sharing(case) == Some(Sharing::Shared)),
        ..crate::table::faults(run)
    }
}

fn tracing_cost(case: &CaseResult) -> Option<String> {
    if let Some(cost) = case.times().tracing_cost {
        let (percent, without, with) = (cost.percent(), time(cost.untraced_ns), time(cost.traced_ns));
        return Some(format!("tracing cost: {percent:+.1} % of the median exec fault ({without} to {with})"));
    }
    let unknown = case.host.is_some() && !case.complaints.is_empty();
    unknown.then(|| "tracing cost: not known, as printing the kernel's complaints took time, too".into())
}

/// Returns the longest exec fault against the number of vCPUs, for the largest block that several vCPUs executed at
/// once.
fn stalls(run: &RunResult, shared: impl Fn(&CaseResult) -> bool) -> Vec<Stall> {
    let cases = || run.cases.iter().filter(|case| case.block_bytes() > 0 && shared(case));
    let largest = cases().map(CaseResult::block_bytes).max();
    let of = cases().filter(|case| Some(case.block_bytes()) == largest);
    of.filter_map(|case| Some(Stall { racers: case.vcpus, ns: case.times().exec?.ns.max })).collect()
}
