//! `result.txt`, as Linaro's test definitions parse it: `name pass|fail|skip [value [unit]]`.

use std::fmt::Write;

use crate::formats::lava::word;
use crate::subject::Subject;

/// Returns a line for each case, each measurement and each run.
pub fn linaro(subject: &Subject<'_>) -> String {
    let mut out = String::new();
    for group in subject.groups() {
        for test in &group.tests {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{} {}", test.name, word(test.verdict.status));
            for (name, count) in test.sanitizer().iter().flat_map(|sanitizer| sanitizer.counts()) {
                let _ = writeln!(out, "{}.{name} pass {count}", test.name);
            }
            for (measure, ns) in test.measures() {
                let _ = writeln!(out, "{}.{measure} pass {ns} ns", test.name);
            }
        }
        let _ = writeln!(out, "{} {}", group.name, word(group.verdict.status));
    }
    out
}
