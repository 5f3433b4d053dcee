//! The corpus: every log in `tests/logs`, and the complaints that `tests/logs/expected.txt` lists for it.
//!
//! Kernels in the emulated lab printed the logs `real-*`. The logs `written-*` follow the kernel's format strings.
//! `tests/logs/README.md` explains how they were made.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use faultline_klog::attribution::attribute;
use faultline_klog::complaint::Complaint;
use faultline_klog::saved;

fn logs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs")
}

/// Returns one line about a complaint: its kind, CPU, task, time and repeats, and the side and frame of each place.
fn summary(complaint: &Complaint) -> String {
    let show = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let mut line = format!(
        "  {} cpu={} comm={:?} pid={} s={} jiffies={} x{} taint={}",
        complaint.kind,
        show(complaint.cpu.map(|cpu| cpu.to_string())),
        show(complaint.comm.clone()),
        show(complaint.pid.map(|pid| pid.to_string())),
        show(complaint.seconds.map(|s| s.to_string())),
        show(complaint.jiffies.map(|j| j.to_string())),
        complaint.repeats,
        show(complaint.taint.clone()),
    );
    for place in attribute(complaint) {
        let path = serde_json::to_string(&place.path).expect("a unit variant").replace('"', "");
        write!(line, " | {} {} {path}", place.side.name(), show(Some(place.frame).filter(|f| !f.is_empty())))
            .expect("writing to a string");
    }
    if complaint.interleaved { line + " interleaved" } else { line }
}

fn paths() -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(logs()).expect("the corpus").map(|entry| entry.expect("entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    paths
}

#[test]
fn every_log_of_the_corpus() {
    let mut found = String::new();
    for path in paths() {
        let name = path.file_name().expect("a file").to_string_lossy();
        writeln!(found, "{name}").expect("writing to a string");
        for complaint in saved::complaints(BufReader::new(File::open(&path).expect("a log"))).expect("readable") {
            writeln!(found, "{}", summary(&complaint)).expect("writing to a string");
        }
    }
    let expected = logs().join("expected.txt");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&expected, &found).expect("writable");
    }
    let expected = fs::read_to_string(expected).expect("tests/logs/expected.txt");
    for (line, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "line {} of expected.txt", line + 1);
    }
    assert_eq!(found.lines().count(), expected.lines().count());
}

/// Repeats all logs of the corpus until there are ten million lines, and prints the time for reading them. It checks no
/// limit, because the time depends on the machine.
#[test]
#[ignore = "a measurement: cargo test --release -p faultline-klog --test corpus ten_million -- --ignored --nocapture"]
fn ten_million_lines() {
    const LINES: usize = 10_000_000;
    let mut once = Vec::new();
    for path in paths() {
        once.extend(fs::read(path).expect("a log"));
        once.push(b'\n');
    }
    let lines = once.iter().filter(|byte| **byte == b'\n').count();
    let times = LINES.div_ceil(lines);
    let all = once.repeat(times);
    let start = std::time::Instant::now();
    let complaints = saved::complaints(&all[..]).expect("memory").len();
    let seconds = start.elapsed().as_secs_f64();
    println!("{} lines, {} MiB, {complaints} complaints: {seconds:.1} s", lines * times, all.len() >> 20);
    assert!(complaints > 0);
}
