//! `faultline.prom` for the textfile collector of node_exporter: gauges without time stamps.

use std::fmt::Write;

use record::answer::Answer;
use record::case::CaseResult;
use record::measure::{identifier, lockups, measures};
use record::result::RunResult;
use record::status::Status;
use record::summary::{REGRESSION, Summary};

use crate::subject::{Group, Subject};

const STATUSES: [Status; 5] = [Status::Pass, Status::Fail, Status::Skip, Status::Error, Status::Timeout];

/// Returns the run, or the runs of a plan, as gauges. The samples of a gauge are adjacent, as the format requires.
pub fn prom(subject: &Subject<'_>) -> String {
    let mut out = String::new();
    let groups = subject.groups();
    answers(&mut out, &groups);
    of_runs(&mut out, &groups);
    gauge(&mut out, "faultline_run_status", "Verdict of a run: 1 at the status that it has.");
    for group in groups.iter().filter(|group| group.name != REGRESSION) {
        statuses(&mut out, "faultline_run_status", ("scenario", &group.name), group.verdict.status);
    }
    let cases: Vec<_> =
        groups.iter().flat_map(|group| &group.tests).filter_map(|test| Some((&*test.name, test.case?))).collect();
    if !cases.is_empty() {
        of_cases(&mut out, &cases);
    }
    if let Some(plan) = subject.plan {
        of_plan(&mut out, plan);
    }
    out
}

fn answers(out: &mut String, groups: &[Group<'_>]) {
    let answered: Vec<_> = groups.iter().filter_map(|group| Some((group.run?, group.run?.answer()?))).collect();
    if !answered.is_empty() {
        gauge(
            out,
            "faultline_answer",
            "Answer to whether the kernel has the I-side lockup: 1 at the answer that it has.",
        );
    }
    for (run, has) in answered {
        for answer in Answer::ALL {
            let labels = [("kernel", &*run.machine.kernel_release), ("answer", answer.name())];
            sample(out, "faultline_answer", &labels, &u8::from(has == answer).to_string());
        }
    }
}

fn of_runs(out: &mut String, groups: &[Group<'_>]) {
    let runs: Vec<_> = groups.iter().filter_map(|group| Some((&*group.name, group.run?))).collect();
    if runs.is_empty() {
        return;
    }
    gauge(out, "faultline_run_info", "What ran where; always 1.");
    for (name, run) in &runs {
        let info = [
            ("scenario", *name),
            ("kernel", &run.machine.kernel_release),
            ("platform", run.machine.platform.name()),
            ("version", &run.tool.version),
        ];
        sample(out, "faultline_run_info", &info, "1");
    }
    let of = |time: fn(&RunResult) -> &str| -> Vec<_> {
        let at = |run| time(run).parse::<jiff::Timestamp>().ok();
        runs.iter().filter_map(|(name, run)| Some((*name, at(run)?))).collect()
    };
    for (metric, help, known) in [
        ("faultline_run_started_timestamp_seconds", "Start of the run.", of(|run| &run.run.started)),
        ("faultline_run_finished_timestamp_seconds", "End of the run.", of(|run| &run.run.finished)),
    ] {
        if !known.is_empty() {
            gauge(out, metric, help);
        }
        for (name, at) in known {
            sample(out, metric, &[("scenario", name)], &at.as_second().to_string());
        }
    }
}

fn of_plan(out: &mut String, plan: &Summary) {
    gauge(out, "faultline_plan_status", "Verdict of the whole plan: 1 at the status that it has.");
    statuses(out, "faultline_plan_status", ("plan", &plan.plan), plan.verdict.status);
    let Some(regression) = plan.regression.as_ref().filter(|found| !found.cases.is_empty()) else { return };
    gauge(out, "faultline_regression", "1 where a case is worse than the baseline, 0 where it is not.");
    for case in &regression.cases {
        let worse = u8::from(case.verdict.status == Status::Fail).to_string();
        sample(out, "faultline_regression", &[("case", &identifier(&case.name))], &worse);
    }
}

fn statuses(out: &mut String, metric: &str, label: (&str, &str), has: Status) {
    for status in STATUSES {
        let value = u8::from(has == status).to_string();
        sample(out, metric, &[label, ("status", status.name())], &value);
    }
}

fn of_cases(out: &mut String, cases: &[(&str, &CaseResult)]) {
    gauge(out, "faultline_case_status", "Verdict of a case: 1 at the status that it has.");
    for (name, case) in cases {
        statuses(out, "faultline_case_status", ("case", name), case.verdict.status);
    }
    gauge(out, "faultline_case_lockups", "Lockups that the kernel reported, by what kept the CPU busy.");
    for (name, case) in cases {
        let found = lockups(case);
        for (side, count) in [("i_side", found.i_side), ("d_side", found.d_side), ("other", found.other)] {
            sample(out, "faultline_case_lockups", &[("case", name), ("side", side)], &count.to_string());
        }
    }
    if cases.iter().any(|(_, case)| case.sanitizer.is_some()) {
        gauge(out, "faultline_case_sanitizer", "Reports and checks of the lab's sanitizer.");
    }
    for (name, case) in cases {
        for (count, value) in case.sanitizer.iter().flat_map(|sanitizer| sanitizer.counts()) {
            let labels = [("case", *name), ("count", count.trim_start_matches("sanitizer_"))];
            sample(out, "faultline_case_sanitizer", &labels, &value.to_string());
        }
    }
    if cases.iter().all(|(_, case)| measures(case).is_empty()) {
        return;
    }
    gauge(out, "faultline_case_seconds", "Time of one fault, fetch or maintenance call.");
    for (name, case) in cases {
        for (measure, ns) in measures(case) {
            let labels = [("case", *name), ("phase", measure.phase.name()), ("stat", measure.stat.name())];
            sample(out, "faultline_case_seconds", &labels, &format!("{}", ns as f64 / 1e9));
        }
    }
}

fn gauge(out: &mut String, name: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
}

fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: &str) {
    let labels: Vec<_> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escape(text))).collect();
    let _ = writeln!(out, "{name}{{{}}} {value}", labels.join(","));
}

/// Escapes the value of a label, as the exposition format requires.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
