//! `kcidb.json`: KernelCI's submission format, version 5.3.
//!
//! A kernel is a checkout and a build. A case is a test, and each of its measurements is a test with a number below it.
//! The format has no nulls: unknown values are left out.

use klog::quiet::quiet;
use record::measure::{identifier, lockups};
use record::result::RunResult;
use record::status::Status;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::subject::{Group, Subject, Test};

/// Name of the submitter, with which ids begin.
const ORIGIN: &str = "faultline";

/// Returns the run, or the runs of a plan, as a submission.
pub fn kcidb(subject: &Subject<'_>) -> Value {
    let (mut checkouts, mut builds) = (Vec::new(), Vec::new());
    for run in subject.runs.iter().map(|viewed| viewed.run) {
        let checkout = checkout(run);
        // Runs of one kernel have the same checkout.
        if !checkouts.contains(&checkout) {
            checkouts.push(checkout);
            builds.push(build(run));
        }
    }
    json!({
        "version": { "major": 5, "minor": 3 },
        "checkouts": checkouts,
        "builds": builds,
        "tests": subject.groups().iter().flat_map(|group| tests(subject, group)).collect::<Vec<_>>(),
    })
}

/// Returns the tests of a group. A group without a run belongs to the build of the plan's first run. If the plan has no
/// run, it has no build either and nothing is submitted.
fn tests(subject: &Subject<'_>, group: &Group<'_>) -> Vec<Value> {
    let Some(run) = group.run.or_else(|| subject.runs.first().map(|viewed| viewed.run)) else { return Vec::new() };
    let mut tests = vec![summary(run, group)];
    for test in &group.tests {
        tests.push(self::test(run, test));
        tests.extend(test.measures().into_iter().map(|(measure, ns)| {
            let mut number = base(run, &format!("{}.{measure}", test.name));
            number.insert("status".into(), "DONE".into());
            number.insert("number".into(), json!({ "value": ns as f64 / 1e9, "unit": "s", "prefix": "metric" }));
            Value::Object(number)
        }));
    }
    tests
}

/// Returns the id of the sources. All runs of one kernel share it. Kernels before and after a patch have different ids.
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

/// Returns the fields of every test.
fn base(run: &RunResult, name: &str) -> Map<String, Value> {
    let machine = &run.machine;
    let platform = machine.platform.name();
    let mut misc = Map::from_iter([
        ("platform".to_owned(), platform.into()),
        ("cpus".to_owned(), machine.cpus_online.len().into()),
    ]);
    if let Some(answer) = run.answer() {
        misc.insert("answer".into(), answer.name().into());
    }
    if let Some(label) = &run.under_test.label {
        misc.insert("label".into(), label.as_str().into());
    }
    let model = machine.model.as_deref().unwrap_or("unknown board");
    let object = json!({
        "id": format!("{ORIGIN}:{}.{name}", identifier(&run.run.id)),
        "origin": ORIGIN,
        "build_id": checkout_id(run),
        "path": format!("{ORIGIN}.{name}"),
        "environment": { "comment": format!("{model} ({platform})"), "misc": misc },
    });
    match object {
        Value::Object(mut object) => {
            // A run that died early has no known start.
            if run.run.started.parse::<jiff::Timestamp>().is_ok() {
                object.insert("start_time".into(), run.run.started.as_str().into());
            }
            object
        }
        _ => unreachable!("json! was given an object"),
    }
}

fn summary(run: &RunResult, group: &Group<'_>) -> Value {
    let mut object = base(run, &group.name);
    judge(&mut object, group.verdict.status, &group.verdict.reason);
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let times = group.run.and_then(|run| Some((time(&run.run.started)?, time(&run.run.finished)?)));
    if let Some((started, finished)) = times {
        object.insert("duration".into(), (finished.as_second() - started.as_second()).into());
    }
    Value::Object(object)
}

fn test(run: &RunResult, test: &Test<'_>) -> Value {
    let mut object = base(run, &test.name);
    judge(&mut object, test.verdict.status, &test.verdict.reason);
    let Some(case) = test.case else { return Value::Object(object) };
    let found = lockups(case);
    object.insert(
        "misc".into(),
        json!({
            "block_bytes": case.block_bytes(),
            "region_bytes": case.region_bytes(),
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
