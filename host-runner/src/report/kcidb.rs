//! `kcidb.json`: KernelCI's submission format, version 5. Pure.
//!
//! The kernel is a checkout and a build, each case a test, each measurement a test with a number below it. The format
//! knows no nulls: what is unknown is left out.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::formats::platform_name;
use super::measure::{identifier, lockups, measures, named_cases};
use super::words::quiet;
use crate::result::{CaseResult, RunResult, Status};

/// Who submits: ids begin with it.
const ORIGIN: &str = "faultline";

/// Returns the run as a submission.
pub fn kcidb(run: &RunResult) -> Value {
    let mut tests = vec![summary(run)];
    for (name, case) in named_cases(run) {
        tests.push(test(run, &name, case));
        tests.extend(measures(case).into_iter().map(|(measure, ns)| {
            let mut number = base(run, &format!("{name}.{measure}"));
            number.insert("status".into(), "DONE".into());
            number.insert("number".into(), json!({ "value": ns as f64 / 1e9, "unit": "s", "prefix": "metric" }));
            Value::Object(number)
        }));
    }
    json!({
        "version": { "major": 5, "minor": 0 },
        "checkouts": [checkout(run)],
        "builds": [build(run)],
        "tests": tests,
    })
}

/// Returns the id of the sources: all runs of one kernel share it, before and after a patch do not.
fn checkout_id(run: &RunResult) -> String {
    let sources = [
        run.machine.kernel_release.as_str(),
        &run.machine.kernel_version,
        run.under_test.git_commit_hash.as_deref().unwrap_or_default(),
        run.under_test.patchset_hash.as_deref().unwrap_or_default(),
    ];
    let digest = Sha256::digest(sources.join("\n"));
    let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{ORIGIN}:{}-{short}", run.machine.kernel_release)
}

fn checkout(run: &RunResult) -> Value {
    let mut object = Map::new();
    object.insert("id".into(), checkout_id(run).into());
    object.insert("origin".into(), ORIGIN.into());
    object.insert("comment".into(), format!("Linux {}", run.machine.kernel_release).into());
    object.insert("valid".into(), true.into());
    let known = &run.under_test;
    for (key, value) in [("patchset_hash", &known.patchset_hash), ("git_commit_hash", &known.git_commit_hash)] {
        if let Some(value) = value {
            object.insert(key.into(), value.as_str().into());
        }
    }
    Value::Object(object)
}

fn build(run: &RunResult) -> Value {
    let machine = &run.machine;
    let architecture =
        if machine.architecture == "aarch64" { "arm64".into() } else { machine.architecture.to_lowercase() };
    json!({
        "id": checkout_id(run),
        "origin": ORIGIN,
        "checkout_id": checkout_id(run),
        "architecture": architecture,
        "comment": machine.kernel_version,
        "status": "PASS",
    })
}

/// Returns what every test says.
fn base(run: &RunResult, name: &str) -> Map<String, Value> {
    let machine = &run.machine;
    let platform = platform_name(machine.platform);
    let mut misc = Map::from_iter([
        ("platform".to_owned(), platform.into()),
        ("cpus".to_owned(), machine.cpus_online.len().into()),
    ]);
    if let Some(label) = &run.under_test.label {
        misc.insert("label".into(), label.as_str().into());
    }
    let model = machine.model.as_deref().unwrap_or("unknown board");
    let object = json!({
        "id": format!("{ORIGIN}:{}.{name}", identifier(&run.run.id)),
        "origin": ORIGIN,
        "build_id": checkout_id(run),
        "path": format!("{ORIGIN}.{name}"),
        "start_time": run.run.started,
        "environment": { "comment": format!("{model} ({platform})"), "misc": misc },
    });
    match object {
        Value::Object(object) => object,
        _ => unreachable!("json! was given an object"),
    }
}

fn summary(run: &RunResult) -> Value {
    let mut object = base(run, &identifier(&run.scenario));
    judge(&mut object, run.verdict.status, &run.verdict.reason);
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    if let (Some(started), Some(finished)) = (time(&run.run.started), time(&run.run.finished)) {
        object.insert("duration".into(), (finished.as_second() - started.as_second()).into());
    }
    Value::Object(object)
}

fn test(run: &RunResult, name: &str, case: &CaseResult) -> Value {
    let mut object = base(run, name);
    judge(&mut object, case.verdict.status, &case.verdict.reason);
    let found = lockups(case);
    object.insert(
        "misc".into(),
        json!({
            "block_bytes": case.block_bytes,
            "region_bytes": case.region_bytes,
            "vcpus": case.vcpus,
            "lockups_i_side": found.i_side,
            "lockups_d_side": found.d_side,
            "lockups_other": found.other,
        }),
    );
    Value::Object(object)
}

fn judge(object: &mut Map<String, Value>, status: Status, reason: &str) {
    let word = match status {
        Status::Pass => "PASS",
        Status::Fail => "FAIL",
        Status::Skip => "SKIP",
        Status::Error | Status::Timeout => "ERROR",
    };
    object.insert("status".into(), word.into());
    object.insert("comment".into(), quiet(reason).into());
}
