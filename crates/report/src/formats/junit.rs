//! `junit.xml`, as Jenkins and GitLab read it.

use std::time::Duration;

use klog::quiet::quiet;
use quick_junit::{NonSuccessKind, Property, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

use record::case::CaseResult;
use record::measure::measures;
use record::result::RunResult;
use record::status::{Status, Verdict};

use crate::subject::{Group, Subject};

/// Returns each run as a test suite. Measurements are properties of their case.
///
/// # Errors
///
/// If the XML cannot be written.
pub fn junit(subject: &Subject<'_>) -> Result<String, SerializeError> {
    let mut report = Report::new("faultline");
    report.add_test_suites(subject.groups().iter().map(suite));
    report.to_string()
}

fn suite(group: &Group<'_>) -> TestSuite {
    let mut suite = TestSuite::new(&*group.name);
    if let Some(run) = group.run {
        describe(&mut suite, run);
    }
    if group.tests.is_empty() {
        // No reader reports a suite without cases as a failure.
        suite.add_test_case(test_case(group, &group.name, group.verdict, None));
    }
    suite.add_test_cases(group.tests.iter().map(|test| test_case(group, &test.name, test.verdict, test.case)));
    suite
}

fn describe(suite: &mut TestSuite, run: &RunResult) {
    suite.timestamp = run.run.started.parse().ok();
    let machine = &run.machine;
    let platform = machine.platform.name();
    if let Some(answer) = run.answer() {
        suite.add_property(Property::new("answer", answer.name()));
    }
    for (key, value) in [
        ("run", run.run.id.as_str()),
        ("kernel", &machine.kernel_release),
        ("kernel_version", &machine.kernel_version),
        ("platform", platform),
        ("faultline", &run.tool.version),
        ("faultline_commit", &run.tool.commit),
    ] {
        suite.add_property(Property::new(key, &*quiet(value)));
    }
}

fn test_case(group: &Group<'_>, name: &str, verdict: &Verdict, case: Option<&CaseResult>) -> TestCase {
    let reason = quiet(&verdict.reason);
    let mut status = match verdict.status {
        Status::Pass => TestCaseStatus::success(),
        Status::Skip => TestCaseStatus::skipped(),
        Status::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Status::Timeout | Status::Error => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if verdict.status != Status::Pass {
        status.set_message(&*reason);
        status.set_type(verdict.status.name());
    }
    let mut test = TestCase::new(name, status);
    test.set_classname(format!("faultline.{}", group.name));
    if let Some(case) = case {
        test.set_time(Duration::from_nanos(guest_ns(case)));
        for (name, count) in case.sanitizer.iter().flat_map(|sanitizer| sanitizer.counts()) {
            test.add_property(Property::new(name, count.to_string()));
        }
        for (measure, ns) in measures(case) {
            test.add_property(Property::new(format!("{measure}_ns"), ns.to_string()));
        }
    }
    if verdict.status == Status::Pass {
        test.set_system_out(&*reason);
    }
    test
}

/// Returns the time that the guest spent in timed elements, which is the only duration of a case that is stored.
fn guest_ns(case: &CaseResult) -> u64 {
    let times = case.times();
    [times.touch, times.exec, times.resident].into_iter().flatten().map(|t| t.ns.sum).sum()
}
