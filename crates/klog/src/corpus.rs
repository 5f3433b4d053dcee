//! Reads every log of `tests/logs` and compares with what is expected of it in `tests/logs/expected.txt`.
//!
//! `real-*` were printed by kernels in the emulated lab, `written-*` after the kernel's format strings; README.md there
//! says how.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::attribution::attribute_all;
use crate::message::Event;
use crate::text;

fn logs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs")
}

/// One line for each event: kind, CPU, task, time, repeats, and side with frame for each place.
fn summary(event: &Event) -> String {
    let show = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let mut line = format!(
        "  {} cpu={} comm={:?} pid={} s={} jiffies={} x{} taint={}",
        event.kind,
        show(event.cpu.map(|cpu| cpu.to_string())),
        show(event.comm.clone()),
        show(event.pid.map(|pid| pid.to_string())),
        show(event.seconds.map(|s| s.to_string())),
        show(event.jiffies.map(|j| j.to_string())),
        event.repeats,
        show(event.taint.clone()),
    );
    for place in attribute_all(event) {
        let path = serde_json::to_string(&place.path).expect("a unit variant").replace('"', "");
        write!(line, " | {} {} {path}", place.side.name(), show(Some(place.frame).filter(|f| !f.is_empty())))
            .expect("writing to a string");
    }
    if event.interleaved { line + " interleaved" } else { line }
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
        for event in text::events(BufReader::new(File::open(&path).expect("a log"))).expect("readable") {
            writeln!(found, "{}", summary(&event)).expect("writing to a string");
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

/// Repeats all logs of the corpus until there are that many lines, and says how long reading them took. No limit is
/// checked here: times are the machine's.
#[test]
#[ignore = "a measurement: cargo test --release -p host-runner --lib ten_million -- --ignored --nocapture"]
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
    let events = text::events(&all[..]).expect("memory").len();
    let seconds = start.elapsed().as_secs_f64();
    println!("{} lines, {} MiB, {events} events: {seconds:.1} s", lines * times, all.len() >> 20);
    assert!(events > 0);
}
