//! `results.ktap`: KTAP version 1, as `kunit.py parse` and kselftest's tools read it. Pure.
//!
//! The run is one test, its cases are subtests. Kernel documentation: dev-tools/ktap.

use std::fmt::Write;

use super::measure::{measures, named_cases};
use super::words::quiet;
use crate::result::{RunResult, Status, Verdict};

/// Returns the run as KTAP.
pub fn ktap(run: &RunResult) -> String {
    let mut out = String::from("KTAP version 1\n1..1\n");
    let cases = named_cases(run);
    if !cases.is_empty() {
        line(&mut out, format_args!("  KTAP version 1"));
        line(&mut out, format_args!("  # Subtest: {}", run.scenario));
        line(&mut out, format_args!("  1..{}", cases.len()));
    }
    for (n, (name, case)) in cases.iter().enumerate() {
        line(&mut out, format_args!("  # {name}: {}", quiet(&case.verdict.reason)));
        for (measure, ns) in measures(case) {
            line(&mut out, format_args!("  # {name}.{measure}: {ns} ns"));
        }
        line(&mut out, format_args!("  {}", outcome(n + 1, name, &case.verdict)));
    }
    line(&mut out, format_args!("{}", outcome(1, &run.scenario, &run.verdict)));
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
    out.push('\n');
}

fn outcome(number: usize, name: &str, verdict: &Verdict) -> String {
    let reason = quiet(&verdict.reason);
    match verdict.status {
        Status::Pass => format!("ok {number} {name}"),
        Status::Skip => format!("ok {number} {name} # SKIP {reason}"),
        Status::Fail => format!("not ok {number} {name}"),
        Status::Timeout => format!("not ok {number} {name} # TIMEOUT {reason}"),
        Status::Error => format!("not ok {number} {name} # ERROR {reason}"),
    }
}
