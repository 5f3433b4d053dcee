//! What the table says below itself about races, the policy and the headroom.

use std::io::{self, Write};

use super::table::{thousands, time};
use crate::result::{CaseResult, RunResult, Storm};

/// Prints what a run found besides its cases.
///
/// # Errors
///
/// Of the writer.
pub fn findings(out: &mut impl Write, run: &RunResult) -> io::Result<()> {
    for case in &run.cases {
        if let Some(storm) = &case.storm {
            writeln!(out, "    {}", race(case, storm))?;
        }
    }
    if let Some(policy) = &run.policy {
        writeln!(out, "{}: policy: {}", run.machine.kernel_release, policy.class.name())?;
        for line in &policy.evidence {
            writeln!(out, "    {line}")?;
        }
        for line in &policy.cannot {
            writeln!(out, "    cannot be told: {line}")?;
        }
    }
    if let Some(headroom) = &run.headroom {
        writeln!(out, "{}: {}", run.machine.kernel_release, headroom.text())?;
    }
    Ok(())
}

/// Describes a race in one line.
fn race(case: &CaseResult, storm: &Storm) -> String {
    let faulted: u64 = storm.racers.iter().map(|racer| racer.faulted).sum();
    let races: u64 = storm.racers.iter().map(|racer| racer.races).sum();
    let mut parts = vec![
        format!(
            "{} racer{} into {}: worst stall {}",
            case.vcpus,
            if case.vcpus == 1 { "" } else { "s" },
            case.block,
            time(storm.worst_ns)
        ),
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
