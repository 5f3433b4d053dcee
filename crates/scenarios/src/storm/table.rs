//! The view of a stored run: the table of faults, a line about each case, the headroom, and the points of the charts.

use record::case::CaseResult;
use record::result::RunResult;
use record::view::{Stall, View};
use units::text::{counted, thousands, time};

use crate::storm::findings::{Conclusion, Findings};
use crate::storm::program::{Mode, Order};

/// Returns the view of a run.
pub fn view(run: &RunResult) -> View {
    let storms: Vec<(&CaseResult, Findings)> =
        run.cases.iter().filter_map(|case| Some((case, case.findings.get::<Findings>()?))).collect();
    let mut findings: Vec<String> = storms.iter().map(|(case, storm)| line(case, storm)).collect();
    let conclusion = run.conclusion.get::<Conclusion>();
    findings.extend(conclusion.map(|own| own.headroom.text()));
    let distinct = |case: &CaseResult| case.findings.get::<Findings>().is_some_and(|own| own.mode == Mode::Distinct);
    View { findings, costs: crate::table::costs(run, distinct), stalls: stalls(&storms), ..crate::table::faults(run) }
}

/// Returns the longest stall against the number of racers, for the largest block that all racers shared.
fn stalls(storms: &[(&CaseResult, Findings)]) -> Vec<Stall> {
    let shared = || {
        storms.iter().filter(|(case, storm)| {
            case.block_bytes() > 0 && storm.mode == Mode::Shared && storm.order == Order::DataFirst
        })
    };
    let largest = shared().map(|(case, _)| case.block_bytes()).max();
    let of = shared().filter(|(case, _)| Some(case.block_bytes()) == largest);
    let ns = |case: &CaseResult, storm: &Findings| {
        Some(storm.worst_ns).filter(|ns| *ns > 0).or(Some(case.times().exec?.ns.max))
    };
    of.filter_map(|(case, storm)| Some(Stall { racers: case.vcpus, ns: ns(case, storm)? })).collect()
}

/// Describes a case in one line.
fn line(case: &CaseResult, storm: &Findings) -> String {
    let faulted: u64 = storm.racers.iter().map(|racer| racer.faulted).sum();
    let races: u64 = storm.racers.iter().map(|racer| racer.races).sum();
    let mut parts = vec![
        format!("{} into {}: worst stall {}", counted(case.vcpus, "racer"), case.name, time(storm.worst_ns)),
        format!("race {}", storm.wall.map_or_else(|| "-".into(), |wall| time(wall.ns.max))),
        format!("{} of {} fetches faulted", thousands(faulted), thousands(races)),
    ];
    if let Some(most) = storm.traced.iter().filter_map(|race| race.invalidations).max() {
        parts.push(format!("{most} invalidations of a block"));
    }
    if let Some(growth) = storm.growth.filter(|_| case.vcpus > 1) {
        parts.push(format!("{growth:.2} × one racer"));
    }
    if let Some(model) = storm.model.as_ref().filter(|_| case.vcpus > 1) {
        parts.push(format!("{:.2} of the model ({})", model.ratio, time(model.predicted_ns)));
    }
    parts.join("; ")
}
