//! `results.ktap`: KTAP version 1, as `kunit.py parse` and the tools of kselftest read it.
//!
//! A run is a test and its cases are subtests. The kernel documents the format in dev-tools/ktap.

use std::fmt::Write;

use klog::quiet::quiet;
use record::status::{Status, Verdict};

use crate::subject::{Group, Subject};

/// Returns the run, or the runs of a plan, as KTAP.
pub fn ktap(subject: &Subject<'_>) -> String {
    let groups = subject.groups();
    let mut out = format!("KTAP version 1\n1..{}\n", groups.len());
    for group in groups.iter().filter(|group| group.run.is_some_and(|run| run.answer().is_some())) {
        line(&mut out, format_args!("# {}: {}", group.name, quiet(&group.verdict.reason)));
    }
    for (n, group) in groups.iter().enumerate() {
        subtests(&mut out, group);
        line(&mut out, format_args!("{}", outcome(n + 1, &group.name, group.verdict)));
    }
    out
}

fn subtests(out: &mut String, group: &Group<'_>) {
    if !group.tests.is_empty() {
        line(out, format_args!("  KTAP version 1"));
        line(out, format_args!("  # Subtest: {}", group.name));
        line(out, format_args!("  1..{}", group.tests.len()));
    }
    for (n, test) in group.tests.iter().enumerate() {
        let name = &test.name;
        line(out, format_args!("  # {name}: {}", quiet(&test.verdict.reason)));
        for told in test.sanitizer().iter().flat_map(|sanitizer| sanitizer.lines()) {
            line(out, format_args!("  # {name}: {}", quiet(&told)));
        }
        for (measure, ns) in test.measures() {
            line(out, format_args!("  # {name}.{measure}: {ns} ns"));
        }
        line(out, format_args!("  {}", outcome(n + 1, name, test.verdict)));
    }
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
