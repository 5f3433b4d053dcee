//! Tests the litmus scenario on real KVM under QEMU. `make test` runs these tests after `make build`.

mod support;

use std::path::Path;

use serde_json::Value;
use support::{faultline, stderr, stdout, stored};

/// Runs litmus tests in the lab and returns the exit code and each case.
fn litmus(results: &Path, machine: [&str; 2], cpus: &str, run: &[&str]) -> (Option<i32>, Vec<Value>) {
    let mut command = faultline(600);
    let [kernel, cpu] = machine;
    command
        .args(["lab", "--kernel", kernel, "--cpu", cpu, "--smp", cpus, "--results"])
        .arg(results)
        .args(["--", "run", "litmus"]);
    let output = command.args(["--vcpus", cpus]).args(run).output().expect("timeout(1) is there");
    let text = format!("{}{}", stdout(&output), stderr(&output));
    let directory = stored(&output).pop().unwrap_or_else(|| panic!("{text}"));
    let json = std::fs::read(directory.join("result.json")).unwrap_or_else(|error| panic!("{error}: {text}"));
    let result: Value = serde_json::from_slice(&json).expect("results are JSON");
    (output.status.code(), result["cases"].as_array().expect("a result has cases").clone())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Returns the test and the reason of every case that did not pass.
fn not_passed(cases: &[Value]) -> Vec<String> {
    let others = cases.iter().filter(|case| case["verdict"]["status"] != "pass");
    others.map(|case| format!("{} {}", case["findings"]["test"], case["verdict"]["reason"])).collect()
}

/// Asserts that every vCPU raced, and that no forbidden outcome occurred.
fn assert_raced(cases: &[Value], iterations: u64) {
    for case in cases {
        let litmus = &case["findings"];
        let of_vcpus = litmus["iterations"].as_array().expect("iterations of each vCPU");
        assert!(!of_vcpus.is_empty() && of_vcpus.iter().all(|n| number(n) >= iterations), "{litmus:#}");
        let counted: u64 =
            litmus["outcomes"].as_array().expect("outcomes").iter().map(|outcome| number(&outcome["count"])).sum();
        assert_eq!(counted, number(&litmus["races"]), "{litmus:#}");
        assert!(litmus["published"] != "forbidden" || litmus["seen"] == 0, "{litmus:#}");
    }
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn no_forbidden_outcome_occurs_on_two_vcpus() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (code, cases) = litmus(directory.path(), ["debian:6.12", "neoverse-n1"], "2", &["--iterations", "200"]);
    let (skipped, raced): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| case["verdict"]["status"] == "skip");
    assert_eq!((code, not_passed(&raced)), (Some(0), Vec::new()));
    assert!(skipped.iter().all(|case| case["findings"]["threads"] == 3), "{skipped:#?}");
    assert_raced(&raced, 200);
    let forbidden = raced.iter().filter(|case| case["findings"]["published"] == "forbidden").count();
    assert!(forbidden > 30, "{forbidden}");
    // CLIDR_EL1 of this CPU model implies IDC.
    assert!(raced.iter().all(|case| case["findings"]["machine_class"] == "idc"));
    // Races must not always end in the same way.
    let varied = raced.iter().filter(|case| case["findings"]["outcomes"].as_array().is_some_and(|all| all.len() > 1));
    assert!(varied.count() > 10);
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn three_threads_and_copies_race_on_four_vcpus() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tests = "ISA2.F+dc+ic+ctrl-isb,WRC-inst,icc3,MP.R.RF+addr-cachesync+dmb+ctrl-isb,MP.FF+dmb.st+cachesync-isb,SM.B+cachesync-isb";
    let (code, cases) =
        litmus(directory.path(), ["debian:6.1", "cortex-a57"], "4", &["--iterations", "60", "--tests", tests]);
    assert_eq!((code, not_passed(&cases)), (Some(0), Vec::new()));
    assert_raced(&cases, 60);
    assert!(
        cases.iter().all(|case| case["findings"]["machine_class"] == "neither"),
        "this model has neither IDC nor DIC"
    );
    let copies: Vec<_> = cases.iter().map(|case| number(&case["findings"]["copies"])).collect();
    assert_eq!(copies, [1, 1, 1, 1, 2, 4]);
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn verdicts_hold_across_events() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tests = "CoFF,MP.RF+cachesync+ctrl-isb,MP.FF+dmb.st+cachesync-isb,SM.B+cachesync-isb";
    let events = "relax,unmap,split,collapse,move";
    let run = ["--iterations", "40", "--events", events, "--tests", tests];
    let (code, cases) = litmus(directory.path(), ["debian:6.12", "neoverse-n1"], "2", &run);
    assert_eq!((code, not_passed(&cases)), (Some(0), Vec::new()));
    assert_eq!(cases.len(), 20);
    assert_raced(&cases, 40);
    for case in &cases {
        let (asked, done) = (number(&case["findings"]["events_asked"]), number(&case["findings"]["events_done"]));
        assert!(asked >= 40 && done == asked, "{case:#}");
        // Cases whose event faults have the faults as evidence.
        assert!(case["findings"]["event"] == "move" || !case["host"]["faults"].as_array().expect("traced").is_empty());
    }
}
