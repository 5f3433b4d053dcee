//! `result.txt`, as Linaro's test definitions parse it: `name pass|fail|skip [value [unit]]`. Pure.

use std::fmt::Write;

use super::lava::word;
use super::measure::{measures, named_cases};
use crate::result::RunResult;

/// Returns the run as one line per case and one per measurement.
pub fn linaro(run: &RunResult) -> String {
    let mut out = String::new();
    for (name, case) in named_cases(run) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name} {}", word(case.verdict.status));
        for (measure, ns) in measures(case) {
            let _ = writeln!(out, "{name}.{measure} pass {ns} ns");
        }
    }
    let _ = writeln!(out, "{} {}", run.scenario, word(run.verdict.status));
    out
}
