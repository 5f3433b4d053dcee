//! Finds the built programs and runs them with a time limit.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod bisect;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Returns the repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// Returns the path of the payload's image, which `make build` makes.
pub fn payload() -> PathBuf {
    let path = root().join("target/faultline-payload.img");
    assert!(path.exists(), "{} is missing: make build", path.display());
    path
}

/// Returns a command that is killed after `seconds`.
pub fn limited(seconds: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &seconds.to_string()]).arg(program);
    command
}

/// Returns the native `faultline` of `make build` as a command that is killed after `seconds`.
pub fn faultline(seconds: u32) -> Command {
    let path = root().join("target/release/faultline");
    assert!(path.exists(), "{} is missing: make build", path.display());
    limited(seconds, path)
}

/// Returns the standard output of a program.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the standard error of a program.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `faultline reproduce` and returns its output and both results, the one before first.
pub fn reproduce(results: &Path, arguments: &[&str]) -> (Output, Vec<Value>) {
    let mut command = faultline(300);
    command.arg("reproduce").arg("--results").arg(results).args(arguments);
    let output = command.output().expect("timeout(1) is there");
    let read = |path: PathBuf| std::fs::read(path.join("result.json")).expect("the run has a result");
    let results = stored(&output).into_iter().map(|path| serde_json::from_slice(&read(path)).expect("JSON")).collect();
    (output, results)
}

/// Returns the run directories that a command named on standard error, in their order.
pub fn stored(output: &Output) -> Vec<PathBuf> {
    stderr(output).lines().filter_map(|line| line.strip_prefix("stored in ")).map(PathBuf::from).collect()
}

/// Runs `faultline lab` on Debian's 6.12 with the `max` CPU and returns its output and its results.
pub fn lab(results: &Path, options: &[&str], run: &[&str]) -> (Output, Vec<Value>) {
    let mut command = faultline(300);
    command.args(["lab", "--kernel", "debian:6.12", "--cpu", "max"]).arg("--results").arg(results);
    if !options.contains(&"--append") {
        command.args(["--append", "hugepagesz=1G hugepages=1"]);
    }
    command.args(options).arg("--").args(run);
    let output = command.output().expect("timeout(1) is there");
    let directories = std::fs::read_dir(results).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = directories.map(|path| path.join("result.json")).filter(|path| path.exists()).collect();
    files.sort();
    let read = |path: &PathBuf| std::fs::read(path).expect("it exists");
    (output, files.iter().map(|path| serde_json::from_slice(&read(path)).expect("results are JSON")).collect())
}

/// Writes instructions as a flat image.
pub fn image(directory: &Path, name: &str, instructions: &[u32]) -> PathBuf {
    let path = directory.join(name);
    let bytes: Vec<u8> = instructions.iter().flat_map(|word| word.to_le_bytes()).collect();
    std::fs::write(&path, bytes).expect("the directory is writable");
    path
}
