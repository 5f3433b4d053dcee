//! LAVA's test case signals, for a job whose dispatcher reads this machine's output.
//!
//! A value may not contain a space, `=` or `>`. Names are made by [`record::measure::identifier`], which replaces these.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use record::status::Status;

use crate::subject::Subject;

/// Helper program of LAVA, which is in PATH inside its test shells.
const HELPER: &str = "lava-test-case";

/// A result in LAVA's terms.
struct TestCase {
    id: String,
    result: &'static str,
    measurement_ns: Option<u64>,
}

/// Returns the word for a status in formats that have only three statuses.
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Pass => "pass",
        Status::Skip => "skip",
        Status::Fail | Status::Timeout | Status::Error => "fail",
    }
}

fn test_cases(subject: &Subject<'_>) -> Vec<TestCase> {
    let mut all = Vec::new();
    for group in subject.groups() {
        for test in &group.tests {
            all.push(TestCase { id: test.name.clone(), result: word(test.verdict.status), measurement_ns: None });
            all.extend(test.measures().into_iter().map(|(measure, ns)| TestCase {
                id: format!("{}.{measure}", test.name),
                result: "pass",
                measurement_ns: Some(ns),
            }));
        }
        all.push(TestCase { id: group.name, result: word(group.verdict.status), measurement_ns: None });
    }
    all
}

/// Returns the signals, one in each line.
pub fn signals(subject: &Subject<'_>) -> String {
    let line = |case: TestCase| {
        let measured = case.measurement_ns.map(|ns| format!(" UNITS=ns MEASUREMENT={ns}")).unwrap_or_default();
        format!("<LAVA_SIGNAL_TESTCASE TEST_CASE_ID={} RESULT={}{measured}>\n", case.id, case.result)
    };
    test_cases(subject).into_iter().map(line).collect()
}

/// Reports by LAVA's helper inside its test shells, and by signals on `out` elsewhere.
///
/// # Errors
///
/// If the writer or the helper fails.
pub fn report(out: &mut impl Write, subject: &Subject<'_>) -> io::Result<()> {
    let Some(helper) = helper() else { return out.write_all(signals(subject).as_bytes()) };
    for case in test_cases(subject) {
        let mut command = Command::new(&helper);
        command.args([&case.id, "--result", case.result]).stdin(Stdio::null());
        if let Some(ns) = case.measurement_ns {
            command.args(["--measurement", &ns.to_string(), "--units", "ns"]);
        }
        let status = command.status()?;
        if !status.success() {
            return Err(io::Error::other(format!("{} {}: {status}", helper.display(), case.id)));
        }
    }
    Ok(())
}

fn helper() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(HELPER)).find(|file| file.is_file())
}
