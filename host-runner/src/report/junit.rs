//! `junit.xml`, as Jenkins and GitLab read it. Pure.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Property, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

use super::measure::{measures, named_cases};
use super::words::quiet;
use crate::result::{CaseResult, RunResult, Status};

/// Returns the run as one test suite; measurements are properties of their case.
///
/// # Errors
///
/// If the XML cannot be written, which memory alone can cause.
pub fn junit(run: &RunResult) -> Result<String, SerializeError> {
    let mut suite = TestSuite::new(run.scenario.as_str());
    suite.timestamp = run.run.started.parse().ok();
    let machine = &run.machine;
    let platform = super::formats::platform_name(machine.platform);
    for (key, value) in [
        ("run", run.run.id.as_str()),
        ("kernel", &machine.kernel_release),
        ("kernel_version", &machine.kernel_version),
        ("platform", platform),
        ("faultline", &run.tool.version),
        ("faultline_commit", &run.tool.commit),
    ] {
        suite.add_property(Property::new(key, value));
    }
    suite.add_test_cases(named_cases(run).into_iter().map(|(name, case)| test_case(run, &name, case)));
    let mut report = Report::new("faultline");
    report.add_test_suite(suite);
    report.to_string()
}

fn test_case(run: &RunResult, name: &str, case: &CaseResult) -> TestCase {
    let reason = quiet(&case.verdict.reason);
    let mut status = match case.verdict.status {
        Status::Pass => TestCaseStatus::success(),
        Status::Skip => TestCaseStatus::skipped(),
        Status::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Status::Timeout | Status::Error => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if case.verdict.status != Status::Pass {
        status.set_message(&*reason);
        status.set_type(case.verdict.status.name());
    }
    let mut test = TestCase::new(name, status);
    test.set_classname(format!("faultline.{}", run.scenario));
    test.set_time(Duration::from_nanos(guest_ns(case)));
    for (measure, ns) in measures(case) {
        test.add_property(Property::new(format!("{measure}_ns"), ns.to_string()));
    }
    if case.verdict.status == Status::Pass {
        test.set_system_out(&*reason);
    }
    test
}

/// Returns the time that the guest spent in what was timed: the only duration of a case that is stored.
fn guest_ns(case: &CaseResult) -> u64 {
    [case.touch, case.exec, case.resident].into_iter().flatten().map(|t| t.ns.sum).sum()
}
