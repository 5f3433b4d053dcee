//! Compares the output of `show` for stored runs with the texts beside them: tables, and every format for test labs.
//!
//! `UPDATE_EXPECTED=1 cargo test -p host-runner --test snapshots` writes the texts anew.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use support::{root, stdout};

/// Stored runs with a text each, below the crate that stores them.
const RUNS: [&str; 6] =
    ["runs/debian-6.1", "runs/debian-6.12", "endings/panic", "endings/power-cut", "endings/skip", "endings/night"];
/// The formats of `show`, without `json`, which is the file itself.
const FORMATS: [&str; 8] = ["human", "markdown", "ktap", "lava", "junit", "kcidb", "linaro", "prom"];

fn place(run: &str) -> PathBuf {
    root().join("crates/record/tests").join(run)
}

#[test]
fn stored_runs_print_as_before() {
    let mut stale = Vec::new();
    for run in RUNS {
        let mut said = String::new();
        for format in FORMATS {
            let mut command = Command::new(env!("CARGO_BIN_EXE_faultline"));
            let output = command.args(["show", "--format", format]).arg(place(run)).output().expect("cargo built it");
            assert!(output.status.success(), "{run} as {format}: {output:?}");
            said += &format!("== {format}\n{}", stdout(&output));
        }
        let expected = root().join("crates/record/tests/snapshots").join(format!("{}.txt", run.replace('/', "-")));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::create_dir_all(expected.parent().expect("a file")).expect("writable");
            fs::write(&expected, &said).expect("writable");
        }
        if fs::read_to_string(&expected).ok().as_deref() != Some(&*said) {
            stale.push(expected);
        }
    }
    assert!(stale.is_empty(), "not as stored: {stale:?}");
}
