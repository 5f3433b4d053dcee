//! `faultline.prom` for node_exporter's textfile collector: gauges, no time stamps. Pure.

use std::fmt::Write;

use super::formats::platform_name;
use super::measure::{lockups, measures, named_cases};
use crate::result::{CaseResult, RunResult, Status};

const STATUSES: [Status; 5] = [Status::Pass, Status::Fail, Status::Skip, Status::Error, Status::Timeout];

/// Returns the run as gauges.
pub fn prom(run: &RunResult) -> String {
    let mut out = String::new();
    let cases = named_cases(run);
    let scenario = ("scenario", run.scenario.as_str());
    gauge(&mut out, "faultline_run_info", "What ran where; always 1.");
    let info = [
        scenario,
        ("kernel", &run.machine.kernel_release),
        ("platform", platform_name(run.machine.platform)),
        ("version", &run.tool.version),
    ];
    sample(&mut out, "faultline_run_info", &info, "1");
    for (name, help, time) in [
        ("faultline_run_started_timestamp_seconds", "Start of the run.", &run.run.started),
        ("faultline_run_finished_timestamp_seconds", "End of the run.", &run.run.finished),
    ] {
        if let Ok(at) = time.parse::<jiff::Timestamp>() {
            gauge(&mut out, name, help);
            sample(&mut out, name, &[scenario], &at.as_second().to_string());
        }
    }
    gauge(&mut out, "faultline_run_status", "Verdict of the run: 1 at the status that it has.");
    for status in STATUSES {
        let value = u8::from(run.verdict.status == status).to_string();
        sample(&mut out, "faultline_run_status", &[scenario, ("status", status.name())], &value);
    }
    if !cases.is_empty() {
        of_cases(&mut out, &cases);
    }
    out
}

fn of_cases(out: &mut String, cases: &[(String, &CaseResult)]) {
    gauge(out, "faultline_case_status", "Verdict of a case: 1 at the status that it has.");
    for (name, case) in cases {
        for status in STATUSES {
            let value = u8::from(case.verdict.status == status).to_string();
            sample(out, "faultline_case_status", &[("case", name), ("status", status.name())], &value);
        }
    }
    gauge(out, "faultline_case_lockups", "Lockups that the kernel reported, by what kept the CPU busy.");
    for (name, case) in cases {
        let found = lockups(case);
        for (side, count) in [("i_side", found.i_side), ("d_side", found.d_side), ("other", found.other)] {
            sample(out, "faultline_case_lockups", &[("case", name), ("side", side)], &count.to_string());
        }
    }
    if cases.iter().all(|(_, case)| measures(case).is_empty()) {
        return;
    }
    gauge(out, "faultline_case_seconds", "Time of one fault, fetch or maintenance call.");
    for (name, case) in cases {
        for (measure, ns) in measures(case) {
            let labels = [("case", name.as_str()), ("phase", measure.phase.name()), ("stat", measure.stat.name())];
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

/// Escapes a label's value, as the exposition format asks for.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
