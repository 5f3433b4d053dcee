//! Tests kernels by name, the newest above all: in its plain form, with PREEMPT_RT, and in protected mode, where stage 2 is
//! changed at EL2. `make test` runs them after `make build`.
//!
//! The archive decides which kernel is the newest. One that cannot be had is a skip with its reason.

#![allow(clippy::print_stdout, reason = "a skipped test says so")]

mod support;

use serde_json::Value;
use support::{faultline, stderr, stdout};

const WHY: &str = "QEMU runs and the program was built";

/// Runs a command and returns its JSON.
fn json(arguments: &[&str]) -> Value {
    let output = faultline(300).args(arguments).output().expect(WHY);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}{}", stdout(&output), stderr(&output)))
}

/// Returns the results of a run on `kernel`; none with a message if the kernel cannot be had.
fn results(kernel: &str, options: &[&str], run: &[&str]) -> Option<Value> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let results = directory.path().display().to_string();
    let sweep = ["sweep", "-q", "--json", "--kernels", kernel, "--results", &results];
    let swept = json(&[&sweep[..], options, &["--", "run"], run].concat());
    let kernel = &swept["sweep"]["kernels"][0];
    if kernel["status"].is_null() && kernel["path"].is_null() {
        println!("skipped: {}: {}", kernel["name"], kernel["reason"]);
        return None;
    }
    Some(kernel.clone())
}

fn status(swept: &Value) -> (&str, &str) {
    (swept["status"].as_str().unwrap_or("none"), swept["reason"].as_str().expect("a reason"))
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn the_newest_kernel_passes_by_evidence() {
    for run in [&["relax", "--blocks", "page,thp"][..], &["random", "--programs", "40"]] {
        if let Some(swept) = results("debian:latest", &[], run) {
            assert_eq!(status(&swept).0, "pass", "{swept}");
        }
    }
    if let Some(swept) = results("debian:latest", &[], &["policy", "--blocks", "page,thp"]) {
        assert!(status(&swept).1.starts_with("capped: "), "{swept}");
    }
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn a_kernel_without_thp_runs() {
    if let Some(swept) = results("debian:latest-rt", &[], &["relax", "--blocks", "page"]) {
        assert_eq!(status(&swept).0, "pass", "{swept}");
    }
}

/// The functions of the host can be probed there, and are never called.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn protected_mode_hides_maintenance_from_probes_but_not_from_counts() {
    let protected = ["--append", "kvm-arm.mode=protected"];
    for run in [&["random", "--programs", "40"][..], &["coherence", "--blocks", "page", "--events", "unmap"]] {
        if let Some(swept) = results("debian:latest", &protected, run) {
            let (status, reason) = status(&swept);
            assert_eq!(status, "skip", "{swept}");
            assert!(reason.contains("at EL2, not visible from the host"), "{swept}");
        }
    }
    let counted = [&protected[..], &["--count"]].concat();
    if let Some(swept) = results("debian:latest", &counted, &["policy", "--blocks", "page,thp"]) {
        assert!(status(&swept).1.starts_with("capped: counted: "), "{swept}");
    }
}

#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn an_absent_kernel_of_a_sweep_is_named_and_the_others_run() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let results = directory.path().display().to_string();
    let kernels = "debian:6.1,debian:6.2,debian:6.12";
    let swept = json(&[
        "sweep",
        "-q",
        "--json",
        "--kernels",
        kernels,
        "--results",
        &results,
        "--",
        "run",
        "policy",
        "--blocks",
        "page,thp",
    ]);
    let kernels = swept["sweep"]["kernels"].as_array().expect("kernels");
    assert_eq!(kernels.len(), 3, "{swept}");
    assert!(kernels[1]["status"].is_null() && kernels[1]["reason"].as_str().is_some_and(|why| !why.is_empty()));
    let change = &swept["changes"][0];
    assert_eq!(
        (&change["row"], &change["to"], &change["first"]),
        (&"policy".into(), &"capped".into(), &"debian:6.12".into())
    );
    assert!(directory.path().join("sweep.html").exists());
}

/// Before 5.14 the functions are inlined. Counts see the loops by their old names.
#[test]
#[ignore = "needs make build, QEMU and Debian's kernels"]
fn an_old_kernel_is_judged_by_counts_and_not_by_tokens() {
    if let Some(swept) = results("debian:5.10", &["--count"], &["policy", "--blocks", "thp"]) {
        assert!(status(&swept).1.starts_with("by line: counted: "), "{swept}");
    }
    if let Some(swept) = results("debian:5.10", &[], &["random", "--programs", "40"]) {
        let (status, reason) = status(&swept);
        assert_eq!(status, "skip", "{swept}");
        assert!(reason.contains("not shown that the I-cache was invalidated"), "{swept}");
    }
}
